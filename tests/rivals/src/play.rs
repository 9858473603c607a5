//! Plays a history on a daemon and on our server, and compares all that they send, in order.

use crate::daemon::{Place, Rival};
use crate::error::Result;
use crate::known::{self, After, Seen};
use crate::message::{Asked, Message, number};
use crate::ocaml;
use crate::ours::Ours;
use crate::side::{Heard, Side};
use crate::step::{Link, Step, Tx};
use crate::theirs::Theirs;
use crate::world::{DOMAINS, Life};
use pv_xenstore::server::StoreSabotage;
use pv_xenstore::wire::{Decoder, Kind, PAYLOAD_MAX_BYTES, Packet};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// How often it is asked whether a dead domain is gone.
const LOOKS: usize = 1000;

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

struct Pair {
    theirs: Box<dyn Side>,
    ours: Ours,
    rival: Rival,
    /// The numbers of each connection's transactions: the daemon's and ours.
    begun: BTreeMap<Link, Vec<(u32, u32)>>,
    open: BTreeSet<Link>,
    /// Transactions in which an answer differed. They must fail on both sides.
    doubtful: BTreeMap<(Link, u32), Difference>,
    /// Domains that were made a target of another.
    targets: BTreeSet<u16>,
    /// A target was released: of what follows nothing is certain.
    released_target: bool,
    req_id: u32,
    hash: Sha256,
    outcome: Outcome,
}

/// Plays a history from a fresh start, with our server broken on purpose or not.
///
/// # Errors
/// The daemon cannot be run, or ends.
pub fn play(
    rival: Rival,
    place: &Place,
    sabotage: Option<StoreSabotage>,
    steps: &[Step],
) -> Result<Outcome> {
    let theirs = Theirs::start(rival, place, &DOMAINS)?;
    let ours = Ours::within(rival.counterpart(), place.quotas(rival), sabotage);
    play_on(rival, Box::new(theirs), ours, steps)
}

/// Plays a history on two servers in the same state.
///
/// # Errors
/// The daemon's side fails.
pub fn play_on(rival: Rival, theirs: Box<dyn Side>, ours: Ours, steps: &[Step]) -> Result<Outcome> {
    let mut pair = Pair {
        theirs,
        ours,
        rival,
        begun: BTreeMap::new(),
        open: BTreeSet::new(),
        doubtful: BTreeMap::new(),
        targets: BTreeSet::new(),
        released_target: false,
        req_id: 0,
        hash: Sha256::new(),
        outcome: Outcome::default(),
    };
    for (at, step) in steps.iter().enumerate() {
        pair.hash.update(format!("{step:?}"));
        if pair.step(at, step)? {
            return Ok(pair.end());
        }
    }
    // What has not been looked at yet.
    for link in pair.open.clone() {
        if pair.ask(
            steps.len(),
            link,
            Kind::GetDomainPath as u32,
            Tx::None,
            b"0\0",
        )? {
            break;
        }
    }
    Ok(pair.end())
}

impl Pair {
    fn end(mut self) -> Outcome {
        self.outcome.hash = self.hash.finalize().into();
        self.outcome
    }

    /// True: the history ends here.
    fn step(&mut self, at: usize, step: &Step) -> Result<bool> {
        match step {
            Step::Open(number) => {
                let link = Link::Socket(*number);
                if self.open.insert(link) {
                    self.theirs.open(*number)?;
                    self.ours.open(link);
                }
                Ok(false)
            }
            Step::Close(number) => {
                let link = Link::Socket(*number);
                if self.open.contains(&link) {
                    // What it did not read is compared before it goes.
                    if self.ask(at, link, Kind::GetDomainPath as u32, Tx::None, b"0\0")? {
                        return Ok(true);
                    }
                    self.gone(link);
                    return self.settle(at);
                }
                Ok(false)
            }
            Step::Ask {
                link,
                kind,
                tx,
                payload,
            } => self.ask(at, *link, *kind, *tx, payload),
            Step::Die(domid) => self.die(at, *domid),
        }
    }

    /// A connection of our own makes sure that the daemon has seen what came before.
    fn settle(&mut self, at: usize) -> Result<bool> {
        let Some(link) = self.any_socket() else {
            return Ok(false);
        };
        self.ask(at, link, Kind::GetDomainPath as u32, Tx::None, b"0\0")
    }

