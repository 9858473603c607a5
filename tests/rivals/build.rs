//! Compiles the library that stands for Xen. It is linked with nothing: the C library is the
//! daemon's own, of whatever version.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/world.c");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("world.so");
    let compiler = cc::Build::new().get_compiler();
    let status = Command::new(compiler.path())
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC"])
        .args(["-fno-stack-protector", "-U_FORTIFY_SOURCE"])
        .args(["-shared", "-nostdlib", "-o"])
        .arg(&out)
        .arg("src/world.c")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{}: {status}; see its messages", compiler.path().display()),
        Err(error) => panic!(
            "{}: {error}; install the Debian package gcc",
            compiler.path().display()
        ),
    }
}
