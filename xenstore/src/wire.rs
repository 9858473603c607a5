//! The wire format (`xen/include/public/io/xs_wire.h`): a 16-byte header, then the payload.
//!
//! All words are in the machine's byte order: both ends are on one machine.

use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;

/// Bytes of `struct xsd_sockmsg`.
pub const HEADER_BYTES: usize = 16;
/// `XENSTORE_PAYLOAD_MAX`: no message, in either direction, carries more.
pub const PAYLOAD_MAX_BYTES: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`, bytes without the terminating NUL.
pub const ABSOLUTE_PATH_MAX_BYTES: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`, bytes without the terminating NUL.
pub const RELATIVE_PATH_MAX_BYTES: usize = 2048;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $c_name:literal,)*) => {
        /// `enum xsd_sockmsg_type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind there is, in the header's order.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The kind with this number. 20 (the removed `XS_RESTRICT`) and all above the last are `None`.
            pub fn from_number(number: u32) -> Option<Kind> {
                match number { $($number => Some(Kind::$name),)* _ => None }
            }

            /// Its name in the C header.
            pub fn c_name(self) -> &'static str {
                match self { $(Kind::$name => $c_name,)* }
            }
        }
    };
}

kinds! {
    /// A debugging command for the daemon.
    Control = 0 "XS_CONTROL",
    /// The names of a node's children.
    Directory = 1 "XS_DIRECTORY",
    /// A node's value.
    Read = 2 "XS_READ",
    /// A node's permissions.
    GetPerms = 3 "XS_GET_PERMS",
    /// Registers a watch.
    Watch = 4 "XS_WATCH",
    /// Removes a watch.
    Unwatch = 5 "XS_UNWATCH",
    /// Opens a transaction.
    TransactionStart = 6 "XS_TRANSACTION_START",
    /// Commits (`T`) or drops (`F`) a transaction.
    TransactionEnd = 7 "XS_TRANSACTION_END",
    /// The toolstack tells of a new domain.
    Introduce = 8 "XS_INTRODUCE",
    /// The toolstack tells that a domain is gone.
    Release = 9 "XS_RELEASE",
    /// A domain's home directory.
    GetDomainPath = 10 "XS_GET_DOMAIN_PATH",
    /// Sets a value, creating the node and its parents.
    Write = 11 "XS_WRITE",
    /// Creates a node and its parents.
    Mkdir = 12 "XS_MKDIR",
    /// Removes a node and all below it.
    Rm = 13 "XS_RM",
    /// Replaces a node's permissions.
    SetPerms = 14 "XS_SET_PERMS",
    /// From the daemon only: something under a watched path changed.
    WatchEvent = 15 "XS_WATCH_EVENT",
    /// From the daemon only: an errno's name.
    Error = 16 "XS_ERROR",
    /// Is a domain known?
    IsDomainIntroduced = 17 "XS_IS_DOMAIN_INTRODUCED",
    /// A domain resumed after a suspend.
    Resume = 18 "XS_RESUME",
    /// Gives a domain the rights of another one (a device-model stub domain).
    SetTarget = 19 "XS_SET_TARGET",
    /// Drops the caller's watches and transactions.
    ResetWatches = 21 "XS_RESET_WATCHES",
    /// A part of a directory too long for one message.
    DirectoryPart = 22 "XS_DIRECTORY_PART",
}

/// `xsd_errors`: the errors that travel, as their names.
pub const ERRORS: &[(Errno, &str)] = &[
    (Errno::INVAL, "EINVAL"),
    (Errno::ACCESS, "EACCES"),
    (Errno::EXIST, "EEXIST"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::NOENT, "ENOENT"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::IO, "EIO"),
    (Errno::NOTEMPTY, "ENOTEMPTY"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::ROFS, "EROFS"),
    (Errno::BUSY, "EBUSY"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::ISCONN, "EISCONN"),
    (Errno::TOOBIG, "E2BIG"),
    (Errno::PERM, "EPERM"),
];

