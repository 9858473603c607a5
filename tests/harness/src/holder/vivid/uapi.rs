//! The ioctls of video nodes that are needed here, and their arguments as C lays them out on a 64-bit
//! machine.
//!
//! Source: `include/uapi/linux/videodev2.h`, Linux 6.1 (6.12 has the same). `oracle.rs` has C compare
//! every number, size and offset.
#![allow(
    unsafe_code,
    reason = "an ioctl is an unsafe promise about its argument's type"
)]

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use std::ffi::c_void;
use zerocopy::{FromZeros, IntoBytes};

/// `V4L2_CAP_VIDEO_CAPTURE`
pub const CAP_VIDEO_CAPTURE: u32 = 0x1;
/// `V4L2_CAP_VIDEO_OUTPUT`
pub const CAP_VIDEO_OUTPUT: u32 = 0x2;
/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`
pub const BUF_TYPE_VIDEO_CAPTURE: u32 = 1;
/// `V4L2_BUF_TYPE_VIDEO_OUTPUT`
pub const BUF_TYPE_VIDEO_OUTPUT: u32 = 2;
/// `V4L2_MEMORY_USERPTR`
pub const MEMORY_USERPTR: u32 = 2;
/// `V4L2_FIELD_NONE`: whole pictures, no half ones.
pub const FIELD_NONE: u32 = 1;
/// `V4L2_PIX_FMT_GREY`: one byte a pixel.
pub const PIX_FMT_GREY: u32 = u32::from_le_bytes(*b"GREY");
/// `V4L2_SEL_TGT_CROP`
pub const SEL_TGT_CROP: u32 = 0;
/// `V4L2_SEL_TGT_COMPOSE`
pub const SEL_TGT_COMPOSE: u32 = 0x100;
/// `V4L2_CTRL_FLAG_NEXT_CTRL`: the next control after this one.
pub const CTRL_FLAG_NEXT_CTRL: u32 = 0x8000_0000;
/// `V4L2_BUF_FLAG_ERROR`
pub const BUF_FLAG_ERROR: u32 = 0x40;

/// `struct v4l2_capability`
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Capability {
    pub driver: [u8; 16],
    pub card: [u8; 32],
    pub bus_info: [u8; 32],
    pub version: u32,
    pub capabilities: u32,
    pub device_caps: u32,
    pub reserved: [u32; 3],
}

/// `struct v4l2_format` with its member `pix`, which is a `struct v4l2_pix_format`.
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Format {
    pub kind: u32,
    pub pad: u32,
    pub width: u32,
    pub height: u32,
    pub pixelformat: u32,
    pub field: u32,
    pub bytesperline: u32,
    pub sizeimage: u32,
    pub rest: [u32; 44],
}

/// `struct v4l2_requestbuffers`; its flags and reserved bytes are one word here.
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct RequestBuffers {
    pub count: u32,
    pub kind: u32,
    pub memory: u32,
    pub capabilities: u32,
    pub flags: u32,
}

/// `struct v4l2_buffer`; its timestamp and timecode are words here.
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Buffer {
    pub index: u32,
    pub kind: u32,
    pub bytesused: u32,
    pub flags: u32,
    pub field: u32,
    pub pad: u32,
    pub timestamp: [u64; 2],
    pub timecode: [u32; 4],
    pub sequence: u32,
    pub memory: u32,
    pub userptr: u64,
    pub length: u32,
    pub reserved2: u32,
    pub request_fd: i32,
    pub end: u32,
}

/// `struct v4l2_selection`, with its `struct v4l2_rect`.
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Selection {
    pub kind: u32,
    pub target: u32,
    pub flags: u32,
    pub left: i32,
    pub top: i32,
    pub width: u32,
    pub height: u32,
    pub reserved: [u32; 9],
}

/// `struct v4l2_control`
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Control {
    pub id: u32,
    pub value: i32,
}

/// `struct v4l2_queryctrl`
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct QueryControl {
    pub id: u32,
    pub kind: u32,
    pub name: [u8; 32],
    pub minimum: i32,
    pub maximum: i32,
    pub step: i32,
    pub default_value: i32,
    pub flags: u32,
    pub reserved: [u32; 2],
}

/// `struct v4l2_querymenu`, which is packed in C; its size is the same without.
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct QueryMenu {
    pub id: u32,
    pub index: u32,
    pub name: [u8; 32],
    pub reserved: u32,
}

/// `struct v4l2_input`
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Input {
    pub index: u32,
    pub name: [u8; 32],
    pub rest: [u32; 3],
    pub std: u64,
    pub status: u32,
    pub capabilities: u32,
    pub reserved: [u32; 4],
}

/// `struct v4l2_output`
#[repr(C)]
#[derive(FromZeros, IntoBytes)]
pub struct Output {
    pub index: u32,
    pub name: [u8; 32],
    pub rest: [u32; 3],
    pub std: u64,
    pub capabilities: u32,
    pub reserved: [u32; 3],
}

/// One ioctl of video nodes.
pub trait Request {
    /// Its name, for messages.
    const NAME: &'static str;
    /// Its number.
    const OPCODE: Opcode;
    /// What C says it takes.
    type Argument;
}

macro_rules! requests {
    ($($name:ident = $c:literal, $direction:ident $number:literal, $argument:ty;)*) => {
        $(
            #[doc = concat!("`", $c, "`")]
            pub struct $name;

            impl Request for $name {
                const NAME: &'static str = $c;
                const OPCODE: Opcode = opcode::$direction::<$argument>(b'V', $number);
                type Argument = $argument;
            }
        )*

        /// Every request's name and number, to be compared with C's.
        #[cfg(test)]
        pub const ALL: &[(&str, u64)] = &[$(($c, $name::OPCODE as u64)),*];
    };
}

requests! {
    QueryCap = "VIDIOC_QUERYCAP", read 0, Capability;
    SetFormat = "VIDIOC_S_FMT", read_write 5, Format;
    ReqBufs = "VIDIOC_REQBUFS", read_write 8, RequestBuffers;
    QBuf = "VIDIOC_QBUF", read_write 15, Buffer;
    DqBuf = "VIDIOC_DQBUF", read_write 17, Buffer;
    StreamOn = "VIDIOC_STREAMON", write 18, u32;
    StreamOff = "VIDIOC_STREAMOFF", write 19, u32;
    EnumInput = "VIDIOC_ENUMINPUT", read_write 26, Input;
    SetControl = "VIDIOC_S_CTRL", read_write 28, Control;
    QueryCtrl = "VIDIOC_QUERYCTRL", read_write 36, QueryControl;
    QueryMenuItem = "VIDIOC_QUERYMENU", read_write 37, QueryMenu;
    SetInput = "VIDIOC_S_INPUT", read_write 39, u32;
    SetOutput = "VIDIOC_S_OUTPUT", read_write 47, u32;
    EnumOutput = "VIDIOC_ENUMOUTPUT", read_write 48, Output;
    SetSelection = "VIDIOC_S_SELECTION", read_write 95, Selection;
}

/// One call, with its argument.
pub struct Call<'a, R: Request>(pub &'a mut R::Argument);

// SAFETY: the argument is of the type that this number has in C, which is compared with C's, and lives
// as long as the call.
unsafe impl<R: Request> Ioctl for Call<'_, R> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        R::OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
