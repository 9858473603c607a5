//! The processes of a run: this program, started again by itself as `pv-stress agent`, told who it
//! is and what it is to do by one argument ([`Start`] of an [`Assignment`]).

mod backend;
mod consumer;
mod frontend;
mod granter;
mod host;
mod mapper;

pub use backend::{BackEndTask, Lend, Lending, Transfer};
pub use consumer::ConsumerTask;
pub use frontend::{CHUNK, Carriage, FrontEndTask};
pub use granter::GranterTask;
pub use host::HostTask;
pub use mapper::MapperTask;

use crate::settings::Sabotage;
use libgnt::grant::Ledger;
use libgnt::{DomId, Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::processes::{Control, Fact, News, Order, Point, Start, die_with_parent};
use pv_harness::timeline::{Event, Timeline};
use pv_remote::stand_for;
use pv_xenstore::toolstack::DeviceClass;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The class of the devices of a run: of its own, so that no kernel's driver takes them. Linux makes a
/// device of what appears below `device`, whatever its class, but binds only a driver of that name.
pub const DEVICE_CLASS: DeviceClass = DeviceClass::new("pvstress");

/// What a process of a run is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assignment {
    /// Play a role.
    Play(Part),
    /// Be the proxy of a process in another domain, which plays one.
    StandFor {
        /// The run's relay to that domain.
        #[serde(with = "pv_harness::any_path")]
        relay: PathBuf,
        /// What that process is to play.
        part: Part,
    },
}

/// A role to play, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Where it lives; `None` for a role that needs no Xen below it.
    pub home: Option<Home>,
    /// What is to go wrong in the run; each role does its part of that.
    pub sabotage: Option<Sabotage>,
    /// As what.
    pub role: Role,
}

/// The domain that a role lives in, and how it gets at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// A domain of a simulated Xen.
    Sim {
        /// The directory that its host serves.
        #[serde(with = "pv_harness::any_path")]
        dir: PathBuf,
        /// The domain.
        domid: DomId,
    },
    /// The domain of a real Xen that the process runs in.
    Xen,
}

impl Home {
    fn open(&self, process: &str) -> libgnt::Result<Arc<dyn Platform>> {
        let (choice, domid) = match self {
            Home::Sim { dir, domid } => (PlatformChoice::Sim(dir.clone()), Some(*domid)),
            Home::Xen => (PlatformChoice::Linux, None),
        };
        libgnt::open(&choice, domid, process)
    }
}

/// A role, with its task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The simulated Xen's host.
    Host(HostTask),
    /// The back end.
    BackEnd(BackEndTask),
    /// The front end.
    FrontEnd(FrontEndTask),
    /// The third consumer.
    Consumer(ConsumerTask),
    /// Shares pages.
    Granter(GranterTask),
    /// Maps pages.
    Mapper(MapperTask),
}

impl Role {
    /// In the words of a timeline.
    fn name(&self) -> &'static str {
        match self {
            Role::Host(_) => "host",
            Role::BackEnd(_) => "back end",
            Role::FrontEnd(_) => "front end",
            Role::Consumer(_) => "consumer",
            Role::Granter(_) => "granter",
            Role::Mapper(_) => "mapper",
        }
    }
}

/// For an end that is to be killed at a chosen place: where it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// At this point.
    pub at: Point,
    /// After passing it so often.
    pub after: u64,
}

/// Called at each place. At the chosen one it tells the run, and does not return: whoever stands here
/// is killed, with what it holds at this moment.
fn pass(freeze: &mut Option<Freeze>, point: Point, control: &Control, timeline: &Timeline) {
    match freeze {
        Some(Freeze { at, .. }) if *at != point => {}
        None => {}
        Some(Freeze {
            after: left @ 1.., ..
        }) => *left -= 1,
        Some(_) => {
            timeline.waiting("the kill");
            if let Err(error) = control.send(&News::Fact(Fact::Frozen { at: point })) {
                tracing::error!(%error, "telling the run");
            }
            loop {
                std::thread::park();
            }
        }
    }
}

/// A process of a run: where it lives, whom it listens to, where it records, what it must do wrong.
struct RoleProcess {
    name: String,
    home: Option<Home>,
    control: Control,
    timeline: Timeline,
    sabotage: Option<Sabotage>,
}