    fn any_socket(&self) -> Option<Link> {
        let mut links = self.open.iter();
        links.find(|link| matches!(link, Link::Socket(_))).copied()
    }

    fn gone(&mut self, link: Link) {
        self.open.remove(&link);
        self.forget_transactions(link);
        self.theirs.close(link);
        self.ours.close(link);
    }

    /// The next one of the same number is another.
    fn forget_transactions(&mut self, link: Link) {
        self.begun.remove(&link);
        self.doubtful.retain(|(of, _), _| *of != link);
    }

    /// The daemon learns by a VIRQ, which overtakes requests or is overtaken: it is asked until it knows.
    fn die(&mut self, at: usize, domid: u16) -> Result<bool> {
        let link = Link::Domain(domid);
        let (true, Some(socket)) = (self.open.contains(&link), self.any_socket()) else {
            return Ok(false);
        };
        // What it was sent before.
        if self.ask(at, link, Kind::GetDomainPath as u32, Tx::None, b"0\0")? {
            return Ok(true);
        }
        self.released_target |= self.targets.contains(&domid);
        self.theirs.set_life(domid, Life::Dying)?;
        let text = format!("{domid}\0");
        let kind = Kind::IsDomainIntroduced as u32;
        let mut events = Vec::new();
        let mut looks = 0;
        loop {
            let asked = self.asked(kind, 0);
            let packet = request(asked, text.as_bytes());
            self.theirs.send(socket, &packet.encode())?;
            let mut heard = self.hear_theirs(socket, asked)?;
            let answer = heard.pop();
            events.extend(heard);
            looks += 1;
            match answer {
                Some(Message::Answer { payload, .. }) if payload == b"T\0" && looks < LOOKS => {}
                answer => {
                    events.extend(answer);
                    break;
                }
            }
        }
        // It runs again when it is introduced again.
        self.theirs.set_life(domid, Life::Running)?;
        self.ours.die(domid);
        self.gone(link);
        let asked = self.asked(kind, 0);
        self.ours.ask(socket, request(asked, text.as_bytes()));
        let ours = self.hear_ours(socket, asked);
        let ends = self.compare(at, socket, kind, Tx::None, text.as_bytes(), events, ours)?;
        Ok(ends || self.write_something(at, socket)?)
    }

    /// Whether a permission is for a domain that has died or for the next one of its number is a matter
    /// of the tree's generation. Nobody makes a domain again without any write between.
    fn write_something(&mut self, at: usize, socket: Link) -> Result<bool> {
        let payload = b"/tool/between\0x";
        self.ask(at, socket, Kind::Write as u32, Tx::None, payload)
    }

    fn asked(&mut self, kind: u32, tx_id: u32) -> Asked {
        self.req_id += 1;
        Asked {
            kind,
            req_id: self.req_id,
            tx_id,
            len: 0,
        }
    }

