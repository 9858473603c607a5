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
//! 1. `clock`: how far another domain's clock is from ours.
//! 2. `kmsg`: the lines of a kernel's log.
//! 3. `terminal`: a console as a byte stream.
//! 4. `link`: frames on it.
//! 5. `message`: what is said in frames.
//! 6. `shared`: what is known of a domain.
//! 7. `proxy`: the process that stands for another domain's.
//! 8. `relay`: the run's end of a console.
//! 9. `domain`: a domain, as the run sees it.
//! 10. `supervisor`: the domain's end of its console.
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
