//! The back end, as a process: `pv_backend`'s own, watched, with a lender for the third consumer.

use super::{DEVICE_CLASS, Freeze, Outcome, RoleProcess, pass};
use crate::consumer::{LendPolicy, Lender};
use crate::settings::RunSabotage;
use libgnt::Platform;
use libgnt::grant::{Map, UnmapId};
use libgnt::proto::blkif::Status;
use libgnt::types::{Access, DomId, ForeignGrant};
use pv_backend::disk::Backing;
use pv_backend::{
    BackConfig, BackEvent, BackEventKind, Backend, Mode, Observer, PageLender, RequestInfo, Stop,
};
use pv_harness::holder::{NOT_HELD, holder};
use pv_harness::processes::{Control, Fact, News, Order, Point};
use pv_harness::settings::HoldName;
use pv_harness::timeline::{Event, Timeline, now_ns};
use pv_xenstore::toolstack::DeviceId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the back end is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackEndTask {
    /// Whose device.
    pub front: DomId,
    /// Its number.
    pub device: u32,
    /// Its image.
    #[serde(with = "pv_harness::any_path")]
    pub image: PathBuf,
    /// How data travels.
    pub transfer: Transfer,
    /// What it lends, and to whom.
    pub lend: Option<Lend>,
    /// Where it stands still to be killed.
    pub freeze: Option<Freeze>,
}

/// A way for data to travel between the pair's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transfer {
    /// A map and an unmap for each request.
    Map,
    /// Grant copy.
    Copy,
    /// Persistent grants; the front end must ask for them, too.
    Persistent,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transfer::Map => "map",
            Transfer::Copy => "copy",
            Transfer::Persistent => "persistent",
        })
    }
}

impl From<Transfer> for Mode {
    fn from(transfer: Transfer) -> Mode {
        match transfer {
            Transfer::Map => Mode::Map,
            Transfer::Copy => Mode::Copy,
            Transfer::Persistent => Mode::Persistent,
        }
    }
}

/// Pages to lend, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lend {
    /// The consumer's socket.
    #[serde(with = "pv_harness::any_path")]
    pub consumer: PathBuf,
    /// What is lent.
    pub lending: Lending,
    /// Holding pages on a PV guest is allowed.
    pub allow_kernel_damage: bool,
}

/// What is lent to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lending {
    /// How it is held.
    pub hold: HoldName,
    /// Requests at once.
    pub at_once: usize,
    /// Requests in all.
    pub in_all: u64,
}

pub(super) fn run(process: &RoleProcess, task: BackEndTask) -> Outcome {
    let platform = process.join()?;
    let lender = match &task.lend {
        Some(lend) => {
            let Lending {
                hold,
                at_once,
                in_all,
            } = lend.lending;
            let holder = holder(hold, &platform, lend.allow_kernel_damage)?;
            let policy = LendPolicy {
                at_once,
                in_all,
                writable_only: hold.needs_writable(),
            };
            let timeline = process.timeline.clone();
            Some(Lender::connect(&lend.consumer, holder, policy, timeline)?)
        }
        None => None,
    };
    let control = Arc::new(process.control.try_clone()?);
    let stop = Stop::new();
    let recorder = Recorder::new(
        process.timeline.clone(),
        Arc::clone(&control),
        lender,
        task.freeze,
        stop.clone(),
    );
    if process.sabotage == Some(RunSabotage::MapBehindLedger) {
        recorder.state().behind = Some(Arc::clone(&platform));
    }
    let backing = match process.sabotage {
        Some(RunSabotage::VolatileDisk) => Backing::Memory {
            bytes: std::fs::metadata(&task.image)?.len(),
        },
        _ => Backing::File(task.image),
    };
    let mut config = BackConfig::new(platform, task.front, DeviceId(task.device), backing);
    config.class = DEVICE_CLASS;
    config.mode = task.transfer.into();
    config.lender = Some(Box::new(recorder.clone()));
    config.observer = Some(Box::new(recorder.clone()));
    config.stop = stop.clone();
    let backend = Backend::open(config)?;
    let ledger = backend.ledger().clone();
    let asked = stop.clone();
    let orders = std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            while let Ok(order) = control.recv::<Order>() {
                if order == Order::Stop {
                    break;
                }
            }
            // Told to, or the run is gone.
            asked.ask();
        })?;
    process.timeline.waiting("its front end");
    let outcome = backend.run();
    // The consumer keeps what it has; its socket closes with the lender.
    let lender = recorder.state().lender.take();
    let cannot_hold = lender.and_then(|lender| lender.failure().map(str::to_owned));
    process.show(&ledger)?;
    outcome?;
    if let Some(why) = cannot_hold {
        return Err(format!("{NOT_HELD}{why}").into());
    }
    if orders.is_finished() && orders.join().is_err() {
        return Err("the thread that takes orders panicked".into());
    }
    Ok(())
}

/// Turns what the back end tells into the timeline's events.
#[derive(Clone)]
struct Recorder {
    state: Arc<Mutex<State>>,
}

struct State {
    timeline: Timeline,
    control: Arc<Control>,
    lender: Option<Lender>,
    freeze: Option<Freeze>,
    next: u64,
    epoch: u32,
    /// Our number of each request under way, by the front's id.
    current: HashMap<u64, u64>,
    /// And by its unmap.
    unmaps: HashMap<UnmapId, u64>,
    /// The unmap call that is running: its number, and since when.
    calling: Option<(u64, u64)>,
    /// The hold of the pages that it unmaps, if they are lent.
    lent: Option<u64>,
    stop: Stop,
    /// The run knows that we are ready.
    is_ready: bool,
    /// Sabotage: to map the next request's pages once more.
    behind: Option<Arc<dyn Platform>>,
}

