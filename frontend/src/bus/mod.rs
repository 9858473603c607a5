//! The front end's side of xenstore, on a thread of its own: the loop gives reports, and takes
//! news when it is woken. The handshake is every device's
//! ([`device`](pv_xenstore::xenbus::device)); what a disk adds to it is here.

mod find;

mod vbd;

use crate::config::FrontConfig;
use crate::error::{FrontError, system};
use find::{Found, find};
use pv_xenstore::Client;
use pv_xenstore::xenbus::device::{FrontDevice, FrontNews, FrontSetting};
use std::sync::Arc;
use vbd::Vbd;

/// One device in xenstore.
pub(crate) type Bus = FrontDevice<Vbd>;

/// What the loop has to do or know.
pub(crate) type BusEvent = FrontNews<Vbd>;

/// Rings in a row that never came into service, before the device is given up.
const ATTEMPTS_MAX: u32 = 8;

/// Finds the device that the toolstack made, and watches its back end.
///
/// # Errors
/// [`FrontError::NoDevice`]; [`FrontError::KernelDriver`]; xenstore is not there.
pub(crate) fn open(config: &FrontConfig) -> Result<Bus, FrontError> {
    let client = Client::connect(&*config.platform)?;
    let Found {
        front,
        link,
        kernel,
    } = find(&client, config)?;
    let setting = FrontSetting {
        front,
        attempts_max: Some(ATTEMPTS_MAX),
        // The loop has its own.
        patience: None,
    };
    let platform = Arc::clone(&config.platform);
    let open = Box::new(move || Client::connect(&*platform));
    FrontDevice::start(Vbd::new(kernel), setting, link, (client, open))
        .map_err(system("thread for xenstore"))
}
