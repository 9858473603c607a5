//! A disk in memory.

use super::backing::DiskError;
use crate::machine::DiskOp;
use libgnt::{PAGE_SIZE, SharedPages};

/// Zeroed pages of our own.
#[derive(Debug)]
pub struct MemoryDisk {
    pages: SharedPages,
}

impl MemoryDisk {
    /// Takes address space; memory comes with the first touch of a page.
    pub(super) fn new(bytes: u64) -> Result<Self, DiskError> {
        let pages = usize::try_from(bytes.div_ceil(PAGE_SIZE as u64)).unwrap_or(usize::MAX);
        if pages > isize::MAX as usize / PAGE_SIZE {
            let source = libgnt::Error::Invalid("it is more than an address space holds".into());
            return Err(DiskError::Memory { bytes, source });
        }
        let pages =
            SharedPages::anonymous(pages).map_err(|source| DiskError::Memory { bytes, source })?;
        Ok(MemoryDisk { pages })
    }

    /// Copies one piece.
    ///
    /// # Panics
    /// If the piece is outside the disk: the machine has checked it.
    pub fn perform(&self, op: DiskOp, pages: &SharedPages, offset: usize, len: usize, at: u64) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        match op {
            DiskOp::Read => self.pages.copy_to(at, pages, offset, len),
            DiskOp::Write => pages.copy_to(offset, &self.pages, at, len),
            DiskOp::Flush => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let disk = MemoryDisk::new(16 * 512).expect("disk");
        let pages = SharedPages::anonymous(1).expect("memory");
        pages.write(512, b"sector");
        disk.perform(DiskOp::Write, &pages, 512, 512, 15 * 512);
        disk.perform(DiskOp::Read, &pages, 1024, 512, 15 * 512);
        let mut back = [0; 6];
        pages.read(1024, &mut back);
        assert_eq!(&back, b"sector");
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        let error = MemoryDisk::new(u64::MAX - 511)
            .expect_err("too much")
            .to_string();
        assert!(error.contains("ask for less"), "{error}");
    }
}
