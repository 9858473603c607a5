//! The front end: a page and an event channel, and texts that it wants back.

use super::page;
use libgnt::event::{Channel, Events};
use libgnt::grant::{EndAccessError, Granter, Ledger, Share};
use libgnt::{Access, DomId, Platform};
use mio::{Interest, Poll, Token};
use pv_xenstore::Client;
use pv_xenstore::xenbus::device::{FrontDevice, FrontNews, FrontProtocol, FrontSetting, Link};
use pv_xenstore::xenbus::feature::{Feature, Node, Published, ReadError};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The nodes of the ring.
pub const PAGE: &str = "page-ref";
/// The event channel's port.
pub const PORT: &str = "event-channel";
/// The longest text that an end takes; an end of another make may say nothing, and takes a small one.
pub const TEXT_MAX: Feature<u32> = Feature::new("max-text", 64);

#[derive(Debug)]
pub struct Echo;

impl FrontProtocol for Echo {
    /// The longest text, in bytes.
    type Back = u32;
    type Change = Infallible;
    type Obstacle = Infallible;

    fn ring_nodes(&self) -> &[&'static str] {
        &[PAGE, PORT]
    }

    fn read_back(&mut self, back: &Published<'_>) -> Result<u32, ReadError> {
        TEXT_MAX.agree(page::TEXT_MAX as u32, back)
    }
}

/// One ring.
struct Ring {
    share: Share,
    channel: Channel,
}

/// The front end of `device/echo/0`.
pub struct Front {
    platform: Arc<dyn Platform>,
    poll: Poll,
    events: Events,
    granter: Granter,
    device: FrontDevice<Echo>,
    ring: Option<Ring>,
    /// Rings that a back end still maps, until it lets go of them.
    left: Vec<Share>,
    /// The longest text, while there is a back end.
    text_max: Option<u32>,
    number: u32,
    /// How often a back end went into service.
    pub connections: u32,
}

const XENSTORE: Token = Token(0);
const EVENTS: Token = Token(1);

impl Front {
    /// Finds the device that a toolstack made.
    ///
    /// # Errors
    /// There is none; the platform's.
    pub fn open(platform: Arc<dyn Platform>) -> Result<Front, Box<dyn Error>> {
        let directory = "device/echo/0";
        let client = Client::connect(&*platform)?;
        let link = Link::read(&client, directory)?;
        let setting = FrontSetting {
            front: directory.into(),
            attempts_max: Some(8),
            patience: None,
        };
        let again = Arc::clone(&platform);
        let open = Box::new(move || Client::connect(&*again));
        let mut device = FrontDevice::start(Echo, setting, link, (client, open))?;
        let mut events = Events::open(&*platform)?;
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(device.source(), XENSTORE, Interest::READABLE)?;
        registry.register(&mut events, EVENTS, Interest::READABLE)?;
        Ok(Front {
            granter: Granter::open(Arc::clone(&platform), Ledger::new())?,
            platform,
            poll,
            events,
            device,
            ring: None,
            left: Vec::new(),
            text_max: None,
            number: 0,
            connections: 0,
        })
    }

    /// Sends a text and waits for it to come back, whatever happens to the back end meanwhile.
    ///
    /// # Errors
    /// Not before `deadline`; the device is gone; the back end breaks the rules.
    pub fn echo(&mut self, text: &[u8], deadline: Instant) -> Result<Vec<u8>, Box<dyn Error>> {
        self.number = self.number.wrapping_add(1).max(1);
        let mut asked = false;
        loop {
            let before = self.connections;
            self.settle()?;
            asked &= before == self.connections;
            if let (Some(ring), Some(text_max)) = (&self.ring, self.text_max) {
                if text.len() > text_max as usize {
                    return Err(format!("the back end takes {text_max} bytes at most").into());
                }
                if !asked {
                    page::ask(ring.share.pages(), self.number, text);
                    ring.channel.notify()?;
                    asked = true;
                }
                if let Some(answer) = page::answered(ring.share.pages(), self.number)? {
                    return Ok(answer);
                }
            }
            self.wait(deadline)?;
        }
    }

    /// Does what xenstore's news ask for, and waits until something more happens.
    ///
    /// # Errors
    /// As [`Front::echo`].
    #[allow(dead_code, reason = "for the test")]
    pub fn attend(&mut self, deadline: Instant) -> Result<(), Box<dyn Error>> {
        let before = self.connections;
        self.settle()?;
        match self.connections == before {
            true => self.wait(deadline),
            false => Ok(()),
        }
    }

    /// Waits until something happens.
    fn wait(&mut self, deadline: Instant) -> Result<(), Box<dyn Error>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("nothing came back in time; {}", self.device.situation()).into());
        }
        let mut happened = mio::Events::with_capacity(2);
        match self.poll.poll(&mut happened, Some(left)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error)?,
            _ => {}
        }
        let mut ports = Vec::new();
        while self.events.read(&mut ports)? > 0 {}
        self.events.unmask(&ports)?;
        Ok(())
    }

    /// Does what xenstore's news ask for.
    fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(news) = self.device.next_news()? {
            match news {
                FrontNews::Share { back } => match self.share(back) {
                    Ok(nodes) => self.device.ring_ready(nodes),
                    Err(error) => self.device.ring_failed(error.to_string()),
                },
                FrontNews::Connected(text_max) => {
                    self.text_max = Some(text_max);
                    self.connections += 1;
                }
                FrontNews::Stop { drain, .. } => {
                    self.text_max = None;
                    if drain {
                        // What is not answered is asked again, or was given up by who asked.
                        self.device.quiet();
                    }
                }
                FrontNews::Free => {
                    self.left.extend(self.ring.take().map(|ring| ring.share));
                    self.end_access()?;
                    self.device.freed();
                }
                FrontNews::Removed { why } => return Err(why.into()),
                FrontNews::Changed(never) | FrontNews::Taken(never) => match never {},
            }
        }
        Ok(())
    }

    fn share(&mut self, back: DomId) -> libgnt::Result<Vec<Node>> {
        let share = self.granter.share(back, 1, Access::ReadWrite)?;
        let channel = self.events.bind_unbound(back)?;
        let nodes = vec![
            (PAGE, share.grefs()[0].0.to_string()),
            (PORT, channel.port().0.to_string()),
        ];
        self.ring = Some(Ring { share, channel });
        Ok(nodes)
    }

    /// A dead back end's mapping may outlive its nodes.
    fn end_access(&mut self) -> Result<(), Box<dyn Error>> {
        for share in std::mem::take(&mut self.left) {
            match share.end_access() {
                Ok(_) => {}
                Err(EndAccessError::InUse { share, .. }) => self.left.push(share),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Closes the device in order.
    ///
    /// # Errors
    /// It is not closed in time.
    pub fn close(mut self, patience: Duration) -> Result<(), Box<dyn Error>> {
        let until = Instant::now() + patience;
        self.device.close(until);
        while !self.device.is_removed() {
            match self.settle() {
                Err(_) if self.device.is_removed() => break,
                other => other?,
            }
            if !self.device.is_removed() {
                self.wait(until)?;
            }
        }
        tracing::debug!(platform = self.platform.name(), "closed");
        Ok(())
    }
}
