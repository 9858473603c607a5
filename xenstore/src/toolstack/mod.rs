//! What a toolstack does in xenstore: gives a domain its nodes, and creates and removes block
//! devices, in the order that libxl keeps.

mod block;
mod device_id;
mod domain;
mod errors;

pub use block::{BlockDevice, DevicePaths, Mode, Removed, read_mode};
pub use device_id::{BadDeviceId, DeviceId};
pub use domain::{create_domain, domain_nodes, remove_domain};
pub(crate) use domain::{domain_requests, remove_request};
pub use errors::{clear_error, error_path, read_error, report_error};
