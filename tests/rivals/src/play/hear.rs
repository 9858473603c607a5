//! What either side says.

use super::{Pair, request};
use crate::error::Result;
use crate::message::{Asked, Message};
use crate::side::Heard;
use crate::step::Link;
use pv_xenstore::wire::{Kind, PAYLOAD_MAX_BYTES};

impl Pair {
    /// The events that have come by now on either side.
    pub(super) fn events_so_far(&mut self, link: Link) -> Result<(Vec<Message>, Vec<Message>)> {
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

    pub(super) fn hear_theirs(&mut self, link: Link, asked: Asked) -> Result<Vec<Message>> {
        self.hear_theirs_raw(link, asked, &mut Vec::new())
    }

    /// Events up to the answer, and the answer.
    pub(super) fn hear_theirs_raw(
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

    pub(super) fn hear_ours(&mut self, link: Link, asked: Asked) -> Vec<Message> {
        self.hear_ours_raw(link, asked, &mut Vec::new())
    }

    pub(super) fn hear_ours_raw(
        &mut self,
        link: Link,
        asked: Asked,
        raw: &mut Vec<u8>,
    ) -> Vec<Message> {
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

    pub(super) fn hear_ours_up_to_the_answer(
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
}
