//! Paths: what xenstore takes for one, and how a relative one becomes absolute.

use crate::wire::{ABSOLUTE_PATH_MAX_BYTES, RELATIVE_PATH_MAX_BYTES};
use libgnt::DomId;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Fired when a domain is introduced.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// Fired when a domain is gone.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// Fired when this one domain is gone (`@releaseDomain/<domid>`). Since Xen 4.22, from the
/// documentation; older daemons take the watch, and never fire it again.
pub fn release_of(domid: DomId) -> String {
    format!("{RELEASE_DOMAIN}/{}", domid.0)
}

/// A domain's home directory, where its relative paths start.
pub fn home(domid: DomId) -> String {
    format!("/local/domain/{}", domid.0)
}

/// How long a leading home directory is, any domain's, with its slash: xenstored does not count
/// it (`is_valid_nodename`, `tools/xenstore/xenstored_core.c`).
fn some_home_bytes(path: &[u8]) -> usize {
    const START: &[u8] = b"/local/domain/";
    let number = path.strip_prefix(START).unwrap_or_default();
    match number.iter().position(|b| !b.is_ascii_digit()) {
        Some(digits @ 1..=5) if number[digits] == b'/' => START.len() + digits + 1,
        _ => 0,
    }
}

/// The directory that a path's node is in. `None` for the root. Special paths are below the root,
/// and below each other: that is whom xenstored asks about them (`get_parent`).
pub(crate) fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/') {
        _ if path == "/" => None,
        Some(0) | None => Some("/"),
        Some(n) => Some(&path[..n]),
    }
}

/// A path, its parent, and so on to the root.
#[cfg(feature = "server")]
pub(crate) fn upwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| parent_of(path))
}

/// The names from the root down. Empty for the root.
pub(crate) fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// The last name; empty for the root.
pub(crate) fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or("")
}

/// Which bytes may stand in a path.
const IN_PATHS: [bool; 256] = {
    let mut may = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        may[byte] = it.is_ascii_alphanumeric() || matches!(it, b'-' | b'/' | b'_' | b'@');
        byte += 1;
    }
    may
};

/// Why bytes are no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing there.
    #[error("an empty path")]
    Empty,
    /// `XENSTORE_REL_PATH_MAX`, also for an absolute path, from which a home directory's part is
    /// not counted; 4.14 has `XENSTORE_ABS_PATH_MAX` for all of it.
    #[error("{len} bytes; the limit is {limit}")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Letters, digits and `-/_@` only.
    #[error("byte {0:#04x}; only letters, digits and -/_@ may stand in a path")]
    BadByte(u8),
    /// `//`, or a `/` at the end.
    #[error("an empty component")]
    EmptyComponent,
    /// An `@` path where a node is wanted.
    #[error("a special watch, not a node")]
    Special,
}

/// What is counted of a path, and how many bytes that may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The path as it is given, but for a home directory.
    BelowHome {
        /// Of a node's.
        nodes: usize,
        /// Of a special watch's, which has no home.
        special: usize,
    },
    /// The path from the root on: xenstored until 4.14.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the server's"))]
    FromRoot,
}

impl Limit {
    /// The same for both.
    pub(crate) fn below_home(bytes: usize) -> Limit {
        Limit::BelowHome {
            nodes: bytes,
            special: bytes,
        }
    }

    /// What is counted of these bytes, and how many there may be.
    fn of(self, bytes: &[u8], domid: DomId) -> (usize, usize) {
        match (self, bytes.first()) {
            (Limit::BelowHome { special, .. }, Some(b'@')) => (bytes.len(), special),
            (Limit::BelowHome { nodes, .. }, _) => (bytes.len(), nodes + some_home_bytes(bytes)),
            (Limit::FromRoot, Some(b'@')) => (bytes.len(), RELATIVE_PATH_MAX_BYTES),
            (Limit::FromRoot, Some(b'/')) => (bytes.len(), ABSOLUTE_PATH_MAX_BYTES),
            (Limit::FromRoot, _) => {
                let whole = home(domid).len() + 1 + bytes.len();
                (whole, ABSOLUTE_PATH_MAX_BYTES)
            }
        }
    }
}

/// A valid absolute path of a node (`/…`) or a special watch (`@…`). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

impl Path {
    /// The tree's root.
    pub fn root() -> Path {
        Path("/".into())
    }

