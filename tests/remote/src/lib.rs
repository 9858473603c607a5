//! Roles of a run in other domains of a real Xen.
//!
//! The run is in dom0, the processes of its roles are not. Each domain runs a [`supervise`]r that
//! speaks with the run over the domain's console (`link`, `message`): Xen gives every domain one, no
//! network is needed, and it works when the devices under test do not. In dom0 each of these processes
//! has a proxy, a process that stands for it (`proxy`), so that [`pv_harness::processes`] treats it as
//! any other child.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. `clock`: how the clocks of two domains stand to each other.
//! 2. `kmsg`: what a kernel says.
//! 3. `link`: messages over a console that may lose some.
//! 4. `message`: what the run and a domain say to each other.
//! 5. `terminal`: a console as a wire.
//! 6. `proxy`: the process that stands for one in another domain.
//! 7. `shared`: what a relay's thread shares with the run.
//! 8. `relay`: dom0's side of a console.
//! 9. `domain`: a domain, to the run.
//! 10. `supervisor`: a domain's side.
//! 11. [`xen`]: a real Xen around a run.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod clock;
mod domain;
mod kmsg;
mod link;
mod message;
mod proxy;
mod relay;
mod shared;
mod supervisor;
mod terminal;
pub mod xen;

pub use domain::{Domain, RemoteError};
pub use message::{About, End};
pub use proxy::stand_for;
pub use supervisor::supervise;
