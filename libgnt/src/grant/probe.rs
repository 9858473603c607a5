//! Which grants of a batch are bad? The kernel's mmap fails as a whole and does not say.

use super::map::Shared;
use crate::error::{BadGrant, Error};
use crate::platform::{CopySegment, CopySide};
use crate::shm::SharedPages;
use crate::types::{Access, ForeignGrant, GrantStatus};

/// Turns mmap's bare EINVAL into [`Error::BadGrants`], or keeps `error` where every grant is good
/// by now or the probing itself fails.
pub(super) fn name_bad_grants(
    shared: &Shared,
    grants: &[ForeignGrant],
    access: Access,
    error: Error,
) -> Error {
    let mut bad = Vec::new();
    if let Err(probe_error) = bisect(shared, grants, access, &mut bad) {
        tracing::debug!(%probe_error, "probing for bad grants");
    }
    if bad.is_empty() {
        return error;
    }
    let bad = bad.into_iter().map(|grant| BadGrant {
        grant,
        status: reason(shared, grant, access),
    });
    Error::BadGrants {
        operation: "map",
        batch: grants.len(),
        bad: bad.collect(),
    }
}

/// Halves the batch until the bad ones stand alone: few calls when few are bad.
fn bisect(
    shared: &Shared,
    grants: &[ForeignGrant],
    access: Access,
    bad: &mut Vec<ForeignGrant>,
) -> Result<(), Error> {
    let (left, right) = grants.split_at(grants.len() / 2);
    for half in [left, right] {
        if half.is_empty() || shared.can_map(half, access)? {
            continue;
        }
        match half {
            [one] => bad.push(*one),
            more => bisect(shared, more, access, bad)?,
        }
    }
    Ok(())
}

/// A grant copy has what a map has not: a status. Copies one byte *from* the page, which every
/// good grant allows; if that works, the map failed because it wanted to write.
fn reason(shared: &Shared, grant: ForeignGrant, access: Access) -> Option<GrantStatus> {
    let scratch = SharedPages::anonymous(1).ok()?;
    let mut probe = [CopySegment {
        source: CopySide::Grant { grant, offset: 0 },
        dest: CopySide::Local {
            pages: &scratch,
            offset: 0,
        },
        len: 1,
        status: GrantStatus::OKAY,
    }];
    shared.gntdev.grant_copy(&mut probe).ok()?;
    match probe[0].status {
        GrantStatus::OKAY if access.writable() => Some(GrantStatus::PERMISSION_DENIED),
        GrantStatus::OKAY => None,
        status => Some(status),
    }
}
