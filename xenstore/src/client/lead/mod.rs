//! Who of the threads that wait polls for all, and who is woken when: the decisions, without threads.
//!
//! All of it happens under the connection's lock. `W` is a thread: what wakes it, and tells it from others.

#[cfg(test)]
mod explore;

/// What a thread does next that has not found what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Takes in what the stream has, and looks again.
    TakeIn,
    /// Lets go of the lock and polls; then [`Lead::polled`], and as for `TakeIn`.
    Poll,
    /// Lets go of the lock and sleeps until it is woken; then [`Lead::woken`], and looks again.
    Sleep,
}

/// Who polls, and who sleeps meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lead<W> {
    /// Somebody polls.
    is_taken: bool,
    /// The stream may have more, although its descriptor does not say so.
    has_more: bool,
    /// Something came that the leader may wait for.
    news: bool,
    /// Who sleeps, and the answer that it waits for; `None`: anything.
    asleep: Vec<(Option<u32>, W)>,
}

impl<W: PartialEq> Lead<W> {
    pub(super) fn new() -> Lead<W> {
        Lead {
            is_taken: false,
            // A ring may have been filled before anybody listened.
            has_more: true,
            news: false,
            asleep: Vec::new(),
        }
    }

    /// For a thread that waits for this answer.
    pub(super) fn next(&mut self, id: Option<u32>, me: W) -> Next {
        if self.is_taken {
            self.asleep.push((id, me));
            Next::Sleep
        } else if std::mem::take(&mut self.has_more) {
            Next::TakeIn
        } else {
            self.is_taken = true;
            Next::Poll
        }
    }

    /// The leader is back, and holds the lock.
    pub(super) fn polled(&mut self) {
        self.is_taken = false;
    }

    /// A sleeper is back, and holds the lock.
    pub(super) fn woken(&mut self, me: &W) {
        if let Some(at) = self.asleep.iter().position(|(_, w)| w == me) {
            self.asleep.swap_remove(at);
        }
    }

    /// This answer came (`None`: something else): whom to wake.
    pub(super) fn came(&mut self, id: Option<u32>) -> impl Iterator<Item = &W> {
        self.news = true;
        // Who waits for no answer may wait for room, which an answer makes.
        let wakes = move |it: Option<u32>| it == id || it.is_none();
        self.asleep
            .iter()
            .filter(move |(it, _)| wakes(*it))
            .map(|(_, w)| w)
    }

    /// A thread stops waiting, or has taken in what there was: who must look after the stream now.
    pub(super) fn heir(&self) -> Option<&W> {
        self.asleep
            .first()
            .filter(|_| !self.is_taken)
            .map(|(_, w)| w)
    }

    /// Must the leader be woken? It does not know what somebody else took in, or could not send.
    pub(super) fn must_ring(&mut self, unsent: bool) -> bool {
        let news = std::mem::take(&mut self.news);
        self.is_taken && (news || unsent)
    }

    /// The stream was read: is there more that nothing will tell of?
    pub(super) fn read(&mut self, has_more: bool) {
        self.has_more = has_more;
    }

    /// The thread that took it in looks itself.
    pub(super) fn is_known(&mut self) {
        self.news = false;
    }

    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }
}
