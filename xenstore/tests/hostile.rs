//! The client and a daemon that does whatever it likes, over a socket pair.
#![allow(clippy::unwrap_used, reason = "a test")]

use pv_xenstore::client::{EVENTS_MAX, Request};
use pv_xenstore::wire::{Decoder, Kind, Packet};
use pv_xenstore::{Client, Error};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The other end.
struct Daemon {
    stream: UnixStream,
    decoder: Decoder,
}

fn pair() -> (Client, Daemon) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(SOON)).unwrap();
    theirs.set_write_timeout(Some(SOON)).unwrap();
    let client = Client::from_stream(ours.into()).unwrap();
    client.set_deadline(SOON);
    let decoder = Decoder::new();
    let stream = theirs;
    (client, Daemon { stream, decoder })
}

impl Daemon {
    fn hear(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.decoder.next_packet().unwrap() {
                return packet;
            }
            let mut bytes = [0; 4096];
            let n = self.stream.read(&mut bytes).expect("in time");
            assert_ne!(n, 0, "the client is gone");
            self.decoder.push(&bytes[..n]);
        }
    }

    fn say(&mut self, kind: Kind, req_id: u32, payload: &str) {
        let packet = Packet::new(kind, req_id, 0, payload);
        self.stream.write_all(&packet.encode()).unwrap();
    }
}

#[test]
fn a_slow_answer_holds_up_nobody_else() {
    let (client, mut daemon) = pair();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| client.read("slow"));
        let first = daemon.hear();
        let quick = scope.spawn(|| client.read("quick"));
        let second = daemon.hear();
        daemon.say(Kind::Read, second.req_id, "quick");
        assert_eq!(quick.join().unwrap().unwrap(), b"quick");
        assert!(!slow.is_finished());
        daemon.say(Kind::Read, first.req_id, "slow");
        assert_eq!(slow.join().unwrap().unwrap(), b"slow");
    });
}

/// The thread that reads for all gives up; another one goes on reading.
#[test]
fn a_timeout_of_one_thread_is_no_other_threads() {
    let (client, mut daemon) = pair();
    std::thread::scope(|scope| {
        client.set_deadline(Duration::from_millis(30));
        let hasty = scope.spawn(|| client.read("hasty"));
        let late = daemon.hear();
        client.set_deadline(SOON);
        let patient = scope.spawn(|| client.read("patient"));
        let asked = daemon.hear();
        let error = hasty.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        daemon.say(Kind::Read, late.req_id, "late");
        daemon.say(Kind::Read, asked.req_id, "right");
        assert_eq!(patient.join().unwrap().unwrap(), b"right");
    });
}

#[test]
fn an_answer_is_never_stuck_behind_events_and_they_are_bounded() {
    let (client, mut daemon) = pair();
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| client.read("x"));
        let id = daemon.hear().req_id;
        let mut flood = Vec::new();
        for n in 0..50_000 {
            let path = format!("p/{}", n % (2 * EVENTS_MAX));
            flood.extend(Packet::watch_event(path.as_bytes(), b"t").encode());
        }
        daemon.stream.write_all(&flood).unwrap();
        daemon.say(Kind::Read, id, "answer");
        assert_eq!(asks.join().unwrap().unwrap(), b"answer");
    });
    let mut events = 0;
    let lost = loop {
        match client.next_watch_event() {
            Ok(Some(_)) => events += 1,
            Ok(None) => break false,
            Err(Error::EventsLost { .. }) => break true,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((events, lost), (EVENTS_MAX, true));
}

#[test]
fn nonsense_ends_the_connection_for_everybody_and_the_process_for_nobody() {
    let garbage: [&[u8]; 4] = [
        &[0xff; 64],
        &[2u32, 1, 0, 4097].map(u32::to_ne_bytes).concat(),
        &Packet::new(Kind::Read, 12345, 0, "unasked").encode(),
        &Packet::new(Kind::WatchEvent, 0, 0, "no end").encode(),
    ];
    for garbage in garbage {
        let (client, mut daemon) = pair();
        let watch = std::thread::scope(|scope| {
            let asks: Vec<_> = (0..4).map(|_| scope.spawn(|| client.read("x"))).collect();
            let waits = scope.spawn(|| client.wait_watch_event(SOON));
            for _ in 0..4 {
                daemon.hear();
            }
            daemon.stream.write_all(garbage).unwrap();
            for ask in asks {
                let error = ask.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::Disconnected { .. }), "{error}");
            }
            waits.join().unwrap()
        });
        assert!(matches!(watch, Err(Error::Disconnected { .. })));
        let after = client.submit(Request::read("x"));
        assert!(matches!(after, Err(Error::Disconnected { .. })));
        assert!(client.drive().is_err());
    }
}

#[test]
fn what_came_before_the_end_counts() {
    let (client, mut daemon) = pair();
    let ticket = client.submit(Request::read("x")).unwrap();
    let id = daemon.hear().req_id;
    daemon.say(Kind::Read, id, "last words");
    drop(daemon);
    assert_eq!(ticket.wait(SOON).unwrap(), b"last words");
    assert!(matches!(client.read("x"), Err(Error::Disconnected { .. })));
}

