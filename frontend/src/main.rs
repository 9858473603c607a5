//! `pv-frontend`: see `pv_frontend::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pv_frontend::cli::main_from(std::env::args_os())
}
