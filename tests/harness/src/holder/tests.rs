//! The kernel's holders, on ordinary pages.
//!
//! The observable is the kernel's own count: a memfd takes the seal `F_SEAL_WRITE` only if nobody
//! but the page cache refers to its pages (`memfd_wait_for_pins`, `mm/memfd.c`), and says EBUSY
//! while a pin, a pipe, a registered buffer or a mapping does. So each test unmaps the pages first,
//! as a back end does, and then sees that they are still held.

use super::*;
use libgnt::platform::GuestType;
use libgnt::{Access, Platform};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

const PAGES: usize = 3;

/// The granter's pages: a memfd, which can be written from elsewhere while they are held.
pub(super) struct Granter {
    file: File,
}

impl Granter {
    pub fn new() -> Granter {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("granted", flags).unwrap());
        file.set_len((PAGES * PAGE_SIZE) as u64).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        Granter { file }
    }

    pub fn map(&self) -> SharedPages {
        SharedPages::of_memfd(&self.file, PAGES, Access::ReadWrite).unwrap()
    }

    /// Fills all pages; returns the digest of `count` of them.
    pub fn fill(&self, byte: u8, count: usize) -> String {
        self.file
            .write_all_at(&vec![byte; PAGES * PAGE_SIZE], 0)
            .unwrap();
        sha256(&vec![byte; count * PAGE_SIZE])
    }

    /// The digest of what some pages hold.
    pub fn sum(&self, first: usize, count: usize) -> String {
        let mut bytes = vec![0; count * PAGE_SIZE];
        let at = (first * PAGE_SIZE) as u64;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        sha256(&bytes)
    }

    pub fn is_referenced(&self) -> bool {
        match fcntl_add_seals(&self.file, SealFlags::WRITE) {
            Ok(()) => false,
            Err(Errno::BUSY) => true,
            Err(errno) => panic!("F_ADD_SEALS: {errno}"),
        }
    }

    /// A socket's or ring's last references go with a kernel worker, moments after the close.
    pub fn assert_let_go(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.is_referenced() {
            assert!(Instant::now() < until, "still referenced");
        }
    }
}