/// An errno's name on the wire; anything outside the table travels as `EIO`.
pub fn error_name(errno: Errno) -> &'static str {
    ERRORS
        .iter()
        .find(|(e, _)| *e == errno)
        .map_or("EIO", |(_, name)| name)
}

/// The errno behind a name from the wire. A name outside the table is `EIO`, as in libxenstore.
pub fn error_from_name(name: &[u8]) -> Errno {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    ERRORS
        .iter()
        .find(|(_, n)| n.as_bytes() == name)
        .map_or(Errno::IO, |(e, _)| *e)
}

/// One message.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// A [`Kind`]'s number; a peer may send any.
    pub kind: u32,
    /// Comes back in the reply. Meaningless in a watch event: kernels leave it uninitialised.
    pub req_id: u32,
    /// The transaction, 0 for none. Meaningless in a watch event, likewise.
    pub tx_id: u32,
    /// At most [`PAYLOAD_MAX_BYTES`].
    pub payload: Vec<u8>,
}

impl Packet {
    /// A message of a known kind.
    pub fn new(kind: Kind, req_id: u32, tx_id: u32, payload: impl Into<Vec<u8>>) -> Packet {
        Packet {
            kind: kind as u32,
            req_id,
            tx_id,
            payload: payload.into(),
        }
    }

    /// What the daemon says when a watched path changed.
    pub fn watch_event(path: &[u8], token: &[u8]) -> Packet {
        let payload = [path, b"\0", token, b"\0"].concat();
        Packet::new(Kind::WatchEvent, 0, 0, payload)
    }

    /// The kind, if it is a known one.
    pub fn known_kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }

    /// Header and payload in one buffer: `/dev/xen/xenbus` wants them in one write.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.payload.len() <= PAYLOAD_MAX_BYTES);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        for word in [
            self.kind,
            self.req_id,
            self.tx_id,
            self.payload.len() as u32,
        ] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known_kind() {
            Some(kind) => f.write_str(kind.c_name())?,
            None => write!(f, "kind {}", self.kind)?,
        }
        write!(
            f,
            " req {} tx {} {:?}",
            self.req_id,
            self.tx_id,
            self.payload.escape_ascii().to_string()
        )
    }
}

/// Why a byte stream is no xenstore stream. Nothing after it can be trusted: cut the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The header announces more than [`PAYLOAD_MAX_BYTES`].
    #[error(
        "a message of kind {kind} announces {len} bytes; xenstore's limit is {PAYLOAD_MAX_BYTES}"
    )]
    PayloadTooLong {
        /// The header's type.
        kind: u32,
        /// The header's length.
        len: u32,
    },
}

/// Cuts a byte stream into messages. Bytes may come in any pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: VecDeque<u8>,
}

impl Decoder {
    /// An empty one.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// Bytes held of messages not taken yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`WireError`], again and again: the stream cannot be resynchronised.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, WireError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let word = |n: usize| {
            let byte = |i: usize| self.buffer.get(n * 4 + i).copied().unwrap_or(0);
            u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let (kind, req_id, tx_id, len) = (word(0), word(1), word(2), word(3));
        if len as usize > PAYLOAD_MAX_BYTES {
            return Err(WireError::PayloadTooLong { kind, len });
        }
        let end = HEADER_BYTES + len as usize;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let payload = self.buffer.drain(..end).skip(HEADER_BYTES).collect();
        Ok(Some(Packet {
            kind,
            req_id,
            tx_id,
            payload,
        }))
    }
}

