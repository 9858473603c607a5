//! The hand itself: performs each order with what owns the things it is about.

use super::answer::Answer;
use super::channel::heard;
use super::device::copy_status;
use super::failure::Failure;
use super::grants::{Grants, MAX_BYTES};
use super::hold::Lending;
use super::loan::Loan;
use super::order::{DeviceOrder, HeldId, MapId, Order, Pages, StoreOrder, UNTIL_IT_COMES, View};
use super::store::StoreHand;
use super::table::Table;
use crate::holder::{Held, sha256};
use crate::picture::draw;
use crate::settings::HoldName;
use crate::timeline::{Event, Timeline};
use libgnt::Platform;
use libgnt::grant::{Ledger, Totals};
use libgnt::platform::Evtchn;
use std::sync::Arc;
use std::time::Duration;

/// Performs orders, and owns what it makes. Dropping it gives everything up.
pub struct Hand {
    platform: Arc<dyn Platform>,
    ledger: Ledger,
    timeline: Timeline,
    grants: Grants,
    evtchn: Option<Box<dyn Evtchn>>,
    lending: Lending,
    held: Table<HeldId, Holding>,
    /// All that it saw last.
    seen: Vec<u8>,
    store: Option<StoreHand>,
}

/// A hold taken over.
struct Holding {
    held: Box<dyn Held>,
    /// Its number in timelines.
    hold: u64,
    pages: usize,
}

impl Hand {
    /// A hand that has nothing yet. What it maps, holds and unmaps with the library goes to the
    /// timeline, with the numbers of maps as those of requests.
    pub fn new(platform: Arc<dyn Platform>, timeline: Timeline) -> Hand {
        let ledger = Ledger::new();
        let grants = Grants::new(Arc::clone(&platform), ledger.clone(), timeline.clone());
        let lending = Lending::new(Arc::clone(&platform));
        Hand {
            platform,
            ledger,
            timeline,
            grants,
            evtchn: None,
            lending,
            held: Table::new("hold"),
            seen: Vec::new(),
            store: None,
        }
    }

    /// Lets it hold pages on a PV guest, whose kernel that damages.
    #[must_use]
    pub fn allow_kernel_damage(mut self, allow: bool) -> Hand {
        self.lending.allow_damage(allow);
        self
    }

    /// Does what it is told. An order that cannot be carried out is answered, too.
    pub fn perform(&mut self, order: Order) -> Answer {
        self.do_it(order)
            .unwrap_or_else(|failure| Answer::Refused(failure.into()))
    }

    /// What it still has granted, mapped or unmapping: one line an entry.
    pub fn ledger(&self) -> Vec<String> {
        let entries = self.ledger.snapshot();
        entries.iter().map(ToString::to_string).collect()
    }

    /// What it has mapped and given back so far.
    pub fn totals(&self) -> Totals {
        self.ledger.totals()
    }

    /// Gives everything up.
    pub fn forget(&mut self) {
        self.store = None;
        self.held.clear();
        self.lending.clear();
        self.grants.clear();
        self.evtchn = None;
    }

    fn do_it(&mut self, order: Order) -> Result<Answer, Failure> {
        match order {
            Order::Share { to, pages, access } => self.grants.share(to, pages, access),
            Order::EndAccess(share) => self.grants.end_access(share),
            Order::Map { grants, access } => self.grants.map(&grants, access),
            Order::Unmap { map, told } => self.grants.unmap(map, told),
            Order::AwaitRelease { map, ms } => self.grants.await_release(map, patience(ms)),
            Order::Drop(pages) => self.grants.drop_pages(pages),
            Order::Read(at, len) => self.grants.read(at, len),
            Order::Write(at, bytes) => self.grants.write(at, &bytes),
            Order::Fill(pages, byte) => self.grants.fill(pages, byte),
            Order::Stamp(share) => self.grants.stamp(share),
            Order::CountStamped(map) => self.grants.count_stamped(map),
            Order::Arm {
                at,
                clear_byte,
                event,
            } => self.grants.arm(at, clear_byte, event),
            Order::Trespass(map) => self.grants.trespass(map),
            Order::Lend { map, kind, pages } => self.lend(map, kind, pages),
            Order::Settle { loan, taken } => {
                self.lending.settle(loan, taken)?;
                Ok(Answer::Done)
            }
            Order::Attach(loan) => self.attach(loan),
            Order::Look(held) => self.look(held),
            Order::Release(held) => self.release(held),
            Order::Draw { pages, picture } => self.grants.draw(pages, picture),
            Order::Paint { held, picture } => self.paint(held, picture),
            Order::See(view) => self.see(view),
            Order::Seen(from, len) => self.seen(from, len),
            Order::BindUnbound(remote) => Ok(Answer::Port(self.evtchn()?.bind_unbound(remote)?)),
            Order::BindInterdomain(remote, port) => {
                Ok(Answer::Port(self.evtchn()?.bind_interdomain(remote, port)?))
            }
            Order::Notify(port) => {
                self.evtchn()?.notify(port)?;
                Ok(Answer::Done)
            }
            Order::Unbind(port) => {
                self.evtchn()?.unbind(port)?;
                Ok(Answer::Done)
            }
            Order::Hear(ms) => {
                let evtchn = self.evtchn()?;
                let ports = heard(evtchn, patience(ms))?;
                evtchn.unmask(&ports)?;
                Ok(Answer::Ports(ports))
            }
            Order::CopyStatus(grant) => Ok(Answer::Status(copy_status(&*self.platform, grant)?)),
            Order::Device(order) => self.device(order),
            Order::Store(order) => self.store(order),
            Order::Ledger => Ok(Answer::Ledger(self.ledger())),
            Order::Forget => {
                self.forget();
                Ok(Answer::Done)
            }
            Order::Ping => Ok(Answer::Done),
        }
    }

