//! What a disk adds to the handshake.

use crate::link::Offer;
use libgnt::proto::blkif::nodes::{self, BackNodes, FrontNodes};
use pv_xenstore::toolstack::{self, DriverBound, KernelCheck};
use pv_xenstore::xenbus::device::BackProtocol;
use pv_xenstore::xenbus::feature::{Node, Published, ReadError};
use pv_xenstore::{Client, Result, value};

/// A disk's nodes.
#[derive(Debug)]
pub(crate) struct Vbd {
    pub(super) kernel: KernelCheck,
    pub(super) offered: BackNodes,
    /// The front may only read: because the disk was opened so, or by the toolstack's word.
    pub(super) read_only: bool,
}

/// The toolstack lets the front only read: by its node `mode`, which is never written here
/// (XSA-142), or because it is a CD-ROM, as for QEMU's back end.
pub(super) fn toolstack_forbids_writes(client: &Client, back: &str) -> Result<bool> {
    let mode = toolstack::read_mode(client, back)?;
    let cdrom = toolstack::read_medium(client, back)?.cdrom;
    Ok(cdrom || mode == Some(toolstack::Mode::ReadOnly))
}

impl BackProtocol for Vbd {
    type Offer = Offer;
    type Obstacle = DriverBound;

    fn features(&self) -> Vec<Node> {
        self.offered.write_features()
    }

    fn read_offer(
        &mut self,
        front: &Published<'_>,
        own: &Published<'_>,
        take_over: bool,
    ) -> std::result::Result<Offer, ReadError> {
        let nodes = FrontNodes::read(|name| Ok::<_, ReadError>(front.read(name)?))?;
        let mut persistent = self.offered.disk.persistent && nodes.persistent;
        if take_over {
            // A front that was told otherwise takes its grants back after each request.
            let offered = own.read(nodes::FEATURE_PERSISTENT)?;
            persistent &= offered.is_some_and(|value| value::boolean(&value) == Some(true));
        }
        // Asked anew for each front: the device may have been made anew before it.
        self.read_only =
            self.offered.disk.read_only || toolstack_forbids_writes(own.client(), own.directory())?;
        Ok(Offer {
            nodes,
            take_over,
            persistent,
            read_only: self.read_only,
        })
    }

    fn obstacle(&mut self) -> Option<DriverBound> {
        self.kernel.look().err()
    }

    /// What is said of the disk, to the front that is connected to now.
    fn connected_nodes(
        &mut self,
        own: &Published<'_>,
    ) -> std::result::Result<Vec<Node>, ReadError> {
        let medium = toolstack::read_medium(own.client(), own.directory())?;
        let mut nodes = self.offered;
        nodes.cdrom = medium.cdrom;
        nodes.removable = medium.removable;
        nodes.disk.read_only = self.read_only;
        Ok(nodes.write_disk())
    }

    fn closed_nodes(&self) -> &[&'static str] {
        &[nodes::LIVENESS]
    }
}
