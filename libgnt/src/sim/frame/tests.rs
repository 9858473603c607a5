use super::super::wire::{Request, RequestFrame};
use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::os::unix::net::UnixStream;

fn frame(tag: u64) -> RequestFrame {
    RequestFrame {
        tag,
        wants_reply: true,
        request: Request::Inspect,
    }
}

fn open_files(n: usize) -> Vec<Arc<OwnedFd>> {
    (0..n)
        .map(|_| Arc::new(OwnedFd::from(tempfile::tempfile().expect("file"))))
        .collect()
}

/// All that is on the socket now.
fn frames(reader: &mut FrameReader, socket: &UnixStream) -> Result<Vec<Frame>, FrameError> {
    let mut all = Vec::new();
    loop {
        let filled = reader.fill(socket.as_fd())?;
        while let Some(frame) = reader.next_frame()? {
            all.push(frame);
        }
        if filled != Filled::Bytes {
            return Ok(all);
        }
    }
}

#[test]
fn more_descriptors_than_one_message_takes_arrive_in_order() {
    let (a, b) = UnixStream::pair().expect("pair");
    let files = open_files(2 * CHUNK + 3);
    for (n, file) in files.iter().enumerate() {
        rustix::io::pwrite(file, &(n as u64).to_le_bytes(), 0).expect("mark");
    }
    for (tag, fds) in [(1, &files[..]), (2, &files[..0]), (3, &files[..1])] {
        let mut out = Outgoing::new(&frame(tag), fds.to_vec()).expect("frame");
        assert_eq!(out.send(a.as_fd()), Ok(true));
    }
    let all = frames(&mut FrameReader::new(MAX_DESCRIPTORS), &b).expect("good frames");
    let counts: Vec<usize> = all.iter().map(|f| f.descriptors.len()).collect();
    assert_eq!(counts, [2 * CHUNK + 3, 0, 1]);
    for (n, fd) in all[0].descriptors.iter().enumerate() {
        let mut mark = [0; 8];
        rustix::io::pread(fd, &mut mark, 0).expect("read");
        assert_eq!(
            u64::from_le_bytes(mark),
            n as u64,
            "descriptors changed places"
        );
        let flags = rustix::io::fcntl_getfd(fd).expect("flags");
        assert!(
            flags.contains(rustix::io::FdFlags::CLOEXEC),
            "would leak into a child"
        );
    }
    assert_eq!(
        decode::<RequestFrame>(&all[2].payload).expect("message"),
        frame(3)
    );
}

#[test]
fn a_full_socket_resumes_where_it_stopped() {
    let (a, b) = UnixStream::pair().expect("pair");
    let grefs = (0..60_000).map(crate::types::GrantRef).collect();
    let big = RequestFrame {
        tag: 9,
        wants_reply: true,
        request: Request::GrantsInUse { grefs },
    };
    let files = open_files(1);
    let mut reader = FrameReader::new(8);
    let mut got = Vec::new();
    let mut stalls = 0;
    for _ in 0..4 {
        let mut out = Outgoing::new(&big, files.clone()).expect("frame");
        while !out.send(a.as_fd()).expect("send") {
            stalls += 1;
            got.extend(frames(&mut reader, &b).expect("good frames"));
        }
    }
    got.extend(frames(&mut reader, &b).expect("good frames"));
    assert!(
        stalls > 0,
        "the socket never filled: the test shows nothing"
    );
    assert_eq!(got.len(), 4);
    for frame in got {
        assert_eq!(frame.descriptors.len(), 1);
        assert_eq!(
            decode::<RequestFrame>(&frame.payload).expect("message"),
            big
        );
    }
}

#[test]
fn the_host_takes_no_descriptors() {
    let (a, b) = UnixStream::pair().expect("pair");
    let mut out = Outgoing::new(&frame(1), open_files(1)).expect("frame");
    out.send(a.as_fd()).expect("send");
    let error = frames(&mut FrameReader::new(0), &b).expect_err("must be refused");
    assert!(matches!(error, FrameError::LostDescriptors), "{error}");
}

#[test]
fn announced_descriptors_must_come() {
    let (mut a, b) = UnixStream::pair().expect("pair");
    a.write_all(&[1, 0, 0, 0, 2, 0, 0, 0, 0]).expect("write");
    let error = frames(&mut FrameReader::new(8), &b).expect_err("must be refused");
    assert!(matches!(
        error,
        FrameError::MissingDescriptors {
            announced: 2,
            came: 0
        }
    ));
}

#[test]
fn an_end_inside_a_frame_is_told_from_an_end_between_frames() {
    for (bytes, clean) in [(&[][..], true), (&[4, 0, 0][..], false)] {
        let (mut a, b) = UnixStream::pair().expect("pair");
        a.write_all(bytes).expect("write");
        drop(a);
        let mut reader = FrameReader::new(0);
        let end = loop {
            match reader.fill(b.as_fd()) {
                Ok(Filled::Bytes) => {}
                other => break other,
            }
        };
        assert_eq!(matches!(end, Ok(Filled::Closed)), clean, "{end:?}");
    }
}

#[test]
fn bytes_after_the_message_are_garbage() {
    let mut payload = postcard::to_stdvec(&frame(1)).expect("encode");
    assert!(decode::<RequestFrame>(&payload).is_ok());
    payload.push(0);
    let error = decode::<RequestFrame>(&payload).expect_err("must be refused");
    assert!(matches!(error, FrameError::TrailingBytes { count: 1 }));
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, no memory beyond one frame and one read.
    #[test]
    fn garbage_never_panics(pieces in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 1..200), 1..20))
    {
        let (mut a, b) = UnixStream::pair().expect("pair");
        let mut reader = FrameReader::new(0);
        for piece in pieces {
            a.write_all(&piece).expect("write");
            match frames(&mut reader, &b) {
                Ok(frames) => for frame in frames {
                    let _ = decode::<RequestFrame>(&frame.payload);
                },
                Err(_) => break,
            }
            prop_assert!(reader.buffer.len() <= MAX_FRAME + HEADER_BYTES + READ_BYTES);
        }
    }

    /// Any split of good frames gives the same frames back.
    #[test]
    fn any_split_gives_the_same_frames(cuts in proptest::collection::vec(1usize..9, 1..60)) {
        let (mut a, b) = UnixStream::pair().expect("pair");
        let mut bytes = Vec::new();
        for tag in 0..10 {
            bytes.extend(Outgoing::new(&frame(tag), Vec::new()).expect("frame").bytes);
        }
        let mut reader = FrameReader::new(0);
        let mut tags = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = cuts.next().unwrap_or(1).min(rest.len());
            a.write_all(&rest[..n]).expect("write");
            rest = &rest[n..];
            for frame in frames(&mut reader, &b).expect("good frames") {
                tags.push(decode::<RequestFrame>(&frame.payload).expect("message").tag);
            }
        }
        prop_assert_eq!(tags, (0..10).collect::<Vec<u64>>());
    }
}
