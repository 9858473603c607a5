//! A history that is played in a corner of a tree that others use: below one node of the connection's own
//! domain, without what would make or end domains, and with those domains in permissions that there are.

use libgnt::DomId;
use pv_rivals::step::{Step, Tx};
use pv_xenstore::wire::Kind;

/// The node, below a domain's home; a relative path. Only in `data` may a domain make nodes.
const ROOT: &str = "data/pv-history";
/// The same in dom0's.
const ROOT_OF_DOM0: &str = "pv-history";
/// The device's buffer has 4096 bytes, with the header (`xenbus_dev_frontend.c`).
const DEVICE_PAYLOAD_MAX: usize = 4080;

/// Where and as whom a history is played.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Whose rights the connections have.
    pub domid: DomId,
    /// Are they open files of the kernel's device?
    pub device: bool,
    /// Other domains that there are.
    pub others: Vec<DomId>,
}

impl Scene {
    fn home(&self) -> String {
        format!("/local/domain/{}", self.domid.0)
    }

    fn relative_root(&self) -> &'static str {
        match self.domid {
            DomId::DOM0 => ROOT_OF_DOM0,
            _ => ROOT,
        }
    }

    /// The node above all that the history touches; it stays from the beginning to the end.
    pub fn root(&self) -> String {
        format!("{}/{}", self.home(), self.relative_root())
    }

    /// A path beside it that nothing changes.
    pub fn quiet(&self) -> String {
        format!("{}-quiet", self.root())
    }

    /// What a toolstack did for the domain before, and the root: for a server that has only begun.
    pub fn toolstack(&self) -> Vec<(Kind, Vec<u8>)> {
        let (home, root) = (self.home(), self.root());
        let (owner, reader) = (format!("n{}", self.domid.0), format!("r{}", self.domid.0));
        let mut done = Vec::new();
        if self.domid != DomId::DOM0 {
            let data = format!("{home}/data");
            done.extend([
                (Kind::Mkdir, strings(&[&home])),
                (Kind::SetPerms, strings(&[&home, "n0", &reader])),
                (Kind::Mkdir, strings(&[&data])),
                (Kind::SetPerms, strings(&[&data, &owner])),
                (
                    Kind::Introduce,
                    strings(&[&self.domid.0.to_string(), "1", "1"]),
                ),
            ]);
        }
        done.extend([
            (Kind::Mkdir, strings(&[&root])),
            (Kind::SetPerms, strings(&[&root, &owner])),
        ]);
        done
    }

    /// The history as it is played here.
    pub fn steps(&self, history: Vec<Step>) -> Vec<Step> {
        let steps = history.into_iter();
        steps.filter_map(|step| self.step(step)).collect()
    }

    fn step(&self, step: Step) -> Option<Step> {
        use pv_rivals::step::Link;
        match step {
            Step::Open(_) => Some(step),
            // The device ends what a file leaves at its leisure.
            Step::Close(_) if self.device => None,
            Step::Close(_) => Some(step),
            Step::Die(_) => None,
            Step::Ask {
                link,
                kind,
                tx,
                payload,
            } => {
                // All have the same rights here: domains are further connections.
                let link = match link {
                    Link::Socket(n) => Link::Socket(n),
                    Link::Domain(n) => Link::Socket(n as u8 % 3),
                };
                // The kernel looks for the transaction first, whatever is asked.
                let is_made = matches!(tx, Tx::Made(_));
                if !self.may(kind, &payload) || (self.device && is_made) {
                    return None;
                }
                let payload = self.payload(kind, payload);
                let fits = !self.device || payload.len() <= DEVICE_PAYLOAD_MAX;
                fits.then_some(Step::Ask {
                    link,
                    kind,
                    tx,
                    payload,
                })
            }
        }
    }

    /// May this be asked where others live? Requests of a bad form are compared without Xen.
    fn may(&self, kind: u32, payload: &[u8]) -> bool {
        let Some(known) = Kind::from_number(kind) else {
            return false;
        };
        let ends = payload.last() == Some(&0);
        let strings = payload.iter().filter(|byte| **byte == 0).count();
        let special = payload.first() == Some(&b'@');
        match known {
            Kind::Read | Kind::Directory | Kind::GetPerms => ends && strings == 1,
            Kind::Mkdir | Kind::Rm => ends && strings == 1 && !special,
            Kind::Write => strings > 0 && !special,
            Kind::SetPerms => ends && strings > 1 && !special,
            Kind::Watch | Kind::Unwatch | Kind::DirectoryPart => ends && strings == 2,
            Kind::TransactionStart => payload == b"\0",
            Kind::TransactionEnd => [&b"T\0"[..], b"F\0"].contains(&payload),
            Kind::GetDomainPath => ends && strings == 1,
            // The kernel's watches would go with the file's.
            Kind::ResetWatches => payload == b"\0" && !self.device,
            // It is about domains, or the daemon itself.
            _ => false,
        }
    }

    fn payload(&self, kind: u32, payload: Vec<u8>) -> Vec<u8> {
        let untouched = [
            Kind::TransactionStart,
            Kind::TransactionEnd,
            Kind::GetDomainPath,
        ];
        let known = Kind::from_number(kind);
        if known.is_some_and(|kind| untouched.contains(&kind)) {
            return payload;
        }
        let end = payload.iter().position(|byte| *byte == 0);
        let (path, rest) = payload.split_at(end.unwrap_or(payload.len()));
        let mut mapped = self.path(path);
        match known {
            Some(Kind::SetPerms) => mapped.extend(self.permissions(rest)),
            _ => mapped.extend(rest),
        }
        mapped
    }

    /// Every path is one below the root, but for special watches and none at all.
    fn path(&self, path: &[u8]) -> Vec<u8> {
        match path.first() {
            None | Some(b'@') => path.to_vec(),
            Some(b'/') => {
                let below = match path {
                    b"/" => &b"/a"[..],
                    _ => path,
                };
                [self.root().as_bytes(), below].concat()
            }
            Some(_) => [self.relative_root().as_bytes(), b"/", path].concat(),
        }
    }

    /// Numbers of domains in permissions, each as one that there is.
    fn permissions(&self, entries: &[u8]) -> Vec<u8> {
        let mut there = vec![self.domid];
        there.extend(&self.others);
        let one = |entry: &[u8]| {
            let number = entry
                .get(1..)
                .and_then(|text| std::str::from_utf8(text).ok());
            match number.and_then(|text| text.parse::<usize>().ok()) {
                Some(number @ 1..=9) => {
                    let domid = there[(number - 1) % there.len()];
                    [&entry[..1], domid.0.to_string().as_bytes()].concat()
                }
                Some(_) => entry.to_vec(),
                // What a daemon reads as a number may be one of a domain that there is not; dom0 always is.
                None => {
                    let zero = |byte: &u8| if byte.is_ascii_digit() { b'0' } else { *byte };
                    entry.iter().map(zero).collect()
                }
            }
        };
        let entries: Vec<Vec<u8>> = entries.split(|byte| *byte == 0).map(one).collect();
        entries.join(&0)
    }
}

