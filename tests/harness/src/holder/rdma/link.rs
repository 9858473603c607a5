//! A link of rxe, the RDMA device made of software, that ends with the processes that use it.
//!
//! The link is over `lo` of a network namespace of its own, and whoever has the link has a netlink
//! socket in that namespace. When the last copy of the socket closes, by whatever end of its
//! process, the kernel takes the namespace down, its `lo` with it (`cleanup_net`,
//! `net/core/net_namespace.c`), and with that the link (`NETDEV_UNREGISTER` in `rxe_notify`,
//! `drivers/infiniband/sw/rxe/rxe_net.c`). So there is nothing to remove, after a SIGKILL either,
//! and the machine's own interfaces, addresses and links are left alone.
//!
//! The kernel waits for contexts that are open when a link goes (`ib_uverbs_remove_one`), so each
//! process that has a context keeps a copy of the socket.
#![allow(unsafe_code, reason = "unshare")]

use super::netlink as messages;
use crate::holder::{HoldError, HoldName, call};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
    socket_with,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How the names of our links begin.
const PREFIX: &str = "pvstress";
const LINKS: &str = "/sys/class/infiniband";
const INTERFACE: &str = "lo";
/// `LOOPBACK_IFINDEX`, `include/net/net_namespace.h`: of `lo` in any namespace.
const INDEX: i32 = 1;
const MODULE: &str = "/sys/module/rdma_rxe";
const UVERBS: &str = "/sys/class/infiniband_verbs";

/// Links of ours that are still there after a while, though their processes have ended. The kernel takes
/// a namespace down in the background.
pub fn links_left(patience: Duration) -> Vec<String> {
    left_in(Path::new(LINKS), patience)
}

fn left_in(dir: &Path, patience: Duration) -> Vec<String> {
    // sysfs has no event for a directory that goes.
    const STEP: Duration = Duration::from_millis(10);
    let until = Instant::now() + patience;
    loop {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{PREFIX}-"))
        };
        let left: Vec<PathBuf> = paths.filter(ours).collect();
        if left.is_empty() || Instant::now() >= until {
            return left.iter().map(|path| path.display().to_string()).collect();
        }
        std::thread::sleep(STEP);
    }
}

/// A link of this process, as long as a copy of its socket is open.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    name: String,
    device: PathBuf,
}

impl Link {
    /// Makes one. Loads no module.
    ///
    /// # Errors
    /// [`HoldError::NotHere`] without rdma_rxe or ib_uverbs; what unshare and the kernel's answer
    /// say.
    pub fn create(kind: HoldName) -> Result<Link, HoldError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for (module, path) in [("rdma_rxe", MODULE), ("ib_uverbs", UVERBS)] {
            if !Path::new(path).exists() {
                return Err(lacks(kind, module));
            }
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let socket = socket_elsewhere(kind)?;
        let answer = ask(&socket, &messages::new_link(&name, INTERFACE));
        answer.map_err(call(kind, "RDMA_NLDEV_CMD_NEWLINK"))?;
        let device = device_of(&name).ok_or_else(|| lacks(kind, "ib_uverbs"))?;
        Ok(Link {
            socket,
            name,
            device,
        })
    }

    /// The place of an address in the link's table of them, where it is for RoCE v2, over UDP: the
    /// table has what its interface had when the link was made (`gid_table_setup_one`).
    pub fn index_of(&self, address: [u8; 16]) -> Option<u8> {
        let port = Path::new(LINKS).join(&self.name).join("ports/1");
        let groups = address
            .chunks(2)
            .map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]));
        let spelled = groups.collect::<Vec<_>>().join(":");
        let is = |path: String, text: &str| {
            fs::read_to_string(port.join(path)).is_ok_and(|read| read.trim() == text)
        };
        (0..=u8::MAX).find(|index| {
            is(format!("gids/{index}"), &spelled)
                && is(format!("gid_attrs/types/{index}"), "RoCE v2")
        })
    }

    /// What to open.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// What keeps it, for another process.
    ///
    /// # Errors
    /// EMFILE.
    pub fn share(&self, kind: HoldName) -> Result<OwnedFd, HoldError> {
        rustix::io::fcntl_dupfd_cloexec(&self.socket, 0).map_err(call(kind, "F_DUPFD_CLOEXEC"))
    }
}

