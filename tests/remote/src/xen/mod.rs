//! A real Xen around a run: dom0 as toolstack and oracle, two other domains for the roles.

mod channels;
mod grants;
mod kernel_log;

use crate::{About, Domain, End, RemoteError};
use libgnt::inspect::{GrantState, Inspection};
use libgnt::types::ForeignGrant;
use libgnt::{Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::kernel::GuestKernel;
use pv_harness::processes::{Autopsy, Blocked, Elsewhere};
use pv_xenstore::Client;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Killed processes end, and what they leave arrives, within this.
const SETTLE: Duration = Duration::from_secs(15);
/// Xen prints its list within this.
const LISTING: Duration = Duration::from_secs(10);

/// The machine that a run is on.
pub struct Xen {
    /// dom0's own devices.
    pub platform: Arc<dyn Platform>,
    /// Where the front end runs.
    pub front: Domain,
    /// Where the back end and the consumer run.
    pub back: Domain,
    /// Grants that were in use before us: consoles, xenstore.
    before: Mutex<BTreeSet<ForeignGrant>>,
    /// And event channels, where that is known.
    channels_before: Mutex<Option<BTreeSet<String>>>,
    _sockets: tempfile::TempDir,
}

/// What a domain's kernel said in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLog {
    /// Which domain.
    pub domain: String,
    /// All of it.
    pub lines: Vec<String>,
    /// What is trouble.
    pub trouble: Vec<String>,
}

/// It never answered.
fn silent(error: RemoteError) -> Error {
    let cure = "let its init run `pv-stress supervise /dev/hvc0`, as its console's only use";
    Error::environment(format!("domain {}", error.name), error.what, cure)
}

/// It answered, and failed later.
fn remote(error: RemoteError) -> Error {
    let cure = "its console's log in /var/log/xen/console and `xl dmesg` may say more";
    Error::environment(format!("domain {}", error.name), error.what, cure)
}

impl Xen {
    /// Takes over the consoles of two domains, and waits for their supervisors.
    ///
    /// # Errors
    /// This is no dom0, or a domain does not answer: what, why and what to do.
    pub fn connect(front: &str, back: &str) -> Result<Xen> {
        let (platform, client) = dom0()?;
        let sockets = tempfile::Builder::new().prefix("pv-relay-").tempdir();
        let sockets =
            sockets.map_err(|error| Error::file(&std::env::temp_dir(), error, "set TMPDIR"))?;
        let connect = |which| Domain::connect(&client, which, sockets.path()).map_err(silent);
        let (front, back) = (connect(front)?, connect(back)?);
        if front.domid == back.domid {
            return Err(Error::Usage(
                "--front and --back are one domain; name two".into(),
            ));
        }
        let xen = Xen {
            platform,
            front,
            back,
            before: Mutex::default(),
            channels_before: Mutex::default(),
            _sockets: sockets,
        };
        for domain in xen.domains() {
            let About {
                kernel,
                guest_type,
                unmap_waits,
                clocksource,
            } = domain.await_welcome().map_err(silent)?;
            let off = domain.clock_uncertainty();
            tracing::info!(
                domain = domain.name,
                kernel,
                guest_type,
                unmap_waits,
                clocksource,
                ?off,
                "ready"
            );
        }
        Ok(xen)
    }

    /// Both.
    pub fn domains(&self) -> [&Domain; 2] {
        [&self.front, &self.back]
    }

    /// What the kernels of lost domains complained of before, unless an emulated processor is to
    /// blame.
    pub fn complaints(&self) -> Vec<String> {
        let lost = self.domains().into_iter().filter(|d| d.lost().is_some());
        lost.flat_map(|domain| {
            let trouble = kernel_log::trouble(&domain.console());
            let blamed = !kernel_log::is_the_emulators(&trouble);
            let said = trouble.into_iter().filter(move |_| blamed);
            said.map(|line| format!("{}: {line}", domain.name))
        })
        .collect()
    }

    /// The domains that are lost, and why.
    pub fn lost(&self) -> Vec<(&str, String)> {
        let lost = |domain: &'_ Domain| domain.lost();
        self.domains()
            .into_iter()
            .filter_map(|domain| Some((domain.name.as_str(), lost(domain)?)))
            .collect()
    }

