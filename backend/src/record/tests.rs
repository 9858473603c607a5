//! A front end, a ring, and back ends that are killed between any two steps.

use super::*;
use libgnt::proto::blkif::{Status, X86_64};
use libgnt::ring::{BackRing, FrontRing};
use std::collections::BTreeMap;

const FRONT: DomId = DomId(1);
const XVDA: DeviceId = DeviceId(51712);
const RING: RingName = RingName {
    ring_ref: GrantRef(8),
    port: EvtchnPort(17),
};

fn request(id: u64) -> Request {
    let segment = |n: u8| Segment {
        gref: 0x8000_0000 | u32::from(n),
        first_sector: n % 8,
        last_sector: 7,
    };
    let operation = match id % 5 {
        0 => Operation::Flush,
        1 | 2 => Operation::Write,
        _ => Operation::Read,
    };
    let count = if operation == Operation::Flush {
        0
    } else {
        1 + id % 11
    };
    Request {
        operation,
        handle: 0xfe01,
        id,
        sector: id << 40,
        segments: (0..count as u8).map(segment).collect(),
    }
}

fn file() -> File {
    tempfile::tempfile().expect("file")
}

/// Broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordSabotage {
    None,
    /// A place is free as soon as its response is written.
    FreeBeforePublish,
    /// A request is recorded after the next one was taken.
    RecordLate,
    /// A new back end starts at `rsp_prod`, as one without a record.
    NoRecord,
}

/// One back end process's memory.
struct Back {
    ring: BackRing<X86_64>,
    record: Record,
    at_work: Vec<Request>,
    late: Option<Request>,
}

struct Run {
    file: File,
    ring: Arc<SharedPages>,
    front: FrontRing<X86_64>,
    next_id: u64,
    /// What was asked and not answered.
    asked: BTreeMap<u64, Request>,
    answered: u64,
    sabotage: RecordSabotage,
}

impl Run {
    fn new(sabotage: RecordSabotage) -> Run {
        let ring = Arc::new(SharedPages::anonymous(1).expect("memory"));
        Run {
            file: file(),
            front: FrontRing::new(Arc::clone(&ring), X86_64),
            ring,
            next_id: 1,
            asked: BTreeMap::new(),
            answered: 0,
            sabotage,
        }
    }

    /// A process starts.
    fn back(&self) -> Back {
        let mut record = Record::open(&self.file, FRONT, XVDA).expect("record");
        let mut at_work = Vec::new();
        let known = record.knows(RING) && self.sabotage != RecordSabotage::NoRecord;
        let ring = BackRing::resume(Arc::clone(&self.ring), X86_64, |rsp_prod| {
            if known {
                at_work = record.inherit(rsp_prod);
            }
            at_work.len() as u32
        });
        if !known {
            record.begin(RING);
        }
        Back {
            ring,
            record,
            at_work,
            late: None,
        }
    }

    /// The front end asks, and takes answers.
    fn front_moves(&mut self, random: &mut fastrand::Rng) -> Result<(), String> {
        if random.bool() {
            while self.front.free_slots() > 0 && random.u8(..) > 40 {
                let request = request(self.next_id);
                self.front.push(&request).map_err(|e| format!("{e:?}"))?;
                self.asked.insert(self.next_id, request);
                self.next_id += 1;
            }
            let _ = self.front.publish();
        }
        while let Some(response) = self.front.pop().map_err(|e| e.to_string())? {
            if self.asked.remove(&response.id).is_none() {
                return Err(format!(
                    "{} was answered twice, or never asked",
                    response.id
                ));
            }
            self.answered += 1;
        }
        Ok(())
    }

    /// One step of the back end's. It may be killed after each.
    fn back_moves(&self, back: &mut Back, random: &mut fastrand::Rng) -> Result<(), String> {
        match random.u8(0..8) {
            0..3 => {
                let Some(request) = back.ring.pop().map_err(|e| e.to_string())? else {
                    return Ok(());
                };
                if self.asked.get(&request.id) != Some(&request) {
                    return Err(format!("{request:?} was not asked for"));
                }
                if self.sabotage == RecordSabotage::RecordLate {
                    if let Some(late) = back.late.replace(request) {
                        back.record.take(&late);
                    }
                } else {
                    // Killed while it writes: nothing says that the place is taken.
                    if random.u8(..) < 8 {
                        back.record.write(back.record.free[0], &request);
                        return Err("killed".into());
                    }
                    back.record.take(&request);
                }
                back.at_work.push(request);
            }
            3..6 if !back.at_work.is_empty() => {
                // In any order.
                let done = back.at_work.swap_remove(random.usize(..back.at_work.len()));
                if self.asked.get(&done.id) != Some(&done) {
                    return Err(format!("{done:?} is not as it was asked, or no more"));
                }
                back.record.answer(done.id, back.ring.next_response());
                if random.u8(..) < 8 {
                    return Err("killed".into());
                }
                back.ring.push(&done.response(Status::Okay));
                if self.sabotage == RecordSabotage::FreeBeforePublish {
                    back.record.published();
                }
            }
            6 => {
                let _ = back.ring.publish();
                if random.u8(..) < 8 {
                    return Err("killed".into());
                }
                back.record.published();
            }
            _ => {}
        }
        Ok(())
    }