fn lacks(kind: HoldName, module: &str) -> HoldError {
    HoldError::NotHere {
        kind,
        cause: format!("needs the kernel module {module}, which is not loaded"),
        cure: "run `modprobe -a rdma_rxe ib_uverbs`; a cloud kernel has neither".into(),
    }
}

/// A netlink socket in a new network namespace. Only the thread that makes it is ever in there.
fn socket_elsewhere(kind: HoldName) -> Result<OwnedFd, HoldError> {
    let make = move || {
        // SAFETY: the flag leaves descriptors alone; the namespace is this thread's only.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(call(kind, "unshare"))?;
        // So that it has an address when the link is made.
        let route = netlink_socket(None).map_err(call(kind, "socket"))?;
        ask(&route, &messages::up(INDEX)).map_err(call(kind, "RTM_NEWLINK"))?;
        netlink_socket(Some(netlink::RDMA)).map_err(call(kind, "socket"))
    };
    let thread = std::thread::Builder::new().name("namespace".into());
    let failed = |what: String| HoldError::Broken { kind, what };
    let thread = thread
        .spawn(make)
        .map_err(|error| failed(format!("starting a thread: {error}")))?;
    let ended = thread.join();
    ended.map_err(|_| failed("the thread of the namespace panicked".into()))?
}

/// Of the protocol, or of `NETLINK_ROUTE`, whose number is 0.
fn netlink_socket(protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
}

/// The kernel has answered when the send returns.
fn ask(socket: &OwnedFd, question: &[u8]) -> Result<(), Errno> {
    send(socket, question, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (len, _) = recv(socket, &mut answer, RecvFlags::DONTWAIT)?;
    messages::acknowledged(&answer[..len])
}

/// The character device of a link.
fn device_of(link: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(UVERBS).ok()?;
    let named = |entry: &fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("ibdev"));
        name.is_ok_and(|name| name.trim_end() == link)
    };
    let entry = entries.flatten().find(named)?;
    Some(Path::new("/dev/infiniband").join(entry.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where rxe is, the link is there, and gone when the socket is; elsewhere the refusal says
    /// what helps.
    #[test]
    fn a_link_ends_with_its_socket_or_is_refused_with_the_cure() {
        let link = match Link::create(HoldName::RdmaOdp) {
            Ok(link) => link,
            Err(HoldError::Call {
                call: "unshare", ..
            }) => return,
            Err(error) => {
                let text = error.to_string();
                for part in ["--hold rdma-odp", "rdma_rxe", "modprobe"] {
                    assert!(text.contains(part), "{part}: {text}");
                }
                return;
            }
        };
        assert!(link.device().exists(), "{link:?}");
    }

    #[test]
    fn a_link_that_stays_is_named_and_one_that_goes_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir(path.join("rxe0")).unwrap();
        assert!(left_in(path, Duration::ZERO).is_empty(), "somebody else's");
        let ours = path.join("pvstress-7-0");
        fs::create_dir(&ours).unwrap();
        let left = left_in(path, Duration::from_millis(20));
        assert_eq!(left, [ours.display().to_string()]);
        let goes = std::thread::spawn(move || fs::remove_dir(ours).unwrap());
        assert!(left_in(path, Duration::from_secs(60)).is_empty());
        goes.join().unwrap();
        assert!(left_in(Path::new("/nowhere"), Duration::ZERO).is_empty());
    }

    #[test]
    fn a_question_to_no_kernel_is_an_error() {
        let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert_eq!(ask(&file, &[]), Err(Errno::NOTSOCK));
        assert_eq!(device_of("there is none of that name"), None);
    }
}
