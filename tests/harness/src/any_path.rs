//! Paths in JSON, whatever their bytes are: text where a path is UTF-8, else a list of its bytes.
//!
//! serde's own form of a path fails where the path is not UTF-8. For a field:
//! `#[serde(with = "pv_harness::any_path")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Writes a path.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => to.serialize_str(text),
        None => path.as_os_str().as_bytes().serialize(to),
    }
}

/// Reads a path.
///
/// # Errors
/// What is there is neither a text nor a list of bytes.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelt {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }
    Ok(match Spelt::deserialize(from)? {
        Spelt::Text(path) => path,
        Spelt::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Place {
        #[serde(with = "crate::any_path")]
        path: PathBuf,
    }

    #[test]
    fn every_path_comes_back_as_it_was() {
        for bytes in [&b"/tmp/plain"[..], b"/tmp/\xff\xfe", b"", b"it's\n\"here\""] {
            let path = OsString::from_vec(bytes.to_vec()).into();
            let place = Place { path };
            let json = serde_json::to_string(&place).unwrap();
            assert_eq!(
                serde_json::from_str::<Place>(&json).unwrap(),
                place,
                "{json}"
            );
        }
        assert!(serde_json::from_str::<Place>(r#"{"path": 7}"#).is_err());
    }
}
