//! A network block device of the kernel's, attached to a socket of this process by the ioctls of
//! `include/uapi/linux/nbd.h`.
//!
//! Who attaches has to stay in `NBD_DO_IT`, which is what makes sure that nothing is left: it returns
//! when the socket's other end is closed, and when this process gets SIGKILL, and in both cases the
//! requests under way fail and let go of their pages. (A device attached by netlink keeps them: without
//! a time limit nobody ends a request that has lost its server, `nbd_xmit_timeout`,
//! `drivers/block/nbd.c`, 6.1.) The thread takes no signals; what stops the whole process (SIGSTOP) ends
//! the disk, too.
#![allow(unsafe_code, reason = "ioctls, and a thread without signals")]

use crate::holder::{HoldError, HoldName, call, last_errno};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KIND: HoldName = HoldName::Direct;

/// `_IO(0xab, n)`
const SET_SOCK: libc::Ioctl = 0xab00;
const SET_SIZE: libc::Ioctl = 0xab02;
const DO_IT: libc::Ioctl = 0xab03;
const CLEAR_SOCK: libc::Ioctl = 0xab04;
/// The kernel's own events are for this group (`lib/kobject_uevent.c`).
const KERNELS_EVENTS: u32 = 1;
/// Room beside the data in a socket that nobody reads yet: requests, and the kernel's books.
const BESIDE: usize = 64 << 10;
/// Each step of a device's life takes milliseconds, but on a busy machine that emulates its processor more
/// than 10 seconds were seen for the start.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Where the kernel lists block devices.
const SYS_BLOCK: &str = "/sys/block";

fn not_here(cause: String, cure: &str) -> HoldError {
    HoldError::NotHere {
        kind: KIND,
        cause,
        cure: cure.into(),
    }
}

fn broken(what: impl Into<String>) -> HoldError {
    HoldError::Broken {
        kind: KIND,
        what: what.into(),
    }
}

/// The numbers of the devices that there are; at least one.
///
/// # Errors
/// [`HoldError::NotHere`]
pub(super) fn devices() -> Result<Vec<u32>, HoldError> {
    devices_in(Path::new(SYS_BLOCK))
}

fn devices_in(list: &Path) -> Result<Vec<u32>, HoldError> {
    let number = |name: &str| name.strip_prefix("nbd")?.parse().ok();
    let entries = std::fs::read_dir(list).into_iter().flatten().flatten();
    let mut found: Vec<u32> = entries
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .collect();
    found.sort_unstable();
    if found.is_empty() {
        return Err(not_here(
            "needs a network block device, and this kernel has none".into(),
            "load its module: modprobe nbd",
        ));
    }
    Ok(found)
}

/// There while a device is attached.
fn pid_file(number: u32) -> PathBuf {
    Path::new(SYS_BLOCK).join(format!("nbd{number}/pid"))
}

/// A device of so many bytes, open for O_DIRECT, and the server's end of its socket. It is there for as
/// long as both are.
///
/// # Errors
/// [`HoldError::NotHere`]: no device is free; [`HoldError::Call`].
pub(super) fn attach(len: usize) -> Result<(Arc<OwnedFd>, UnixStream), HoldError> {
    let (server, client) = pair(len)?;
    let (number, disk) = claim(&client)?;
    // The device has a reference of its own.
    drop(client);
    let disk = Arc::new(disk);
    ioctl(&disk, SET_SIZE, len as libc::c_ulong).map_err(call(KIND, "NBD_SET_SIZE"))?;
    let events = events()?;
    let kept = Arc::clone(&disk);
    let keeper = std::thread::Builder::new()
        .name(format!("nbd{number}"))
        .spawn(move || keep(&kept))
        .map_err(|error| broken(format!("a thread for the device: {error}")))?;
    await_start(number, len, &disk, &events, &server, keeper)?;
    Ok((disk, server))
}

/// A socket that takes a whole write though nobody reads yet: io_submit must not wait for the consumer.
fn pair(len: usize) -> Result<(UnixStream, UnixStream), HoldError> {
    let failed = |error| broken(format!("a socket for the disk: {error}"));
    let (server, client) = UnixStream::pair().map_err(failed)?;
    let room = 2 * len + BESIDE;
    set_socket_send_buffer_size_force(&client, room)
        .or_else(|_| set_socket_send_buffer_size(&client, room))
        .map_err(call(KIND, "SO_SNDBUF"))?;
    Ok((server, client))
}