    fn ask(&mut self, at: usize, link: Link, kind: u32, tx: Tx, payload: &[u8]) -> Result<bool> {
        if !self.open.contains(&link) {
            return Ok(false);
        }
        let introduced = (kind == Kind::Introduce as u32)
            .then(|| first_number(payload))
            .flatten()
            .filter(|domid| DOMAINS.contains(domid));
        if let Some(domid) = introduced {
            let ring = Link::Domain(domid);
            if !self.open.contains(&ring) {
                self.theirs.prepare(domid)?;
            } else if ring != link
                // A ring page that begins anew loses what is in it.
                && self.ask(at, ring, Kind::GetDomainPath as u32, Tx::None, b"0\0")?
            {
                return Ok(true);
            }
        }
        let (theirs_tx, ours_tx) = self.numbers(link, tx);
        if !self.theirs.takes(kind, theirs_tx) {
            return Ok(false);
        }
        let to_them = Asked {
            len: payload.len() as u32,
            ..self.asked(kind, theirs_tx)
        };
        let to_us = Asked {
            tx_id: ours_tx,
            ..to_them
        };
        if payload.len() > PAYLOAD_MAX_BYTES {
            return self.oversized(at, link, to_them, payload);
        }
        if kind == Kind::Release as u32 {
            let released = first_number(payload);
            self.released_target |= released.is_some_and(|it| self.targets.contains(&it));
        }
        self.theirs
            .send(link, &request(to_them, payload).encode())?;
        self.ours.ask(link, request(to_us, payload));
        let mut raw = Vec::new();
        let mut theirs = self.hear_theirs_raw(link, to_them, &mut raw)?;
        let mut raw_ours = Vec::new();
        let mut ours = self.hear_ours_raw(link, to_us, &mut raw_ours);
        if kind == Kind::Release as u32 {
            // xenstored tells of the domain's end before or after the answer, as its connection is or
            // is not the next in a list (`main`, `tools/xenstore/xenstored_core.c`).
            let (more_theirs, more_ours) = self.events_so_far(link)?;
            theirs.splice(theirs.len() - 1..theirs.len() - 1, more_theirs);
            ours.splice(ours.len() - 1..ours.len() - 1, more_ours);
        }
        let begun = (number(&raw), number(&raw_ours));
        let done = theirs.last().is_some_and(|m| m.errno().is_none());
        self.theirs.drain()?;
        let ends = self.compare(at, link, kind, tx, payload, theirs, ours)?;
        if kind == Kind::TransactionStart as u32
            && let (Some(theirs), Some(ours)) = begun
        {
            self.begun.entry(link).or_default().push((theirs, ours));
        }
        if kind == Kind::TransactionEnd as u32 && done {
            let numbers = self.begun.entry(link).or_default();
            numbers.retain(|(theirs, _)| *theirs != theirs_tx);
        }
        if let Some(domid) = introduced.filter(|_| done) {
            let ring = Link::Domain(domid);
            self.theirs.introduced(domid);
            self.forget_transactions(ring);
            if self.open.insert(ring) {
                self.ours.open(ring);
            } else {
                self.ours.forget_messages(ring);
            }
        }
        if kind == Kind::SetTarget as u32 && done {
            self.targets.extend(second_number(payload));
        }
        if kind == Kind::Release as u32
            && done
            && let Some(domid) = first_number(payload)
        {
            self.gone(Link::Domain(domid));
            if !ends {
                return self.write_something(at, link);
            }
        }
        Ok(ends)
    }

    /// The events that have come by now on either side.
    fn events_so_far(&mut self, link: Link) -> Result<(Vec<Message>, Vec<Message>)> {
        let asked = self.asked(Kind::GetDomainPath as u32, 0);
        let packet = request(asked, b"0\0");
        self.theirs.send(link, &packet.encode())?;
        self.ours.ask(link, packet);
        let mut theirs = self.hear_theirs(link, asked)?;
        let mut ours = self.hear_ours(link, asked);
        // The answers to this are the same.
        theirs.pop();
        ours.pop();
        Ok((theirs, ours))
    }

