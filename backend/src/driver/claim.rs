//! One back end for one device: a name that the kernel gives to one process and takes back when
//! that dies, however it dies. xenstore cannot tell: a killed back end leaves its state behind.

use libgnt::DomId;
use pv_xenstore::toolstack::{DeviceClass, DeviceId};
use rustix::io::Errno;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Held as long as the device is served. An abstract Unix socket: no file is left behind.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

/// Somebody else serves the device.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The name is taken.
    #[error(
        "device {device} of {front} is served by another back end on {platform}; \
         stop that one first (`pv-backend status` shows its state)"
    )]
    Taken {
        /// The device.
        device: DeviceId,
        /// Whose.
        front: DomId,
        /// Where.
        platform: String,
    },
    /// The kernel refused for another reason.
    #[error("cannot claim device {device} of {front}: {cause}")]
    System {
        /// The device.
        device: DeviceId,
        /// Whose.
        front: DomId,
        /// What the kernel said.
        cause: Errno,
    },
}

impl Claim {
    /// Claims a device of a front on a platform ([`libgnt::Platform::name`]).
    ///
    /// # Errors
    /// [`ClaimError::Taken`] at once if somebody has it.
    pub fn take(
        platform: &str,
        class: &DeviceClass,
        front: DomId,
        device: DeviceId,
    ) -> Result<Self, ClaimError> {
        // A socket's name has 107 bytes, a directory's may have more: the hash, and its tail for people.
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&(platform, class), &mut hash);
        let hash = std::hash::Hasher::finish(&hash);
        let tail: String = {
            let mut last: Vec<char> = platform.chars().rev().take(12).collect();
            last.reverse();
            last.into_iter().collect()
        };
        let name = format!("pv-backend/{hash:016x}{tail}/{}/{device}", front.0);
        let system = |error: &std::io::Error| ClaimError::System {
            device,
            front,
            cause: Errno::from_io_error(error).unwrap_or(Errno::INVAL),
        };
        let address = SocketAddr::from_abstract_name(name).map_err(|e| system(&e))?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Claim { _socket: socket }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(ClaimError::Taken {
                device,
                front,
                platform: platform.into(),
            }),
            Err(error) => Err(system(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VBD: DeviceClass = DeviceClass::VBD;
    const XVDA: DeviceId = DeviceId(51712);

    #[test]
    fn a_device_is_claimed_once_and_given_back() {
        let place = format!("sim:/test/{}/{}", std::process::id(), "long/".repeat(40));
        let first = Claim::take(&place, &VBD, DomId(1), XVDA).expect("first");
        let second = Claim::take(&place, &VBD, DomId(1), XVDA);
        assert!(
            matches!(second, Err(ClaimError::Taken { .. })),
            "{second:?}"
        );
        let _other_device =
            Claim::take(&place, &VBD, DomId(1), DeviceId(51728)).expect("another device");
        let _other_front = Claim::take(&place, &VBD, DomId(2), XVDA).expect("another front");
        let _other_place = Claim::take(&format!("{place}x"), &VBD, DomId(1), XVDA).expect("place");
        let class = DeviceClass::new("pvstress");
        let _other_class = Claim::take(&place, &class, DomId(1), XVDA).expect("another class");
        drop(first);
        Claim::take(&place, &VBD, DomId(1), XVDA).expect("given back");
    }
}
