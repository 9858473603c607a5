//! What the disk is given to do, piece by piece.

use libgnt::SharedPages;
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

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
