//! What is offered to a front end.

use crate::config::Mode;
use crate::disk::Disk;
use libgnt::proto::blkif::SECTOR_SIZE;
use libgnt::proto::blkif::nodes::{BackNodes, DiskInfo};

/// No disk.
pub(super) const NOTHING: BackNodes = BackNodes {
    disk: DiskInfo {
        sectors: 0,
        sector_size: SECTOR_SIZE as u32,
        physical_sector_size: SECTOR_SIZE as u32,
        read_only: false,
        flush: false,
        persistent: false,
    },
    cdrom: false,
    removable: false,
    liveness: false,
};

/// A disk, as it was opened.
pub(super) fn of(disk: &Disk, mode: Mode) -> BackNodes {
    BackNodes {
        disk: DiskInfo {
            sectors: disk.sectors(),
            physical_sector_size: disk.physical_sector_size(),
            read_only: disk.is_read_only(),
            flush: true,
            persistent: matches!(mode, Mode::Auto | Mode::Persistent),
            ..NOTHING.disk
        },
        liveness: true,
        ..NOTHING
    }
}
