//! What a guest agent needs of its store: values published all at once, a watch on what the toolstack asks,
//! and permissions for who else should read.
//!
//! The agent itself is `Agent`; `main` plays dom0 around it, on a server of its own. In a guest it would be
//! `Client::connect` on the platform that `libgnt::open` gives.

use libgnt::DomId;
use pv_xenstore::{Client, Permission, Result, Rights, ServerConfig, ServerHandle, Watch};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Paths are relative: they are in the guest's own home.
struct Agent {
    store: Client,
    shutdown: Watch,
}

impl Agent {
    fn new(store: Client) -> Result<Agent> {
        let shutdown = store.watching("control/shutdown")?;
        Ok(Agent { store, shutdown })
    }

    /// All of it or nothing; again if somebody else was in the way.
    fn publish(&self, values: &[(&str, &str)]) -> Result<()> {
        self.store.transaction(|tx| {
            for (path, value) in values {
                // What is as it was fires no watch.
                if tx.try_read(path)?.as_deref() != Some(value.as_bytes()) {
                    tx.write(path, value)?;
                }
            }
            Ok(())
        })
    }

    /// Lets another domain read what this one has published.
    fn let_read(&self, path: &str, own: DomId, reader: DomId) -> Result<()> {
        let perms = [
            Permission::new(Rights::None, own),
            Permission::new(Rights::Read, reader),
        ];
        self.store.set_perms(path, &perms)
    }

    /// What the toolstack asks, when it asks, and says that it was heard. `None`: the time is over.
    fn next_order(&self, timeout: Duration) -> Result<Option<String>> {
        while let Some(event) = self.shutdown.next(timeout)? {
            let order = self.store.try_read(&event.path)?.unwrap_or_default();
            if !order.is_empty() {
                self.store.write(&event.path, "")?;
                return Ok(Some(String::from_utf8_lossy(&order).into_owned()));
            }
        }
        Ok(None)
    }
}

/// Plays dom0, and runs the agent.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    const GUEST: DomId = DomId(1);
    const READER: DomId = DomId(2);
    let server = ServerHandle::start(ServerConfig::default())?;
    server.introduce(GUEST, "guest")?;
    server.introduce(READER, "reader")?;
    let connect = |domid| -> Result<Client, Box<dyn std::error::Error>> {
        let (ours, theirs) = UnixStream::pair()?;
        server.attach(domid, theirs)?;
        Ok(Client::from_stream(ours.into())?)
    };
    let (dom0, reader) = (connect(DomId::DOM0)?, connect(READER)?);
    let home = dom0.domain_path(GUEST)?;
    // The toolstack makes the node that the guest answers in.
    let shutdown = format!("{home}/control/shutdown");
    let both = [Permission::new(Rights::None, GUEST)];
    dom0.make_tree(&[(shutdown.clone(), Vec::new(), both.to_vec())])?;

    let agent = Agent::new(connect(GUEST)?)?;
    agent.publish(&[("data/os/name", "Debian"), ("data/os/version", "13")])?;
    assert_eq!(dom0.read_string(&format!("{home}/data/os/name"))?, "Debian");
    assert!(reader.read(&format!("{home}/data/os/name")).is_err());
    agent.let_read("data/os/name", GUEST, READER)?;
    assert_eq!(reader.read(&format!("{home}/data/os/name"))?, b"Debian");

    dom0.write(&shutdown, "poweroff")?;
    let order = agent.next_order(Duration::from_secs(10))?;
    println!("the toolstack asks for {order:?}");
    assert_eq!(order.as_deref(), Some("poweroff"));
    assert_eq!(dom0.read(&shutdown)?, b"", "heard");
    server.stop();
    Ok(())
}
