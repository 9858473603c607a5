//! The servers that are measured, each a process of its own: ours, and Debian's.

use super::client::{PATIENCE, Wire};
use crate::daemon::{Daemon, Place, Rival};
use crate::error::{Result, RivalError};
use crate::world::World;
use pv_xenstore::wire::Kind;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Which server.
#[derive(Clone, Debug)]
pub enum Which {
    /// Ours: the program's path.
    Ours(PathBuf),
    /// One of Debian's.
    Rival(Rival, Place),
}

/// A server that runs. It ends when this value, or the thread that made it, does.
#[derive(Debug)]
pub struct Contender {
    /// Its name in tables.
    pub name: String,
    which: Which,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Ours { child: Child, dir: TempDir },
    // The world goes after the daemon.
    Rival { daemon: Daemon, world: Box<World> },
}

impl Contender {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(which: Which) -> Result<Contender> {
        let (name, process) = match &which {
            Which::Ours(program) => ("pv-xenstored".to_owned(), ours(program)?),
            Which::Rival(rival, place) => {
                let world = Box::new(World::new(&[])?);
                let daemon = Daemon::start(*rival, place, &world)?;
                (rival.to_string(), Process::Rival { daemon, world })
            }
        };
        Ok(Contender {
            name,
            which,
            process,
        })
    }

    /// Starts it anew, with an empty store.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        *self = Contender::start(self.which.clone())?;
        Ok(())
    }

    /// For `map_err`: what could not be measured of this server.
    pub fn row(&self, row: &str) -> impl FnOnce(RivalError) -> RivalError {
        let (server, row) = (self.name.clone(), row.to_owned());
        move |error| RivalError::Row {
            server,
            row,
            error: Box::new(error),
        }
    }

    /// Is it one of Debian's?
    pub fn is_rival(&self) -> bool {
        matches!(self.which, Which::Rival(..))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        match &self.process {
            Process::Ours { dir, .. } => dir.path().join("socket"),
            Process::Rival { world, .. } => world.socket(),
        }
    }

    fn proc(&self, name: &str) -> PathBuf {
        let pid = match &self.process {
            Process::Ours { child, .. } => child.id(),
            Process::Rival { daemon, .. } => daemon.pid(),
        };
        Path::new("/proc").join(pid.to_string()).join(name)
    }

    /// Its resident memory, in bytes (`VmRSS`).
    ///
    /// # Errors
    /// Its process is gone.
    pub fn resident(&self) -> Result<u64> {
        let path = self.proc("status");
        let status = fs::read_to_string(&path).map_err(RivalError::file(&path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.unwrap_or(0) * 1024)
    }

    /// How long its threads have run, in nanoseconds: the first number of each one's
    /// `/proc/PID/task/TID/schedstat`, which is of the moment in which it last went to sleep. So it is asked
    /// something twice before: the second question finds it asleep.
    ///
    /// # Errors
    /// Its process is gone.
    pub fn processor_time(&self) -> Result<u64> {
        let mut wire = Wire::open(&self.socket(), PATIENCE)?;
        for _ in 0..2 {
            wire.ask(Kind::GetDomainPath, "0\0")?;
        }
        let path = self.proc("task");
        let tasks = fs::read_dir(&path).map_err(RivalError::file(&path))?;
        // A thread may end meanwhile.
        let of = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(tasks.flatten().filter_map(of).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Process::Ours { child, .. } = self {
            // Ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ours(program: &Path) -> Result<Process> {
    if !program.exists() {
        return Err(RivalError::NotBuilt(program.to_owned()));
    }
    let dir = tempfile::tempdir().map_err(RivalError::file(&std::env::temp_dir()))?;
    let socket = dir.path().join("socket");
    // The kernel ends it when we end, however that comes about.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg("--socket")
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(RivalError::file(Path::new("setpriv")))?;
    let mut said = String::new();
    if let Some(words) = &mut child.stderr {
        let mut words = BufReader::new(words);
        // Its first line says that it listens, or why it does not.
        words
            .read_line(&mut said)
            .map_err(RivalError::file(program))?;
    }
    let process = Process::Ours { child, dir };
    if said.contains("listening") {
        Ok(process)
    } else {
        Err(RivalError::Daemon {
            daemon: "pv-xenstored".to_owned(),
            what: "does not listen".to_owned(),
            said: said.trim().to_owned(),
            dir: socket,
        })
    }
}
