//! What the sectors are kept on: a file, a block device, or memory.
//!
//! Files are read and written by a few threads, straight from and to the front's pages, off the
//! event loop ([`pool`]). Memory is served on the loop: a copy is shorter than a thread switch.

mod memory;
pub mod pool;

use libgnt::SharedPages;
use libgnt::proto::blkif::SECTOR_SIZE;
use rustix::fs::{FileType, FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use memory::MemoryDisk;

/// Where the sectors are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A regular file or a block device.
    File(PathBuf),
    /// Zeroed memory of this process, gone with it: for measurements and tests.
    Memory {
        /// Its size.
        bytes: u64,
    },
}

impl std::fmt::Display for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Backing::File(path) => write!(f, "image {}", path.display()),
            Backing::Memory { bytes } => write!(f, "{bytes} bytes of memory"),
        }
    }
}

/// A part of a request: bytes that are next to each other in memory and on the disk.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The pages. Held as long as the disk uses them, and no longer.
    pub pages: Arc<SharedPages>,
    /// Byte in them.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// Byte on the disk.
    pub at: u64,
}

impl Piece {
    /// Appends a piece, or lengthens the last one if the new one continues it on both sides.
    pub fn append(self, to: &mut Vec<Piece>) {
        if let Some(last) = to.last_mut()
            && Arc::ptr_eq(&last.pages, &self.pages)
            && last.offset + last.len == self.offset
            && last.at + last.len as u64 == self.at
        {
            last.len += self.len;
        } else {
            to.push(self);
        }
    }
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    backing: Backing,
    sectors: u64,
    physical_sector_size: u32,
    read_only: bool,
    store: Store,
}

/// How its sectors are reached.
#[derive(Clone, Debug)]
pub enum Store {
    /// Through [`pool::Pool`].
    File(Arc<File>),
    /// At once.
    Memory(Arc<MemoryDisk>),
}

/// Why a disk cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// open said no.
    #[error("cannot open image {} {}: {cause}; {cure}", .path.display(), if *.read_only { "for reading" } else { "for writing" })]
    Open {
        /// The image.
        path: PathBuf,
        /// How it was to be opened.
        read_only: bool,
        /// What the kernel said.
        cause: Errno,
        /// What to do.
        cure: &'static str,
    },
    /// A directory, a socket, a terminal…
    #[error("image {} is {what}; name a regular file or a block device", .path.display())]
    WrongKind {
        /// The image.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The protocol counts sectors of 512 bytes.
    #[error(
        "{backing} has {bytes} bytes, which is no positive multiple of {SECTOR_SIZE}; \
         extend it with `truncate --size=%{SECTOR_SIZE}`, or give another"
    )]
    Size {
        /// What.
        backing: Backing,
        /// Its size.
        bytes: u64,
    },
    /// Somebody has locked it.
    #[error(
        "image {} is in use by another back end (it is locked); stop that one, or use another image",
        .path.display()
    )]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// A system call on the open image failed.
    #[error("{operation} on image {}: {cause}", .path.display())]
    System {
        /// The image.
        path: PathBuf,
        /// Which call.
        operation: &'static str,
        /// What the kernel said.
        cause: Errno,
    },
    /// No memory for a memory disk.
    #[error("cannot get {bytes} bytes of memory for the disk: {source}; ask for less")]
    Memory {
        /// How much.
        bytes: u64,
        /// Why.
        source: libgnt::Error,
    },
}

impl Disk {
    /// Opens and locks it: exclusively for writing, shared for reading. The lock goes with the
    /// process.
    ///
    /// # Errors
    /// [`DiskError`] names the image, the cause and the cure.
    pub fn open(backing: &Backing, read_only: bool) -> Result<Self, DiskError> {
        let (bytes, physical_sector_size, store) = match backing {
            Backing::File(path) => open_file(path, read_only)?,
            Backing::Memory { bytes } => {
                check_size(backing, *bytes)?;
                let memory = MemoryDisk::new(*bytes)?;
                (*bytes, SECTOR_SIZE as u32, Store::Memory(Arc::new(memory)))
            }
        };
        check_size(backing, bytes)?;
        Ok(Disk {
            backing: backing.clone(),
            sectors: bytes / SECTOR_SIZE as u64,
            physical_sector_size,
            read_only,
            store,
        })
    }

    /// Sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What the device below writes at once, in bytes: a hint to the front.
    pub fn physical_sector_size(&self) -> u32 {
        self.physical_sector_size
    }

