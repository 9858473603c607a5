//! `pv-backend`: see [`pv_backend::cli`].

fn main() -> std::process::ExitCode {
    pv_backend::cli::main_from(std::env::args_os())
}
