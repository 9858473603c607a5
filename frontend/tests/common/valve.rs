//! An xenstored that can stop answering: what a domain asks passes a valve.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Clone, Default)]
pub struct Valve(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    closed: bool,
    /// Requests that wait.
    waiting: usize,
}

impl Valve {
    /// Nothing passes until the valve is opened.
    pub fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// Waits for somebody who waits.
    pub fn wait_pressed(&self, patience: Duration) {
        let state = self.0.0.lock().unwrap();
        let nobody = |state: &mut State| state.waiting == 0;
        let (state, time) = self
            .0
            .1
            .wait_timeout_while(state, patience, nobody)
            .unwrap();
        drop(state);
        assert!(!time.timed_out(), "nobody asks xenstored anything");
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.waiting += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.closed).unwrap();
        state.waiting -= 1;
    }

    /// Puts itself between a client and the server, which gets the stream that is returned.
    pub fn between(&self, client: UnixStream) -> UnixStream {
        let (ours, servers) = UnixStream::pair().expect("sockets");
        client.set_nonblocking(false).expect("blocking");
        let clone = |stream: &UnixStream| stream.try_clone().expect("clone");
        let (valve, from, to) = (self.clone(), clone(&client), clone(&ours));
        thread::spawn(move || pump(from, to, || valve.pass()));
        thread::spawn(move || pump(ours, client, || ()));
        servers
    }
}

/// Copies until either end is gone.
fn pump(mut from: UnixStream, mut to: UnixStream, before_each: impl Fn()) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        before_each();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
