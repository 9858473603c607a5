//! What both said, held against each other.

use super::Pair;
use super::outcome::Difference;
use crate::error::Result;
use crate::known::{self, After, Seen};
use crate::message::Message;
use crate::ocaml;
use crate::step::{Link, Tx};
use pv_xenstore::wire::Kind;
use sha2::Digest;

impl Pair {
    /// True: the history ends here.
    #[allow(clippy::too_many_arguments, reason = "one request and its two answers")]
    pub(super) fn compare(
        &mut self,
        at: usize,
        link: Link,
        kind: u32,
        tx: Tx,
        payload: &[u8],
        theirs: Vec<Message>,
        ours: Vec<Message>,
    ) -> Result<bool> {
        self.outcome.requests += 1;
        self.hash.update(format!("{theirs:?}"));
        let theirs_tx = self.numbers(link, tx).0;
        if let Some(first) = self.ended_in_doubt(link, kind, theirs_tx, payload, &theirs, &ours) {
            // Only now it is one.
            self.outcome.difference = Some(Difference { at, ..first });
            return Ok(true);
        }
        if theirs == ours {
            return Ok(false);
        }
        let seen = Seen {
            releases_target: self.released_target,
            rival: self.rival,
            link,
            kind,
            tx,
            payload,
            theirs: &theirs,
            ours: &ours,
        };
        if let Some(known) = known::explain(&seen).or_else(|| ocaml::explain(&seen)) {
            *self.outcome.explained.entry(known.id).or_default() += 1;
            let ends = known.after == After::Ends;
            if ends {
                self.outcome.ended = Some(at);
            }
            return Ok(ends);
        }
        let difference = Difference {
            at,
            link,
            theirs,
            ours,
        };
        let is_known_tx = theirs_tx != 0 && self.is_begun(link, theirs_tx);
        if is_known_tx && kind != Kind::TransactionEnd as u32 && difference.is_of_answers() {
            self.doubtful.entry((link, theirs_tx)).or_insert(difference);
            return Ok(false);
        }
        self.outcome.difference = Some(difference);
        Ok(true)
    }

    /// The difference in a transaction that has just been committed on either side. One that fails on
    /// both, as it does when others were in its way, may have seen what it likes.
    pub(super) fn ended_in_doubt(
        &mut self,
        link: Link,
        kind: u32,
        tx: u32,
        payload: &[u8],
        theirs: &[Message],
        ours: &[Message],
    ) -> Option<Difference> {
        if kind != Kind::TransactionEnd as u32 {
            return None;
        }
        let errnos = [theirs, ours].map(|messages| messages.last().and_then(Message::errno));
        if errnos == [Some("EINVAL"); 2] {
            // It goes on.
            return None;
        }
        let difference = self.doubtful.remove(&(link, tx))?;
        // ENOENT: it was given up before.
        let failed = ["EAGAIN", "ENOMEM", "ENOENT"].map(|errno| [Some(errno); 2]);
        if payload != b"T\0" || failed.contains(&errnos) {
            *self.outcome.explained.entry(known::DOOMED).or_default() += 1;
            return None;
        }
        Some(difference)
    }
}
