//! A kernel in a test: records what it is asked, byte for byte, and answers from a script.
#![allow(
    unsafe_code,
    reason = "reads and writes at the address that an ioctl was given"
)]

use crate::linux::abi;
use crate::linux::ioctl::Kernel;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// What C fills in and what a kernel answers: `tests/abi_oracle` checks this file against C.
const GOLDEN: &str = include_str!("../../../tests/abi_oracle/golden.txt");

/// A system call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Ioctl {
        number: u32,
        arg: Vec<u8>,
    },
    /// The memory that `IOCTL_GNTDEV_GRANT_COPY`'s argument points to.
    Segments(Vec<u8>),
    Read {
        room: usize,
    },
    Write(Vec<u8>),
}

/// The answer to one.
#[derive(Clone, Debug)]
pub enum Answer {
    Fails(Errno),
    /// An ioctl that returns this, and writes these bytes over its argument (or its segments).
    Returns(i32, Vec<u8>),
    Reads(Vec<u8>),
    Wrote(usize),
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    answers: VecDeque<Answer>,
}

#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Arc<Mutex<State>>);

impl FakeKernel {
    pub fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let state = State {
            asked: Vec::new(),
            answers: answers.into_iter().collect(),
        };
        FakeKernel(Arc::new(Mutex::new(state)))
    }

    /// Everything that was asked. The script must have been used up.
    pub fn asked(&self) -> Vec<Asked> {
        let state = self.0.lock().unwrap();
        assert!(
            state.answers.is_empty(),
            "never asked for {:?}",
            state.answers
        );
        state.asked.clone()
    }

    fn ask(&self, asked: Asked) -> Answer {
        let mut state = self.0.lock().unwrap();
        let answer = state.answers.pop_front();
        let answer = answer.unwrap_or_else(|| panic!("no answer left for {asked:?}"));
        state.asked.push(asked);
        answer
    }
}

impl Kernel for FakeKernel {
    // SAFETY: as the trait says: the caller's pointer is to `len` bytes that suit the number.
    unsafe fn ioctl(
        &self,
        _fd: BorrowedFd<'_>,
        number: u32,
        arg: *mut c_void,
        len: usize,
    ) -> Result<i32, Errno> {
        assert!(
            arg.cast::<u64>().is_aligned(),
            "{number:#x}: unaligned argument"
        );
        // SAFETY: the caller's promise: `len` bytes at `arg`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(arg.cast::<u8>(), len) };
        let answer = self.ask(Asked::Ioctl {
            number,
            arg: bytes.to_vec(),
        });
        let segments = (number == abi::GNTDEV_GRANT_COPY).then(|| {
            let count = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
            let address = usize::from_ne_bytes(bytes[8..].try_into().unwrap());
            // SAFETY: the caller's promise: the address in the argument is that of `count` segments.
            unsafe {
                std::slice::from_raw_parts_mut(
                    std::ptr::with_exposed_provenance_mut::<u8>(address),
                    count * size_of::<abi::GntdevGrantCopySegment>(),
                )
            }
        });
        let target = match segments {
            Some(segments) => {
                self.0
                    .lock()
                    .unwrap()
                    .asked
                    .push(Asked::Segments(segments.to_vec()));
                segments
            }
            None => bytes,
        };
        match answer {
            Answer::Fails(errno) => Err(errno),
            Answer::Returns(value, written) => {
                target[..written.len()].copy_from_slice(&written);
                Ok(value)
            }
            other => panic!("{other:?} is no answer to an ioctl"),
        }
    }

    fn read(&self, _fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        match self.ask(Asked::Read { room: into.len() }) {
            Answer::Fails(errno) => Err(errno),
            Answer::Reads(bytes) => {
                into[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            other => panic!("{other:?} is no answer to a read"),
        }
    }

    fn write(&self, _fd: BorrowedFd<'_>, from: &[u8]) -> Result<usize, Errno> {
        match self.ask(Asked::Write(from.to_vec())) {
            Answer::Fails(errno) => Err(errno),
            Answer::Wrote(len) => Ok(len),
            other => panic!("{other:?} is no answer to a write"),
        }
    }
}

fn golden(prefix: &str) -> &'static str {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(prefix));
    line.unwrap_or_else(|| panic!("golden.txt has no {prefix:?}"))
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The argument that C fills in.
pub fn call_of_c(name: &str) -> Asked {
    let (number, bytes) = golden(&format!("call {name} ")).split_once(' ').unwrap();
    let number = u32::from_str_radix(number.trim_start_matches("0x"), 16).unwrap();
    Asked::Ioctl {
        number,
        arg: hex(bytes),
    }
}

/// What the kernel leaves in it.
pub fn reply_of_c(name: &str) -> Vec<u8> {
    hex(golden(&format!("reply {name} ")))
}

/// Success without anything written.
pub fn done() -> Answer {
    Answer::Returns(0, Vec::new())
}

/// Success with C's reply.
pub fn replies(name: &str) -> Answer {
    Answer::Returns(0, reply_of_c(name))
}

/// A copy with a native 32-bit number put at an offset.
pub fn with_u32(mut bytes: Vec<u8>, offset: usize, value: u32) -> Vec<u8> {
    bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    bytes
}
