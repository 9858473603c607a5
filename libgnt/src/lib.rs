//! Xen grant tables, event channels and shared rings from userspace.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`machine`]: how every state machine is driven, and the clock.
//! 2. [`stop`]: how somebody else ends a loop.
//! 3. [`types`]: the field's numbers.
//! 4. [`error`]: the library's error.
//! 5. [`shm`]: the only code that touches shared memory.
//! 6. [`platform`]: the seam, traits for what is below it.
//! 7. [`inspect`]: what can be seen of a Xen from outside.
//! 8. [`linux`]: a real Xen. It does not use `sim`.
//! 9. `sim`: a simulated Xen, with the feature `sim`. It does not use `linux`.
//! 10. [`open`](mod@open): chooses one of the two, at run time.
//! 11. [`event`]: event channels, over the seam.
//! 12. [`grant`]: share, map, copy, unmap and the ledger, over the seam.
//! 13. [`ring`]: shared rings, over shared memory.
//! 14. [`proto`]: what protocols put into rings.

pub mod error;
pub mod event;
pub mod grant;
pub mod inspect;
pub mod linux;
pub mod machine;
pub mod open;
pub mod platform;
pub mod proto;
pub mod ring;
pub mod shm;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stop;
pub mod types;

pub use error::{Error, Result};
pub use open::{PlatformChoice, open};
pub use platform::Platform;
pub use shm::SharedPages;
pub use types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, PAGE_SIZE};

/// The READMEs' examples, compiled.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;
