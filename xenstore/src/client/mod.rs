//! The client: synchronous requests with a deadline, and a queue of watch events.
//!
//! Each module uses only what is above it.

mod events;

mod connection;

mod handle;

mod transaction;

mod operations;

pub use events::{EVENTS_MAX, WatchEvent};
pub use handle::{Client, DEFAULT_DEADLINE};
pub use transaction::{TRANSACTION_ATTEMPTS_MAX, Transaction};