/// Where the machine does not offer it (a container without the capability, an old kernel), there
/// is nothing to test, and the error must say why.
fn hold(holder: &dyn Holder, pages: &SharedPages, first: usize, count: usize) -> Option<Export> {
    match holder.hold(pages, first, count) {
        Ok(export) => Some(export),
        Err(HoldError::Call {
            errno: Errno::PERM | Errno::AFNOSUPPORT | Errno::NOSYS | Errno::OPNOTSUPP,
            kind,
            ..
        }) => {
            eprintln!("--hold {kind} is not offered by this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Holds, unmaps, sees the hold; looks, changes the page, looks again; releases, sees it gone.
/// Where the machine lacks what a holder needs there is nothing to test, and the error must name it.
fn made(name: HoldName) -> Option<Box<dyn Holder>> {
    match kernel_holder(name) {
        Ok(holder) => Some(holder),
        Err(error @ HoldError::NotHere { .. }) => {
            assert!(error.to_string().contains("modprobe"), "{error}");
            eprintln!("{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub(super) fn whole_life(name: HoldName) {
    let granter = Granter::new();
    let first_sum = granter.fill(0x11, 2);
    let mapping = granter.map();
    let holder = kernel_holder(name).unwrap();
    let Some(export) = hold(&*holder, &mapping, 1, 2) else {
        return;
    };
    let words = export.words.clone();
    let mut held = holder.import(export).unwrap();
    holder.taken(&words);
    mapping.unmap().unwrap();
    assert!(
        granter.is_referenced(),
        "{name}: unmapped, and nobody holds it"
    );
    assert_eq!(held.checksum().unwrap(), Some(first_sum));
    let second_sum = granter.fill(0x22, 2);
    assert_eq!(
        held.checksum().unwrap(),
        Some(second_sum),
        "{name}: not the live page"
    );
    assert!(granter.is_referenced(), "{name}: looking let go");
    held.release().unwrap();
    granter.assert_let_go();
}

/// A real kernel of one guest type, or of one that it does not tell, as far as a holder asks.
#[derive(Debug)]
struct Guest(Option<GuestType>);

impl Platform for Guest {
    fn name(&self) -> String {
        "linux".into()
    }
    fn run_dir(&self) -> std::path::PathBuf {
        "/nowhere".into()
    }
    fn guest_type(&self) -> libgnt::Result<GuestType> {
        let untold = || libgnt::Error::Invalid("there is no sysfs here".into());
        self.0.ok_or_else(untold)
    }
    fn open_gntdev(&self) -> libgnt::Result<Box<dyn libgnt::platform::Gntdev>> {
        Err(libgnt::Error::Invalid("not here".into()))
    }
    fn open_gntalloc(&self) -> libgnt::Result<Box<dyn libgnt::platform::Gntalloc>> {
        Err(libgnt::Error::Invalid("not here".into()))
    }
    fn open_evtchn(&self) -> libgnt::Result<Box<dyn libgnt::platform::Evtchn>> {
        Err(libgnt::Error::Invalid("not here".into()))
    }
    fn open_xenstore(&self) -> libgnt::Result<OwnedFd> {
        Err(libgnt::Error::Invalid("not here".into()))
    }
    fn grants_in_use(
        &self,
        _: &[libgnt::GrantRef],
    ) -> libgnt::Result<Option<Vec<libgnt::GrantRef>>> {
        Ok(None)
    }
}

#[test]
fn a_pv_guest_is_not_damaged_unless_somebody_insists() {
    let on = |guest| Arc::new(Guest(Some(guest))) as Arc<dyn Platform>;
    for name in [
        HoldName::Pipe,
        HoldName::Uring,
        HoldName::Direct,
        HoldName::Xdp,
        HoldName::Rdma,
        HoldName::RdmaOdp,
        HoldName::RdmaOdpWrite,
    ] {
        let Err(error) = holder(name, &on(GuestType::Pv), false) else {
            panic!("{name}")
        };
        let text = error.to_string();
        assert!(
            text.contains("--allow-kernel-damage") && text.contains("PVH"),
            "{text}"
        );
        if made(name).is_some() {
            assert!(holder(name, &on(GuestType::Pv), true).is_ok());
            assert!(holder(name, &on(GuestType::Pvh), false).is_ok());
            assert!(holder(name, &on(GuestType::Hvm), false).is_ok());
        }
    }
    // Whatever somebody insists on.
    let Err(error) = holder(HoldName::Fork, &on(GuestType::Pv), true) else {
        panic!("a fork")
    };
    assert!(
        error.to_string().contains("no page-table entries"),
        "{error}"
    );
    assert!(holder(HoldName::Fork, &on(GuestType::Pvh), false).is_ok());
    for name in [HoldName::Pin, HoldName::I915] {
        let Err(error) = holder(name, &on(GuestType::Pvh), true) else {
            panic!("{name}")
        };
        assert!(error.to_string().contains("simulated"), "{error}");
    }
}

/// The simulated kernel is a kernel, too; and where it defers nothing there is nothing to fear.
#[test]
fn a_simulated_pv_guest_is_not_damaged_unless_somebody_insists() {
    use libgnt::sim::core::Config;
    use libgnt::sim::wire::UnmapMode;
    for (unmap, damages) in [(UnmapMode::Async, true), (UnmapMode::Sync, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.guest, config.unmap) = (GuestType::Pv, unmap);
        let timeline = crate::timeline::Timeline::none();
        let host = crate::host::start(dir.path(), config, None, timeline).unwrap();
        let platform = libgnt::sim::client::join(dir.path(), None, "test").unwrap();
        for name in [HoldName::Pin, HoldName::I915] {
            let refused = holder(name, &platform, false).err();
            assert_eq!(refused.is_some(), damages, "{name}, {unmap:?}");
            let text = refused.map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(text.contains("--allow-kernel-damage"), damages, "{text}");
            assert!(holder(name, &platform, true).is_ok(), "{name}, {unmap:?}");
        }
        drop(platform);
        host.stop().unwrap();
    }
}

/// In a container, say. Who insists has answered already.
#[test]
fn a_kernel_that_does_not_tell_its_guest_type_is_not_risked_unless_somebody_insists() {
    let silent = Arc::new(Guest(None)) as Arc<dyn Platform>;
    let Err(error) = holder(HoldName::Pipe, &silent, false) else {
        panic!("risked")
    };
    let text = error.to_string();
    for part in ["--hold pipe", "no sysfs here", "--allow-kernel-damage"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    holder(HoldName::Pipe, &silent, true)
        .map(drop)
        .expect("insisted");
}

#[test]
fn nobody_holds_what_nobody_holds() {
    let granter = Granter::new();
    let mapping = granter.map();
    assert!(granter.is_referenced(), "mapped");
    mapping.unmap().unwrap();
    // A child that another test forked has a copy of every mapping of this process.
    granter.assert_let_go();
}

#[test]
fn a_pipe_holds_the_live_pages() {
    whole_life(HoldName::Pipe);
}

#[test]
fn a_forked_child_holds_the_live_pages() {
    whole_life(HoldName::Fork);
}

#[test]
fn a_registered_buffer_holds_the_live_pages() {
    whole_life(HoldName::Uring);
}

#[test]
fn a_packet_memory_holds_the_pages() {
    let granter = Granter::new();
    let mapping = granter.map();
    let holder = kernel_holder(HoldName::Xdp).unwrap();
    let Some(export) = hold(&*holder, &mapping, 0, PAGES) else {
        return;
    };
    let mut held = holder.import(export).unwrap();
    mapping.unmap().unwrap();
    assert!(granter.is_referenced());
    assert_eq!(held.checksum().unwrap(), None);
    held.release().unwrap();
    granter.assert_let_go();
}

/// Pages of which the first two are on their way to a disk that does not answer, unmapped.
fn in_flight(granter: &Granter) -> Option<(Box<dyn Holder>, Export)> {
    let holder = made(HoldName::Direct)?;
    let mapping = granter.map();
    let export = holder.hold(&mapping, 0, 2).unwrap();
    mapping.unmap().unwrap();
    assert!(granter.is_referenced(), "unmapped, and nobody holds it");
    Some((holder, export))
}

/// Where the machine has rxe, the whole life; elsewhere a refusal that says what helps.
#[test]
fn an_rdma_region_holds_the_pages_or_says_what_it_needs() {
    for name in [
        HoldName::Rdma,
        HoldName::RdmaOdp,
        HoldName::RdmaOdpWrite,
        HoldName::RdmaOdpTouched,
        HoldName::RdmaOdpAligned,
    ] {
        let granter = Granter::new();
        let sum = granter.fill(0x44, PAGES);
        let mapping = granter.map();
        let holder = kernel_holder(name).unwrap();
        let tried = holder.try_out();
        let export = match holder.hold(&mapping, 0, PAGES) {
            Ok(export) => {
                tried.unwrap();
                export
            }
            Err(error) => {
                let text = error.to_string();
                assert_eq!(tried.unwrap_err().to_string(), text);
                assert!(text.contains(&format!("--hold {name}")), "{text}");
                let helps = ["modprobe", "root is needed", "newer than 6.12"];
                assert!(helps.iter().any(|help| text.contains(help)), "{text}");
                continue;
            }
        };
        let mut held = holder.import(export).unwrap();
        mapping.unmap().unwrap();
        assert!(granter.is_referenced(), "{name}");
        let seen = held.checksum().unwrap();
        assert_eq!(seen.unwrap_or_else(|| sum.clone()), sum, "{name}");
        held.release().unwrap();
        granter.assert_let_go();
    }
}

/// What names an RDMA holder's parts comes from another process.
#[test]
fn words_that_are_no_handles_are_refused() {
    let fd = || OwnedFd::from(File::open("/dev/null").unwrap());
    let holder = kernel_holder(HoldName::RdmaOdp).unwrap();
    let fds = vec![fd(), fd(), fd()];
    let export = Export::new(HoldName::RdmaOdp, 1, vec![1 << 40, 1, 0x1000], fds);
    let Err(error) = holder.import(export) else {
        panic!("imported")
    };
    assert!(error.to_string().contains("no handle"), "{error}");
    // What is a device in name only fails at its release, and lets go all the same.
    let fds = vec![fd(), fd(), fd()];
    let export = Export::new(HoldName::RdmaOdp, 1, vec![1, 1, 0x1000], fds);
    let held = holder.import(export).unwrap();
    let error = held.release().unwrap_err().to_string();
    assert!(error.contains("ADVISE_MR"), "{error}");
}

#[test]
fn direct_io_holds_the_pages_until_its_disk_answers() {
    let granter = Granter::new();
    let sum = granter.fill(0x33, 2);
    let Some((holder, export)) = in_flight(&granter) else {
        return;
    };
    let mut held = holder.import(export).unwrap();
    assert_eq!(held.checksum().unwrap(), Some(sum.clone()));
    granter.fill(0x44, 2);
    assert_eq!(
        held.checksum().unwrap(),
        Some(sum),
        "the disk has what it was sent"
    );
    assert!(granter.is_referenced(), "looking let go");
    held.release().unwrap();
    granter.assert_let_go();
}

#[test]
fn direct_io_fails_and_lets_go_when_its_disk_is_lost() {
    for taken in [true, false] {
        let granter = Granter::new();
        let Some((holder, export)) = in_flight(&granter) else {
            return;
        };
        if taken {
            drop(holder.import(export).unwrap());
        } else {
            drop(export);
        }
        granter.assert_let_go();
    }
}

/// More than there are devices, one after the other: each is free again.
#[test]
fn network_block_devices_come_back() {
    for _ in 0..40 {
        let granter = Granter::new();
        let Some((holder, export)) = in_flight(&granter) else {
            return;
        };
        holder.import(export).unwrap().release().unwrap();
        granter.assert_let_go();
    }
}

#[test]
fn an_export_that_nobody_takes_lets_go_when_it_is_dropped() {
    for name in [HoldName::Pipe, HoldName::Fork, HoldName::Uring] {
        let granter = Granter::new();
        let mapping = granter.map();
        let holder = kernel_holder(name).unwrap();
        let Some(export) = hold(&*holder, &mapping, 0, 1) else {
            continue;
        };
        mapping.unmap().unwrap();
        assert!(granter.is_referenced(), "{name}");
        holder.abandon(&export.words).unwrap();
        drop(export);
        granter.assert_let_go();
    }
}

#[test]
fn ranges_outside_and_exports_of_other_kinds_are_refused() {
    let granter = Granter::new();
    let mapping = granter.map();
    for name in [
        HoldName::Pipe,
        HoldName::Fork,
        HoldName::Uring,
        HoldName::Direct,
        HoldName::Xdp,
        HoldName::Rdma,
        HoldName::RdmaOdp,
        HoldName::RdmaOdpWrite,
        HoldName::RdmaOdpTouched,
        HoldName::RdmaOdpAligned,
    ] {
        let Some(holder) = made(name) else {
            continue;
        };
        for (first, count) in [(0, 0), (0, PAGES + 1), (PAGES, 1), (usize::MAX, 2)] {
            let error = holder.hold(&mapping, first, count).unwrap_err();
            assert!(matches!(error, HoldError::Broken { .. }), "{error}");
        }
        let empty = Export::new(name, 1, vec![], vec![]);
        assert!(
            matches!(holder.import(empty), Err(HoldError::Broken { .. })),
            "{name}"
        );
    }
    // A ring's offsets come from another process.
    let holder = kernel_holder(HoldName::Uring).unwrap();
    if let Some(mut export) = hold(&*holder, &mapping, 0, 1) {
        export.words[1] = 1 << 40;
        assert!(matches!(
            holder.import(export),
            Err(HoldError::Broken { .. })
        ));
    }
}

#[test]
fn read_only_pages_say_why_they_cannot_be_registered() {
    let granter = Granter::new();
    let mapping = SharedPages::of_memfd(&granter.file, 1, Access::ReadOnly).unwrap();
    let holder = kernel_holder(HoldName::Uring).unwrap();
    let error = holder.hold(&mapping, 0, 1).unwrap_err().to_string();
    assert!(
        error.contains("writable pages only") || error.contains("disabled"),
        "{error}"
    );
    // A pipe only reads.
    hold(&*kernel_holder(HoldName::Pipe).unwrap(), &mapping, 0, 1).unwrap();
}
