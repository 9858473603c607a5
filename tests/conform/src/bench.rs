//! What a rule gets to work with: its own domain's platform, a partner in another domain, and
//! further processes in its own.

use super::member::{Member, StartHand, broken};
use super::outcome::{Outcome, Stop};
use super::relay::Relayed;
use super::things::{PATIENCE, must};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::types::GrantStatus;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Platform, SharedPages};
use pv_harness::hand::device::copy_status;
use pv_harness::hand::{Answer, DeviceOrder, Link, Loan, MapId, Order, Pages, RemoteHand, ShareId};
use pv_harness::holder::{Held, holder};
use pv_harness::memory;
use pv_harness::player::HandProcess;
use pv_harness::settings::HoldName;
use rustix::mm::MprotectFlags;
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often state that announces itself to nobody is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A process in another domain, or another one here, that does what a rule tells it.
#[derive(Debug)]
pub struct Partner {
    hand: RefCell<RemoteHand<PartnerLink>>,
}

/// How a partner is reached.
#[derive(Debug)]
enum PartnerLink {
    /// A process started here.
    Child(HandProcess),
    /// A process of another domain, through xenstore.
    Relayed(Relayed),
}

impl Link for PartnerLink {
    type Lost = Stop;

    fn send(&mut self, order: &Order) -> Outcome {
        match self {
            PartnerLink::Child(child) => child.send(order).map_err(broken),
            PartnerLink::Relayed(relayed) => relayed.send(order),
        }
    }

    fn receive(&mut self) -> Outcome<Answer> {
        match self {
            PartnerLink::Child(child) => child.receive().map_err(broken),
            PartnerLink::Relayed(relayed) => relayed.receive(),
        }
    }
}

/// Pages that the partner granted to this domain.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The partner's name for them.
    pub share: ShareId,
    /// What to map.
    pub grants: Vec<ForeignGrant>,
}

/// The workbench of one rule.
#[derive(Debug)]
pub struct Bench {
    platform: Arc<dyn Platform>,
    member: Member,
    start: StartHand,
    own: DomId,
    peer: DomId,
    damage: bool,
    partner: OnceCell<Partner>,
}

impl Bench {
    pub(super) fn new(
        platform: Arc<dyn Platform>,
        member: Member,
        start: StartHand,
        (own, peer): (DomId, DomId),
        damage: bool,
    ) -> Bench {
        Bench {
            platform,
            member,
            start,
            own,
            peer,
            damage,
            partner: OnceCell::new(),
        }
    }

    /// This domain's devices.
    pub fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// True on the simulator.
    pub fn simulated(&self) -> bool {
        SimPlatform::of(&*self.platform).is_some()
    }

    /// This domain.
    pub fn own(&self) -> DomId {
        self.own
    }

    /// The partner's domain.
    pub fn peer_id(&self) -> DomId {
        self.peer
    }

