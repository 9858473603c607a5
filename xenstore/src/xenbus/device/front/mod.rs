//! A front end's device.

mod link;

mod words;

mod side;

mod perform;

pub use link::Link;
pub use words::{FrontNews, FrontProtocol, FrontSetting};

use super::situation::Situation;
use crate::client::Client;
use crate::error::Result;
use crate::keeper::{Keeper, News};
use crate::steady::{Open, Steady};
use mio::event::Source;
use side::Side;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use words::Report;

use super::super::feature::Node;

/// One device, as its front end sees it.
pub struct FrontDevice<P: FrontProtocol> {
    keeper: Keeper<Side<P>>,
    situation: Arc<Mutex<Situation>>,
    removed: bool,
}

impl<P: FrontProtocol> FrontDevice<P> {
    /// Starts with a device that was found ([`Link::read`]), on a thread of its own. `open` makes
    /// another connection when `client` is lost.
    ///
    /// # Errors
    /// The kernel gives no thread or no eventfd.
    pub fn start(
        protocol: P,
        setting: FrontSetting,
        link: Link,
        (client, open): (Client, Open),
    ) -> io::Result<Self> {
        let situation = Arc::new(Mutex::new(Situation::new()));
        let side = Side::new(protocol, setting, link, Arc::clone(&situation));
        let keeper = Keeper::start("xenstore", side, Steady::new(client, open))?;
        Ok(FrontDevice {
            keeper,
            situation,
            removed: false,
        })
    }

    /// Readable when there is news.
    pub fn source(&mut self) -> &mut dyn Source {
        &mut self.keeper
    }

    /// What came of the last reports, or of others' doing.
    ///
    /// # Errors
    /// What ended the work with xenstore.
    pub fn next_news(&mut self) -> Result<Option<FrontNews<P>>> {
        if self.removed {
            return Ok(None);
        }
        let news = self.keeper.news();
        self.noted(news)
    }

    /// As [`FrontDevice::next_news`], and waits until then. `None`: nothing came, or nothing will
    /// ([`FrontDevice::is_removed`]).
    ///
    /// # Errors
    /// As [`FrontDevice::next_news`].
    pub fn wait_news(&mut self, until: Instant) -> Result<Option<FrontNews<P>>> {
        if self.removed {
            return Ok(None);
        }
        let news = self.keeper.wait_news(until);
        self.noted(news)
    }

    fn noted(&mut self, news: Result<News<FrontNews<P>>>) -> Result<Option<FrontNews<P>>> {
        match news {
            Ok(News::Piece(news)) => {
                let last = matches!(news, FrontNews::Removed { .. } | FrontNews::Taken(_));
                self.removed = last;
                Ok(Some(news))
            }
            Ok(News::Nothing) => Ok(None),
            Ok(News::Over) => {
                self.removed = true;
                Ok(None)
            }
            Err(error) => {
                self.removed = true;
                Err(error)
            }
        }
    }

    fn report(&self, report: Report) {
        if !self.keeper.tell(report) {
            tracing::debug!("the device is over in xenstore");
        }
    }

    /// To [`FrontNews::Share`]: announces the ring by these nodes, all at once with the state.
    pub fn ring_ready(&self, nodes: Vec<Node>) {
        self.report(Report::RingReady(nodes));
    }

    /// To [`FrontNews::Share`]: there is none, and nothing is held.
    pub fn ring_failed(&self, why: String) {
        self.report(Report::RingFailed(why));
    }

    /// Every request is answered, after [`FrontNews::Stop`].
    pub fn quiet(&self) {
        self.report(Report::Quiet);
    }

    /// To [`FrontNews::Free`]: done.
    pub fn freed(&self) {
        self.report(Report::Freed);
    }

    /// The back end's process is dead, whatever its node says.
    pub fn peer_died(&self) {
        self.report(Report::PeerDied);
    }

    /// Leaves the reason where tools look for it, and begins to close.
    pub fn fail(&self, why: String) {
        self.report(Report::Fail(why));
    }

    /// Begins to close; [`FrontDevice::is_removed`] says when that is over. xenstore is not tried again
    /// after `until`.
    pub fn close(&self, until: Instant) {
        self.keeper.stop_at(until);
        self.report(Report::Close);
    }

    /// No more waiting for the back end.
    pub fn abandon(&self) {
        self.report(Report::Abandon);
    }

    /// The handshake is over, and so is every word about it.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Who is in which state, for messages.
    pub fn situation(&self) -> String {
        let situation = self.situation.lock();
        situation
            .unwrap_or_else(PoisonError::into_inner)
            .to_string()
    }
}

impl<P: FrontProtocol> fmt::Debug for FrontDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrontDevice({})", self.situation())
    }
}
