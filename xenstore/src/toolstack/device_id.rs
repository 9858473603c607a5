//! Virtual device numbers (`docs/man/xen-vbd-interface.7`).

use std::fmt;
use std::str::FromStr;

const XVD_MAJOR: u32 = 202;
const EXTENDED: u32 = 1 << 28;
/// 20 bits of disk number in the extended form.
const DISKS_MAX: u32 = 1 << 20;

/// A block device's number in its domain; 51712 is `xvda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// Text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no virtual disk; write a name such as xvda or xvdb1, or a number such as 51712"
)]
pub struct BadDeviceId(pub String);

impl DeviceId {
    fn of(disk: u32, partition: u32) -> Option<DeviceId> {
        match (disk, partition) {
            (0..16, 0..16) => Some(DeviceId(XVD_MAJOR << 8 | disk << 4 | partition)),
            (0..DISKS_MAX, 0..256) => Some(DeviceId(EXTENDED | disk << 8 | partition)),
            _ => None,
        }
    }

    /// `xvda`, `xvdb1`, …; `None` for numbers of other kinds of disks.
    pub fn name(self) -> Option<String> {
        let (disk, partition) = match self.0 {
            id if id >> 8 == XVD_MAJOR => (id >> 4 & 15, id & 15),
            id if id & EXTENDED != 0 && id < EXTENDED << 1 => (id >> 8 & (DISKS_MAX - 1), id & 255),
            _ => return None,
        };
        let mut letters = Vec::new();
        let mut left = disk + 1;
        while left > 0 {
            letters.push((b'a' + ((left - 1) % 26) as u8) as char);
            left = (left - 1) / 26;
        }
        let letters: String = letters.iter().rev().collect();
        Some(if partition == 0 {
            format!("xvd{letters}")
        } else {
            format!("xvd{letters}{partition}")
        })
    }
}

impl FromStr for DeviceId {
    type Err = BadDeviceId;

    fn from_str(text: &str) -> Result<DeviceId, BadDeviceId> {
        parse(text).ok_or_else(|| BadDeviceId(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<DeviceId> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let id = text.parse().ok()?;
        return (id < EXTENDED << 1).then_some(DeviceId(id));
    }
    let rest = text.strip_prefix("xvd")?;
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let (name, digits) = rest.split_at(letters);
    // Five letters are beyond any disk number.
    if name.is_empty() || name.len() > 5 {
        return None;
    }
    let disk = name
        .bytes()
        .fold(0u32, |n, b| n * 26 + u32::from(b - b'a') + 1)
        - 1;
    let partition = match digits {
        "" => 0,
        d if d.starts_with('0') || !d.bytes().all(|b| b.is_ascii_digit()) => return None,
        d => d.parse().ok()?,
    };
    DeviceId::of(disk, partition)
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let table = [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdb", 51728),
            ("xvdb1", 51729),
            ("xvdp15", 51967),
            ("xvda16", 268_435_472),
            ("xvdq", 268_439_552),
            ("xvdz", 268_441_856),
            ("xvdaa", 268_442_112),
            ("xvdaa3", 268_442_115),
        ];
        for (name, id) in table {
            assert_eq!(name.parse(), Ok(DeviceId(id)), "{name}");
            assert_eq!(DeviceId(id).name().as_deref(), Some(name), "{id}");
            assert_eq!(id.to_string().parse(), Ok(DeviceId(id)));
        }
    }

    #[test]
    fn what_names_no_disk() {
        let bad = [
            "",
            "xvd",
            "xvd1",
            "xvdA",
            "xvda0",
            "xvda01",
            "xvda256",
            "xvda1x",
            "sda",
            "-1",
            "xvdaaaaaa",
            "xvdzzzzz",
            "536870912",
            "99999999999",
        ];
        for text in bad {
            assert!(text.parse::<DeviceId>().is_err(), "{text:?}");
        }
    }
}
