//! The `pv-stress` program.

fn main() -> std::process::ExitCode {
    pv_stress::cli::main()
}
