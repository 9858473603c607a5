//! Turns what the front end tells into the timeline's events.

use crate::role::{Freeze, pass};
use libgnt::Platform;
use libgnt::proto::blkif::Operation;
use pv_frontend::FrontEventKind;
use pv_harness::processes::{Control, Fact, News, Point};
use pv_harness::timeline::{Event, IoKind, Timeline};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;

/// An I/O that the carrier asked for.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub kind: IoKind,
    pub offset: u64,
    pub bytes: usize,
    pub sha: Option<String>,
}

/// A handle: clones record together.
#[derive(Clone)]
pub(super) struct Recorder {
    state: Arc<Mutex<State>>,
}

struct State {
    timeline: Timeline,
    control: Arc<Control>,
    /// Asked which pages are in use, after each answer.
    platform: Option<Arc<dyn Platform>>,
    freeze: Option<Freeze>,
    /// What the caller submitted, by what it does and where: the events name I/Os by numbers of the
    /// front end's own.
    jobs: HashMap<(IoKind, u64), Job>,
    /// The request that carries an I/O, the latest one.
    requests: HashMap<u64, u64>,
    epoch: u32,
}

impl Recorder {
    pub fn new(
        timeline: Timeline,
        control: Arc<Control>,
        platform: Option<Arc<dyn Platform>>,
        freeze: Option<Freeze>,
    ) -> Recorder {
        let state = State {
            timeline,
            control,
            platform,
            freeze,
            jobs: HashMap::new(),
            requests: HashMap::new(),
            epoch: 0,
        };
        Recorder {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the submission: what happens to it is told on the front end's thread.
    pub fn expect(&self, job: Job) {
        self.state().jobs.insert((job.kind, job.offset), job);
    }

    /// After its completion.
    pub fn forget(&self, job: &Job) {
        self.state().jobs.remove(&(job.kind, job.offset));
    }

    pub fn event(&mut self, kind: FrontEventKind) {
        self.state().event(kind);
    }
}

impl State {
    fn event(&mut self, kind: FrontEventKind) {
        match kind {
            FrontEventKind::Submitted {
                id,
                tag,
                operation,
                sector,
                grants,
            } => {
                let kind = match operation {
                    n if n == Operation::Read.number() => IoKind::Read,
                    n if n == Operation::Write.number() => IoKind::Write,
                    _ => IoKind::Flush,
                };
                let at = if kind == IoKind::Flush {
                    0
                } else {
                    sector * SECTOR as u64
                };
                let Some(job) = self.jobs.get(&(kind, at)) else {
                    let text = format!("request {id} is nothing that was asked for");
                    self.timeline.log(Event::Note { text });
                    return;
                };
                self.requests.insert(tag, id);
                self.timeline.log(Event::Submitted {
                    request: id,
                    kind: job.kind,
                    sector,
                    bytes: job.bytes as u64,
                    grefs: grants,
                    sha: job.sha.clone(),
                });
                self.pass(Point::Submitted);
            }
            FrontEventKind::Answered { id, grants } => {
                self.pass(Point::Taken);
                self.timeline.log(Event::AnswerTaken { request: id });
                if let Some(platform) = &self.platform
                    && !grants.is_empty()
                {
                    match platform.grants_in_use(&grants) {
                        Ok(in_use) => {
                            let in_use = in_use.unwrap_or_default();
                            self.timeline.log(Event::InUseAfterAnswer {
                                request: id,
                                in_use,
                            });
                        }
                        Err(error) => tracing::warn!(%error, "asking what is in use"),
                    }
                }
            }
            FrontEventKind::Completed { tag, error } => {
                let Some(request) = self.requests.remove(&tag) else {
                    return;
                };
                self.timeline.log(match error {
                    None => Event::Acknowledged { request },
                    Some(why) => Event::Refused { request, why },
                });
            }
            FrontEventKind::Connected { .. } => {
                self.epoch += 1;
                self.timeline.log(Event::Connected { epoch: self.epoch });
            }
            FrontEventKind::BackendGone { why, unanswered } => {
                self.timeline.log(Event::PeerLost { how: why.clone() });
                self.tell(Fact::BackEndGone {
                    how: why,
                    unanswered,
                });
            }
            FrontEventKind::PageReused { .. } => {}
            FrontEventKind::Failed { why } => {
                self.timeline.log(Event::Note {
                    text: format!("failed: {why}"),
                });
            }
            other => self.timeline.log(Event::Note {
                text: format!("{other:?}"),
            }),
        }
    }

    fn pass(&mut self, point: Point) {
        pass(&mut self.freeze, point, &self.control, &self.timeline);
    }

    fn tell(&self, fact: Fact) {
        if let Err(error) = self.control.send(&News::Fact(fact)) {
            tracing::debug!(%error, "telling the run");
        }
    }
}
