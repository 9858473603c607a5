//! A domain's end of its ring page (`struct xenstore_domain_interface`, `io/xs_wire.h`).

use libgnt::SharedPages;
use std::sync::atomic::Ordering;

/// `XENSTORE_RING_SIZE`
const RING_BYTES: usize = 1024;
/// Where the parts of the structure are.
const REQUESTS: usize = 0;
const ANSWERS: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
/// Where the page's words end: features, the connection's state, an error.
const END: usize = 2076;

/// Puts what fits of these bytes among the requests; says how many.
pub fn put(page: &SharedPages, bytes: &[u8]) -> usize {
    let produced = page.load_u32(REQ_PROD, Ordering::Relaxed);
    // Pairs with the daemon's barrier before it gives room back.
    let consumed = page.load_u32(REQ_CONS, Ordering::Acquire);
    let room = RING_BYTES.saturating_sub(produced.wrapping_sub(consumed) as usize);
    let taken = bytes.len().min(room);
    let mut at = produced as usize % RING_BYTES;
    for part in split(&bytes[..taken], at) {
        page.write(REQUESTS + at, part);
        at = 0;
    }
    // Pairs with the daemon's barrier after it has read the index.
    page.store_u32(
        REQ_PROD,
        produced.wrapping_add(taken as u32),
        Ordering::Release,
    );
    taken
}

/// Takes all bytes that are among the answers.
pub fn take(page: &SharedPages) -> Vec<u8> {
    let consumed = page.load_u32(RSP_CONS, Ordering::Relaxed);
    // Pairs with the daemon's barrier before it shows the index.
    let produced = page.load_u32(RSP_PROD, Ordering::Acquire);
    let len = (produced.wrapping_sub(consumed) as usize).min(RING_BYTES);
    let at = consumed as usize % RING_BYTES;
    let mut bytes = vec![0; len];
    let first = len.min(RING_BYTES - at);
    page.read(ANSWERS + at, &mut bytes[..first]);
    page.read(ANSWERS, &mut bytes[first..]);
    // Pairs with the daemon's barrier before it writes where these were.
    page.store_u32(
        RSP_CONS,
        consumed.wrapping_add(len as u32),
        Ordering::Release,
    );
    bytes
}

/// As a domain builder leaves it.
pub fn reset(page: &SharedPages) {
    page.fill(0, END, 0);
}

/// The bytes up to the ring's end, and those after it.
fn split(bytes: &[u8], at: usize) -> [&[u8]; 2] {
    let (first, second) = bytes.split_at(bytes.len().min(RING_BYTES - at));
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the daemon does: moves all that was asked into the answers.
    fn echo(page: &SharedPages) {
        let (from, to) = (
            page.load_u32(REQ_CONS, Ordering::Relaxed),
            page.load_u32(REQ_PROD, Ordering::Relaxed),
        );
        let mut produced = page.load_u32(RSP_PROD, Ordering::Relaxed);
        for n in 0..to.wrapping_sub(from) {
            let byte = page.load_u8(
                from.wrapping_add(n) as usize % RING_BYTES,
                Ordering::Relaxed,
            );
            page.store_u8(
                ANSWERS + produced as usize % RING_BYTES,
                byte,
                Ordering::Relaxed,
            );
            produced = produced.wrapping_add(1);
        }
        page.store_u32(REQ_CONS, to, Ordering::Relaxed);
        page.store_u32(RSP_PROD, produced, Ordering::Relaxed);
    }

    #[test]
    fn bytes_pass_in_order_around_the_end_and_none_over_the_limit() {
        let page = SharedPages::anonymous(1).unwrap();
        for at in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            page.store_u32(at, u32::MAX - 10, Ordering::Relaxed);
        }
        let bytes: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < bytes.len() {
            sent += put(&page, &bytes[sent..]);
            if sent == RING_BYTES {
                assert_eq!(put(&page, b"x"), 0, "full");
            }
            echo(&page);
            got.extend(take(&page));
        }
        assert_eq!(got, bytes);
        assert!(take(&page).is_empty());
    }
}
