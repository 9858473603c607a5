//! TBD
use crate::error::Result;
use crate::platform::{Evtchn, Gntalloc, Gntdev, GuestType, Platform, not_available};
use crate::types::GrantRef;
use std::os::fd::OwnedFd;

/// The real devices.
#[derive(Debug)]
pub struct LinuxPlatform;

impl LinuxPlatform {
    /// Opens the platform.
    ///
    /// # Errors
    /// No Xen here.
    pub fn open() -> Result<Self> {
        Err(not_available("Xen", "no /dev/xen", "use sim:DIR"))
    }
}

impl Platform for LinuxPlatform {
    fn name(&self) -> String {
        "linux".into()
    }
    fn guest_type(&self) -> Result<GuestType> {
        Self::open().map(|_| GuestType::Pvh)
    }
    fn open_gntdev(&self) -> Result<Box<dyn Gntdev>> {
        Err(not_available("gntdev", "", ""))
    }
    fn open_gntalloc(&self) -> Result<Box<dyn Gntalloc>> {
        Err(not_available("gntdev", "", ""))
    }
    fn open_evtchn(&self) -> Result<Box<dyn Evtchn>> {
        Err(not_available("gntdev", "", ""))
    }
    fn open_xenstore(&self) -> Result<OwnedFd> {
        Err(not_available("gntdev", "", ""))
    }
    fn grants_in_use(&self, _: &[GrantRef]) -> Result<Option<Vec<GrantRef>>> {
        Ok(None)
    }
}
