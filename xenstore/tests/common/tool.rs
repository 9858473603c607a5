//! Xen's own command-line tools (Debian package xenstore-utils), for the tests of both crates.

use std::path::Path;
use std::process::{Command, Stdio};

/// A tool that uses the daemon behind this socket: its name and its arguments.
///
/// # Panics
/// It is not installed.
pub fn tool(socket: &Path, args: &[&str]) -> Command {
    let name = args[0];
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.exists());
    let path = found
        .unwrap_or_else(|| panic!("{name} is missing: install the Debian package xenstore-utils"));
    let mut command = Command::new(path);
    command
        .args(&args[1..])
        .env("XENSTORED_PATH", socket)
        .stdin(Stdio::null());
    command
}

/// What it prints.
///
/// # Panics
/// It does not succeed.
pub fn good(mut tool: Command) -> String {
    let output = tool.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool:?}: {} {errors}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}
