//! What a back end says about its disk.

use super::{
    BACK_ALIVE_BYTE, FEATURE_FLUSH_CACHE, FEATURE_PERSISTENT, INFO, LIVENESS, MAX_RING_PAGE_ORDER,
    Node, NodeError, PHYSICAL_SECTOR_SIZE, Publisher, SECTOR_SIZE, SECTORS, digit, missing, vdisk,
};
use crate::PAGE_SIZE;
use crate::proto::blkif;

/// The disk as the back end announces it ([`SECTORS`], [`SECTOR_SIZE`], [`INFO`], `feature-*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DiskInfo {
    /// Size in units of 512 bytes, whatever `sector_size` says.
    pub sectors: u64,
    /// Bytes of the smallest unit of I/O: a multiple of 512.
    pub sector_size: u32,
    /// Bytes of the medium's own sector.
    pub physical_sector_size: u32,
    /// `VDISK_READONLY` in `info`.
    pub read_only: bool,
    /// The back end performs flushes (`feature-flush-cache`).
    pub flush: bool,
    /// Grants stay mapped between requests (`feature-persistent`): as the back end offers it, and on a
    /// connection as both ends have agreed.
    pub persistent: bool,
}

impl DiskInfo {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(blkif::SECTOR_SIZE as u64)
    }
}

/// What a back end says when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackNodes {
    /// The disk. `persistent` is what the back end offers.
    pub disk: DiskInfo,
    /// `VDISK_CDROM` in `info`.
    pub cdrom: bool,
    /// `VDISK_REMOVABLE` in `info`.
    pub removable: bool,
    /// It keeps a byte in the ring page ([`BACK_ALIVE_BYTE`]).
    pub liveness: bool,
}

impl BackNodes {
    /// Reads and checks them. `read` gives a node's value below the back end's directory.
    ///
    /// # Errors
    /// The first bad node, or what `read` says.
    pub fn read<E: From<NodeError>>(
        mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let sectors = size_of_disk(read(SECTORS)?)?;
        let value = read(SECTOR_SIZE)?.ok_or(missing(Publisher::BackEnd, SECTOR_SIZE))?;
        let sector_size = size(node(SECTOR_SIZE, &value))?;
        let physical_sector_size = match read(PHYSICAL_SECTOR_SIZE)? {
            Some(value) => size(node(PHYSICAL_SECTOR_SIZE, &value))?,
            None => sector_size,
        };
        let info = match read(INFO)? {
            Some(value) => node(INFO, &value).number::<u32>()?,
            None => 0,
        };
        let mut feature = |name| match read(name)? {
            Some(value) => Ok(node(name, &value).flag()?),
            None => Ok::<_, E>(false),
        };
        let disk = DiskInfo {
            sectors,
            sector_size,
            physical_sector_size,
            read_only: info & vdisk::READONLY != 0,
            flush: feature(FEATURE_FLUSH_CACHE)?,
            persistent: feature(FEATURE_PERSISTENT)?,
        };
        let liveness = match read(LIVENESS)? {
            Some(value) => {
                let node = node(LIVENESS, &value);
                // Anywhere else would be for the front end, or for Xen, to write.
                if node.number::<u32>()? as usize != BACK_ALIVE_BYTE {
                    return Err(node.bad("not the back end's byte, 63").into());
                }
                true
            }
            None => false,
        };
        Ok(BackNodes {
            disk,
            cdrom: info & vdisk::CDROM != 0,
            removable: info & vdisk::REMOVABLE != 0,
            liveness,
        })
    }

    /// What a back end publishes before it waits for a front end: names and values.
    pub fn write_features(&self) -> Vec<(&'static str, String)> {
        let mut nodes = vec![
            (FEATURE_FLUSH_CACHE, digit(self.disk.flush)),
            (FEATURE_PERSISTENT, digit(self.disk.persistent)),
            (MAX_RING_PAGE_ORDER, digit(false)),
        ];
        if self.liveness {
            nodes.push((LIVENESS, BACK_ALIVE_BYTE.to_string()));
        }
        nodes
    }

    /// What it publishes with its state `Connected`, all at once.
    pub fn write_disk(&self) -> Vec<(&'static str, String)> {
        let bit = |is, bit| if is { bit } else { 0 };
        let info = bit(self.cdrom, vdisk::CDROM)
            | bit(self.removable, vdisk::REMOVABLE)
            | bit(self.disk.read_only, vdisk::READONLY);
        vec![
            (SECTORS, self.disk.sectors.to_string()),
            (SECTOR_SIZE, self.disk.sector_size.to_string()),
            (
                PHYSICAL_SECTOR_SIZE,
                self.disk.physical_sector_size.to_string(),
            ),
            (INFO, info.to_string()),
        ]
    }
}

