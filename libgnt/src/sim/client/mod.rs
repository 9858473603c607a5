//! TBD
use crate::error::Result;
use crate::platform::{Platform, not_available};
use crate::types::DomId;
use std::path::Path;
use std::sync::Arc;

/// Joins the simulated Xen whose host serves `dir`.
///
/// # Errors
/// No host there.
pub fn join(dir: &Path, _domid: Option<DomId>, _process: &str) -> Result<Arc<dyn Platform>> {
    Err(not_available(
        "the simulated Xen",
        format!("no host serves {}", dir.display()),
        "start one",
    ))
}
