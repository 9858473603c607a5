//! The back end, as a process: `pv_backend`'s own, watched, with a lender for the third consumer.

use super::{Agent, DEVICE_CLASS, Freeze, Member, Outcome, Point};
use crate::consumer::{LendPolicy, Lender};
use crate::settings::Sabotage;
use libgnt::grant::{Map, UnmapId};
use libgnt::proto::blkif::Status;
use libgnt::types::DomId;
use pv_backend::BackConfig;
use pv_backend::BackEvent;
use pv_backend::BackEventKind;
use pv_backend::Backend;
use pv_backend::Mode;
use pv_backend::Observer;
use pv_backend::PageLender;
use pv_backend::RequestInfo;
use pv_backend::Stop;
use pv_backend::disk::Backing;
use pv_harness::holder::HoldName;
use pv_harness::holder::holder;
use pv_harness::processes::Control;
use pv_harness::processes::News;
use pv_harness::processes::Order;
use pv_harness::timeline::Event;
use pv_harness::timeline::Timeline;
use pv_harness::timeline::now_ns;
use pv_xenstore::toolstack::DeviceId;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose device
    #[arg(long)]
    front: u16,
    /// Its number
    #[arg(long)]
    device: u32,
    /// Its image
    #[arg(long)]
    image: PathBuf,
    /// How data travels
    #[arg(long, default_value = "map")]
    mode: Mode,
    /// The consumer that pages are lent to
    #[arg(long, requires = "hold")]
    consumer: Option<PathBuf>,
    /// How it holds them
    #[arg(long)]
    hold: Option<HoldName>,
    /// Requests lent at once
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Requests lent in all
    #[arg(long, default_value_t = u64::MAX)]
    in_all: u64,
    /// Holding pages on a PV guest is allowed
    #[arg(long)]
    allow_kernel_damage: bool,
    #[command(flatten)]
    freeze: Freeze,
}

pub(super) fn run(agent: &Agent, member: &Member, args: Args) -> Outcome {
    let platform = agent.join(member)?;
    let lender = match (&args.consumer, args.hold) {
        (Some(socket), Some(hold)) => {
            let holder = holder(hold, &platform, args.allow_kernel_damage)?;
            let policy = LendPolicy {
                at_once: args.at_once,
                in_all: args.in_all,
                writable_only: hold.needs_writable(),
            };
            Some(Lender::connect(
                socket,
                holder,
                policy,
                agent.timeline.clone(),
            )?)
        }
        _ => None,
    };
    let control = Arc::new(agent.control.try_clone()?);
    let stop = Stop::new();
    let recorder = Recorder::new(
        agent.timeline.clone(),
        Arc::clone(&control),
        lender,
        args.freeze,
        stop.clone(),
    );
    let backing = match agent.sabotage {
        Some(Sabotage::VolatileDisk) => Backing::Memory {
            bytes: std::fs::metadata(&args.image)?.len(),
        },
        _ => Backing::File(args.image),
    };
    let mut config = BackConfig::new(platform, DomId(args.front), DeviceId(args.device), backing);
    config.class = DEVICE_CLASS;
    config.mode = args.mode;
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
    agent.timeline.waiting("its front end");
    let outcome = backend.run();
    // The consumer keeps what it has; its socket closes with the lender.
    let lender = recorder.state().lender.take();
    let cannot_hold = lender.and_then(|lender| lender.failure().map(str::to_owned));
    agent.show(&ledger)?;
    outcome?;
    if let Some(why) = cannot_hold {
        return Err(format!("its pages cannot be held here: {why}").into());
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
    freeze: Freeze,
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
}

impl Recorder {
    fn new(
        timeline: Timeline,
        control: Arc<Control>,
        lender: Option<Lender>,
        freeze: Freeze,
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
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

impl Observer for Recorder {
    fn event(&mut self, event: BackEvent) {
        self.state().event(&event.kind);
    }
}

impl State {
    fn pass(&mut self, point: Point) {
        self.freeze.pass(point, &self.control, &self.timeline);
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
            rare => self.tell(rare),
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
            None => self.timeline.log(Event::Note {
                text: format!("unmap: {error}"),
            }),
        }
    }

    /// What happens once in a connection is told to the run, too.
    fn tell(&mut self, kind: &BackEventKind) {
        let fact = match kind {
            BackEventKind::Waiting => {
                self.send(&News::Ready);
                return;
            }
            BackEventKind::Connected { mode } => {
                self.epoch += 1;
                self.timeline.log(Event::Connected { epoch: self.epoch });
                ("connected", format!("{mode:?}"))
            }
            BackEventKind::FrontGone { how } => {
                self.timeline.log(Event::PeerLost { how: how.clone() });
                ("front gone", how.clone())
            }
            BackEventKind::Fatal { reason } => ("fatal", reason.clone()),
            BackEventKind::DiskFailed { error } => ("disk failed", error.clone()),
            BackEventKind::Closed { zombies } => ("closed", zombies.to_string()),
            other => {
                self.timeline.log(Event::Note {
                    text: format!("{other:?}"),
                });
                return;
            }
        };
        let (name, value) = fact;
        self.timeline.log(Event::Note {
            text: format!("{name}: {value}"),
        });
        self.send(&News::Fact {
            name: name.into(),
            value,
        });
    }

    /// The run may be gone; its orders' end is what stops us.
    fn send(&self, news: &News) {
        if let Err(error) = self.control.send(news) {
            tracing::debug!(%error, "telling the run");
        }
    }
}
