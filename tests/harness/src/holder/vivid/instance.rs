//! The instances of vivid: each has an output and a capture node, and a cable from one to the other if
//! somebody plugs it in.

use super::super::{HoldError, HoldName, call};
use super::node::{Direction, Node};
use crate::picture::shape;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where its nodes are.
const DEV: &str = "/dev";
/// The picture on a cable that nobody has set otherwise: 1280 × 720.
const CABLE: (usize, usize) = (1280, 720);

/// One instance of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name, as in `platform:vivid-000`.
    pub bus: String,
    /// Its output's node.
    pub output: PathBuf,
    /// Its capture's.
    pub capture: PathBuf,
}

/// All instances, or why there is none.
///
/// # Errors
/// [`HoldError::NotHere`].
pub fn all(kind: HoldName) -> Result<Vec<Instance>, HoldError> {
    let mut nodes: Vec<PathBuf> = fs::read_dir(DEV)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_video(path))
        .collect();
    nodes.sort();
    let about = |path: &PathBuf| {
        let node = Node::open(kind, Direction::Output, path).ok()?;
        let (driver, bus, capabilities) = node.about().ok()?;
        (driver == "vivid").then(|| (path.clone(), bus, capabilities))
    };
    let instances = instances(nodes.iter().filter_map(about));
    if instances.is_empty() {
        return Err(HoldError::NotHere {
            kind,
            cause: "needs the virtual video driver, and no /dev/video* here is of the module vivid"
                .into(),
            cure: "load it as root: modprobe vivid".into(),
        });
    }
    Ok(instances)
}

fn is_video(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix("video"))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Puts nodes together by their bus.
fn instances(nodes: impl Iterator<Item = (PathBuf, String, u32)>) -> Vec<Instance> {
    let mut ends: BTreeMap<String, [Option<PathBuf>; 2]> = BTreeMap::new();
    for (path, bus, capabilities) in nodes {
        let found = ends.entry(bus).or_default();
        for (end, direction) in [Direction::Output, Direction::Capture].iter().enumerate() {
            if capabilities & direction.capability() != 0 {
                found[end].get_or_insert_with(|| path.clone());
            }
        }
    }
    let whole = |(bus, ends): (String, [Option<PathBuf>; 2])| match ends {
        [Some(output), Some(capture)] => Some(Instance {
            bus,
            output,
            capture,
        }),
        _ => None,
    };
    ends.into_iter().filter_map(whole).collect()
}

/// An instance that no other hold has, with both nodes open. It is free again when the open file of the
/// output has ended, in every process that has it.
pub struct Claimed {
    /// Its output, which carries the claim.
    pub output: Node,
    /// Its capture.
    pub capture: Node,
}

/// Claims the first free instance.
///
/// # Errors
/// [`HoldError::NotHere`]: there is none, or all have a hold.
pub fn claim(kind: HoldName) -> Result<Claimed, HoldError> {
    let all = all(kind)?;
    for Instance {
        output, capture, ..
    } in &all
    {
        let output = Node::open(kind, Direction::Output, output)?;
        match flock(&output.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => continue,
            Err(errno) => return Err(call(kind, "flock")(errno)),
        }
        let capture = Node::open(kind, Direction::Capture, capture)?;
        return Ok(Claimed { output, capture });
    }
    Err(HoldError::NotHere {
        kind,
        cause: format!(
            "needs an instance of vivid for each hold, and all {} have one",
            all.len()
        ),
        cure: "load the module with more of them: modprobe vivid n_devs=8".into(),
    })
}

impl Claimed {
    /// Runs the cable from the output to the capture, and has both show pictures that fill so many
    /// pages.
    ///
    /// # Errors
    /// The instance is in use, or cannot.
    pub fn wire(&self, pages: usize) -> Result<(), HoldError> {
        let (width, height) = shape(pages);
        let (_, bus, _) = self.output.about()?;
        if width > CABLE.0 || height > CABLE.1 {
            return Err(self.output.broken(format!(
                "{pages} pages are a picture of {width}x{height}, and vivid's cable carries {}x{}",
                CABLE.0, CABLE.1
            )));
        }
        self.output.plug_into("HDMI")?;
        self.capture.plug_into("HDMI")?;
        let number = bus.rsplit('-').next().unwrap_or_default();
        let output = format!("Output HDMI {number}-0");
        // Linux 6.1 has a switch for the cable, 6.12 says at which output its other end is.
        let wired = self.capture.set_control("Loop Video", 1)?
            || self.capture.set_menu("Is Connected To", &output)?;
        if !wired {
            let what = format!("this vivid has neither a loop nor {output:?} to connect to");
            return Err(self.capture.broken(what));
        }
        // No text over the picture: "None".
        self.capture.set_control("OSD Text Mode", 2)?;
        self.output.set_picture(width, height)?;
        self.capture.set_picture(width, height)
    }
}

/// The capture node of the instance that this output is of.
///
/// # Errors
/// It is gone.
pub fn capture_of(output: &Node, kind: HoldName) -> Result<PathBuf, HoldError> {
    let (_, bus, _) = output.about()?;
    let mut all = all(kind)?.into_iter();
    all.find(|instance| instance.bus == bus)
        .map(|instance| instance.capture)
        .ok_or_else(|| output.broken(format!("no output of vivid: {bus}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_bus_are_an_instance_and_half_ones_are_none() {
        let node = |path: &str, bus: &str, capabilities| {
            (PathBuf::from(path), bus.to_owned(), capabilities)
        };
        let found = instances(
            [
                node("/dev/video0", "a", 0x0523_0001),
                node("/dev/video1", "a", 0x0522_0002),
                node("/dev/video2", "a", 0x05a3_0000),
                node("/dev/video3", "b", 0x0523_0001),
                node("/dev/video4", "c", 0x0522_0002),
                node("/dev/video5", "c", 0x0523_0001),
                node("/dev/video6", "c", 0x0523_0001),
            ]
            .into_iter(),
        );
        let paths: Vec<_> = found
            .iter()
            .map(|one| (one.output.to_str(), one.capture.to_str()))
            .collect();
        assert_eq!(
            paths,
            [
                (Some("/dev/video1"), Some("/dev/video0")),
                (Some("/dev/video4"), Some("/dev/video5"))
            ]
        );
    }

    #[test]
    fn only_video_nodes_are_looked_at() {
        assert!(is_video(Path::new("/dev/video12")));
        for other in ["/dev/video", "/dev/video1x", "/dev/vbi0", "/dev/v4l"] {
            assert!(!is_video(Path::new(other)), "{other}");
        }
    }
}
