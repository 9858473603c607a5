//! `/dev/xen/evtchn`, simulated: the receiver's page is shared with whoever may raise its ports.

use super::answer::Answer;
use super::connection::{Client, lock};
use super::names::EVTCHN;
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

/// Where a port leads, as the host last said.
#[derive(Debug)]
struct Route {
    /// The word in our own page that this answer belongs to.
    generation: u32,
    /// Nobody, if the other end is not bound or gone.
    to: Option<(Arc<EventPage>, EvtchnPort)>,
}

/// The driver's queue of ports that were delivered and not read (`evtchn_interrupt`). Most of it is
/// still bits in the page; what is here was written back before it was read, and so may come again.
#[derive(Debug, Default)]
struct Queue {
    /// The eventfd was emptied since events were last waited for.
    drained: bool,
    ports: Vec<EvtchnPort>,
    /// Ports that are bound, or about to be.
    bound: usize,
    /// Never shrinks (`evtchn_resize_ring`).
    capacity: usize,
    /// A port found no room: reads fail until the reset.
    overflow: bool,
}

/// What the driver's queue starts with.
const FIRST_CAPACITY: usize = 64;

impl Queue {
    /// Room for one more port, each of which is in the queue once unless it is written back unread.
    fn make_room(&mut self) {
        self.bound += 1;
        self.capacity = self.capacity.max(FIRST_CAPACITY);
        while self.capacity < self.bound {
            self.capacity *= 2;
        }
    }

    /// Delivers what is pending, as far as there is room. What finds none is lost, and masked.
    fn deliver(&mut self, page: &EventPage) {
        page.take(&mut self.ports);
        if self.ports.len() > self.capacity {
            self.ports.truncate(self.capacity);
            self.overflow = true;
        }
    }
}

/// An open file. Closed on drop, which never blocks.
#[derive(Debug)]
pub struct SimEvtchn {
    client: Arc<Client>,
    file: FileId,
    page: Arc<EventPage>,
    /// One receiver at a time.
    queue: Mutex<Queue>,
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
            queue: Mutex::default(),
            ports: RwLock::default(),
        })
    }

    fn bind(&self, operation: &'static str, request: Request) -> Result<EvtchnPort> {
        // Before the call: the new port's first event may be read before it returns.
        lock(&self.queue).make_room();
        let bound = self.client.call(EVTCHN, operation, request);
        let bound = bound.and_then(|answer| match answer.reply {
            Reply::Port { port } => Ok(port),
            _ => Err(answer.unexpected()),
        });
        let port = bound.inspect_err(|_| lock(&self.queue).bound -= 1)?;
        self.ports
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port, None);
        Ok(port)
    }

    fn not_bound(operation: &'static str, port: EvtchnPort) -> Error {
        Error::device(
            EVTCHN,
            operation,
            Errno::NOTCONN,
            format!("{port} is not of this file"),
        )
    }

    /// Reads when more than the page's bits waits.
    fn read_queue(&self, queue: &mut Queue, ports: &mut Vec<EvtchnPort>) -> Result<usize> {
        self.page.drain();
        queue.deliver(&self.page);
        if queue.overflow {
            // Whoever polls keeps being told.
            self.page.signal();
            let detail =
                "the queue of events has overflowed; reset it, then unmask and serve every port";
            return Err(Error::device(EVTCHN, "read", Errno::FBIG, detail));
        }
        queue.drained = true;
        let count = queue.ports.len();
        ports.append(&mut queue.ports);
        Ok(count)
    }

    /// Asks the host where a port leads.
    fn route(&self, port: EvtchnPort) -> Result<Route> {
        let request = Request::EvtchnPeer {
            file: self.file,
            port,
        };
        let mut answer = self.client.call(EVTCHN, "NOTIFY", request)?;
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
        // A route that went stale just now raises a port of somebody who is gone: the host clears
        // that when the number is bound again. Or at worst a new one with the old number: an event
        // without cause, which every receiver expects.
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
        self.client.call(EVTCHN, "UNBIND", request)?.done()?;
        lock(&self.queue).bound -= 1;
        Ok(())
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
        let mut queue = lock(&self.queue);
        if !queue.ports.is_empty() || queue.overflow {
            return self.read_queue(&mut queue, ports);
        }
        // The second read of a wake-up mostly finds nothing: it costs no system call.
        if queue.drained && !self.page.any_selected() {
            queue.drained = false;
            return Ok(0);
        }
        // Before the take, which says why.
        self.page.drain();
        let taken = self.page.take(ports);
        queue.drained = taken > 0;
        Ok(taken)
    }

    fn unmask(&self, ports: &[EvtchnPort]) -> Result<()> {
        // No look at `ports`: a new port may be delivered to one thread before the bind has
        // returned to another. A port that is not bound has no mask that anybody would miss.
        for port in ports {
            if self.page.is_due(*port) {
                // The driver has queued it, and queues it once more when it is raised again.
                lock(&self.queue).deliver(&self.page);
            }
            self.page.unmask(*port);
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        let mut queue = lock(&self.queue);
        self.page.drain();
        // As the driver: the events are gone, and their ports wait for an unmask.
        self.page.take(&mut Vec::new());
        queue.ports.clear();
        queue.overflow = false;
        queue.drained = false;
        Ok(())
    }

    fn restrict(&self, remote: DomId) -> Result<()> {
        let request = Request::Restrict {
            file: self.file,
            remote,
        };
        self.client.call(EVTCHN, "RESTRICT_DOMID", request)?.done()
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
