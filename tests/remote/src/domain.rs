//! One other domain, as the run sees it.

use super::clock::Clock;
use super::message::{About, Answer, End, Question};
use super::relay::{Command, Relay, translated};
use crossbeam::channel::bounded;
use libgnt::DomId;
use pv_harness::processes::{Autopsy, Blocked};
use pv_harness::settings::HoldName;
use pv_harness::timeline::Record;
use pv_xenstore::Client;
use std::path::Path;
use std::time::{Duration, Instant};

/// A domain that boots says something on its console at least as often.
const WELCOME: Duration = Duration::from_secs(60);
/// And is up within this, even in software emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// A question is answered within this.
const ANSWER: Duration = Duration::from_secs(20);

/// What went wrong with a domain.
#[derive(Clone, Debug, thiserror::Error)]
#[error("domain {name}: {what}")]
pub struct RemoteError {
    /// Which.
    pub name: String,
    /// What.
    pub what: String,
}

/// A domain with a supervisor in it.
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its number.
    pub domid: DomId,
    relay: Relay,
}

impl Domain {
    /// Finds a domain by its name or number, and its console in xenstore, and takes it over.
    /// [`Domain::await_welcome`] says when it is there.
    ///
    /// # Errors
    /// There is no such domain, it has no console, or the console cannot be opened.
    pub fn connect(client: &Client, which: &str, sockets: &Path) -> Result<Domain, RemoteError> {
        let failed = |what: String| RemoteError {
            name: which.to_owned(),
            what,
        };
        let domid = find(client, which).map_err(failed)?;
        let node = format!("/local/domain/{}/console/tty", domid.0);
        let tty = client.read_string(&node).map_err(|error| {
            failed(format!(
                "it has no console ({error}); xenconsoled must run in dom0"
            ))
        })?;
        let socket = sockets.join(format!("domain-{}.sock", domid.0));
        // Only to tell sessions apart; the console may still hold an older one's frames.
        let session = fastrand::u32(1..);
        let relay = Relay::start(Path::new(&tty), &socket, session)
            .map_err(|error| failed(format!("its console {tty}: {error}")))?;
        Ok(Domain {
            name: which.to_owned(),
            domid,
            relay,
        })
    }

    fn error(&self, what: impl Into<String>) -> RemoteError {
        RemoteError {
            name: self.name.clone(),
            what: what.into(),
        }
    }

    /// Waits for its supervisor, and until its clock is known.
    ///
    /// # Errors
    /// It did not answer in good time: the end of what its console said is part of the message.
    pub fn await_welcome(&self) -> Result<About, RemoteError> {
        let shared = &self.relay.shared;
        let most = Instant::now() + BOOT;
        loop {
            let said = shared.state().said;
            let until = most.min(Instant::now() + WELCOME);
            if shared.wait(until, |state| state.clock_is_settled || state.said != said) {
                let state = shared.state();
                if let (Some(about), true) = (&state.about, state.clock_is_settled) {
                    return Ok(about.clone());
                }
                if Instant::now() < most {
                    continue;
                }
            }
            break;
        }
        let state = shared.state();
        let why = state.failure.clone().unwrap_or_else(|| {
            format!("`pv-stress supervise` did not answer on its console within {WELCOME:?}")
        });
        let last: Vec<&str> = state
            .strays
            .iter()
            .rev()
            .take(5)
            .rev()
            .map(String::as_str)
            .collect();
        silent(&self.name, &why, &last)
    }

    /// Where proxies find its relay.
    pub fn socket(&self) -> &Path {
        self.relay.socket()
    }

    /// What it says about itself; `None` before [`Domain::await_welcome`].
    pub fn about(&self) -> Option<About> {
        self.relay.shared.state().about.clone()
    }

    /// Why it is lost, if it is: its console is closed, or its kernel has panicked.
    pub fn lost(&self) -> Option<String> {
        self.relay.shared.failure()
    }

    /// The last lines on its console that were not for us: its kernel's.
    pub fn console(&self) -> Vec<String> {
        self.relay.shared.state().strays.iter().cloned().collect()
    }