/// The first device that takes the socket.
fn claim(socket: &UnixStream) -> Result<(u32, OwnedFd), HoldError> {
    let devices = devices()?;
    let mut refusal = None;
    for number in &devices {
        // Not even opened: that alone makes a used device's server do something.
        if pid_file(*number).exists() {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let path = format!("/dev/nbd{number}");
        let disk = open(&path, flags, Mode::empty()).map_err(call(KIND, "open of /dev/nbd"))?;
        let socket = socket.as_raw_fd() as libc::c_ulong;
        match ioctl(&disk, SET_SOCK, socket) {
            Ok(()) => return Ok((*number, disk)),
            // Somebody else was faster.
            Err(errno @ (Errno::BUSY | Errno::INVAL)) => refusal = Some(errno),
            Err(errno) => return Err(call(KIND, "NBD_SET_SOCK")(errno)),
        }
    }
    let said = refusal.map_or_else(String::new, |errno| format!(" ({errno})"));
    Err(not_here(
        format!(
            "finds none of {} network block devices free{said}",
            devices.len()
        ),
        "end who uses them, or load the module with more: modprobe nbd nbds_max=64",
    ))
}

/// The kernel's events about its devices.
fn events() -> Result<OwnedFd, HoldError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(KOBJECT_UEVENT),
    )
    .map_err(call(KIND, "socket"))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNELS_EVENTS)).map_err(call(KIND, "bind"))?;
    Ok(socket)
}

/// Serves the device until its socket is closed, then fails what is under way.
fn keep(disk: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: changes this thread's own signal mask; the set is a value that sigfillset makes.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
    let kept = ioctl(disk, DO_IT, 0);
    let cleared = ioctl(disk, CLEAR_SOCK, 0);
    tracing::debug!(?kept, ?cleared, "a network block device has ended");
    kept
}

/// Waits until the device has its size, which is the last step of its start. Any event is a reason to
/// look again.
fn await_start(
    number: u32,
    len: usize,
    disk: &OwnedFd,
    events: &OwnedFd,
    server: &UnixStream,
    keeper: JoinHandle<Result<(), Errno>>,
) -> Result<(), HoldError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let size = seek(disk, SeekFrom::End(0)).map_err(call(KIND, "lseek"))?;
        if size == len as u64 && pid_file(number).exists() {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(broken(format!(
                "/dev/nbd{number} has {size} bytes after {PATIENCE:?}, not {len}"
            )));
        }
        let left = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [
            PollFd::new(events, PollFlags::IN),
            PollFd::new(server, PollFlags::RDHUP),
        ];
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(call(KIND, "poll")(errno)),
        }
        if !fds[1].revents().is_empty() {
            return Err(match keeper.join() {
                Ok(Err(errno)) => call(KIND, "NBD_DO_IT")(errno),
                _ => broken(format!("/dev/nbd{number} ended before it began")),
            });
        }
        // What they say is not needed. Those that did not fit (ENOBUFS) are no loss.
        let mut event = [0; 2048];
        while matches!(
            recv(events, &mut event[..], RecvFlags::empty()),
            Ok(_) | Err(Errno::NOBUFS)
        ) {}
    }
}

fn ioctl(disk: &OwnedFd, request: libc::Ioctl, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: none of the requests above takes an address.
    match unsafe { libc::ioctl(disk.as_raw_fd(), request, argument) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_kernel_without_the_module_is_told_with_the_command() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nbd")).unwrap();
        std::fs::create_dir(dir.path().join("vda")).unwrap();
        for list in [dir.path().to_owned(), dir.path().join("not there")] {
            let error = devices_in(&list).unwrap_err().to_string();
            assert!(error.contains("--hold direct needs"), "{error}");
            assert!(error.ends_with("modprobe nbd"), "{error}");
        }
        for name in ["nbd10", "nbd2"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(devices_in(dir.path()).unwrap(), [2, 10]);
    }

    #[test]
    fn a_write_fits_into_the_socket_before_anybody_reads() {
        for len in [4096, 1 << 20] {
            let (_server, mut client) = pair(len).unwrap();
            client.set_nonblocking(true).unwrap();
            client.write_all(&[0; 28]).unwrap();
            // As the kernel sends it: a page at a time.
            for _ in 0..len / 4096 {
                client.write_all(&[0; 4096]).unwrap();
            }
        }
    }

    #[test]
    fn the_kernels_events_can_be_listened_to() {
        events().unwrap();
    }
}
