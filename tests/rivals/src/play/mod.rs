//! Plays a history on a daemon and on our server, and compares all that they send, in order.

mod compare;
mod hear;
mod numbers;
mod outcome;

pub use outcome::{Difference, Outcome};

use crate::daemon::{Place, Rival};
use crate::error::Result;
use crate::message::{Asked, Message, number};
use crate::ours::Ours;
use crate::side::{Heard, Side};
use crate::step::{Link, Step, Tx};
use crate::theirs::Theirs;
use crate::world::{DOMAINS, Life};
use numbers::{first_number, second_number};
use pv_xenstore::server::StoreSabotage;
use pv_xenstore::wire::{Decoder, Kind, PAYLOAD_MAX_BYTES, Packet};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// How often it is asked whether a dead domain is gone.
const LOOKS: usize = 1000;

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
