//! Where Xen is and is not: a made-up root directory stands in for the real one.

use crate::error::Error;
use crate::linux::LinuxPlatform;
use crate::platform::{GuestType, Platform};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use tempfile::TempDir;

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn open(root: &TempDir) -> Result<LinuxPlatform, Error> {
    LinuxPlatform::open_at(root.path().to_owned(), None)
}

#[track_caller]
fn not_available(error: Error, words: &[&str]) {
    assert!(matches!(error, Error::NotAvailable { .. }), "{error:?}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

#[test]
fn a_machine_without_xen_says_what_is_missing_and_what_to_do() {
    let words = [
        "Xen is not available",
        "/sys/hypervisor/type",
        "/dev/xen/gntdev",
        "sim:DIR",
    ];
    not_available(open(&root()).unwrap_err(), &words);
}

#[test]
fn another_hypervisor_is_named() {
    let root = root();
    put(&root, "sys/hypervisor/type", "kvm\n");
    not_available(open(&root).unwrap_err(), &["`kvm`", "not `xen`", "sim:DIR"]);
}

#[test]
fn xen_is_known_by_sysfs_or_by_a_node() {
    let by_sysfs = root();
    put(&by_sysfs, "sys/hypervisor/type", "xen\n");
    assert_eq!(open(&by_sysfs).unwrap().name(), "linux");
    let by_node = root();
    put(&by_node, "dev/xen/gntalloc", "");
    open(&by_node).unwrap();
}

#[test]
fn the_guest_type_is_the_kernel_s_word() {
    let root = root();
    put(&root, "sys/hypervisor/type", "xen\n");
    let platform = open(&root).unwrap();
    not_available(
        platform.guest_type().unwrap_err(),
        &["guest_type", "Linux 4.13"],
    );
    for (text, kind) in [
        ("PV\n", GuestType::Pv),
        ("PVH\n", GuestType::Pvh),
        ("HVM\n", GuestType::Hvm),
    ] {
        put(&root, "sys/hypervisor/guest_type", text);
        assert_eq!(platform.guest_type().unwrap(), kind);
    }
    // Never guessed: on PV a wrong guess damages the kernel.
    put(&root, "sys/hypervisor/guest_type", "Xen\n");
    not_available(platform.guest_type().unwrap_err(), &["`Xen`"]);
}

#[test]
fn a_missing_node_names_its_module() {
    let root = root();
    put(&root, "sys/hypervisor/type", "xen\n");
    let platform = open(&root).unwrap();
    let gntdev = platform.open_gntdev().unwrap_err();
    not_available(
        gntdev,
        &["/dev/xen/gntdev is", "modprobe xen-gntdev", "sim:DIR"],
    );
    let gntalloc = platform.open_gntalloc().unwrap_err();
    not_available(gntalloc, &["/dev/xen/gntalloc is", "modprobe xen-gntalloc"]);
    let evtchn = platform.open_evtchn().unwrap_err();
    not_available(evtchn, &["/dev/xen/evtchn is", "modprobe xen-evtchn"]);
}

#[test]
fn each_failure_to_open_has_its_own_cure() {
    let says = |errno, words: &[&str]| {
        not_available(
            crate::linux::device::open_error("/dev/xen/gntdev", "xen-gntdev", errno),
            words,
        );
    };
    says(
        Errno::ACCESS,
        &["/dev/xen/gntdev", "Permission denied", "root"],
    );
    says(Errno::PERM, &["root"]);
    says(Errno::NODEV, &["no driver answers", "modprobe xen-gntdev"]);
    says(Errno::MFILE, &["Too many open files"]);
}

#[test]
fn nodes_open_and_evtchn_never_blocks() {
    let root = root();
    for node in ["gntdev", "gntalloc"] {
        put(&root, &format!("dev/xen/{node}"), "");
    }
    // A FIFO, since a plain file never blocks: reading it must say "nothing now".
    let fifo = root.path().join("dev/xen/evtchn");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let platform = open(&root).unwrap();
    platform.open_gntdev().unwrap();
    platform.open_gntalloc().unwrap();
    let evtchn = platform.open_evtchn().unwrap();
    let flags = rustix::fs::fcntl_getfl(evtchn.as_fd()).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
    assert_eq!(evtchn.read(&mut Vec::new()).unwrap(), 0);
}

/// Serves one greeting to whoever connects.
fn listen(path: &Path) -> std::thread::JoinHandle<()> {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"xenstored").unwrap();
    })
}

fn greeting(fd: std::os::fd::OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn xenstore_is_the_node_else_the_daemon() {
    let root = root();
    put(&root, "sys/hypervisor/type", "xen\n");
    let platform = open(&root).unwrap();
    let words = [
        "xenstore is",
        "/dev/xen/xenbus",
        "/run/xenstored/socket",
        "XENSTORED_PATH",
    ];
    not_available(platform.open_xenstore().unwrap_err(), &words);

    let daemon = listen(&root.path().join("run/xenstored/socket"));
    assert_eq!(greeting(platform.open_xenstore().unwrap()), "xenstored");
    daemon.join().unwrap();
    // The socket is still there, but nobody listens.
    let refused = platform.open_xenstore().unwrap_err();
    not_available(
        refused,
        &["/run/xenstored/socket", "Connection refused", "running"],
    );

    put(&root, "dev/xen/xenbus", "the kernel");
    assert_eq!(greeting(platform.open_xenstore().unwrap()), "the kernel");
}

#[test]
fn xenstored_path_is_the_user_s_word() {
    let root = root();
    put(&root, "dev/xen/xenbus", "the kernel");
    let socket = root.path().join("mine");
    let named =
        |path: &Path| LinuxPlatform::open_at(root.path().to_owned(), Some(path.into())).unwrap();
    // Named and not there: said, not silently replaced by another store.
    let error = named(&socket).open_xenstore().unwrap_err();
    not_available(error, &["mine", "XENSTORED_PATH", "No such file"]);
    let daemon = listen(&socket);
    assert_eq!(
        greeting(named(&socket).open_xenstore().unwrap()),
        "xenstored"
    );
    daemon.join().unwrap();
}

#[test]
fn a_real_kernel_does_not_say_who_maps_our_grants() {
    let root = root();
    put(&root, "sys/hypervisor/type", "xen\n");
    assert_eq!(open(&root).unwrap().grants_in_use(&[]).unwrap(), None);
}
