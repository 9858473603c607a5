//! Grant copy. The bytes do not pass through here: the copier gets the page, and a generation
//! word that says how long it may use it. What Xen does for the duration of one copy (pin the
//! entry, `acquire_grant_for_copy`) the copier's hazard slot does, which a revocation waits for.

use super::xen::{Answer, Outcome};
use super::{Attachment, ConnId, Xen};
use crate::sim::wire::{FileId, Reply};
use crate::types::{Access, DomId, ForeignGrant, GrantStatus};

impl Xen {
    pub(super) fn copy_attach(
        &mut self,
        conn: ConnId,
        file: FileId,
        grant: ForeignGrant,
        write: bool,
    ) -> Outcome {
        let domid = self.gntdev_domain(conn, file)?;
        // Unlike a map, a copy may name its own domain so (`gnttab_copy_lock_domain`).
        let granter = if grant.domid == DomId::SELF {
            domid
        } else {
            grant.domid
        };
        let grant = ForeignGrant {
            domid: granter,
            gref: grant.gref,
        };
        let access = if write {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let (run, page) = match self.check_grant(grant, domid, access) {
            Ok(entry) => (entry.run, entry.page),
            Err(status) => {
                return Ok(Answer::Reply(
                    Reply::CopyPage {
                        status,
                        page: 0,
                        generation: 0,
                    },
                    Vec::new(),
                ));
            }
        };
        let mut generation = 0;
        if let Some(granter) = self.domains.get_mut(&grant.domid) {
            generation = granter.grants.generation(grant.gref);
            if let Some(entry) = granter.grants.entries.get_mut(&grant.gref) {
                entry.copy_attached = true;
            }
        }
        Ok(Answer::Reply(
            Reply::CopyPage {
                status: GrantStatus::OKAY,
                page,
                generation,
            },
            vec![
                Attachment::Run { run, access },
                Attachment::Generations { domid: grant.domid },
            ],
        ))
    }
}