    /// How far its stamps may be off.
    pub fn clock_uncertainty(&self) -> Duration {
        self.clock().uncertainty().unwrap_or(Duration::MAX)
    }

    fn clock(&self) -> Clock {
        self.relay.shared.state().clock
    }

    fn ask(&self, question: Question) -> Result<Answer, RemoteError> {
        if let Some(why) = self.relay.shared.failure() {
            return Err(self.error(why));
        }
        let (sender, receiver) = bounded(1);
        self.relay.command(Command::Ask(question, sender));
        match receiver.recv_timeout(ANSWER) {
            Ok(answer) => answer.map_err(|what| self.error(what)),
            Err(_) => Err(self.no_answer("its supervisor does not answer".into())),
        }
    }

    fn do_it(&self, question: Question) -> Result<(), RemoteError> {
        match self.ask(question)? {
            Answer::Done => Ok(()),
            other => Err(self.error(format!("a strange answer: {other:?}"))),
        }
    }

    fn lines(&self, question: Question) -> Result<Vec<String>, RemoteError> {
        match self.ask(question)? {
            Answer::Lines(lines) => Ok(lines),
            other => Err(self.error(format!("a strange answer: {other:?}"))),
        }
    }

    /// What a process in it is waiting for; `None` if there is none of this name.
    pub fn autopsy(&self, process: &str) -> Option<Autopsy> {
        let id = self.relay.shared.state().id(process)?;
        match self.ask(Question::Autopsy(id)) {
            Ok(Answer::Autopsy(found)) => found.map(|autopsy| Autopsy {
                domain: Some(self.name.clone()),
                ..autopsy
            }),
            other => {
                tracing::warn!(?other, process, "looking at a process");
                None
            }
        }
    }

    /// What its kernel keeps, if there are processes of the run in it that have not ended.
    pub fn blocked(&self) -> Option<Blocked> {
        if self.relay.shared.state().living().is_empty() {
            return None;
        }
        let found = match self.ask(Question::Blocked) {
            Ok(Answer::Blocked(found)) => found,
            other => Blocked {
                missing: vec![format!("all of them: {other:?}")],
                ..Blocked::default()
            },
        };
        Some(Blocked {
            domain: Some(self.name.clone()),
            ..found
        })
    }

    /// Waits until there is no process of this name in it. False if there still is.
    pub fn await_end(&self, process: &str, until: Instant) -> bool {
        let shared = &self.relay.shared;
        shared.wait(until, |state| state.id(process).is_none())
    }

    /// A living process's timeline so far, on our clock. `None`: it has ended, and its timeline is
    /// where it was to go.
    ///
    /// # Errors
    /// There is none, or the domain does not answer.
    pub fn timeline(&self, process: &str) -> Result<Option<Vec<Record>>, RemoteError> {
        let shared = &self.relay.shared;
        let Some(id) = shared.state().id(process) else {
            return Ok(None);
        };
        // What was killed is about to end, and its timeline to come.
        let comes = || {
            shared.wait(Instant::now() + ANSWER, |state| {
                state.id(process) != Some(id)
            })
        };
        if shared.state().is_killed(id) && comes() {
            return Ok(None);
        }
        let broken = |error: std::io::Error| self.error(format!("{process}'s timeline: {error}"));
        let answer = match self.ask(Question::Timeline(id)) {
            // It ended in this very moment.
            Err(_) if comes() => return Ok(None),
            answer => answer?,
        };
        match answer {
            Answer::Bytes(packed) => {
                let lines = packed
                    .unpack()
                    .and_then(|bytes| translated(&bytes, &self.clock()));
                let lines = lines.map_err(broken)?;
                let records = lines.split(|&b| b == b'\n').filter(|line| !line.is_empty());
                let records: Result<Vec<Record>, _> = records.map(serde_json::from_slice).collect();
                records.map(Some).map_err(|error| broken(error.into()))
            }
            other => Err(self.error(format!("a strange answer: {other:?}"))),
        }
    }