    fn device(&mut self, order: DeviceOrder) -> Result<Answer, Failure> {
        match order {
            DeviceOrder::Alloc { to, pages, access } => {
                return self.grants.alloc(to, pages, access);
            }
            DeviceOrder::Map { grants, access } => {
                return self.grants.map_device(&grants, access);
            }
            DeviceOrder::Dealloc(share) => self.grants.device_share(share)?.dealloc()?,
            DeviceOrder::Unmap(map) => self.grants.device_map(map)?.give_back()?,
            DeviceOrder::Munmap(which) => {
                let pages = match which {
                    Pages::Share(id) => self.grants.device_share(id)?.pages.take(),
                    Pages::Map(id) => self.grants.device_map(id)?.pages.take(),
                };
                let pages = pages.ok_or_else(|| Failure::Gone("the mapping".into()))?;
                pages.unmap()?;
            }
            DeviceOrder::Close(Pages::Share(id)) => self.grants.device_share(id)?.file = None,
            DeviceOrder::Close(Pages::Map(id)) => self.grants.device_map(id)?.file = None,
        }
        Ok(Answer::Done)
    }

    fn lend(&mut self, map: MapId, kind: HoldName, pages: usize) -> Result<Answer, Failure> {
        let mapped = self.grants.pages(Pages::Map(map))?;
        let (id, loan) = self.lending.lend(mapped, kind, pages)?;
        self.grants.note_lent(map, loan.hold);
        Ok(Answer::Lent(id, loan))
    }

    fn attach(&mut self, loan: Loan) -> Result<Answer, Failure> {
        self.held.has_room()?;
        let (hold, kind, pages) = (loan.hold, loan.kind, loan.pages);
        let held = loan.take(self.lending.holder(kind)?)?;
        self.timeline.log(Event::Held { hold, kind, pages });
        let pages = pages as usize;
        let holding = Holding { held, hold, pages };
        Ok(Answer::Holding(self.held.add(holding)))
    }

    fn look(&mut self, id: HeldId) -> Result<Answer, Failure> {
        let holding = self.held.get_mut(id)?;
        let sha = holding.held.checksum()?;
        let hold = holding.hold;
        self.timeline.log(Event::Checksum {
            hold,
            sha: sha.clone(),
        });
        Ok(Answer::Digest(sha))
    }

    fn see(&mut self, view: View) -> Result<Answer, Failure> {
        self.seen = match view {
            View::Pages(pages) => self.grants.bytes(pages)?,
            View::Held(id) => {
                let holding = self.held.get_mut(id)?;
                let seen = holding.held.see()?;
                let hold = holding.hold;
                let sha = seen.as_deref().map(sha256);
                self.timeline.log(Event::Checksum { hold, sha });
                match seen {
                    Some(seen) => seen,
                    None => return Ok(Answer::Done),
                }
            }
        };
        Ok(Answer::Count(self.seen.len()))
    }

    fn seen(&self, from: usize, len: usize) -> Result<Answer, Failure> {
        let bytes = from
            .checked_add(len)
            .filter(|_| len <= MAX_BYTES)
            .and_then(|end| self.seen.get(from..end));
        let wrong = || {
            let all = self.seen.len();
            Failure::Wrong(format!(
                "{len} bytes from byte {from}, of {all}; at most {MAX_BYTES} go at a time"
            ))
        };
        let bytes = bytes.ok_or_else(wrong)?;
        Ok(Answer::Bytes(bytes.to_vec()))
    }

    fn paint(&mut self, id: HeldId, picture: u32) -> Result<Answer, Failure> {
        let Holding { held, pages, .. } = self.held.get_mut(id)?;
        if held.paint(&draw(picture, *pages))? {
            return Ok(Answer::Done);
        }
        let what = format!("{id} writes nothing to what it holds");
        Err(Failure::Wrong(what))
    }

    fn release(&mut self, id: HeldId) -> Result<Answer, Failure> {
        let Holding { held, hold, .. } = self.held.take(id)?;
        self.timeline.log(Event::HoldReleasing { hold });
        let released = held.release();
        self.timeline.log(Event::HoldReleased {
            hold,
            error: released.as_ref().err().map(ToString::to_string),
        });
        released?;
        Ok(Answer::Done)
    }

    fn store(&mut self, order: StoreOrder) -> Result<Answer, Failure> {
        let store = match &mut self.store {
            Some(store) => store,
            none => none.insert(StoreHand::new(&*self.platform)?),
        };
        Ok(Answer::Bytes(store.perform(order)?))
    }

    fn evtchn(&mut self) -> Result<&dyn Evtchn, Failure> {
        let evtchn = match self.evtchn.take() {
            Some(evtchn) => evtchn,
            None => self.platform.open_evtchn()?,
        };
        Ok(&**self.evtchn.insert(evtchn))
    }
}

fn patience(ms: u64) -> Duration {
    Duration::from_millis(ms.min(UNTIL_IT_COMES))
}
