//! Digests of files.

use crate::holder::spell_digest;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// SHA-256 of so many bytes of a file, from an offset.
///
/// # Errors
/// What `read` says; `UnexpectedEof` if there are not so many.
pub fn digest(file: &Path, offset: u64, bytes: u64) -> io::Result<String> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut hash = Sha256::new();
    let mut left = bytes;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let want = usize::try_from(left)
            .unwrap_or(buffer.len())
            .min(buffer.len());
        file.read_exact(&mut buffer[..want])?;
        hash.update(&buffer[..want]);
        left -= want as u64;
    }
    Ok(spell_digest(hash.finalize().as_slice()))
}
