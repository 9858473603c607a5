//! S0: gntdev's unmap, synchronous and asynchronous.
//!
//! - `state`: pages, references, the map, its queue; what an unmap does to them.
//! - `actors`: the mapper in its several fashions, pinners, a forked child, the work queue, the
//!   granter.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod variants;

pub use variants::system;
