//! The lab's suite `xenstore`, from dom0: the client's cases and histories over each way to the daemon, and
//! the echo device between two domains.

use crate::cases::cases;
use crate::echo;
use crate::histories::{self, Plan};
use crate::over::Over;
use crate::part::Part;
use libgnt::DomId;
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::settings::PlatformKind;
use pv_judges::checks::Check;
use pv_judges::report::{Report, ReportDir, print_table};
use pv_judges::verdict::{Verdict, exit_status};
use pv_remote::xen::Xen;
use pv_remote::{Domain, End};
use pv_rivals::daemon::{Make, Rival};
use pv_suite::Many;
use pv_xenstore::Client;
use pv_xenstore::xenbus::XenbusState;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Texts of a front end whose back end stays.
const TEXTS: u32 = 100;
/// Texts of a front end whose back end is killed in the middle.
const TEXTS_THROUGH_A_KILL: u32 = 1000;
/// Where a back end's process id is, in its domain.
const PID: &str = "/tmp/echo-back.pid";
/// Runs that the search for the shortest history may take: each is as slow as the machine.
const SHRINKING: usize = 20;
const CAME_TO_ITS_END: &str = "the case came to its end";

/// The options of `suite`.
#[derive(Debug, clap::Args)]
pub struct SuiteArgs {
    /// A domain: its name or number
    #[arg(long, value_name = "DOMAIN")]
    front: String,
    /// The echo device's back end is here
    #[arg(long, value_name = "DOMAIN")]
    back: String,
    /// Which daemon runs, such as xenstored-4.17
    #[arg(long, value_name = "NAME")]
    daemon: String,
    /// It fails transactions at random
    #[arg(long)]
    eagain: bool,
    /// How many requests of histories over each way
    #[arg(long, value_name = "N", default_value_t = 2000)]
    requests: u64,
    /// The first history's seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long a case may take
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// Where the report goes
    #[arg(long, value_name = "DIR")]
    report: PathBuf,
    /// The command that made this machine, for replays
    #[arg(long, value_name = "COMMAND")]
    machine: String,
}

/// A case, and where it is.
#[derive(Clone, Copy, Debug)]
enum Case {
    CasesOverSocket,
    CasesOverDom0sDevice,
    CasesOverADomainsDevice,
    HistoriesOverSocket(Rival),
    HistoriesOverDom0sDevice(Rival),
    HistoriesOverADomainsDevice(Rival),
    Echo,
}

impl Case {
    /// Without a daemon that our server plays nothing is compared.
    fn all(rival: Option<Rival>) -> Vec<Case> {
        let mut all = vec![
            Case::CasesOverSocket,
            Case::CasesOverDom0sDevice,
            Case::CasesOverADomainsDevice,
            Case::Echo,
        ];
        all.extend(rival.into_iter().flat_map(|rival| {
            [
                Case::HistoriesOverSocket(rival),
                Case::HistoriesOverDom0sDevice(rival),
                Case::HistoriesOverADomainsDevice(rival),
            ]
        }));
        all
    }

    fn name(self) -> &'static str {
        match self {
            Case::CasesOverSocket => "client-socket",
            Case::CasesOverDom0sDevice => "client-dom0-xenbus",
            Case::CasesOverADomainsDevice => "client-domain-xenbus",
            Case::Echo => "echo",
            Case::HistoriesOverSocket(_) => "histories-socket",
            Case::HistoriesOverDom0sDevice(_) => "histories-dom0-xenbus",
            Case::HistoriesOverADomainsDevice(_) => "histories-domain-xenbus",
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Case::CasesOverSocket => "the client's cases over dom0's socket",
            Case::CasesOverDom0sDevice => "the client's cases over /dev/xen/xenbus in dom0",
            Case::CasesOverADomainsDevice => "the client's cases over /dev/xen/xenbus in a domain",
            Case::Echo => "an echo device between two domains, whose ends come and go",
            Case::HistoriesOverSocket(_) => {
                "random requests over dom0's socket, and our server beside it"
            }
            Case::HistoriesOverDom0sDevice(_) => "the same over /dev/xen/xenbus in dom0",
            Case::HistoriesOverADomainsDevice(_) => "the same over /dev/xen/xenbus in a domain",
        }
    }
}

struct Stage<'a> {
    xen: &'a Xen,
    args: &'a SuiteArgs,
}

