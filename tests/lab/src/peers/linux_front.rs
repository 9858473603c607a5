//! Linux' own front end, with an ext4 file system, on our back end; which may be killed meanwhile.

use super::stage::device::Server;
use super::stage::{DIR, Linux, Side, Stage, Step};
use crate::build::ext4;
use pv_xenstore::toolstack::DeviceId;

/// xvda.
const DISK: DeviceId = DeviceId(51712);
const IMAGE: &str = "/peers/disk.img";
const IMAGE_BYTES: u64 = 64 << 20;
/// So many files there are, and each is written at least once.
const FILES: u32 = 24;
/// So many are written before the back end is killed, and after it serves again.
const SOME: u32 = 4;
/// A kill may come between two requests: after so many, one of them did not.
const KILLS_AT_MOST: u32 = 12;

/// Says why the writer ended, if a write failed.
const NO_WRITE_FAILED: &str = "[ ! -e /peers/failed ] || { cat /peers/failed; false; }";

/// Writes files until it is told to stop.
const WRITER: &str = include_str!("write-files.sh");

/// A file system's life on our back end, once for each way in which data travels (its `--mode`); it
/// is killed so many times while files are written, or more, until it was amid a request.
pub fn play(stage: &mut Stage<'_>, ways: &[&str], kills: u32) -> Step {
    stage.load_drivers(Linux::Takes, Linux::Leaves)?;
    ways.iter().try_for_each(|way| live(stage, way, kills))
}

fn live(stage: &mut Stage<'_>, way: &str, kills: u32) -> Step {
    let named = |what: &str| format!("{way}: {what}");
    stage.make_image(IMAGE, IMAGE_BYTES)?;
    let device = stage.attach(DISK, &[])?;
    let mut server = stage.serve(&device, IMAGE, way)?;
    connected(stage, way)?;
    let name = named("a device that Linux' front end has is not used by ours");
    let info = format!("pv-stress pv-frontend info --device {DISK}");
    stage.must_be_refused(Side::Front, &name, &info, "xen_blkfront")?;
    let make = format!("{} -q -t ext4 -F /dev/xvda", ext4::command("mke2fs"));
    stage.must(
        Side::Front,
        &named("mke2fs makes an ext4 file system"),
        &make,
    )?;
    let mount = "mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt";
    stage.must(Side::Front, &named("Linux mounts it"), mount)?;
    // A kill amid a request is what is looked for.
    let keep_full = if kills > 0 { "yes" } else { "no" };
    let start = format!(
        "rm -f {DIR}/written\n(keep_full={keep_full}\n{WRITER}) >{DIR}/writer.err 2>&1 </dev/null &"
    );
    stage.run(Side::Front, "starting the writer", &start)?;
    if kills > 0 {
        let ring = stage.front_nodes(&device)?;
        kill_all(stage, &mut server, way, kills)?;
        let now = stage.front_nodes(&device)?;
        let same = match now == ring {
            true => Ok(now),
            false => Err(format!("it was {ring}, and is {now}")),
        };
        stage.check(&named("Linux' front end has kept its ring"), same)?;
    }
    let name = named(&format!("{FILES} files and more are written"));
    written(stage, &name, FILES)?;
    // The writer stops between two files.
    let stop = format!("touch {DIR}/stop");
    stage.run(Side::Front, "stopping the writer", &stop)?;
    let stopped = format!("[ -e {DIR}/done ] || [ -e {DIR}/failed ]");
    stage.must_become(Side::Front, &named("the writer ends"), &stopped)?;
    stage.must(Side::Front, &named("no write failed"), NO_WRITE_FAILED)?;
    stage.must(
        Side::Front,
        &named("Linux unmounts it"),
        "sync; umount /mnt",
    )?;
    let fsck = format!("{} -f -n /dev/xvda", ext4::command("e2fsck"));
    let name = named("e2fsck finds no fault through the pair");
    stage.must(Side::Front, &name, &fsck)?;
    let sums = sums(stage)?;
    let name = named("every file is as it was written, read through the pair");
    same_files(stage, Side::Front, &name, "/dev/xvda", &sums)?;
    stage.detach(&device, Some(&server))?;
    on_the_image(stage, way, &sums)
}

/// Linux' front end offers the disk, and says how data travels.
fn connected(stage: &mut Stage<'_>, way: &str) -> Step {
    let name = format!("{way}: Linux' front end connects to our back end");
    stage.must_become(Side::Front, &name, "[ -b /dev/xvda ]")?;
    let last = "dmesg | grep 'blkfront: xvda' | tail -n 1";
    let said = stage.run(Side::Front, "reading the kernel's log", last)?;
    let wanted = match way {
        "persistent" => "persistent grants: enabled",
        _ => "persistent grants: disabled",
    };
    let found = match said.contains(wanted) {
        true => Ok(said.trim().to_owned()),
        false => Err(format!("its kernel says: {}", said.trim())),
    };
    stage.check(&format!("{way}: Linux' front end says so"), found)
}

