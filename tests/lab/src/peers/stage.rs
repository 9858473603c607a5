//! What the cases have in common: two domains with Linux' own drivers loaded, a device between them,
//! and steps that are checks. The first step that fails ends the case; what it leaves is removed.

pub mod device;

use crate::ask::suite::PEERS_MODULES;
use libgnt::DomId;
use pv_harness::error::{Error, Result};
use pv_harness::settings::quote;
use pv_judges::checks::{Check, Evidence, host_is_empty, kernels_are_well};
use pv_remote::xen::Xen;
use pv_remote::{Domain, End};
use pv_xenstore::Client;
use pv_xenstore::toolstack::BlockDevice;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The cases' files in both domains.
pub const DIR: &str = "/peers";
/// How long both ends may take to close a device.
const CLOSE: Duration = Duration::from_secs(20);
/// The check that a step fails which has none of its own.
const CAME_TO_ITS_END: &str = "the case came to its end";

/// A failed check has been recorded, and nothing more can be seen.
#[derive(Debug)]
pub struct Ended;

/// What a step comes to.
pub type Step<T = ()> = Result<T, Ended>;

/// One of the two domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the front end is.
    Front,
    /// Where the back end is.
    Back,
}

/// What Linux' drivers do with devices that appear in a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linux {
    /// They take them, as on every host.
    Takes,
    /// They leave them to the pair: `drivers_autoprobe` of the bus is 0.
    Leaves,
}

impl Linux {
    /// The command that says it to a kernel.
    fn command(self) -> String {
        let probe = u8::from(self == Linux::Takes);
        format!(
            "for bus in xen xen-backend; do echo {probe} >/sys/bus/$bus/drivers_autoprobe; done"
        )
    }
}

/// A case on its way.
pub struct Stage<'a> {
    xen: &'a Xen,
    client: Client,
    logs: PathBuf,
    step: Duration,
    deadline: Instant,
    checks: Vec<Check>,
    devices: Vec<BlockDevice>,
}

impl<'a> Stage<'a> {
    /// Begins a case that may take so long; a step of it has a quarter of that.
    ///
    /// # Errors
    /// A domain does not answer, or the logs cannot be written.
    pub fn begin(xen: &'a Xen, logs: &Path, deadline: Duration) -> Result<Stage<'a>> {
        std::fs::create_dir_all(logs)
            .map_err(|error| Error::file(logs, error, "name another directory with --report"))?;
        let stage = Stage {
            xen,
            client: xen.xenstore()?,
            logs: logs.to_owned(),
            step: deadline / 4,
            deadline: Instant::now() + deadline,
            checks: Vec::new(),
            devices: Vec::new(),
        };
        // Nothing of an earlier case misleads.
        stage.xen.begin(Path::new(DIR))?;
        Ok(stage)
    }

    fn domain(&self, side: Side) -> &'a Domain {
        match side {
            Side::Front => &self.xen.front,
            Side::Back => &self.xen.back,
        }
    }

    /// The number of a domain.
    pub fn domid(&self, side: Side) -> DomId {
        self.domain(side).domid
    }

    /// How long the next step may take.
    pub fn patience(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.step.min(left).max(Duration::from_secs(1))
    }

    fn fail(&mut self, name: &str, detail: impl Into<String>) -> Ended {
        let check = Check::fail(name, detail);
        tracing::warn!(detail = check.detail, "failed: {name}");
        self.checks.push(check);
        Ended
    }

    fn pass(&mut self, name: &str, detail: impl Into<String>) {
        let check = Check::pass(name, detail);
        tracing::info!(detail = check.detail, "{name}");
        self.checks.push(check);
    }

    /// Records whether something is as it must be.
    ///
    /// # Errors
    /// [`Ended`] if it is not.
    pub fn check(&mut self, name: &str, found: Result<String, String>) -> Step {
        match found {
            Ok(detail) => self.pass(name, detail),
            Err(detail) => return Err(self.fail(name, detail)),
        }
        Ok(())
    }

