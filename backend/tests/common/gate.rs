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
    /// Requests that are held back.
    waiting: usize,
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

    /// Waits for a request that is held back.
    pub fn wait_pressed(&self) {
        let (state, changed) = &*self.0;
        let state = state.lock().expect("gate");
        let nobody = |state: &mut State| state.waiting == 0;
        let waited = changed.wait_timeout_while(state, super::PATIENCE, nobody);
        assert!(!waited.expect("gate").1.timed_out(), "nobody asks");
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
        for (from, to, asks) in [(&client, &ours, true), (&ours, &client, false)] {
            let (from, to) = (
                from.try_clone().expect("clone"),
                to.try_clone().expect("clone"),
            );
            let gate = self.clone();
            std::thread::spawn(move || gate.pump(from, to, asks));
        }
        state.streams.extend([client, ours]);
        Some(servers)
    }

    /// Requests are held back; events come through, so that there is something to ask about.
    fn pump(&self, mut from: UnixStream, mut to: UnixStream, asks: bool) {
        let mut bytes = [0; 4096];
        loop {
            let n = match from.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(n) => n,
            };
            let (state, changed) = &*self.0;
            let mut state = state.lock().expect("gate");
            while asks && state.door == Door::Held {
                state.waiting += 1;
                changed.notify_all();
                state = changed.wait(state).expect("gate");
                state.waiting -= 1;
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
