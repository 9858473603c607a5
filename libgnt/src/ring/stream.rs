//! A byte-stream ring in both directions, in the shared page of libxenvchan
//! (`struct vchan_interface` in `xen/include/public/io/libxenvchan.h`).
//!
//! The server offers a control page and two buffers of a power of two: *left* carries bytes from
//! client to server, *right* from server to client. As with [`super::FrontRing`] there is no I/O
//! here, indices and sizes are private, and what the peer says is checked at every look.
//!
//! ```text
//!  0 left.cons    written by the server       16 left_order, 18 right_order (u16)
//!  4 left.prod    written by the client       20 cli_live, 21 srv_live
//!  8 right.cons   written by the client       22 cli_notify, 23 srv_notify
//! 12 right.prod   written by the server       24 grants of the left buffer, then of the right
//! 1024 a buffer of order 10                   2048 a buffer of order 11
//! ```

use super::RingError;
use super::memory::RingMemory;
use crate::shm::SharedPages;
use crate::types::{GrantRef, PAGE_SIZE};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Offset of the byte that is 1 while the client is connected. Have it cleared by an unmap
/// notification of the client's mapping, and a client's death is seen.
pub const CLIENT_LIVE: usize = 20;
/// Offset of the byte that is 1 while the server is there.
pub const SERVER_LIVE: usize = 21;
/// The client is to send an event when it did what these bits say.
const CLIENT_NOTIFY: usize = 22;
/// The same for the server.
const SERVER_NOTIFY: usize = 23;
const LEFT_ORDER: usize = 16;
const RIGHT_ORDER: usize = 18;
const GRANTS: usize = 24;
/// Wants to know of bytes written.
const NOTIFY_WRITE: u8 = 1;
/// Wants to know of bytes read.
const NOTIFY_READ: u8 = 2;
/// Buffers of these orders are in the control page, at their own size.
const SMALL_ORDERS: std::ops::RangeInclusive<u16> = 10..=11;
/// The largest order that libxenvchan takes: 1 MiB.
const MAX_ORDER: u16 = 20;
const PAGE_ORDER: u16 = PAGE_SIZE.ilog2() as u16;

/// One direction's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer<M> {
    /// 1 KiB in the control page. Not for both directions.
    Small,
    /// 2 KiB in the control page. Not for both directions.
    Medium,
    /// Whole pages of its own: a power of two, up to 1 MiB.
    Pages(M),
}

/// What a server offers in its control page: sizes, and the grants to map for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    left_order: u16,
    right_order: u16,
    /// Pages of the buffer from client to server; none if it is in the control page.
    pub left: Vec<GrantRef>,
    /// Pages of the buffer from server to client; none if it is in the control page.
    pub right: Vec<GrantRef>,
}

impl Offer {
    /// Reads and checks the offer in a control page, once.
    ///
    /// # Errors
    /// [`RingError::BadOffer`] if no buffers can have these orders.
    pub fn read<M: RingMemory>(control: &M) -> Result<Self, RingError> {
        let mut orders = [0; 4];
        control.read(LEFT_ORDER, &mut orders);
        let [a, b, c, d] = orders;
        let (left_order, right_order) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let grants = check_orders(left_order, right_order)?;
        let mut bytes = vec![0; grants * 4];
        control.read(GRANTS, &mut bytes);
        let mut left: Vec<GrantRef> = bytes
            .chunks_exact(4)
            .map(|gref| GrantRef(u32::from_le_bytes([gref[0], gref[1], gref[2], gref[3]])))
            .collect();
        let right = left.split_off(pages_of(left_order));
        Ok(Offer {
            left_order,
            right_order,
            left,
            right,
        })
    }
}

/// Checks a pair of orders, and counts the grants they need.
fn check_orders(left_order: u16, right_order: u16) -> Result<usize, RingError> {
    let bad = RingError::BadOffer {
        left_order,
        right_order,
    };
    let possible =
        |order| SMALL_ORDERS.contains(&order) || (PAGE_ORDER..=MAX_ORDER).contains(&order);
    let clash = left_order == right_order && SMALL_ORDERS.contains(&left_order);
    if !possible(left_order) || !possible(right_order) || clash {
        return Err(bad);
    }
    let grants = pages_of(left_order) + pages_of(right_order);
    // The list must end before the first buffer in the control page.
    let end = [left_order, right_order, PAGE_ORDER]
        .into_iter()
        .min()
        .unwrap_or(PAGE_ORDER);
    if GRANTS + grants * 4 > 1 << end {
        Err(bad)
    } else {
        Ok(grants)
    }
}

