//! A server on a socket in a directory of its own.
#![allow(dead_code, reason = "not every test file uses all of it")]

use libgnt::DomId;
use pv_xenstore::{Client, ServerConfig, ServerHandle};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub struct Xenstore {
    pub server: ServerHandle,
    pub dir: tempfile::TempDir,
}

impl Xenstore {
    pub fn new() -> Xenstore {
        Xenstore::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ServerConfig)) -> Xenstore {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::default();
        config.socket = Some(dir.path().join("sock"));
        change(&mut config);
        Xenstore {
            server: ServerHandle::start(config).unwrap(),
            dir,
        }
    }

    /// The same socket, and an empty store.
    pub fn restart(&mut self) {
        self.server.stop();
        let mut config = ServerConfig::default();
        config.socket = Some(self.socket());
        self.server = ServerHandle::start(config).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn dom0(&self) -> Client {
        Client::from_socket_path(self.socket()).unwrap()
    }

    /// A connection of a domain, bare.
    pub fn stream(&self, domid: u16) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.server.attach(DomId(domid), theirs).unwrap();
        ours
    }

    pub fn client(&self, domid: u16) -> Client {
        Client::from_stream(self.stream(domid).into()).unwrap()
    }
}

impl Drop for Xenstore {
    fn drop(&mut self) {
        self.server.stop();
    }
}
