//! The messages of nbd's transmission phase, and what a server that keeps its writes waiting does with
//! them. No I/O.
//!
//! Layouts: `include/uapi/linux/nbd.h` (big-endian); the same in the protocol's own description,
//! `doc/proto.md` of NetworkBlockDevice/nbd.

/// `sizeof(struct nbd_request)`, which is packed.
pub(super) const REQUEST_BYTES: usize = 28;
/// `sizeof(struct nbd_reply)`.
pub(super) const REPLY_BYTES: usize = 16;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// What a reply says of a request that the server does not carry out.
const EINVAL: u32 = 22;

/// The client's name for a request. Its reply has the same.
pub(super) type Handle = [u8; 8];

/// What a client asks for (`NBD_CMD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Other(u16),
}

/// One request, without a write's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub command: Command,
    pub handle: Handle,
    /// First byte on the disk.
    pub from: u64,
    /// Bytes.
    pub len: u32,
}

impl Request {
    /// `None`: these bytes are no request.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        if word(0) != REQUEST_MAGIC {
            return None;
        }
        // The upper half are flags of a command (`NBD_CMD_FLAG_FUA`).
        let command = match (word(4) & 0xffff) as u16 {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            other => Command::Other(other),
        };
        Some(Request {
            command,
            handle: [0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[8 + n]),
            from: u64::from(word(16)) << 32 | u64::from(word(20)),
            len: word(24),
        })
    }

    /// The part of a disk of so many bytes that it is about.
    fn range(&self, size: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(self.from).ok()?;
        let end = from.checked_add(self.len as usize)?;
        (end <= size).then_some(from..end)
    }

    /// How many bytes of data follow it.
    pub fn payload(&self) -> usize {
        match self.command {
            Command::Write => self.len as usize,
            _ => 0,
        }
    }
}

fn reply(handle: Handle, error: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REPLY_BYTES);
    bytes.extend(REPLY_MAGIC.to_be_bytes());
    bytes.extend(error.to_be_bytes());
    bytes.extend(handle);
    bytes
}

/// A disk whose writes are not answered before it is told to.
#[derive(Debug)]
pub(super) struct SilentDisk {
    bytes: Vec<u8>,
    written: usize,
    /// Writes without an answer. `None`: they are answered at once.
    waiting: Option<Vec<Handle>>,
}

impl SilentDisk {
    pub fn new(size: usize) -> SilentDisk {
        SilentDisk {
            bytes: vec![0; size],
            written: 0,
            waiting: Some(Vec::new()),
        }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Takes a request, with a write's data. What is to be sent now.
    pub fn take(&mut self, request: &Request, data: &[u8]) -> Vec<u8> {
        let range = request.range(self.size());
        match (request.command, range) {
            // Whoever else looks at the disk, for partitions say, finds it empty, and need not wait.
            (Command::Read, Some(range)) => {
                let mut answer = reply(request.handle, 0);
                answer.resize(REPLY_BYTES + range.len(), 0);
                answer
            }
            (Command::Write, Some(range)) if range.len() == data.len() => {
                self.written += data.len();
                self.bytes[range].copy_from_slice(data);
                match &mut self.waiting {
                    Some(waiting) => {
                        waiting.push(request.handle);
                        Vec::new()
                    }
                    None => reply(request.handle, 0),
                }
            }
            (Command::Flush, _) => reply(request.handle, 0),
            (Command::Disconnect, _) => Vec::new(),
            _ => reply(request.handle, EINVAL),
        }
    }

    /// What was written, once all of the disk was.
    pub fn contents(&self) -> Option<&[u8]> {
        (self.written >= self.size()).then_some(&self.bytes[..])
    }

    /// From now on writes are answered. What is to be sent for those that wait.
    pub fn speak(&mut self) -> Vec<u8> {
        let waiting = self.waiting.take().unwrap_or_default();
        waiting
            .into_iter()
            .flat_map(|handle| reply(handle, 0))
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request as the kernel sends it.
    pub fn encode(command: u32, handle: Handle, from: u64, len: u32) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(command.to_be_bytes());
        bytes.extend(handle);
        bytes.extend(from.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    }

    const NOTHING: Vec<u8> = Vec::new();

    fn request(command: u32, from: u64, len: u32) -> Request {
        let bytes = encode(command, *b"handle!!", from, len);
        Request::decode(&bytes.try_into().unwrap()).unwrap()
    }

    #[test]
    fn requests_are_told_apart_and_nonsense_from_them() {
        let write = request(0x1_0001, 1 << 40, 4096);
        assert_eq!(write.command, Command::Write);
        assert_eq!(
            (write.from, write.len, write.payload()),
            (1 << 40, 4096, 4096)
        );
        assert_eq!(request(0, 0, 512).payload(), 0);
        assert_eq!(request(4, 0, 512).command, Command::Other(4));
        let mut bytes: [u8; REQUEST_BYTES] = encode(1, [0; 8], 0, 0).try_into().unwrap();
        bytes[3] ^= 1;
        assert_eq!(Request::decode(&bytes), None);
    }

    #[test]
    fn a_write_waits_and_all_else_is_answered() {
        let mut disk = SilentDisk::new(1024);
        assert_eq!(disk.take(&request(1, 0, 512), &[7; 512]), NOTHING);
        assert_eq!(disk.contents(), None, "half of it");
        let read = disk.take(&request(0, 0, 512), &[]);
        assert_eq!(read.len(), REPLY_BYTES + 512);
        assert_eq!(read[4..8], [0; 4]);
        assert!(read[REPLY_BYTES..].iter().all(|byte| *byte == 0));
        assert_eq!(
            disk.take(&request(3, 0, 0), &[]),
            reply(*b"handle!!", 0),
            "flush"
        );
        assert_eq!(
            disk.take(&request(4, 0, 512), &[]),
            reply(*b"handle!!", EINVAL)
        );
        assert_eq!(disk.take(&request(1, 512, 512), &[8; 512]), NOTHING);
        assert_eq!(disk.contents().unwrap()[511..513], [7, 8]);
        assert_eq!(disk.speak().len(), 2 * REPLY_BYTES, "both");
        assert_eq!(disk.speak(), NOTHING);
        let late = disk.take(&request(1, 0, 512), &[9; 512]);
        assert_eq!(late, reply(*b"handle!!", 0));
    }

    #[test]
    fn what_is_not_on_the_disk_is_refused() {
        let mut disk = SilentDisk::new(1024);
        let refused = reply(*b"handle!!", EINVAL);
        assert_eq!(disk.take(&request(1, 1024, 512), &[0; 512]), refused);
        assert_eq!(disk.take(&request(0, u64::MAX, 512), &[]), refused);
        assert_eq!(disk.take(&request(1, 0, 512), &[0; 511]), refused);
        assert_eq!(disk.speak(), NOTHING);
    }
}
