//! Our front end on Linux' own back end, which serves a loop device: what goes through the pair is
//! what the kernel sees of that device.

use super::stage::{DIR, Linux, Side, Stage, Step};
use pv_xenstore::toolstack::{BlockDevice, DeviceId};

/// xvdb.
const DISK: DeviceId = DeviceId(51728);
const IMAGE: &str = "/peers/loop.img";
const IMAGE_BYTES: u64 = 32 << 20;
const LOOP: &str = "/dev/loop0";
/// What is carried: two files that every image has, the second larger than what can be granted at
/// once.
const SMALL: &str = "/bin/busybox";
const LARGE: &str = "/lab/bin/pv-stress";
/// `pv-frontend write` writes so much at once, and then looks for more.
const STEP_BYTES: u64 = 1 << 20;
/// What Linux maps of an idle front end without persistent grants: the ring.
const RING: usize = 1;

/// Both ways of carrying data, on one device.
pub fn play(stage: &mut Stage<'_>) -> Step {
    stage.load_drivers(Linux::Leaves, Linux::Takes)?;
    stage.make_image(IMAGE, IMAGE_BYTES)?;
    let make = format!("losetup {LOOP} {IMAGE}; cat /sys/block/loop0/dev");
    let numbers = stage.run(Side::Back, "making a loop device", &make)?;
    let physical = physical_device(&numbers).unwrap_or_default();
    // What the toolstack's hotplug script writes when the disk is there.
    let device = stage.attach(
        DISK,
        &[
            ("physical-device", physical.as_str()),
            ("physical-device-path", LOOP),
            ("hotplug-status", "connected"),
        ],
    )?;
    for persistent in [false, true] {
        info(stage, persistent)?;
        kernels_data_is_read(stage, persistent)?;
        written_data_is_the_kernels(stage, persistent)?;
        pages_between_requests(stage, &device, persistent)?;
    }
    // Both would map and answer.
    let serve = format!(
        "timeout {} pv-stress pv-backend serve --front {} --device {DISK} --memory 32M",
        stage.patience().as_secs() / 2,
        device.front_domid.0
    );
    let name = "a device that Linux' back end has is not served by ours";
    stage.must_be_refused(Side::Back, name, &serve, "xen_blkback")?;
    stage.detach(&device, None)?;
    stage
        .run(
            Side::Back,
            "removing the loop device",
            &format!("losetup -d {LOOP}"),
        )
        .map(drop)
}

/// In words, for the checks' names.
fn way(persistent: bool) -> &'static str {
    if persistent {
        "with persistent grants"
    } else {
        "without persistent grants"
    }
}

fn front(command: &str, persistent: bool) -> String {
    let option = if persistent { " --persistent" } else { "" };
    // A slow machine is not what is looked for: the usual patience with a close is below a second.
    format!("pv-stress pv-frontend {command} --device {DISK} --json --close 60{option}")
}

/// `MAJOR:MINOR` as xen-blkback wants it: in hexadecimal.
fn physical_device(numbers: &str) -> Option<String> {
    let (major, minor) = numbers.trim().split_once(':')?;
    let number = |text: &str| text.parse::<u32>().ok();
    Some(format!("{:x}:{:x}", number(major)?, number(minor)?))
}

/// Both ends agree on what the disk is, and on how data is carried.
fn info(stage: &mut Stage<'_>, persistent: bool) -> Step {
    let said = stage.run(
        Side::Front,
        "asking for the disk",
        &front("info", persistent),
    )?;
    let name = format!(
        "our front end connects to Linux' back end {}",
        way(persistent)
    );
    stage.check(&name, is_the_disk(&said, persistent))?;
    // The kernel's own words of this connection are its last ones.
    let last = "dmesg | grep 'xen-blkback: backend/vbd/.*: using' | tail -n 1";
    let said = stage.run(Side::Back, "reading the kernel's log", last)?;
    let name = format!("Linux' back end says that it is {}", way(persistent));
    let found = if said.contains("persistent grants") == persistent && !said.trim().is_empty() {
        Ok(said.trim().to_owned())
    } else {
        Err(format!("its kernel says: {}", said.trim()))
    };
    stage.check(&name, found)
}

fn is_the_disk(said: &str, persistent: bool) -> Result<String, String> {
    let info: serde_json::Value =
        serde_json::from_str(said.trim()).map_err(|error| format!("{error}: {said}"))?;
    let wrong = |what: &str| Err(format!("{what} is wrong in {}", said.trim()));
    if info["sectors"] != IMAGE_BYTES / 512 {
        return wrong("sectors");
    }
    if info["persistent"] != persistent {
        return wrong("persistent");
    }
    if info["flush"] != true {
        return wrong("flush");
    }
    Ok(said.trim().to_owned())
}

/// What the kernel has written comes through the pair.
fn kernels_data_is_read(stage: &mut Stage<'_>, persistent: bool) -> Step {
    // Another content each time: what was there before is no proof.
    let bytes = if persistent { 3 << 20 } else { 5 << 20 };
    let write = format!(
        "head -c {bytes} /dev/urandom >{DIR}/kernels
        dd if={DIR}/kernels of={LOOP} bs=64k conv=fsync 2>/dev/null
        sha256sum <{DIR}/kernels"
    );
    let wanted = stage.run(Side::Back, "writing to the loop device", &write)?;
    let read = format!(
        "{} --output {DIR}/read
        sha256sum <{DIR}/read",
        front(&format!("read --length {bytes}"), persistent)
    );
    let name = format!("what the kernel wrote is read {}", way(persistent));
    let found = stage.run(Side::Front, &name, &read)?;
    stage.check(&name, same(&wanted, &found))
}

