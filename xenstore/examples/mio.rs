//! A loop over mio that never blocks in xenstore: many requests in flight, and watch events between them.

use libgnt::DomId;
use mio::{Events, Interest, Poll, Token};
use pv_xenstore::client::{Request, Ticket};
use pv_xenstore::{Client, ServerConfig, ServerHandle};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const XENSTORE: Token = Token(0);
const NODES: usize = 500;

/// Runs the loop until all has come.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ServerHandle::start(ServerConfig::default())?;
    let (ours, theirs) = UnixStream::pair()?;
    server.attach(DomId::DOM0, theirs)?;
    let mut store = Client::from_stream(ours.into())?;

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(16);
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut store, XENSTORE, interest)?;

    let mut watching = Some(store.submit(Request::watch("/example", "t"))?);
    let mut writes: Vec<Ticket> = (0..NODES)
        .map(|n| store.submit(Request::write(&format!("/example/{n}"), "1")))
        .collect::<Result<_, _>>()?;
    let mut fired = 0;
    // One event for the watch itself, and one for each node.
    while watching.is_some() || !writes.is_empty() || fired <= NODES {
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        assert!(!events.is_empty(), "xenstore does not answer");
        // Edge-triggered: everything that is there, once.
        store.drive()?;
        if let Some(answer) = watching.as_mut().and_then(Ticket::poll) {
            answer?;
            watching = None;
        }
        let mut refused = None;
        writes.retain_mut(|ticket| match ticket.poll() {
            None => true,
            Some(answer) => {
                refused = answer.err().or(refused.take());
                false
            }
        });
        if let Some(error) = refused {
            return Err(error.into());
        }
        while let Some(event) = store.next_watch_event()? {
            fired += 1;
            if event.first {
                println!("{} is watched", event.path);
            }
        }
    }
    println!("{fired} events");
    server.stop();
    Ok(())
}
