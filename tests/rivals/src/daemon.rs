//! One of Debian's daemons, as a process in a [`World`].

use crate::error::{Result, RivalError};
use crate::world::World;
use pv_xenstore::server::quota::Quotas;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How long a daemon may take to listen.
const START: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};
/// What is shown of a daemon's last words.
const LAST_WORDS: usize = 600;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Make {
    /// `xenstored`, in C.
    C,
    /// `oxenstored`, in OCaml.
    Ocaml,
}

impl Make {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Make::C => "xenstored",
            Make::Ocaml => "oxenstored",
        }
    }
}

/// A daemon of one version: `xenstored-4.17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rival {
    /// Which program.
    pub make: Make,
    /// Of which Xen.
    pub version: &'static str,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.make.program(), self.version)
    }
}

impl Rival {
    /// Every daemon that Debian ships.
    pub fn all() -> Vec<Rival> {
        let versions = pv_lab::daemons::versions();
        let both = |version| [Make::C, Make::Ocaml].map(|make| Rival { make, version });
        versions.into_iter().flat_map(both).collect()
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`RivalError::Unknown`] lists what there is.
    pub fn named(name: &str) -> Result<Rival> {
        let all = Rival::all();
        let found = all.iter().find(|rival| rival.to_string() == name);
        found.copied().ok_or_else(|| RivalError::Unknown {
            asked: name.to_owned(),
            known: all.iter().map(Rival::to_string).collect(),
        })
    }

    /// What our server plays when it is held against this one.
    pub fn counterpart(self) -> pv_xenstore::server::Daemon {
        use pv_xenstore::server::Daemon;
        match (self.make, self.version) {
            (Make::C, "4.14") => Daemon::C414,
            (Make::C, "4.17") => Daemon::C417,
            (Make::C, _) => Daemon::C420,
            (Make::Ocaml, "4.14") => Daemon::O414,
            (Make::Ocaml, "4.17") => Daemon::O417,
            (Make::Ocaml, _) => Daemon::O420,
        }
    }

    /// Does it leave a connection open on which a message was too long, and say nothing more there?
    pub fn ignores_long_messages(self) -> bool {
        self.make == Make::C && self.version == "4.14"
    }

    /// Where its packages are: unpacked in the cache, or installed on this machine. `None`: neither.
    pub fn kept(self, cache: Option<&Path>) -> Option<Place> {
        let program = |root: &Path| {
            let dir = root.join(format!("usr/lib/xen-{}/bin", self.version));
            dir.join(self.make.program())
        };
        if let Some(tree) = pv_lab::daemons::kept(self.version, cache) {
            return Some(Place {
                program: program(&tree),
                tree: Some(tree),
                fails: false,
                quotas: None,
            });
        }
        let program = program(Path::new("/"));
        program.exists().then_some(Place {
            program,
            tree: None,
            fails: false,
            quotas: None,
        })
    }
}

/// A daemon's program.
#[derive(Clone, Debug)]
pub struct Place {
    program: PathBuf,
    /// The directory with its C library and its loader; `None`: this machine's own.
    tree: Option<PathBuf>,
    fails: bool,
    quotas: Option<Quotas>,
}

impl Place {
    /// An oxenstored with these limits on domains.
    #[must_use]
    pub fn with_quotas(mut self, quotas: Quotas) -> Place {
        self.quotas = Some(quotas);
        self
    }

    /// The limits on domains.
    pub fn quotas(&self, rival: Rival) -> Quotas {
        let default = || Quotas::of(rival.counterpart());
        self.quotas.unwrap_or_else(default)
    }

    /// An oxenstored that fails transactions at random (`test-eagain` of its configuration).
    #[must_use]
    pub fn failing_transactions(mut self) -> Place {
        self.fails = true;
        self
    }
}

impl Place {
    /// Another program of the same packages, and what it is started with. `None`: they have it not.
    pub fn other(&self, name: &str) -> Option<Command> {
        let program = self.program.with_file_name(name);
        let mut words = program
            .exists()
            .then(|| self.words(&program, None))?
            .into_iter();
        let mut command = Command::new(words.next()?);
        command.args(words);
        Some(command)
    }

    /// The command line that runs a program with the C library of its release, and a library before all
    /// others.
    fn words(&self, program: &Path, preload: Option<&Path>) -> Vec<OsString> {
        let Some(tree) = &self.tree else {
            let preload = preload.map(|library| {
                let mut word = OsString::from("LD_PRELOAD=");
                word.push(library);
                ["env".into(), word]
            });
            let words = preload.into_iter().flatten();
            return words.chain([program.into()]).collect();
        };
        let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
        let libraries = libraries.map(|dir| tree.join(dir));
        let loader = libraries
            .each_ref()
            .map(|dir| dir.join("ld-linux-x86-64.so.2"));
        let loader = loader.into_iter().find(|path| path.exists());
        let mut path = libraries[0].clone().into_os_string();
        path.push(":");
        path.push(&libraries[1]);
        let mut words = vec![
            loader.map_or_else(|| program.into(), PathBuf::into_os_string),
            "--library-path".into(),
            path,
        ];
        if let Some(library) = preload {
            words.extend(["--preload".into(), library.into()]);
        }
        words.push(program.into());
        words
    }
}