/// What goes through the pair is what the kernel sees.
fn written_data_is_the_kernels(stage: &mut Stage<'_>, persistent: bool) -> Step {
    let file = LARGE;
    let offset = if persistent { 8 << 20 } else { 4 << 20 };
    let name = format!("a file goes through the pair and back {}", way(persistent));
    let copy = front(
        &format!("copy --input {file} --offset {offset}"),
        persistent,
    );
    stage.must(Side::Front, &name, &copy)?;
    let name = format!(
        "what was written is what the kernel sees {}",
        way(persistent)
    );
    seen_by_the_kernel(stage, &name, file, offset)
}

/// Compares a file of the front's domain, which the back's has too, with a part of the loop device.
fn seen_by_the_kernel(stage: &mut Stage<'_>, name: &str, file: &str, offset: u64) -> Step {
    let sum = format!("sha256sum <{file}");
    let wanted = stage.run(Side::Front, "computing a sum", &sum)?;
    let see = format!(
        "blockdev --flushbufs {LOOP}
        dd if={LOOP} bs=64k skip={} 2>/dev/null | head -c $(stat -c %s {file}) | sha256sum",
        offset >> 16
    );
    let found = stage.run(Side::Back, "reading the loop device", &see)?;
    stage.check(name, same(&wanted, &found))
}

fn same(wanted: &str, found: &str) -> Result<String, String> {
    let sum = |said: &str| {
        said.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let (wanted, found) = (sum(wanted), sum(found));
    if wanted.len() == 64 && wanted == found {
        Ok(wanted)
    } else {
        Err(format!("it must be {wanted:?} and is {found:?}"))
    }
}

/// Between two requests Linux keeps data pages mapped with persistent grants, and without them none.
fn pages_between_requests(stage: &mut Stage<'_>, device: &BlockDevice, persistent: bool) -> Step {
    let file = SMALL;
    let write = format!(
        "cd {DIR}; rm -f go; mkfifo go
        (head -c {STEP_BYTES} {file}; read go <go; tail -c +{} {file}) | {}",
        STEP_BYTES + 1,
        front("write", persistent)
    );
    // Of this connection.
    let statistics = format!(
        "/sys/bus/xen-backend/devices/vbd-{}-{}/statistics",
        device.front_domid.0, device.devid
    );
    let idle = format!(
        "[ \"$(cat {statistics}/wr_sect)\" = {} ] && awk '{{ exit $1 + $2 }}' /sys/block/loop0/inflight",
        STEP_BYTES / 512
    );
    let name = format!("a write that pauses ends well {}", way(persistent));
    stage.must_meanwhile(Side::Front, &name, &write, |stage| {
        let first = format!("its first part has arrived {}", way(persistent));
        stage.must_become(Side::Back, &first, &idle)?;
        if persistent {
            let mapped = stage.mapped()?.len();
            let found = format!("{} data pages", mapped.saturating_sub(RING));
            let found = if mapped > RING { Ok(found) } else { Err(found) };
            stage.check("persistent grants stay mapped between requests", found)?;
        } else {
            let mapped = stage.mapped_at_last(RING)?;
            let found = format!("{mapped} grants are mapped, and the ring is {RING}");
            let found = if mapped == RING {
                Ok(found)
            } else {
                Err(found)
            };
            let name = "without persistent grants only the ring is mapped between requests";
            stage.check(name, found)?;
        }
        let go = format!("echo go >{DIR}/go");
        stage.run(Side::Front, "going on", &go).map(drop)
    })?;
    let name = format!("all of it is what the kernel sees {}", way(persistent));
    seen_by_the_kernel(stage, &name, file, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_device_are_hexadecimal_for_linux() {
        assert_eq!(physical_device("7:0\n").as_deref(), Some("7:0"));
        assert_eq!(physical_device("259:16").as_deref(), Some("103:10"));
        assert_eq!(physical_device("loop0"), None);
    }

    #[test]
    fn another_sum_and_no_sum_are_no_match() {
        let sum = "a".repeat(64);
        assert!(same(&format!("{sum}  -"), &format!("{sum}\n")).is_ok());
        assert!(same(&sum, &"b".repeat(64)).is_err());
        assert!(same("", "").is_err());
    }

    #[test]
    fn another_disk_is_noticed() {
        let said = |sectors: u64, persistent: bool| {
            format!("{{\"sectors\": {sectors}, \"persistent\": {persistent}, \"flush\": true}}")
        };
        let sectors = IMAGE_BYTES / 512;
        assert!(is_the_disk(&said(sectors, true), true).is_ok());
        assert!(is_the_disk(&said(sectors, false), true).is_err());
        assert!(is_the_disk(&said(sectors + 1, true), true).is_err());
        assert!(is_the_disk("nothing", true).is_err());
    }
}