    /// A header that announces more than there may be.
    fn oversized(&mut self, at: usize, link: Link, asked: Asked, payload: &[u8]) -> Result<bool> {
        let Link::Socket(_) = link else {
            return Ok(false);
        };
        // xenstored sends nothing more, not even events that wait (`ignore_connection`), and of several
        // it sends one at a time: all that were there before are heard first.
        if self.ask(at, link, Kind::GetDomainPath as u32, Tx::None, b"0\0")? {
            return Ok(true);
        }
        let words = [asked.kind, asked.req_id, asked.tx_id, payload.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(payload);
        let ignores = self.rival.ignores_long_messages();
        let other = self
            .open
            .iter()
            .find(|it| matches!(it, Link::Socket(_)) && **it != link);
        let other = other.copied();
        if ignores && other.is_none() {
            // Nobody could say when it has been read.
            return Ok(false);
        }
        self.theirs.send(link, &bytes)?;
        let theirs = match other.filter(|_| ignores) {
            Some(other) => {
                if self.ask(at, other, Kind::GetDomainPath as u32, Tx::None, b"0\0")? {
                    return Ok(true);
                }
                vec![match self.theirs.hear_now(link)? {
                    Heard::Message(packet) => Message::of(&packet, asked),
                    Heard::Closed => Message::Closed,
                    Heard::Nothing => Message::Nothing,
                    Heard::Died => Message::Died,
                }]
            }
            None => self.hear_theirs(link, asked)?,
        };
        let mut ours = self.hear_ours(link, asked);
        ours.retain(Message::is_event);
        // The service hands what comes to such a decoder, and cuts the connection when that fails.
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        ours.push(match decoder.next_packet() {
            Err(_) => Message::Closed,
            Ok(_) => Message::Nothing,
        });
        let ends = self.compare(at, link, asked.kind, Tx::None, payload, theirs, ours)?;
        self.gone(link);
        Ok(ends || self.settle(at)?)
    }

    fn hear_theirs(&mut self, link: Link, asked: Asked) -> Result<Vec<Message>> {
        self.hear_theirs_raw(link, asked, &mut Vec::new())
    }

    /// Events up to the answer, and the answer.
    fn hear_theirs_raw(
        &mut self,
        link: Link,
        asked: Asked,
        raw: &mut Vec<u8>,
    ) -> Result<Vec<Message>> {
        let may_close = asked.len as usize > PAYLOAD_MAX_BYTES;
        let mut heard = Vec::new();
        loop {
            let message = match self.theirs.hear(link)? {
                Heard::Message(packet) => {
                    raw.clone_from(&packet.payload);
                    Message::of(&packet, asked)
                }
                // Known to be closed, or unexpectedly.
                Heard::Closed if !may_close && self.theirs.has_died() => Message::Died,
                Heard::Closed => Message::Closed,
                Heard::Nothing => Message::Nothing,
                Heard::Died => Message::Died,
            };
            let is_last = !message.is_event();
            heard.push(message);
            if is_last {
                return Ok(heard);
            }
        }
    }

    fn hear_ours(&mut self, link: Link, asked: Asked) -> Vec<Message> {
        self.hear_ours_raw(link, asked, &mut Vec::new())
    }

    fn hear_ours_raw(&mut self, link: Link, asked: Asked, raw: &mut Vec<u8>) -> Vec<Message> {
        let mut heard = self.hear_ours_up_to_the_answer(link, asked, raw);
        if self.theirs.has_events_apart() {
            let at = heard.len() - 1;
            let events = std::iter::from_fn(|| self.ours.hear(link));
            let events = events.map(|packet| Message::of(&packet, asked));
            let events: Vec<Message> = events.collect();
            heard.splice(at..at, events);
        }
        heard
    }

    fn hear_ours_up_to_the_answer(
        &mut self,
        link: Link,
        asked: Asked,
        raw: &mut Vec<u8>,
    ) -> Vec<Message> {
        let mut heard = Vec::new();
        loop {
            let message = match self.ours.hear(link) {
                Some(packet) => {
                    raw.clone_from(&packet.payload);
                    Message::of(&packet, asked)
                }
                None if self.ours.is_closed(link) => Message::Closed,
                None => Message::Nothing,
            };
            let is_last = !message.is_event();
            heard.push(message);
            if is_last {
                return heard;
            }
        }
    }

    /// True: the history ends here.
    #[allow(clippy::too_many_arguments, reason = "one request and its two answers")]
    fn compare(
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
    fn ended_in_doubt(
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

    fn is_begun(&self, link: Link, theirs_tx: u32) -> bool {
        let mut begun = self.begun.get(&link).into_iter().flatten();
        begun.any(|(theirs, _)| *theirs == theirs_tx)
    }

    /// A transaction's number on either side.
    fn numbers(&self, link: Link, tx: Tx) -> (u32, u32) {
        let numbers = self.begun.get(&link).map_or(&[][..], Vec::as_slice);
        match tx {
            Tx::None => (0, 0),
            Tx::Made(number) => (number, number),
            Tx::Begun(n) => {
                let at = numbers.len().checked_sub(1 + usize::from(n));
                at.map_or((0, 0), |at| numbers[at])
            }
        }
    }
}

fn request(asked: Asked, payload: &[u8]) -> Packet {
    Packet {
        kind: asked.kind,
        req_id: asked.req_id,
        tx_id: asked.tx_id,
        payload: payload.to_vec(),
    }
}

/// The number at the beginning of a payload, as C's `atoi` reads it.
fn first_number(payload: &[u8]) -> Option<u16> {
    let text = payload.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
}

fn second_number(payload: &[u8]) -> Option<u16> {
    let nul = payload.iter().position(|byte| *byte == 0)?;
    first_number(&payload[nul + 1..])
}

impl Difference {
    /// Do the events agree?
    fn is_of_answers(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (payload, expected) in [
            (&b"1\0"[..], Some(1)),
            (b" +12x\x003\0", Some(12)),
            (b"1\xc9\0", Some(1)),
            (b"x\0", None),
            (b"70000\0", None),
            (b"", None),
        ] {
            let text = payload.escape_ascii();
            assert_eq!(first_number(payload), expected, "{text}");
        }
        assert_eq!(second_number(b"1\x002\0"), Some(2));
        assert_eq!(second_number(b"1"), None);
    }
}
