//! Bad images, bad peers and bad packets: each a clear error that names the thing and what to do,
//! the right exit status, no panic, and nothing lost.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Place, Said, Sim};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn image(place: &Place, bytes: u64) -> PathBuf {
    let image = place.path("disk.img");
    fs::File::create(&image).unwrap().set_len(bytes).unwrap();
    image
}

fn attached(place: &Place) -> Sim {
    let sim = Sim::start(place);
    sim.run(place, "pv-backend", "attach", &[]).assert_status(0);
    sim
}

fn serve(sim: &Sim, place: &Place, image: &Path) -> Command {
    sim.command(
        place,
        "pv-backend",
        "serve",
        &["--image", image.to_str().unwrap()],
    )
}

fn refused(command: &mut Command) -> Said {
    let said = common::said(command.output().unwrap());
    said.assert_status(2);
    said
}

#[test]
fn images_that_are_no_disks_are_refused() {
    let place = Place::new();
    let sim = attached(&place);
    refused(&mut serve(&sim, &place, Path::new("/nonexistent/disk.img")))
        .assert_stderr(&["/nonexistent/disk.img", "No such file"]);
    refused(&mut serve(&sim, &place, Path::new("/dev/null"))).assert_stderr(&["/dev/null"]);
    refused(&mut serve(&sim, &place, &place.path("tmp"))).assert_stderr(&["tmp"]);
    let odd = image(&place, 1000);
    refused(&mut serve(&sim, &place, &odd)).assert_stderr(&["disk.img", "1000", "512"]);
    assert_eq!(fs::metadata(&odd).unwrap().len(), 1000, "left as it was");
    // None of them has spoilt the device.
    let good = image(&place, 1 << 20);
    sim.serve(&place, serve(&sim, &place, &good))
        .end()
        .assert_status(0);
    sim.end();
    place.assert_nothing_left();
}

/// Root may open everything, so as somebody else: with an executable that nobody may read, too.
fn as_nobody(place: &Place, command: &Command) -> Option<Command> {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    for path in [place.path(""), place.path("sim"), place.path("tmp")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    for socket in ["xen.sock", "xenstored.sock"] {
        let socket = place.path("sim").join(socket);
        fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let program = place.path("pv-stress");
    fs::copy(command.get_program(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut other = Command::new(program);
    other
        .args(command.get_args())
        .env("TMPDIR", place.path("tmp"))
        .uid(NOBODY);
    Some(other)
}

#[test]
fn images_that_may_not_be_read_or_written_are_refused() {
    let place = Place::new();
    let sim = attached(&place);
    let image = image(&place, 1 << 20);
    for mode in [0o000, 0o444] {
        fs::set_permissions(&image, fs::Permissions::from_mode(mode)).unwrap();
        let command = serve(&sim, &place, &image);
        let mut command = as_nobody(&place, &command).unwrap_or(command);
        refused(&mut command).assert_stderr(&["disk.img", "Permission denied"]);
    }
    // The cure for a read-only image.
    let args = ["--image", image.to_str().unwrap(), "--read-only"];
    let command = sim.command(&place, "pv-backend", "serve", &args);
    let command = as_nobody(&place, &command).unwrap_or(command);
    sim.serve(&place, command).end().assert_status(0);
    sim.end();
}

#[test]
fn a_second_back_end_for_a_device_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let sim = attached(&place);
    let image = image(&place, 4 << 20);
    let first = sim.serve(&place, serve(&sim, &place, &image));
    refused(&mut serve(&sim, &place, &image)).assert_stderr(&["51712", "another back end", "stop"]);
    let input = place.input(1_000_000);
    sim.run(
        &place,
        "pv-frontend",
        "copy",
        &["--input", input.to_str().unwrap()],
    )
    .assert_status(0);
    first.end().assert_status(0);
    sim.end();
    place.assert_nothing_left();
}

#[test]
fn a_full_disk_fails_the_write_and_nothing_else() {
    let place = Place::new();
    let sim = attached(&place);
    let image = image(&place, 8 << 20);
    let inner = serve(&sim, &place, &image);
    // A limit on the size of files stands for the full disk: the same path, one errno beside.
    let mut command = Command::new("sh");
    command
        .env("TMPDIR", place.path("tmp"))
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program()).args(inner.get_args());
    let serving = sim.serve(&place, command);
    let input = place.input(4 << 20);
    let input = input.to_str().unwrap().to_owned();
    let copy = sim.run(&place, "pv-frontend", "copy", &["--input", &input]);
    copy.assert_status(1).assert_stderr(&["write"]);
    // The device goes on: what fits is written and read back.
    let small = place.input(100_000).display().to_string();
    sim.run(&place, "pv-frontend", "copy", &["--input", &small])
        .assert_status(0);
    let said = serving.end();
    said.assert_status(0)
        .assert_stderr(&["disk.img", "File too large"]);
    sim.end();
    place.assert_nothing_left();
}

#[test]
fn a_host_that_vanishes_ends_its_agents_with_a_reason() {
    let place = Place::new();
    let mut sim = attached(&place);
    let image = image(&place, 1 << 20);
    let serving = sim.serve(&place, serve(&sim, &place, &image));
    sim.child.kill().unwrap();
    sim.child.wait().unwrap();
    let said = serving.ended();
    assert!(
        matches!(said.status, Some(1 | 2)),
        "{:?}: {}",
        said.status,
        said.stderr
    );
    said.assert_stderr(&["pv-backend: "]);
    // Its sockets are still there, and nobody behind them.
    let late = sim.run(&place, "pv-frontend", "info", &[]);
    late.assert_status(2)
        .assert_stderr(&["pv-stress sim --dir"]);
    // A new host takes the directory over.
    drop(sim);
    let sim = attached(&place);
    sim.end();
}

#[test]
fn garbage_on_the_hosts_socket_costs_only_who_sends_it() {
    let place = Place::new();
    let sim = attached(&place);
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..50 {
        let mut stream = UnixStream::connect(sim.dir.join("xen.sock")).unwrap();
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        let mut garbage: Vec<u8> = (0..rng.usize(8..3000)).map(|_| rng.u8(..)).collect();
        if round % 2 == 0 {
            // A frame of an honest length with nonsense in it.
            let len = u32::try_from(garbage.len() - 8).unwrap();
            garbage[..4].copy_from_slice(&len.to_le_bytes());
            garbage[4..8].fill(0);
        }
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    sim.run(&place, "pv-backend", "status", &[])
        .assert_status(0);
    sim.end();
    place.assert_nothing_left();
}

#[test]
fn a_malformed_xenstore_packet_costs_only_who_sends_it() {
    let place = Place::new();
    let sim = attached(&place);
    // Longer than a packet may be; a type that is none; a path without its end.
    let header = |kind: u32, len: u32| [kind, 1, 0, len].map(u32::to_le_bytes).concat();
    let packets = [
        header(2, 5000),
        [header(99, 3), b"abc".to_vec()].concat(),
        [header(2, 4), b"no 0".to_vec()].concat(),
        header(2, u32::MAX),
    ];
    for packet in packets {
        let mut stream = UnixStream::connect(sim.dir.join("xenstored.sock")).unwrap();
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        stream.write_all(&packet).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        // An error (type 16), or the end of the connection; never anything else.
        assert!(answer.is_empty() || answer[0] == 16, "{answer:?}");
    }
    sim.run(&place, "pv-backend", "status", &[])
        .assert_status(0);
    sim.end();
    place.assert_nothing_left();
}
