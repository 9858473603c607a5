//! Errors as they travel: by name.

use rustix::io::Errno;

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

/// Names outside the table that a daemon may send all the same. oxenstored says EQUOTA where
/// xenstored says ENOSPC; the others are Linux's, for whatever a daemon passes on.
const OTHERS: &[(Errno, &str)] = &[
    (Errno::DQUOT, "EQUOTA"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::NOTSUP, "ENOTSUP"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::SRCH, "ESRCH"),
    (Errno::INTR, "EINTR"),
    (Errno::NXIO, "ENXIO"),
    (Errno::BADF, "EBADF"),
    (Errno::FAULT, "EFAULT"),
    (Errno::XDEV, "EXDEV"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::NFILE, "ENFILE"),
    (Errno::MFILE, "EMFILE"),
    (Errno::FBIG, "EFBIG"),
    (Errno::PIPE, "EPIPE"),
    (Errno::DOM, "EDOM"),
    (Errno::RANGE, "ERANGE"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG"),
    (Errno::LOOP, "ELOOP"),
    (Errno::NODATA, "ENODATA"),
    (Errno::PROTO, "EPROTO"),
    (Errno::BADMSG, "EBADMSG"),
    (Errno::OVERFLOW, "EOVERFLOW"),
    (Errno::ILSEQ, "EILSEQ"),
    (Errno::MSGSIZE, "EMSGSIZE"),
    (Errno::NOBUFS, "ENOBUFS"),
    (Errno::NOTCONN, "ENOTCONN"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
    (Errno::CONNREFUSED, "ECONNREFUSED"),
    (Errno::ALREADY, "EALREADY"),
    (Errno::STALE, "ESTALE"),
    (Errno::CANCELED, "ECANCELED"),
];

/// An errno's name on the wire; anything outside the table travels as `EIO`.
pub fn error_name(errno: Errno) -> &'static str {
    ERRORS
        .iter()
        .find(|(e, _)| *e == errno)
        .map_or("EIO", |(_, name)| name)
}

/// The errno behind a name from the wire. A name that is none is `EIO`, as in libxenstore.
pub fn error_from_name(name: &[u8]) -> Errno {
    named(name).0
}

/// The errno behind a name, and the name itself where it is none of [`ERRORS`]: a person should read
/// what the daemon said.
pub fn named(name: &[u8]) -> (Errno, Option<String>) {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let find = |table: &[(Errno, &str)]| {
        let found = table.iter().find(|(_, n)| n.as_bytes() == name);
        found.map(|(errno, _)| *errno)
    };
    match find(ERRORS) {
        Some(errno) => (errno, None),
        None => (
            find(OTHERS).unwrap_or(Errno::IO),
            Some(name.escape_ascii().to_string()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_keeps_its_text() {
        assert_eq!(named(b"ENOENT\0"), (Errno::NOENT, None));
        assert_eq!(named(b"ENOENT"), (Errno::NOENT, None));
        assert_eq!(named(b"EQUOTA\0"), (Errno::DQUOT, Some("EQUOTA".into())));
        let (errno, text) = named(b"no such \xff\0");
        assert_eq!((errno, text.as_deref()), (Errno::IO, Some("no such \\xff")));
        assert_eq!(named(b""), (Errno::IO, Some(String::new())));
    }
}