    /// Runs a shell command in a domain to its end. It stops at the first command that fails.
    fn shell(&self, side: Side, command: &str) -> Result<String, String> {
        shell(self.domain(side), command, self.patience())
    }

    /// Does something whose success is no news. What it wrote.
    ///
    /// # Errors
    /// [`Ended`] if it failed, or did not end in time.
    pub fn run(&mut self, side: Side, doing: &str, command: &str) -> Step<String> {
        self.shell(side, command)
            .map_err(|why| self.fail(CAME_TO_ITS_END, format!("{doing}: {why}")))
    }

    /// A command that must succeed: a check of its own. What it wrote.
    ///
    /// # Errors
    /// [`Ended`] if it failed, or did not end in time.
    pub fn must(&mut self, side: Side, name: &str, command: &str) -> Step<String> {
        match self.shell(side, command) {
            Ok(said) => {
                let last = said.trim().lines().last().unwrap_or_default();
                self.pass(name, last);
                Ok(said)
            }
            Err(why) => Err(self.fail(name, why)),
        }
    }

    /// A command that must be refused, with exit status 2 and these words: a check.
    ///
    /// # Errors
    /// [`Ended`] if it is not.
    pub fn must_be_refused(&mut self, side: Side, name: &str, command: &str, words: &str) -> Step {
        let refused = format!("{command} </dev/null && status=0 || status=$?; [ $status = 2 ]");
        let found = self.shell(side, &refused).and_then(|said| {
            let said = said.trim().to_owned();
            match said.contains(words) {
                true => Ok(said),
                false => Err(format!("no {words:?} in: {said}")),
            }
        });
        self.check(name, found)
    }

    /// Waits until a shell's condition holds in a domain, which must come to be: a check.
    ///
    /// # Errors
    /// [`Ended`] if it does not hold in time.
    pub fn must_become(&mut self, side: Side, name: &str, condition: &str) -> Step {
        // Nothing in the domain waits for longer than we do.
        let seconds = (self.patience().as_secs() * 3 / 4).max(1);
        let wait = format!("until {condition}; do usleep 100000; done");
        let command = format!("timeout {seconds} sh -c {}", quote(&wait));
        let begun = Instant::now();
        let found = self.shell(side, &command);
        let took = || format!("after {:.1} s", begun.elapsed().as_secs_f64());
        let found = found.map(|_| took());
        self.check(name, found.map_err(|why| format!("{}: {why}", took())))
    }

    /// Loads Linux' drivers in both domains, and says what they do with devices that appear.
    ///
    /// # Errors
    /// [`Ended`] if one is not there.
    pub fn load_drivers(&mut self, in_front: Linux, in_back: Linux) -> Step {
        const NAME: &str = "xen-blkfront and xen-blkback are loaded in both domains";
        let names: Vec<String> = PEERS_MODULES.map(|name| name.replace('-', "_")).into();
        // What this kernel has built in was not brought along.
        let load = format!(
            "for name in {}; do [ ! -e /lib/modules/needs/$name ] || load-modules $name; done
            ls -d /sys/bus/xen/drivers/vbd /sys/bus/xen-backend/drivers/vbd >&2
            grep -w ext4 /proc/filesystems >&2",
            names.join(" ")
        );
        for (side, linux) in [(Side::Front, in_front), (Side::Back, in_back)] {
            let loaded = self.shell(side, &format!("{load}\n{}", linux.command()));
            if let Err(why) = loaded {
                return Err(self.fail(NAME, why));
            }
        }
        self.check(NAME, Ok(PEERS_MODULES.join(", ")))
    }