    /// Waits until every process in it has ended and what it left is here. Those that did not, and
    /// what else should not be left.
    pub fn settle(&self, within: Duration) -> Vec<String> {
        let shared = &self.relay.shared;
        shared.wait(Instant::now() + within, |state| state.living().is_empty());
        let mut left = Vec::new();
        shared.update(|state| {
            left.append(&mut state.left_over);
            left.extend(state.failure.clone());
            let living = state.living().into_iter();
            left.extend(living.map(|name| format!("{name}, which does not end")));
        });
        left.into_iter()
            .map(|what| format!("in domain {}: {what}", self.name))
            .collect()
    }

    /// The kernel's messages since the last time.
    ///
    /// # Errors
    /// The domain does not answer.
    pub fn kernel_log(&self) -> Result<Vec<String>, RemoteError> {
        self.lines(Question::KernelLog)
    }

    /// Makes a file of so many zero bytes.
    ///
    /// # Errors
    /// What the domain's file system says.
    pub fn make_file(&self, path: &Path, bytes: u64) -> Result<(), RemoteError> {
        self.do_it(Question::MakeFile(path.to_owned(), bytes))
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// What the domain's file system says.
    pub fn make_dir(&self, path: &Path) -> Result<(), RemoteError> {
        self.do_it(Question::MakeDir(path.to_owned()))
    }

    /// Is there what a way to hold pages needs?
    ///
    /// # Errors
    /// What it lacks, and what helps.
    pub fn can_hold(&self, name: HoldName) -> Result<(), RemoteError> {
        self.do_it(Question::CanHold(name))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// What the domain's file system says.
    pub fn remove(&self, path: &Path) -> Result<(), RemoteError> {
        self.do_it(Question::Remove(path.to_owned()))
    }

    /// Removes a directory and all below it; names the sockets that were left there, and holders'
    /// devices that have not gone.
    ///
    /// # Errors
    /// What the domain's file system says.
    pub fn remove_dir(&self, path: &Path) -> Result<Vec<String>, RemoteError> {
        self.lines(Question::RemoveDir(path.to_owned()))
    }

    /// SHA-256 of stretches of a file: offset and length of each.
    ///
    /// # Errors
    /// What the domain's file system says.
    pub fn digests(
        &self,
        path: &Path,
        stretches: &[(u64, u64)],
    ) -> Result<Vec<String>, RemoteError> {
        match self.ask(Question::Digests(path.to_owned(), stretches.to_vec()))? {
            Answer::Digests(digests) if digests.len() == stretches.len() => Ok(digests),
            other => Err(self.error(format!("a strange answer: {other:?}"))),
        }
    }

    /// Runs a shell command to its end; its status, and what it wrote.
    ///
    /// # Errors
    /// It could not be started, or did not end in time.
    pub fn shell(&self, command: &str, within: Duration) -> Result<(End, Vec<u8>), RemoteError> {
        let (sender, receiver) = bounded(1);
        self.relay
            .command(Command::Shell(command.to_owned(), sender));
        match receiver.recv_timeout(within) {
            Ok(end) => end.map_err(|what| self.error(what)),
            Err(_) => Err(self.no_answer(format!("{command:?} did not end within {within:?}"))),
        }
    }

    /// Why an answer did not come: the domain is lost, or else as the caller says.
    fn no_answer(&self, otherwise: String) -> RemoteError {
        self.error(self.lost().unwrap_or(otherwise))
    }
}

fn silent(name: &str, why: &str, last: &[&str]) -> Result<About, RemoteError> {
    let what = if last.is_empty() {
        why.to_owned()
    } else {
        format!("{why}; its console said last: {}", last.join(" | "))
    };
    Err(RemoteError {
        name: name.to_owned(),
        what,
    })
}

/// A domain's number, by its name or number.
fn find(client: &Client, which: &str) -> Result<DomId, String> {
    let said = |error: pv_xenstore::Error| format!("xenstore: {error}");
    let numbers = client.directory("/local/domain").map_err(said)?;
    for number in &numbers {
        let name = client
            .try_read(&format!("/local/domain/{number}/name"))
            .map_err(said)?;
        let is_named = name.is_some_and(|name| name == which.as_bytes());
        if let (true, Ok(domid)) = (is_named || number == which, number.parse()) {
            return Ok(DomId(domid));
        }
    }
    Err(format!(
        "there is no such domain; there are {}",
        numbers.join(", ")
    ))
}
