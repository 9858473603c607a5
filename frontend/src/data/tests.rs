//! The data path against a scripted back end on the simulated Xen, honest and not.

use super::*;
use crate::config::FrontConfig;
use crate::link::Bell;
use crate::machine::{IoError, Limits};
use libgnt::event::{Channel, Events};
use libgnt::grant::{Granter, Ledger, Map, Mapper};
use libgnt::proto::blkif::nodes::BACK_ALIVE_BYTE;
use libgnt::proto::blkif::{Operation, Status, X86_64};
use libgnt::ring::{BackRing, RingError};
use libgnt::sim::client::join;
use libgnt::sim::host::{HostThread, NoServices};
use libgnt::{Access, DomId, ForeignGrant};
use pv_xenstore::toolstack::DeviceId;
use std::sync::atomic::Ordering;

const FRONT: DomId = DomId(5);
const BACK: DomId = DomId(3);
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything in one process, as two domains. Fields drop in order; the host goes last.
struct Bench {
    back: Back,
    link: Link,
    data: DataPath,
    front_ledger: Ledger,
    _front_bell: Bell,
    _granter: Granter,
    _host: HostThread,
    _dir: tempfile::TempDir,
}

/// A back end by hand.
struct Back {
    ring: BackRing<X86_64>,
    ring_map: Map,
    channel: Channel,
    events: Events,
    mapper: Mapper,
}

impl Back {
    fn next(&mut self) -> blkif::Request {
        self.ring
            .pop()
            .expect("an honest front")
            .expect("a request")
    }

    fn map(&self, request: &blkif::Request) -> Map {
        let access = match request.operation {
            Operation::Read => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        let grant = |s: &blkif::Segment| ForeignGrant {
            domid: FRONT,
            gref: s.grant(),
        };
        let grants: Vec<_> = request.segments.iter().map(grant).collect();
        self.mapper.map(&grants, access).expect("map")
    }

    /// Unmaps, and waits until the hypervisor has.
    fn unmap(map: Map) {
        map.unmap()
            .expect("unmap")
            .wait(PATIENCE)
            .expect("released");
    }

    fn answer(&mut self, request: &blkif::Request, status: Status) {
        let operation = request.operation.number();
        self.ring.push(&Response {
            id: request.id,
            operation,
            status,
        });
        let _ = self.ring.publish();
    }
}

fn disk(persistent: bool) -> DiskInfo {
    DiskInfo {
        sectors: 1 << 20,
        sector_size: 512,
        physical_sector_size: 512,
        read_only: false,
        flush: true,
        persistent,
    }
}

impl Bench {
    fn new(verify: bool) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let host = HostThread::start(dir.path(), Default::default(), Box::new(NoServices));
        let host = host.expect("host");
        let front = join(dir.path(), Some(FRONT), "front").expect("front");
        let back = join(dir.path(), Some(BACK), "back").expect("back");
        let ledger = Ledger::new();
        let config = FrontConfig::new(Arc::clone(&front), DeviceId(51712));
        let granter = Granter::open(Arc::clone(&front), ledger.clone()).expect("gntalloc");
        let front_bell = Bell::new(Events::open(&*front).expect("evtchn"));
        let mut link = Link::prepare(&config, &granter, &front_bell, BACK, 353).expect("link");
        let mapper = Mapper::open(Arc::clone(&back), Ledger::new()).expect("gntdev");
        let ring_grant = ForeignGrant {
            domid: FRONT,
            gref: link.ring_grant(),
        };
        let ring_map = mapper.map(&[ring_grant], Access::ReadWrite).expect("ring");
        let events = Events::open(&*back).expect("evtchn");
        let channel = events
            .bind_interdomain(FRONT, link.channel.port())
            .expect("channel");
        ring_map
            .set_unmap_notify(Some(BACK_ALIVE_BYTE), Some(channel.port()))
            .expect("notify");
        ring_map
            .pages()
            .store_u8(BACK_ALIVE_BYTE, 1, Ordering::Release);
        let ring = BackRing::attach(Arc::clone(ring_map.pages()), X86_64);
        let machine = FrontMachine::new(Limits {
            queue: 64,
            deadline: PATIENCE,
        });
        let mut data = DataPath::new(machine, front, verify, Tell::new(None));
        link.watch_back();
        data.connected(&mut link, disk(false), 51712);
        Bench {
            back: Back {
                ring,
                ring_map,
                channel,
                events,
                mapper,
            },
            link,
            data,
            front_ledger: ledger,
            _front_bell: front_bell,
            _granter: granter,
            _host: host,
            _dir: dir,
        }
    }

    fn submit(&mut self, io: Io) -> blkif::Request {
        self.data.submit(io, 7).expect("accepted");
        self.data.push(&mut self.link);
        self.back.next()
    }

    fn done(&mut self) -> Completion {
        self.data.pop(&mut self.link);
        self.data.next_completion().expect("a completion")
    }
}

