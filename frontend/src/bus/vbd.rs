//! What a disk adds to the handshake.

use libgnt::proto::blkif::nodes::{self, BackNodes, FrontNodes, size_of_disk};
use pv_xenstore::toolstack::{DriverBound, KernelCheck};
use pv_xenstore::xenbus::device::FrontProtocol;
use pv_xenstore::xenbus::feature::{Published, ReadError};

/// A disk's nodes.
#[derive(Debug)]
pub(crate) struct Vbd {
    kernel: KernelCheck,
    /// The disk's size, as it was said last, in units of 512 bytes.
    sectors: u64,
}

impl Vbd {
    pub(super) fn new(kernel: KernelCheck) -> Self {
        Vbd { kernel, sectors: 0 }
    }
}

impl FrontProtocol for Vbd {
    type Back = BackNodes;
    /// The disk has another size now, in units of 512 bytes.
    type Change = u64;
    type Obstacle = DriverBound;

    fn ring_nodes(&self) -> &[&'static str] {
        &FrontNodes::NAMES
    }

    fn is_leftover(&self, name: &str) -> bool {
        FrontNodes::is_other_form(name)
    }

    fn obstacle(&mut self) -> Option<DriverBound> {
        self.kernel.look().err()
    }

    fn read_back(&mut self, back: &Published<'_>) -> Result<BackNodes, ReadError> {
        let nodes = BackNodes::read(|node| Ok::<_, ReadError>(back.read(node)?))?;
        self.sectors = nodes.disk.sectors;
        Ok(nodes)
    }

    fn read_change(&mut self, back: &Published<'_>) -> Result<Option<u64>, ReadError> {
        let sectors = size_of_disk(back.read(nodes::SECTORS)?)?;
        let known = std::mem::replace(&mut self.sectors, sectors);
        Ok((sectors != known).then_some(sectors))
    }
}
