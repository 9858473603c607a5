//! How connections begin and end.

mod closing;

use crate::bus::{Bus, Order};
use crate::config::Mode;
use crate::data::DataPath;
use crate::error::BackError;
use crate::link::{Bell, DIED, Link, LinkError, Nobody, Offer};
use crate::machine::{DataMode, Input};
use crate::observe::BackEventKind;
use crate::record::Record;
use libgnt::DomId;
use libgnt::grant::Mapper;
use libgnt::proto::blkif::Request;
use libgnt::stop::Stop;
use pv_xenstore::keeper::News;
use std::time::{Duration, Instant};

/// What the configuration says of connections: as in [`BackConfig`](crate::BackConfig).
#[derive(Clone, Debug)]
pub(crate) struct Course {
    pub mode: Mode,
    pub stop: Stop,
    pub close: Duration,
    pub hand_over: bool,
}

/// The device's connections, one after the other.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub bell: Bell,
    pub mapper: Mapper,
    pub front: DomId,
    /// xenstore's side, on a thread of its own.
    pub bus: Bus,
    pub data: DataPath,
    pub link: Option<Link>,
    /// While there is no link, which has it else.
    pub record: Option<Record>,
    /// What an earlier back end took off the link's ring and did not answer.
    pub left: Vec<Request>,
    /// Both sides know of the link: requests are taken from it.
    pub serving: bool,
    /// The link's front may only read.
    pub read_only: bool,
    course: Course,
    /// The link is left to the next back end when this has passed.
    pub handing_over_until: Option<Instant>,
    /// The link is cut when this has passed.
    pub draining_until: Option<Instant>,
    /// xenstore's machine waits for the end of the disk's work on a front's pages.
    pub freeing: bool,
    /// When to say why that takes so long, and whether that was said.
    pub explain_at: Option<Instant>,
    pub explained: bool,
    /// The device closes for a reason that stands in xenstore.
    pub failed: bool,
    pub stopping: bool,
    /// When the end does not wait for xenstore any more.
    pub give_up_at: Option<Instant>,
    /// xenstore's side has ended, or was given up.
    pub over: bool,
}

impl Lifecycle {
    /// No connection yet.
    pub fn new(
        config: Course,
        front: DomId,
        (bell, mapper): (Bell, Mapper),
        bus: Bus,
        data: DataPath,
        record: Record,
    ) -> Self {
        Lifecycle {
            bell,
            mapper,
            front,
            bus,
            data,
            link: None,
            record: Some(record),
            left: Vec::new(),
            serving: false,
            read_only: false,
            course: config,
            handing_over_until: None,
            draining_until: None,
            freeing: false,
            explain_at: None,
            explained: false,
            failed: false,
            stopping: false,
            give_up_at: None,
            over: false,
        }
    }

    /// Takes in xenstore's news and does what follows.
    pub fn obey_xenstore(&mut self) -> Result<(), BackError> {
        loop {
            match self.bus.news() {
                Ok(News::Piece(order)) => self.obey(order)?,
                Ok(News::Nothing) => return Ok(()),
                Ok(News::Over) => {
                    self.over = true;
                    return Ok(());
                }
                // It was asked to end, and told how long it may try.
                Err(error) if self.stopping => {
                    self.give_up(&error);
                    return Ok(());
                }
                Err(error) => {
                    self.over = true;
                    return Err(error.into());
                }
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), BackError> {
        match order {
            Order::Waiting => {
                tracing::info!(front = %self.front, "waiting for a front end");
                self.data.tell.tell(|| BackEventKind::Waiting);
            }
            Order::Connect(offer) => self.connect(&offer)?,
            Order::Serve => self.begin_service(),
            Order::Free { answer_first: true } => self.drain(),
            Order::Free {
                answer_first: false,
            } => self.cut_link(),
            Order::FrontGone(how) => {
                tracing::warn!(front = %self.front, "the front end is gone: {how}");
                self.data.tell.tell(|| BackEventKind::FrontGone { how });
            }
            Order::Fatal(reason) => {
                tracing::error!(front = %self.front, "the device closes: {reason}");
                self.failed = true;
                self.data.tell.tell(|| BackEventKind::Fatal { reason });
            }
            Order::Closed => {
                let zombies = self.data.machine.zombies();
                tracing::info!(front = %self.front, zombies, "closed");
                self.data.tell.tell(|| BackEventKind::Closed { zombies });
            }
            Order::Taken(driver) => {
                self.over = true;
                return Err(driver.into());
            }
        }
        Ok(())
    }

    fn connect(&mut self, offer: &Offer) -> Result<(), BackError> {
        let mode = match self.course.mode {
            Mode::Map => DataMode::Map,
            Mode::Copy => DataMode::Copy,
            Mode::Auto | Mode::Persistent if offer.persistent => DataMode::Persistent,
            Mode::Auto => DataMode::Map,
            Mode::Persistent => {
                tracing::warn!("the front end does not want persistent grants: maps instead");
                DataMode::Map
            }
        };
        if offer.take_over && !self.data.outlives_us() {
            let why = LinkError::DiskGone.to_string();
            self.bus.connect_failed(why);
            return Ok(());
        }
        // The machine asks only when the last front's things are freed.
        if !self.data.is_drained() {
            let why = LinkError::NotClosed.to_string();
            self.bus.connect_failed(why);
            return Ok(());
        }
        let read_only = offer.read_only;
        self.data.feed(Input::Open { mode, read_only }, &mut Nobody);
        let (mapper, bell) = (&self.mapper, &self.bell);
        match Link::connect(mapper, bell, self.front, offer, &mut self.record) {
            Ok((link, left)) => {
                if offer.take_over {
                    tracing::info!(front = %self.front, requests = left.len(), "took over a ring in service");
                }
                // The first look at the ring is ours: requests may be there, an event need not be.
                self.bell.forget();
                self.link = Some(link);
                self.left = left;
                self.read_only = offer.read_only;
                self.bus.connected();
                Ok(())
            }
            Err(error) => {
                self.data.feed(Input::PeerGone, &mut Nobody);
                match error {
                    // Not the front's fault, and nothing works any more.
                    LinkError::Xen(error @ libgnt::Error::HostGone { .. }) => Err(error.into()),
                    LinkError::Served => Err(BackError::Served(error.to_string())),
                    error => {
                        self.bus.connect_failed(error.to_string());
                        Ok(())
                    }
                }
            }
        }
    }

    fn begin_service(&mut self) {
        let mode = self.data.machine.mode();
        let read_only = self.read_only;
        tracing::info!(front = %self.front, ?mode, read_only, "connected");
        self.data.tell.tell(|| BackEventKind::Connected { mode });
        self.failed = false;
        let Some(link) = &mut self.link else { return };
        self.serving = true;
        for request in self.left.drain(..) {
            self.data.feed(Input::Request(request), link);
        }
        link.publish();
        if !link.front_is_alive() {
            // Its event came before we served it.
            self.front_died(DIED);
        }
    }
}
