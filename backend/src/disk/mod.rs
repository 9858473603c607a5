//! What the sectors are kept on: a file, a block device, or memory.
//!
//! Files are read and written by a few threads, straight from and to the front's pages, off the
//! event loop ([`pool`]). Memory is served on the loop: a copy is shorter than a thread switch.

mod backing;

mod memory;

mod piece;

pub mod pool;

use libgnt::proto::blkif::SECTOR_SIZE;
use rustix::fs::{FileType, FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

pub use backing::{Backing, DiskError};
pub use memory::MemoryDisk;
pub use piece::Piece;

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
}
