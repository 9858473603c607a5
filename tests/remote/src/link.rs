//! Frames over a Xen console: a byte stream on which the domain's kernel may write, too, in the
//! middle of anything.
//!
//! A frame is one line: a mark, a session, a number, a checksum, and a payload without line ends.
//! What is no good frame is somebody else's line. Frames are acknowledged and sent again until
//! they are, so that one that a kernel message has torn is only late. Input in, output out: whoever
//! owns the terminal performs both.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Begins a frame to a domain, and one from it. They differ, because a terminal that is not set up
/// yet echoes what it is sent.
const MARKS: [&[u8]; 2] = [b"~pv>", b"~pv<"];
/// Frames sent and not yet acknowledged.
const WINDOW: usize = 16;
/// Unacknowledged frames are sent again after this time.
const AGAIN: Duration = Duration::from_millis(700);
/// A payload's most; console buffers are a few KiB.
pub const MAX_PAYLOAD: usize = 1800;
/// Who sends frames by himself waits while so many are not acknowledged: about 7 MB.
pub const MAX_BACKLOG: usize = 4096;
/// A line that does not end is cut here.
const MAX_LINE: usize = 4096;

/// What a stretch of input held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message of the other side, each once, in order.
    Message(Vec<u8>),
    /// Somebody else's line.
    Stray(String),
}

/// One end.
#[derive(Debug)]
pub struct Link {
    session: u32,
    /// The end that decides on the session's number.
    leads: bool,
    next_out: u64,
    window: VecDeque<(u64, Vec<u8>)>,
    waiting: VecDeque<Vec<u8>>,
    expected: u64,
    owes_ack: bool,
    line: Vec<u8>,
    out: Vec<u8>,
    again_at: Option<Instant>,
}

impl Link {
    /// The end that begins sessions. The number must differ from the last session's.
    pub fn leader(session: u32) -> Link {
        Link::new(session, true)
    }

    /// The end that follows: another session's first frame begins everything anew.
    pub fn follower() -> Link {
        Link::new(0, false)
    }

    fn new(session: u32, leads: bool) -> Link {
        Link {
            session,
            leads,
            next_out: 0,
            window: VecDeque::new(),
            waiting: VecDeque::new(),
            expected: 0,
            owes_ack: false,
            line: Vec::new(),
            out: Vec::new(),
            again_at: None,
        }
    }

    /// The session's number; 0 before a follower's first.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Queues a message: at most [`MAX_PAYLOAD`] bytes, no line end in it.
    pub fn send(&mut self, payload: &[u8]) {
        debug_assert!(payload.len() <= MAX_PAYLOAD && !payload.contains(&b'\n'));
        self.waiting.push_back(payload.to_vec());
    }

    /// Messages not yet acknowledged. A sender looks at it, and sends nothing of its own accord while
    /// there are [`MAX_BACKLOG`]; an answer, and what an ended process leaves, may go beyond.
    pub fn backlog(&self) -> usize {
        self.window.len() + self.waiting.len()
    }