/// Waits until so many files are written in all, and no write has failed.
fn written(stage: &mut Stage<'_>, name: &str, files: u32) -> Step {
    let count = format!("[ \"$(cat {DIR}/written 2>/dev/null || echo 0)\" -ge {files} ]");
    let condition = format!("[ -e {DIR}/failed ] || {count}");
    stage.must_become(Side::Front, name, &condition)?;
    stage.run(Side::Front, name, NO_WRITE_FAILED).map(drop)
}

fn written_so_far(stage: &mut Stage<'_>) -> Step<u32> {
    let count = format!("cat {DIR}/written 2>/dev/null || echo 0");
    let said = stage.run(Side::Front, "counting the files", &count)?;
    Ok(said.trim().parse().unwrap_or(0))
}

fn kill_all(stage: &mut Stage<'_>, server: &mut Server, way: &str, kills: u32) -> Step {
    let (mut kill, mut caught) = (0, Vec::new());
    while kill < kills || (caught.iter().sum::<u32>() == 0 && kill < KILLS_AT_MOST) {
        kill += 1;
        kill_while_writing(stage, server, &format!("{way}: kill {kill}"))?;
        caught.push(taken_over(stage)?);
    }
    let found = format!("{caught:?} requests");
    let found = match caught.iter().sum::<u32>() {
        0 => Err(found),
        _ => Ok(found),
    };
    let name = format!("{way}: the next back end carries out what the dead one had taken");
    stage.check(&name, found)
}

/// How many requests the last back end says that it has taken over.
fn taken_over(stage: &mut Stage<'_>) -> Step<u32> {
    let last = format!("grep 'took over a ring' {DIR}/back-end.err | tail -n 1");
    let said = stage.run(Side::Back, "reading the back end's log", &last)?;
    let number = said.rsplit("requests=").next().unwrap_or_default();
    Ok(number.trim().parse().unwrap_or(0))
}

fn kill_while_writing(stage: &mut Stage<'_>, server: &mut Server, which: &str) -> Step {
    let before = written_so_far(stage)? + SOME;
    written(
        stage,
        &format!("{which}: files are written before it"),
        before,
    )?;
    stage.kill(server)?;
    stage.must_become(
        Side::Front,
        &format!("{which}: requests are on the ring while no back end is there"),
        "awk '{ exit !($1 + $2) }' /sys/block/xvda/inflight",
    )?;
    let after = written_so_far(stage)? + SOME;
    stage.start(server)?;
    let goes_on = format!("{which}: the back end that is started again takes over");
    written(stage, &goes_on, after)
}

/// The SHA-256 sum and name of every file, as they must be.
fn sums(stage: &mut Stage<'_>) -> Step<String> {
    let sum = format!(
        "cd {DIR}/expected
        for file in *; do
            sum=$(sha256sum <../sources/$(cat $file) | cut -c 1-64)
            echo \"$sum  $file\"
        done"
    );
    stage.run(Side::Front, "computing sums", &sum)
}

/// Compares all files on a device that is mounted anew: what the kernel remembers is no proof.
fn same_files(stage: &mut Stage<'_>, side: Side, name: &str, device: &str, sums: &str) -> Step {
    let sums = sums.trim();
    let count = sums.lines().count();
    let compare = format!(
        "mkdir -p /mnt; mount -t ext4 -o ro {device} /mnt; cd /mnt
        sha256sum -c >{DIR}/sums.err 2>&1 <<END && same=0 || same=1\n{sums}\nEND
        cd /; umount /mnt
        grep -v ': OK$' {DIR}/sums.err || true
        [ $same = 0 ]; echo {count} files"
    );
    stage.must(side, name, &compare).map(drop)
}

/// What the back end has left on its image, without the pair.
fn on_the_image(stage: &mut Stage<'_>, way: &str, sums: &str) -> Step {
    let fsck = format!("{} -f -n {IMAGE}", ext4::command("e2fsck"));
    let name = format!("{way}: e2fsck finds no fault on the image");
    stage.must(Side::Back, &name, &fsck)?;
    let attach = format!("losetup /dev/loop0 {IMAGE}");
    stage.run(Side::Back, "making a loop device", &attach)?;
    let name = format!("{way}: every file is on the image");
    same_files(stage, Side::Back, &name, "/dev/loop0", sums)?;
    stage
        .run(
            Side::Back,
            "removing the loop device",
            "losetup -d /dev/loop0",
        )
        .map(drop)
}