    fn play(sabotage: RecordSabotage, seed: u64) -> Result<u64, String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut run = Run::new(sabotage);
        let mut back = run.back();
        let mut kills = 0;
        for _ in 0..4000 {
            run.front_moves(&mut random)?;
            let killed = match run.back_moves(&mut back, &mut random) {
                Err(how) if how == "killed" => true,
                other => {
                    other?;
                    random.u8(..) < 4
                }
            };
            if killed {
                kills += 1;
                back = run.back();
            }
        }
        // Everything is answered in the end.
        for _ in 0..1000 {
            while let Some(request) = back.ring.pop().map_err(|e| e.to_string())? {
                back.record.take(&request);
                back.at_work.push(request);
            }
            for done in back.at_work.drain(..) {
                back.record.answer(done.id, back.ring.next_response());
                back.ring.push(&done.response(Status::Okay));
            }
            let _ = back.ring.publish();
            back.record.published();
            run.front_moves(&mut random)?;
            if run.asked.is_empty() && kills > 0 {
                return Ok(run.answered);
            }
        }
        Err(format!("{} requests are forgotten", run.asked.len()))
    }
}

const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn killed_between_any_two_steps_nothing_is_forgotten_and_nothing_answered_twice() {
    for seed in SEEDS {
        match Run::play(RecordSabotage::None, seed) {
            Ok(answered) => assert!(answered > 100, "seed {seed}: only {answered} answers"),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
}

#[test]
fn a_record_that_is_kept_wrong_is_noticed() {
    for sabotage in [
        RecordSabotage::FreeBeforePublish,
        RecordSabotage::RecordLate,
        RecordSabotage::NoRecord,
    ] {
        let noticed = SEEDS.filter(|&seed| Run::play(sabotage, seed).is_err());
        assert!(noticed.count() > 0, "{sabotage:?} went unnoticed");
    }
}

/// A front end that uses slots again before it was shown their answers: the ring's rules cannot tell.
#[test]
fn a_front_that_does_not_wait_for_answers_ends_nothing() {
    use crate::recorded::RecordedRing;
    use libgnt::ring::layout::REQ_PROD;
    let pages = Arc::new(SharedPages::anonymous(1).expect("memory"));
    let mut front = FrontRing::new(Arc::clone(&pages), X86_64);
    let mut record = Record::open(&file(), FRONT, XVDA).expect("record");
    record.begin(RING);
    let (mut back, left) = RecordedRing::attach(Arc::clone(&pages), record, false);
    assert!(left.is_empty());
    for id in 0..32 {
        front.push(&request(id)).expect("room");
    }
    assert!(front.publish());
    let mut produced = 32;
    let mut taken = std::collections::VecDeque::new();
    for _ in 0..200 {
        while let Some(request) = back.pop().expect("within the ring's rules") {
            taken.push_back(request);
        }
        let done: Request = taken.pop_front().expect("one of 32");
        back.push(&done.response(Status::Okay));
        produced += 1;
        pages.store_u32(REQ_PROD, produced, Ordering::Release);
    }
    assert!(back.publish(), "its event is owed");
}

#[test]
fn a_request_is_read_as_it_was_taken() {
    let file = file();
    let mut record = Record::open(&file, FRONT, XVDA).expect("record");
    record.begin(RING);
    let mut expected: Vec<Request> = (1..=30).map(request).collect();
    expected.push(Request {
        operation: Operation::Other(6),
        ..request(0)
    });
    for request in &expected {
        record.take(request);
    }
    let bad = Request {
        operation: Operation::Malformed {
            number: 1,
            why: Malformed::SegmentCount(77),
        },
        ..request(40)
    };
    record.take(&bad);
    let mut again = Record::open(&file, FRONT, XVDA).expect("record");
    assert!(again.knows(RING));
    let mut found = again.inherit(0);
    found.sort_by_key(|request| request.id);
    expected.sort_by_key(|request| request.id);
    let malformed = found.pop().expect("all of them");
    assert_eq!(found, expected);
    assert!(matches!(
        malformed.operation,
        Operation::Malformed { number: 1, .. }
    ));
}

#[test]
fn the_next_back_end_learns_that_pages_were_lent_until_the_answer_is_there() {
    let file = file();
    let mut record = Record::open(&file, FRONT, XVDA).expect("record");
    record.begin(RING);
    record.take(&request(1));
    record.take(&request(2));
    let next = || Record::open(&file, FRONT, XVDA).expect("record");
    assert!(!next().was_lent());
    record.lend(2);
    assert!(next().was_lent());
    record.answer(2, 0);
    record.published();
    assert!(!next().was_lent());
    assert_eq!(next().inherit(1), [request(1)]);
}

#[test]
fn a_file_of_another_ring_device_or_version_says_nothing() {
    let file = file();
    let mut record = Record::open(&file, FRONT, XVDA).expect("record");
    record.begin(RING);
    record.failed_flush().note();
    let other = RingName {
        port: EvtchnPort(18),
        ..RING
    };
    assert!(record.knows(RING) && !record.knows(other));
    // The next process.
    let record = Record::open(&file, FRONT, XVDA).expect("record");
    assert!(record.knows(RING) && record.failed_flush().is_noted());
    drop(record);
    for (front, device) in [(DomId(2), XVDA), (FRONT, DeviceId(51728))] {
        let record = Record::open(&file, front, device).expect("record");
        assert!(!record.knows(RING) && !record.failed_flush().is_noted());
        let mut record = Record::open(&file, FRONT, XVDA).expect("record");
        assert!(!record.knows(RING));
        record.begin(RING);
    }
    use std::os::unix::fs::FileExt;
    file.write_all_at(&[2], 7).expect("another version");
    let mut record = Record::open(&file, FRONT, XVDA).expect("record");
    assert!(!record.knows(RING));
    record.begin(RING);
    record.failed_flush().note();
    record.forget();
    assert!(!record.knows(RING) && !record.failed_flush().is_noted());
}
