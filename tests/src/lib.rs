//! pv-stress: PV drivers under stress, above all asynchronous unmap while a third consumer holds
//! the pages.

pub mod checks;
pub mod consumer;
pub mod error;
pub mod holder;
pub mod report;
pub mod timeline;
pub mod verdict;
pub mod world;