    /// Takes in what the terminal gave.
    pub fn input(&mut self, bytes: &[u8], now: Instant) -> Vec<Input> {
        let mut found = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' || self.line.len() == MAX_LINE {
                let line = std::mem::take(&mut self.line);
                if !line.is_empty() {
                    found.extend(self.line(&line, now));
                }
            }
            if byte != b'\n' && byte != b'\r' {
                self.line.push(byte);
            }
        }
        found
    }

    fn line(&mut self, line: &[u8], now: Instant) -> Option<Input> {
        match Frame::parse(line, MARKS[usize::from(self.leads)]) {
            Some(frame) => self.frame(frame, now).map(Input::Message),
            None => Some(Input::Stray(String::from_utf8_lossy(line).into_owned())),
        }
    }

    fn frame(&mut self, frame: Frame<'_>, now: Instant) -> Option<Vec<u8>> {
        if frame.session != self.session {
            // Old frames of a session that is over may still be in the console's buffers.
            if self.leads || frame.number != Some(0) {
                return None;
            }
            *self = Link {
                session: frame.session,
                ..Link::new(0, false)
            };
        }
        match frame.number {
            None => {
                let acked = frame.ack()?;
                let before = self.window.len();
                self.window.retain(|(number, _)| *number >= acked);
                if self.window.len() < before {
                    self.again_at = (!self.window.is_empty()).then(|| now + AGAIN);
                }
                None
            }
            Some(number) => {
                self.owes_ack = true;
                if number != self.expected {
                    return None;
                }
                self.expected += 1;
                Some(frame.payload.to_vec())
            }
        }
    }

    /// What is to be written now. The caller keeps what the terminal did not take.
    pub fn output(&mut self, now: Instant) -> Vec<u8> {
        let mark = MARKS[usize::from(!self.leads)];
        if std::mem::take(&mut self.owes_ack) {
            let ack = format!("{:x}", self.expected);
            encode(&mut self.out, mark, self.session, None, ack.as_bytes());
        }
        if self.again_at.is_some_and(|at| now >= at) {
            for (number, payload) in &self.window {
                encode(&mut self.out, mark, self.session, Some(*number), payload);
            }
            self.again_at = Some(now + AGAIN);
        }
        while self.window.len() < WINDOW
            && let Some(payload) = self.waiting.pop_front()
        {
            encode(
                &mut self.out,
                mark,
                self.session,
                Some(self.next_out),
                &payload,
            );
            self.window.push_back((self.next_out, payload));
            self.next_out += 1;
            self.again_at.get_or_insert(now + AGAIN);
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Link::output`] must be asked again, even if nothing came in.
    pub fn due(&self) -> Option<Instant> {
        self.again_at
    }
}

struct Frame<'a> {
    session: u32,
    /// `None`: an acknowledgement.
    number: Option<u64>,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(line: &'a [u8], mark: &[u8]) -> Option<Frame<'a>> {
        // A kernel message without its line end may stand before a frame.
        let start = line.windows(mark.len()).rposition(|w| w == mark)?;
        let mut fields = line[start + mark.len()..].splitn(5, |&byte| byte == b' ');
        let empty = fields.next()?;
        let session = u32::from_str_radix(std::str::from_utf8(fields.next()?).ok()?, 16).ok()?;
        let number = std::str::from_utf8(fields.next()?).ok()?;
        let number = match number {
            "-" => None,
            number => Some(u64::from_str_radix(number, 16).ok()?),
        };
        let sum = u32::from_str_radix(std::str::from_utf8(fields.next()?).ok()?, 16).ok()?;
        let payload = fields.next()?;
        (empty.is_empty() && sum == checksum(session, number, payload)).then_some(Frame {
            session,
            number,
            payload,
        })
    }

    fn ack(&self) -> Option<u64> {
        u64::from_str_radix(std::str::from_utf8(self.payload).ok()?, 16).ok()
    }
}

fn encode(out: &mut Vec<u8>, mark: &[u8], session: u32, number: Option<u64>, payload: &[u8]) {
    let sum = checksum(session, number, payload);
    let number = number.map_or_else(|| "-".to_owned(), |number| format!("{number:x}"));
    // A line end first: what the kernel began must not swallow the mark.
    out.push(b'\n');
    out.extend(mark);
    out.extend(format!(" {session:x} {number} {sum:x} ").bytes());
    out.extend(payload);
    out.push(b'\n');
}

fn checksum(session: u32, number: Option<u64>, payload: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&session.to_le_bytes());
    hash.update(&number.unwrap_or(u64::MAX).to_le_bytes());
    hash.update(payload);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(inputs: Vec<Input>) -> Vec<String> {
        inputs
            .into_iter()
            .filter_map(|input| match input {
                Input::Message(bytes) => Some(String::from_utf8(bytes).unwrap()),
                Input::Stray(_) => None,
            })
            .collect()
    }

    #[test]
    fn messages_pass_and_strays_are_told_apart() {
        let now = Instant::now();
        let (mut a, mut b) = (Link::leader(7), Link::follower());
        a.send(b"{\"x\":1}");
        let mut bytes = b"[   12.5] something".to_vec();
        bytes.extend(a.output(now));
        let inputs = b.input(&bytes, now);
        assert_eq!(
            inputs,
            [
                Input::Stray("[   12.5] something".into()),
                Input::Message(b"{\"x\":1}".to_vec())
            ]
        );
        assert_eq!(b.session(), 7);
        assert_eq!(a.backlog(), 1);
        assert!(a.input(&b.output(now), now).is_empty());
        assert_eq!(a.backlog(), 0);
    }

    #[test]
    fn a_torn_frame_comes_again_and_order_is_kept() {
        let now = Instant::now();
        let (mut a, mut b) = (Link::leader(1), Link::follower());
        a.send(b"first");
        b.input(&a.output(now), now);
        a.input(&b.output(now), now);
        a.send(b"second");
        a.send(b"third");
        let mut bytes = a.output(now);
        let at = bytes.windows(6).position(|w| w == b"second").unwrap();
        bytes.splice(at + 3..at + 3, b"[ 1.0] BUG: it\r\n".iter().copied());
        assert!(
            messages(b.input(&bytes, now)).is_empty(),
            "third waits for second"
        );
        a.input(&b.output(now), now);
        assert!(a.output(now).is_empty(), "not yet");
        let later = now + AGAIN;
        assert_eq!(
            messages(b.input(&a.output(later), later)),
            ["second", "third"]
        );
        a.input(&b.output(later), later);
        assert_eq!((a.backlog(), a.due()), (0, None));
    }

    #[test]
    fn an_echo_is_nothing() {
        let now = Instant::now();
        let mut a = Link::leader(1);
        a.send(b"hello");
        let echo = a.output(now);
        assert!(messages(a.input(&echo, now)).is_empty());
        assert_eq!(a.backlog(), 1);
    }

    #[test]
    fn a_repeated_frame_is_delivered_once() {
        let now = Instant::now();
        let (mut a, mut b) = (Link::leader(1), Link::follower());
        a.send(b"once");
        let bytes = a.output(now);
        assert_eq!(messages(b.input(&bytes, now)), ["once"]);
        assert!(messages(b.input(&bytes, now)).is_empty());
    }

    #[test]
    fn a_new_session_begins_anew_and_an_old_ones_frames_are_nothing() {
        let now = Instant::now();
        let (mut old, mut b) = (Link::leader(1), Link::follower());
        old.send(b"old");
        let bytes = old.output(now);
        b.input(&bytes, now);
        b.send(b"answer to old");
        b.output(now);
        let mut new = Link::leader(2);
        new.send(b"new");
        assert_eq!(messages(b.input(&new.output(now), now)), ["new"]);
        assert_eq!(b.backlog(), 0, "what the old session waited for is gone");
        old.send(b"more");
        assert!(messages(b.input(&old.output(now), now)).is_empty());
        assert!(messages(new.input(&bytes, now)).is_empty());
    }

    #[test]
    fn whatever_the_wire_loses_arrives() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut a, mut b) = (Link::leader(9), Link::follower());
        let sent: Vec<String> = (0..200).map(|n| format!("message {n}")).collect();
        for message in &sent {
            a.send(message.as_bytes());
        }
        let mut now = Instant::now();
        let mut got = Vec::new();
        for _ in 0..2000 {
            now += Duration::from_millis(100);
            let mut bytes = a.output(now);
            if !bytes.is_empty() && rng.bool() {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1;
            }
            got.extend(messages(b.input(&bytes, now)));
            let mut acks = b.output(now);
            if rng.u8(..4) == 0 {
                acks.clear();
            }
            a.input(&acks, now);
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut link = Link::follower();
        let strays = link.input(&[b'x'; 3 * MAX_LINE], Instant::now());
        assert_eq!(strays.len(), 2);
    }
}
