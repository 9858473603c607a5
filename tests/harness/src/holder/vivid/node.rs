//! One open video node, and what can be asked of it.
#![allow(unsafe_code, reason = "ioctls, one of which takes a user's address")]

use super::super::{HoldError, HoldName, address_of, call};
use super::uapi::{
    self, Buffer, CTRL_FLAG_NEXT_CTRL, Call, Capability, Control, DqBuf, EnumInput, EnumOutput,
    FIELD_NONE, Format, Input, MEMORY_USERPTR, Output, PIX_FMT_GREY, QBuf, QueryCap, QueryControl,
    QueryCtrl, QueryMenu, QueryMenuItem, ReqBufs, Request, RequestBuffers, Selection, SetControl,
    SetFormat, SetInput, SetOutput, SetSelection, StreamOff, StreamOn,
};
use libgnt::SharedPages;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

/// Which way pictures go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory to the device.
    Output,
    /// From the device to memory.
    Capture,
}

impl Direction {
    fn buffers(self) -> u32 {
        match self {
            Direction::Output => uapi::BUF_TYPE_VIDEO_OUTPUT,
            Direction::Capture => uapi::BUF_TYPE_VIDEO_CAPTURE,
        }
    }

    /// The bit of a node's capabilities.
    pub fn capability(self) -> u32 {
        match self {
            Direction::Output => uapi::CAP_VIDEO_OUTPUT,
            Direction::Capture => uapi::CAP_VIDEO_CAPTURE,
        }
    }
}

/// An open node. Its queue of buffers belongs to whoever has this open file.
pub struct Node {
    kind: HoldName,
    direction: Direction,
    /// For those who send it to another process.
    pub fd: OwnedFd,
}

/// The text in a field of fixed size.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
}

