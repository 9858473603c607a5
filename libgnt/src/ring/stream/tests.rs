#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use std::collections::VecDeque;

type Page = Arc<SharedPages>;

/// Miri is a hundred times slower.
const SLOW: bool = cfg!(miri);

fn pages(n: usize) -> Page {
    Arc::new(SharedPages::anonymous(n).unwrap())
}

/// Server and client over `left` and `right` pages (0: in the control page), at `start`.
fn pair(left: usize, right: usize, start: u32) -> (Page, Stream, Stream) {
    let control = pages(1);
    let buffer = |n: usize, small| {
        if n == 0 {
            small
        } else {
            Buffer::Pages(pages(n))
        }
    };
    let (l, r) = (buffer(left, Buffer::Small), buffer(right, Buffer::Medium));
    let of = |b: &Buffer<Page>| {
        if let Buffer::Pages(p) = b {
            Some(p.clone())
        } else {
            None
        }
    };
    let (lp, rp) = (of(&l), of(&r));
    let grefs: Vec<GrantRef> = (100..).take(left + right).map(GrantRef).collect();
    let server = Stream::server_at(control.clone(), l, r, &grefs, start).unwrap();
    assert_eq!(server.peer(), Peer::Awaited);
    let offer = Offer::read(&control).unwrap();
    assert_eq!((&offer.left[..], &offer.right[..]), grefs.split_at(left));
    let client = Stream::client(control.clone(), &offer, lp, rp).unwrap();
    assert_eq!(
        (server.peer(), client.peer()),
        (Peer::Connected, Peer::Connected)
    );
    (control, server, client)
}

/// One direction's model: the bytes under way, and whether reader or writer sleeps.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    reader_asleep: bool,
    writer_asleep: bool,
}

fn step(from: &mut Stream, to: &mut Stream, way: &mut Way, size: usize, rng: &mut fastrand::Rng) {
    match rng.u8(0..6) {
        0 | 1 if !way.writer_asleep => {
            let data: Vec<u8> = (0..rng.usize(0..size + 50)).map(|_| rng.u8(..)).collect();
            let moved = from.write(&data).unwrap();
            assert_eq!(moved.bytes, data.len().min(size - way.bytes.len()));
            if moved.bytes > 0 {
                assert!(moved.notify || !way.reader_asleep, "the reader sleeps on");
                way.reader_asleep &= !moved.notify;
            }
            way.bytes.extend(&data[..moved.bytes]);
        }
        2 | 3 if !way.reader_asleep => {
            let mut data = vec![0; rng.usize(0..size + 50)];
            let moved = to.read(&mut data).unwrap();
            assert_eq!(moved.bytes, data.len().min(way.bytes.len()));
            assert!(
                way.bytes
                    .drain(..moved.bytes)
                    .eq(data[..moved.bytes].iter().copied())
            );
            if moved.bytes > 0 {
                assert!(moved.notify || !way.writer_asleep, "the writer sleeps on");
                way.writer_asleep &= !moved.notify;
            }
        }
        4 if !way.reader_asleep => {
            way.reader_asleep = !to.arm_readable().unwrap();
            assert_eq!(way.reader_asleep, way.bytes.is_empty());
        }
        5 if !way.writer_asleep => {
            way.writer_asleep = !from.arm_writable().unwrap();
            assert_eq!(way.writer_asleep, way.bytes.len() == size);
        }
        _ => {}
    }
    assert_eq!(to.readable().unwrap(), way.bytes.len());
    assert_eq!(from.writable().unwrap(), size - way.bytes.len());
    assert!(!(way.reader_asleep && way.writer_asleep), "both sleep");
}

#[test]
fn random_steps_agree_with_the_model() {
    for seed in 0..if SLOW { 4 } else { 24 } {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let (left, right) = [(0, 0), (1, 0), (0, 2), (4, 1)][rng.usize(0..4)];
        let start = if seed % 2 == 0 {
            0
        } else {
            u32::MAX - rng.u32(0..5000)
        };
        let (_control, mut server, mut client) = pair(left, right, start);
        let bytes = |n: usize, small| if n == 0 { small } else { n * PAGE_SIZE };
        let (mut to_server, mut to_client) = (Way::default(), Way::default());
        for _ in 0..if SLOW { 10 } else { 4000 } {
            let (l, r) = (bytes(left, 1024), bytes(right, 2048));
            step(&mut client, &mut server, &mut to_server, l, &mut rng);
            step(&mut server, &mut client, &mut to_client, r, &mut rng);
        }
    }
}

