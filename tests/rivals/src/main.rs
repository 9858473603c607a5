//! `pv-rivals`: see the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    pv_rivals::cli::run(pv_rivals::cli::Args::parse())
}