#[test]
fn bytes_arrive_on_both_sides() {
    let mut bench = Bench::new(true);
    let data: Vec<u8> = (0..5120u32).map(|n| (n % 251) as u8).collect();
    let request = bench.submit(Io::write(4096, data.clone()));
    assert_eq!((request.sector, request.segments.len()), (8, 2));
    let rung = bench.back.events.wait(PATIENCE).expect("an event");
    assert_eq!(rung, [bench.back.channel.port()]);
    let map = bench.back.map(&request);
    let mut seen = vec![0; data.len()];
    map.pages().read(0, &mut seen);
    assert_eq!(seen, data);
    Back::unmap(map);
    bench.back.answer(&request, Status::Okay);
    assert!(bench.done().result.is_ok());

    let request = bench.submit(Io::read(0, 1536));
    let map = bench.back.map(&request);
    map.pages().write(0, &data[..1536]);
    Back::unmap(map);
    bench.back.answer(&request, Status::Okay);
    let done = bench.done();
    assert_eq!((done.tag, done.result), (7, Ok(())));
    assert_eq!(done.data, data[..1536]);
    assert_eq!(bench.data.counters.verifications, 2);
}

#[test]
fn a_written_page_cannot_be_mapped_writable() {
    let mut bench = Bench::new(false);
    let request = bench.submit(Io::write(0, vec![1; 4096]));
    let grant = ForeignGrant {
        domid: FRONT,
        gref: request.segments[0].grant(),
    };
    bench
        .back
        .mapper
        .map(&[grant], Access::ReadWrite)
        .expect_err("granted read-only");
}

#[test]
fn an_answer_before_the_unmap_is_fatal_where_it_can_be_seen() {
    let mut bench = Bench::new(true);
    let request = bench.submit(Io::read(0, 4096));
    let map = bench.back.map(&request);
    bench.back.answer(&request, Status::Okay);
    let grant = request.segments[0].grant();
    let error = ProtocolError::StillMapped {
        id: request.id,
        grant,
    };
    assert_eq!(
        bench.done().result,
        Err(IoError::Device(DeviceError::Protocol(error)))
    );
    assert_eq!(bench.data.take_fatal(), Some(error));
    // The page is in nobody's pool: it is set aside when the connection ends.
    let Bench { link, .. } = bench;
    let left: Vec<_> = link.end().iter().flat_map(|s| s.grefs().to_vec()).collect();
    assert!(left.contains(&grant), "{left:?}");
    drop(map);
}

/// The check above is what finds it: a real kernel does not say who maps a page of gntalloc's.
#[test]
fn without_the_check_an_early_answer_passes() {
    let mut bench = Bench::new(false);
    let request = bench.submit(Io::read(0, 4096));
    let map = bench.back.map(&request);
    bench.back.answer(&request, Status::Okay);
    assert_eq!(bench.done().result, Ok(()));
    drop(map);
}

#[test]
fn a_response_index_out_of_range_is_fatal() {
    let mut bench = Bench::new(false);
    bench.submit(Io::read(0, 4096));
    let rsp_prod = libgnt::ring::layout::RSP_PROD;
    bench
        .back
        .ring_map
        .pages()
        .store_u32(rsp_prod, 1000, Ordering::Release);
    let result = bench.done().result;
    let Err(IoError::Device(DeviceError::Protocol(ProtocolError::Ring(error)))) = result else {
        panic!("{result:?}");
    };
    assert!(
        matches!(error, RingError::IndexOutOfRange { claimed: 1000, .. }),
        "{error}"
    );
}

#[test]
fn an_unknown_id_a_wrong_operation_and_a_second_answer_are_fatal() {
    type Lie = fn(&blkif::Request) -> Response;
    let lies: [Lie; 3] = [
        |r| Response {
            id: r.id ^ 1,
            operation: 0,
            status: Status::Okay,
        },
        |r| Response {
            id: r.id,
            operation: 1,
            status: Status::Okay,
        },
        |r| Response {
            id: r.id + 256,
            operation: 0,
            status: Status::Okay,
        },
    ];
    for lie in lies {
        let mut bench = Bench::new(false);
        let request = bench.submit(Io::read(0, 512));
        bench.back.ring.push(&lie(&request));
        let _ = bench.back.ring.publish();
        let result = bench.done().result;
        let fatal = matches!(result, Err(IoError::Device(DeviceError::Protocol(_))));
        assert!(fatal, "{result:?}");
        let refused = bench.data.submit(Io::read(0, 512), 1).expect_err("closed");
        assert!(matches!(refused.error, IoError::Device(_)), "{refused}");
    }
}

#[test]
fn a_back_end_that_vanishes_is_noticed_and_its_requests_kept() {
    let mut bench = Bench::new(false);
    let request = bench.submit(Io::write(512, vec![9; 512]));
    let held = bench.back.map(&request);
    assert!(bench.link.back_alive());
    let Back { ring, ring_map, .. } = bench.back;
    drop((ring, ring_map));
    assert!(!bench.link.back_alive());
    bench.data.back_gone();
    assert!(!bench.data.has_completions(), "the write is kept");
    assert_eq!(bench.data.machine().pending(), 1);
    let in_use = request.segments[0].grant();
    let left: Vec<_> = bench.link.end();
    assert!(
        left.iter().any(|share| share.grefs().contains(&in_use)),
        "{left:?}"
    );
    drop(held);
    drop(left);
    assert!(bench.front_ledger.counts().is_empty());
}
