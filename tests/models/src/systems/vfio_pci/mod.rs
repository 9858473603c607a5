//! S2: vfio-pci's faults against the disabling of its memory.
//!
//! A user program maps a device's memory. Writing the command register can switch that memory
//! off: then no mapping may exist, since an access would bring the machine down. Faults insert
//! mappings; the disabler zaps them.
//!
//! - `state`: what the model knows, and its laws.
//! - `actors`: who takes part.
//! - `variants`: which of them meet, and what must come of it.

mod state;

mod actors;

mod variants;

pub use variants::system;