    /// The partner, started when first asked for.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn peer(&self) -> Outcome<&Partner> {
        if let Some(partner) = self.partner.get() {
            return Ok(partner);
        }
        let partner = if self.simulated() {
            Partner::started(self.member.of(self.peer).start_hand(self.start)?)
        } else {
            let relayed = Relayed::begin(&*self.platform, self.own, self.peer)?;
            Partner::over(PartnerLink::Relayed(relayed))
        };
        Ok(self.partner.get_or_init(|| partner))
    }

    /// Another process of this domain.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn neighbour(&self) -> Outcome<Partner> {
        Ok(Partner::started(self.member.start_hand(self.start)?))
    }

    /// The partner grants zeroed pages to this domain.
    ///
    /// # Errors
    /// The platform's.
    pub fn granted(&self, pages: usize, access: Access) -> Outcome<Granted> {
        let (share, grefs) = self.peer()?.share(self.own, pages, access)?;
        let grants = grefs.into_iter().map(|gref| self.of_peer(gref)).collect();
        Ok(Granted { share, grants })
    }

    /// The partner grants one writable page to this domain.
    ///
    /// # Errors
    /// The platform's.
    pub fn granted_page(&self) -> Outcome<(ShareId, ForeignGrant)> {
        let granted = self.granted(1, Access::ReadWrite)?;
        Ok((granted.share, granted.grants[0]))
    }

    /// A reference of the partner's.
    pub fn of_peer(&self, gref: GrantRef) -> ForeignGrant {
        ForeignGrant {
            domid: self.peer,
            gref,
        }
    }

    /// The grant serves this domain still: its granter wants it back, or not, but has not got it.
    ///
    /// # Errors
    /// [`Stop::Differs`].
    pub fn serves(&self, grant: ForeignGrant, why: &str) -> Outcome {
        let status = copy_status(self.platform(), grant)?;
        must(
            &format!("{grant} still serves, because {why} ({status})"),
            status.is_okay(),
        )
    }

    /// The grant, which its granter has deallocated, ends: at once, or when the granter's kernel
    /// looks again, which it does every second.
    ///
    /// # Errors
    /// [`Stop::Differs`]: it does not.
    pub fn ends(&self, grant: ForeignGrant, why: &str) -> Outcome {
        let begun = Instant::now();
        loop {
            let status = copy_status(self.platform(), grant)?;
            if status == GrantStatus::GENERAL_ERROR {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let what =
                    format!("{grant} must end, because {why}, but after {PATIENCE:?}: {status}");
                return Err(Stop::Differs(what));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Holds pages of a mapping as a third consumer would: on a real kernel with a pipe, on the
    /// simulator with its memory manager.
    ///
    /// # Errors
    /// [`Stop::NotHere`] on a PV guest, whose kernel that damages, unless that is allowed.
    pub fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Outcome<Box<dyn Held>> {
        let holder = holder(self.hold_name(), &self.platform, self.damage)?;
        Ok(holder.import(holder.hold(pages, first, count)?)?)
    }

    /// Takes over a hold of a neighbour's first page of a mapping.
    ///
    /// # Errors
    /// As [`Bench::hold`].
    pub fn take_hold(&self, from: &Partner, map: MapId) -> Outcome<Box<dyn Held>> {
        let (_, loan) = from.hand.borrow_mut().lend(map, self.hold_name(), 1)?;
        let holder = holder(self.hold_name(), &self.platform, false)?;
        Ok(loan.take(&*holder)?)
    }

    /// A neighbour takes over a hold of the first page of a mapping here, and is the only one to
    /// have it.
    ///
    /// # Errors
    /// As [`Bench::hold`].
    pub fn give_hold(&self, to: &Partner, pages: &SharedPages) -> Outcome {
        let export = holder(self.hold_name(), &self.platform, false)?.hold(pages, 0, 1)?;
        let loan = Loan::of(&export)?;
        Ok(to.hand.borrow_mut().attach(loan).map(drop)?)
    }

    fn hold_name(&self) -> HoldName {
        if self.simulated() {
            HoldName::Pin
        } else {
            HoldName::Pipe
        }
    }

    /// mprotect of some pages of a mapping of gntdev's.
    ///
    /// # Errors
    /// The call's; the platform's.
    pub fn protect(
        &self,
        pages: &SharedPages,
        first: usize,
        count: usize,
        flags: MprotectFlags,
    ) -> Outcome {
        memory::protect(pages, first, count, flags)?;
        self.tell_sim(|sim| sim.protected(pages, first, count))
    }

    /// munmap of a mapping's first page, as [`memory::cut_first_page`] does it.
    ///
    /// # Errors
    /// The call's; the platform's.
    pub fn cut_first_page(&self, pages: &SharedPages) -> Outcome {
        memory::cut_first_page(pages)?;
        self.tell_sim(|sim| sim.cut(pages, 0, 1))
    }

    /// `MADV_DONTNEED` of a mapping's first page.
    ///
    /// # Errors
    /// The call's; the platform's.
    pub fn drop_first_page(&self, pages: &SharedPages) -> Outcome {
        memory::drop_first_page(pages)?;
        self.tell_sim(|sim| sim.dropped(pages, 0, 1))
    }

    /// The simulated kernel does not see what a process does to its own mappings.
    fn tell_sim(&self, tell: impl FnOnce(&SimPlatform) -> libgnt::Result<()>) -> Outcome {
        match SimPlatform::of(&*self.platform) {
            Some(sim) => Ok(tell(sim)?),
            None => Ok(()),
        }
    }

    /// `xen_gntdev.limit`
    pub fn gntdev_limit(&self) -> Outcome<usize> {
        self.limit("xen_gntdev", Config::default().gntdev_limit)
    }

    /// `xen_gntalloc.limit`
    pub fn gntalloc_limit(&self) -> Outcome<usize> {
        self.limit("xen_gntalloc", Config::default().gntalloc_limit)
    }

    fn limit(&self, module: &str, simulated: u32) -> Outcome<usize> {
        if self.simulated() {
            return Ok(simulated as usize);
        }
        let path = format!("/sys/module/{module}/parameters/limit");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Stop::Broken(format!("{path}: {error}")))?;
        text.trim()
            .parse()
            .map_err(|error| Stop::Broken(format!("{path}: {error}")))
    }
}

impl Partner {
    fn over(link: PartnerLink) -> Partner {
        Partner {
            hand: RefCell::new(RemoteHand::over(link)),
        }
    }

    fn started(process: HandProcess) -> Partner {
        Partner::over(PartnerLink::Child(process))
    }

    /// Gives an order. What the platform refused is an answer, too.
    ///
    /// # Errors
    /// [`Stop::Broken`]: the partner is not there.
    pub fn ask(&self, order: &Order) -> Outcome<Answer> {
        self.hand.borrow_mut().ask(order)
    }

    /// Kills the process, and waits until it is gone.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn kill(&self) -> Outcome {
        match self.hand.borrow_mut().link() {
            PartnerLink::Child(child) => child.kill().map_err(broken),
            PartnerLink::Relayed(relayed) => relayed.kill(),
        }
    }

    /// Gives an order that must be carried out.
    ///
    /// # Errors
    /// [`Stop::Differs`]: the platform refused.
    pub fn tell(&self, order: &Order) -> Outcome<Answer> {
        Ok(self.hand.borrow_mut().tell(order)?)
    }

    /// A system call that must be carried out, and has nothing to answer.
    fn call(&self, call: DeviceOrder) -> Outcome {
        Ok(self.hand.borrow_mut().done(&Order::Device(call))?)
    }

    /// Shares pages with a domain.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn share(
        &self,
        to: DomId,
        pages: usize,
        access: Access,
    ) -> Outcome<(ShareId, Vec<GrantRef>)> {
        let alloc = Order::Device(DeviceOrder::Alloc { to, pages, access });
        Ok(self.hand.borrow_mut().shared(&alloc)?)
    }

    /// Maps grants.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn map(&self, grants: Vec<ForeignGrant>, access: Access) -> Outcome<MapId> {
        let map = Order::Device(DeviceOrder::Map { grants, access });
        Ok(self.hand.borrow_mut().mapped(&map)?)
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn peek(&self, pages: Pages, offset: usize, len: usize) -> Outcome<Vec<u8>> {
        Ok(self.hand.borrow_mut().read(pages.at(offset), len)?)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn poke(&self, pages: Pages, offset: usize, bytes: &[u8]) -> Outcome {
        Ok(self.hand.borrow_mut().write(pages.at(offset), bytes)?)
    }

    /// `DEALLOC_GREF` of a whole share.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn dealloc(&self, share: ShareId) -> Outcome {
        self.call(DeviceOrder::Dealloc(share))
    }

    /// munmap of a share or a mapping.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn munmap(&self, pages: Pages) -> Outcome {
        self.call(DeviceOrder::Munmap(pages))
    }

    /// `UNMAP_GRANT_REF` of a whole mapping.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn give_back(&self, map: MapId) -> Outcome {
        self.call(DeviceOrder::Unmap(map))
    }

    /// Deallocates and unmaps a share: from here on only the peer's use keeps its grants.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn let_go(&self, share: ShareId) -> Outcome {
        self.dealloc(share)?;
        self.munmap(Pages::Share(share))
    }

    /// Binds a port.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn bind(&self, order: &Order) -> Outcome<EvtchnPort> {
        Ok(self.hand.borrow_mut().bind(order)?)
    }

    /// Waits for events.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn hear(&self, wait: Duration) -> Outcome<Vec<EvtchnPort>> {
        Ok(self.hand.borrow_mut().hear(wait.min(PATIENCE))?)
    }
}