#[test]
fn a_peers_index_beyond_the_buffer_is_fatal_and_stays_so() {
    // right.prod, as the client reads it; left.cons, as it writes against it.
    let (control, _server, mut client) = pair(0, 0, 0);
    control.store(12, 2049);
    let error = client.read(&mut [0; 8]).unwrap_err();
    let expected = RingError::IndexOutOfRange {
        index: "prod",
        claimed: 2049,
        ours: 0,
        ahead: 2049,
        allowed: 2048,
        size: 2048,
    };
    assert_eq!(error, expected);
    control.store(12, 1);
    assert_eq!(client.write(b"x"), Err(expected), "forgotten");
    assert_eq!(client.arm_readable(), Err(expected));

    let (control, _server, mut client) = pair(0, 0, 0);
    assert_eq!(client.write(b"abc").unwrap().bytes, 3);
    control.store(0, 4);
    assert!(
        matches!(
            client.write(b"x"),
            Err(RingError::IndexOutOfRange {
                index: "cons",
                claimed: 4,
                ours: 3,
                ..
            })
        ),
        "more was read than written"
    );
}

#[test]
fn garbage_in_the_control_page_is_an_error_or_is_bounded() {
    for seed in 0..if SLOW { 10 } else { 2000 } {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (control, mut server, _) = pair(1, 0, rng.u32(..));
        for _ in 0..8 {
            let mut junk = [0; 64];
            rng.fill(&mut junk);
            let at = rng.usize(0..60);
            control.write(at, &junk[..rng.usize(0..8)]);
            let mut into = [0; 9000];
            match server.read(&mut into) {
                Ok(moved) => assert!(moved.bytes <= 4096, "seed {seed}"),
                Err(error) => assert_eq!(server.write(b"a").unwrap_err(), error, "seed {seed}"),
            }
            if let Ok(moved) = server.write(&into) {
                assert!(moved.bytes <= 2048, "seed {seed}");
            }
            if let Ok(offer) = Offer::read(&control) {
                assert!(offer.left.len() + offer.right.len() <= 512, "seed {seed}");
            }
        }
    }
}

#[test]
fn offers_that_cannot_be_are_refused() {
    let control = pages(1);
    for (left, right, good) in [
        (10, 11, true),
        (11, 10, true),
        (10, 10, false),
        (11, 11, false),
        (9, 12, false),
        (12, 21, false),
        (12, 12, true),
        (20, 20, true),
        // 256 grants do not fit below the buffer at 1024.
        (10, 20, false),
        (11, 20, true),
        (0xffff, 0xffff, false),
    ] {
        control.write(LEFT_ORDER, &u16::to_le_bytes(left));
        control.write(RIGHT_ORDER, &u16::to_le_bytes(right));
        assert_eq!(Offer::read(&control).is_ok(), good, "{left} and {right}");
    }
    let three = Buffer::Pages(pages(3));
    assert!(Stream::server(pages(1), three, Buffer::Small, &[GrantRef(1); 3]).is_err());
    assert!(Stream::server(pages(1), Buffer::Small, Buffer::Small, &[]).is_err());
    let (control, ..) = pair(1, 0, 0);
    let offer = Offer::read(&control).unwrap();
    assert!(
        Stream::client(control.clone(), &offer, None, None).is_err(),
        "no left buffer"
    );
    assert!(
        Stream::client(control, &offer, Some(pages(2)), None).is_err(),
        "too large"
    );
}

#[test]
fn a_closed_end_is_seen_and_its_bytes_are_not_lost() {
    let (control, server, mut client) = pair(0, 0, 0);
    assert_eq!(
        client.write(b"last words").unwrap(),
        Moved {
            bytes: 10,
            notify: true
        }
    );
    client.close();
    assert_eq!(server.peer(), Peer::Gone);
    let mut server = server;
    let mut into = [0; 32];
    assert_eq!(server.read(&mut into).unwrap().bytes, 10);
    assert_eq!(&into[..10], b"last words");
    // Another client goes on where the first stopped.
    let offer = Offer::read(&control).unwrap();
    let mut client = Stream::client(control, &offer, None, None).unwrap();
    assert_eq!(client.write(b"more").unwrap().bytes, 4);
    assert_eq!(server.read(&mut into).unwrap().bytes, 4);
    assert_eq!(&into[..4], b"more");
    server.close();
    assert_eq!(client.peer(), Peer::Gone);
}

/// The first seed whose garbage makes `look` believe in more than the buffer holds.
fn believes(look: impl Fn(&Page, &mut Stream) -> Result<usize, RingError>) -> Option<u64> {
    (0..200).find(|&seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (control, mut server, _) = pair(0, 0, rng.u32(..));
        control.store(4, rng.u32(..));
        look(&control, &mut server).is_ok_and(|bytes| bytes > 1024)
    })
}

#[test]
fn a_reader_without_the_check_is_caught() {
    assert_eq!(believes(|_, server| server.readable()), None);
    let unchecked = |control: &Page, server: &mut Stream| {
        Ok(control.load(4).wrapping_sub(server.incoming.ours) as usize)
    };
    assert!(believes(unchecked).is_some(), "the judge sees nothing");
}
