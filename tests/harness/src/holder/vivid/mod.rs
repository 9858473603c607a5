//! `vivid` and `vivid-capture`: the pages are a buffer of Linux' virtual video driver, given by a user's
//! address (`V4L2_MEMORY_USERPTR`), the nearest thing to a display server's memory in the hands of a GPU
//! that a machine without one has.
//!
//! The driver pins the pages when the buffer is queued (`vb2_vmalloc_get_userptr`), maps them for itself, and lets go of them
//! when the queue is given up or its open file ends; neither taking the buffer out of the queue nor
//! stopping does that (`__vb2_queue_free`, `drivers/media/common/videobuf2/videobuf2-core.c`, Linux 6.1 and
//! 6.12).
//!
//! - `vivid` is the **output**: the device reads the pages for each picture, as a scan-out does. A cable
//!   runs from it to the capture node, from which the consumer sees what is on the screen.
//! - `vivid-capture` is the **capture**: the device writes to the pages, as a GPU does, when the consumer
//!   has it do so, and not before. What it writes comes over the same cable.
//!
//! Each hold has an instance of the driver for itself. Both queue the pages twice, because Linux 6.1
//! does not begin with one buffer.

mod instance;
mod node;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
mod uapi;

use super::{Export, Held, HoldError, HoldName, Holder, address_of, parts};
use instance::{Claimed, capture_of, claim};
use libgnt::{PAGE_SIZE, SharedPages};
use node::{Direction, Node};
use std::path::PathBuf;
use std::time::Duration;

/// A picture comes 60 times a second, and may take half a minute where a busy machine emulates the
/// processor.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Vivid {
    kind: HoldName,
}

impl Vivid {
    /// # Errors
    /// [`HoldError::NotHere`] without the driver.
    pub fn new(kind: HoldName) -> Result<Vivid, HoldError> {
        instance::all(kind)?;
        Ok(Vivid { kind })
    }
}

impl Holder for Vivid {
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError> {
        // Before an instance is looked for.
        address_of(self.kind, pages, first, count)?;
        let claimed = claim(self.kind)?;
        claimed.wire(count)?;
        let Claimed { output, capture } = claimed;
        let fds = if self.kind == HoldName::VividCapture {
            capture.take_queue()?;
            capture.queue(pages, first, count)?;
            vec![output.fd, capture.fd]
        } else {
            output.take_queue()?;
            output.queue(pages, first, count)?;
            output.start()?;
            vec![output.fd]
        };
        Ok(Export::new(self.kind, count, vec![], fds))
    }

    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError> {
        let (kind, pages) = (self.kind, export.pages as usize);
        if kind == HoldName::VividCapture {
            let ([output, capture], []) = parts(export)?;
            return Ok(Box::new(Canvas {
                kind,
                output: Node::of(kind, Direction::Output, output),
                capture: Node::of(kind, Direction::Capture, capture),
                pages,
                painted: false,
            }));
        }
        let ([output], []) = parts(export)?;
        let output = Node::of(kind, Direction::Output, output);
        Ok(Box::new(ScanOut {
            capture: capture_of(&output, kind)?,
            kind,
            output,
            pages,
        }))
    }
}

/// Pages that the output shows.
struct ScanOut {
    kind: HoldName,
    output: Node,
    capture: PathBuf,
    pages: usize,
}

impl Held for ScanOut {
    /// What is on the screen.
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        // Opened anew each time: pictures of before may wait in an open one.
        let capture = Node::open(self.kind, Direction::Capture, &self.capture)?;
        capture
            .read_picture(self.pages * PAGE_SIZE, PATIENCE)
            .map(Some)
    }

    fn release(self: Box<Self>) -> Result<(), HoldError> {
        self.output.drop_queue()
    }
}

/// Pages that the capture writes to.
struct Canvas {
    kind: HoldName,
    output: Node,
    capture: Node,
    pages: usize,
    painted: bool,
}

impl Held for Canvas {
    fn paint(&mut self, picture: &[u8]) -> Result<bool, HoldError> {
        let broken = |what: String| HoldError::Broken {
            kind: self.kind,
            what,
        };
        let len = self.pages * PAGE_SIZE;
        if picture.len() != len {
            let what = format!("a picture of {} bytes for {len}", picture.len());
            return Err(broken(what));
        }
        // The buffers are queued by the mapper, whose addresses mean nothing here.
        if std::mem::replace(&mut self.painted, true) {
            return Err(broken("one picture is painted already".into()));
        }
        let screen = SharedPages::anonymous(self.pages)?;
        screen.write(0, picture);
        self.output.take_queue()?;
        self.output.queue(&screen, 0, self.pages)?;
        self.output.start()?;
        self.capture.start()?;
        let done = self.capture.await_buffer(PATIENCE);
        self.capture.stop()?;
        self.output.drop_queue()?;
        done.map(|()| true)
    }

    fn release(self: Box<Self>) -> Result<(), HoldError> {
        self.capture.drop_queue()
    }
}
