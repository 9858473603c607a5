//! Which grants of a batch are bad? The kernel's mmap fails as a whole and does not say.

use super::shared::Shared;
use crate::error::{BadGrant, Error, Result};
use crate::platform::{CopySegment, CopySide};
use crate::shm::SharedPages;
use crate::types::{Access, ForeignGrant, GrantStatus};

/// Maps that are tried for one answer, three system calls each. Enough for any one bad grant of
/// the most that a call takes.
const MOST_MAPS: usize = 40;

/// Turns mmap's bare EINVAL into [`Error::BadGrants`], or keeps `error` where every grant is good
/// by now or the probing itself fails. Where many are bad, it names some.
pub(super) fn name_bad_grants(
    shared: &Shared,
    grants: &[ForeignGrant],
    access: Access,
    error: Error,
) -> Error {
    // A grant copy has what a map has not, a status; and one call does for all.
    let statuses = copy_a_byte_of_each(shared, grants).unwrap_or_else(|probe_error| {
        tracing::debug!(%probe_error, "probing for bad grants");
        vec![GrantStatus::OKAY; grants.len()]
    });
    let cannot_copy = |(grant, status): (&ForeignGrant, GrantStatus)| {
        let bad = BadGrant {
            grant: *grant,
            status: Some(status),
        };
        (!status.is_okay()).then_some(bad)
    };
    let statuses = statuses.into_iter();
    let mut bad: Vec<BadGrant> = grants
        .iter()
        .zip(statuses)
        .filter_map(cannot_copy)
        .collect();
    // What can be read may not be written, and only a map says so.
    if access.writable() || bad.is_empty() {
        let rest: Vec<ForeignGrant> = grants
            .iter()
            .filter(|grant| bad.iter().all(|bad| bad.grant != **grant))
            .copied()
            .collect();
        let mut refused = Vec::new();
        let mut maps = MOST_MAPS;
        if let Err(probe_error) = bisect(shared, &rest, access, &mut maps, &mut refused) {
            tracing::debug!(%probe_error, "probing for bad grants");
        }
        let status = access.writable().then_some(GrantStatus::PERMISSION_DENIED);
        bad.extend(refused.into_iter().map(|grant| BadGrant { grant, status }));
    }
    if bad.is_empty() {
        return error;
    }
    bad.sort_by_key(|bad| grants.iter().position(|grant| *grant == bad.grant));
    Error::BadGrants {
        operation: "map",
        batch: grants.len(),
        bad,
    }
}

/// Halves the batch until the bad ones stand alone: few maps when few are bad, and never more than
/// `maps`.
fn bisect(
    shared: &Shared,
    grants: &[ForeignGrant],
    access: Access,
    maps: &mut usize,
    bad: &mut Vec<ForeignGrant>,
) -> Result<()> {
    if grants.is_empty() || *maps == 0 {
        return Ok(());
    }
    *maps -= 1;
    if shared.can_map(grants, access)? {
        return Ok(());
    }
    if let [one] = grants {
        bad.push(*one);
        return Ok(());
    }
    let (left, right) = grants.split_at(grants.len() / 2);
    bisect(shared, left, access, maps, bad)?;
    bisect(shared, right, access, maps, bad)
}

/// Copies one byte *from* each page, which every good grant allows.
fn copy_a_byte_of_each(shared: &Shared, grants: &[ForeignGrant]) -> Result<Vec<GrantStatus>> {
    let scratch = SharedPages::anonymous(1)?;
    let dest = CopySide::Local {
        pages: &scratch,
        offset: 0,
    };
    let mut probes: Vec<CopySegment<'_>> = grants
        .iter()
        .map(|&grant| CopySegment {
            source: CopySide::Grant { grant, offset: 0 },
            dest,
            len: 1,
            status: GrantStatus::OKAY,
        })
        .collect();
    shared.gntdev.grant_copy(&mut probes)?;
    Ok(probes.iter().map(|probe| probe.status).collect())
}
