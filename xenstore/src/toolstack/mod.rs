//! What a toolstack does in xenstore: gives a domain its nodes, and creates, finds and removes block
//! devices, in the order that libxl keeps.
//!
//! Each module uses only what is above it.

mod domain;

mod class;
mod device_id;

mod kernel;
mod place;

mod errors;

mod nodes;

mod patience;

mod remove;

mod block;

pub use crate::domain::domain_nodes;
pub use block::{BlockDevice, Medium, Mode, read_medium, read_mode};
pub use class::{BadDeviceClass, DeviceClass};
pub use device_id::{BadDeviceId, DeviceId};
pub use domain::{create_domain, remove_domain};
pub use errors::{clear_error, error_path, read_error, report_error};
pub use kernel::{DriverBound, KernelCheck, Side, bound_driver};
pub use patience::End;
pub use place::{DeviceKey, DevicePaths};
pub use remove::{Removed, remove, remove_nodes};
