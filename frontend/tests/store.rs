//! An xenstored that does not answer: data goes on, and what happened meanwhile is caught up with.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Stage;
use pv_frontend::Disk;
use pv_xenstore::xenbus::XenbusState;

#[test]
fn data_goes_on_while_xenstored_does_not_answer() {
    let stage = Stage::new();
    let back = stage.back(|back| {
        back.connect();
        back.serve_until_closed();
    });
    let disk = Disk::open(stage.config()).expect("open");
    disk.write_at(0, &[1; 4096]).expect("write");
    stage.valve.close();
    // Something for the front end to ask about; the back end's own connection passes no valve.
    let state = format!("{}/state", stage.back_dir());
    let connected = XenbusState::Connected.as_str();
    stage.store.write(&state, connected).expect("write");
    stage.valve.wait_pressed(common::PATIENCE);
    for n in 0..200u8 {
        disk.write_at(u64::from(n) * 512, &[n; 512]).expect("write");
    }
    disk.flush().expect("flush");
    stage.valve.open();
    disk.close().expect("close");
    back.join().expect("back end");
    let image = stage.image.lock().unwrap();
    assert!((0..200).all(|n| image[n * 512] == n as u8));
}
