//! The suite's own processes: this program, started again by itself.

use super::actor::{self, Answer, Order};
use super::bench::Bench;
use super::{Outcome, Stop, rules};
use libgnt::{DomId, Platform, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_harness::processes::die_with_parent;
use pv_xenstore::Client;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

/// Which domain's process to be.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Member {
    /// linux, or sim:DIR
    #[arg(long)]
    pub platform: PlatformChoice,
    /// The domain, on the simulated Xen
    #[arg(long)]
    pub domain: Option<u16>,
}

/// One process of the suite.
#[derive(Debug, clap::Subcommand)]
pub enum Process {
    /// Tries one rule
    Rule {
        /// Which
        name: String,
        /// As which domain
        #[command(flatten)]
        member: Member,
        /// The partner's domain
        #[arg(long)]
        peer: u16,
        /// The pid that started this
        #[arg(long)]
        parent: u32,
    },
    /// Takes orders on standard input
    Actor {
        /// As which domain
        #[command(flatten)]
        member: Member,
        /// The pid that started this
        #[arg(long)]
        parent: u32,
    },
}

/// What a rule's process says on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// The check's end.
    pub outcome: Outcome,
}

impl Member {
    /// A process of another domain of the simulated Xen.
    pub(super) fn of(&self, domid: DomId) -> Member {
        Member {
            platform: self.platform.clone(),
            domain: Some(domid.0),
        }
    }

    /// Its options.
    pub(super) fn args(&self) -> Vec<String> {
        let mut args = vec![format!("--platform={}", self.platform)];
        args.extend(self.domain.map(|domain| format!("--domain={domain}")));
        args
    }

    pub(super) fn join(&self, name: &str) -> libgnt::Result<Arc<dyn Platform>> {
        libgnt::open(&self.platform, self.domain.map(DomId), name)
    }

    /// The domain that the platform belongs to: the simulator was told, a real kernel asks
    /// xenstore for the relative node `domid`.
    pub(super) fn domid(&self, platform: &dyn Platform) -> Result<DomId> {
        if let (PlatformChoice::Sim(_), Some(domain)) = (&self.platform, self.domain) {
            return Ok(DomId(domain));
        }
        Client::connect(platform)
            .and_then(|client| client.read_parsed("domid"))
            .map(DomId)
            .map_err(|error| {
                Error::environment("this domain's id", error, "see that xenstore runs")
            })
    }
}

/// Runs one process to its end.
///
/// # Errors
/// [`Error::Environment`].
pub fn run(process: Process) -> Result<()> {
    let cannot =
        |error: std::io::Error| Error::environment("pv-stress", error, "use `pv-stress conform`");
    match process {
        Process::Rule {
            name,
            member,
            peer,
            parent,
        } => {
            die_with_parent(parent).map_err(cannot)?;
            let outcome = check(&name, member, DomId(peer));
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &Said { outcome })
                .map_err(std::io::Error::from)
                .and_then(|()| out.flush())
                .map_err(cannot)
        }
        Process::Actor { member, parent } => {
            die_with_parent(parent).map_err(cannot)?;
            let platform = member
                .join("actor")
                .map_err(|error| Error::Usage(error.to_string()))?;
            let mut orders = std::io::stdin().lock();
            let mut answers = std::io::stdout().lock();
            actor::serve(&platform, &mut orders, &mut answers).map_err(cannot)
        }
    }
}

fn check(name: &str, member: Member, peer: DomId) -> Outcome {
    let rule = rules::find(name).ok_or_else(|| Stop::Broken(format!("no rule {name}")))?;
    let platform = member.join(name)?;
    let own = member
        .domid(&*platform)
        .map_err(|error| Stop::Broken(error.to_string()))?;
    (rule.check)(&Bench::new(platform, member, own, peer))
}

/// A process that takes orders on a pipe. It ends when this is dropped.
#[derive(Debug)]
pub struct ActorChild {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Broken(format!("the partner process: {error}"))
}

impl ActorChild {
    pub(super) fn start(member: &Member) -> Outcome<ActorChild> {
        let program = std::env::current_exe().map_err(broken)?;
        let mut process = Command::new(program)
            .args(["conform-process", "actor"])
            .args(member.args())
            .arg(format!("--parent={}", std::process::id()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(broken("it has no pipes"));
        };
        let child = ActorChild {
            inner: RefCell::new(Inner {
                process,
                orders: Some(orders),
                answers: BufReader::new(answers),
            }),
        };
        // It answers once it has joined.
        child.ask(&Order::Ping)?;
        Ok(child)
    }

    /// One order, one answer. No deadline of its own: the rule's process has one.
    pub(super) fn ask(&self, order: &Order) -> Outcome<Answer> {
        let mut inner = self.inner.borrow_mut();
        let mut line = serde_json::to_string(order).map_err(broken)?;
        line.push('\n');
        let orders = inner
            .orders
            .as_mut()
            .ok_or_else(|| broken("it was killed"))?;
        orders.write_all(line.as_bytes()).map_err(broken)?;
        line.clear();
        if inner.answers.read_line(&mut line).map_err(broken)? == 0 {
            let status = inner.process.wait().map_err(broken)?;
            return Err(broken(format!("{order:?}: {status}")));
        }
        serde_json::from_str(&line).map_err(broken)
    }

    pub(super) fn kill(&self) -> Outcome {
        let mut inner = self.inner.borrow_mut();
        // Not before the kill: the end of its orders would let it tidy up.
        inner.process.kill().map_err(broken)?;
        inner.orders = None;
        inner.process.wait().map(drop).map_err(broken)
    }
}

impl Drop for ActorChild {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        inner.orders = None;
        if let Err(error) = inner.process.wait() {
            tracing::warn!(%error, "the partner process");
        }
    }
}
