//! The files of tracefs (`Documentation/trace/ftrace.rst`, "Instances", and `kprobetrace.rst`).
//!
//! Probes are the kernel's, not a process's, and outlive who made them. So they are named after their
//! owner, its pid and when that began; the next observer removes those of owners that are gone.

use super::account::Gap;
use super::line::Line;
use super::probes::{PROBES, Probe};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where a kernel has it: on its own, or below debugfs.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// For each processor. An event is some 60 bytes, so that is what about 30 000 take.
const BUFFER_KIB: &str = "2048";
/// A reader is woken when so much of that is full, and not for each event.
const WAKE_PERCENT: &str = "25";
/// Before a group's name, and an instance's.
const OURS: &str = "pvstress_";

/// Why a kernel cannot be watched, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched(pub String);

impl Unwatched {
    fn file(path: &Path, error: &io::Error) -> Unwatched {
        Unwatched(format!("{}: {error}", path.display()))
    }
}

/// What probes on this kernel see. The probes are removed on drop.
#[derive(Debug)]
pub struct Tracer {
    /// Closed first: an instance that is being read stays.
    pipe: File,
    probes: Probes,
    /// The last read's end, where it is no whole line.
    torn: Vec<u8>,
}

/// An instance, and its probes.
#[derive(Debug)]
struct Probes {
    root: PathBuf,
    name: String,
    set: Vec<Probe>,
}

impl Tracer {
    /// Sets the probes, after removing those that dead observers left.
    ///
    /// # Errors
    /// There is no tracefs, or this kernel does not have a function that must be watched.
    pub fn begin() -> Result<Tracer, Unwatched> {
        let root = PLACES
            .map(PathBuf::from)
            .into_iter()
            .find(|root| root.join("kprobe_events").exists());
        let root = root.ok_or_else(|| {
            Unwatched(format!(
                "no tracefs with kprobe_events; run: mount -t tracefs tracefs {}",
                PLACES[0]
            ))
        })?;
        remove_dead(&root, &owner_lives).map_err(|error| Unwatched::file(&root, &error))?;
        let me = std::process::id();
        let began = began(me).ok_or_else(|| Unwatched(format!("/proc/{me}/stat is unreadable")))?;
        Self::set(root, format!("{OURS}{me}_{began}"))
    }

    fn set(root: PathBuf, name: String) -> Result<Tracer, Unwatched> {
        let mut probes = Probes::create(root, name)?;
        probes.define()?;
        let pipe = probes.instance().join("trace_pipe");
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(&pipe);
        let tracer = Tracer {
            pipe: opened.map_err(|error| Unwatched::file(&pipe, &error))?,
            probes,
            torn: Vec::new(),
        };
        tracer.probes.enable(true)?;
        Ok(tracer)
    }

    /// The functions that have probes.
    pub fn functions(&self) -> Vec<String> {
        let set = self.probes.set.iter();
        set.map(|probe| probe.function.to_owned()).collect()
    }

    /// The lines that have come since the last time, and how many could not be read. Never waits.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read(&mut self) -> io::Result<(Vec<Line>, usize)> {
        let mut bytes = std::mem::take(&mut self.torn);
        drain(&mut self.pipe, &mut bytes)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
        self.torn = bytes.split_off(whole);
        let text = String::from_utf8_lossy(&bytes);
        let (mut lines, mut unread) = (Vec::new(), 0);
        for line in text.lines() {
            match Line::parse(line) {
                Ok(line) => lines.push(line),
                Err(error) => {
                    tracing::warn!(%error, "trace");
                    unread += 1;
                }
            }
        }
        Ok((lines, unread))
    }

    /// From now on it is readable as soon as there is one event.
    ///
    /// # Errors
    /// What `write` says.
    pub fn wake_for_each(&self) -> Result<(), Unwatched> {
        write(&self.probes.instance().join("buffer_percent"), "0")
    }

    /// No more events: what there was can still be read.
    ///
    /// # Errors
    /// What `write` says.
    pub fn stop(&self) -> Result<(), Unwatched> {
        self.probes.enable(false)
    }

    /// What was passed unseen. A probe is not served that an interrupt passes while another one is; no
    /// map and no unmap is in an interrupt, but late grants are ended in a timer's.
    pub fn missed(&self) -> Vec<Gap> {
        let profile = self.probes.root.join("kprobe_profile");
        match fs::read_to_string(&profile) {
            Ok(text) => missed(&text, &self.probes.set),
            Err(error) => vec![Gap::of_all(format!("{}: {error}", profile.display()))],
        }
    }
}

