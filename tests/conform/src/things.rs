//! What rules are made of: pages shared, pages mapped, an event channel that leads back here.

use super::{Outcome, Stop};
use libgnt::platform::{CopySegment, CopySide, Evtchn, Gntalloc, Gntdev};
use libgnt::types::{GrantStatus, UnmapNotify};
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Platform, SharedPages};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long anything may take that must happen. Software emulation of a processor is slow.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may happen for it to count as not happening.
pub const QUIET: Duration = Duration::from_millis(150);

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
    /// [`Stop::Broken`]: it was closed.
    pub fn file(&self) -> Outcome<&dyn Gntalloc> {
        self.file
            .as_deref()
            .ok_or_else(|| gone("the gntalloc file"))
    }

    /// The pages.
    ///
    /// # Errors
    /// [`Stop::Broken`]: they were unmapped.
    pub fn pages(&self) -> Outcome<&SharedPages> {
        self.pages
            .as_ref()
            .ok_or_else(|| gone("the granter's mapping"))
    }

    /// `DEALLOC_GREF` of the whole run.
    ///
    /// # Errors
    /// The platform's.
    pub fn dealloc(&self) -> Outcome {
        Ok(self.file()?.dealloc_gref(self.index, self.grefs.len())?)
    }

    /// Takes the granter's mapping away.
    ///
    /// # Errors
    /// The platform's.
    pub fn munmap(&mut self) -> Outcome {
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
    /// [`Stop::Broken`]: it was closed.
    pub fn file(&self) -> Outcome<&dyn Gntdev> {
        self.file.as_deref().ok_or_else(|| gone("the gntdev file"))
    }

    /// The pages.
    ///
    /// # Errors
    /// [`Stop::Broken`]: they were unmapped.
    pub fn pages(&self) -> Outcome<&SharedPages> {
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

    /// Takes the mapping away.
    ///
    /// # Errors
    /// The platform's.
    pub fn munmap(&mut self) -> Outcome {
        self.pages.take().map_or(Ok(()), |pages| Ok(pages.unmap()?))
    }

    /// `UNMAP_GRANT_REF` of the whole range.
    ///
    /// # Errors
    /// The platform's.
    pub fn give_back(&self) -> Outcome {
        Ok(self.file()?.unmap_grant_ref(self.index, self.count)?)
    }
}

fn gone(what: &str) -> Stop {
    Stop::Broken(format!("{what} is gone already: the check is wrong"))
}

/// An event channel from this domain to itself: what is sent on `near` arrives at `far`.
#[derive(Debug)]
pub struct Bell {
    /// Both ends' file.
    pub file: Box<dyn Evtchn>,
    /// To send on, and to arm an unmap notify with.
    pub near: EvtchnPort,
    /// Where it arrives.
    pub far: EvtchnPort,
}

impl Bell {
    /// Binds both ends, and takes the event that the second one starts with.
    ///
    /// # Errors
    /// The platform's; [`Stop::Differs`] without that event.
    pub fn new(platform: &dyn Platform, own: DomId) -> Outcome<Bell> {
        let file = platform.open_evtchn()?;
        let far = file.bind_unbound(own)?;
        let near = file.bind_interdomain(own, far)?;
        let bell = Bell { file, near, far };
        match heard(&*bell.file, PATIENCE)? {
            ports if ports == [near] => bell.file.unmask(&[near])?,
            other => {
                let what = format!("a new interdomain port is pending, but {other:?} came");
                return Err(Stop::Differs(what));
            }
        }
        Ok(bell)
    }

    /// A notify that only sends the event.
    pub fn event(&self) -> UnmapNotify {
        UnmapNotify {
            clear_byte: false,
            send_event: Some(self.near),
        }
    }

    /// Waits for the bell, and makes it ready again.
    ///
    /// # Errors
    /// [`Stop::Differs`]: silence. The platform's.
    pub fn expect(&self, what: &str) -> Outcome {
        if self.rings_within(PATIENCE)? {
            Ok(())
        } else {
            Err(Stop::Differs(format!("no event in {PATIENCE:?}: {what}")))
        }
    }

    /// The bell stays silent for a while.
    ///
    /// # Errors
    /// [`Stop::Differs`]: an event came. The platform's.
    pub fn silent(&self, what: &str) -> Outcome {
        if self.rings_within(QUIET)? {
            Err(Stop::Differs(format!("an event came: {what}")))
        } else {
            Ok(())
        }
    }

    fn rings_within(&self, wait: Duration) -> Outcome<bool> {
        let ports = heard(&*self.file, wait)?;
        self.file.unmask(&ports)?;
        match ports.as_slice() {
            [] => Ok(false),
            [port] if *port == self.far => Ok(true),
            other => Err(Stop::Differs(format!(
                "{other:?} came, where only {:?} is used",
                self.far
            ))),
        }
    }
}

/// Waits for events, and reads them; none if nothing came in time. They stay masked.
///
/// # Errors
/// The platform's.
pub fn heard(file: &dyn Evtchn, wait: Duration) -> Outcome<Vec<EvtchnPort>> {
    let until = Instant::now() + wait;
    let mut ports = Vec::new();
    loop {
        if file.read(&mut ports)? > 0 {
            return Ok(ports);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !readable(file, left)? {
            // Nothing may have come between the last look and now.
            file.read(&mut ports)?;
            return Ok(ports);
        }
    }
}

/// True if the file polls readable in time.
///
/// # Errors
/// poll's.
pub fn readable(file: &dyn Evtchn, wait: Duration) -> Outcome<bool> {
    Ok(polled(file, wait)?.contains(PollFlags::IN))
}

/// What poll says of a file: what it waits for is input.
///
/// # Errors
/// poll's.
pub fn polled(file: &dyn Evtchn, wait: Duration) -> Outcome<PollFlags> {
    let fd = file.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let wait = Timespec::try_from(wait).map_err(|_| Errno::OVERFLOW)?;
    loop {
        match poll(&mut fds, Some(&wait)) {
            Ok(_) => return Ok(fds[0].revents()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
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

/// A call must fail so.
///
/// # Errors
/// [`Stop::Differs`].
pub fn refused<T: std::fmt::Debug>(what: &str, result: libgnt::Result<T>, with: Errno) -> Outcome {
    match result {
        Err(error) if error.errno() == Some(with) => Ok(()),
        Err(error) => match Stop::from(error) {
            Stop::Differs(error) => Err(Stop::Differs(format!(
                "{what} must fail with {with:?}: {error}"
            ))),
            other => Err(other),
        },
        Ok(value) => Err(Stop::Differs(format!(
            "{what} must fail with {with:?}, but gave {value:?}"
        ))),
    }
}

/// Two values must be the same.
///
/// # Errors
/// [`Stop::Differs`].
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, must_be: T) -> Outcome {
    if is == must_be {
        Ok(())
    } else {
        Err(Stop::Differs(format!(
            "{what} must be {must_be:?}, not {is:?}"
        )))
    }
}

/// Something must hold.
///
/// # Errors
/// [`Stop::Differs`].
pub fn must(what: &str, holds: bool) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Stop::Differs(format!("not so: {what}")))
    }
}

/// Some bytes of shared pages.
pub fn peek(pages: &SharedPages, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pages.read(offset, &mut bytes);
    bytes
}