/// Pages of its own that a buffer has.
fn pages_of(order: u16) -> usize {
    if order < PAGE_ORDER {
        0
    } else {
        1 << (order - PAGE_ORDER)
    }
}

/// What a call moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the peer may sleep until it is notified"]
pub struct Moved {
    /// Bytes; 0 if there were none, or no room.
    pub bytes: usize,
    /// Send the event: the peer waits for this.
    pub notify: bool,
}

/// Whether the other side is there, as its live byte says. After [`Peer::Gone`] what it wrote can
/// still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client that has not come yet.
    Awaited,
    /// There.
    Connected,
    /// It closed, or died.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// One direction: our index and the peer's.
struct Half<M> {
    /// `None`: in the control page.
    pages: Option<M>,
    base: usize,
    size: u32,
    ours_at: usize,
    peers_at: usize,
    /// Producer of what we write, consumer of what we read. Private.
    ours: u32,
}

impl<M: RingMemory> Half<M> {
    fn memory<'a>(&'a self, control: &'a M) -> &'a M {
        self.pages.as_ref().unwrap_or(control)
    }

    /// The two runs of buffer that `len` bytes from our index cover.
    fn runs(&self, len: usize) -> [(usize, usize); 2] {
        let at = (self.ours & (self.size - 1)) as usize;
        let first = len.min(self.size as usize - at);
        [(self.base + at, first), (self.base, len - first)]
    }
}

/// One end of a stream.
pub struct Stream<M: RingMemory = Arc<SharedPages>> {
    control: M,
    side: Side,
    incoming: Half<M>,
    outgoing: Half<M>,
    fatal: Option<RingError>,
}

impl<M: RingMemory> Stream<M> {
    /// Makes the offer in a zeroed control page. `grants` names the pages of the buffers that
    /// have their own, left before right.
    ///
    /// # Errors
    /// [`RingError::BadOffer`] if the buffers have impossible sizes, or both want the same part
    /// of the control page.
    ///
    /// # Panics
    /// If `grants` is not one for each page.
    pub fn server(
        control: M,
        left: Buffer<M>,
        right: Buffer<M>,
        grants: &[GrantRef],
    ) -> Result<Self, RingError> {
        Self::server_at(control, left, right, grants, 0)
    }

    fn server_at(
        control: M,
        left: Buffer<M>,
        right: Buffer<M>,
        grants: &[GrantRef],
        start: u32,
    ) -> Result<Self, RingError> {
        let ((left_order, left), (right_order, right)) = (order_of(left), order_of(right));
        let needed = check_orders(left_order, right_order)?;
        assert_eq!(
            grants.len(),
            needed,
            "one grant for each page of the buffers"
        );
        for index_at in [0, 4, 8, 12] {
            control.store(index_at, start);
        }
        control.write(LEFT_ORDER, &left_order.to_le_bytes());
        control.write(RIGHT_ORDER, &right_order.to_le_bytes());
        for (n, gref) in grants.iter().enumerate() {
            control.write(GRANTS + n * 4, &gref.0.to_le_bytes());
        }
        control.store_u8(CLIENT_LIVE, 2);
        control.store_u8(SERVER_LIVE, 1);
        // Both want to hear of the first bytes.
        control.store_u8(CLIENT_NOTIFY, NOTIFY_WRITE);
        control.store_u8(SERVER_NOTIFY, NOTIFY_WRITE);
        Ok(Self::new(
            control,
            Side::Server,
            (left_order, left),
            (right_order, right),
        ))
    }