/// What a role's work ends with; the message is for its log, and for whoever reads that.
type Outcome = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Nobody but a run starts roles.
fn by_hand(error: std::io::Error) -> Error {
    Error::environment("pv-stress agent", error, "use `pv-stress run`")
}

impl RoleProcess {
    fn begin(name: String, parent: u32, path: &Path, part: &Part) -> Result<RoleProcess> {
        die_with_parent(parent).map_err(by_hand)?;
        let control = Control::from_stdin().map_err(by_hand)?;
        let timeline = Timeline::create(path, &name)
            .map_err(|error| Error::file(path, error, "free some space"))?;
        timeline.log(Event::Started {
            role: part.role.name().into(),
        });
        Ok(RoleProcess {
            name,
            home: part.home.clone(),
            control,
            timeline,
            sabotage: part.sabotage,
        })
    }

    fn join(
        &self,
    ) -> std::result::Result<Arc<dyn Platform>, Box<dyn std::error::Error + Send + Sync>> {
        let home = self
            .home
            .as_ref()
            .ok_or("it was told of no domain to live in")?;
        Ok(home.open(&self.name)?)
    }

    /// Waits for an order, and says so.
    fn await_order(&self, to: &str) -> std::io::Result<Order> {
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

/// Does to the end what the arguments behind `pv-stress agent` say.
///
/// # Errors
/// What went wrong, for standard error; the exit status is 2 then.
pub fn run(args: &[OsString]) -> Result<()> {
    let Start {
        name,
        parent,
        timeline,
        assignment,
    } = Start::from_args(args).map_err(by_hand)?;
    let part = match assignment {
        Assignment::Play(part) => part,
        Assignment::StandFor { relay, part } => {
            let assignment = serde_json::to_value(Assignment::Play(part));
            let start = Start {
                name,
                parent,
                timeline,
                assignment: assignment.map_err(|error| by_hand(error.into()))?,
            };
            return stand_for(&start, &relay);
        }
    };
    let process = RoleProcess::begin(name, parent, &timeline, &part)?;
    let outcome = match part.role {
        Role::Host(task) => host::run(&process, task),
        Role::BackEnd(task) => backend::run(&process, task),
        Role::FrontEnd(task) => frontend::run(&process, task),
        Role::Consumer(task) => consumer::run(&process, task),
        Role::Granter(task) => granter::run(&process, task),
        Role::Mapper(task) => mapper::run(&process, task),
    };
    process.end(outcome)
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
    fn an_assignment_comes_through_its_argument_as_it_was() {
        use std::os::unix::ffi::OsStrExt;
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff")).to_owned();
        let freeze = Some(Freeze {
            at: Point::Taken,
            after: u64::MAX,
        });
        let roles = [
            Role::Host(HostTask {
                dir: odd.clone(),
                unmap: pv_harness::settings::Unmap::Sync,
            }),
            Role::BackEnd(BackEndTask {
                front: DomId(1),
                device: 51712,
                image: odd.clone(),
                transfer: Transfer::Persistent,
                lend: Some(Lend {
                    consumer: odd.clone(),
                    lending: Lending {
                        hold: pv_harness::settings::HoldName::I915,
                        at_once: 4,
                        in_all: u64::MAX,
                    },
                    allow_kernel_damage: true,
                }),
                freeze,
            }),
            Role::FrontEnd(FrontEndTask {
                device: 51712,
                input: odd.clone(),
                patience: std::time::Duration::from_nanos(1_000_000_001),
                carriage: Carriage {
                    freeze,
                    ..Carriage::default()
                },
            }),
        ];
        for role in roles {
            let part = Part {
                home: Some(Home::Sim {
                    dir: odd.clone(),
                    domid: DomId(1),
                }),
                sabotage: Some(Sabotage::FlipBit),
                role,
            };
            let start = Start {
                name: "x".into(),
                parent: 1,
                timeline: odd.clone(),
                assignment: Assignment::StandFor {
                    relay: odd.clone(),
                    part,
                },
            };
            let args = start.args().unwrap();
            assert_eq!(Start::from_args(&args[1..]).unwrap(), start);
        }
    }

    #[test]
    fn no_kernel_takes_the_devices_of_a_run() {
        let class = DEVICE_CLASS.to_string();
        assert!(!TAKEN_BY_LINUX.contains(&class.as_str()), "{class}");
    }
}
