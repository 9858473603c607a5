//! The back end: maps the page, and writes each text back.

use super::front::{PAGE, PORT, TEXT_MAX};
use super::page;
use libgnt::event::{Channel, Events};
use libgnt::grant::{Ledger, Map, Mapper};
use libgnt::stop::Stop;
use libgnt::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, Platform};
use mio::{Interest, Poll, Token, Waker};
use pv_xenstore::Client;
use pv_xenstore::keeper::News;
use pv_xenstore::xenbus::device::{BackDevice, BackNews, BackProtocol, BackSetting};
use pv_xenstore::xenbus::feature::{Node, Published, ReadError};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Echo;

/// What a front end announced.
#[derive(Debug)]
pub struct Offer {
    page: GrantRef,
    port: EvtchnPort,
}

impl BackProtocol for Echo {
    type Offer = Offer;
    type Obstacle = Infallible;

    fn features(&self) -> Vec<Node> {
        vec![TEXT_MAX.says(page::TEXT_MAX as u32)]
    }

    /// All that counts is in the page: an earlier back end's ring is as good as a new one.
    fn read_offer(
        &mut self,
        front: &Published<'_>,
        _: &Published<'_>,
        _: bool,
    ) -> Result<Offer, ReadError> {
        Ok(Offer {
            page: GrantRef(front.required(PAGE)?),
            port: EvtchnPort(front.required(PORT)?),
        })
    }
}

/// A front end's page, mapped.
struct Ring {
    map: Map,
    channel: Channel,
}

/// One device's back end.
pub struct Back {
    poll: Poll,
    events: Events,
    mapper: Mapper,
    device: BackDevice<Echo>,
    front: DomId,
    ring: Option<Ring>,
    serving: bool,
    stopping: bool,
}

const XENSTORE: Token = Token(0);
const EVENTS: Token = Token(1);
const STOP: Token = Token(2);
/// How long a front end may take to close when this end is asked to.
const CLOSE: Duration = Duration::from_secs(5);
/// How long the hypervisor may take to unmap a page that nobody holds.
const UNMAP: Duration = Duration::from_secs(10);

impl Back {
    /// Serves a front end's domain its device 0.
    ///
    /// # Errors
    /// There is no such device; the platform's.
    pub fn open(
        platform: Arc<dyn Platform>,
        front_domid: DomId,
    ) -> Result<Back, Box<dyn Error + Send + Sync>> {
        let client = Client::connect(&*platform)?;
        let own: u16 = client.read_parsed("domid")?;
        let back = format!("/local/domain/{own}/backend/echo/{}/0", front_domid.0);
        let front = client.read_string(&format!("{back}/frontend"))?;
        let mapper = Mapper::open(Arc::clone(&platform), Ledger::new())?;
        mapper.refuse_grants_of(DomId(own));
        let mut events = Events::open(&*platform)?;
        let again = Arc::clone(&platform);
        let open = Box::new(move || Client::connect(&*again));
        let mut device = BackDevice::start(Echo, BackSetting { front, back }, (client, open))?;
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut device, XENSTORE, Interest::READABLE)?;
        registry.register(&mut events, EVENTS, Interest::READABLE)?;
        Ok(Back {
            poll,
            events,
            mapper,
            device,
            front: front_domid,
            ring: None,
            serving: false,
            stopping: false,
        })
    }

    /// Serves until the device is gone, or `stop` is asked; then closes in order.
    ///
    /// # Errors
    /// xenstore's or the platform's.
    pub fn run(mut self, stop: &Stop) -> Result<(), Box<dyn Error + Send + Sync>> {
        let waker = Arc::new(Waker::new(self.poll.registry(), STOP)?);
        stop.wakes(&waker);
        let mut happened = mio::Events::with_capacity(4);
        loop {
            if stop.is_asked() && !std::mem::replace(&mut self.stopping, true) {
                self.device.stop(CLOSE);
            }
            loop {
                match self.device.news()? {
                    News::Piece(news) => self.obey(news)?,
                    News::Nothing => break,
                    News::Over => return Ok(()),
                }
            }
            self.serve()?;
            match self.poll.poll(&mut happened, None) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error)?,
                _ => {}
            }
            let mut ports = Vec::new();
            while self.events.read(&mut ports)? > 0 {}
            self.events.unmask(&ports)?;
        }
    }

    fn obey(&mut self, news: BackNews<Echo>) -> Result<(), Box<dyn Error + Send + Sync>> {
        match news {
            BackNews::Connect(offer) => match self.map(&offer) {
                Ok(ring) => {
                    self.ring = Some(ring);
                    self.device.connected();
                }
                Err(error) => self.device.connect_failed(error.to_string()),
            },
            BackNews::Serve => self.serving = true,
            BackNews::Free { .. } => {
                self.serving = false;
                if let Some(Ring { map, .. }) = self.ring.take() {
                    map.unmap()?.wait(UNMAP)?;
                }
                self.device.freed();
            }
            BackNews::Waiting | BackNews::FrontGone(_) | BackNews::Fatal(_) | BackNews::Closed => {}
            BackNews::Taken(never) => match never {},
        }
        Ok(())
    }

    fn map(&self, offer: &Offer) -> libgnt::Result<Ring> {
        let grant = ForeignGrant {
            domid: self.front,
            gref: offer.page,
        };
        let map = self.mapper.map(&[grant], Access::ReadWrite)?;
        let channel = self.events.bind_interdomain(self.front, offer.port)?;
        Ok(Ring { map, channel })
    }

    fn serve(&mut self) -> libgnt::Result<()> {
        let Some(ring) = self.ring.as_ref().filter(|_| self.serving) else {
            return Ok(());
        };
        match page::answer(ring.map.pages()) {
            Ok(true) => ring.channel.notify(),
            Ok(false) => Ok(()),
            Err(why) => {
                self.serving = false;
                self.device.fatal(why);
                Ok(())
            }
        }
    }
}