    /// Connects to an offer that was read from this control page; the buffers that have grants in
    /// it are mapped by the caller. Goes on where an earlier client left off. Notify the server.
    ///
    /// # Errors
    /// [`RingError::BadOffer`] if the pages are not those of the offer.
    pub fn client(
        control: M,
        offer: &Offer,
        left: Option<M>,
        right: Option<M>,
    ) -> Result<Self, RingError> {
        let fits = |order: u16, pages: &Option<M>| match pages {
            Some(pages) => order >= PAGE_ORDER && pages.size() == 1 << order,
            None => order < PAGE_ORDER,
        };
        let (left_order, right_order) = (offer.left_order, offer.right_order);
        if !fits(left_order, &left) || !fits(right_order, &right) {
            return Err(RingError::BadOffer {
                left_order,
                right_order,
            });
        }
        let stream = Self::new(
            control,
            Side::Client,
            (left_order, left),
            (right_order, right),
        );
        stream.control.set_bits(SERVER_NOTIFY, NOTIFY_WRITE);
        stream.control.store_u8(CLIENT_LIVE, 1);
        Ok(stream)
    }

    fn new(control: M, side: Side, left: (u16, Option<M>), right: (u16, Option<M>)) -> Self {
        let half = |(order, pages): (u16, Option<M>), ours_at, peers_at| Half {
            base: if pages.is_some() { 0 } else { 1 << order },
            pages,
            size: 1 << order,
            ours_at,
            peers_at,
            ours: control.load(ours_at),
        };
        let (incoming, outgoing) = match side {
            Side::Server => (half(left, 0, 4), half(right, 12, 8)),
            Side::Client => (half(right, 8, 12), half(left, 4, 0)),
        };
        Stream {
            control,
            side,
            incoming,
            outgoing,
            fatal: None,
        }
    }