/// A daemon that runs. It ends when this value, or the thread that made it, does.
#[derive(Debug)]
pub struct Daemon {
    /// Which.
    pub rival: Rival,
    child: Child,
    pidfd: OwnedFd,
    words: PathBuf,
    dir: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// It does not start; its last words are in the error.
    pub fn start(rival: Rival, place: &Place, world: &World) -> Result<Daemon> {
        let dir = world.path();
        let words = dir.join("words");
        let out = File::create(&words).map_err(RivalError::file(&words))?;
        let err = out.try_clone().map_err(RivalError::file(&words))?;
        // The kernel ends it when we end, however that comes about.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command
            .args(place.words(&place.program, Some(&world.library())))
            .env(
                "PV_RIVALS_TREE",
                place.tree.as_deref().unwrap_or(Path::new("/")),
            );
        match rival.make {
            Make::C => {
                // Its clock is fast: no event would wait long enough to be read.
                command.args(["-N", "-w", "watch-event=0"]);
            }
            Make::Ocaml => {
                let config = dir.join("oxenstored.conf");
                fs::write(
                    &config,
                    oxenstored_conf(dir, place.fails, place.quotas(rival)),
                )
                .map_err(RivalError::file(&config))?;
                command.args(["--no-fork", "--config-file"]).arg(config);
            }
        }
        let run = dir.join("run");
        let child = command
            .env("PV_RIVALS_DIR", dir)
            .env("XENSTORED_RUNDIR", &run)
            .env("XENSTORED_ROOTDIR", &run)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(RivalError::file(Path::new("setpriv")))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|error| RivalError::file(Path::new("pidfd"))(error.into()))?;
        let mut daemon = Daemon {
            rival,
            child,
            pidfd,
            words,
            dir: dir.to_owned(),
        };
        if daemon.wait_for(world.ready(), Some(&START))? {
            Ok(daemon)
        } else {
            Err(daemon.gone("does not listen"))
        }
    }

    /// Waits until something can be read there; false: not within this time.
    ///
    /// # Errors
    /// The daemon has ended.
    pub fn wait_for(&mut self, what: BorrowedFd<'_>, within: Option<&Timespec>) -> Result<bool> {
        let (what_is, end) = {
            let pidfd = self.pidfd.as_fd();
            let mut both = [
                PollFd::from_borrowed_fd(what, PollFlags::IN),
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            ];
            poll(&mut both, within).map_err(|error| RivalError::file(&self.words)(error.into()))?;
            (!both[0].revents().is_empty(), !both[1].revents().is_empty())
        };
        if what_is {
            return Ok(true);
        }
        if end {
            Err(self.gone("ended"))
        } else {
            Ok(false)
        }
    }

    /// Does it end within this time?
    pub fn ends_within(&mut self, within: Timespec) -> bool {
        let mut end = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        matches!(poll(&mut end, Some(&within)), Ok(1..)) && self.has_ended()
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// The error for a daemon that is not as it should be.
    pub fn gone(&mut self, what: &str) -> RivalError {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => format!("{what} ({status})"),
            _ => what.to_owned(),
        };
        let said = fs::read(&self.words).unwrap_or_default();
        let said = &said[said.len().saturating_sub(LAST_WORDS)..];
        RivalError::Daemon {
            daemon: self.rival.to_string(),
            what: status,
            said: String::from_utf8_lossy(said).trim().replace('\n', "; "),
            dir: self.dir.clone(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's own settings where they are its defaults, and no limit on how often others' conflicts may
/// hold a connection up: a test has conflicts all the time.
fn oxenstored_conf(dir: &Path, fails: bool, quotas: Quotas) -> String {
    let dir = dir.display();
    let Quotas {
        nodes,
        watches,
        transactions,
        transaction_nodes: requests,
        node_bytes,
        path_bytes,
        ..
    } = quotas;
    format!(
        "pid-file = {dir}/pid\n\
         test-eagain = {fails}\n\
         xenstored-kva = {dir}/ring-0\n\
         xenstored-port = {dir}/port-0\n\
         conflict-burst-limit = 1e300\n\
         conflict-max-history-seconds = 1000000000.0\n\
         conflict-rate-limit-is-aggregate = true\n\
         merge-activate = true\n\
         perms-activate = true\n\
         perms-watch-activate = true\n\
         quota-activate = true\n\
         quota-maxentity = {nodes}\n\
         quota-maxsize = {node_bytes}\n\
         quota-maxwatch = {watches}\n\
         quota-transaction = {transactions}\n\
         quota-maxrequests = {requests}\n\
         quota-path-max = {path_bytes}\n\
         quota-maxoutstanding = 1024\n\
         quota-maxwatchevents = 1024\n\
         persistent = false\n"
    )
}