fn strings(all: &[&str]) -> Vec<u8> {
    all.iter()
        .flat_map(|text| [text.as_bytes(), b"\0"].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_rivals::random;
    use pv_rivals::step::Link;

    fn scene(domid: u16, device: bool) -> Scene {
        Scene {
            domid: DomId(domid),
            device,
            others: vec![DomId(7)],
        }
    }

    /// Nothing that is not below the root is named by any request that acts on a path.
    #[test]
    fn no_step_leaves_its_corner() {
        for scene in [scene(0, false), scene(3, true)] {
            let root = scene.root();
            let relative = format!("{}/", scene.relative_root());
            for seed in 0..20 {
                let steps = scene.steps(random::history(seed, 2000));
                assert!(steps.len() > 1000, "{}", steps.len());
                for step in &steps {
                    let Step::Ask {
                        link,
                        kind,
                        payload,
                        ..
                    } = step
                    else {
                        continue;
                    };
                    assert!(matches!(link, Link::Socket(0..3)), "{step}");
                    assert!(scene.may(*kind, payload), "{step}");
                    let path = payload.split(|byte| *byte == 0).next().unwrap();
                    let known = Kind::from_number(*kind);
                    let is_about_a_path = !matches!(
                        known,
                        Some(Kind::TransactionStart | Kind::TransactionEnd | Kind::GetDomainPath)
                    );
                    let is_below = path.starts_with(format!("{root}/").as_bytes())
                        || path.starts_with(relative.as_bytes())
                        || path.starts_with(b"@")
                        || path.is_empty();
                    assert!(is_below || !is_about_a_path, "{step}");
                    assert!(!scene.device || payload.len() <= DEVICE_PAYLOAD_MAX);
                }
            }
        }
    }

    #[test]
    fn permissions_are_for_domains_that_there_are() {
        let scene = scene(3, true);
        let mapped = scene.payload(
            Kind::SetPerms as u32,
            b"/a/b\0n1\0r2\0b3\0r0\0r32752\0x1\0b 1\0n0x2\0r1x\0n03\0".to_vec(),
        );
        let expected =
            b"/local/domain/3/data/pv-history/a/b\0n3\0r7\0b3\0r0\0r32752\0x3\0b 0\0n0x0\0r0x\0n3\0"
                .to_vec();
        assert_eq!(mapped, expected, "{}", mapped.escape_ascii());
        let mapped = scene.payload(Kind::Read as u32, b"a/b".to_vec());
        assert_eq!(mapped, b"data/pv-history/a/b");
    }
}
