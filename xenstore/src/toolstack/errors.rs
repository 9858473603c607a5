//! Forgets the reasons of failures; [`errors`](crate::xenbus::errors) has how they are told.

use super::place::DevicePaths;
use crate::client::Client;
use crate::error::{Error, Result};
pub use crate::xenbus::errors::{clear_error, error_path, read_error, report_error};

/// Forgets what both ends of a device have reported. Where an end keeps writing, its report stays: no
/// reason for the toolstack's work to fail.
pub(super) fn forget_errors(client: &Client, paths: &DevicePaths) -> Result<()> {
    for path in [&paths.front, &paths.back] {
        match clear_error(client, path) {
            Err(error @ Error::Conflict { .. }) => {
                tracing::debug!(path, %error, "error node stays")
            }
            other => other?,
        }
    }
    Ok(())
}