#[test]
fn names_of_errors_that_nobody_knows_keep_their_text() {
    let (client, mut daemon) = pair();
    for (said, errno, shown) in [
        ("EAGAIN\0", Errno::AGAIN, None),
        ("EQUOTA\0", Errno::DQUOT, Some("EQUOTA")),
        ("EWHATEVER\0", Errno::IO, Some("EWHATEVER")),
        ("", Errno::IO, Some("")),
    ] {
        let ticket = client.submit(Request::write("some/path", "1")).unwrap();
        let id = daemon.hear().req_id;
        daemon.say(Kind::Error, id, said);
        let error = ticket.wait(SOON).unwrap_err();
        assert_eq!(error.errno(), Some(errno));
        let text = error.to_string();
        assert!(text.contains("write some/path"), "{text}");
        match shown {
            Some(shown) => assert!(text.contains(&format!("\"{shown}\"")), "{text}"),
            None => assert!(!text.contains('"'), "{text}"),
        }
    }
}

/// A daemon that reads nothing for a while, and then byte by byte: what was sent in parts arrives whole.
#[test]
fn partial_writes_and_reads() {
    let (client, daemon) = pair();
    let mut tickets = Vec::new();
    let value = vec![b'v'; 2000];
    let sent = loop {
        match client.submit(Request::write("some/path", &value)) {
            Ok(ticket) => tickets.push(ticket),
            Err(Error::Busy { .. }) => break tickets.len(),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(client.wants_room(), "{sent} requests, and all went out");
    let answers = std::thread::spawn(move || {
        let Daemon {
            mut stream,
            mut decoder,
        } = daemon;
        let mut byte = [0; 7];
        for _ in 0..sent {
            let packet = loop {
                if let Some(packet) = decoder.next_packet().unwrap() {
                    break packet;
                }
                let n = stream.read(&mut byte).unwrap();
                decoder.push(&byte[..n]);
            };
            assert_eq!(packet.payload.len(), "some/path".len() + 1 + 2000);
            for byte in Packet::new(Kind::Write, packet.req_id, 0, "OK\0").encode() {
                stream.write_all(&[byte]).unwrap();
            }
        }
    });
    for ticket in tickets {
        assert_eq!(ticket.wait(SOON).unwrap(), b"OK\0");
    }
    answers.join().unwrap();
    assert!(!client.wants_room());
}

/// One thread is blocked in a request while a loop drives the same connection, and takes its answer in.
#[test]
fn whoever_takes_an_answer_in_wakes_whose_it_is() {
    let (client, mut daemon) = pair();
    std::thread::scope(|scope| {
        for n in 0..200 {
            let asks = scope.spawn(|| client.read("x"));
            let id = daemon.hear().req_id;
            daemon.say(Kind::Read, id, &n.to_string());
            while !asks.is_finished() {
                client.drive().unwrap();
                std::thread::yield_now();
            }
            assert_eq!(asks.join().unwrap().unwrap(), n.to_string().as_bytes());
        }
    });
}

/// UNWATCH is sent when a watch is dropped, without waiting, even on a connection that has no room.
#[test]
fn a_dropped_watch_is_taken_back_as_soon_as_there_is_room() {
    let (client, mut daemon) = pair();
    let watch = std::thread::scope(|scope| {
        let watches = scope.spawn(|| client.watching("w"));
        let id = daemon.hear().req_id;
        daemon.say(Kind::Watch, id, "OK\0");
        watches.join().unwrap().unwrap()
    });
    let mut tickets = Vec::new();
    while let Ok(ticket) = client.submit(Request::read("x")) {
        tickets.push(ticket);
    }
    drop(watch);
    let (mut reads, mut unwatched) = (Vec::new(), false);
    for _ in 0..tickets.len() {
        client.drive().unwrap();
        reads.push(daemon.hear().req_id);
    }
    for id in reads {
        daemon.say(Kind::Read, id, "");
        client.drive().unwrap();
    }
    for ticket in tickets {
        ticket.wait(SOON).unwrap();
        client.drive().unwrap();
    }
    while !unwatched {
        unwatched = daemon.hear().known_kind() == Some(Kind::Unwatch);
    }
}

/// Transaction 0 is none: what was meant to be in one would be done at once.
#[test]
fn a_transaction_without_an_id_is_refused() {
    for id in ["0\0", "", "x\0", "4294967296\0"] {
        let (client, mut daemon) = pair();
        std::thread::scope(|scope| {
            let begins = scope.spawn(|| client.begin());
            let asked = daemon.hear().req_id;
            daemon.say(Kind::TransactionStart, asked, id);
            let error = begins.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Protocol { .. }), "{error}");
        });
    }
}

/// Parts of a directory that never end, or make no sense.
#[test]
fn a_directory_that_never_ends_does() {
    let endless = format!("1\0{}", "name\0".repeat(800));
    for (part, goes_on) in [("no generation", false), ("1\0", false), (&*endless, true)] {
        let (client, mut daemon) = pair();
        client.set_deadline(SOON);
        std::thread::scope(|scope| {
            let lists = scope.spawn(|| client.directory("d"));
            let id = daemon.hear().req_id;
            daemon.say(Kind::Error, id, "E2BIG\0");
            while let Ok(Some(packet)) = daemon.hear_or_end() {
                daemon.say(Kind::DirectoryPart, packet.req_id, part);
                if !goes_on || lists.is_finished() {
                    break;
                }
            }
            let error = lists.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Protocol { .. }), "{error}");
        });
    }
}

impl Daemon {
    /// As `hear`; `None` if nothing comes for a while.
    fn hear_or_end(&mut self) -> std::io::Result<Option<Packet>> {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(200)))?;
        loop {
            if let Some(packet) = self.decoder.next_packet().unwrap() {
                return Ok(Some(packet));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes)? {
                0 => return Ok(None),
                n => self.decoder.push(&bytes[..n]),
            }
        }
    }
}
