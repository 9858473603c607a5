//! The tree in a file, so that it outlives the server.
//!
//! A file is written beside the old one, synced and renamed over it: at every moment the old state or the
//! new one is there, whole. A sum at its end says so.

use super::store::Tree;
use super::store::grant::Deaths;
use crate::perms::{Permission, Perms, Rights};
use libgnt::DomId;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The first bytes of a file, with the format's version.
const MAGIC: &[u8; 16] = b"pv-xenstored 1\n\0";

/// What a server has at one moment, as it is. Taking one costs little.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The nodes.
    pub tree: Tree,
    /// Domains that have died.
    pub deaths: Deaths,
    /// Domains that are there.
    pub introduced: Vec<DomId>,
}

/// What is kept: the nodes, and which domains there are. Connections, watches and transactions end
/// with the server.
#[derive(Clone, Debug)]
pub struct State {
    generation: u64,
    introduced: Vec<DomId>,
    nodes: Vec<Kept>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    path: String,
    value: Vec<u8>,
    perms: Vec<Permission>,
}

/// Why a file holds no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    /// It is another program's, or another version's.
    #[error("it does not begin as a state of this server does")]
    NotOurs,
    /// Something has changed it, or it is not whole.
    #[error("its bytes do not have the sum that they were written with")]
    Damaged,
    /// The sum is right, and the contents are not.
    #[error("byte {0} is not what has to be there")]
    Malformed(usize),
}

impl State {
    /// What there is to keep. Permissions of dead domains are left out.
    pub fn of(snapshot: &Snapshot) -> State {
        let tree = &snapshot.tree;
        let special = tree
            .special()
            .map(|(path, node)| (path.to_owned(), node.clone()));
        let nodes = special.chain(tree.subtree("/"));
        State {
            generation: tree.generation(),
            introduced: snapshot.introduced.clone(),
            nodes: nodes
                .map(|(path, node)| Kept {
                    value: node.value().to_vec(),
                    perms: node.grant().in_force(&snapshot.deaths),
                    path,
                })
                .collect(),
        }
    }

    /// The tree again.
    pub fn tree(&self) -> Tree {
        let nodes = self.nodes.iter().filter_map(|kept| {
            let perms = Perms::new(kept.perms.clone())?;
            Some((kept.path.clone(), kept.value.clone(), perms))
        });
        Tree::restored(self.generation, nodes)
    }

    /// The domains that there were.
    pub fn introduced(&self) -> &[DomId] {
        &self.introduced
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.generation.to_le_bytes());
        put_length(&mut out, self.introduced.len());
        for domid in &self.introduced {
            out.extend_from_slice(&domid.0.to_le_bytes());
        }
        put_length(&mut out, self.nodes.len());
        for Kept { path, value, perms } in &self.nodes {
            for bytes in [path.as_bytes(), value] {
                put_length(&mut out, bytes.len());
                out.extend_from_slice(bytes);
            }
            put_length(&mut out, perms.len());
            for entry in perms {
                let text = entry.to_string();
                out.push(text.as_bytes()[0]);
                out.extend_from_slice(&entry.domid.0.to_le_bytes());
            }
        }
        let sum = sum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`State::save`] wrote.
    ///
    /// # Errors
    /// [`BadState`].
    pub fn decode(bytes: &[u8]) -> Result<State, BadState> {
        if !bytes.starts_with(MAGIC) {
            return Err(BadState::NotOurs);
        }
        let (body, end) = bytes.split_last_chunk::<8>().ok_or(BadState::Damaged)?;
        if sum(body) != u64::from_le_bytes(*end) {
            return Err(BadState::Damaged);
        }
        let mut cursor = Cursor {
            bytes: body,
            at: MAGIC.len(),
        };
        let generation = u64::from_le_bytes(cursor.array()?);
        let introduced = (0..cursor.length()?)
            .map(|_| Ok(DomId(u16::from_le_bytes(cursor.array()?))))
            .collect::<Result<_, BadState>>()?;
        let nodes = (0..cursor.length()?)
            .map(|_| cursor.node())
            .collect::<Result<_, BadState>>()?;
        if cursor.at != body.len() {
            return Err(BadState::Malformed(cursor.at));
        }
        Ok(State {
            generation,
            introduced,
            nodes,
        })
    }

    /// Writes the file, all or nothing. Its name must not end in a slash.
    ///
    /// # Errors
    /// The system's; the old file is there then.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let beside = beside(path);
        if let Err(error) = self.write(&beside, path) {
            // Half a state helps nobody, and a full disk least.
            let _ = std::fs::remove_file(&beside);
            return Err(error);
        }
        // The directory, which now has the name.
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn write(&self, beside: &Path, path: &Path) -> io::Result<()> {
        let mut file = File::create(beside)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        std::fs::rename(beside, path)
    }
}

