//! How connections begin and end.

use super::bus::Order;
use super::config::{BackendError, Mode};
use super::data::Nobody;
use super::link::Link;
use super::nodes::FrontNodes;
use super::pace::Storm;
use super::run::Backend;
use crate::agent::{DataMode, Input};
use crate::hooks::EventKind;
use std::time::{Duration, Instant};

/// How long requests in flight may take when we leave a front that does not close.
const DRAIN: Duration = Duration::from_secs(1);

impl Backend {
    /// Takes in xenstore's news and does what follows.
    pub(super) fn obey_xenstore(&mut self) -> Result<(), BackendError> {
        while let Some(order) = self.bus.next_order()? {
            match order {
                Order::Waiting => {
                    tracing::info!(front = %self.bus.front(), "waiting for a front end");
                    self.data.hooks.tell(EventKind::Waiting);
                }
                Order::Connect(nodes) => self.connect(&nodes)?,
                Order::Serve => {
                    let mode = self.data.agent.mode();
                    let read_only = self.bus.is_read_only();
                    tracing::info!(front = %self.bus.front(), ?mode, read_only, "connected");
                    self.data.hooks.tell(EventKind::Connected { mode });
                }
                Order::Free { answer_first: true } => self.drain(),
                Order::Free {
                    answer_first: false,
                } => self.cut_link(),
                Order::FrontGone(how) => {
                    tracing::warn!(front = %self.bus.front(), "the front end is gone: {how}");
                    self.data.hooks.tell(EventKind::FrontGone { how });
                }
                Order::Fatal(reason) => {
                    tracing::error!(front = %self.bus.front(), "the device closes: {reason}");
                    self.data.hooks.tell(EventKind::Fatal { reason });
                }
                Order::Closed => {
                    let zombies = self.data.agent.zombies();
                    let still_mapped = self.data.still_mapped();
                    tracing::info!(front = %self.bus.front(), zombies, still_mapped, "closed");
                    self.data.hooks.tell(EventKind::Closed { zombies });
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, nodes: &FrontNodes) -> Result<(), BackendError> {
        let mode = match self.mode {
            Mode::Map => DataMode::Map,
            Mode::Copy => DataMode::Copy,
            Mode::Auto | Mode::Persistent if nodes.persistent => DataMode::Persistent,
            Mode::Auto => DataMode::Map,
            Mode::Persistent => {
                tracing::warn!("the front end does not want persistent grants: maps instead");
                DataMode::Map
            }
        };
        match Link::connect(&self.mapper, &self.events, self.bus.front(), nodes) {
            Ok(link) => {
                if !link.front_is_alive() {
                    link.disconnect();
                    let why = "its liveness byte is clear: the process died before it connected";
                    return self.bus.connect_failed(why.into());
                }
                // The machine asks only when the last front's things are freed.
                if !self.data.agent.open(mode, self.bus.is_read_only()) {
                    link.disconnect();
                    return self
                        .bus
                        .connect_failed("the last connection is not closed".into());
                }
                // The first look at the ring is ours: requests may be there, an event need not be.
                (self.masked, self.notified, self.storm) = (false, false, Storm::default());
                self.link = Some(link);
                self.bus.connected()
            }
            // Not the front's fault, and nothing works any more.
            Err(error @ libgnt::Error::HostGone { .. }) => Err(error.into()),
            Err(error) => self
                .bus
                .connect_failed(format!("cannot connect to its ring: {error}")),
        }
    }

    /// We leave, and the front is still there: what is in flight is answered first.
    fn drain(&mut self) {
        let Some(link) = &mut self.link else {
            self.freeing = true;
            return;
        };
        self.draining_until = Some(Instant::now() + DRAIN);
        self.data.feed(Input::Drain, link);
        link.publish();
    }

    pub(super) fn front_died(&mut self, how: &str) -> Result<(), BackendError> {
        self.bus.front_died(how.into())?;
        self.obey_xenstore()
    }

    /// The front broke the rules. The device closes, with the reason in xenstore; we live on.
    pub(super) fn fatal(&mut self, reason: String) -> Result<(), BackendError> {
        self.bus.fatal(reason)?;
        self.obey_xenstore()
    }

    /// Nobody is answered any more; the ring goes at once, the maps when the disk is done.
    pub(super) fn cut_link(&mut self) {
        self.draining_until = None;
        self.freeing = true;
        self.data.feed(Input::PeerGone, &mut Nobody);
        if let Some(link) = self.link.take() {
            link.disconnect();
        }
    }

    pub(super) fn proceed_with_closing(&mut self) -> Result<(), BackendError> {
        if let Some(deadline) = self.draining_until {
            let left = self.data.agent.in_flight();
            if left > 0 && Instant::now() < deadline {
                return Ok(());
            }
            if left > 0 {
                tracing::warn!(left, "closing with requests that are not answered");
            }
            self.cut_link();
        }
        if self.freeing && self.data.is_drained() {
            self.freeing = false;
            self.bus.freed()?;
            self.obey_xenstore()?;
        }
        Ok(())
    }
}