/// Runs all cases.
///
/// # Errors
/// No case could be judged: the domains do not answer, or the report cannot be written.
pub fn run(args: &SuiteArgs) -> Result<ExitCode> {
    let dir = ReportDir::claim(&args.report)?;
    let begun = Instant::now();
    let xen = Xen::connect(&args.front, &args.back)?;
    let stage = Stage { xen: &xen, args };
    let rival = rival(args);
    if let Err(why) = &rival {
        tracing::warn!("no histories: {why}");
    }
    let mut verdicts = Vec::new();
    for case in Case::all(rival.ok()) {
        tracing::info!("case {}", case.name());
        verdicts.push(stage.play(case));
    }
    let report = Report {
        tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
        started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        command: format!("{} --suite xenstore", args.machine),
        platform: PlatformKind::Xen.to_string(),
        seed: args.seed,
        exit_status: exit_status(&verdicts),
        duration_ms: milliseconds(begun),
        verdicts,
    };
    report.write(&dir)?;
    closed_pipe_is_fine(print_table(&report, &mut anstream::stdout()))?;
    Ok(ExitCode::from(report.exit_status))
}

/// The daemon that our server plays beside it, or why none is compared.
fn rival(args: &SuiteArgs) -> Result<Rival, String> {
    let rival = Rival::named(&args.daemon).map_err(|error| error.to_string())?;
    if args.eagain {
        return Err("its transactions fail at random".into());
    }
    match (rival.make, rival.version) {
        (Make::C, "4.14") => Err(format!("{rival} is compared without Xen only")),
        _ => Ok(rival),
    }
}

