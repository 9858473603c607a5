//! What a history comes to.

use crate::message::Message;
use crate::step::Link;
use std::collections::BTreeMap;

/// Where the two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step at which it showed; the number of steps if at the end.
    pub at: usize,
    /// On which connection.
    pub link: Link,
    /// What the daemon sent.
    pub theirs: Vec<Message>,
    /// What our server sent.
    pub ours: Vec<Message>,
}

/// How a history went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests that were answered.
    pub requests: u64,
    /// The first difference that nothing explains.
    pub difference: Option<Difference>,
    /// How often each known difference was met.
    pub explained: BTreeMap<&'static str, u64>,
    /// The step at which a known difference ended it.
    pub ended: Option<usize>,
    /// SHA-256 of the steps and of all that the daemon sent.
    pub hash: [u8; 32],
}

impl Difference {
    /// Do the events agree?
    pub(super) fn is_of_answers(&self) -> bool {
        let events = |messages: &[Message]| {
            let events = messages.iter().filter(|message| message.is_event());
            events.cloned().collect::<Vec<_>>()
        };
        events(&self.theirs) == events(&self.ours)
    }

    /// As people read it.
    pub fn lines(&self) -> String {
        let side = |messages: &[Message]| {
            let lines = messages.iter().map(|message| format!("    {message}\n"));
            lines.collect::<String>()
        };
        format!(
            "{} hears of the daemon\n{}  and of our server\n{}",
            self.link,
            side(&self.theirs),
            side(&self.ours)
        )
    }
}
