//! The third consumer: a process of its own that takes references to pages another process has
//! mapped, works on them, and lets go when it likes. The back end shows it pages through a
//! [`Lender`], as a display server hands user memory to a GPU driver.

mod lender;
mod process;
mod wire;

pub use lender::{LendPolicy, Lender};
pub use process::{ConsumerConfig, run};
