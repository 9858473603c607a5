//! What a hand shares and maps, and what is in those pages.

use super::answer::{Answer, Ending};
use super::device;
use super::failure::Failure;
use super::order::{MapId, Pages, Place, ShareId};
use super::table::Table;
use crate::memory;
use crate::picture::draw;
use crate::timeline::{Event, Timeline};
use libgnt::grant::{
    EndAccess, EndAccessError, Granter, Ledger, Map, Mapper, Refusal, Share, UnmapError, Unmapping,
};
use libgnt::types::UnmapNotify;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, PAGE_SIZE, Platform, SharedPages};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes to read or write at a time. An answer with so many fits every link.
pub(super) const MAX_BYTES: usize = 2 * PAGE_SIZE;

/// What a stamped page holds.
pub fn pattern(gref: GrantRef) -> [u8; PAGE_SIZE] {
    std::array::from_fn(|at| (gref.0 as usize * 31 + at * 7) as u8)
}

/// Pages shared.
pub(super) enum Shared {
    /// By the library.
    Library(Share),
    /// With system calls.
    Device(device::Share),
}

/// Grants mapped.
pub(super) enum Mapped {
    /// By the library.
    Library(Map),
    /// By the library, and being unmapped.
    Leaving(Unmapping),
    /// With system calls.
    Device(device::Mapping),
}

/// Everything that a hand shares and maps.
pub(super) struct Grants {
    platform: Arc<dyn Platform>,
    ledger: Ledger,
    timeline: Timeline,
    granter: Option<Granter>,
    mapper: Option<Mapper>,
    shares: Table<ShareId, Shared>,
    maps: Table<MapId, Mapped>,
}

impl Grants {
    pub fn new(platform: Arc<dyn Platform>, ledger: Ledger, timeline: Timeline) -> Grants {
        Grants {
            platform,
            ledger,
            timeline,
            granter: None,
            mapper: None,
            shares: Table::new("share"),
            maps: Table::new("map"),
        }
    }

    /// Gives everything up.
    pub fn clear(&mut self) {
        self.maps.clear();
        self.shares.clear();
        self.mapper = None;
        self.granter = None;
    }

    pub fn share(&mut self, to: DomId, pages: usize, access: Access) -> Result<Answer, Failure> {
        self.shares.has_room()?;
        let granter = match &self.granter {
            Some(granter) => granter,
            None => {
                let granter = Granter::open(Arc::clone(&self.platform), self.ledger.clone())?;
                self.granter.insert(granter)
            }
        };
        let share = granter.share(to, pages, access)?;
        let grefs = share.grefs().to_vec();
        Ok(Answer::Shared(
            self.shares.add(Shared::Library(share)),
            grefs,
        ))
    }

    pub fn alloc(&mut self, to: DomId, pages: usize, access: Access) -> Result<Answer, Failure> {
        self.shares.has_room()?;
        let share = device::Share::new(&*self.platform, to, pages, access)?;
        let grefs = share.grefs.clone();
        Ok(Answer::Shared(
            self.shares.add(Shared::Device(share)),
            grefs,
        ))
    }

    pub fn end_access(&mut self, id: ShareId) -> Result<Answer, Failure> {
        let share = match self.shares.take(id)? {
            Shared::Library(share) => share,
            other => {
                self.shares.put_back(id, other);
                return Err(wrong_level(id));
            }
        };
        Ok(Answer::Ended(match share.end_access() {
            Ok(EndAccess::Ended) => Ending::Ended,
            Ok(EndAccess::Unobservable) => Ending::Unobservable,
            Err(EndAccessError::InUse { share, grefs }) => {
                self.shares.put_back(id, Shared::Library(share));
                Ending::InUse(grefs)
            }
            Err(EndAccessError::Failed(error)) => return Err(error.into()),
            Err(error) => return Err(Failure::Wrong(error.to_string())),
        }))
    }

    pub fn map(&mut self, grants: &[ForeignGrant], access: Access) -> Result<Answer, Failure> {
        self.maps.has_room()?;
        let mapper = match &self.mapper {
            Some(mapper) => mapper,
            None => {
                let mapper = Mapper::open(Arc::clone(&self.platform), self.ledger.clone())?;
                self.mapper.insert(mapper)
            }
        };
        let map = mapper.map(grants, access)?;
        let id = self.maps.add(Mapped::Library(map));
        self.timeline.log(Event::Mapped {
            request: request(id),
            id: request(id),
            grants: grants.to_vec(),
        });
        Ok(Answer::Mapped(id))
    }

