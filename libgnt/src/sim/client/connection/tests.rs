use super::*;
use crate::platform::GuestType;
use crate::sim::wire::{FileId, VmaId};
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread;

/// A host that lets one client join, and gives the test the other end of the socket.
fn fake_host(deadline: Duration) -> (tempfile::TempDir, Client, UnixStream) {
    let dir = tempfile::tempdir().expect("dir");
    let listener = UnixListener::bind(dir.path().join(HOST_SOCKET)).expect("bind");
    let host = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let request = next(&mut FrameReader::new(0), &stream).expect("the join");
        let hazards = memory::create("hazards", HAZARD_PAGES).expect("memfd");
        let joined = Reply::Joined {
            domid: DomId(5),
            unmap: UnmapMode::Async,
            guest: GuestType::Pvh,
        };
        reply(&stream, request.tag, joined, vec![Arc::new(hazards)]);
        stream
    });
    let (client, domid) =
        Client::connect_with(dir.path(), Request::Inspect, deadline).expect("joined");
    assert_eq!(domid, DomId(5));
    (dir, client, host.join().expect("host"))
}

fn reply(stream: &UnixStream, tag: u64, reply: Reply, fds: Vec<Arc<OwnedFd>>) {
    let frame = ReplyFrame {
        tag,
        result: Ok(reply),
    };
    let sent = Outgoing::new(&frame, fds)
        .expect("frame")
        .send(stream.as_fd());
    assert_eq!(sent, Ok(true));
}

/// The client's next request; none at its end.
fn next(reader: &mut FrameReader, stream: &UnixStream) -> Option<RequestFrame> {
    loop {
        if let Some(frame) = reader.next_frame().expect("good frames") {
            return Some(decode(&frame.payload).expect("a request"));
        }
        match reader.fill(stream.as_fd()).expect("fill") {
            Filled::Bytes => {}
            Filled::Closed => return None,
            Filled::WouldBlock => {
                let mut fds = [PollFd::new(stream, PollFlags::IN)];
                poll(&mut fds, None).expect("poll");
            }
        }
    }
}

fn munmap(n: u64) -> Request {
    Request::Munmap {
        vma: VmaId(n),
        first_page: 0,
        pages: 1,
    }
}

#[test]
fn news_never_blocks_and_comes_in_order_when_the_host_reads_again() {
    const NEWS: u64 = 50_000;
    let (_dir, client, stream) = fake_host(REPLY_DEADLINE);
    // Nobody reads: this fills the socket's buffer many times over.
    for n in 0..NEWS {
        client.tell(munmap(n));
    }
    assert!(
        !lock(&client.queue).is_empty(),
        "nothing was queued: the test shows nothing"
    );
    thread::scope(|scope| {
        let call = scope.spawn(|| client.call("device", "close", Request::Inspect));
        let mut reader = FrameReader::new(0);
        for n in 0..NEWS {
            let request = next(&mut reader, &stream).expect("news");
            assert_eq!((request.request, request.wants_reply), (munmap(n), false));
        }
        let request = next(&mut reader, &stream).expect("the call, behind the news");
        reply(&stream, request.tag, Reply::Done, Vec::new());
        call.join()
            .expect("caller")
            .expect("answered")
            .done()
            .expect("done");
    });
}

#[test]
fn replies_find_their_callers_in_any_order() {
    let (_dir, client, stream) = fake_host(REPLY_DEADLINE);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8u64)
            .map(|n| {
                let client = &client;
                scope.spawn(move || (n, client.call("device", "munmap", munmap(n))))
            })
            .collect();
        let mut reader = FrameReader::new(0);
        let mut asked: Vec<_> = (0..8)
            .map(|_| next(&mut reader, &stream).expect("a request"))
            .collect();
        asked.sort_by_key(|request| std::cmp::Reverse(request.tag));
        for request in asked {
            let Request::Munmap { vma, .. } = request.request else {
                panic!("{request:?}")
            };
            reply(
                &stream,
                request.tag,
                Reply::Opened {
                    file: FileId(vma.0),
                },
                Vec::new(),
            );
        }
        for call in calls {
            let (n, answer) = call.join().expect("caller");
            assert_eq!(
                answer.expect("answered").reply,
                Reply::Opened { file: FileId(n) }
            );
        }
    });
}

fn host_gone<T: std::fmt::Debug>(result: Result<T>, says: &str) {
    match result {
        Err(Error::HostGone { what }) => assert!(what.contains(says), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_host_is_given_up_after_the_deadline() {
    let (_dir, client, mut stream) = fake_host(Duration::from_millis(50));
    host_gone(
        client.call("device", "open", Request::Inspect),
        "did not answer open",
    );
    host_gone(
        client.call("device", "open", Request::Inspect),
        "did not answer open",
    );
    // The connection is over for the host too: its late replies reach nobody.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
}

#[test]
fn a_host_that_speaks_nonsense_is_left() {
    let (_dir, client, stream) = fake_host(REPLY_DEADLINE);
    rustix::io::write(&stream, &[0xff; 64]).expect("write");
    host_gone(
        client.call("device", "open", Request::Inspect),
        "speaks nonsense",
    );
}

#[test]
fn a_reply_of_the_wrong_kind_or_without_its_descriptor_is_an_error() {
    let (_dir, client, stream) = fake_host(REPLY_DEADLINE);
    let answers = thread::scope(|scope| {
        let call = scope.spawn(|| {
            [(); 2].map(|()| {
                client
                    .call("device", "open", Request::Inspect)
                    .expect("answered")
            })
        });
        let mut reader = FrameReader::new(0);
        for _ in 0..2 {
            let tag = next(&mut reader, &stream).expect("a request").tag;
            reply(&stream, tag, Reply::Index { index: 1 }, Vec::new());
        }
        call.join().expect("caller")
    });
    let [wrong, mut bare] = answers;
    host_gone(wrong.done(), "answered open with Index");
    host_gone(bare.take_fd(), "without its descriptor");
}
