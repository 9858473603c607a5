//! The block codec: every byte pattern, and libxen-dev's `io/blkif.h` as the oracle.
#![allow(clippy::unwrap_used, reason = "a test")]

use libgnt::proto::blkif::{
    MAX_SEGMENTS, Malformed, Operation, Request, RequestRef, Response, Segment, Segments, Status,
    X86_32, X86_64,
};
use libgnt::ring::{SlotCodec, SlotCopy, SlotWriter};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::path::Path;
use std::process::Command;

fn segment() -> impl Strategy<Value = Segment> {
    (any::<u32>(), 0u8..8, 0u8..8).prop_map(|(gref, a, b)| Segment {
        gref,
        first_sector: a.min(b),
        last_sector: a.max(b),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let data = || prop::collection::vec(segment(), 1..=MAX_SEGMENTS);
    let kind = prop_oneof![
        data().prop_map(|s| (Operation::Read, s)),
        data().prop_map(|s| (Operation::Write, s)),
        Just((Operation::Flush, vec![])),
    ];
    (kind, any::<u16>(), any::<u64>(), any::<u64>()).prop_map(
        |((operation, segments), handle, id, sector)| Request {
            operation,
            handle,
            id,
            sector,
            segments: segments.into_iter().collect(),
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let status = prop_oneof![
        Just(Status::Okay),
        Just(Status::Error),
        Just(Status::NotSupported)
    ];
    (any::<u64>(), any::<u8>(), status).prop_map(|(id, operation, status)| Response {
        id,
        operation,
        status,
    })
}

fn round_trip<C: SlotCodec<Request = Request, Response = Response>>(
    codec: &C,
    request: &Request,
    response: &Response,
) {
    let mut slot = vec![0xff; C::SLOT_BYTES];
    let len = codec.encode_request(request, &mut slot[..]);
    let copy = SlotCopy::from(&slot[..]);
    let decoded = codec.decode_request(&copy).map(Into::into);
    assert_eq!(decoded.as_ref(), Ok(request));
    let header = C::SLOT_BYTES - MAX_SEGMENTS * 8;
    assert_eq!(len, header + request.segments.len() * 8);
    // Whatever was in the buffer must not show through the padding.
    for segment in slot[header..len].chunks_exact(8) {
        assert_eq!(segment[6..], [0, 0]);
    }
    if C::SLOT_BYTES == 112 {
        assert_eq!(slot[4..8], [0; 4]);
    }
    let mut slot = vec![0xff; C::RESPONSE_BYTES];
    codec.encode_response(response, &mut slot[..]);
    let copy = SlotCopy::from(&slot[..]);
    assert_eq!(codec.decode_response(&copy).as_ref(), Ok(response));
    assert_eq!(slot[9], 0, "padding");
    assert!(
        slot[12..].iter().all(|&byte| byte == 0),
        "padding: {slot:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(0x626c6b),
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_is_encoded_is_decoded(request in request(), response in response()) {
        round_trip(&X86_64, &request, &response);
        round_trip(&X86_32, &request, &response);
    }
}

/// What any slot must decode to, said once more and differently: by the fields' raw bytes.
fn judge<C: SlotCodec<Request = Request, Response = Response>>(
    codec: &C,
    slot: &[u8],
) -> Result<(), String> {
    let id_at = if C::SLOT_BYTES == 112 { 8 } else { 4 };
    let copy = SlotCopy::from(slot);
    let request: Request = codec.decode_request(&copy)?.into();
    let check = |what, good| {
        if good {
            Ok(())
        } else {
            Err(format!("{what}: {request:?}"))
        }
    };
    let (number, count) = (slot[0], usize::from(slot[1]));
    check("number", request.operation.number() == number)?;
    check("id", request.id.to_le_bytes() == slot[id_at..id_at + 8])?;
    let raw: Vec<&[u8]> = slot[id_at + 16..].chunks_exact(8).take(count).collect();
    let geometry = raw.iter().all(|s| s[4] <= s[5] && s[5] < 8);
    let good = match number {
        0 | 1 => (1..=11).contains(&count) && geometry,
        3 => count == 0,
        _ => false,
    };
    match request.operation {
        Operation::Read | Operation::Write | Operation::Flush => {
            check("accepted", good)?;
            check("segments", request.segments.len() == count)?;
            check("length", request.data_len() <= 11 * 4096)
        }
        Operation::Malformed { .. } => {
            check("refused", !good && matches!(number, 0 | 1 | 3))?;
            check("segments of a refused request", request.segments.is_empty())
        }
        Operation::Other(_) => check("known", !matches!(number, 0 | 1 | 3)),
    }
}

/// Slots of noise, and slots that are nearly right.
fn noise(rng: &mut fastrand::Rng, slot: &mut [u8]) {
    rng.fill(slot);
    if rng.bool() {
        slot[0] = rng.u8(0..8);
        slot[1] = rng.u8(0..14);
        let header = if slot.len() == 112 { 24 } else { 20 };
        for segment in slot[header..].chunks_exact_mut(8) {
            segment[4] = rng.u8(0..8);
            segment[5] = if rng.u8(0..20) == 0 {
                rng.u8(..)
            } else {
                rng.u8(segment[4]..8)
            };
        }
    }
}

#[test]
fn any_bytes_decode_to_something_that_can_be_answered() {
    const SEED: u64 = 0x62_6c_6b_69_66;
    let mut rng = fastrand::Rng::with_seed(SEED);
    let (mut accepted, mut refused) = (0, 0);
    for n in 0..200_000 {
        let mut slot = [0; 112];
        noise(&mut rng, &mut slot);
        judge(&X86_64, &slot).unwrap_or_else(|e| panic!("seed {SEED}, slot {n}: {e}"));
        match X86_64
            .decode_request(&SlotCopy::from(&slot[..]))
            .unwrap()
            .operation
        {
            Operation::Malformed { .. } | Operation::Other(_) => refused += 1,
            _ => accepted += 1,
        }
        let mut slot = [0; 108];
        noise(&mut rng, &mut slot);
        judge(&X86_32, &slot).unwrap_or_else(|e| panic!("seed {SEED}, slot {n}: {e}"));
        // Responses too.
        let response = X86_64.decode_response(&SlotCopy::from(&slot[..]));
        assert_eq!(response.unwrap().operation, slot[8]);
    }
    assert!(
        accepted > 1000 && refused > 1000,
        "{accepted} accepted, {refused} refused"
    );
}

/// Every value of the bytes that decide, the others right.
#[test]
fn every_operation_count_and_sector_pair() {
    let good = Request {
        operation: Operation::Write,
        handle: 1,
        id: 2,
        sector: 3,
        segments: [Segment {
            gref: 4,
            first_sector: 1,
            last_sector: 6,
        }; 11]
            .into_iter()
            .collect(),
    };
    let mut slot = [0; 112];
    X86_64.encode_request(&good, &mut slot[..]);
    for first in 0..=255 {
        for second in 0..=255 {
            let mut operation = slot;
            (operation[0], operation[1]) = (first, second);
            judge(&X86_64, &operation).unwrap();
            let mut sectors = slot;
            (sectors[24 + 80 + 4], sectors[24 + 80 + 5]) = (first, second);
            judge(&X86_64, &sectors).unwrap();
        }
    }
}

/// Each place of each count, with noise where no segment is meant: what an earlier request left.
#[test]
fn every_segment_that_is_meant_is_judged_and_no_other() {
    const PAIRS: [(u8, u8); 10] = [
        (0, 0),
        (7, 7),
        (0, 7),
        (3, 2),
        (7, 0),
        (8, 8),
        (0, 8),
        (255, 0),
        (255, 255),
        (128, 7),
    ];
    fn check<C: SlotCodec<Request = Request, Response = Response>>(codec: &C) {
        let header = C::SLOT_BYTES - MAX_SEGMENTS * 8;
        for count in 1..=MAX_SEGMENTS {
            for place in 0..MAX_SEGMENTS {
                for (first, last) in PAIRS {
                    let mut slot = vec![0xff; C::SLOT_BYTES];
                    (slot[0], slot[1]) = (1, count as u8);
                    for n in 0..count {
                        (slot[header + n * 8 + 4], slot[header + n * 8 + 5]) = (2, 5);
                    }
                    (slot[header + place * 8 + 4], slot[header + place * 8 + 5]) = (first, last);
                    let case = format!("{place} of {count}: {first} to {last}");
                    judge(codec, &slot).unwrap_or_else(|e| panic!("{case}: {e}"));
                    let copy = SlotCopy::from(&slot[..]);
                    let refused = codec
                        .decode_request(&copy)
                        .map(Into::<Request>::into)
                        .unwrap();
                    let expected = place < count && (first > last || last > 7);
                    match refused.operation {
                        Operation::Write => assert!(!expected, "{case} was accepted"),
                        Operation::Malformed {
                            why: Malformed::SegmentRange { segment, .. },
                            ..
                        } => assert!(expected && usize::from(segment) == place, "{case}"),
                        other => panic!("{case}: {other:?}"),
                    }
                }
            }
        }
    }
    check(&X86_64);
    check(&X86_32);
}

/// Segments that were removed leave no trace.
#[test]
fn requests_are_equal_if_their_segments_are() {
    let one = |gref| Segment {
        gref,
        first_sector: 1,
        last_sector: 2,
    };
    let mut reused: Segments = (0..11).map(one).collect();
    assert!(!reused.push(one(11)), "eleven are all");
    reused.clear();
    assert!(reused.is_empty() && reused.push(one(7)));
    assert_eq!(reused, Segments::from_iter([one(7)]));
    assert_ne!(reused, Segments::from_iter([one(8)]));
    assert_eq!(reused[..], [one(7)]);
}

/// The two ways to write a request.
#[test]
fn a_request_written_in_pieces_is_the_same() {
    for count in [0, 1, 4, 11, 12, 300] {
        let segments = (0..count).map(|gref| Segment {
            gref,
            first_sector: 1,
            last_sector: 2,
        });
        let whole = Request {
            operation: Operation::Write,
            handle: 51712,
            id: 9,
            sector: 8,
            segments: segments.clone().collect(),
        };
        let pieces = Request {
            operation: Operation::Write,
            handle: 51712,
            id: 9,
            sector: 8,
            segments,
        };
        let mut slots = [[0xa5; 112]; 2];
        let lengths = (
            X86_64.encode_request(&whole, &mut slots[0][..]),
            X86_64.write_request(pieces, &mut slots[1][..]),
        );
        assert_eq!(lengths.0, lengths.1);
        assert_eq!(slots[0], slots[1]);
    }
}

/// A codec that accepts what it should refuse: the judge must say so.
struct Credulous;
impl SlotCodec for Credulous {
    type Request = Request;
    type RequestRef<'a> = RequestRef<'a>;
    type Response = Response;
    const SLOT_BYTES: usize = 112;
    fn encode_request<W: SlotWriter + ?Sized>(&self, request: &Request, slot: &mut W) -> usize {
        X86_64.encode_request(request, slot)
    }
    fn decode_request<'a>(&self, slot: &'a SlotCopy) -> Result<RequestRef<'a>, &'static str> {
        let mut request = X86_64.decode_request(slot)?;
        if let Operation::Malformed {
            number: 1,
            why: Malformed::SegmentRange { .. },
        } = request.operation
        {
            request.operation = Operation::Write;
        }
        Ok(request)
    }
    fn encode_response<W: SlotWriter + ?Sized>(&self, response: &Response, slot: &mut W) {
        X86_64.encode_response(response, slot);
    }
    fn decode_response(&self, slot: &SlotCopy) -> Result<Response, &'static str> {
        X86_64.decode_response(slot)
    }
}

#[test]
fn a_codec_that_believes_sector_numbers_is_caught() {
    let mut rng = fastrand::Rng::with_seed(1);
    let caught = (0..10_000).any(|_| {
        let mut slot = [0; 112];
        noise(&mut rng, &mut slot);
        judge(&Credulous, &slot).is_err()
    });
    assert!(caught);
}

#[test]
fn refusals_name_their_reason_and_keep_the_id() {
    let decode = |operation: u8, count: u8, first: u8, last: u8| {
        let mut slot = [0; 112];
        (slot[0], slot[1], slot[8], slot[28], slot[29]) = (operation, count, 77, first, last);
        let copy = SlotCopy::from(&slot[..]);
        let request = Request::from(X86_64.decode_request(&copy).unwrap());
        assert_eq!(request.id, 77);
        request
    };
    let why = |request: Request| match request.operation {
        Operation::Malformed { why, .. } => why,
        other => panic!("{other:?} was accepted"),
    };
    assert_eq!(why(decode(0, 0, 0, 7)), Malformed::SegmentCount(0));
    assert_eq!(why(decode(1, 12, 0, 7)), Malformed::SegmentCount(12));
    let range = Malformed::SegmentRange {
        segment: 0,
        first: 3,
        last: 2,
    };
    assert_eq!(why(decode(1, 1, 3, 2)), range);
    assert_eq!(
        range.to_string(),
        "segment 0 has sectors 3 to 2; a page has 0 to 7"
    );
    assert!(matches!(
        why(decode(0, 1, 0, 8)),
        Malformed::SegmentRange { last: 8, .. }
    ));
    assert_eq!(why(decode(3, 1, 0, 7)), Malformed::FlushWithData(1));
    for number in [2, 4, 5, 6, 200] {
        let request = decode(number, 1, 9, 9);
        assert_eq!(request.operation, Operation::Other(number));
        let expected = Response {
            id: 77,
            operation: number,
            status: Status::NotSupported,
        };
        assert_eq!(request.response(Status::NotSupported), expected);
    }
}

// ---- the C header ----

const NEEDED: &str = "this test needs a C compiler and xen/io/blkif.h: apt install gcc libxen-dev";

/// Fills requests and responses field by field, as a C driver does, and prints their bytes.
const GOLDEN_C: &str = r#"
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/io/blkif.h>

static void dump(const char *name, const void *bytes, size_t size)
{
    printf("%s ", name);
    for (size_t i = 0; i < size; i++)
        printf("%02x", ((const unsigned char *)bytes)[i]);
    printf("\n");
}

int main(void)
{
    union blkif_sring_entry slot;
    int n;
    for (n = 1; n <= BLKIF_MAX_SEGMENTS_PER_REQUEST; n += 10) {
        memset(&slot, 0, sizeof slot);
        slot.req.operation = n == 1 ? BLKIF_OP_READ : BLKIF_OP_WRITE;
        slot.req.nr_segments = n;
        slot.req.handle = 51712;
        slot.req.id = 0x1122334455667788ull + n;
        slot.req.sector_number = 0x99aabbccddeeff00ull + n;
        for (int i = 0; i < n; i++) {
            slot.req.seg[i].gref = 0xdead0000u + i;
            slot.req.seg[i].first_sect = i % 4;
            slot.req.seg[i].last_sect = 4 + i % 4;
        }
        dump(n == 1 ? "read" : "write", &slot, sizeof slot);
    }
    memset(&slot, 0, sizeof slot);
    slot.req.operation = BLKIF_OP_FLUSH_DISKCACHE;
    slot.req.handle = 51712;
    slot.req.id = 9;
    dump("flush", &slot, sizeof slot);
    memset(&slot, 0, sizeof slot);
    slot.rsp.id = 0x0102030405060708ull;
    slot.rsp.operation = BLKIF_OP_WRITE;
    slot.rsp.status = BLKIF_RSP_OKAY;
    dump("okay", &slot, sizeof slot.rsp);
    slot.rsp.status = BLKIF_RSP_ERROR;
    dump("error", &slot, sizeof slot.rsp);
    slot.rsp.status = BLKIF_RSP_EOPNOTSUPP;
    dump("unsupported", &slot, sizeof slot.rsp);
    printf("slots %u\n", (unsigned)__CONST_RING_SIZE(blkif, 4096));
    return 0;
}
"#;

fn cc(dir: &Path, source: &str, arguments: &[&str]) {
    let file = dir.join("golden.c");
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-Wall", "-Werror"])
        .args(arguments)
        .arg(&file)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}; {NEEDED}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{compiler} {arguments:?}: {stderr}\n{NEEDED}"
    );
}

#[test]
fn slots_are_byte_for_byte_those_of_the_c_header() {
    let dir = tempfile::tempdir().unwrap();
    cc(dir.path(), GOLDEN_C, &["-o", "golden"]);
    let output = Command::new(dir.path().join("golden")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let golden = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().to_owned()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let request = |operation, n: u8| Request {
        operation,
        handle: 51712,
        id: 0x1122_3344_5566_7788 + u64::from(n),
        sector: 0x99aa_bbcc_ddee_ff00 + u64::from(n),
        segments: (0..n)
            .map(|i| Segment {
                gref: 0xdead_0000 + u32::from(i),
                first_sector: i % 4,
                last_sector: 4 + i % 4,
            })
            .collect(),
    };
    let mut slot = [0xff; 112];
    let flush = Request {
        id: 9,
        sector: 0,
        ..request(Operation::Flush, 0)
    };
    for (name, request) in [
        ("read ", request(Operation::Read, 1)),
        ("write ", request(Operation::Write, 11)),
        ("flush ", flush),
    ] {
        let len = X86_64.encode_request(&request, &mut slot[..]);
        let (used, unused) = slot.split_at_mut(len);
        // The C side zeroed its slot first.
        unused.fill(0);
        assert_eq!(hex(used) + &hex(unused), golden(name), "{name}");
    }
    let mut slot = [0xff; 16];
    for (name, status) in [
        ("okay ", Status::Okay),
        ("error ", Status::Error),
        ("unsupported ", Status::NotSupported),
    ] {
        let response = Response {
            id: 0x0102_0304_0506_0708,
            operation: 1,
            status,
        };
        X86_64.encode_response(&response, &mut slot[..]);
        assert_eq!(hex(&slot), golden(name), "{name}");
    }
    assert_eq!(
        golden("slots "),
        libgnt::ring::layout::slot_count(4096, 112).to_string()
    );
}

/// The offsets of one ABI, and those of the ring and stream headers, as assertions of C.
fn assertions(id: usize, slot: usize, response: usize) -> String {
    use libgnt::ring::{layout, stream};
    let (sector, seg) = (id + 8, id + 16);
    let equal = [
        ("sizeof(union blkif_sring_entry)", slot),
        ("sizeof(struct blkif_response)", response),
        ("offsetof(struct blkif_request, nr_segments)", 1),
        ("offsetof(struct blkif_request, handle)", 2),
        ("offsetof(struct blkif_request, id)", id),
        ("offsetof(struct blkif_request, sector_number)", sector),
        ("offsetof(struct blkif_request, seg)", seg),
        ("sizeof(struct blkif_request_segment)", 8),
        ("offsetof(struct blkif_request_segment, first_sect)", 4),
        ("offsetof(struct blkif_request_segment, last_sect)", 5),
        ("offsetof(struct blkif_response, operation)", 8),
        ("offsetof(struct blkif_response, status)", 10),
        ("__CONST_RING_SIZE(blkif, 4096)", 32),
        ("offsetof(struct blkif_sring, req_prod)", layout::REQ_PROD),
        ("offsetof(struct blkif_sring, req_event)", layout::REQ_EVENT),
        ("offsetof(struct blkif_sring, rsp_prod)", layout::RSP_PROD),
        ("offsetof(struct blkif_sring, rsp_event)", layout::RSP_EVENT),
        ("offsetof(struct blkif_sring, pvt)", layout::RESERVED),
        ("offsetof(struct blkif_sring, ring)", layout::HEADER_BYTES),
        ("offsetof(struct vchan_interface, left.cons)", 0),
        ("offsetof(struct vchan_interface, left.prod)", 4),
        ("offsetof(struct vchan_interface, right.cons)", 8),
        ("offsetof(struct vchan_interface, right.prod)", 12),
        ("offsetof(struct vchan_interface, left_order)", 16),
        ("offsetof(struct vchan_interface, right_order)", 18),
        (
            "offsetof(struct vchan_interface, cli_live)",
            stream::CLIENT_LIVE,
        ),
        (
            "offsetof(struct vchan_interface, srv_live)",
            stream::SERVER_LIVE,
        ),
        ("offsetof(struct vchan_interface, cli_notify)", 22),
        ("offsetof(struct vchan_interface, srv_notify)", 23),
        ("offsetof(struct vchan_interface, grants)", 24),
        ("VCHAN_NOTIFY_WRITE", 1),
        ("VCHAN_NOTIFY_READ", 2),
    ];
    let mut source = String::from(
        "#include <stdint.h>\n#include <stddef.h>\n#include <xen/xen.h>\n\
         #include <xen/io/blkif.h>\n#include <xen/io/libxenvchan.h>\n",
    );
    for (expression, value) in equal {
        source += &format!("_Static_assert({expression} == {value}, \"not {value}\");\n");
    }
    source
}

#[test]
fn offsets_are_those_of_the_c_headers() {
    let dir = tempfile::tempdir().unwrap();
    cc(dir.path(), &assertions(8, 112, 16), &["-fsyntax-only"]);
    let wrong = std::panic::catch_unwind(|| {
        cc(dir.path(), &assertions(4, 112, 16), &["-fsyntax-only"]);
    });
    assert!(wrong.is_err(), "the oracle accepts wrong offsets");
}

/// The 32-bit layout: the packing of xen-blkback's `struct blkif_x86_32_request`, as gcc lays it
/// out with four-byte alignment (no 32-bit C library is needed).
#[test]
fn offsets_of_the_32_bit_abi_are_those_of_the_c_headers() {
    let dir = tempfile::tempdir().unwrap();
    let source = assertions(4, 108, 12).replace(
        "#include <xen/io/blkif.h>",
        "#include <xen/grant_table.h>\n#include <xen/io/ring.h>\n#pragma pack(push, 4)\n\
         #include <xen/io/blkif.h>\n#pragma pack(pop)",
    );
    cc(dir.path(), &source, &["-fsyntax-only"]);
}
