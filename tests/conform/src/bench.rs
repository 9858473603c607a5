//! What a rule gets to work with: its own domain's platform, a partner in another domain, and
//! further processes in its own.

use super::actor::{Answer, Order, Place, Thing};
use super::process::{ActorChild, Member};
use super::relay::Relayed;
use super::things::{PATIENCE, copy_status, must};
use super::{Outcome, Stop};
use libgnt::platform::GuestType;
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::Config;
use libgnt::types::GrantStatus;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Platform, SharedPages};
use pv_harness::holder::{Export, Held, HoldError, HoldName, holder};
use std::cell::OnceCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often state that announces itself to nobody is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who answers orders.
#[derive(Debug)]
pub enum Partner {
    /// A process started here.
    Child(ActorChild),
    /// A process of another domain, through xenstore.
    Relayed(Relayed),
}

/// Pages that the partner granted to this domain.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The partner's name for them.
    pub share: usize,
    /// What to map.
    pub grants: Vec<ForeignGrant>,
}

/// The workbench of one rule.
#[derive(Debug)]
pub struct Bench {
    platform: Arc<dyn Platform>,
    member: Member,
    own: DomId,
    peer: DomId,
    partner: OnceCell<Partner>,
}

impl Bench {
    pub(super) fn new(
        platform: Arc<dyn Platform>,
        member: Member,
        own: DomId,
        peer: DomId,
    ) -> Bench {
        Bench {
            platform,
            member,
            own,
            peer,
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
            Partner::Child(ActorChild::start(&self.member.of(self.peer))?)
        } else {
            Partner::Relayed(Relayed::begin(&*self.platform, self.own, self.peer)?)
        };
        Ok(self.partner.get_or_init(|| partner))
    }

    /// Another process of this domain.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn neighbour(&self) -> Outcome<Partner> {
        Ok(Partner::Child(ActorChild::start(&self.member)?))
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
    pub fn granted_page(&self) -> Outcome<(usize, ForeignGrant)> {
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
    /// [`Stop::NotHere`] on a PV guest, whose kernel that damages.
    pub fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Outcome<Box<dyn Held>> {
        let export = export_hold(&self.platform, pages, first, count)?;
        Ok(holder(export.kind, &self.platform, false)?.import(export)?)
    }

    /// Takes over a hold of a neighbour's first page of a mapping.
    ///
    /// # Errors
    /// As [`Bench::hold`].
    pub fn take_hold(&self, from: &Partner, map: usize) -> Outcome<Box<dyn Held>> {
        let Answer::Held(words, paths) = from.tell(&Order::Hold(map))? else {
            return Err(Stop::Broken("the neighbour holds nothing".into()));
        };
        take_hold(&self.platform, words, &paths)
    }

    /// A neighbour takes over a hold of the first page of a mapping here, and is the only one to
    /// have it.
    ///
    /// # Errors
    /// As [`Bench::hold`].
    pub fn give_hold(&self, to: &Partner, pages: &SharedPages) -> Outcome {
        let export = export_hold(&self.platform, pages, 0, 1)?;
        let (words, paths) = hold_to_take(&export);
        to.tell(&Order::TakeHold(words, paths)).map(drop)
    }

    /// True on a PV guest.
    ///
    /// # Errors
    /// The platform's.
    pub fn is_pv(&self) -> Outcome<bool> {
        Ok(self.platform.guest_type()? == GuestType::Pv)
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
    /// Gives an order. What the platform refused is an answer, too.
    ///
    /// # Errors
    /// [`Stop::Broken`]: the partner is not there.
    pub fn ask(&self, order: &Order) -> Outcome<Answer> {
        match self {
            Partner::Child(child) => child.ask(order),
            Partner::Relayed(relayed) => relayed.ask(order),
        }
    }

    /// Kills the process, and waits until it is gone.
    ///
    /// # Errors
    /// [`Stop::Broken`].
    pub fn kill(&self) -> Outcome {
        match self {
            Partner::Child(child) => child.kill(),
            Partner::Relayed(relayed) => relayed.kill(),
        }
    }

    /// Gives an order that must be carried out.
    ///
    /// # Errors
    /// [`Stop::Differs`]: the platform refused.
    pub fn tell(&self, order: &Order) -> Outcome<Answer> {
        self.ask(order)?.accepted()
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
    ) -> Outcome<(usize, Vec<GrantRef>)> {
        match self.tell(&Order::Share { to, pages, access })? {
            Answer::Made(share, grefs) => Ok((share, grefs)),
            other => Err(nonsense(&other)),
        }
    }

    /// Maps grants.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn map(&self, grants: Vec<ForeignGrant>, access: Access) -> Outcome<usize> {
        match self.tell(&Order::Map { grants, access })? {
            Answer::Made(map, _) => Ok(map),
            other => Err(nonsense(&other)),
        }
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn peek(&self, thing: Thing, offset: usize, len: usize) -> Outcome<Vec<u8>> {
        match self.tell(&Order::Peek(Place { thing, offset }, len))? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => Err(nonsense(&other)),
        }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn poke(&self, thing: Thing, offset: usize, bytes: &[u8]) -> Outcome {
        self.tell(&Order::Poke(Place { thing, offset }, bytes.to_vec()))
            .map(drop)
    }

    /// `DEALLOC_GREF` of a whole share.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn dealloc(&self, share: usize) -> Outcome {
        self.tell(&Order::Dealloc(share)).map(drop)
    }

    /// Deallocates and unmaps a share: from here on only the peer's use keeps its grants.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn let_go(&self, share: usize) -> Outcome {
        self.dealloc(share)?;
        self.tell(&Order::Munmap(Thing::Share(share))).map(drop)
    }

