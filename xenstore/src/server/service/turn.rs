//! A connection's turn: some of its requests are answered; and what waits for everybody is sent.

use super::super::machine::{Action, Input};
use super::super::watch::ConnId;
use super::connection::Incoming;
use super::thread::Service;
use libgnt::machine::{Machine, Now, monotonic};

/// Requests of one connection before the others' turn.
const REQUESTS_A_TURN: usize = 64;
/// Requests, of whomever, whose answers wait for those of others. A client that asks over many connections,
/// or many that wait for one processor, then wake once, not for each.
const REQUESTS_UNSENT: usize = 128;

/// How a turn ends.
enum End {
    /// There is no more to take for now.
    Idle,
    /// There may be more: others have their turn first.
    More,
    /// Answers are in the way: no more is taken before the client has taken some.
    Full,
    /// The client has hung up, or half so: it reads what is left to say.
    Closed,
    /// It is held for that long, because its domain writes too fast.
    Held(Now),
    /// The connection cannot go on.
    Broken(Box<dyn std::fmt::Display>),
}

impl Service {
    /// Tells the machine what has happened, and performs what it says.
    pub(super) fn step(&mut self, input: Input) {
        self.step_at(monotonic(), input);
    }

    fn step_at(&mut self, now: Now, input: Input) {
        let mut actions = std::mem::take(&mut self.actions);
        self.server.step(now, input, &mut actions);
        self.perform(now, &mut actions);
        self.actions = actions;
    }

    fn cut(&mut self, id: ConnId, why: &dyn std::fmt::Display) {
        tracing::debug!(connection = id.0, %why, "connection closed");
        if let Some(mut connection) = self.connections.remove(&id) {
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
        self.held.remove(&id);
        self.step(Input::Disconnected(id));
    }

    /// One turn. What it has to say goes out with others' answers, in one piece.
    pub(super) fn serve(&mut self, id: ConnId) {
        let mut left = REQUESTS_A_TURN;
        loop {
            let end = self.take_requests(id, &mut left);
            match end {
                End::Idle | End::More | End::Held(_) => {
                    self.unsent.insert(id);
                }
                End::Full | End::Closed | End::Broken(_) => self.send(id),
            }
            let is_empty = match self.connections.get(&id) {
                Some(connection) => connection.queue.is_empty(),
                None => return,
            };
            match end {
                // All has gone: there is room for more answers.
                End::Full if is_empty && left > 0 => continue,
                End::Full if !is_empty => {}
                End::Full | End::More => {
                    self.ready.insert(id);
                }
                End::Held(until) => {
                    self.held.insert(id, until);
                }
                // It may have closed its half alone, and read the rest still.
                End::Closed if is_empty => self.cut(id, &"closed by the client"),
                // The edge that says "takes more", or "readable again", brings us back.
                End::Closed | End::Idle => {}
                End::Broken(why) => self.cut(id, &*why),
            }
            break;
        }
        self.answered += REQUESTS_A_TURN - left;
        if self.answered >= REQUESTS_UNSENT {
            self.send_all();
        }
    }

    fn take_requests(&mut self, id: ConnId, left: &mut usize) -> End {
        let now = monotonic();
        let outstanding = self.server.outstanding_limit(id);
        while *left > 0 {
            if let Some(wait) = self.server.wait(id, now) {
                return End::Held(now + wait);
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                return End::Idle;
            };
            let queue = &connection.queue;
            if queue.is_congested() || queue.replies() >= outstanding {
                return End::Full;
            }
            match connection.next(&mut self.buffer) {
                Incoming::Request(packet) => {
                    self.step_at(now, Input::Request(id, packet));
                    *left -= 1;
                }
                Incoming::Nothing => return End::Idle,
                Incoming::Closed => return End::Closed,
                Incoming::Malformed(error) => {
                    tracing::warn!(connection = id.0, %error, "malformed message: connection cut");
                    return End::Broken(Box::new(error));
                }
                Incoming::Failed(error) => return End::Broken(Box::new(error)),
            }
        }
        End::More
    }

    /// Sends what waits, to all for whom something came.
    pub(super) fn send_all(&mut self) {
        self.answered = 0;
        while let Some(id) = self.unsent.pop_first() {
            self.send(id);
        }
    }

    fn send(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Err(error) = connection.flush(self.poll.registry())
        {
            self.cut(id, &error);
        }
    }

    fn perform(&mut self, now: Now, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            let (id, result) = match action {
                Action::Reply(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => {
                        connection.queue.push_reply(&packet);
                        continue;
                    }
                    None => continue,
                },
                Action::Event(id, packet) => match self.connections.get_mut(&id) {
                    Some(connection) => (id, connection.queue.push_event(&packet, now)),
                    None => continue,
                },
                Action::Close(id) => {
                    self.cut(id, &"its domain is gone");
                    continue;
                }
            };
            match result {
                Ok(()) => {
                    self.unsent.insert(id);
                }
                Err(error) => {
                    tracing::warn!(connection = id.0, %error, "a client that does not read: connection cut");
                    self.cut(id, &error);
                }
            }
        }
    }
}
