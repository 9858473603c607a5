//! What a toolstack does for such a device: two directories, each readable for the other end.

use libgnt::DomId;
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::{Client, Error, Permission, Result, Rights};

/// Makes the device 0 of a front end's domain, or makes it anew.
///
/// # Errors
/// The connection's.
pub fn create(dom0: &Client, front_domid: DomId, back_domid: DomId) -> Result<()> {
    let front = format!("/local/domain/{}/device/echo/0", front_domid.0);
    let back = format!(
        "/local/domain/{}/backend/echo/{}/0",
        back_domid.0, front_domid.0
    );
    let starting = XenbusState::Initialising.as_str().to_owned();
    let ends = [
        (
            (&front, front_domid, back_domid),
            [
                ("backend", back.clone()),
                ("backend-id", back_domid.0.to_string()),
            ],
        ),
        (
            (&back, back_domid, front_domid),
            [
                ("frontend", front.clone()),
                ("frontend-id", front_domid.0.to_string()),
            ],
        ),
    ];
    dom0.transaction(|tx| {
        for ((directory, owner, reader), link) in &ends {
            match tx.rm(directory) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
            tx.mkdir(directory)?;
            // What is made below belongs to whom the directory does.
            tx.set_perms(
                directory,
                &[
                    Permission::new(Rights::None, *owner),
                    Permission::new(Rights::Read, *reader),
                ],
            )?;
            for (name, value) in link {
                tx.write(&format!("{directory}/{name}"), value)?;
            }
        }
        tx.write(&format!("{back}/online"), "1")?;
        tx.write(&format!("{back}/state"), &starting)?;
        tx.write(&format!("{front}/state"), &starting)?;
        Ok::<_, Error>(())
    })
}
