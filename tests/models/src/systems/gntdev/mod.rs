//! S0: gntdev's unmap, synchronous and asynchronous.
//!
//! - `state`: pages, references, the map, its queue; what an unmap does to them.
//! - `actors`: the mapper in its several fashions, pinners, a forked child, the work queue, the
//!   granter.
//! - `stage`: who is on stage, and what must be over in the end.
//! - `odp`: the cycle as any kernel can have it, with an on-demand region.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod stage;

mod odp;

mod variants;

pub use variants::system;