    pub fn map_device(
        &mut self,
        grants: &[ForeignGrant],
        access: Access,
    ) -> Result<Answer, Failure> {
        self.maps.has_room()?;
        let map = device::Mapping::new(&*self.platform, grants, access)?;
        Ok(Answer::Mapped(self.maps.add(Mapped::Device(map))))
    }

    pub fn unmap(&mut self, id: MapId, told: bool) -> Result<Answer, Failure> {
        let map = match self.maps.take(id)? {
            Mapped::Library(map) => map,
            other => {
                self.maps.put_back(id, other);
                return Err(wrong_level(id));
            }
        };
        self.timeline.log(Event::UnmapBegan {
            request: request(id),
            grants: map.grants().to_vec(),
        });
        let begun = Instant::now();
        let unmapped = if told {
            map.unmap()
        } else {
            map.unmap_untold()
        };
        let took = begun.elapsed();
        let done = match unmapped {
            Ok(unmapping) => {
                self.maps.put_back(id, Mapped::Leaving(unmapping));
                Ok(Answer::Done)
            }
            Err(refused) => Err(self.keep_refused(id, *refused)),
        };
        self.timeline.log(Event::UnmapReturned {
            request: request(id),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            error: done.as_ref().err().map(ToString::to_string),
        });
        done
    }

    /// What is left of a map whose unmap did not go as asked.
    fn keep_refused(&mut self, id: MapId, refused: UnmapError) -> Failure {
        let why = refused.to_string();
        let (left, errno) = match refused {
            UnmapError::Refused { reason, map } => {
                let errno = match reason {
                    Refusal::NoNotice(error) => error.errno(),
                    _ => None,
                };
                (Mapped::Library(map), errno)
            }
            UnmapError::Failed { error, unmapping } => (Mapped::Leaving(unmapping), error.errno()),
        };
        self.maps.put_back(id, left);
        Failure::Unmap { why, errno }
    }

    pub fn await_release(&mut self, id: MapId, wait: Duration) -> Result<Answer, Failure> {
        match self.maps.get(id)? {
            Mapped::Leaving(unmapping) => unmapping.wait(wait)?,
            Mapped::Library(_) | Mapped::Device(_) => {
                return Err(Failure::Wrong(format!("{id} is not being unmapped")));
            }
        }
        self.maps.take(id)?;
        self.timeline.log(Event::Released {
            request: request(id),
        });
        Ok(Answer::Done)
    }

    pub fn drop_pages(&mut self, pages: Pages) -> Result<Answer, Failure> {
        match pages {
            Pages::Share(id) => drop(self.shares.take(id)?),
            Pages::Map(id) => drop(self.maps.take(id)?),
        }
        Ok(Answer::Done)
    }

    pub fn read(&self, at: Place, len: usize) -> Result<Answer, Failure> {
        let pages = self.pages(at.pages)?;
        is_inside(pages, at.offset, len)?;
        let mut bytes = vec![0; len];
        pages.read(at.offset, &mut bytes);
        Ok(Answer::Bytes(bytes))
    }

    pub fn write(&self, at: Place, bytes: &[u8]) -> Result<Answer, Failure> {
        let pages = writable(self.pages(at.pages)?)?;
        is_inside(pages, at.offset, bytes.len())?;
        pages.write(at.offset, bytes);
        Ok(Answer::Done)
    }

    pub fn fill(&self, which: Pages, byte: u8) -> Result<Answer, Failure> {
        let pages = writable(self.pages(which)?)?;
        pages.fill(0, pages.len(), byte);
        Ok(Answer::Done)
    }

    pub fn draw(&self, which: Pages, picture: u32) -> Result<Answer, Failure> {
        let pages = writable(self.pages(which)?)?;
        pages.write(0, &draw(picture, pages.pages()));
        Ok(Answer::Done)
    }

    /// All that is in the pages.
    pub fn bytes(&self, which: Pages) -> Result<Vec<u8>, Failure> {
        let pages = self.pages(which)?;
        let mut bytes = vec![0; pages.len()];
        pages.read(0, &mut bytes);
        Ok(bytes)
    }

    pub fn stamp(&self, id: ShareId) -> Result<Answer, Failure> {
        let pages = self.pages(Pages::Share(id))?;
        let grefs = match self.shares.get(id)? {
            Shared::Library(share) => share.grefs(),
            Shared::Device(share) => &share.grefs,
        };
        for (page, gref) in grefs.iter().enumerate() {
            pages.write(page * PAGE_SIZE, &pattern(*gref));
        }
        Ok(Answer::Done)
    }

