//! Requests that nobody waits for at once: many in flight on one connection.

use super::about::About;
use super::handle::{Call, Client};
use crate::error::{Error, Result};
use crate::perms::Permission;
use crate::wire::Kind;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests that [`Client::read_many`] has in flight at once.
const WINDOW: usize = 64;

/// A request, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    operation: &'static str,
    kind: Kind,
    path: String,
    payload: Vec<u8>,
}

impl Request {
    fn new(operation: &'static str, kind: Kind, path: &str, rest: &[u8]) -> Request {
        Request {
            operation,
            kind,
            path: path.to_owned(),
            payload: [path.as_bytes(), b"\0", rest].concat(),
        }
    }

    /// A node's value.
    pub fn read(path: &str) -> Request {
        Request::new("read", Kind::Read, path, b"")
    }

    /// Sets a node's value.
    pub fn write(path: &str, value: impl AsRef<[u8]>) -> Request {
        Request::new("write", Kind::Write, path, value.as_ref())
    }

    /// Creates a node.
    pub fn mkdir(path: &str) -> Request {
        Request::new("mkdir", Kind::Mkdir, path, b"")
    }

    /// Removes a node and all below it.
    pub fn rm(path: &str) -> Request {
        Request::new("rm", Kind::Rm, path, b"")
    }

    /// The names of a node's children, each with a NUL ([`crate::wire::strings`]). E2BIG if they do not fit
    /// in one message: [`Client::directory`] reads them in parts.
    pub fn directory(path: &str) -> Request {
        Request::new("directory", Kind::Directory, path, b"")
    }

    /// A node's permissions, each with a NUL.
    pub fn get_perms(path: &str) -> Request {
        Request::new("get-perms", Kind::GetPerms, path, b"")
    }

    /// Replaces a node's permissions.
    pub fn set_perms(path: &str, perms: &[Permission]) -> Request {
        let list: String = perms.iter().map(|p| format!("{p}\0")).collect();
        Request::new("set-perms", Kind::SetPerms, path, list.as_bytes())
    }

    /// Registers a watch, whose events are in the connection's common queue.
    pub fn watch(path: &str, token: &str) -> Request {
        let token = [token.as_bytes(), b"\0"].concat();
        Request::new("watch", Kind::Watch, path, &token)
    }

    fn about(&self) -> About<'_> {
        About {
            operation: self.operation,
            path: &self.path,
        }
    }
}

/// A request in flight. Dropped, its answer is not waited for; the request may be answered all the same.
#[derive(Debug)]
pub struct Ticket {
    client: Client,
    id: u32,
    operation: &'static str,
    path: String,
    taken: bool,
}

impl Ticket {
    /// The answer's payload, if it has come; once. Takes in what can be without waiting.
    ///
    /// # Errors
    /// The request's.
    pub fn poll(&mut self) -> Option<Result<Vec<u8>>> {
        if self.taken {
            return None;
        }
        let answer = self.client.connection().answer(self.id)?;
        self.taken = true;
        Some(self.about().result(answer))
    }

    /// Has its answer been taken in? Takes in nothing itself: for tasks beside one that does
    /// ([`Client::drive`]).
    pub fn is_answered(&self) -> bool {
        !self.taken && self.client.connection().is_answered(self.id)
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The request's; [`Error::Timeout`], and [`Error::Invalid`] if [`Ticket::poll`] gave it already.
    pub fn wait(mut self, timeout: Duration) -> Result<Vec<u8>> {
        if self.taken {
            let Ticket {
                operation, path, ..
            } = &self;
            return Err(Error::Invalid(format!(
                "the answer to {operation} {path} has been taken already"
            )));
        }
        let connection = self.client.connection();
        match connection.wait_answer(self.id, Instant::now() + timeout) {
            Some(answer) => {
                self.taken = true;
                self.about().result(answer)
            }
            None => Err(self.about().timeout(timeout)),
        }
    }

    fn about(&self) -> About<'_> {
        About {
            operation: self.operation,
            path: &self.path,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.taken {
            self.client.connection().forget(self.id);
        }
    }
}

pub(super) fn submit(to: &impl Call, request: Request) -> Result<Ticket> {
    let client = to.client().clone();
    let payload = request.payload.clone();
    let id = client
        .connection()
        .submit(request.about(), request.kind, to.tx_id(), payload)?;
    Ok(Ticket {
        client,
        id,
        operation: request.operation,
        path: request.path,
        taken: false,
    })
}

/// Submits requests, so many at once, and gives their answers in order.
pub(super) fn pipelined(
    to: &impl Call,
    requests: impl IntoIterator<Item = Request>,
    mut answer: impl FnMut(Result<Vec<u8>>) -> Result<()>,
) -> Result<()> {
    let timeout = to.client().deadline();
    let mut in_flight: VecDeque<Ticket> = VecDeque::new();
    for request in requests {
        if in_flight.len() >= WINDOW
            && let Some(ticket) = in_flight.pop_front()
        {
            answer(ticket.wait(timeout))?;
        }
        loop {
            match submit(to, request.clone()) {
                Ok(ticket) => {
                    in_flight.push_back(ticket);
                    break;
                }
                // Others have filled the connection: our own oldest makes room, or the wait for a
                // request of the blocking kind does.
                Err(Error::Busy { .. }) => match in_flight.pop_front() {
                    Some(ticket) => answer(ticket.wait(timeout))?,
                    None => {
                        let Request { kind, payload, .. } = &request;
                        answer(to.request(request.about(), *kind, &[payload]))?;
                        break;
                    }
                },
                Err(error) => return Err(error),
            }
        }
    }
    for ticket in in_flight {
        answer(ticket.wait(timeout))?;
    }
    Ok(())
}

/// The values of many nodes, in the order of the paths; `None` for a node that is not there.
pub(super) fn read_many<P: AsRef<str>>(
    to: &impl Call,
    paths: impl IntoIterator<Item = P>,
) -> Result<Vec<Option<Vec<u8>>>> {
    let mut values = Vec::new();
    let requests = paths.into_iter().map(|path| Request::read(path.as_ref()));
    pipelined(to, requests, |answer| {
        values.push(match answer {
            Ok(value) => Some(value),
            Err(Error::Refused {
                errno: Errno::NOENT,
                ..
            }) => None,
            Err(error) => return Err(error),
        });
        Ok(())
    })?;
    Ok(values)
}

/// Performs requests that may each be refused.
pub(super) fn all<R: IntoIterator<Item = Request>>(
    to: &impl Call,
    requests: R,
) -> Result<Vec<Result<Vec<u8>>>> {
    let mut answers = Vec::new();
    pipelined(to, requests, |answer| {
        answers.push(answer);
        Ok(())
    })?;
    Ok(answers)
}