impl Recorder {
    fn new(
        timeline: Timeline,
        control: Arc<Control>,
        lender: Option<Lender>,
        freeze: Option<Freeze>,
        stop: Stop,
    ) -> Recorder {
        Recorder {
            state: Arc::new(Mutex::new(State {
                timeline,
                control,
                lender,
                freeze,
                next: 0,
                epoch: 0,
                current: HashMap::new(),
                unmaps: HashMap::new(),
                calling: None,
                lent: None,
                stop,
                is_ready: false,
                behind: None,
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a driver does that keeps no books: nobody but the kernel knows of it.
fn map_behind_the_ledger(platform: &dyn Platform, grants: &[ForeignGrant]) -> libgnt::Result<()> {
    let gntdev = platform.open_gntdev()?;
    let index = gntdev.map_grant_ref(grants)?;
    let pages = gntdev.mmap(index, grants.len(), Access::ReadOnly)?;
    pages.unmap()?;
    gntdev.unmap_grant_ref(index, grants.len())
}

impl PageLender for Recorder {
    /// The unmap begins when this returns.
    fn lend(&mut self, map: &Map, info: &RequestInfo) {
        let mut state = self.state();
        let request = state.next;
        state.next += 1;
        state.current.insert(info.id, request);
        let grants = map.grants().to_vec();
        state.timeline.log(Event::Mapped {
            request,
            id: info.id,
            grants: grants.clone(),
        });
        if let Some(platform) = state.behind.take()
            && let Err(error) = map_behind_the_ledger(&*platform, &grants)
        {
            tracing::error!(%error, "the sabotage");
            state.stop.ask();
        }
        if let Some(lender) = &mut state.lender {
            let lent = lender.offer(map.pages(), map.grants(), request);
            let failed = lender.failure().is_some();
            state.lent = lent;
            if failed {
                // There is nothing to see without holds; the reason comes when the device is closed.
                state.stop.ask();
            }
        }
        state.pass(Point::Mapped);
        state
            .timeline
            .waiting(format!("munmap of request {request}'s pages"));
        state.timeline.log(Event::UnmapBegan { request, grants });
        state.calling = Some((request, now_ns()));
    }
}

impl Observer<BackEventKind> for Recorder {
    fn event(&mut self, event: BackEvent) {
        self.state().event(&event.kind);
    }
}

impl State {
    fn pass(&mut self, point: Point) {
        pass(&mut self.freeze, point, &self.control, &self.timeline);
    }

    fn event(&mut self, kind: &BackEventKind) {
        match kind {
            BackEventKind::UnmapBegun {
                unmap,
                request: Some(id),
                took,
                ..
            } => {
                let Some(request) = self.current.get(id).copied() else {
                    return;
                };
                self.unmaps.insert(*unmap, request);
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.pass(Point::Unmapping);
                if let (Some(lender), Some(hold)) = (&self.lender, self.lent.take()) {
                    lender.unmap_returned(hold);
                }
                if self.calling.take().is_some() {
                    self.timeline.log(Event::UnmapReturned {
                        request,
                        took_us,
                        error: None,
                    });
                }
            }
            BackEventKind::UnmapFailed { error, .. } => self.unmap_failed(error),
            BackEventKind::Released { unmap, .. } => {
                self.pass(Point::Released);
                if let Some(request) = self.unmaps.remove(unmap) {
                    self.timeline.log(Event::Released { request });
                }
            }
            BackEventKind::Responded { id, status } => {
                self.pass(Point::Answered);
                if let Some(request) = self.current.remove(id) {
                    let ok = *status == Status::Okay;
                    self.timeline.log(Event::Answered { request, ok });
                }
            }
            BackEventKind::MapDone { .. } => {}
            rare => self.rare(rare),
        }
    }

    fn unmap_failed(&mut self, error: &str) {
        match self.calling.take() {
            Some((request, since)) => {
                let took_us = now_ns().saturating_sub(since) / 1000;
                let error = Some(error.to_owned());
                self.timeline.log(Event::UnmapReturned {
                    request,
                    took_us,
                    error,
                });
            }
            None => self.timeline.log(Event::UnmapFailed {
                error: error.to_owned(),
            }),
        }
    }

    /// What happens once in a connection. The run is told what scenarios wait for.
    fn rare(&mut self, kind: &BackEventKind) {
        let text = match kind {
            BackEventKind::Waiting => {
                self.ready();
                return;
            }
            BackEventKind::Connected { mode } => {
                // One that takes a ring over that is in service waits for nobody.
                self.ready();
                self.epoch += 1;
                self.timeline.log(Event::Connected { epoch: self.epoch });
                format!("connected: {mode:?}")
            }
            BackEventKind::FrontGone { how } => {
                self.timeline.log(Event::PeerLost { how: how.clone() });
                format!("front gone: {how}")
            }
            BackEventKind::Fatal { reason } => format!("fatal: {reason}"),
            BackEventKind::DiskFailed { error } => format!("disk failed: {error}"),
            BackEventKind::Closed { zombies } => format!("closed: {zombies}"),
            other => format!("{other:?}"),
        };
        self.timeline.log(Event::Note { text });
        if let BackEventKind::Closed { zombies } = *kind {
            self.send(&News::Fact(Fact::Closed { zombies }));
        }
    }

    /// The run waits for this once.
    fn ready(&mut self) {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.send(&News::Ready);
        }
    }

    /// The run may be gone; its orders' end is what stops us.
    fn send(&self, news: &News) {
        if let Err(error) = self.control.send(news) {
            tracing::debug!(%error, "telling the run");
        }
    }
}