/// Can a file of this name be written? Leaves nothing.
///
/// # Errors
/// The system's.
pub fn can_save(path: &Path) -> io::Result<()> {
    let beside = beside(path);
    File::create(&beside)?;
    std::fs::remove_file(&beside)
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    beside.into()
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// FNV-1a, of eight bytes at a time: it is against accidents.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |sum: u64, word: u64| {
        (sum ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29)
    };
    let sum = words.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        step(sum, u64::from_le_bytes(*word))
    });
    let sum = rest
        .iter()
        .fold(sum, |sum, byte| step(sum, u64::from(*byte)));
    step(sum, bytes.len() as u64)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadState> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or(BadState::Malformed(self.at))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadState> {
        let at = self.at;
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| BadState::Malformed(at))
    }

    fn length(&mut self) -> Result<usize, BadState> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn node(&mut self) -> Result<Kept, BadState> {
        let at = self.at;
        let length = self.length()?;
        let path = std::str::from_utf8(self.take(length)?).map_err(|_| BadState::Malformed(at))?;
        let length = self.length()?;
        let value = self.take(length)?.to_vec();
        let perms = (0..self.length()?)
            .map(|_| {
                let at = self.at;
                let [letter, low, high] = self.array()?;
                let rights = match letter {
                    b'n' => Rights::None,
                    b'r' => Rights::Read,
                    b'w' => Rights::Write,
                    b'b' => Rights::Both,
                    _ => return Err(BadState::Malformed(at)),
                };
                Ok(Permission::new(
                    rights,
                    DomId(u16::from_le_bytes([low, high])),
                ))
            })
            .collect::<Result<_, BadState>>()?;
        Ok(Kept {
            path: path.to_owned(),
            value,
            perms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConnId, Input, Server, Settings};
    use super::*;
    use crate::testing::step;
    use crate::wire::{Kind, Packet};

    fn server() -> Server {
        let mut server = Server::new(Settings::default());
        let conn = ConnId(1);
        let input = Input::Connected {
            conn,
            domid: DomId::DOM0,
            device: false,
        };
        step(&mut server, input);
        step(&mut server, Input::Introduce(DomId(2)));
        for (kind, payload) in [
            (Kind::Write, "/z/y\0value"),
            (Kind::Write, "/a\0"),
            (Kind::SetPerms, "/z\0n1\0r2\0b3\0"),
            (Kind::SetPerms, "@releaseDomain\0n0\0r1\0"),
        ] {
            let packet = Packet::new(kind, 0, 0, payload);
            step(&mut server, Input::Request(conn, packet));
        }
        // Permissions of a domain that is no more are not kept.
        step(&mut server, Input::Introduce(DomId(3)));
        step(&mut server, Input::Release(DomId(3)));
        server
    }

    fn shown(tree: &Tree) -> Vec<String> {
        let special = tree
            .special()
            .map(|(path, node)| (path.to_owned(), node.clone()));
        let all = special.chain(tree.subtree("/"));
        all.map(|(path, node)| {
            let value = node.value().escape_ascii();
            format!("{path} {value} {:?}", node.perms().entries())
        })
        .collect()
    }

    #[test]
    fn a_state_comes_back_whole() {
        let (server, dir) = (server(), tempfile::tempdir().unwrap());
        let path = dir.path().join("state");
        State::of(&server.snapshot()).save(&path).unwrap();
        let read = State::decode(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read.introduced(), [DomId(0), DomId(2)]);
        let (before, after) = (shown(server.tree()), shown(&read.tree()));
        assert!(after.contains(&"/z  [n1, r2]".to_owned()), "{after:?}");
        assert!(
            after.contains(&"@releaseDomain  [n0, r1]".to_owned()),
            "{after:?}"
        );
        assert_eq!(before.len(), after.len());
        let names: Vec<_> = after.iter().filter(|line| line.starts_with('/')).collect();
        assert!(names[0].starts_with("/ "), "{names:?}");
        // In the order of age.
        assert!(
            names.iter().position(|l| l.starts_with("/z"))
                < names.iter().position(|l| l.starts_with("/a"))
        );
        assert!(read.tree().generation() >= server.tree().generation());
        // Only the file itself is left.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_whole_is_told() {
        let bytes = State::of(&server().snapshot()).encode();
        assert_eq!(State::decode(b"").unwrap_err(), BadState::NotOurs);
        assert_eq!(
            State::decode(b"something else").unwrap_err(),
            BadState::NotOurs
        );
        for length in MAGIC.len()..bytes.len() {
            assert_eq!(
                State::decode(&bytes[..length]).unwrap_err(),
                BadState::Damaged
            );
        }
        for at in MAGIC.len()..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(
                State::decode(&changed).unwrap_err(),
                BadState::Damaged,
                "{at}"
            );
        }
    }

    #[test]
    fn nothing_in_a_file_panics() {
        let bytes = State::of(&server().snapshot()).encode();
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut changed = bytes[..bytes.len() - 8].to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(MAGIC.len()..changed.len());
                changed[at] = rng.u8(..);
            }
            let end = sum(&changed).to_le_bytes();
            changed.extend_from_slice(&end);
            if let Ok(state) = State::decode(&changed) {
                state.tree();
            }
        }
    }
}
