//! The driver's two holders on ordinary pages. Only where the module is loaded; elsewhere the refusal
//! must say what helps.

use crate::holder::tests::{Granter, whole_life};
use crate::holder::{HoldName, kernel_holder, sha256};
use crate::picture::draw;
use libgnt::PAGE_SIZE;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[test]
fn a_video_output_shows_the_live_pages_and_a_capture_writes_to_them() {
    let Some((granter, _alone)) = with_vivid() else {
        return;
    };
    whole_life(HoldName::Vivid);
    let mapping = granter.map();
    let holder = kernel_holder(HoldName::VividCapture).unwrap();
    let export = holder.hold(&mapping, 1, 2).unwrap();
    let mut held = holder.import(export).unwrap();
    mapping.unmap().unwrap();
    assert!(granter.is_referenced());
    assert_eq!(held.see().unwrap(), None);
    let untouched = granter.fill(0x44, 2);
    assert_eq!(granter.sum(1, 2), untouched, "it writes unasked");
    let picture = draw(5, 2);
    assert!(held.paint(&picture[1..]).is_err(), "a smaller picture");
    assert!(held.paint(&picture).unwrap());
    assert_eq!(granter.sum(1, 2), sha256(&picture));
    assert_eq!(granter.sum(0, 1), sha256(&[0x44; PAGE_SIZE]), "beside it");
    held.release().unwrap();
    granter.assert_let_go();
}

/// One test at a time: there may be one instance only. `None` where there is none, which must be said
/// with what helps.
fn with_vivid() -> Option<(Granter, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match kernel_holder(HoldName::Vivid) {
        Ok(_) => Some((Granter::new(), alone)),
        Err(error) => {
            let text = error.to_string();
            let helps = text.contains("module vivid") && text.contains("modprobe vivid");
            assert!(helps, "{text}");
            eprintln!("{text}");
            None
        }
    }
}

#[test]
fn an_instance_of_vivid_has_one_hold_and_no_more() {
    let Some((granter, _alone)) = with_vivid() else {
        return;
    };
    let mapping = granter.map();
    let holder = kernel_holder(HoldName::Vivid).unwrap();
    let mut exports = Vec::new();
    let refused = loop {
        match holder.hold(&mapping, 0, 1) {
            Ok(export) => exports.push(export),
            Err(error) => break error.to_string(),
        }
    };
    assert!(
        !exports.is_empty() && refused.contains("n_devs"),
        "{refused}"
    );
    // Nobody took them over.
    drop(exports);
    holder.hold(&mapping, 0, 1).map(drop).expect("free again");
    mapping.unmap().unwrap();
    granter.assert_let_go();
}
