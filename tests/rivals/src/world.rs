//! What a daemon finds instead of a Xen: a directory with ring pages, FIFOs for events and a list of
//! domains, and the library that answers the daemon's calls out of it (`world.c`).

use crate::error::{Result, RivalError};
use libgnt::{Access, SharedPages};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, SealFlags, mknodat};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tempfile::TempDir;

/// Domains that there are in Xen, beside dom0, when a history begins.
pub const DOMAINS: [u16; 5] = [1, 2, 3, 4, 5];

/// The library, as the build script compiled it.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/world.so"));
/// `PORT_OF_DOMAIN` of the library.
const PORT_OF_DOMAIN: u32 = 100;
/// `PORT_OF_VIRQ` of the library.
const PORT_OF_VIRQ: u32 = 1;

/// What Xen says of a domain: the library's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// There is none.
    None = 0,
    /// It runs.
    Running = 1,
    /// It has shut down and is still there.
    ShutDown = 2,
    /// It is being taken down.
    Dying = 3,
}

/// One domain's end: its ring page, and the bell that the daemon rings.
#[derive(Debug)]
pub struct Corner {
    /// Shared with the daemon.
    pub ring: SharedPages,
    bell: File,
}

/// The directory, which goes with this value.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    lives: SharedPages,
    corners: BTreeMap<u16, Corner>,
    events: File,
    ready: File,
    /// Open for as long as the daemon may look for them by their numbers.
    _memory: Vec<File>,
}

impl World {
    /// A world with dom0 and these domains.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(domains: &[u16]) -> Result<World> {
        let dir = tempfile::Builder::new()
            .prefix("rival-")
            .tempdir()
            .map_err(RivalError::file(&std::env::temp_dir()))?;
        let root = dir.path();
        for name in ["run", "log"] {
            let path = root.join(name);
            fs::create_dir(&path).map_err(RivalError::file(&path))?;
        }
        for (name, content) in [("world.so", LIBRARY), ("port-0", b"1")] {
            let path = root.join(name);
            fs::write(&path, content).map_err(RivalError::file(&path))?;
        }
        let mut memory = Vec::new();
        let lives = page(root, "domains", &mut memory)?;
        let mut corners = BTreeMap::new();
        for &domid in [0].iter().chain(domains) {
            let corner = Corner {
                ring: page(root, &format!("ring-{domid}"), &mut memory)?,
                bell: fifo(&root.join(format!("bell-{domid}")))?,
            };
            corners.insert(domid, corner);
        }
        let world = World {
            events: fifo(&root.join("events"))?,
            ready: fifo(&root.join("ready"))?,
            dir,
            lives,
            corners,
            _memory: memory,
        };
        for &domid in [0].iter().chain(domains) {
            world.set_life(domid, Life::Running);
        }
        Ok(world)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The library to preload.
    pub fn library(&self) -> PathBuf {
        self.path().join("world.so")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/socket")
    }

    /// Becomes readable when the daemon listens.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// A domain's end.
    pub fn corner(&self, domid: u16) -> Option<&Corner> {
        self.corners.get(&domid)
    }

    /// What Xen says of a domain from now on. The daemon is not told.
    pub fn set_life(&self, domid: u16, life: Life) {
        self.lives
            .store_u8(usize::from(domid), life as u8, Ordering::Release);
    }

    /// VIRQ_DOM_EXC: some domain has changed.
    ///
    /// # Errors
    /// What the FIFO says.
    pub fn tell_of_domains(&self) -> Result<()> {
        self.event(PORT_OF_VIRQ)
    }

    /// A domain rings the daemon.
    ///
    /// # Errors
    /// What the FIFO says.
    pub fn ring(&self, domid: u16) -> Result<()> {
        self.event(PORT_OF_DOMAIN + u32::from(domid))
    }

    fn event(&self, port: u32) -> Result<()> {
        (&self.events)
            .write_all(&port.to_ne_bytes())
            .map_err(RivalError::file(&self.path().join("events")))
    }
}

impl Corner {
    /// Becomes readable when the daemon rings.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Forgets all ringing so far.
    ///
    /// # Errors
    /// What the FIFO says.
    pub fn hush(&self) -> std::io::Result<()> {
        let mut rings = [0; 256];
        loop {
            match (&self.bell).read(&mut rings) {
                Ok(n) if n == rings.len() => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A page under a name. It is a memfd that cannot be shortened, and the name leads to it for as long
/// as this process keeps it open.
fn page(dir: &Path, name: &str, memory: &mut Vec<File>) -> Result<SharedPages> {
    let path = dir.join(name);
    let failed = |error: std::io::Error| RivalError::file(&path)(error);
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|error| failed(error.into()))?;
    let file = File::from(memfd);
    file.set_len(4096).map_err(failed)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).map_err(|error| failed(error.into()))?;
    let pages = SharedPages::of_memfd(&file, 1, Access::ReadWrite)?;
    let target = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    symlink(target, &path).map_err(failed)?;
    memory.push(file);
    Ok(pages)
}

/// A FIFO, open at both ends, so that neither ever sees the other gone.
fn fifo(path: &Path) -> Result<File> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|error| RivalError::file(path)(error.into()))?;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(RivalError::file(path))
}
