//! What a process of a run is told to do, and the doing of it.

use super::{
    BackEndTask, ConsumerTask, FrontEndTask, HandTask, Home, HostTask, RoleProcess, backend,
    by_hand, consumer, frontend, hand, host,
};
use crate::settings::RunSabotage;
use pv_harness::error::Result;
use pv_harness::processes::Start;
use pv_remote::stand_for;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

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
    pub sabotage: Option<RunSabotage>,
    /// As what.
    pub role: Role,
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
    /// Shares, maps, holds and unmaps on command.
    Hand(HandTask),
}

impl Role {
    /// In the words of a timeline.
    fn name(&self) -> &'static str {
        match self {
            Role::Host(_) => "host",
            Role::BackEnd(_) => "back end",
            Role::FrontEnd(_) => "front end",
            Role::Consumer(_) => "consumer",
            Role::Hand(_) => "hand",
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
    let mut process = RoleProcess::begin(name, parent, &timeline, part.role.name())?;
    (process.home, process.sabotage) = (part.home, part.sabotage);
    let outcome = match part.role {
        Role::Host(task) => host::run(&process, task),
        Role::BackEnd(task) => backend::run(&process, task),
        Role::FrontEnd(task) => frontend::run(&process, task),
        Role::Consumer(task) => consumer::run(&process, task),
        Role::Hand(task) => hand::run(&process, task),
    };
    process.end(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{Carriage, Freeze, Lend, Lending, Transfer};
    use libgnt::DomId;
    use pv_harness::processes::Point;
    use std::path::Path;

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
                guest: pv_harness::settings::Guest::Pv,
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
                sabotage: Some(RunSabotage::FlipBit),
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
}
