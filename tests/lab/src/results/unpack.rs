//! What dom0 brings back on a raw disk: a compressed tar archive for each suite, and one for the
//! machine, each at its place.

use crate::error::{LabError, Result};
use crate::image::disk::PLACE_BYTES;
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Unpacks what is at a place of the disk. False: nothing is.
///
/// # Errors
/// If the archive is broken, or there is no room for it.
pub fn unpack(disk: &Path, place: u64, to: &Path) -> Result<bool> {
    let mut file = File::open(disk).map_err(LabError::file(disk))?;
    let mut magic = [0; 2];
    let begin = SeekFrom::Start(place * PLACE_BYTES);
    let read = file.seek(begin).and_then(|_| file.read_exact(&mut magic));
    read.map_err(LabError::file(disk))?;
    if magic != [0x1f, 0x8b] {
        return Ok(false);
    }
    fs::create_dir_all(to).map_err(LabError::file(to))?;
    file.seek(begin).map_err(LabError::file(disk))?;
    let file = file.take(PLACE_BYTES);
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    archive.set_preserve_permissions(false);
    archive.unpack(to).map_err(LabError::file(to))?;
    Ok(true)
}

/// Puts what came back to its place in the report's directory: dom0's report itself, and everything
/// else below `machine` and this name.
///
/// # Errors
/// What the file system says.
pub fn keep(results: &Path, report: &Path, name: &str) -> Result<()> {
    let machine = report.join("machine").join(name);
    for entry in fs::read_dir(results).map_err(LabError::file(results))? {
        let entry = entry.map_err(LabError::file(results))?;
        if entry.file_name() == "report" {
            copy_below(&entry.path(), report)?;
        } else {
            fs::create_dir_all(&machine).map_err(LabError::file(&machine))?;
            copy_below(&entry.path(), &machine.join(entry.file_name()))?;
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
    use crate::image::disk::{MACHINE, make};
    use std::io::Write;

    #[test]
    fn an_archive_comes_back_and_an_empty_disk_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        make(&disk, 1).unwrap();
        assert!(!unpack(&disk, 1, &dir.path().join("none")).unwrap());
        let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        tar.append_data(&mut header, "./report/a", &b"hello"[..])
            .unwrap();
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.seek(SeekFrom::Start(PLACE_BYTES)).unwrap();
        file.write_all(&bytes).unwrap();
        assert!(!unpack(&disk, MACHINE, &dir.path().join("none")).unwrap());
        let out = dir.path().join("out");
        assert!(unpack(&disk, 1, &out).unwrap());
        fs::write(out.join("x.log"), "").unwrap();
        let report = dir.path().join("report");
        keep(&out, &report, "suite").unwrap();
        assert_eq!(fs::read(report.join("a")).unwrap(), b"hello");
        assert!(report.join("machine/suite/x.log").exists());
        assert!(unpack(&disk, 2, &out).is_err(), "beyond its end");
    }
}