    /// Takes a path from a client of `domid`; one that does not start with `/` or `@` is relative
    /// to the domain's [`home`]. The boolean says that it was.
    ///
    /// # Errors
    /// [`PathError`], never [`PathError::Special`].
    pub fn parse(bytes: &[u8], domid: DomId) -> Result<(Path, bool), PathError> {
        Path::parse_within(bytes, domid, Limit::below_home(RELATIVE_PATH_MAX_BYTES))
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// [`PathError`], never [`PathError::Special`].
    pub(crate) fn parse_within(
        bytes: &[u8],
        domid: DomId,
        limit: Limit,
    ) -> Result<(Path, bool), PathError> {
        let relative = !matches!(bytes.first(), Some(b'/' | b'@'));
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        let (len, limit) = limit.of(bytes, domid);
        if len > limit {
            return Err(PathError::TooLong { len, limit });
        }
        if let Some(bad) = bytes.iter().find(|byte| !IN_PATHS[usize::from(**byte)]) {
            return Err(PathError::BadByte(*bad));
        }
        if bytes != b"/" && (bytes.ends_with(b"/") || bytes.windows(2).any(|w| w == b"//")) {
            return Err(PathError::EmptyComponent);
        }
        // All bytes are ASCII by now.
        let text = String::from_utf8_lossy(bytes);
        let full: Arc<str> = match relative {
            true => format!("{}/{text}", home(domid)).into(),
            false => (*text).into(),
        };
        Ok((Path(full), relative))
    }

    /// As [`Path::parse`], for requests on nodes.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse_node(bytes: &[u8], domid: DomId) -> Result<Path, PathError> {
        Path::parse_node_within(bytes, domid, Limit::below_home(RELATIVE_PATH_MAX_BYTES))
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// [`PathError`].
    pub(crate) fn parse_node_within(
        bytes: &[u8],
        domid: DomId,
        limit: Limit,
    ) -> Result<Path, PathError> {
        match Path::parse_within(bytes, domid, limit)? {
            (path, _) if path.is_special() => Err(PathError::Special),
            (path, _) => Ok(path),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it `@introduceDomain`, `@releaseDomain` or the like?
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// Is it `/`?
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The names from the root down. Empty for the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        names(&self.0)
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &str {
        last_name(&self.0)
    }

    /// The directory it is in. `None` for the root and special watches.
    pub fn parent(&self) -> Option<Path> {
        if self.is_root() || self.is_special() {
            return None;
        }
        parent_of(&self.0).map(|parent| Path(parent.into()))
    }

    /// Itself, its parent, and so on to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Path> {
        std::iter::successors(Some(self.clone()), Path::parent)
    }

    /// The path as the client wrote it when it is below its home, for relative watches.
    pub fn relative_to(&self, domid: DomId) -> &str {
        let home = home(domid);
        match self
            .0
            .strip_prefix(home.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
        {
            Some(rest) => rest,
            None => &self.0,
        }
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, bool), PathError> {
        Path::parse(text.as_bytes(), DomId(7))
            .map(|(p, relative)| (p.as_str().to_owned(), relative))
    }

    #[test]
    fn what_is_a_path() {
        assert_eq!(parse("/"), Ok(("/".into(), false)));
        assert_eq!(parse("/a/b-c_d@0"), Ok(("/a/b-c_d@0".into(), false)));
        assert_eq!(
            parse("device/vbd"),
            Ok(("/local/domain/7/device/vbd".into(), true))
        );
        assert_eq!(
            parse("@releaseDomain"),
            Ok(("@releaseDomain".into(), false))
        );
        assert_eq!(parse(""), Err(PathError::Empty));
        assert_eq!(parse("/a/"), Err(PathError::EmptyComponent));
        assert_eq!(parse("a//b"), Err(PathError::EmptyComponent));
        assert_eq!(parse("//"), Err(PathError::EmptyComponent));
        assert_eq!(parse("/a.b"), Err(PathError::BadByte(b'.')));
        assert_eq!(parse("/a\u{e9}"), Err(PathError::BadByte(0xc3)));
    }

    #[test]
    fn limits_are_those_of_xenstored() {
        let long = |start: &str, n: usize| parse(&format!("{start}{}", "a".repeat(n))).is_ok();
        for (start, counted) in [
            ("", 0),
            ("/", 1),
            ("@", 1),
            ("/local/domain/7/", 0),
            ("/local/domain/65535/", 0),
            ("/local/domain/655350/", 21),
            ("/local/domain/7", 15),
            ("/local/domain/x/", 16),
        ] {
            assert!(long(start, 2048 - counted), "{start}");
            assert!(!long(start, 2049 - counted), "{start}");
        }
    }

    #[test]
    fn upwards_and_relative() {
        let (path, _) = Path::parse(b"device/vbd", DomId(7)).unwrap();
        let up: Vec<_> = path.ancestors().map(|p| p.to_string()).collect();
        let home = "/local/domain/7";
        assert_eq!(
            up,
            [
                &format!("{home}/device/vbd"),
                &format!("{home}/device"),
                home,
                "/local/domain",
                "/local",
                "/"
            ]
        );
        assert_eq!(path.relative_to(DomId(7)), "device/vbd");
        assert_eq!(path.relative_to(DomId(1)), "/local/domain/7/device/vbd");
        assert_eq!(
            Path::parse(b"/local/domain/70/x", DomId(7))
                .unwrap()
                .0
                .relative_to(DomId(7)),
            "/local/domain/70/x"
        );
    }
}
