//! The server of one disk, on a thread of its own: who opens the device meanwhile, to look for
//! partitions say, is served at any time.

use super::protocol::{Command, REQUEST_BYTES, Request, SilentDisk};
use crate::holder::{HoldError, HoldName};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const KIND: HoldName = HoldName::Direct;

/// Serves until it is dropped. Its end is the end of the disk: what was not answered fails.
pub(super) struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    socket: UnixStream,
    /// Also held while an answer is sent, so that answers do not mix.
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    disk: SilentDisk,
    /// Why it serves no longer.
    ended: Option<String>,
}

fn broken(what: impl Into<String>) -> HoldError {
    HoldError::Broken {
        kind: KIND,
        what: what.into(),
    }
}

impl Server {
    /// Serves a disk of so many bytes to the client at the other end of a socket.
    pub fn start(socket: UnixStream, size: usize) -> Result<Server, HoldError> {
        let shared = Arc::new(Shared {
            socket,
            state: Mutex::new(State {
                disk: SilentDisk::new(size),
                ended: None,
            }),
            changed: Condvar::new(),
        });
        let serves = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("nbd-server".into())
            .spawn(move || {
                let ended = match serves.serve() {
                    Ok(()) => "the kernel has closed the disk".to_owned(),
                    Err(error) => format!("serving the disk: {error}"),
                };
                serves.state().ended = Some(ended);
                serves.changed.notify_all();
            })
            .map_err(|error| broken(format!("a thread for the disk: {error}")))?;
        Ok(Server {
            shared,
            thread: Some(thread),
        })
    }

    /// What was written, once all of it has come.
    pub fn contents(&self, patience: Duration) -> Result<Vec<u8>, HoldError> {
        let waits = |state: &mut State| state.disk.contents().is_none() && state.ended.is_none();
        let state = self.shared.state();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, patience, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.disk.contents(), &state.ended) {
            (Some(bytes), _) => Ok(bytes.to_vec()),
            (None, Some(ended)) => Err(broken(ended.clone())),
            (None, None) => Err(broken(format!("not all of the write came in {patience:?}"))),
        }
    }

    /// Answers the writes: the kernel ends them, and lets go of their pages.
    pub fn answer(&self) -> Result<(), HoldError> {
        let mut state = self.shared.state();
        let answers = state.disk.speak();
        let sent = (&self.shared.socket).write_all(&answers);
        sent.map_err(|error| broken(format!("answering the write: {error}")))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) -> io::Result<()> {
        let mut socket = &self.socket;
        let mut header = [0; REQUEST_BYTES];
        loop {
            match socket.read_exact(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            let Some(request) = Request::decode(&header) else {
                return Err(io::Error::other("the client sends no requests of nbd"));
            };
            if request.command == Command::Disconnect {
                return Ok(());
            }
            if request.payload() > self.state().disk.size() {
                return Err(io::Error::other("a write is larger than the disk"));
            }
            let mut data = vec![0; request.payload()];
            socket.read_exact(&mut data)?;
            let mut state = self.state();
            let answer = state.disk.take(&request, &data);
            socket.write_all(&answer)?;
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.shared.socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "the disk's socket");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::REPLY_BYTES;
    use super::super::protocol::tests::encode;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn disk(size: usize) -> (Server, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LONG)).unwrap();
        (Server::start(theirs, size).unwrap(), ours)
    }

    fn send(mut client: &UnixStream, command: u32, handle: u8, from: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let mut bytes = encode(command, [handle; 8], from, len);
        if command == 1 {
            bytes.extend(data);
        }
        client.write_all(&bytes).unwrap();
    }

    /// Whose answer comes next, with so many bytes of data.
    fn answered(mut client: &UnixStream, data: usize) -> u8 {
        let mut bytes = vec![0; REPLY_BYTES + data];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[4..8], [0; 4]);
        bytes[8]
    }

    #[test]
    fn writes_are_answered_when_they_are_released_and_reads_at_once() {
        let (server, client) = disk(8192);
        send(&client, 1, 1, 0, &[0x11; 4096]);
        send(&client, 1, 2, 4096, &[0x22; 4096]);
        send(&client, 0, 3, 0, &[0; 512]);
        assert_eq!(answered(&client, 512), 3, "the writes came before it");
        let contents = server.contents(LONG).unwrap();
        assert_eq!(contents[4095..4097], [0x11, 0x22]);
        server.answer().unwrap();
        assert_eq!([answered(&client, 0), answered(&client, 0)], [1, 2]);
    }

    #[test]
    fn a_dropped_server_ends_its_disk_without_an_answer() {
        let (server, client) = disk(4096);
        send(&client, 1, 1, 0, &[0x11; 4096]);
        server.contents(LONG).unwrap();
        drop(server);
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_write_that_never_comes_is_told_and_so_is_a_client_that_is_none() {
        let (server, client) = disk(4096);
        let error = server.contents(Duration::from_millis(1)).unwrap_err();
        assert!(
            error.to_string().contains("not all of the write"),
            "{error}"
        );
        drop(client);
        let error = server.contents(LONG).unwrap_err().to_string();
        assert!(error.contains("closed the disk"), "{error}");
        for nonsense in [vec![0xff; REQUEST_BYTES], encode(1, [0; 8], 0, 8192)] {
            let (server, client) = disk(4096);
            (&client).write_all(&nonsense).unwrap();
            let error = server.contents(LONG).unwrap_err().to_string();
            assert!(error.contains("serving the disk"), "{error}");
        }
        let (server, client) = disk(4096);
        send(&client, 2, 0, 0, &[]);
        server.contents(LONG).unwrap_err();
    }
}
