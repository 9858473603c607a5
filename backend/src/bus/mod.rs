//! The back end's side of xenstore, on a thread of its own: the loop gives reports, and takes orders
//! when it is woken. The handshake is every device's
//! ([`device`](pv_xenstore::xenbus::device)); what a disk adds to it is here.

mod offer;

mod vbd;

mod found;

pub(crate) use found::Found;

use pv_xenstore::xenbus::device::{BackDevice, BackNews};
use vbd::Vbd;

/// One device in xenstore.
pub(crate) type Bus = BackDevice<Vbd>;

/// What the loop has to do, or to know.
pub(crate) type Order = BackNews<Vbd>;
