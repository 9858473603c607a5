//! The loop that performs what the state machines ask for.

mod again;
mod bus;
mod claim;
mod config;
mod data;
mod life;
mod link;
mod pace;
mod record;
mod recorded;
mod run;
mod unmaps;

pub use claim::ClaimError;
pub use config::{BackendConfig, BackendError, DEFAULT_CLOSE_DEADLINE, Mode, StopHandle};
pub use run::Backend;
