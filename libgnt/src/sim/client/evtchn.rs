//! `/dev/xen/evtchn`, simulated: the receiver's page is shared with whoever may raise its ports.

use super::connection::{Answer, Client, lock};
use crate::error::{Error, Result};
use crate::platform::Evtchn;
use crate::sim::events::{EVENT_PAGES, EventPage};
use crate::sim::memory;
use crate::sim::wire::{FileId, Reply, Request};
use crate::types::{Access, DomId, EvtchnPort};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

pub const DEVICE: &str = "/dev/xen/evtchn (simulated)";

/// Where a port leads, as the host last said.
#[derive(Debug)]
struct Route {
    /// The word in our own page that this answer belongs to.
    generation: u32,
    /// Nobody, if the other end is not bound or gone.
    to: Option<(Arc<EventPage>, EvtchnPort)>,
}

/// An open file. Closed on drop, which never blocks.
#[derive(Debug)]
pub struct SimEvtchn {
    client: Arc<Client>,
    file: FileId,
    page: Arc<EventPage>,
    /// One receiver at a time. True: the eventfd was emptied since events were last waited for.
    drained: Mutex<bool>,
    /// The ports bound here, with their routes once they were used.
    ports: RwLock<HashMap<EvtchnPort, Option<Route>>>,
}

impl SimEvtchn {
    /// From the reply to `open`.
    pub fn new(client: Arc<Client>, file: FileId, mut answer: Answer) -> Result<Self> {
        // From here on the drop closes the file, should the rest fail.
        let page = match event_page(&client, &mut answer) {
            Ok(page) => page,
            Err(error) => {
                client.tell(Request::Close { file });
                return Err(error);
            }
        };
        Ok(SimEvtchn {
            client,
            file,
            page,
            drained: Mutex::new(false),
            ports: RwLock::default(),
        })
    }

    fn bind(&self, operation: &'static str, request: Request) -> Result<EvtchnPort> {
        let answer = self.client.call(DEVICE, operation, request)?;
        let Reply::Port { port } = answer.reply else {
            return Err(answer.unexpected());
        };
        self.ports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port, None);
        Ok(port)
    }

    fn not_bound(operation: &'static str, port: EvtchnPort) -> Error {
        Error::device(
            DEVICE,
            operation,
            Errno::NOTCONN,
            format!("{port} is not of this file"),
        )
    }

    /// Asks the host where a port leads.
    fn route(&self, port: EvtchnPort) -> Result<Route> {
        let request = Request::EvtchnPeer {
            file: self.file,
            port,
        };
        let mut answer = self.client.call(DEVICE, "NOTIFY", request)?;
        let Reply::Peer { generation, remote } = answer.reply else {
            return Err(answer.unexpected());
        };
        let to = match remote {
            Some(remote) => Some((event_page(&self.client, &mut answer)?, remote)),
            None => None,
        };
        Ok(Route { generation, to })
    }
}

/// Maps the event page that came with an answer, unless this process has it already.
fn event_page(client: &Client, answer: &mut Answer) -> Result<Arc<EventPage>> {
    let (memfd, eventfd) = (answer.take_fd()?, answer.take_fd()?);
    let (identity, _) = memory::identity(memfd.as_fd())?;
    let mut peers = lock(&client.peers);
    if let Some(page) = peers.get(&identity).and_then(Weak::upgrade) {
        return Ok(page);
    }
    let pages = memory::map_whole(memfd, EVENT_PAGES, Access::ReadWrite)?;
    let page = Arc::new(EventPage::new(pages, Arc::new(eventfd)));
    peers.retain(|_, page| page.strong_count() > 0);
    peers.insert(identity, Arc::downgrade(&page));
    Ok(page)
}

impl Route {
    fn raise(&self) {
        // A route that went stale just now raises a port of somebody who is gone, or at worst a
        // new one with the old number: an event without cause, which every receiver expects.
        if let Some((page, port)) = &self.to {
            page.raise(*port);
        }
    }
}

impl Evtchn for SimEvtchn {
    fn bind_unbound(&self, remote: DomId) -> Result<EvtchnPort> {
        self.bind(
            "BIND_UNBOUND_PORT",
            Request::BindUnbound {
                file: self.file,
                remote,
            },
        )
    }

    fn bind_interdomain(&self, remote: DomId, port: EvtchnPort) -> Result<EvtchnPort> {
        self.bind(
            "BIND_INTERDOMAIN",
            Request::BindInterdomain {
                file: self.file,
                remote,
                port,
            },
        )
    }

    fn bind_virq(&self, virq: u32) -> Result<EvtchnPort> {
        self.bind(
            "BIND_VIRQ",
            Request::BindVirq {
                file: self.file,
                virq,
            },
        )
    }

    fn unbind(&self, port: EvtchnPort) -> Result<()> {
        // First here: once the host has closed it, another thread may get the same number.
        self.ports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&port);
        let request = Request::Unbind {
            file: self.file,
            port,
        };
        self.client.call(DEVICE, "UNBIND", request)?.done()
    }

    fn notify(&self, port: EvtchnPort) -> Result<()> {
        let generation = self.page.generation(port);
        {
            let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
            match ports.get(&port) {
                None => return Err(Self::not_bound("NOTIFY", port)),
                Some(Some(route)) if route.generation == generation => {
                    route.raise();
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        let route = self.route(port)?;
        route.raise();
        // Unless it was unbound meanwhile.
        if let Some(known) = self
            .ports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&port)
        {
            *known = Some(route);
        }
        Ok(())
    }

    fn read(&self, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        let mut drained = lock(&self.drained);
        // The second read of a wake-up mostly finds nothing: it costs no system call.
        if *drained && !self.page.any_selected() {
            *drained = false;
            return Ok(0);
        }
        // Before the take, which says why.
        self.page.drain();
        let taken = self.page.take(ports);
        *drained = taken > 0;
        Ok(taken)
    }

    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        // No look at `ports`: a new port may be delivered to one thread before the bind has
        // returned to another. A port that is not bound has no mask that anybody would miss.
        for port in ports {
            self.page.unmask(*port);
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        let mut drained = lock(&self.drained);
        self.page.drain();
        // As the driver: the events are gone, and their ports wait for an unmask.
        self.page.take(&mut Vec::new());
        *drained = false;
        Ok(())
    }

    fn restrict(&self, remote: DomId) -> Result<()> {
        let request = Request::Restrict {
            file: self.file,
            remote,
        };
        self.client.call(DEVICE, "RESTRICT_DOMID", request)?.done()
    }
}

impl AsFd for SimEvtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.page.eventfd()
    }
}

impl Drop for SimEvtchn {
    fn drop(&mut self) {
        self.client.tell(Request::Close { file: self.file });
    }
}