impl Node {
    /// Opens one. Its calls do not wait for a picture.
    ///
    /// # Errors
    /// open's.
    pub fn open(kind: HoldName, direction: Direction, path: &Path) -> Result<Node, HoldError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(call(kind, "open"))?;
        Ok(Node::of(kind, direction, fd))
    }

    /// One that another process has opened.
    pub fn of(kind: HoldName, direction: Direction, fd: OwnedFd) -> Node {
        Node {
            kind,
            direction,
            fd,
        }
    }

    fn try_ask<R: Request>(&self, argument: &mut R::Argument) -> Result<(), Errno> {
        // SAFETY: the argument is of the type that C has for this number. The only address among the
        // arguments' fields is that of `queue`, which is in a mapping that lives, that no reference
        // points into, and whose pages the kernel keeps for as long as it uses them.
        unsafe { rustix::ioctl::ioctl(&self.fd, Call::<R>(argument)) }
    }

    fn ask<R: Request>(&self, argument: &mut R::Argument) -> Result<(), HoldError> {
        self.try_ask::<R>(argument)
            .map_err(call(self.kind, R::NAME))
    }

    /// Driver, bus and capabilities (`V4L2_CAP_*`).
    ///
    /// # Errors
    /// ENOTTY where it is no video node.
    pub fn about(&self) -> Result<(String, String, u32), HoldError> {
        let mut about = Capability::new_zeroed();
        self.ask::<QueryCap>(&mut about)?;
        let (driver, bus) = (text(&about.driver), text(&about.bus_info));
        Ok((driver, bus, about.device_caps))
    }

    /// Plugs it into its first connector whose name begins so.
    ///
    /// # Errors
    /// There is none, or the device is in use.
    pub fn plug_into(&self, name: &str) -> Result<(), HoldError> {
        for index in 0.. {
            let found = match self.direction {
                Direction::Output => {
                    let mut output = Output::new_zeroed();
                    output.index = index;
                    self.try_ask::<EnumOutput>(&mut output)
                        .map(|()| text(&output.name))
                }
                Direction::Capture => {
                    let mut input = Input::new_zeroed();
                    input.index = index;
                    self.try_ask::<EnumInput>(&mut input)
                        .map(|()| text(&input.name))
                }
            };
            // EINVAL ends the list.
            let Ok(found) = found else { break };
            if found.starts_with(name) {
                return match self.direction {
                    Direction::Output => self.ask::<SetOutput>(&mut { index }),
                    Direction::Capture => self.ask::<SetInput>(&mut { index }),
                };
            }
        }
        Err(self.broken(format!("this vivid has no {name} connector")))
    }

    /// Pictures of grey bytes, this wide and high, at the left top corner of the cable's picture.
    ///
    /// # Errors
    /// The device is in use, or cannot.
    pub fn set_picture(&self, width: usize, height: usize) -> Result<(), HoldError> {
        let (width, height) = (width as u32, height as u32);
        // The one of the two in the picture's own buffer comes before the one on the cable.
        let targets = match self.direction {
            Direction::Output => [uapi::SEL_TGT_CROP, uapi::SEL_TGT_COMPOSE],
            Direction::Capture => [uapi::SEL_TGT_COMPOSE, uapi::SEL_TGT_CROP],
        };
        self.set_format(width, height)?;
        for target in targets {
            let mut selection = Selection::new_zeroed();
            selection.kind = self.direction.buffers();
            selection.target = target;
            (selection.width, selection.height) = (width, height);
            self.ask::<SetSelection>(&mut selection)?;
            let Selection {
                left,
                top,
                width: w,
                height: h,
                ..
            } = selection;
            if (left, top, w, h) != (0, 0, width, height) {
                let what =
                    format!("vivid made a window of {width}x{height} one of {w}x{h}+{left}+{top}");
                return Err(self.broken(what));
            }
        }
        // What was selected may have changed it.
        self.set_format(width, height)
    }

    fn set_format(&self, width: u32, height: u32) -> Result<(), HoldError> {
        let mut format = Format::new_zeroed();
        format.kind = self.direction.buffers();
        (format.width, format.height) = (width, height);
        format.pixelformat = PIX_FMT_GREY;
        format.field = FIELD_NONE;
        self.ask::<SetFormat>(&mut format)?;
        let asked = (width, height, PIX_FMT_GREY, width, width * height);
        let Format {
            width: w,
            height: h,
            pixelformat,
            bytesperline,
            sizeimage,
            ..
        } = format;
        if (w, h, pixelformat, bytesperline, sizeimage) == asked {
            return Ok(());
        }
        let what = format!(
            "vivid made pictures of {width}x{height} grey bytes {w}x{h} in {sizeimage} bytes"
        );
        Err(self.broken(what))
    }

    /// The control of this name.
    fn control(&self, name: &str) -> Option<QueryControl> {
        let mut control = QueryControl::new_zeroed();
        loop {
            control.id |= CTRL_FLAG_NEXT_CTRL;
            self.try_ask::<QueryCtrl>(&mut control).ok()?;
            let found = text(&control.name);
            // Those of instances have their number in the name.
            if found == name || (found.starts_with("HDMI ") && found.ends_with(name)) {
                return Some(control);
            }
        }
    }

    /// Sets a control, if there is one of this name.
    ///
    /// # Errors
    /// The device is in use.
    pub fn set_control(&self, name: &str, value: i32) -> Result<bool, HoldError> {
        match self.control(name) {
            None => Ok(false),
            Some(QueryControl { id, .. }) => {
                self.ask::<SetControl>(&mut Control { id, value })?;
                Ok(true)
            }
        }
    }

    /// Sets a menu to this item, if there are both.
    ///
    /// # Errors
    /// The device is in use.
    pub fn set_menu(&self, name: &str, item: &str) -> Result<bool, HoldError> {
        let Some(control) = self.control(name) else {
            return Ok(false);
        };
        for index in control.minimum..=control.maximum {
            let mut menu = QueryMenu::new_zeroed();
            (menu.id, menu.index) = (control.id, index.unsigned_abs());
            // An item that another instance is at is not shown.
            let shown = self.try_ask::<QueryMenuItem>(&mut menu).is_ok();
            if shown && text(&menu.name) == item {
                let (id, value) = (control.id, index);
                self.ask::<SetControl>(&mut Control { id, value })?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes room for two buffers: vivid wants two before it begins. The queue is this open file's then.
    ///
    /// # Errors
    /// EBUSY: another open file has it.
    pub fn take_queue(&self) -> Result<(), HoldError> {
        let buffers = self.request(2)?;
        match buffers {
            2.. => Ok(()),
            _ => Err(self.broken(format!("vivid has room for {buffers} buffers, not two"))),
        }
    }

    /// Gives the queue up. The pages of its buffers are let go when this returns.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn drop_queue(&self) -> Result<(), HoldError> {
        self.stop()?;
        self.request(0).map(drop)
    }

    fn request(&self, count: u32) -> Result<u32, HoldError> {
        let mut request = RequestBuffers::new_zeroed();
        request.count = count;
        request.kind = self.direction.buffers();
        request.memory = MEMORY_USERPTR;
        self.ask::<ReqBufs>(&mut request)?;
        Ok(request.count)
    }

    /// Queues both buffers, both of these pages. The device pins the pages until the queue is dropped or
    /// the open file ends, whatever becomes of the buffers and of the mapping.
    ///
    /// # Errors
    /// EFAULT: the pages cannot be pinned.
    pub fn queue(&self, pages: &SharedPages, first: usize, count: usize) -> Result<(), HoldError> {
        let (address, len) = address_of(self.kind, pages, first, count)?;
        let len = len as u32;
        for index in 0..2 {
            let mut buffer = self.buffer();
            buffer.index = index;
            buffer.userptr = address as u64;
            buffer.length = len;
            if self.direction == Direction::Output {
                (buffer.bytesused, buffer.field) = (len, FIELD_NONE);
            }
            self.ask::<QBuf>(&mut buffer)?;
        }
        Ok(())
    }

    fn buffer(&self) -> Buffer {
        let mut buffer = Buffer::new_zeroed();
        buffer.kind = self.direction.buffers();
        buffer.memory = MEMORY_USERPTR;
        buffer
    }

    /// Lets the device work.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn start(&self) -> Result<(), HoldError> {
        self.ask::<StreamOn>(&mut self.direction.buffers())
    }

    /// Stops it. The buffers leave the queue, and their pages stay pinned.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn stop(&self) -> Result<(), HoldError> {
        self.ask::<StreamOff>(&mut self.direction.buffers())
    }

    /// Waits until a buffer is done with, and takes it out of the queue.
    ///
    /// # Errors
    /// None is in time, or the device failed with it.
    pub fn await_buffer(&self, patience: Duration) -> Result<(), HoldError> {
        self.await_picture(patience)?;
        let mut buffer = self.buffer();
        self.ask::<DqBuf>(&mut buffer)?;
        match buffer.flags & uapi::BUF_FLAG_ERROR {
            0 => Ok(()),
            _ => Err(self.broken("the device failed with a picture".into())),
        }
    }

    /// Reads one picture that the device captures from now on, of so many bytes. Nobody else may have
    /// the queue.
    ///
    /// # Errors
    /// None comes in time, or it is of another size.
    pub fn read_picture(&self, len: usize, patience: Duration) -> Result<Vec<u8>, HoldError> {
        // Polling starts the device.
        self.await_picture(patience)?;
        let mut bytes = vec![0; len];
        let read = rustix::io::read(&self.fd, &mut bytes).map_err(call(self.kind, "read"))?;
        if read == len {
            return Ok(bytes);
        }
        Err(self.broken(format!("a picture of {read} bytes, not {len}")))
    }

    fn await_picture(&self, patience: Duration) -> Result<(), HoldError> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => {
                    return Err(self.broken(format!("no picture in {patience:?}")));
                }
                Ok(_) if fds[0].revents().contains(PollFlags::ERR) => {
                    return Err(self.broken("the device cannot begin".into()));
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(call(self.kind, "poll")(errno)),
            }
        }
    }

    /// What is wrong with it.
    pub fn broken(&self, what: String) -> HoldError {
        HoldError::Broken {
            kind: self.kind,
            what,
        }
    }
}
