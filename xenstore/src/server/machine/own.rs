//! What is set for single domains, and not for all.

use super::super::quota::Quotas;
use libgnt::DomId;
use std::collections::BTreeMap;

/// What was set for single domains.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) features: BTreeMap<DomId, u32>,
    pub(super) quotas: BTreeMap<DomId, Quotas>,
}

impl Own {
    /// A new domain of this number begins anew (XSA-483).
    pub(super) fn forget(&mut self, domid: DomId) {
        self.features.remove(&domid);
        self.quotas.remove(&domid);
    }
}
