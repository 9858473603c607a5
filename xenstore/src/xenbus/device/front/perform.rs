//! What the front end's [`Handshake`](super::super::super::front::Handshake) says is done here.

use super::super::super::errors;
use super::super::super::feature::{Published, settled};
use super::super::super::front::{Action, Input};
use super::super::super::node::{self, Ends, Switched, read_online};
use super::super::super::state::{SwitchState, XenbusState};
use super::link::Link;
use super::side::Side;
use super::words::{FrontNews, FrontProtocol};
use crate::client::Client;
use crate::error::Result;
use crate::keeper::Keep;
use crate::steady::Steady;
use libgnt::machine::{Machine, monotonic};
use std::collections::VecDeque;

impl<P: FrontProtocol> Side<P> {
    /// One input, and what follows from it.
    pub(super) fn feed(&mut self, store: &mut Steady, input: Input) -> Result<()> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            // The machine's end is final, and it says so once.
            if self.is_over() {
                return Ok(());
            }
            let mut actions = Vec::new();
            self.handshake.step(monotonic(), input, &mut actions);
            for action in actions {
                inputs.extend(self.perform(store, action)?);
            }
        }
        Ok(())
    }

    /// Performs one action; the answer, if it is known at once.
    fn perform(&mut self, store: &mut Steady, action: Action) -> Result<Option<Input>> {
        tracing::debug!(front = self.setting.front, ?action, "handshake");
        match action {
            // No feature of the back end's is asked for yet: some publish them only with the
            // switch to Connected, and what is there may be an earlier one's.
            Action::PrepareRing => match self.protocol.obstacle() {
                None => {
                    self.renewed = false;
                    let back = self.link.back_domid;
                    self.news.push_back(FrontNews::Share { back });
                }
                // It writes into the same directory: nothing more of ours.
                Some(obstacle) => {
                    self.news.push_back(FrontNews::Taken(obstacle));
                    self.over = true;
                }
            },
            Action::ReadPeerAndConnect => {
                let back = self.link.back.as_str();
                let protocol = &mut self.protocol;
                let read =
                    |client: &Client| settled(protocol.read_back(&Published::new(client, back)));
                return Ok(Some(match store.run(read)? {
                    Ok(back) => {
                        self.back = Some(back);
                        Input::Connected
                    }
                    Err(why) => Input::ConnectFailed(why),
                }));
            }
            Action::SwitchState(switch) => return self.switch(store, switch),
            Action::ReadPeer => return Ok(Some(self.read_peer(store)?)),
            Action::StopRequests => {
                let why = match self.peer {
                    _ if self.renewed => format!(
                        "the toolstack made the device anew, with a back end in {}",
                        self.link.back_domid
                    ),
                    _ if self.peer_dead => "its process died".into(),
                    Some(state) => format!("it is {state}"),
                    None => "its xenstore directory is gone".into(),
                };
                let drain = (self.closing || !self.online) && !self.peer_dead && !self.renewed;
                self.be_patient();
                self.news.push_back(FrontNews::Stop { why, drain });
            }
            Action::FreeResources => self.news.push_back(FrontNews::Free),
            Action::ReportError(why) => {
                let front = self.setting.front.as_str();
                let reported = store.run(|client| errors::report_error(client, front, &why));
                if let Err(error) = reported {
                    tracing::warn!(%error, why, "cannot leave the reason in xenstore");
                }
                self.error.get_or_insert(why);
            }
            Action::RemoveDevice => {
                let why = match self.error.clone() {
                    Some(why) => why,
                    None if self.closing => "the device was closed".into(),
                    None => "the toolstack removed the device".into(),
                };
                self.news.push_back(FrontNews::Removed { why });
            }
            Action::Refuse(why) => tracing::debug!(front = self.setting.front, why, "ignored"),
        }
        Ok(None)
    }

    fn switch(&mut self, store: &mut Steady, switch: SwitchState) -> Result<Option<Input>> {
        if switch.to == XenbusState::Closed {
            // Before the state: a front end that finds it may start, and write its own.
            store.run(|client| self.remove_ring_nodes(client))?;
        }
        let nodes = match switch.to {
            XenbusState::Initialised => std::mem::take(&mut self.ring_nodes),
            _ => Vec::new(),
        };
        let ends = Ends {
            own: &self.setting.front,
            peer: &self.link.back,
            link: Some(Link::BACK),
        };
        let done = node::switch_state_steadily(store, ends, switch, &nodes)?;
        Ok(match done {
            Switched::OwnGone => Some(Input::Own(None)),
            Switched::Renewed => {
                match self.read_link(store)? {
                    Ok(link) => self.follow(store, link)?,
                    Err(failed) => return Ok(Some(failed)),
                }
                Some(Input::Renewed)
            }
            Switched::Done if switch.while_peer.is_none() => None,
            Switched::Done => {
                if let (XenbusState::Connected, Some(back)) = (switch.to, self.back.take()) {
                    self.deadline = None;
                    self.news.push_back(FrontNews::Connected(back));
                }
                Some(Input::Switched)
            }
            Switched::PeerMoved(state) => {
                self.peer = state;
                self.online = store.run(|client| read_online(client, &self.link.back))?;
                Some(Input::PeerMoved {
                    state,
                    online: self.online,
                })
            }
        })
    }

    /// Takes away what a ring was announced with: the directory may belong to another front end
    /// next, a kernel's for example, and a back end would take ours for its word.
    fn remove_ring_nodes(&self, client: &Client) -> Result<()> {
        for node in self.protocol.ring_nodes() {
            self.remove_node(client, node)?;
        }
        Ok(())
    }

    fn remove_node(&self, client: &Client, node: &str) -> Result<()> {
        match client.rm(&format!("{}/{node}", self.setting.front)) {
            Err(error) if !error.is_gone() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes away what a front end before this one announced in another form.
    pub(super) fn remove_leftovers(&self, client: &Client) -> Result<()> {
        let names = match client.directory(&self.setting.front) {
            // The handshake finds out by itself.
            Err(error) if error.is_gone() => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|name| self.protocol.is_leftover(name)) {
            self.remove_node(client, name)?;
        }
        Ok(())
    }
}