    /// Bytes that can be read.
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`] if the peer claims more than the buffer holds; final.
    pub fn readable(&mut self) -> Result<usize, RingError> {
        self.alive()?;
        let half = &self.incoming;
        let claimed = self.control.load(half.peers_at);
        // Partner: the release fence in `write`. Bytes before index.
        self.control.fence(Ordering::Acquire);
        let ahead = claimed.wrapping_sub(half.ours);
        if ahead > half.size {
            return Err(self.out_of_range("prod", claimed, ahead, self.incoming.size));
        }
        Ok(ahead as usize)
    }

    /// Bytes that can be written.
    ///
    /// # Errors
    /// [`RingError::IndexOutOfRange`] if the peer claims to have read what was not written, or
    /// to have unread; final.
    pub fn writable(&mut self) -> Result<usize, RingError> {
        self.alive()?;
        let half = &self.outgoing;
        let claimed = self.control.load(half.peers_at);
        // Partner: the release fence in `read`. What we overwrite has been read.
        self.control.fence(Ordering::Acquire);
        let unread = half.ours.wrapping_sub(claimed);
        if unread > half.size {
            return Err(self.out_of_range("cons", claimed, unread, self.outgoing.size));
        }
        Ok((half.size - unread) as usize)
    }

    /// Reads what is there, up to the length of `into`.
    ///
    /// # Errors
    /// As [`Stream::readable`].
    pub fn read(&mut self, into: &mut [u8]) -> Result<Moved, RingError> {
        let bytes = self.readable()?.min(into.len());
        if bytes == 0 {
            return Ok(Moved::default());
        }
        let [(at, first), (rest_at, rest)] = self.incoming.runs(bytes);
        let memory = self.incoming.memory(&self.control);
        memory.read(at, &mut into[..first]);
        if rest > 0 {
            memory.read(rest_at, &mut into[first..bytes]);
        }
        // Partner: the acquire fence in `writable`. Copied before it is free.
        self.control.fence(Ordering::Release);
        self.incoming.ours = self.incoming.ours.wrapping_add(bytes as u32);
        self.control
            .store(self.incoming.ours_at, self.incoming.ours);
        Ok(Moved {
            bytes,
            notify: self.wanted(NOTIFY_READ),
        })
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// As [`Stream::writable`].
    pub fn write(&mut self, from: &[u8]) -> Result<Moved, RingError> {
        let bytes = self.writable()?.min(from.len());
        if bytes == 0 {
            return Ok(Moved::default());
        }
        let [(at, first), (rest_at, rest)] = self.outgoing.runs(bytes);
        let memory = self.outgoing.memory(&self.control);
        memory.write(at, &from[..first]);
        if rest > 0 {
            memory.write(rest_at, &from[first..bytes]);
        }
        // Partner: the acquire fence in `readable`. Bytes before index.
        self.control.fence(Ordering::Release);
        self.outgoing.ours = self.outgoing.ours.wrapping_add(bytes as u32);
        self.control
            .store(self.outgoing.ours_at, self.outgoing.ours);
        Ok(Moved {
            bytes,
            notify: self.wanted(NOTIFY_WRITE),
        })
    }

    /// Before sleeping until there is something to read: asks for an event, then looks once more.
    /// True: there is, do not sleep.
    ///
    /// # Errors
    /// As [`Stream::readable`].
    pub fn arm_readable(&mut self) -> Result<bool, RingError> {
        if self.readable()? > 0 {
            return Ok(true);
        }
        self.ask(NOTIFY_WRITE);
        Ok(self.readable()? > 0)
    }

    /// Before sleeping until there is room to write: asks for an event, then looks once more.
    /// True: there is, do not sleep.
    ///
    /// # Errors
    /// As [`Stream::writable`].
    pub fn arm_writable(&mut self) -> Result<bool, RingError> {
        if self.writable()? > 0 {
            return Ok(true);
        }
        self.ask(NOTIFY_READ);
        Ok(self.writable()? > 0)
    }

    /// Whether the other side is there.
    pub fn peer(&self) -> Peer {
        let at = if self.side == Side::Server {
            CLIENT_LIVE
        } else {
            SERVER_LIVE
        };
        match (self.control.load_u8(at), self.side) {
            (1, _) => Peer::Connected,
            (2, Side::Server) => Peer::Awaited,
            _ => Peer::Gone,
        }
    }

    /// Tells the other side that this one goes. Send the event afterwards.
    pub fn close(self) {
        // Partner: whatever order `peer` and `readable` are called in, bytes come before the end.
        self.control.fence(Ordering::Release);
        let at = if self.side == Side::Server {
            SERVER_LIVE
        } else {
            CLIENT_LIVE
        };
        self.control.store_u8(at, 0);
    }

    /// Asks the peer for an event.
    fn ask(&self, bits: u8) {
        // The peer's own byte: it takes the bits when it sends.
        let at = if self.side == Side::Server {
            CLIENT_NOTIFY
        } else {
            SERVER_NOTIFY
        };
        self.control.set_bits(at, bits);
        // Partner: the fence in `wanted`. Our wish before their index.
        self.control.fence(Ordering::SeqCst);
    }

    /// Whether the peer asked for an event; the wish is taken.
    fn wanted(&self, bit: u8) -> bool {
        let at = if self.side == Side::Server {
            SERVER_NOTIFY
        } else {
            CLIENT_NOTIFY
        };
        // Partner: the fence in `ask`. Our index before their wish.
        self.control.fence(Ordering::SeqCst);
        self.control.load_u8(at) & bit != 0 && self.control.take_bits(at, bit) & bit != 0
    }

    fn alive(&self) -> Result<(), RingError> {
        self.fatal.map_or(Ok(()), Err)
    }

    #[cold]
    fn out_of_range(
        &mut self,
        index: &'static str,
        claimed: u32,
        ahead: u32,
        size: u32,
    ) -> RingError {
        let ours = if index == "prod" {
            self.incoming.ours
        } else {
            self.outgoing.ours
        };
        let error = RingError::IndexOutOfRange {
            index,
            claimed,
            ours,
            ahead,
            allowed: size,
            size,
        };
        *self.fatal.insert(error)
    }
}

fn order_of<M: RingMemory>(buffer: Buffer<M>) -> (u16, Option<M>) {
    match buffer {
        Buffer::Small => (10, None),
        Buffer::Medium => (11, None),
        Buffer::Pages(pages) => {
            // No power of two, or too large: an order that the check refuses.
            let size = pages.size();
            let order = if size.is_power_of_two() {
                size.ilog2() as u16
            } else {
                0
            };
            (order, Some(pages))
        }
    }
}

impl<M: RingMemory> std::fmt::Debug for Stream<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("side", &self.side)
            .field("read", &self.incoming.ours)
            .field("written", &self.outgoing.ours)
            .field("fatal", &self.fatal)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
