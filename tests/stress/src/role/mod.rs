//! The processes of a run: this program, started again by itself as `pv-stress agent ROLE`.

mod backend;
mod consumer;
mod frontend;
pub(crate) mod host;

pub(crate) use frontend::CHUNK;

use crate::settings::Sabotage;
use libgnt::grant::Ledger;
use libgnt::{DomId, Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::player::{HandArgs, play};
use pv_harness::processes::{Control, News, die_with_parent};
use pv_harness::timeline::{Event, Timeline};
use pv_remote::{Start, stand_for};
use pv_xenstore::toolstack::DeviceClass;
use std::path::PathBuf;
use std::sync::Arc;

/// The class of the devices of a run: of its own, so that no kernel's driver takes them. Linux makes a
/// device of what appears below `device`, whatever its class, but binds only a driver of that name.
pub const DEVICE_CLASS: DeviceClass = DeviceClass::new("pvstress");

/// What every role is told.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// The process's name in logs and timelines
    #[arg(long)]
    name: String,
    /// The pid of the run
    #[arg(long)]
    parent: u32,
    /// Where to record
    #[arg(long)]
    timeline: PathBuf,
    /// What to do wrong on purpose
    #[arg(long)]
    sabotage: Option<Sabotage>,
}

/// What every role but the host is told.
#[derive(Debug, clap::Args)]
pub struct Member {
    /// linux, or sim:DIR
    #[arg(long)]
    platform: PlatformChoice,
    /// The domain, on the simulated Xen
    #[arg(long)]
    domain: u16,
}

/// Where, in the work of an end, it stands still to be killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Point {
    /// Back end: a request's pages are mapped, its data in place, its unmap not begun.
    Mapped,
    /// Back end: the unmap was called.
    Unmapping,
    /// Back end: the hypervisor has unmapped, and the answer is not written.
    Released,
    /// Back end: the answer is written.
    Answered,
    /// Front end: the request is on the ring.
    Submitted,
    /// Front end: the answer is off the ring, and nobody was told.
    Taken,
}

impl Point {
    /// A back end's.
    pub(crate) const BACK: [Point; 4] = [
        Point::Mapped,
        Point::Unmapping,
        Point::Released,
        Point::Answered,
    ];
    /// A front end's.
    pub(crate) const FRONT: [Point; 2] = [Point::Submitted, Point::Taken];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Point::Mapped => "mapped",
            Point::Unmapping => "unmapping",
            Point::Released => "released",
            Point::Answered => "answered",
            Point::Submitted => "submitted",
            Point::Taken => "taken",
        }
    }
}

/// The options of an end that is to be killed at a chosen place.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Freeze {
    /// Stand still at this place
    #[arg(long, requires = "freeze_after")]
    freeze_at: Option<Point>,
    /// After passing it so often
    #[arg(long)]
    freeze_after: Option<u64>,
}

