//! Initramfs images: newc archives, built in memory without root. They are not compressed: an
//! emulated processor takes longer to inflate one than to find it in memory.

use crate::error::{LabError, Result};
use cpio::newc::{Builder, trailer};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction. Directories are made as files need them.
pub struct Image {
    out: Vec<u8>,
    made: BTreeSet<PathBuf>,
    inode: u32,
}

impl Default for Image {
    fn default() -> Self {
        Image {
            out: Vec::new(),
            made: BTreeSet::new(),
            inode: 1,
        }
    }
}

impl Image {
    /// An archive with the directories that an init mounts on, and a console to speak from before
    /// devtmpfs is mounted.
    ///
    /// # Errors
    /// Only out of memory.
    pub fn new() -> Result<Image> {
        let mut image = Image::default();
        for dir in ["bin", "dev", "proc", "sys", "tmp", "run", "lib64", "etc"] {
            image.directory(Path::new(dir))?;
        }
        let console = Builder::new("dev/console").rdev_major(5).rdev_minor(1);
        image.entry(
            Path::new("dev/console"),
            console.mode(CHARACTER_DEVICE),
            &[],
        )?;
        Ok(image)
    }

    fn entry(&mut self, path: &Path, builder: Builder, data: &[u8]) -> Result<()> {
        self.inode += 1;
        let failed = LabError::file(path);
        let write = || -> io::Result<()> {
            let size = u32::try_from(data.len()).map_err(io::Error::other)?;
            let mut writer = builder.ino(self.inode).nlink(1).write(&mut self.out, size);
            writer.write_all(data)?;
            writer.finish().map(|_| ())
        };
        write().map_err(failed)
    }

    /// A directory and all above it.
    ///
    /// # Errors
    /// Only out of memory.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(
            path,
            Builder::new(&path.to_string_lossy()).mode(DIRECTORY),
            &[],
        )
    }

    /// An executable file from memory. A path that is there already keeps its first content.
    ///
    /// # Errors
    /// Only out of memory.
    pub fn file(&mut self, path: &Path, data: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        self.entry(
            path,
            Builder::new(&path.to_string_lossy()).mode(EXECUTABLE),
            data,
        )
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// Only out of memory.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        let target = target.to_string_lossy();
        self.entry(
            path,
            Builder::new(&path.to_string_lossy()).mode(SYMLINK),
            target.as_bytes(),
        )
    }

    /// A file of the machine.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data = fs::read(from).map_err(LabError::file(from))?;
        self.file(to, &data)
    }

    /// Every executable, library and link below `from`, at the same place below `to`.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn copy_tree(
        &mut self,
        from: &Path,
        to: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(from)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(LabError::file(from))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, place) = (entry.path(), to.join(entry.file_name()));
            let kind = fs::symlink_metadata(&path).map_err(LabError::file(&path))?;
            if kind.is_dir() {
                self.copy_tree(&path, &place, wanted)?;
            } else if !wanted(&path) {
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(LabError::file(&path))?;
                self.link(&place, &target)?;
            } else if kind.permissions().mode() & 0o170_000 == 0o100_000 {
                self.copy(&path, &place)?;
            }
        }
        Ok(())
    }

    /// The finished archive.
    ///
    /// # Errors
    /// Only out of memory.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        trailer(&mut self.out).map_err(LabError::file(Path::new("initramfs")))?;
        Ok(self.out)
    }
}
