//! The arguments of a request, and the answer's payload.

use crate::wire::{PAYLOAD_MAX_BYTES, strings};
use libgnt::DomId;
use rustix::io::Errno;

/// The payload of the answer, or the error that is the answer.
pub(super) type Answer = Result<Vec<u8>, Errno>;

pub(super) fn nul_terminated(text: impl AsRef<[u8]>) -> Vec<u8> {
    [text.as_ref(), b"\0"].concat()
}

/// EINVAL for whatever does not parse: the wire has no finer word.
pub(super) fn invalid<E>(_: E) -> Errno {
    Errno::INVAL
}

pub(super) fn ok() -> Answer {
    Ok(b"OK\0".to_vec())
}

pub(super) fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn two(payload: &[u8]) -> Result<[&[u8]; 2], Errno> {
    let args = strings(payload).ok_or(Errno::INVAL)?;
    args.try_into().map_err(invalid)
}

pub(super) fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, Errno> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(Errno::INVAL);
    }
    std::str::from_utf8(bytes)
        .map_err(invalid)?
        .parse()
        .map_err(invalid)
}

pub(super) fn number_as_domid(bytes: &[u8]) -> Result<DomId, Errno> {
    let domid = DomId(number(bytes)?);
    if domid < DomId::FIRST_RESERVED {
        Ok(domid)
    } else {
        Err(Errno::INVAL)
    }
}

/// As many whole names from `offset` as fit, after the generation; the last part ends with an
/// empty name. A client that sees the generation change between parts starts again.
pub(super) fn directory_part(generation: u64, names: &[u8], offset: usize) -> Vec<u8> {
    let mut part = nul_terminated(generation.to_string());
    let rest = names.get(offset..).unwrap_or(b"");
    let room = PAYLOAD_MAX_BYTES - part.len() - 1;
    let taken = if rest.len() <= room {
        rest.len()
    } else {
        rest[..room]
            .iter()
            .rposition(|b| *b == 0)
            .map_or(0, |nul| nul + 1)
    };
    part.extend_from_slice(&rest[..taken]);
    if taken == rest.len() {
        part.push(0);
    }
    part
}
