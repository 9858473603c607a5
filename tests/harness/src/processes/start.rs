//! What a process of a run is told when it starts.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// A start is no longer than this, spelt as JSON. (Linux takes an argument of up to 128 KiB:
/// `MAX_ARG_STRLEN`, `include/uapi/linux/binfmts.h`.)
const MAX_BYTES: usize = 64 << 10;

/// Who a process is, and what it is to do: the one argument of `pv-stress agent`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start<A> {
    /// The process's name in logs and timelines, unique in a run.
    pub name: String,
    /// The pid of whoever starts it; the process dies with it.
    pub parent: u32,
    /// Where it records.
    #[serde(with = "crate::any_path")]
    pub timeline: PathBuf,
    /// What it is to do. Who only passes it on takes it as a JSON value.
    pub assignment: A,
}

impl<A: Serialize> Start<A> {
    /// The arguments that start this program as the process.
    ///
    /// # Errors
    /// The assignment is too long, or cannot be spelt as JSON.
    pub fn args(&self) -> io::Result<Vec<OsString>> {
        let json = serde_json::to_string(self)?;
        if json.len() > MAX_BYTES {
            let bytes = json.len();
            return Err(io::Error::other(format!(
                "an assignment of {bytes} bytes, more than the {MAX_BYTES} that are passed on"
            )));
        }
        Ok(vec!["agent".into(), json.into()])
    }
}

impl<A: DeserializeOwned> Start<A> {
    /// What the arguments behind `pv-stress agent` say.
    ///
    /// # Errors
    /// They are not the one argument that [`Start::args`] makes.
    pub fn from_args(args: &[OsString]) -> io::Result<Start<A>> {
        let [json] = args else {
            return Err(io::Error::other(format!(
                "a run starts it with one argument, not with {}",
                args.len()
            )));
        };
        let start = serde_json::from_slice(json.as_encoded_bytes());
        start.map_err(|error| io::Error::other(format!("its argument is no assignment: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(assignment: String) -> Start<String> {
        Start {
            name: "back-end".into(),
            parent: 7,
            timeline: "/tmp/back-end.jsonl".into(),
            assignment,
        }
    }

    #[test]
    fn a_start_is_one_argument_and_comes_back() {
        let start = start("serve".into());
        let args = start.args().unwrap();
        assert_eq!((args.len(), args[0].as_os_str()), (2, "agent".as_ref()));
        assert_eq!(Start::from_args(&args[1..]).unwrap(), start);
    }

    #[test]
    fn other_arguments_are_refused_with_a_reason() {
        let refused = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            Start::<String>::from_args(&args).unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("not with 0"));
        assert!(refused(&["host", "--dir", "/tmp"]).contains("not with 3"));
        assert!(refused(&["{}"]).contains("no assignment"));
        let long = start("x".repeat(MAX_BYTES)).args().unwrap_err();
        assert!(long.to_string().contains("65536"), "{long}");
    }
}
