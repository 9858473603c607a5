//! What the back end says about itself in xenstore: read once, checked, and only then used.

use crate::link::BACK_ALIVE_BYTE;
use crate::machine::DiskInfo;
use libgnt::PAGE_SIZE;
use libgnt::proto::blkif::SECTOR_SIZE;
use pv_xenstore::value;

/// Either side's announcement of its liveness byte; Linux peers have none.
pub(crate) const LIVENESS_NODE: &str = "pvpair-liveness";
/// The disk's size, which a back end may write anew while it serves, and then touch its `state`
/// (`xen_vbd_resize` in `drivers/block/xen-blkback/blkback.c`, Linux 6.12).
pub(crate) const SECTORS_NODE: &str = "sectors";
/// `VDISK_READONLY` (`xen/include/public/io/blkif.h`).
const VDISK_READONLY: u32 = 4;

/// A node that does not say what it must. Fatal for the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the back end's node {0} is missing")]
    Missing(&'static str),
    #[error("the back end's node {node} is \"{value}\", which is {what}")]
    Bad {
        node: &'static str,
        /// As [`value::shown`].
        value: String,
        what: &'static str,
    },
}

/// What a back end says when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackNodes {
    /// `persistent` is what the back end offers.
    pub(crate) disk: DiskInfo,
    /// It keeps a byte in the ring page.
    pub(crate) liveness: bool,
}

impl BackNodes {
    /// Reads and checks them. `read` gives a node's value below the back end's directory.
    ///
    /// # Errors
    /// The first bad node, or what `read` says.
    pub(crate) fn read<E: From<NodeError>>(
        mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let sectors = size_of_disk(read(SECTORS_NODE)?)?;
        let value = read("sector-size")?.ok_or(NodeError::Missing("sector-size"))?;
        let sector_size = size("sector-size", &value)?;
        let physical_sector_size = match read("physical-sector-size")? {
            Some(value) => size("physical-sector-size", &value)?,
            None => sector_size,
        };
        let info = match read("info")? {
            Some(value) => small("info", &value)?,
            None => 0,
        };
        let disk = DiskInfo {
            sectors,
            sector_size,
            physical_sector_size,
            read_only: info & VDISK_READONLY != 0,
            flush: flag("feature-flush-cache", read("feature-flush-cache")?)?,
            persistent: flag("feature-persistent", read("feature-persistent")?)?,
        };
        let liveness = match read(LIVENESS_NODE)? {
            // Anywhere else would be for this side, or for Xen, to write.
            Some(value) if small(LIVENESS_NODE, &value)? as usize != BACK_ALIVE_BYTE => {
                return Err(bad(LIVENESS_NODE, &value, "not the back end's byte, 63").into());
            }
            Some(_) => true,
            None => false,
        };
        Ok(BackNodes { disk, liveness })
    }
}

/// The disk's size, in units of 512 bytes, as the node says it.
///
/// # Errors
/// No number, or none that a disk can have.
pub(crate) fn size_of_disk(value: Option<Vec<u8>>) -> Result<u64, NodeError> {
    let value = value.ok_or(NodeError::Missing(SECTORS_NODE))?;
    match number(SECTORS_NODE, &value)? {
        sectors if sectors > u64::MAX / SECTOR_SIZE as u64 => {
            Err(bad(SECTORS_NODE, &value, "more than 64 bits of bytes"))
        }
        sectors => Ok(sectors),
    }
}

/// A feature: 0 or 1, absent is 0.
fn flag(node: &'static str, value: Option<Vec<u8>>) -> Result<bool, NodeError> {
    value.map_or(Ok(false), |value| {
        value::boolean(&value).ok_or_else(|| bad(node, &value, "neither 0 nor 1"))
    })
}

fn size(node: &'static str, value: &[u8]) -> Result<u32, NodeError> {
    let size = small(node, value)?;
    let good = size.is_power_of_two() && size as usize >= SECTOR_SIZE;
    // A sector larger than a page could not be granted in one piece.
    match good && (size as usize <= PAGE_SIZE || node != "sector-size") {
        true => Ok(size),
        false => Err(bad(
            node,
            value,
            "no sector size: a power of two from 512 to 4096",
        )),
    }
}

fn small(node: &'static str, value: &[u8]) -> Result<u32, NodeError> {
    value::number(value).ok_or_else(|| bad(node, value, "no number of 32 bits"))
}

fn number(node: &'static str, value: &[u8]) -> Result<u64, NodeError> {
    value::number(value).ok_or_else(|| bad(node, value, "no number of 64 bits"))
}

fn bad(node: &'static str, value: &[u8], what: &'static str) -> NodeError {
    NodeError::Bad {
        node,
        value: value::shown(value),
        what,
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
        let ours = [&GOOD[..2], &[(LIVENESS_NODE, "63")]].concat();
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
            (LIVENESS_NODE, "62"),
            (LIVENESS_NODE, "70000"),
        ] {
            let mut nodes: HashMap<_, _> = GOOD.into_iter().collect();
            nodes.insert(node, value);
            let nodes: Vec<_> = nodes.into_iter().collect();
            let error = read(&nodes).expect_err(value).to_string();
            assert!(error.contains(node), "{node} {value:?}: {error}");
        }
        assert_eq!(read(&GOOD[1..]), Err(NodeError::Missing("sectors")));
        let hostile = read(&[("sectors", "\u{1b}[2J\n")])
            .expect_err("control")
            .to_string();
        assert!(hostile.contains(r#""\x1b[2J\n""#), "{hostile:?}");
    }
}