    /// Opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// For messages.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// How to reach the sectors.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

fn check_size(backing: &Backing, bytes: u64) -> Result<(), DiskError> {
    if bytes > 0 && bytes.is_multiple_of(SECTOR_SIZE as u64) {
        return Ok(());
    }
    Err(DiskError::Size {
        backing: backing.clone(),
        bytes,
    })
}

fn open_file(path: &Path, read_only: bool) -> Result<(u64, u32, Store), DiskError> {
    // Looked at first: opening a FIFO would wait, and a tape would rewind.
    let stat = rustix::fs::stat(path).map_err(|cause| open_error(path, read_only, cause))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let block_device = match kind {
        FileType::RegularFile => false,
        FileType::BlockDevice => true,
        other => {
            return Err(DiskError::WrongKind {
                path: path.into(),
                what: kind_name(other),
            });
        }
    };
    // On a block device O_EXCL refuses one that is mounted.
    let exclusive = if block_device && !read_only {
        OFlags::EXCL
    } else {
        OFlags::empty()
    };
    let flags = i32::try_from(exclusive.bits()).unwrap_or(0);
    let file = File::options()
        .read(true)
        .write(!read_only)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| {
            open_error(
                path,
                read_only,
                Errno::from_io_error(&e).unwrap_or(Errno::IO),
            )
        })?;
    let system = |operation, cause| DiskError::System {
        path: path.into(),
        operation,
        cause,
    };
    let how = match read_only {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(&file, how) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(DiskError::InUse { path: path.into() }),
        // Some network file systems have no locks; the device's own claim still guards it.
        Err(Errno::OPNOTSUPP | Errno::NOLCK) => {
            tracing::warn!(image = %path.display(), "the file system has no locks");
        }
        Err(cause) => return Err(system("flock", cause)),
    }
    let bytes = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| system("lseek", e))?;
    let physical = match block_device {
        true => rustix::fs::ioctl_blkpbszget(&file).map_err(|e| system("BLKPBSZGET", e))?,
        false => SECTOR_SIZE as u32,
    };
    Ok((bytes, physical, Store::File(Arc::new(file))))
}

fn open_error(path: &Path, read_only: bool, cause: Errno) -> DiskError {
    let cure = match cause {
        Errno::NOENT => "create it (`truncate --size=1G FILE`), or correct the path",
        Errno::ACCESS | Errno::PERM | Errno::ROFS if !read_only => {
            "serve it for reading only, or change its permissions"
        }
        Errno::ACCESS | Errno::PERM => "change its permissions, or run as its owner",
        Errno::BUSY => {
            "it is mounted or used by something else; unmount it, or serve it for reading only"
        }
        _ => "look at the path and its file system",
    };
    DiskError::Open {
        path: path.into(),
        read_only,
        cause,
        cure,
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "no file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(bytes).expect("size");
        file
    }

    fn open(path: &Path, read_only: bool) -> Result<Disk, DiskError> {
        Disk::open(&Backing::File(path.into()), read_only)
    }

    #[test]
    fn only_whole_sectors_are_a_disk() {
        for (bytes, good) in [
            (0, false),
            (511, false),
            (512, true),
            (513, false),
            (8192, true),
        ] {
            let image = file(bytes);
            let from_file = open(image.path(), false);
            let from_memory = Disk::open(&Backing::Memory { bytes }, false);
            assert_eq!(
                (from_file.is_ok(), from_memory.is_ok()),
                (good, good),
                "{bytes}"
            );
            for disk in [from_file, from_memory] {
                match disk {
                    Ok(disk) => assert_eq!(disk.sectors(), bytes / 512),
                    Err(error) => assert!(error.to_string().contains(&bytes.to_string())),
                }
            }
        }
    }

    #[test]
    fn an_image_has_one_writer_and_then_no_reader() {
        let image = file(512);
        let writer = open(image.path(), false).expect("first");
        for read_only in [false, true] {
            let second = open(image.path(), read_only);
            assert!(matches!(second, Err(DiskError::InUse { .. })), "{second:?}");
        }
        drop(writer);
        let (_a, _b) = (
            open(image.path(), true).expect("a"),
            open(image.path(), true).expect("b"),
        );
        assert!(matches!(
            open(image.path(), false),
            Err(DiskError::InUse { .. })
        ));
    }

    #[test]
    fn what_is_no_image_is_named_with_a_cure() {
        let dir = tempfile::tempdir().expect("dir");
        let missing = open(&dir.path().join("none"), false)
            .expect_err("missing")
            .to_string();
        assert!(
            missing.contains("none") && missing.contains("truncate"),
            "{missing}"
        );
        let directory = open(dir.path(), true).expect_err("directory").to_string();
        assert!(directory.contains("a directory"), "{directory}");
        let device = open(Path::new("/dev/null"), false)
            .expect_err("device")
            .to_string();
        assert!(device.contains("character device"), "{device}");
    }

    #[test]
    fn pieces_that_continue_each_other_become_one() {
        let pages = Arc::new(SharedPages::anonymous(3).expect("memory"));
        let piece = |offset, len, at| Piece {
            pages: Arc::clone(&pages),
            offset,
            len,
            at,
        };
        let mut all = Vec::new();
        piece(0, 4096, 512).append(&mut all);
        piece(4096, 4096, 4608).append(&mut all);
        piece(8192 + 512, 512, 8704).append(&mut all);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].len, all[1].len), (8192, 512));
    }
}
