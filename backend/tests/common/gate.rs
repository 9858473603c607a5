//! Between a client and xenstored: lets through, holds back, or cuts off.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Door {
    /// Not there: connections made now never pass it.
    #[default]
    Absent,
    Open,
    /// A daemon that is slow.
    Held,
    /// A daemon that is gone.
    Cut,
}

#[derive(Debug, Default)]
struct State {
    door: Door,
    streams: Vec<UnixStream>,
}

/// Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    fn set(&self, door: Door) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().expect("gate");
        state.door = door;
        if door == Door::Cut {
            for stream in state.streams.drain(..) {
                // The other end may have gone first.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        changed.notify_all();
    }

    /// Connections made from now on pass here.
    pub fn arm(&self) {
        self.set(Door::Open);
    }

    pub fn open(&self) {
        self.set(Door::Open);
    }

    pub fn hold(&self) {
        self.set(Door::Held);
    }

    pub fn cut(&self) {
        self.set(Door::Cut);
    }

    /// The server's end of a new connection; `None` if nobody is there to take it.
    pub fn admit(&self, client: UnixStream) -> Option<UnixStream> {
        let (state, _) = &*self.0;
        let mut state = state.lock().expect("gate");
        match state.door {
            Door::Absent => return Some(client),
            Door::Cut => return None,
            Door::Open | Door::Held => {}
        }
        let (ours, servers) = UnixStream::pair().expect("pair");
        for (from, to) in [(&client, &ours), (&ours, &client)] {
            let (from, to) = (
                from.try_clone().expect("clone"),
                to.try_clone().expect("clone"),
            );
            let gate = self.clone();
            std::thread::spawn(move || gate.pump(from, to));
        }
        state.streams.extend([client, ours]);
        Some(servers)
    }

    fn pump(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut bytes = [0; 4096];
        loop {
            let n = match from.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(n) => n,
            };
            let (state, changed) = &*self.0;
            let mut state = state.lock().expect("gate");
            while state.door == Door::Held {
                state = changed.wait(state).expect("gate");
            }
            drop(state);
            if to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        // The other end may have gone first.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