impl Freeze {
    /// Called at each place. At the chosen one it tells the run, and does not return: whoever
    /// stands here is killed, with what it holds at this moment.
    fn pass(&mut self, point: Point, control: &Control, timeline: &Timeline) {
        if self.freeze_at != Some(point) {
            return;
        }
        match &mut self.freeze_after {
            Some(left @ 1..) => *left -= 1,
            _ => {
                timeline.waiting("the kill");
                if let Err(error) = control.tell("frozen", point.name()) {
                    tracing::error!(%error, "telling the run");
                }
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

/// A role.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// The simulated Xen's host
    Host {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: host::Args,
    },
    /// The back end
    Backend {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        member: Member,
        #[command(flatten)]
        args: backend::Args,
    },
    /// The front end
    Frontend {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        member: Member,
        #[command(flatten)]
        args: frontend::Args,
    },
    /// The third consumer
    Consumer {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: consumer::Args,
    },
    /// Does what it is told
    Hand {
        #[command(flatten)]
        args: HandArgs,
        /// What to do wrong on purpose: nothing
        #[arg(long)]
        sabotage: Option<Sabotage>,
    },
    /// Stands for a process in another domain
    Proxy {
        #[command(flatten)]
        common: Common,
        /// The run's relay to that domain
        #[arg(long)]
        relay: PathBuf,
        /// Its role
        #[arg(long = "as")]
        role: String,
        /// Its role's arguments
        #[arg(last = true)]
        args: Vec<String>,
    },
}

/// A process of a run: whom it listens to, where it records, what it must do wrong.
pub(crate) struct Agent {
    name: String,
    control: Control,
    timeline: Timeline,
    sabotage: Option<Sabotage>,
}

/// What an agent's work ends with; the message is for its log, and for whoever reads that.
type Outcome = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Agent {
    fn begin(common: Common, role: &str) -> Result<Agent> {
        let cannot = |error| Error::environment("pv-stress agent", error, "use `pv-stress run`");
        die_with_parent(common.parent).map_err(cannot)?;
        let control = Control::from_stdin().map_err(cannot)?;
        let timeline = Timeline::create(&common.timeline, &common.name)
            .map_err(|error| Error::file(&common.timeline, error, "free some space"))?;
        timeline.log(Event::Started { role: role.into() });
        Ok(Agent {
            name: common.name,
            control,
            timeline,
            sabotage: common.sabotage,
        })
    }

    fn join(&self, member: &Member) -> libgnt::Result<Arc<dyn Platform>> {
        libgnt::open(&member.platform, Some(DomId(member.domain)), &self.name)
    }

    /// Waits for an order, and says so.
    fn await_order(&self, to: &str) -> std::io::Result<pv_harness::processes::Order> {
        self.timeline.waiting(format!("the order {to}"));
        self.control.recv()
    }

    fn show(&self, ledger: &Ledger) -> std::io::Result<()> {
        let entries = ledger.snapshot().iter().map(ToString::to_string).collect();
        self.control.send(&News::Ledger { entries })
    }

    fn end(self, outcome: Outcome) -> Result<()> {
        match outcome {
            Ok(()) => {
                self.timeline.log(Event::Finished);
                Ok(())
            }
            Err(error) => {
                self.timeline.log(Event::Note {
                    text: error.to_string(),
                });
                Err(Error::environment(
                    &self.name,
                    error,
                    "see its log and timeline",
                ))
            }
        }
    }
}

/// Plays a role to its end.
///
/// # Errors
/// What went wrong, for standard error; the exit status is 2 then.
pub fn run(role: Role) -> Result<()> {
    match role {
        Role::Host { common, args } => {
            let agent = Agent::begin(common, "host")?;
            let outcome = host::run(&agent, args);
            agent.end(outcome)
        }
        Role::Backend {
            common,
            member,
            args,
        } => {
            let agent = Agent::begin(common, "back end")?;
            let outcome = backend::run(&agent, &member, args);
            agent.end(outcome)
        }
        Role::Frontend {
            common,
            member,
            args,
        } => {
            let agent = Agent::begin(common, "front end")?;
            let outcome = frontend::run(&agent, &member, args);
            agent.end(outcome)
        }
        Role::Consumer { common, args } => {
            let agent = Agent::begin(common, "consumer")?;
            let outcome = consumer::run(&agent, args);
            agent.end(outcome)
        }
        Role::Hand { args, .. } => play(&args),
        Role::Proxy {
            common,
            relay,
            role,
            args,
        } => {
            let Common {
                name,
                parent,
                timeline,
                ..
            } = common;
            stand_for(
                &Start {
                    name,
                    role,
                    args,
                    timeline,
                },
                &relay,
                parent,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux' drivers bind to (`xenbus_device_id`, Linux 5.10 to 6.12).
    const TAKEN_BY_LINUX: [&str; 12] = [
        "vbd", "vif", "vkbd", "vfb", "vsnd", "vdispl", "vtpm", "vusb", "vscsi", "pci", "9pfs",
        "pvcalls",
    ];

    #[test]
    fn no_kernel_takes_the_devices_of_a_run() {
        let class = DEVICE_CLASS.to_string();
        assert!(!TAKEN_BY_LINUX.contains(&class.as_str()), "{class}");
    }
}