    /// Binds a port.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn bind(&self, order: &Order) -> Outcome<EvtchnPort> {
        match self.tell(order)? {
            Answer::Port(port) => Ok(port),
            other => Err(nonsense(&other)),
        }
    }

    /// Waits for events.
    ///
    /// # Errors
    /// As [`Partner::tell`].
    pub fn hear(&self, wait: Duration) -> Outcome<Vec<EvtchnPort>> {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match self.tell(&Order::Hear(ms))? {
            Answer::Ports(ports) => Ok(ports),
            other => Err(nonsense(&other)),
        }
    }
}

fn hold_name(platform: &Arc<dyn Platform>) -> HoldName {
    if SimPlatform::of(&**platform).is_some() {
        HoldName::Pin
    } else {
        HoldName::Pipe
    }
}

/// Holds pages for somebody to take over.
///
/// # Errors
/// The holder's.
pub(super) fn export_hold(
    platform: &Arc<dyn Platform>,
    pages: &SharedPages,
    first: usize,
    count: usize,
) -> Result<Export, HoldError> {
    holder(hold_name(platform), platform, false)?.hold(pages, first, count)
}

/// What another process of the same domain needs to take a hold over: the kind's words, and where
/// its descriptors can be opened.
pub(super) fn hold_to_take(export: &Export) -> (Vec<u64>, Vec<String>) {
    let here = std::process::id();
    let path = |fd: &OwnedFd| format!("/proc/{here}/fd/{}", fd.as_raw_fd());
    let paths = export.fds.iter().map(path).collect();
    (export.words.clone(), paths)
}

/// Takes over another process's hold of one page.
///
/// # Errors
/// [`Stop::Broken`]: it cannot be opened. The holder's.
pub(super) fn take_hold(
    platform: &Arc<dyn Platform>,
    words: Vec<u64>,
    paths: &[String],
) -> Outcome<Box<dyn Held>> {
    let open = |path: &String| {
        let file = std::fs::File::open(path);
        file.map(OwnedFd::from)
            .map_err(|error| Stop::Broken(format!("{path}: {error}")))
    };
    let export = Export {
        kind: hold_name(platform),
        pages: 1,
        words,
        fds: paths.iter().map(open).collect::<Outcome<Vec<_>>>()?,
    };
    Ok(holder(export.kind, platform, false)?.import(export)?)
}

/// An answer to another question.
pub(super) fn nonsense(answer: &Answer) -> Stop {
    Stop::Broken(format!("the partner answered {answer:?}"))
}