impl Stage<'_> {
    fn play(&self, case: Case) -> Verdict {
        let begun = Instant::now();
        let mut checks = match self.perform(case) {
            Ok(part) => part.checks,
            Err(error) => vec![Check::fail(CAME_TO_ITS_END, error.to_string())],
        };
        for (name, why) in self.xen.lost() {
            checks.push(Check::fail(
                "both domains are there at its end",
                format!("{name}: {why}"),
            ));
        }
        for check in checks.iter().filter(|check| !check.passed) {
            tracing::warn!(detail = check.detail, "failed: {}", check.name);
        }
        Verdict {
            scenario: case.name().into(),
            summary: case.summary().into(),
            outcome: Verdict::judge(&checks, &[], true),
            checks,
            edges: Vec::new(),
            hung: Vec::new(),
            blocked: Vec::new(),
            standstill: None,
            no_cycle: None,
            lives: Vec::new(),
            pictures: Vec::new(),
            figures: Vec::new(),
            duration_ms: milliseconds(begun),
            logs: String::new(),
            replay: format!(
                "{} --suite xenstore --seed {}",
                self.args.machine, self.args.seed
            ),
        }
    }

    fn perform(&self, case: Case) -> Result<Part> {
        let over = |name| Over::named(name);
        match case {
            Case::CasesOverSocket => cases(&over("socket"), Many::Few),
            Case::CasesOverDom0sDevice => cases(&over("device"), Many::Few),
            Case::CasesOverADomainsDevice => {
                self.part(&self.xen.front, "cases --over device --few")
            }
            Case::Echo => self.echo(),
            Case::HistoriesOverSocket(rival) => self.histories(over("socket"), rival),
            Case::HistoriesOverDom0sDevice(rival) => self.histories(over("device"), rival),
            Case::HistoriesOverADomainsDevice(rival) => self.histories_in_a_domain(rival),
        }
    }

    fn histories(&self, over: Over, rival: Rival) -> Result<Part> {
        histories::histories(&Plan {
            over,
            rival,
            seed: self.args.seed,
            requests: self.args.requests,
            each: 2000,
            others: vec![self.xen.front.domid, self.xen.back.domid],
            shrinking: SHRINKING,
            sabotage: None,
        })
    }

    fn histories_in_a_domain(&self, rival: Rival) -> Result<Part> {
        let command = format!(
            "histories --over device --daemon {rival} --seed {} --requests {} --others 0 {} --shrinking {SHRINKING}",
            self.args.seed, self.args.requests, self.xen.back.domid.0
        );
        self.part(&self.xen.front, &command)
    }

    /// One of our own commands in a domain.
    fn part(&self, domain: &Domain, command: &str) -> Result<Part> {
        Part::in_output(&self.shell(domain, &format!("pv-stress xenstore {command} --json"))?)
    }

    /// What a command in a domain wrote, if it came to a result.
    fn shell(&self, domain: &Domain, command: &str) -> Result<String> {
        let failed = |cause: &dyn std::fmt::Display| {
            let what = format!("in domain {}: {command}", domain.name);
            Error::environment(what, cause, "see its console")
        };
        let ended = domain.shell(command, self.args.deadline);
        let (end, said) = ended.map_err(|error| failed(&error))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let last: Vec<&str> = said.trim().lines().rev().take(3).collect();
        match end {
            End::Code(0 | 1) => Ok(said),
            End::Code(code) => Err(failed(&format!("status {code}: {}", last.join(" | ")))),
            End::Signal(signal) => Err(failed(&format!("signal {signal}: {}", last.join(" | ")))),
        }
    }

    fn echo(&self) -> Result<Part> {
        let client = self.xen.xenstore()?;
        let mut checks = Vec::new();
        self.echo_in_order(&client, &mut checks)?;
        self.echo_through_a_kill(&client, &mut checks)?;
        Ok(Part { checks })
    }

    /// Two front ends, one after the other, on one back end, which ends when the device is removed.
    fn echo_in_order(&self, client: &Client, checks: &mut Vec<Check>) -> Result<()> {
        let (front, back) = (&self.xen.front, &self.xen.back);
        create(client, front.domid, back.domid)?;
        let serve = format!("echo-back --front {}", front.domid.0);
        let (echoed, served) = std::thread::scope(|scope| {
            let served = scope.spawn(|| self.part(back, &serve));
            let echo = || self.part(front, &format!("echo-front --texts {TEXTS}"));
            let echoed = [echo(), echo()];
            let removed = remove(client, front.domid, back.domid);
            (echoed, removed.and_then(|()| joined(served)))
        });
        for part in echoed.into_iter().chain([served]) {
            checks.extend(part?.checks);
        }
        Ok(())
    }

    /// The back end is killed in the middle, and another one goes on.
    fn echo_through_a_kill(&self, client: &Client, checks: &mut Vec<Check>) -> Result<()> {
        let (front, back) = (&self.xen.front, &self.xen.back);
        create(client, front.domid, back.domid)?;
        let serve = format!("echo-back --front {}", front.domid.0);
        let first = format!("pv-stress xenstore {serve} & echo $! >{PID}; wait $!; [ $? = 137 ]");
        let state = format!("/local/domain/{}/device/echo/0/state", front.domid.0);
        let (echoed, killed, served) = std::thread::scope(|scope| {
            let first = scope.spawn(|| self.shell(back, &first));
            let echoed = scope
                .spawn(|| self.part(front, &format!("echo-front --texts {TEXTS_THROUGH_A_KILL}")));
            let connected = client.wait_until(&state, self.args.deadline, |state| {
                (state == Some(XenbusState::Connected.as_str().as_bytes())).then_some(())
            });
            let killed = match connected {
                Ok(Some(())) => self.shell(back, &format!("kill -9 $(cat {PID})")),
                Ok(None) => Err(Error::environment(
                    &state,
                    "never connected",
                    "see the consoles",
                )),
                Err(error) => Err(Error::environment(&state, error, "see the consoles")),
            };
            let killed = killed.and_then(|_| joined(first));
            let served = scope.spawn(|| self.part(back, &serve));
            let echoed = joined(echoed);
            let removed = remove(client, front.domid, back.domid);
            (echoed, killed, removed.and_then(|()| joined(served)))
        });
        checks.push(Check::pass("the first back end was killed", killed?.trim()));
        for part in [echoed, served] {
            checks.extend(part?.checks);
        }
        Ok(())
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let panicked = || Error::environment("a thread of the suite", "it panicked", "report this");
    thread.join().unwrap_or_else(|_| Err(panicked()))
}

fn create(client: &Client, front: DomId, back: DomId) -> Result<()> {
    let made = echo::create(client, front, back);
    made.map_err(|error| Error::environment("the echo device", error, "see xenstored's log"))
}

/// As a toolstack ends a device: both directories at once.
fn remove(client: &Client, front: DomId, back: DomId) -> Result<()> {
    let removed = client.transaction(|tx| {
        tx.rm(&format!("/local/domain/{}/device/echo", front.0))?;
        tx.rm(&format!("/local/domain/{}/backend/echo", back.0))
    });
    removed.map_err(|error| Error::environment("the echo device", error, "see xenstored's log"))
}

fn milliseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
