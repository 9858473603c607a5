//! The log of a program.

use super::failure::Failure;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Logs what the filter lets through on standard error, with colour on a terminal. The filter is a level,
/// or what [`EnvFilter`] takes. Where a log is set up already, that one is used.
///
/// # Errors
/// The filter is none: [`Failure::environment`].
pub fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Failure::environment(format!("--log {filter}: {e}; use a level like info")))?;
    // Somebody who embeds the program may have set up a log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_named() {
        let failure = start_log("pv=loud").unwrap_err();
        assert_eq!(failure.status, 2);
        assert!(failure.text.contains("--log pv=loud"), "{}", failure.text);
        assert_eq!(start_log("info"), Ok(()));
        assert_eq!(start_log("debug"), Ok(()), "a second log is no failure");
    }
}
