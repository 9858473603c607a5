//! What the front end itself did, counted: how many system calls a request costs.

/// Totals since the front end was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counters {
    /// Requests put on a ring.
    pub requests: u64,
    /// Responses taken off.
    pub responses: u64,
    /// Events sent.
    pub notifies: u64,
    /// Waits in epoll.
    pub polls: u64,
    /// Reads of the event-channel file.
    pub event_reads: u64,
    /// Writes of it (unmask).
    pub event_unmasks: u64,
    /// Questions to the platform whether a grant is in use.
    pub verifications: u64,
    /// Waits that a busy loop made unnecessary.
    pub spins: u64,
}

impl Counters {
    /// System calls on the data path, this side's only.
    pub fn system_calls(&self) -> u64 {
        self.notifies + self.polls + self.event_reads + self.event_unmasks + self.verifications
    }

    /// [`Counters::system_calls`] for each request.
    pub fn per_request(&self) -> f64 {
        self.system_calls() as f64 / self.requests.max(1) as f64
    }

    /// What was added since an earlier moment.
    pub fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            requests: self.requests - earlier.requests,
            responses: self.responses - earlier.responses,
            notifies: self.notifies - earlier.notifies,
            polls: self.polls - earlier.polls,
            event_reads: self.event_reads - earlier.event_reads,
            event_unmasks: self.event_unmasks - earlier.event_unmasks,
            verifications: self.verifications - earlier.verifications,
            spins: self.spins - earlier.spins,
        }
    }
}
