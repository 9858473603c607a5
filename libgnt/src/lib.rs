//! Xen grant tables, event channels and shared rings from userspace.
//!
//! # Layers
//!
//! Each module uses only what is above it in this list, and its own parts:
//!
//! 1. [`machine`]: how every state machine is driven, and the clock.
//! 2. [`observe`]: how somebody else hears what a loop does.
//! 3. [`stop`]: how somebody else ends it.
//! 4. [`types`]: the field's numbers.
//! 5. [`error`]: the library's error.
//! 6. [`shm`]: the only code that touches shared memory.
//! 7. [`platform`]: the seam, traits for what is below it.
//! 8. [`inspect`]: what can be seen of a Xen from outside.
//! 9. [`linux`]: a real Xen. It does not use `sim`.
//! 10. `sim`: a simulated Xen, with the feature `sim`. It does not use `linux`.
//! 11. [`open`](mod@open): chooses one of the two, at run time.
//! 12. [`event`]: event channels, over the seam.
//! 13. [`grant`]: share, map, copy, unmap and the ledger, over the seam.
//! 14. [`ring`]: shared rings, over shared memory.
//! 15. [`proto`]: what protocols put into rings.

pub mod error;
pub mod event;
pub mod grant;
pub mod inspect;
pub mod linux;
pub mod machine;
pub mod observe;
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
