//! What is wrong with a block device's nodes, for the handshake of any device.

use crate::xenbus::feature::ReadError;
use libgnt::proto::blkif::nodes::NodeError;

impl From<NodeError> for ReadError {
    fn from(error: NodeError) -> Self {
        ReadError::Refused(error.to_string())
    }
}
