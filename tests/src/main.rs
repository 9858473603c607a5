//! The `pv-stress` program.
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a real Xen in QEMU, and run there
    Lab(pv_stress::lab::LabArgs),
}

fn main() -> std::process::ExitCode {
    let Command::Lab(args) = Cli::parse().command;
    match pv_stress::lab::run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pv-stress: {error}");
            std::process::ExitCode::from(2)
        }
    }
}
