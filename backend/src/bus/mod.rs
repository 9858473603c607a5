//! The back end's side of xenstore, on a thread of its own: the loop gives reports, and takes orders
//! when it is woken.

mod offer;
mod orders;

mod side;

pub(crate) use orders::{Order, Report};
pub(crate) use side::{Bus, Found};
