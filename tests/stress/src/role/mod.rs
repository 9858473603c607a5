//! The processes of a run: this program, started again by itself as `pv-stress agent`, told who it
//! is and what it is to do by one argument (a [`Start`](pv_harness::processes::Start) of an [`Assignment`]).

mod assignment;
mod backend;
mod consumer;
mod frontend;
mod hand;
mod host;
mod observer;
mod outside;

pub use assignment::{Assignment, Part, Role, run};
pub use backend::{BackEndTask, Lend, Lending, Transfer};
pub use consumer::ConsumerTask;
pub use frontend::{CHUNK, Carriage, FrontEndTask};
pub use hand::HandTask;
pub use host::HostTask;
pub use outside::start_hand;

use crate::settings::RunSabotage;
use libgnt::grant::Ledger;
use libgnt::{DomId, Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::processes::{Control, Fact, News, Order, Point, die_with_parent};
use pv_harness::timeline::{Event, Timeline};
use pv_xenstore::toolstack::DeviceClass;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The class of the devices of a run: of its own, so that no kernel's driver takes them. Linux makes a
/// device of what appears below `device`, whatever its class, but binds only a driver of that name.
pub const DEVICE_CLASS: DeviceClass = DeviceClass::new("pvstress");

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
    sabotage: Option<RunSabotage>,
}

/// What a role's work ends with; the message is for its log, and for whoever reads that.
type Outcome = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Nobody but a run starts roles.
fn by_hand(error: std::io::Error) -> Error {
    Error::environment("pv-stress agent", error, "use `pv-stress run`")
}

impl RoleProcess {
    /// Begins the work of a role of this name; where it lives and what it does wrong come later.
    fn begin(name: String, parent: u32, path: &Path, role: &str) -> Result<RoleProcess> {
        die_with_parent(parent).map_err(by_hand)?;
        let control = Control::from_stdin().map_err(by_hand)?;
        let timeline = Timeline::create(path, &name)
            .map_err(|error| Error::file(path, error, "free some space"))?;
        timeline.log(Event::Started { role: role.into() });
        Ok(RoleProcess {
            name,
            home: None,
            control,
            timeline,
            sabotage: None,
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
        let totals = ledger.totals();
        self.control.send(&News::Ledger { entries, totals })
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
