//! Xen grant tables, event channels and shared rings from userspace.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`machine`]: how every state machine is driven, and the clock.
//! 2. [`types`]: the field's numbers.
//! 3. [`error`]: the library's error.
//! 4. [`shm`]: the only code that touches shared memory.
//! 5. [`platform`]: the seam, traits for what is below it.
//! 6. [`inspect`]: what can be seen of a Xen from outside.
//! 7. [`linux`]: a real Xen. It does not use `sim`.
//! 8. `sim`: a simulated Xen, with the feature `sim`. It does not use `linux`.
//! 9. [`open`](mod@open): chooses one of the two, at run time.
//! 10. [`event`]: event channels, over the seam.
//! 11. [`grant`]: share, map, copy, unmap and the ledger, over the seam.
//! 12. [`ring`]: shared rings, over shared memory.
//! 13. [`proto`]: what protocols put into rings.

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