/// Splits a payload into its NUL-terminated strings. `None` if the last one is not terminated.
pub fn strings(payload: &[u8]) -> Option<Vec<&[u8]>> {
    if payload.is_empty() {
        return Some(Vec::new());
    }
    let body = payload.strip_suffix(b"\0")?;
    Some(body.split(|b| *b == 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header itself is the oracle: numbers, sizes and error names as the C compiler sees them.
    #[test]
    fn agrees_with_xs_wire_h() {
        assert!(
            std::path::Path::new("/usr/include/xen/io/xs_wire.h").exists(),
            "xen/io/xs_wire.h is missing: install the Debian package libxen-dev"
        );
        let dir = tempfile::tempdir().unwrap();
        let mut source = String::from(
            "#include <errno.h>\n#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n\
             #include <xen/io/xs_wire.h>\nint main(void) {\n",
        );
        for kind in Kind::ALL {
            source += &format!("printf(\"{0} %d\\n\", {0});\n", kind.c_name());
        }
        source += "printf(\"types %d\\n\", XS_TYPE_COUNT);\n\
            printf(\"header %zu\\n\", sizeof(struct xsd_sockmsg));\n\
            printf(\"offsets %zu %zu %zu %zu\\n\", offsetof(struct xsd_sockmsg, type), \
              offsetof(struct xsd_sockmsg, req_id), offsetof(struct xsd_sockmsg, tx_id), \
              offsetof(struct xsd_sockmsg, len));\n\
            printf(\"payload %d\\nabs %d\\nrel %d\\n\", XENSTORE_PAYLOAD_MAX, \
              XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX);\n\
            for (unsigned i = 0; i < sizeof(xsd_errors) / sizeof(*xsd_errors); i++)\n\
              printf(\"error %d %s\\n\", xsd_errors[i].errnum, xsd_errors[i].errstring);\n\
            return 0; }\n";
        std::fs::write(dir.path().join("wire.c"), source).unwrap();
        let compiled = std::process::Command::new("cc")
            .args(["-o", "wire", "wire.c"])
            .current_dir(dir.path())
            .output()
            .expect("cc runs: install the Debian package gcc");
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let run = std::process::Command::new(dir.path().join("wire"))
            .output()
            .unwrap();
        let mut expected = String::new();
        for kind in Kind::ALL {
            expected += &format!("{} {}\n", kind.c_name(), *kind as u32);
        }
        let types = Kind::ALL.iter().map(|k| *k as u32).max().unwrap() + 1;
        expected += &format!("types {types}\nheader {HEADER_BYTES}\noffsets 0 4 8 12\n");
        expected += &format!(
            "payload {PAYLOAD_MAX_BYTES}\nabs {ABSOLUTE_PATH_MAX_BYTES}\nrel {RELATIVE_PATH_MAX_BYTES}\n"
        );
        for (errno, name) in ERRORS {
            expected += &format!("error {} {name}\n", errno.raw_os_error());
        }
        assert_eq!(String::from_utf8_lossy(&run.stdout), expected);
    }

    #[test]
    fn an_announced_length_over_the_limit_is_an_error_before_the_payload_comes() {
        let mut decoder = Decoder::new();
        for word in [2u32, 1, 0, 4097] {
            decoder.push(&word.to_ne_bytes());
        }
        let error = WireError::PayloadTooLong { kind: 2, len: 4097 };
        assert_eq!(decoder.next_packet(), Err(error));
        assert_eq!(decoder.next_packet(), Err(error), "and it stays an error");
    }

    #[test]
    fn strings_need_their_terminator() {
        assert_eq!(strings(b""), Some(vec![]));
        assert_eq!(strings(b"a\0"), Some(vec![&b"a"[..]]));
        assert_eq!(strings(b"a\0b\0"), Some(vec![&b"a"[..], b"b"]));
        assert_eq!(strings(b"\0"), Some(vec![&b""[..]]));
        assert_eq!(strings(b"a\0b"), None);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_packets(
            packets in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(),
                prop::collection::vec(any::<u8>(), 0..200)), 0..8),
            cuts in prop::collection::vec(1usize..64, 1..32),
        ) {
            let packets: Vec<_> = packets.into_iter()
                .map(|(kind, req_id, tx_id, payload)| Packet { kind, req_id, tx_id, payload })
                .collect();
            let stream: Vec<u8> = packets.iter().flat_map(Packet::encode).collect();
            let (mut decoder, mut got, mut rest) = (Decoder::new(), Vec::new(), &stream[..]);
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let (head, tail) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                decoder.push(head);
                while let Some(packet) = decoder.next_packet().unwrap() {
                    got.push(packet);
                }
                rest = tail;
            }
            prop_assert_eq!(got, packets);
            prop_assert_eq!(decoder.buffered(), 0);
        }
    }
}
