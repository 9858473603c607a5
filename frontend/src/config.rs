//! How a front end is set up.

use libgnt::Platform;
use libgnt::grant::Ledger;
use libgnt::proto::blkif::MAX_SEGMENTS;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Which device: a virtual-device number, or a name that stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(pub u32);

impl FromStr for DeviceId {
    type Err = String;

    /// `51712`, or `xvda` to `xvdp` (major 202, sixteen minors a disk: Xen's
    /// `docs/man/xen-vbd-interface.7`).
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(DeviceId(number));
        }
        match text.strip_prefix("xvd").map(str::as_bytes) {
            Some([letter @ b'a'..=b'p']) => {
                Ok(DeviceId((202 << 8) + u32::from(letter - b'a') * 16))
            }
            _ => Err(format!(
                "{text:?} is no device: use xvda to xvdp, or a number such as 51712"
            )),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.0 >> 8, self.0 & 0xff);
        match char::from_u32(u32::from(b'a') + minor / 16) {
            Some(letter) if major == 202 && minor % 16 == 0 => write!(f, "xvd{letter}"),
            _ => write!(f, "device {}", self.0),
        }
    }
}

/// What a front end is opened with.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// The domain's view of Xen.
    pub platform: Arc<dyn Platform>,
    /// The device.
    pub device: DeviceId,
    /// Ask for persistent grants: pages stay mapped between requests, which saves two hypercalls
    /// a request and leaves them open to the back end for the device's life.
    pub persistent: bool,
    /// Pages granted for data. Without persistent grants one half is for reads, granted
    /// writable, the other for writes, granted read-only.
    pub pool_pages: usize,
    /// I/Os accepted and not completed.
    pub queue: usize,
    /// How long one I/O may take.
    pub deadline: Duration,
    /// How long to wait for a back end to connect, at first and after it went.
    pub reconnect: Duration,
    /// Ask the platform at each response whether the pages are really unmapped, where it can say
    /// (the simulated Xen): a call to the host for each request, for tests.
    pub verify_release: bool,
    /// Longest busy wait for a response before sleeping; zero never spins.
    pub spin: Duration,
    /// Counts what is granted.
    pub ledger: Ledger,
}

impl FrontConfig {
    /// The usual configuration of a device.
    pub fn new(platform: Arc<dyn Platform>, device: DeviceId) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        FrontConfig {
            platform,
            device,
            persistent: false,
            pool_pages: 32 * MAX_SEGMENTS,
            queue: 256,
            deadline: Duration::from_secs(30),
            reconnect: Duration::from_secs(30),
            verify_release: false,
            // On one core a busy wait only keeps the back end from answering.
            spin: if cores > 1 {
                Duration::from_micros(100)
            } else {
                Duration::ZERO
            },
            ledger: Ledger::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_numbers() {
        assert_eq!("xvda".parse(), Ok(DeviceId(51712)));
        assert_eq!("xvdb".parse(), Ok(DeviceId(51728)));
        assert_eq!("51744".parse(), Ok(DeviceId(51744)));
        assert_eq!(DeviceId(51728).to_string(), "xvdb");
        assert_eq!(DeviceId(768).to_string(), "device 768");
        for bad in ["", "xvd", "xvdz", "sda1", "-1", "xvdaa"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }
}
