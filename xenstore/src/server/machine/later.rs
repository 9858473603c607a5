//! What Xen 4.22 adds, from its documentation (`docs/misc/xenstore.txt`): no daemon to compare with is
//! packaged. Only [`Daemon::C422`] has it.

use super::super::daemon::Daemon;
use super::super::quota::{QuotaSetting, Quotas};
use super::Server;
use super::arguments::{Answer, domain_number, nul_terminated, number, ok, terminated};
use crate::perms::Caller;
use crate::wire::Packet;
use libgnt::DomId;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// `XS_GET_FEATURE` and the three that follow.
const GET_FEATURE: u32 = 23;
const SET_FEATURE: u32 = 24;
const GET_QUOTA: u32 = 25;
const SET_QUOTA: u32 = 26;
/// `XENSTORE_SERVER_FEATURE_WATCHDEPTH`. The others are about the ring page, which is not here.
const FEATURE_WATCH_DEPTH: u32 = 4;

/// What was set for single domains.
#[derive(Debug, Default)]
pub(super) struct Later {
    features: BTreeMap<DomId, u32>,
    quotas: BTreeMap<DomId, Quotas>,
}

impl Later {
    /// A new domain of this number begins anew (XSA-483).
    pub(super) fn forget(&mut self, domid: DomId) {
        self.features.remove(&domid);
        self.quotas.remove(&domid);
    }
}

impl Server {
    pub(super) fn quotas_of(&self, domid: DomId) -> Quotas {
        let own = self.later.quotas.get(&domid);
        *own.unwrap_or(&self.settings.quotas)
    }

    /// Has WATCH a third argument?
    pub(super) fn has_watch_depth(&self) -> bool {
        self.settings.daemon >= Daemon::C422
    }

    /// Is there a `@releaseDomain/<domid>`?
    pub(super) fn has_release_of_one(&self) -> bool {
        self.settings.daemon >= Daemon::C422
    }

    pub(super) fn is_later(&self, kind: u32) -> bool {
        self.settings.daemon >= Daemon::C422 && (GET_FEATURE..=SET_QUOTA).contains(&kind)
    }

    pub(super) fn later_request(&mut self, caller: Caller, packet: &Packet) -> Answer {
        let args = terminated(&packet.payload);
        if !caller.is_privileged() && !(packet.kind == GET_FEATURE && args.is_empty()) {
            return Err(Errno::ACCESS);
        }
        match (packet.kind, &args[..]) {
            (GET_FEATURE, []) => Ok(nul_terminated(FEATURE_WATCH_DEPTH.to_string())),
            (GET_FEATURE, [domid]) => {
                let features = self.later.features.get(&self.known_domain(domid)?);
                let features = features.copied().unwrap_or(FEATURE_WATCH_DEPTH);
                Ok(nul_terminated(features.to_string()))
            }
            (SET_FEATURE, [domid, value]) => {
                let domid = self.known_domain(domid)?;
                let features = u32::try_from(number(value)).map_err(|_| Errno::INVAL)?;
                if features & !FEATURE_WATCH_DEPTH != 0 {
                    return Err(Errno::INVAL);
                }
                self.later.features.insert(domid, features);
                ok()
            }
            (GET_QUOTA, []) => {
                let names: Vec<&str> = Quotas::NAMES.iter().map(|(name, _)| *name).collect();
                Ok(nul_terminated(names.join(" ")))
            }
            (GET_QUOTA, [name]) => quota(self.settings.quotas, name),
            (GET_QUOTA, [domid, name]) => quota(self.quotas_of(self.known_domain(domid)?), name),
            (SET_QUOTA, [name, value]) => {
                self.settings.quotas.set(&setting(name, value)?);
                ok()
            }
            (SET_QUOTA, [domid, name, value]) => {
                let domid = self.known_domain(domid)?;
                let mut quotas = self.quotas_of(domid);
                quotas.set(&setting(name, value)?);
                self.later.quotas.insert(domid, quotas);
                ok()
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn known_domain(&self, text: &[u8]) -> Result<DomId, Errno> {
        let domid = domain_number(text).filter(|domid| self.is_introduced(*domid));
        domid.ok_or(Errno::NOENT)
    }
}

fn quota(quotas: Quotas, name: &[u8]) -> Answer {
    let name = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
    let value = quotas.get(name).ok_or(Errno::INVAL)?;
    Ok(nul_terminated(value.to_string()))
}

fn setting(name: &[u8], value: &[u8]) -> Result<QuotaSetting, Errno> {
    let name = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
    let value = usize::try_from(number(value)).map_err(|_| Errno::INVAL)?;
    // 0 is no limit.
    let value = if value == 0 { usize::MAX } else { value };
    QuotaSetting::new(name, value).ok_or(Errno::INVAL)
}
