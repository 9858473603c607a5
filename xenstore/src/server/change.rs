//! A change that watches may have to hear of.

use super::store::grant::Grant;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed.
    pub path: String,
    /// True: only a watch on exactly this path hears it. A removed subtree is one change for the
    /// watches above its top, and one exact change for each node in it.
    pub exact: bool,
    /// A caller hears of the change if one of these lets it read.
    pub readable_by: Vec<Arc<Grant>>,
}