    pub fn count_stamped(&self, id: MapId) -> Result<Answer, Failure> {
        let map = self.library_map(id)?;
        let mut bytes = [0; PAGE_SIZE];
        let stamped = map.grants().iter().enumerate().filter(|(page, grant)| {
            map.pages().read(page * PAGE_SIZE, &mut bytes);
            bytes == pattern(grant.gref)
        });
        Ok(Answer::Count(stamped.count()))
    }

    pub fn arm(
        &self,
        at: Place,
        clear_byte: bool,
        event: Option<EvtchnPort>,
    ) -> Result<Answer, Failure> {
        let notify = UnmapNotify {
            clear_byte,
            send_event: event,
        };
        let byte = clear_byte.then_some(at.offset);
        match at.pages {
            Pages::Share(id) => match self.shares.get(id)? {
                Shared::Library(share) => share.set_unmap_notify(byte, event)?,
                Shared::Device(share) => share.arm(at.offset, notify)?,
            },
            Pages::Map(id) => match self.maps.get(id)? {
                Mapped::Library(map) => map.set_unmap_notify(byte, event)?,
                Mapped::Device(map) => map.arm(at.offset, notify)?,
                Mapped::Leaving(_) => return Err(Failure::Gone(id.to_string())),
            },
        }
        Ok(Answer::Done)
    }

    pub fn trespass(&self, id: MapId) -> Result<Answer, Failure> {
        memory::trespass(self.pages(Pages::Map(id))?)
            .map_err(|errno| libgnt::Error::device("memory", "mprotect", errno, ""))?;
        Ok(Answer::Done)
    }

    /// The pages, wherever they came from.
    pub fn pages(&self, which: Pages) -> Result<&SharedPages, Failure> {
        match which {
            Pages::Share(id) => match self.shares.get(id)? {
                Shared::Library(share) => Ok(share.pages()),
                Shared::Device(share) => share.pages(),
            },
            Pages::Map(id) => match self.maps.get(id)? {
                Mapped::Library(map) => Ok(map.pages()),
                Mapped::Device(map) => map.pages(),
                Mapped::Leaving(_) => Err(Failure::Gone(format!("the pages of {id}"))),
            },
        }
    }

    /// Records that a page went to somebody else.
    pub fn note_lent(&self, id: MapId, hold: u64) {
        if let Ok(map) = self.library_map(id) {
            self.timeline.log(Event::Lent {
                request: request(id),
                hold,
                grants: map.grants().to_vec(),
            });
        }
    }

    /// A share that was made with system calls.
    pub fn device_share(&mut self, id: ShareId) -> Result<&mut device::Share, Failure> {
        match self.shares.get_mut(id)? {
            Shared::Device(share) => Ok(share),
            Shared::Library(_) => Err(wrong_level(id)),
        }
    }

    /// A map that was made with system calls.
    pub fn device_map(&mut self, id: MapId) -> Result<&mut device::Mapping, Failure> {
        match self.maps.get_mut(id)? {
            Mapped::Device(map) => Ok(map),
            Mapped::Library(_) | Mapped::Leaving(_) => Err(wrong_level(id)),
        }
    }

    fn library_map(&self, id: MapId) -> Result<&Map, Failure> {
        match self.maps.get(id)? {
            Mapped::Library(map) => Ok(map),
            Mapped::Leaving(_) => Err(Failure::Gone(format!("the pages of {id}"))),
            Mapped::Device(_) => Err(wrong_level(id)),
        }
    }
}

/// A map's number in timelines.
fn request(id: MapId) -> u64 {
    u64::from(u32::from(id))
}

fn wrong_level(id: impl std::fmt::Display) -> Failure {
    Failure::Wrong(format!(
        "{id}: what was made with the library is ended with the library, and what was made with system calls with those"
    ))
}

fn is_inside(pages: &SharedPages, offset: usize, len: usize) -> Result<(), Failure> {
    let inside = offset
        .checked_add(len)
        .is_some_and(|end| end <= pages.len());
    if inside && len <= MAX_BYTES {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "{len} bytes from byte {offset}, of {}; at most {MAX_BYTES} go at a time",
        pages.len()
    )))
}

fn writable(pages: &SharedPages) -> Result<&SharedPages, Failure> {
    if pages.access().writable() {
        Ok(pages)
    } else {
        Err(Failure::Wrong("these pages are mapped to be read".into()))
    }
}
