//! C as the oracle: compiles `oracle.c` against the system's own headers and compares every ioctl
//! number, size, offset, constant and argument with ours.
//!
//! `golden.txt` keeps C's arguments byte for byte, for the unit tests of `linux`, which need no compiler.

use libgnt::PAGE_SIZE;
use libgnt::linux::abi;
use libgnt::proto::blkif::{self, Operation, Request, Response, Segment, Status, X86_32, X86_64};
use libgnt::ring::{SlotCodec, SlotCopy, layout};
use libgnt::types::{DomId, EvtchnPort, GrantRef, GrantStatus, UnmapNotify};
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::{Command, Output};

const SOURCES: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abi_oracle/oracle.c"),
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/abi_oracle/slots_x86_32.c"
    ),
];
const GOLDEN: &str = include_str!("golden.txt");

/// Compiles the oracle; C's own words on failure name the missing package.
fn compile(extra: &[&str], into: &std::path::Path) -> Output {
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    Command::new(&cc)
        .args(["-std=gnu11", "-Wall", "-Werror"])
        .args(extra)
        .arg("-o")
        .arg(into)
        .args(SOURCES)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "no C compiler ({}: {error}): install the package gcc, or set CC",
                cc.display()
            )
        })
}

/// What C says, line by line.
fn oracle() -> String {
    let dir = tempfile::tempdir().expect("temporary directory");
    let binary = dir.path().join("oracle");
    let built = compile(&[], &binary);
    assert!(
        built.status.success(),
        "cannot build the oracle (its packages are linux-libc-dev and libxen-dev):\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let run = Command::new(&binary).output().expect("run the oracle");
    assert!(run.status.success(), "the oracle failed: {run:?}");
    String::from_utf8(run.stdout).expect("text")
}

fn is_argument(line: &str) -> bool {
    line.starts_with("call ") || line.starts_with("reply ")
}

fn is_slot(line: &str) -> bool {
    line.starts_with("slot ")
}

/// C's numbers by name.
fn facts(text: &str) -> BTreeMap<String, i64> {
    text.lines()
        .filter(|line| !is_argument(line) && !is_slot(line))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("NAME VALUE");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// One struct's size and offsets: ours under C's names.
macro_rules! layout {
    ($facts:ident, $c:literal, $ours:ty { $($field:ident $(as $c_field:literal)?),* }) => {
        $facts.insert(concat!("sizeof(struct ", $c, ")").to_owned(), size_of::<$ours>() as i64);
        $({
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($field);
            $(name = $c_field;)?
            $facts.insert(format!("struct {}.{name}", $c), offset_of!($ours, $field) as i64);
        })*
    };
}

/// The same, as this library has them.
fn ours() -> BTreeMap<String, i64> {
    let mut f = BTreeMap::new();
    layout!(f, "ioctl_gntdev_grant_ref", abi::GntdevGrantRef { domid, gref as "ref" });
    layout!(
        f,
        "ioctl_gntdev_map_grant_ref",
        abi::GntdevMapGrantRef {
            count,
            pad,
            index,
            refs
        }
    );
    layout!(
        f,
        "ioctl_gntdev_unmap_grant_ref",
        abi::GntdevUnmapGrantRef { index, count, pad }
    );
    layout!(
        f,
        "ioctl_gntdev_get_offset_for_vaddr",
        abi::GntdevGetOffsetForVaddr {
            vaddr,
            offset,
            count,
            pad
        }
    );
    layout!(
        f,
        "ioctl_gntdev_set_max_grants",
        abi::GntdevSetMaxGrants { count }
    );
    layout!(
        f,
        "ioctl_gntdev_unmap_notify",
        abi::UnmapNotifyArg {
            index,
            action,
            event_channel_port
        }
    );
    layout!(
        f,
        "gntdev_grant_copy_segment",
        abi::GntdevGrantCopySegment {
            source,
            dest,
            len,
            flags,
            status
        }
    );
    layout!(
        f,
        "ioctl_gntdev_grant_copy",
        abi::GntdevGrantCopy { count, segments }
    );
    layout!(
        f,
        "ioctl_gntdev_dmabuf_exp_from_refs",
        abi::GntdevDmabufExpFromRefs {
            flags,
            count,
            fd,
            domid,
            refs
        }
    );
    layout!(
        f,
        "ioctl_gntdev_dmabuf_exp_wait_released",
        abi::GntdevDmabufExpWaitReleased { fd, wait_to_ms }
    );
    layout!(
        f,
        "ioctl_gntdev_dmabuf_imp_to_refs",
        abi::GntdevDmabufImpToRefs {
            fd,
            count,
            domid,
            reserved,
            refs
        }
    );
    layout!(
        f,
        "ioctl_gntdev_dmabuf_imp_release",
        abi::GntdevDmabufImpRelease { fd, reserved }
    );
    layout!(
        f,
        "ioctl_gntalloc_alloc_gref",
        abi::GntallocAllocGref {
            domid,
            flags,
            count,
            index,
            gref_ids
        }
    );
    layout!(
        f,
        "ioctl_gntalloc_dealloc_gref",
        abi::GntallocDeallocGref { index, count }
    );
    layout!(
        f,
        "ioctl_gntalloc_unmap_notify",
        abi::UnmapNotifyArg {
            index,
            action,
            event_channel_port
        }
    );
    layout!(f, "ioctl_evtchn_bind_virq", abi::EvtchnBindVirq { virq });
    layout!(
        f,
        "ioctl_evtchn_bind_interdomain",
        abi::EvtchnBindInterdomain {
            remote_domain,
            remote_port
        }
    );
    layout!(
        f,
        "ioctl_evtchn_bind_unbound_port",
        abi::EvtchnBindUnboundPort { remote_domain }
    );
    layout!(f, "ioctl_evtchn_unbind", abi::EvtchnPortArg { port });
    layout!(f, "ioctl_evtchn_notify", abi::EvtchnPortArg { port });
    layout!(f, "ioctl_evtchn_bind", abi::EvtchnPortArg { port });
    layout!(
        f,
        "ioctl_evtchn_restrict_domid",
        abi::EvtchnRestrictDomid { domid }
    );

    let numbers = [
        ("IOCTL_GNTDEV_MAP_GRANT_REF", abi::GNTDEV_MAP_GRANT_REF),
        ("IOCTL_GNTDEV_UNMAP_GRANT_REF", abi::GNTDEV_UNMAP_GRANT_REF),
        (
            "IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR",
            abi::GNTDEV_GET_OFFSET_FOR_VADDR,
        ),
        ("IOCTL_GNTDEV_SET_MAX_GRANTS", abi::GNTDEV_SET_MAX_GRANTS),
        ("IOCTL_GNTDEV_SET_UNMAP_NOTIFY", abi::SET_UNMAP_NOTIFY),
        ("IOCTL_GNTDEV_GRANT_COPY", abi::GNTDEV_GRANT_COPY),
        (
            "IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS",
            abi::GNTDEV_DMABUF_EXP_FROM_REFS,
        ),
        (
            "IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED",
            abi::GNTDEV_DMABUF_EXP_WAIT_RELEASED,
        ),
        (
            "IOCTL_GNTDEV_DMABUF_IMP_TO_REFS",
            abi::GNTDEV_DMABUF_IMP_TO_REFS,
        ),
        (
            "IOCTL_GNTDEV_DMABUF_IMP_RELEASE",
            abi::GNTDEV_DMABUF_IMP_RELEASE,
        ),
        ("IOCTL_GNTALLOC_ALLOC_GREF", abi::GNTALLOC_ALLOC_GREF),
        ("IOCTL_GNTALLOC_DEALLOC_GREF", abi::GNTALLOC_DEALLOC_GREF),
        ("IOCTL_GNTALLOC_SET_UNMAP_NOTIFY", abi::SET_UNMAP_NOTIFY),
        ("IOCTL_EVTCHN_BIND_VIRQ", abi::EVTCHN_BIND_VIRQ),
        (
            "IOCTL_EVTCHN_BIND_INTERDOMAIN",
            abi::EVTCHN_BIND_INTERDOMAIN,
        ),
        (
            "IOCTL_EVTCHN_BIND_UNBOUND_PORT",
            abi::EVTCHN_BIND_UNBOUND_PORT,
        ),
        ("IOCTL_EVTCHN_UNBIND", abi::EVTCHN_UNBIND),
        ("IOCTL_EVTCHN_NOTIFY", abi::EVTCHN_NOTIFY),
        ("IOCTL_EVTCHN_RESET", abi::EVTCHN_RESET),
        ("IOCTL_EVTCHN_RESTRICT_DOMID", abi::EVTCHN_RESTRICT_DOMID),
        ("IOCTL_EVTCHN_BIND_STATIC", abi::EVTCHN_BIND_STATIC),
        ("UNMAP_NOTIFY_CLEAR_BYTE", UnmapNotify::CLEAR_BYTE),
        ("UNMAP_NOTIFY_SEND_EVENT", UnmapNotify::SEND_EVENT),
        ("GNTDEV_DMA_FLAG_WC", abi::GNTDEV_DMA_FLAG_WC),
        ("GNTDEV_DMA_FLAG_COHERENT", abi::GNTDEV_DMA_FLAG_COHERENT),
        ("GNTALLOC_FLAG_WRITABLE", abi::GNTALLOC_FLAG_WRITABLE.into()),
        ("GNTCOPY_source_gref", abi::GNTCOPY_SOURCE_GREF.into()),
        ("GNTCOPY_dest_gref", abi::GNTCOPY_DEST_GREF.into()),
        ("DOMID_FIRST_RESERVED", DomId::FIRST_RESERVED.0.into()),
        ("DOMID_SELF", DomId::SELF.0.into()),
        ("VIRQ_TIMER", xen_sys::VIRQ_TIMER),
        ("VIRQ_DEBUG", xen_sys::VIRQ_DEBUG),
        ("VIRQ_DOM_EXC", xen_sys::VIRQ_DOM_EXC),
    ];
    f.extend(numbers.map(|(name, value)| (name.to_owned(), value.into())));

    let statuses = [
        ("okay", GrantStatus::OKAY),
        ("general_error", GrantStatus::GENERAL_ERROR),
        ("bad_domain", GrantStatus::BAD_DOMAIN),
        ("bad_gntref", GrantStatus::BAD_GNTREF),
        ("bad_virt_addr", GrantStatus::BAD_VIRT_ADDR),
        ("permission_denied", GrantStatus::PERMISSION_DENIED),
        ("bad_page", GrantStatus::BAD_PAGE),
        ("bad_copy_arg", GrantStatus::BAD_COPY_ARG),
        ("eagain", GrantStatus::EAGAIN),
        // No constants of ours; `GrantStatus::meaning` has them, see below.
        ("bad_handle", GrantStatus(-4)),
        ("bad_dev_addr", GrantStatus(-6)),
        ("no_device_space", GrantStatus(-7)),
        ("address_too_big", GrantStatus(-11)),
        ("no_space", GrantStatus(-13)),
    ];
    for (name, status) in statuses {
        assert_ne!(status.meaning(), "unknown status", "GNTST_{name}");
        f.insert(format!("GNTST_{name}"), status.0.into());
    }
    f.insert("sizeof(domid_t)".to_owned(), size_of::<DomId>() as i64);
    f.insert(
        "sizeof(grant_ref_t)".to_owned(),
        size_of::<GrantRef>() as i64,
    );
    f.insert(
        "sizeof(evtchn_port_t)".to_owned(),
        size_of::<EvtchnPort>() as i64,
    );
    ring(&mut f, "x86_64", X86_64);
    ring(&mut f, "x86_32", X86_32);
    f
}

/// Ring and block protocol, for one ABI.
fn ring<C: SlotCodec>(f: &mut BTreeMap<String, i64>, abi: &str, _: C) {
    let slots = |pages: usize| layout::slot_count(pages * PAGE_SIZE, C::SLOT_BYTES).into();
    let mut say = |what: &str, value: i64| f.insert(format!("{abi}.{what}"), value);
    say("ring slots in a page", slots(1));
    say("ring slots in 16 pages", slots(16));
    say("ring slot bytes", C::SLOT_BYTES as i64);
    say("response bytes", C::RESPONSE_BYTES as i64);
    say("ring header bytes", layout::HEADER_BYTES as i64);
    say("req_prod", layout::REQ_PROD as i64);
    say("req_event", layout::REQ_EVENT as i64);
    say("rsp_prod", layout::RSP_PROD as i64);
    say("rsp_event", layout::RSP_EVENT as i64);
    say("reserved", layout::RESERVED as i64);
    say("segments of a request", blkif::MAX_SEGMENTS as i64);
    say("read", Operation::Read.number().into());
    say("write", Operation::Write.number().into());
    say("flush", Operation::Flush.number().into());
}

/// One line for each name that only one side has, or on which they differ.
fn differences(c: &BTreeMap<String, i64>, ours: &BTreeMap<String, i64>) -> Vec<String> {
    let say = |value: Option<&i64>| value.map_or("nothing".to_owned(), |v| format!("{v:#x}"));
    let mut names: Vec<_> = c.keys().chain(ours.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| c.get(*name) != ours.get(*name))
        .map(|name| {
            format!(
                "{name}: C has {}, we have {}",
                say(c.get(name)),
                say(ours.get(name))
            )
        })
        .collect()
}

#[test]
fn every_number_size_and_offset_is_what_c_has() {
    let c = facts(&oracle());
    assert!(c.len() > 140, "the oracle said only {} things", c.len());
    assert_eq!(differences(&c, &ours()), Vec::<String>::new());
}

#[test]
fn a_known_wrong_encoding_is_seen() {
    // Seen in the wild: the size of the fields instead of the struct's, so always ENOTTY.
    let mut wrong = ours();
    wrong.insert("IOCTL_GNTALLOC_ALLOC_GREF".to_owned(), 0x0014_4705);
    wrong.insert("struct ioctl_gntalloc_alloc_gref.index".to_owned(), 4);
    wrong.remove("sizeof(domid_t)");
    assert_eq!(
        differences(&facts(&oracle()), &wrong),
        [
            "IOCTL_GNTALLOC_ALLOC_GREF: C has 0x184705, we have 0x144705",
            "sizeof(domid_t): C has 0x2, we have nothing",
            "struct ioctl_gntalloc_alloc_gref.index: C has 0x8, we have 0x4",
        ]
    );
}

#[test]
fn the_golden_arguments_are_what_c_fills_in() {
    let text = oracle();
    let c: Vec<_> = text.lines().filter(|line| is_argument(line)).collect();
    let golden: Vec<_> = GOLDEN.lines().collect();
    assert_eq!(c, golden, "golden.txt should be:\n{}", c.join("\n"));
}

/// The bytes of one of C's sample slots.
fn slot_of_c(text: &str, abi: &str, kind: &str) -> Vec<u8> {
    let prefix = format!("slot {abi} {kind} ");
    let hex = text
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .expect("a slot");
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn check_slots<C>(abi: &str, codec: C)
where
    C: SlotCodec<Request = Request, Response = Response>,
{
    let text = oracle();
    let request = Request {
        operation: Operation::Write,
        handle: 51712,
        id: 0x1122_3344_5566_7788,
        sector: 0x99_aabb_ccdd_eeff,
        segments: (0..11u8)
            .map(|i| Segment {
                gref: 0x0102_0300 + u32::from(i),
                first_sector: i % 4,
                last_sector: 7 - i % 3,
            })
            .collect(),
    };
    let c = slot_of_c(&text, abi, "request");
    let mut slot = vec![0xa5; C::SLOT_BYTES];
    codec.encode_request(&request, &mut slot[..]);
    assert_eq!(slot, c, "{abi}: our request and C's");
    assert_eq!(
        codec
            .decode_request(&SlotCopy::from(&c[..]))
            .map(Into::into),
        Ok(request),
        "{abi}: C's request as we read it"
    );

    let response = Response {
        id: request.id,
        operation: request.operation.number(),
        status: Status::NotSupported,
    };
    let c = slot_of_c(&text, abi, "response");
    let mut slot = vec![0xa5; C::RESPONSE_BYTES];
    codec.encode_response(&response, &mut slot[..]);
    assert_eq!(slot, c, "{abi}: our response and C's");
    assert_eq!(
        codec.decode_response(&SlotCopy::from(&c[..])),
        Ok(response),
        "{abi}: C's response as we read it"
    );
}

#[test]
fn block_slots_are_what_c_fills_in() {
    check_slots("x86_64", X86_64);
    check_slots("x86_32", X86_32);
}

#[test]
fn missing_headers_name_their_package() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let out = compile(
        &["-nostdinc", "-I", dir.path().to_str().expect("UTF-8")],
        &dir.path().join("oracle"),
    );
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "built without any header");
    for package in ["libc6-dev", "libxen-dev", "linux-libc-dev"] {
        assert!(said.contains(package), "no word of {package} in:\n{said}");
    }
}