/// Readable when a good part of the buffer is full.
impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Probes {
    /// An instance of this name, with a buffer and a clock.
    fn create(root: PathBuf, name: String) -> Result<Probes, Unwatched> {
        let probes = Probes {
            root,
            name,
            set: Vec::new(),
        };
        let instance = probes.instance();
        fs::create_dir(&instance).map_err(|error| Unwatched::file(&instance, &error))?;
        for (file, text) in [
            // That of the timelines.
            ("trace_clock", "mono"),
            ("buffer_size_kb", BUFFER_KIB),
            ("buffer_percent", WAKE_PERCENT),
        ] {
            write(&instance.join(file), text)?;
        }
        Ok(probes)
    }

    fn define(&mut self) -> Result<(), Unwatched> {
        let events = self.root.join("kprobe_events");
        for probe in PROBES {
            match write(&events, &probe.definition(&self.name)) {
                Ok(()) => self.set.push(probe),
                Err(Unwatched(why)) if probe.needed => {
                    let function = probe.function;
                    return Err(Unwatched(format!(
                        "no probe on {function}: this kernel does not have it, or its module xen-gntdev is not loaded ({why})"
                    )));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn instance(&self) -> PathBuf {
        self.root.join("instances").join(&self.name)
    }

    fn enable(&self, on: bool) -> Result<(), Unwatched> {
        let group = self.instance().join("events").join(&self.name);
        write(&group.join("enable"), if on { "1" } else { "0" })
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.root, &self.name) {
            tracing::warn!(%error, group = self.name, "removing probes");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Unwatched> {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
        .map_err(|error| Unwatched::file(path, &error))
}

fn drain(pipe: &mut File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 64 << 10];
    loop {
        match pipe.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Which of these were passed unseen: `kprobe_profile` has, a line, a probe's name without its group,
/// how often it was seen, and how often not.
fn missed(profile: &str, set: &[Probe]) -> Vec<Gap> {
    let lines = profile.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (name, _hits, missed) = (words.next()?, words.next()?, words.next()?);
        let probe = set.iter().find(|probe| probe.name == name)?;
        (missed != "0").then(|| Gap {
            why: format!("the probe {name} was passed {missed} times unseen"),
            only_ends: probe.of_ends,
        })
    });
    lines.collect()
}

/// Removes the instance and the probes of one owner.
fn remove(root: &Path, name: &str) -> io::Result<()> {
    match fs::remove_dir(root.join("instances").join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let events = root.join("kprobe_events");
    let set = fs::read_to_string(&events)?;
    let mut file = OpenOptions::new().append(true).open(&events)?;
    for (group, probe) in set.lines().filter_map(group_and_probe) {
        if group == name {
            file.write_all(format!("-:{group}/{probe}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// `p:group/name function …`, and `r` with a number for a return.
fn group_and_probe(line: &str) -> Option<(&str, &str)> {
    let (kind, rest) = line.split_once(':')?;
    let rest = rest.split_ascii_whitespace().next()?;
    kind.starts_with(['p', 'r'])
        .then(|| rest.split_once('/'))
        .flatten()
}

/// Removes what observers left that are gone.
fn remove_dead(root: &Path, lives: &dyn Fn(u32, u64) -> bool) -> io::Result<()> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join("instances"))? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let set = fs::read_to_string(root.join("kprobe_events"))?;
    let groups = set.lines().filter_map(group_and_probe);
    names.extend(groups.map(|(group, _)| group.to_owned()));
    for name in names {
        if let Some((pid, began)) = owner(&name)
            && !lives(pid, began)
        {
            tracing::info!(name, "removing what a dead observer left");
            remove(root, &name)?;
        }
    }
    Ok(())
}

/// Whose a name is: its pid, and when it began.
fn owner(name: &str) -> Option<(u32, u64)> {
    let (pid, began) = name.strip_prefix(OURS)?.split_once('_')?;
    Some((pid.parse().ok()?, began.parse().ok()?))
}

fn owner_lives(pid: u32, when: u64) -> bool {
    began(pid) == Some(when)
}

/// When a process began, in the kernel's ticks: with its pid that names it for good
/// (`/proc/PID/stat`, field 22).
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests;
