//! `pv-xenstored`: see the crate's library.

fn main() -> std::process::ExitCode {
    pv_xenstored::main_from(std::env::args_os())
}
