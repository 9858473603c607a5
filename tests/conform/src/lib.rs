//! The conformance suite: what a program can observe of Xen's devices, as rules, and each rule as
//! a small test. The same tests run on the simulated platform and on a real one, so the simulator
//! is tested against the kernel and the hypervisor and not against itself.
//!
//! A rule runs in a process of its own in one domain. Its partner is a [`hand`](pv_harness::hand) in
//! another, as on a real Xen it must be: a PVH or HVM domain that maps its own grant loses the page, because the
//! hypervisor moves the frame to the mapping's place in the physmap
//! (`guest_physmap_add_entry`, `xen/arch/x86/mm/p2m.c`).
//!
//! # Layers
//!
//! Each module uses only what is above it in this list:
//!
//! 1. [`outcome`]: how a check can end.
//! 2. [`things`]: what rules are made of.
//! 3. [`member`]: which domain a process of the suite belongs to.
//! 4. `relay`: orders to another domain.
//! 5. [`bench`](mod@bench): what a rule works with.
//! 6. [`store`]: the same for rules about xenstore.
//! 7. [`conn`]: a connection to xenstore without a client around it.
//! 8. [`rule`]: what a rule is.
//! 9. [`rules`]: all of them.
//! 10. [`process`]: one rule, in a process of its own.
//! 11. [`run`]: starts those processes, and judges what comes of them.
//! 12. [`table`]: the report.
//! 13. [`cli`]: `pv-stress conform`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

pub mod bench;
pub mod cli;
pub mod conn;
pub mod member;
pub mod outcome;
pub mod process;
mod relay;
pub mod rule;
pub mod rules;
pub mod run;
pub mod store;
pub mod table;
pub mod things;

pub use outcome::{Outcome, Stop};
pub use rule::Rule;
