//! Pages shared and mapped with one system call after the other, for whoever tests the devices
//! themselves. Nothing here keeps a caller from doing things in the wrong order.

use super::failure::Failure;
use libgnt::platform::{CopySegment, CopySide, Gntalloc, Gntdev};
use libgnt::types::{GrantStatus, UnmapNotify};
use libgnt::{Access, DomId, ForeignGrant, GrantRef, Platform, SharedPages};

/// One allocation of a gntalloc file of its own, mapped here.
#[derive(Debug)]
pub struct Share {
    /// `None` once closed.
    pub file: Option<Box<dyn Gntalloc>>,
    /// Of the run.
    pub index: u64,
    /// `None` once unmapped.
    pub pages: Option<SharedPages>,
    /// One a page.
    pub grefs: Vec<GrantRef>,
}

impl Share {
    /// Allocates, and maps.
    ///
    /// # Errors
    /// The platform's.
    pub fn new(
        platform: &dyn Platform,
        to: DomId,
        pages: usize,
        access: Access,
    ) -> libgnt::Result<Share> {
        let file = platform.open_gntalloc()?;
        let run = file.alloc_gref(to, pages, access)?;
        let mapped = file.mmap(run.index, pages)?;
        Ok(Share {
            file: Some(file),
            index: run.index,
            pages: Some(mapped),
            grefs: run.grefs,
        })
    }

    /// The open file.
    ///
    /// # Errors
    /// [`Failure::Gone`]: it was closed.
    pub fn file(&self) -> Result<&dyn Gntalloc, Failure> {
        self.file
            .as_deref()
            .ok_or_else(|| gone("the gntalloc file"))
    }

    /// The pages.
    ///
    /// # Errors
    /// [`Failure::Gone`]: they were unmapped.
    pub fn pages(&self) -> Result<&SharedPages, Failure> {
        self.pages
            .as_ref()
            .ok_or_else(|| gone("the granter's mapping"))
    }

    /// `DEALLOC_GREF` of the whole run.
    ///
    /// # Errors
    /// The platform's; [`Failure::Gone`].
    pub fn dealloc(&self) -> Result<(), Failure> {
        Ok(self.file()?.dealloc_gref(self.index, self.grefs.len())?)
    }

    /// `SET_UNMAP_NOTIFY`, for a byte of the run.
    ///
    /// # Errors
    /// The platform's; [`Failure::Gone`].
    pub fn arm(&self, byte: usize, notify: UnmapNotify) -> Result<(), Failure> {
        Ok(self
            .file()?
            .set_unmap_notify(self.index + byte as u64, notify)?)
    }

    /// Takes the granter's mapping away, if it is still there.
    ///
    /// # Errors
    /// The platform's.
    pub fn munmap(&mut self) -> Result<(), Failure> {
        self.pages.take().map_or(Ok(()), |pages| Ok(pages.unmap()?))
    }
}

/// One reservation of a gntdev file of its own, mapped here.
#[derive(Debug)]
pub struct Mapping {
    /// `None` once closed.
    pub file: Option<Box<dyn Gntdev>>,
    /// Of the reservation.
    pub index: u64,
    /// How many pages.
    pub count: usize,
    /// `None` once unmapped.
    pub pages: Option<SharedPages>,
}

impl Mapping {
    /// Reserves, and maps.
    ///
    /// # Errors
    /// The platform's. Nothing stays mapped then: the file closes.
    pub fn new(
        platform: &dyn Platform,
        grants: &[ForeignGrant],
        access: Access,
    ) -> libgnt::Result<Mapping> {
        let file = platform.open_gntdev()?;
        let index = file.map_grant_ref(grants)?;
        let pages = file.mmap(index, grants.len(), access)?;
        Ok(Mapping {
            file: Some(file),
            index,
            count: grants.len(),
            pages: Some(pages),
        })
    }

    /// The open file.
    ///
    /// # Errors
    /// [`Failure::Gone`]: it was closed.
    pub fn file(&self) -> Result<&dyn Gntdev, Failure> {
        self.file.as_deref().ok_or_else(|| gone("the gntdev file"))
    }

    /// The pages.
    ///
    /// # Errors
    /// [`Failure::Gone`]: they were unmapped.
    pub fn pages(&self) -> Result<&SharedPages, Failure> {
        self.pages.as_ref().ok_or_else(|| gone("the mapping"))
    }

    /// `SET_UNMAP_NOTIFY`, for a byte of the range.
    ///
    /// # Errors
    /// The platform's.
    pub fn arm(&self, byte: usize, notify: UnmapNotify) -> libgnt::Result<()> {
        match &self.file {
            Some(file) => file.set_unmap_notify(self.index + byte as u64, notify),
            None => Err(libgnt::Error::Invalid("the gntdev file is closed".into())),
        }
    }

    /// Takes the mapping away, if it is still there.
    ///
    /// # Errors
    /// The platform's.
    pub fn munmap(&mut self) -> Result<(), Failure> {
        self.pages.take().map_or(Ok(()), |pages| Ok(pages.unmap()?))
    }

    /// `UNMAP_GRANT_REF` of the whole range.
    ///
    /// # Errors
    /// The platform's; [`Failure::Gone`].
    pub fn give_back(&self) -> Result<(), Failure> {
        Ok(self.file()?.unmap_grant_ref(self.index, self.count)?)
    }
}

fn gone(what: &str) -> Failure {
    Failure::Gone(what.into())
}

/// One byte of a grant through a grant copy: does the grant still serve this domain? It needs no
/// mapping, and unlike one it leaves the grant as it is.
///
/// # Errors
/// The platform's.
pub fn copy_status(platform: &dyn Platform, grant: ForeignGrant) -> libgnt::Result<GrantStatus> {
    let here = SharedPages::anonymous(1)?;
    let mut segments = [CopySegment {
        source: CopySide::Grant { grant, offset: 0 },
        dest: CopySide::Local {
            pages: &here,
            offset: 0,
        },
        len: 1,
        status: GrantStatus::GENERAL_ERROR,
    }];
    platform.open_gntdev()?.grant_copy(&mut segments)?;
    Ok(segments[0].status)
}
