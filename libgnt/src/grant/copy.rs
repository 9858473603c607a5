//! Grant copy: the hypervisor copies, nobody maps, so nobody has to unmap.

use super::mapper::Mapper;
use crate::error::{BadGrant, Error, Result};
use crate::platform::{CopySegment, CopySide};
use crate::types::GrantStatus;
use rustix::io::Errno;

impl Mapper {
    /// Copies a batch. Every segment gets its own status: a bad one does not stop the others, and
    /// `Ok` says only that all were tried. Segments whose page was paged out are tried again until
    /// the mapper's deadline, and keep [`GrantStatus::EAGAIN`] after it.
    ///
    /// # Errors
    /// EINVAL, before anything was copied or between segments: both sides local, or a grant side
    /// that leaves its page.
    pub fn copy(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        self.shared.gntdev.grant_copy(segments)?;
        if !segments.iter().any(is_paged_out) {
            return Ok(());
        }
        let again = self.shared.retry.run(
            || "grant copy".into(),
            &[Errno::AGAIN],
            || {
                for segment in segments.iter_mut().filter(|s| is_paged_out(s)) {
                    self.shared
                        .gntdev
                        .grant_copy(std::slice::from_mut(segment))?;
                }
                if segments.iter().any(is_paged_out) {
                    return Err(paged_out());
                }
                Ok(())
            },
        );
        match again {
            // The statuses tell.
            Err(Error::Timeout { .. }) => Ok(()),
            Err(error) if error.errno() == Some(Errno::AGAIN) => Ok(()),
            other => other,
        }
    }

    /// The same, as one result.
    ///
    /// # Errors
    /// [`Error::BadGrants`] names every segment's grant that failed; the others were copied.
    pub fn copy_all(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        self.copy(segments)?;
        all_copied(segments)
    }

    /// The same for an event loop: one attempt, nothing slept on.
    ///
    /// # Errors
    /// EAGAIN: a page is paged out, and nothing else is wrong; copy all of it again later. Or as
    /// [`Mapper::copy_all`].
    pub fn try_copy_all(&self, segments: &mut [CopySegment<'_>]) -> Result<()> {
        self.shared.gntdev.grant_copy(segments)?;
        let mut failed = segments.iter().filter(|s| !s.status.is_okay()).peekable();
        if failed.peek().is_some() && failed.all(is_paged_out) {
            return Err(paged_out());
        }
        all_copied(segments)
    }
}

fn is_paged_out(segment: &CopySegment<'_>) -> bool {
    segment.status == GrantStatus::EAGAIN
}

fn paged_out() -> Error {
    let why = "a page of the granter's is paged out";
    Error::device("gntdev", "GRANT_COPY", Errno::AGAIN, why)
}

fn all_copied(segments: &[CopySegment<'_>]) -> Result<()> {
    let mut bad = Vec::new();
    for segment in segments.iter().filter(|s| !s.status.is_okay()) {
        for side in [segment.source, segment.dest] {
            if let CopySide::Grant { grant, .. } = side {
                bad.push(BadGrant {
                    grant,
                    status: Some(segment.status),
                });
            }
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(Error::BadGrants {
        operation: "copy",
        batch: segments.len(),
        bad,
    })
}
