//! One client's socket: bytes in, bytes out.

use super::super::queue::{OutQueue, QueueLimits};
use crate::wire::{Decoder, Packet, WireError};
use mio::event::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    decoder: Decoder,
    pub(super) queue: OutQueue,
    /// Nothing said yet that the socket is empty: edges come once.
    is_readable: bool,
    /// The client sends no more. What it has sent is there still.
    is_closing: bool,
    token: Token,
    /// The poll tells when the socket takes more. It tells nothing of that else: each answer that a client
    /// takes would wake the server.
    waits_for_room: bool,
    /// It has told so.
    has_room: bool,
}

/// What a client has for the server.
pub(super) enum Incoming {
    Request(Packet),
    /// Nothing, until an edge comes.
    Nothing,
    Closed,
    Malformed(WireError),
    Failed(io::Error),
}

impl Connection {
    /// One of which the poll tells by this token.
    pub(super) fn new(
        mut stream: UnixStream,
        limits: QueueLimits,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Connection> {
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Connection {
            stream,
            decoder: Decoder::new(),
            queue: OutQueue::new(limits),
            is_readable: true,
            is_closing: false,
            token,
            waits_for_room: false,
            has_room: false,
        })
    }

    /// An edge has come.
    pub(super) fn note(&mut self, edge: &Event) {
        self.is_readable |= edge.is_readable() || edge.is_read_closed();
        self.is_closing |= edge.is_read_closed();
        self.has_room |= edge.is_writable() || edge.is_write_closed() || edge.is_error();
    }

    /// The next request, read through `buffer`.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Incoming {
        loop {
            match self.decoder.next_packet() {
                Ok(Some(packet)) => return Incoming::Request(packet),
                Err(error) => return Incoming::Malformed(error),
                Ok(None) if !self.is_readable => return Incoming::Nothing,
                Ok(None) => {}
            }
            match self.stream.read(buffer) {
                Ok(0) => return Incoming::Closed,
                Ok(n) => {
                    self.decoder.push(&buffer[..n]);
                    // It had no more, so the next bytes are a new edge; the end may have been told.
                    self.is_readable = n == buffer.len() || self.is_closing;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Incoming::Failed(error),
            }
        }
    }

    /// Sends as much as the socket takes. With what is left the poll tells when it takes more.
    pub(super) fn flush(&mut self, registry: &Registry) -> io::Result<()> {
        if self.waits_for_room && !std::mem::take(&mut self.has_room) {
            return Ok(());
        }
        while !self.queue.is_empty() {
            match self.stream.write(self.queue.front()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.queue.advance(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let waits_for_room = !self.queue.is_empty();
        if self.waits_for_room != waits_for_room {
            self.waits_for_room = waits_for_room;
            let interest = match waits_for_room {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            // An edge that came before is told again.
            registry.reregister(&mut self.stream, self.token, interest)?;
        }
        Ok(())
    }
}