    /// Runs a command in a domain while something else is done; that gets a stage of its own whose
    /// checks are these.
    ///
    /// # Errors
    /// [`Ended`] if either failed.
    pub fn must_meanwhile(
        &mut self,
        side: Side,
        name: &str,
        command: &str,
        meanwhile: impl FnOnce(&mut Stage<'a>) -> Step,
    ) -> Step<String> {
        let (domain, patience) = (self.domain(side), self.patience());
        let (done, said) = std::thread::scope(|scope| {
            let command = scope.spawn(|| shell(domain, command, patience));
            let done = meanwhile(self);
            let said = command.join();
            (done, said.unwrap_or_else(|_| Err("a panic".into())))
        });
        let last = |said: &String| said.trim().lines().last().unwrap_or_default().to_owned();
        self.check(name, said.as_ref().map(last).map_err(String::clone))?;
        done?;
        Ok(said.unwrap_or_default())
    }

    /// The case is over: nothing is left running, and what the domains wrote is in the logs. Its
    /// checks.
    pub fn end(mut self, played: Step) -> Vec<Check> {
        if played.is_ok() {
            self.pass(CAME_TO_ITS_END, "");
        }
        let mut left_over = Vec::new();
        for device in std::mem::take(&mut self.devices) {
            // Only a case that failed leaves one, and says why.
            let _failed_already = device.remove(&self.client, CLOSE);
        }
        for side in [Side::Front, Side::Back] {
            let domain = self.domain(side);
            // Whoever comes next has a kernel as on every host.
            let logs = format!(
                "{}; cd {DIR}; for log in *.err; do [ ! -e $log ] || {{ echo \"== $log\"; cat $log; }}; done",
                Linux::Takes.command()
            );
            match shell(domain, &logs, CLOSE) {
                Ok(said) => self.keep(&format!("{}.log", domain.name), &said),
                Err(why) => left_over.push(why),
            }
        }
        let mut evidence = Evidence {
            inspection: self.settled(),
            guests: self.xen.guests(),
            ..Evidence::default()
        };
        evidence.kernels = Some(self.kernel_logs());
        self.checks.push(host_is_empty(&evidence));
        self.checks.extend(kernels_are_well(&evidence));
        let left = self.xen.end(Path::new(DIR));
        self.checks.push(Check::none(
            "nothing is left in the domains",
            left_over.into_iter().chain(left).collect(),
            "",
        ));
        self.checks
    }

    /// What Xen says when the last unmaps are over; `None` if it says nothing.
    fn settled(&mut self) -> Option<libgnt::inspect::Inspection> {
        let until = Instant::now() + CLOSE;
        loop {
            let inspection = self.xen.inspect().ok()?;
            if inspection.grants.is_empty() || Instant::now() >= until {
                return Some(inspection);
            }
        }
    }

    /// What the kernels said, into the logs; the trouble in it.
    fn kernel_logs(&self) -> Vec<(String, Vec<String>)> {
        let logs = self.xen.kernel_logs().unwrap_or_default();
        let keep = |log: pv_remote::xen::KernelLog| {
            let name = format!("{}.kernel.log", log.domain);
            self.keep(&name, &(log.lines.join("\n") + "\n"));
            (log.domain, log.trouble)
        };
        logs.into_iter().map(keep).collect()
    }

    fn keep(&self, name: &str, text: &str) {
        let path = self.logs.join(name);
        if let Err(error) = std::fs::write(&path, text) {
            tracing::warn!(path = %path.display(), %error, "a log is not kept");
        }
    }
}

/// Runs a shell command, which stops at the first one in it that fails. What it wrote; or how it
/// failed, and what it wrote last.
fn shell(domain: &Domain, command: &str, patience: Duration) -> Result<String, String> {
    let named = |why: String| format!("in domain {}: {why}", domain.name);
    let ended = domain.shell(&format!("set -e\n{command}"), patience);
    let (end, said) = ended.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if end == End::Code(0) {
        return Ok(said);
    }
    let all: Vec<&str> = said.trim().lines().collect();
    let last = all[all.len().saturating_sub(5)..].join(" | ");
    Err(named(match end {
        // `timeout` ends what it runs with SIGTERM.
        End::Code(143) | End::Signal(15) => format!("not in time; {last}"),
        End::Code(code) => format!("status {code}: {last}"),
        End::Signal(signal) => format!("ended by signal {signal}: {last}"),
    }))
}