    /// A connection to xenstore with dom0's rights.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn xenstore(&self) -> Result<Client> {
        Client::connect(&*self.platform)
            .map_err(|error| Error::environment("xenstore", error, "see xenstored's log"))
    }

    /// A scenario begins: remembers which grants are not its own, gives it a directory in each
    /// domain, and forgets what kernels said before.
    ///
    /// # Errors
    /// A domain or `xl` does not answer.
    pub fn begin(&self, dir: &Path) -> Result<()> {
        let now = all_grants()?.into_iter().map(|state| state.grant).collect();
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let channels = self.all_channels();
        *(self.channels_before.lock()).unwrap_or_else(PoisonError::into_inner) = channels;
        for domain in self.domains() {
            domain.make_dir(dir).map_err(remote)?;
            domain.kernel_log().map_err(remote)?;
        }
        Ok(())
    }

    /// The grants in use now that were not when the scenario began.
    ///
    /// # Errors
    /// `xl` is not there, or Xen printed nothing.
    pub fn inspect(&self) -> Result<Inspection> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let grants = all_grants()?;
        let grants = grants
            .into_iter()
            .filter(|state| !before.contains(&state.grant))
            .collect();
        Ok(Inspection {
            grants,
            ..Inspection::default()
        })
    }

    /// The event channels of both domains that were not there when the scenario began. `None`: nobody
    /// says.
    pub fn channels(&self) -> Option<Vec<String>> {
        let before = self.channels_before.lock();
        let before = before.unwrap_or_else(PoisonError::into_inner);
        let now = self.all_channels()?;
        Some(now.difference(before.as_ref()?).cloned().collect())
    }

    fn all_channels(&self) -> Option<BTreeSet<String>> {
        let of = |domain: &Domain| channels::of(&domain.name, domain.domid);
        let lists: Option<Vec<_>> = self.domains().into_iter().map(of).collect();
        Some(lists?.into_iter().flatten().collect())
    }

    /// What the kernel said of itself that maps the pages.
    pub fn mapper(&self) -> Option<GuestKernel> {
        self.guests().into_iter().find(|guest| guest.maps)
    }

    /// What the kernels below said of themselves.
    pub fn guests(&self) -> Vec<GuestKernel> {
        let kernel = |domain: &Domain| {
            let about = domain.about()?;
            Some(GuestKernel {
                domain: domain.name.clone(),
                guest_type: about.guest_type,
                unmap_waits: about.unmap_waits,
                maps: domain.name == self.back.name,
            })
        };
        self.domains().into_iter().filter_map(kernel).collect()
    }

    /// A scenario is over: removes its directories; what should not have been in them.
    pub fn end(&self, dir: &Path) -> Vec<String> {
        let mut left = Vec::new();
        for domain in self.domains() {
            match domain.remove_dir(dir) {
                Ok(sockets) => {
                    left.extend(
                        sockets
                            .into_iter()
                            .map(|s| format!("in domain {}: {s}", domain.name)),
                    );
                }
                Err(error) => left.push(error.to_string()),
            }
        }
        left
    }

    /// What the kernels said since the scenario began.
    ///
    /// # Errors
    /// A domain does not answer: its kernel may be what is wrong.
    pub fn kernel_logs(&self) -> Result<Vec<KernelLog>, RemoteError> {
        let log = |domain: &Domain| {
            let lines = domain.kernel_log()?;
            let trouble = kernel_log::trouble(&lines);
            Ok(KernelLog {
                domain: domain.name.clone(),
                lines,
                trouble,
            })
        };
        self.domains().into_iter().map(log).collect()
    }

    /// How far stamps of different domains may be off against each other.
    pub fn clock_uncertainty(&self) -> Duration {
        self.domains()
            .iter()
            .map(|domain| domain.clock_uncertainty())
            .sum()
    }
}

impl Elsewhere for Xen {
    fn autopsy(&self, process: &str) -> Option<Autopsy> {
        self.domains()
            .into_iter()
            .find_map(|domain| domain.autopsy(process))
    }

    fn blocked(&self) -> Vec<Blocked> {
        let domains = self.domains().into_iter();
        domains.filter_map(Domain::blocked).collect()
    }

    fn await_end(&self, process: &str, until: Instant) -> bool {
        let mut domains = self.domains().into_iter();
        domains.all(|domain| domain.await_end(process, until))
    }

    fn settle(&self) -> Vec<String> {
        self.domains()
            .into_iter()
            .flat_map(|domain| domain.settle(SETTLE))
            .collect()
    }
}

/// Runs a shell command in a domain, prints what it wrote, and ends as it did.
///
/// # Errors
/// This is no dom0, or the domain does not answer.
pub fn on(domain: &str, command: &str, deadline: Duration) -> Result<ExitCode> {
    let sockets = tempfile::tempdir();
    let sockets =
        sockets.map_err(|error| Error::file(&std::env::temp_dir(), error, "set TMPDIR"))?;
    let (_, client) = dom0()?;
    let domain = Domain::connect(&client, domain, sockets.path()).map_err(silent)?;
    domain.await_welcome().map_err(silent)?;
    let (end, output) = domain.shell(command, deadline).map_err(remote)?;
    std::io::stdout()
        .write_all(&output)
        .map_err(|error| Error::environment("standard output", error, "redirect it elsewhere"))?;
    Ok(match end {
        End::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(2)),
        // As shells do.
        End::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(2)),
    })
}

fn dom0() -> Result<(Arc<dyn Platform>, Client)> {
    let no_xen = |error: libgnt::Error| Error::Usage(format!("--platform xen: {error}"));
    let store = |error| Error::environment("xenstore", error, "run this in dom0, as root");
    let platform = libgnt::open(&PlatformChoice::Linux, None, "pv-stress");
    let platform = platform.map_err(no_xen)?;
    let client = Client::connect(&*platform).map_err(store)?;
    Ok((platform, client))
}

/// Every grant that somebody maps, of every domain.
fn all_grants() -> Result<Vec<GrantState>> {
    // Cleared first, so that the list is today's.
    xl(&["dmesg", "-c"])?;
    xl(&["debug-keys", "g"])?;
    let until = Instant::now() + LISTING;
    loop {
        if let Some(grants) = grants::parse(&xl(&["dmesg"])?) {
            return Ok(grants);
        }
        if Instant::now() >= until {
            let cure = "boot Xen with loglvl=warning or lower";
            return Err(Error::environment(
                "xl debug-keys g",
                "Xen printed no list",
                cure,
            ));
        }
    }
}

fn xl(args: &[&str]) -> Result<String> {
    let failed = |cause: String| {
        Error::environment(
            format!("xl {}", args.join(" ")),
            cause,
            "run this in dom0, as root",
        )
    };
    let output = Command::new("xl")
        .args(args)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}
