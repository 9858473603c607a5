//! Grant copy: the hypervisor copies, nobody maps, so nobody has to unmap.

use super::map::Mapper;
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
        let eagain = |s: &CopySegment<'_>| s.status == GrantStatus::EAGAIN;
        if !segments.iter().any(eagain) {
            return Ok(());
        }
        let again = self.shared.retry.run(
            || "grant copy".into(),
            &[Errno::AGAIN],
            || {
                for segment in segments.iter_mut().filter(|s| eagain(s)) {
                    self.shared
                        .gntdev
                        .grant_copy(std::slice::from_mut(segment))?;
                }
                if segments.iter().any(eagain) {
                    return Err(Error::device("gntdev", "GRANT_COPY", Errno::AGAIN, ""));
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
}
