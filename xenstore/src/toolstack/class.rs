//! Device classes: the directory that a device is in, and the drivers that take it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Linux names a device on its bus `CLASS-FRONT-NUMBER`, in 20 bytes (`XEN_BUS_ID_SIZE`,
/// `drivers/xen/xenbus/xenbus.h`); a longer class would leave no room for the numbers.
const MAX_BYTES: usize = 16;

/// A device's class: `vbd` in `device/vbd/51712` and `backend/vbd/1/51712`.
///
/// A kernel makes a device of whatever class appears below `device` and `backend`, and gives it to
/// the driver of that name (`xenbus_match`, `drivers/xen/xenbus/xenbus_probe.c`). Block devices are
/// `vbd`; in a class that no driver has, no kernel takes a device away from a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceClass(Cow<'static, str>);

/// Text that names no class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no device class; use at most 16 letters, digits, - and _, such as vbd or pvstress"
)]
pub struct BadDeviceClass(pub String);

impl DeviceClass {
    /// Block devices, as every kernel and toolstack has them.
    pub const VBD: DeviceClass = DeviceClass::new("vbd");

    /// A class that the program itself names. [`FromStr`] is for names that people give.
    ///
    /// # Panics
    /// If that is no name for a class; in a constant, when it is compiled.
    pub const fn new(name: &'static str) -> DeviceClass {
        assert!(is_class(name.as_bytes()), "no name for a device class");
        DeviceClass(Cow::Borrowed(name))
    }
}

impl Default for DeviceClass {
    /// `vbd`
    fn default() -> DeviceClass {
        DeviceClass::VBD
    }
}

const fn is_class(name: &[u8]) -> bool {
    let mut at = 0;
    while at < name.len() {
        if !(name[at].is_ascii_alphanumeric() || name[at] == b'-' || name[at] == b'_') {
            return false;
        }
        at += 1;
    }
    at > 0 && at <= MAX_BYTES
}

impl FromStr for DeviceClass {
    type Err = BadDeviceClass;

    fn from_str(text: &str) -> Result<DeviceClass, BadDeviceClass> {
        if is_class(text.as_bytes()) {
            Ok(DeviceClass(Cow::Owned(text.to_owned())))
        } else {
            Err(BadDeviceClass(text.to_owned()))
        }
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_one_name_in_a_path() {
        for good in ["vbd", "pvstress", "9pfs", "my-disks_2", "abcdefghijklmnop"] {
            assert_eq!(good.parse::<DeviceClass>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "a/b",
            "..",
            "vbd ",
            "v\0",
            "abcdefghijklmnopq",
            "\u{e9}",
        ] {
            assert!(bad.parse::<DeviceClass>().is_err(), "{bad:?}");
        }
        assert_eq!("vbd".parse(), Ok(DeviceClass::VBD));
    }
}
