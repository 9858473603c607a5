//! What dom0 brings back: a compressed tar archive on a raw disk.

use super::error::{LabError, Result};
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Room for an archive; the file is sparse.
const DISK_BYTES: u64 = 512 << 20;

/// Makes an empty disk.
///
/// # Errors
/// What the file system says.
pub fn make_disk(path: &Path) -> Result<()> {
    let disk = File::create(path).map_err(LabError::file(path))?;
    disk.set_len(DISK_BYTES).map_err(LabError::file(path))
}

/// Unpacks what is on the disk. False: nothing is.
///
/// # Errors
/// If the archive is broken, or there is no room for it.
pub fn unpack(disk: &Path, to: &Path) -> Result<bool> {
    let mut file = File::open(disk).map_err(LabError::file(disk))?;
    let mut magic = [0; 2];
    io::Read::read_exact(&mut file, &mut magic).map_err(LabError::file(disk))?;
    if magic != [0x1f, 0x8b] {
        return Ok(false);
    }
    fs::create_dir_all(to).map_err(LabError::file(to))?;
    let file = File::open(disk).map_err(LabError::file(disk))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    archive.set_preserve_permissions(false);
    archive.unpack(to).map_err(LabError::file(to))?;
    Ok(true)
}

/// Puts what came back to its place in the report's directory: dom0's report itself, and everything
/// else below `machine`.
///
/// # Errors
/// What the file system says.
pub fn keep(results: &Path, report: &Path) -> Result<()> {
    for entry in fs::read_dir(results).map_err(LabError::file(results))? {
        let entry = entry.map_err(LabError::file(results))?;
        if entry.file_name() == "report" {
            copy_below(&entry.path(), report)?;
        } else if entry.file_name() != "status" {
            copy_below(
                &entry.path(),
                &report.join("machine").join(entry.file_name()),
            )?;
        }
    }
    Ok(())
}

fn copy_below(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(|_| ()).map_err(LabError::file(to));
    }
    fs::create_dir_all(to).map_err(LabError::file(to))?;
    for entry in fs::read_dir(from).map_err(LabError::file(from))? {
        let entry = entry.map_err(LabError::file(from))?;
        // The marker is the claimed directory's own.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            copy_below(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_archive_comes_back_and_an_empty_disk_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        make_disk(&disk).unwrap();
        assert!(!unpack(&disk, &dir.path().join("none")).unwrap());
        let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        tar.append_data(&mut header, "./report/a", &b"hello"[..])
            .unwrap();
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all(&bytes).unwrap();
        assert!(unpack(&disk, &dir.path().join("out")).unwrap());
        assert_eq!(fs::read(dir.path().join("out/report/a")).unwrap(), b"hello");
    }
}
