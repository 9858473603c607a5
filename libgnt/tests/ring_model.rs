//! Front and back against a model, at every place of the index space, in seeded random order.
#![allow(clippy::unwrap_used, reason = "a test")]

use libgnt::SharedPages;
use libgnt::proto::blkif::{Operation, Request, Response, Segment, Status, X86_32, X86_64};
use libgnt::ring::{BackRing, FrontRing, SlotCodec};
use std::collections::VecDeque;
use std::sync::Arc;

fn request(id: u64, rng: &mut fastrand::Rng) -> Request {
    let operation = [Operation::Read, Operation::Write, Operation::Flush][rng.usize(0..3)];
    let count = if operation == Operation::Flush {
        0
    } else {
        rng.usize(1..=11)
    };
    let mut segment = |_| {
        let first_sector = rng.u8(0..8);
        Segment {
            gref: rng.u32(..),
            first_sector,
            last_sector: rng.u8(first_sector..8),
        }
    };
    let segments = (0..count).map(&mut segment).collect();
    Request {
        operation,
        handle: rng.u16(..),
        id,
        sector: rng.u64(..),
        segments,
    }
}

/// A ring, its model, and who sleeps.
struct Run<C: SlotCodec> {
    front: FrontRing<C>,
    back: BackRing<C>,
    /// Pushed, not yet published.
    pushed: VecDeque<Request>,
    /// Published, not yet popped.
    published: VecDeque<Request>,
    /// Popped, not yet answered.
    popped: Vec<Request>,
    answers_pushed: VecDeque<Response>,
    answers_published: VecDeque<Response>,
    back_asleep: bool,
    front_asleep: bool,
}

impl<C: SlotCodec<Request = Request, Response = Response> + Copy> Run<C> {
    fn new(codec: C, start: u32) -> Self {
        let page = Arc::new(SharedPages::anonymous(1).unwrap());
        let front = FrontRing::starting_at(page.clone(), codec, start);
        Run {
            front,
            back: BackRing::attach(page, codec),
            pushed: VecDeque::new(),
            published: VecDeque::new(),
            popped: Vec::new(),
            answers_pushed: VecDeque::new(),
            answers_published: VecDeque::new(),
            back_asleep: true,
            front_asleep: true,
        }
    }

    fn in_flight(&self) -> usize {
        self.pushed.len()
            + self.published.len()
            + self.popped.len()
            + self.answers_pushed.len()
            + self.answers_published.len()
    }

    fn step(&mut self, id: u64, rng: &mut fastrand::Rng) {
        match rng.u8(0..8) {
            0 | 1 => {
                let request = request(id, rng);
                let room = self.in_flight() < self.front.size() as usize;
                assert_eq!(self.front.push(&request).is_ok(), room);
                if room {
                    self.pushed.push_back(request);
                }
            }
            2 => {
                let notify = self.front.publish();
                assert_eq!(notify, self.back_asleep && !self.pushed.is_empty());
                self.back_asleep &= !notify;
                self.published.append(&mut self.pushed);
            }
            3 if !self.back_asleep => {
                let got = self.back.pop().unwrap();
                assert_eq!(got, self.published.pop_front());
                self.popped.extend(got);
            }
            4 if !self.popped.is_empty() => {
                let request = self.popped.swap_remove(rng.usize(0..self.popped.len()));
                let status = [Status::Okay, Status::Error, Status::NotSupported][rng.usize(0..3)];
                let response = request.response(status);
                self.back.push(&response);
                self.answers_pushed.push_back(response);
            }
            5 => {
                let notify = self.back.publish();
                assert_eq!(notify, self.front_asleep && !self.answers_pushed.is_empty());
                self.front_asleep &= !notify;
                self.answers_published.append(&mut self.answers_pushed);
            }
            6 if !self.front_asleep => {
                assert_eq!(
                    self.front.pop().unwrap(),
                    self.answers_published.pop_front()
                );
            }
            7 if rng.bool() && !self.back_asleep => {
                let more = self.back.final_check().unwrap();
                assert_eq!(more, !self.published.is_empty());
                self.back_asleep = !more;
            }
            7 if !self.front_asleep => {
                let more = self.front.final_check().unwrap();
                assert_eq!(more, !self.answers_published.is_empty());
                self.front_asleep = !more;
            }
            _ => {}
        }
        assert_eq!(self.front.in_flight() as usize, self.in_flight());
        assert_eq!(
            self.front.free_slots(),
            self.front.size() - self.front.in_flight()
        );
        assert_eq!(self.back.unanswered() as usize, self.popped.len());
    }
}

fn runs<C: SlotCodec<Request = Request, Response = Response> + Copy>(codec: C) {
    // Miri is a hundred times slower.
    let (seeds, steps) = if cfg!(miri) { (2, 200) } else { (40, 20_000) };
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        // Half of the runs cross the end of the index space.
        let start = if seed % 2 == 0 {
            u32::MAX - rng.u32(0..100)
        } else {
            rng.u32(..)
        };
        let mut run = Run::new(codec, start);
        for id in 0..steps {
            run.step(id, &mut rng);
        }
    }
}

#[test]
fn random_steps_agree_with_the_model_64() {
    runs(X86_64);
}

#[test]
fn random_steps_agree_with_the_model_32() {
    runs(X86_32);
}

#[test]
fn a_new_back_end_sees_what_the_old_one_left_unanswered() {
    let page = Arc::new(SharedPages::anonymous(1).unwrap());
    let mut front = FrontRing::starting_at(page.clone(), X86_64, u32::MAX);
    let mut rng = fastrand::Rng::with_seed(7);
    let sent: Vec<Request> = (0..5).map(|id| request(id, &mut rng)).collect();
    for request in &sent {
        front.push(request).unwrap();
    }
    assert!(front.publish());
    let mut old = BackRing::attach(page.clone(), X86_64);
    let first = old.pop().unwrap().unwrap();
    assert_eq!(old.pop().unwrap(), Some(sent[1]));
    old.push(&first.response(Status::Okay));
    assert!(old.publish());
    drop(old);

    let mut new = BackRing::attach(page, X86_64);
    for request in &sent[1..] {
        assert_eq!(new.pop().unwrap(), Some(*request));
    }
    assert_eq!(new.pop().unwrap(), None);
}

#[test]
#[should_panic(expected = "a response without a request")]
fn an_answer_too_many_is_a_bug_of_the_caller() {
    let page = Arc::new(SharedPages::anonymous(1).unwrap());
    let mut front = FrontRing::new(page.clone(), X86_64);
    let mut back = BackRing::attach(page, X86_64);
    let request = request(1, &mut fastrand::Rng::with_seed(1));
    front.push(&request).unwrap();
    let _ = front.publish();
    back.push(&request.response(Status::Okay));
}
