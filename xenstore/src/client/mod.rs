//! The client: requests that wait for their answers up to a deadline, or are only submitted, and watches.
//!
//! Each module uses only what is above it.

mod events;

pub mod protocol;

mod about;

mod lead;

mod state;

mod connection;

mod handle;

mod submit;

mod transaction;

mod operations;

mod daemon;

mod watching;

mod condition;

mod tree;

pub use daemon::{Features, QuotaOf};
pub use events::{EVENTS_MAX, WatchEvent};
pub use handle::{Client, DEFAULT_DEADLINE};
pub use submit::{Request, Ticket};
pub use transaction::{Attempts, TRANSACTION_ATTEMPTS_MAX, Transaction, TransactionSpan};
pub use watching::Watch;