/// The disk's size, in units of 512 bytes, as the node [`SECTORS`] says it.
///
/// # Errors
/// No number, or none that a disk can have.
pub fn size_of_disk(value: Option<Vec<u8>>) -> Result<u64, NodeError> {
    let value = value.ok_or(missing(Publisher::BackEnd, SECTORS))?;
    let node = node(SECTORS, &value);
    match node.number()? {
        sectors if sectors > u64::MAX / blkif::SECTOR_SIZE as u64 => {
            Err(node.bad("more than 64 bits of bytes"))
        }
        sectors => Ok(sectors),
    }
}

fn node<'a>(name: &'static str, value: &'a [u8]) -> Node<'a> {
    Node {
        by: Publisher::BackEnd,
        name,
        value,
    }
}

fn size(node: Node<'_>) -> Result<u32, NodeError> {
    let size: u32 = node.number()?;
    let good = size.is_power_of_two() && size as usize >= blkif::SECTOR_SIZE;
    // A sector larger than a page could not be granted in one piece.
    match good && (size as usize <= PAGE_SIZE || node.name != SECTOR_SIZE) {
        true => Ok(size),
        false => Err(node.bad("no sector size: a power of two from 512 to 4096")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(nodes: &[(&'static str, &str)]) -> Result<BackNodes, NodeError> {
        let nodes: HashMap<_, _> = nodes.iter().copied().collect();
        BackNodes::read(|node| Ok(nodes.get(node).map(|value| value.as_bytes().to_vec())))
    }

    const GOOD: [(&str, &str); 6] = [
        ("sectors", "204800"),
        ("sector-size", "512"),
        ("physical-sector-size", "4096"),
        ("info", "4"),
        ("feature-flush-cache", "1"),
        ("feature-persistent", "1"),
    ];

    #[test]
    fn a_linux_back_end_and_our_own() {
        let linux = read(&GOOD).expect("good");
        assert_eq!(linux.disk.bytes(), 100 << 20);
        assert!(linux.disk.read_only && linux.disk.flush && linux.disk.persistent);
        assert!(!linux.liveness);
        let ours = [&GOOD[..2], &[(LIVENESS, "63")]].concat();
        let ours = read(&ours).expect("good");
        assert!(ours.liveness && !ours.disk.read_only && !ours.disk.flush);
        assert_eq!(ours.disk.physical_sector_size, 512);
        let others = [
            ("sectors", "204800\0"),
            ("sector-size", " 0512\n"),
            ("physical-sector-size", "4096\0"),
            ("info", "04"),
            ("feature-flush-cache", "1\0"),
            ("feature-persistent", "1 "),
        ];
        assert_eq!(read(&others), Ok(linux));
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        for (node, value) in [
            ("sectors", ""),
            ("sectors", "-1"),
            ("sectors", "18446744073709551615"),
            ("sectors", "99999999999999999999"),
            ("sector-size", "0"),
            ("sector-size", "1000"),
            ("sector-size", "8192"),
            ("sector-size", "4294967808"),
            ("physical-sector-size", "0"),
            ("info", "x"),
            ("feature-persistent", "yes"),
            (LIVENESS, "62"),
            (LIVENESS, "70000"),
        ] {
            let mut nodes: HashMap<_, _> = GOOD.into_iter().collect();
            nodes.insert(node, value);
            let nodes: Vec<_> = nodes.into_iter().collect();
            let error = read(&nodes).expect_err(value).to_string();
            assert!(error.contains(node), "{node} {value:?}: {error}");
        }
        assert_eq!(
            read(&GOOD[1..]),
            Err(missing(Publisher::BackEnd, "sectors"))
        );
        let hostile = read(&[("sectors", "\u{1b}[2J\n")])
            .expect_err("control")
            .to_string();
        assert!(hostile.contains(r#""\x1b[2J\n""#), "{hostile:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        for bits in 0..16_u8 {
            let nodes = BackNodes {
                disk: DiskInfo {
                    sectors: 204_800,
                    sector_size: 512,
                    physical_sector_size: 4096,
                    read_only: bits & 1 != 0,
                    flush: true,
                    persistent: bits & 2 != 0,
                },
                cdrom: bits & 4 != 0,
                removable: bits & 8 != 0,
                liveness: bits & 1 != 0,
            };
            let written = [nodes.write_features(), nodes.write_disk()].concat();
            let text: Vec<_> = written.iter().map(|(n, v)| (*n, v.as_str())).collect();
            assert_eq!(read(&text), Ok(nodes));
        }
    }
}
