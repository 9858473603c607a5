//! The kernel's build tools on a machine of another release than the kernel's: its C library may be
//! too old for them, and its gcc for the kernel's configuration.

use crate::error::{LabError, Result};
use crate::fetch::tree::find;
use crate::process::cannot_run;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Tools below `linux-kbuild-*` that follow their release's C library closely. Debian's own
/// programs of the names before `.real` choose between them.
const TOOLS: [&str; 3] = [
    "tools/objtool/objtool.real-x86",
    "scripts/mod/modpost.real-lsb-64",
    "tools/bpf/resolve_btfids/resolve_btfids",
];

/// Makes the tools in this tree run here: with the C library of their own release, which is in the
/// tree, where this machine's will not do.
///
/// # Errors
/// A full disk; the tree has no C library.
pub fn make_tools_run(tree: &Path) -> Result<()> {
    let below = tree.join("usr/lib");
    let entries = fs::read_dir(&below).map_err(LabError::file(&below))?;
    let tools: Vec<PathBuf> = entries
        .flatten()
        .flat_map(|entry| TOOLS.map(|tool| entry.path().join(tool)))
        .filter(|tool| tool.exists() && lacks_libraries(tool))
        .collect();
    if tools.is_empty() {
        return Ok(());
    }
    let loader = find(tree, "the loader", &|path| {
        path.ends_with("ld-linux-x86-64.so.2")
    })?;
    let places: Vec<String> = ["usr/lib", "lib"]
        .map(|lib| tree.join(lib).join("x86_64-linux-gnu"))
        .iter()
        .filter(|place| place.exists())
        .map(|place| place.display().to_string())
        .collect();
    for tool in tools {
        let moved = moved_to(&tool);
        fs::rename(&tool, &moved).map_err(LabError::file(&tool))?;
        let script = format!(
            "#!/bin/sh\nexec '{}' --library-path '{}' '{}' \"$@\"\n",
            loader.display(),
            places.join(":"),
            moved.display()
        );
        write_program(&tool, &script)?;
    }
    Ok(())
}

/// Where the program is when a script has taken its place.
fn moved_to(tool: &Path) -> PathBuf {
    let mut name = tool.as_os_str().to_owned();
    name.push(".elf");
    name.into()
}

/// Does the loader refuse to start it?
fn lacks_libraries(program: &Path) -> bool {
    let said = Command::new(program)
        .arg("--help")
        .stdin(Stdio::null())
        .output();
    said.is_ok_and(|output| {
        let words = String::from_utf8_lossy(&output.stderr);
        words.contains("not found (required by") || words.contains("loading shared libraries")
    })
}

/// The compiler: gcc, or a script in `dir` that gives gcc before 14 the nearest thing to an option
/// that it does not know and Linux since 6.10 asks a newer one for.
///
/// # Errors
/// gcc is not installed; a full disk.
pub fn compiler(dir: &Path) -> Result<String> {
    let probe = Command::new("gcc")
        .args(["-fmin-function-alignment=16", "-E", "-x", "c", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| cannot_run("gcc", "apt-get install make gcc", error))?;
    if probe.success() {
        return Ok("gcc".into());
    }
    let path = dir.join("cc");
    write_program(
        &path,
        "#!/bin/sh\n\
         for word; do\n\
         \tshift\n\
         \tcase $word in -fmin-function-alignment=*) word=-falign-functions=${word#*=} ;; esac\n\
         \tset -- \"$@\" \"$word\"\n\
         done\n\
         exec gcc \"$@\"\n",
    )?;
    Ok(path.display().to_string())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
    };
    write().map_err(LabError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_the_loader_refuses_is_told_from_one_that_runs() {
        assert!(!lacks_libraries(Path::new("/bin/sh")));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        write_program(
            &path,
            "#!/bin/sh\necho \"x: version 'GLIBC_9' not found (required by x)\" >&2\nexit 1\n",
        )
        .unwrap();
        assert!(lacks_libraries(&path));
    }

    #[test]
    fn the_compiler_takes_the_newer_option() {
        let dir = tempfile::tempdir().unwrap();
        let compiler = compiler(dir.path()).unwrap();
        let source = dir.path().join("it is.c");
        fs::write(&source, "int f(void) { return 0; }\n").unwrap();
        let built = Command::new(compiler)
            .args(["-fmin-function-alignment=16", "-c", "-o"])
            .arg(dir.path().join("o"))
            .arg(&source)
            .status()
            .unwrap();
        assert!(built.success());
    }
}
