//! A sleeping reader/writer lock as Linux's `rw_semaphore` behaves for its waiters: first come,
//! first served, so that a reader queues behind a waiting writer although other readers hold the
//! lock. That rule is what turns a recursive read lock into a deadlock. A mutex is one that is
//! only ever taken for writing.

/// How many actors a model may have.
pub const MAX_ACTORS: usize = 8;

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Shared.
    Read,
    /// Alone.
    Write,
}

/// One waiting request: the actor's number plus one, and [`WRITE`] for a writer. 0: none.
type Request = u8;
const WRITE: u8 = 0x80;

/// The lock's state. Small and plain: every state of a model holds a few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lock {
    /// The writer's number plus one, or 0.
    writer: u8,
    /// How often each actor holds it for reading.
    readers: [u8; MAX_ACTORS],
    /// In the order of their coming.
    queue: [Request; MAX_ACTORS],
}

impl Lock {
    fn free_for(&self, mode: Mode) -> bool {
        let read = self.readers.iter().any(|count| *count > 0);
        self.writer == 0 && (mode == Mode::Read || !read)
    }

    fn position(&self, actor: usize) -> Option<usize> {
        self.queue
            .iter()
            .position(|r| usize::from(r & !WRITE) == actor + 1)
    }

    /// Does `actor` wait in the queue?
    pub fn queued(&self, actor: usize) -> bool {
        self.position(actor).is_some()
    }

    /// Could `actor` have it now?
    pub fn obtainable(&self, actor: usize, mode: Mode) -> bool {
        let ahead = self.position(actor).unwrap_or(MAX_ACTORS);
        let mut before = self.queue[..ahead].iter().filter(|r| **r != 0);
        let nobody_before = match mode {
            Mode::Read => before.all(|r| r & WRITE == 0),
            Mode::Write => before.next().is_none(),
        };
        nobody_before && self.free_for(mode)
    }

    /// Takes it, out of the queue if `actor` is there. Only after [`Self::obtainable`].
    pub fn take(&mut self, actor: usize, mode: Mode) {
        if let Some(at) = self.position(actor) {
            self.queue.copy_within(at + 1.., at);
            self.queue[MAX_ACTORS - 1] = 0;
        }
        match mode {
            Mode::Read => self.readers[actor] += 1,
            Mode::Write => self.writer = number(actor),
        }
    }

    /// Joins the queue.
    pub fn queue(&mut self, actor: usize, mode: Mode) {
        let flag = if mode == Mode::Write { WRITE } else { 0 };
        if let Some(slot) = self.queue.iter_mut().find(|r| **r == 0) {
            *slot = number(actor) | flag;
        }
    }

    /// Lets go of one hold.
    pub fn release(&mut self, actor: usize) {
        if self.writer == number(actor) {
            self.writer = 0;
        } else {
            self.readers[actor] = self.readers[actor].saturating_sub(1);
        }
    }

    /// Turns a write hold into a read hold.
    pub fn downgrade(&mut self, actor: usize) {
        self.writer = 0;
        self.readers[actor] += 1;
    }

    /// How `actor` holds it, and how often.
    pub fn held_by(&self, actor: usize) -> Option<(Mode, u8)> {
        if self.writer == number(actor) {
            Some((Mode::Write, 1))
        } else {
            let count = self.readers[actor];
            (count > 0).then_some((Mode::Read, count))
        }
    }

    /// Whom `actor` waits for: holders in its way, and those before it in the queue.
    pub fn in_the_way(&self, actor: usize, mode: Mode) -> Vec<usize> {
        let ahead = self.position(actor).unwrap_or(MAX_ACTORS);
        (0..MAX_ACTORS)
            .filter(|other| {
                // An actor's own hold counts: waiting for oneself is a deadlock too.
                let holds = match self.held_by(*other) {
                    Some((Mode::Write, _)) => true,
                    Some((Mode::Read, _)) => mode == Mode::Write,
                    None => false,
                };
                let before_me = self.position(*other).is_some_and(|at| {
                    at < ahead && (mode == Mode::Write || self.queue[at] & WRITE != 0)
                });
                holds || before_me
            })
            .collect()
    }

    /// Nobody holds it or waits for it.
    pub fn idle(&self) -> bool {
        *self == Lock::default()
    }
}

fn number(actor: usize) -> u8 {
    // MAX_ACTORS is 8.
    (actor + 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_queues_behind_a_waiting_writer() {
        let mut lock = Lock::default();
        lock.take(0, Mode::Read);
        assert!(lock.obtainable(1, Mode::Read));
        lock.queue(2, Mode::Write);
        assert!(!lock.obtainable(1, Mode::Read));
        lock.queue(1, Mode::Read);
        assert_eq!(lock.in_the_way(1, Mode::Read), [2]);
        assert_eq!(lock.in_the_way(2, Mode::Write), [0]);
        lock.release(0);
        assert!(lock.obtainable(2, Mode::Write));
        lock.take(2, Mode::Write);
        lock.release(2);
        assert!(lock.obtainable(1, Mode::Read));
    }

    #[test]
    fn readers_at_the_head_enter_together() {
        let mut lock = Lock::default();
        lock.take(0, Mode::Write);
        lock.queue(1, Mode::Read);
        lock.queue(2, Mode::Read);
        lock.queue(3, Mode::Write);
        lock.release(0);
        assert!(lock.obtainable(2, Mode::Read) && !lock.obtainable(3, Mode::Write));
        lock.take(2, Mode::Read);
        lock.take(1, Mode::Read);
        lock.release(1);
        assert!(!lock.obtainable(3, Mode::Write));
        lock.release(2);
        assert!(lock.obtainable(3, Mode::Write));
    }

    #[test]
    fn reading_again_behind_a_writer_waits_for_it() {
        let mut lock = Lock::default();
        lock.take(0, Mode::Read);
        lock.queue(1, Mode::Write);
        lock.queue(0, Mode::Read);
        assert_eq!(lock.in_the_way(0, Mode::Read), [1]);
        assert_eq!(lock.in_the_way(1, Mode::Write), [0]);
    }
}
