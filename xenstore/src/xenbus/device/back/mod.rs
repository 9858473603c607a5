//! A back end's device.

mod words;

mod side;

pub use words::{BackNews, BackProtocol, BackSetting};

use crate::client::Client;
use crate::error::Result;
use crate::keeper::{Keeper, News};
use crate::steady::{Open, Steady};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use side::Side;
use std::time::{Duration, Instant};
use std::{fmt, io};
use words::Report;

/// One device, as its back end sees it.
pub struct BackDevice<P: BackProtocol> {
    keeper: Keeper<Side<P>>,
}

impl<P: BackProtocol> BackDevice<P> {
    /// Starts with a device that is there, on a thread of its own. `open` makes another connection when
    /// `client` is lost.
    ///
    /// # Errors
    /// The kernel gives no thread or no eventfd.
    pub fn start(
        protocol: P,
        setting: BackSetting,
        (client, open): (Client, Open),
    ) -> io::Result<Self> {
        let side = Side::new(protocol, setting);
        let keeper = Keeper::start("xenstore", side, Steady::new(client, open))?;
        Ok(BackDevice { keeper })
    }

    /// What there is to do, in order.
    ///
    /// # Errors
    /// What ended the work with xenstore.
    pub fn news(&self) -> Result<News<BackNews<P>>> {
        self.keeper.news()
    }

    /// As [`BackDevice::news`], and waits until then.
    ///
    /// # Errors
    /// As [`BackDevice::news`].
    pub fn wait_news(&self, until: Instant) -> Result<News<BackNews<P>>> {
        self.keeper.wait_news(until)
    }

    fn report(&self, report: Report) {
        if !self.keeper.tell(report) {
            tracing::debug!("the device is over in xenstore");
        }
    }

    /// To [`BackNews::Connect`]: the ring is mapped.
    pub fn connected(&self) {
        self.report(Report::Connected);
    }

    /// To [`BackNews::Connect`]: it is not, and nothing is left of the attempt.
    pub fn connect_failed(&self, why: String) {
        self.report(Report::ConnectFailed(why));
    }

    /// To [`BackNews::Free`]: nothing of the front end's is mapped any more.
    pub fn freed(&self) {
        self.report(Report::Freed);
    }

    /// The front end broke the ring's rules, or this end cannot go on.
    pub fn fatal(&self, why: String) {
        self.report(Report::Fatal(why));
    }

    /// Why something takes long, for xenstore; `None`: it is over.
    pub fn explain(&self, why: Option<String>) {
        self.report(Report::Explain(why));
    }

    /// The front end's process is gone, whatever its node says.
    pub fn front_died(&self, how: String) {
        self.report(Report::FrontDied(how));
    }

    /// Close the device and end. After that time, without the front end's consent.
    pub fn stop(&self, patience: Duration) {
        self.report(Report::Stop(patience));
    }

    /// From that moment on xenstore is not tried again.
    pub fn stop_at(&self, at: Instant) {
        self.keeper.stop_at(at);
    }
}

impl<P: BackProtocol> Source for BackDevice<P> {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.keeper.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.keeper.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.keeper.deregister(registry)
    }
}

impl<P: BackProtocol> fmt::Debug for BackDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackDevice({:?})", self.keeper)
    }
}
