//! Every ioctl of gntdev and gntalloc: the bytes are C's, the replies reach the caller.

use super::fake::{Answer, Asked, FakeKernel, call_of_c, done, replies, reply_of_c, with_u32};
use crate::linux::device::{Device, MAX_PAGES};
use crate::linux::gntalloc::{self, LinuxGntalloc};
use crate::linux::gntdev::{self, LinuxGntdev};
use crate::linux::ioctl::{Kernel, Syscalls};
use crate::platform::{CopySegment, CopySide, Gntalloc, Gntdev};
use crate::shm::SharedPages;
use crate::types::{Access, DomId, EvtchnPort, ForeignGrant, GrantRef, GrantStatus, UnmapNotify};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

const INDEX: u64 = 0x1_2345_6000;

fn memfd(pages: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, pages * 4096).unwrap();
    file
}

fn gntdev_on<K: Kernel>(file: OwnedFd, kernel: K) -> LinuxGntdev<K> {
    LinuxGntdev {
        device: Device::with_kernel(gntdev::NODE, file, kernel),
    }
}

fn gntdev(kernel: &FakeKernel) -> LinuxGntdev<FakeKernel> {
    gntdev_on(memfd(0), kernel.clone())
}

fn gntalloc(kernel: &FakeKernel) -> LinuxGntalloc<FakeKernel> {
    LinuxGntalloc {
        device: Device::with_kernel(gntalloc::NODE, memfd(0), kernel.clone()),
    }
}

fn grant(domid: u16, gref: u32) -> ForeignGrant {
    ForeignGrant {
        domid: DomId(domid),
        gref: GrantRef(gref),
    }
}

fn three() -> [ForeignGrant; 3] {
    [grant(5, 8), grant(5, 0x1ff), grant(7, 9)]
}

#[test]
fn gntdev_speaks_as_c_does() {
    let kernel = FakeKernel::answering([
        replies("map_grant_ref"),
        done(),
        replies("get_offset_for_vaddr"),
        done(),
        done(),
    ]);
    let dev = gntdev(&kernel);
    assert_eq!(dev.map_grant_ref(&three()).unwrap(), INDEX);
    dev.unmap_grant_ref(INDEX, 3).unwrap();
    assert_eq!(dev.offset_for_vaddr(0x7f11_2233_4000).unwrap(), (INDEX, 3));
    dev.set_max_grants(4096).unwrap();
    let notify = UnmapNotify {
        clear_byte: true,
        send_event: Some(EvtchnPort(17)),
    };
    dev.set_unmap_notify(INDEX + 62, notify).unwrap();
    let c = [
        "map_grant_ref",
        "unmap_grant_ref",
        "get_offset_for_vaddr",
        "set_max_grants",
    ];
    let mut expected: Vec<_> = c.map(call_of_c).into();
    expected.push(call_of_c("set_unmap_notify"));
    assert_eq!(kernel.asked(), expected);
}

#[test]
fn gntalloc_speaks_as_c_does() {
    let kernel = FakeKernel::answering([replies("alloc_gref"), done(), done()]);
    let dev = gntalloc(&kernel);
    let got = dev.alloc_gref(DomId(5), 3, Access::ReadWrite).unwrap();
    assert_eq!(
        (got.index, got.grefs),
        (INDEX, vec![GrantRef(8), GrantRef(0x1ff), GrantRef(9)])
    );
    dev.dealloc_gref(INDEX, 3).unwrap();
    let notify = UnmapNotify {
        clear_byte: false,
        send_event: Some(EvtchnPort(17)),
    };
    dev.set_unmap_notify(INDEX + 63, notify).unwrap();
    let c = ["alloc_gref", "dealloc_gref", "gntalloc_unmap_notify"];
    assert_eq!(kernel.asked(), c.map(call_of_c));
}

#[test]
fn a_read_only_grant_lacks_the_writable_flag() {
    let kernel = FakeKernel::answering([replies("alloc_gref")]);
    gntalloc(&kernel)
        .alloc_gref(DomId(5), 3, Access::ReadOnly)
        .unwrap();
    let Asked::Ioctl { arg, .. } = &kernel.asked()[0] else {
        panic!()
    };
    assert_eq!(arg[2..4], [0, 0]);
}

#[test]
fn an_argument_is_never_shorter_than_c_s_struct() {
    // The driver copies the struct with one element whatever the count says.
    let kernel = FakeKernel::answering([
        Answer::Fails(Errno::INVAL),
        done(),
        Answer::Fails(Errno::INVAL),
        Answer::Fails(Errno::INVAL),
    ]);
    let dev = gntdev(&kernel);
    assert_eq!(
        dev.map_grant_ref(&[]).unwrap_err().errno(),
        Some(Errno::INVAL)
    );
    gntalloc(&kernel)
        .alloc_gref(DomId(5), 1, Access::ReadOnly)
        .unwrap();
    dev.dmabuf_export(DomId(5), &[], 0).unwrap_err();
    dev.dmabuf_import(DomId(5), memfd(0).as_fd(), 0)
        .unwrap_err();
    let lengths: Vec<_> = kernel
        .asked()
        .into_iter()
        .map(|asked| match asked {
            Asked::Ioctl { number, arg } => (number >> 16, arg.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [(24, 24), (24, 24), (20, 20), (20, 20)]);
}

#[test]
fn dmabuf_calls_speak_as_c_does() {
    let (buffer, exported) = (memfd(3), memfd(3));
    let fd = |fd: &OwnedFd| u32::try_from(fd.as_raw_fd()).unwrap();
    let exported_fd = fd(&exported);
    // The driver hands over a descriptor: this one's owner is the wrapper from there on.
    std::mem::forget(exported);
    let Asked::Ioctl { number, arg } = call_of_c("dmabuf_exp_from_refs") else {
        panic!()
    };
    let import_reply = with_u32(reply_of_c("dmabuf_imp_to_refs"), 0, fd(&buffer));
    let kernel = FakeKernel::answering([
        Answer::Returns(0, with_u32(arg.clone(), 8, exported_fd)),
        done(),
        Answer::Returns(0, import_reply),
        done(),
    ]);
    let dev = gntdev(&kernel);
    let grefs = [8, 0x1ff, 9].map(GrantRef);
    let got = dev.dmabuf_export(
        DomId(5),
        &grefs,
        crate::linux::abi::GNTDEV_DMA_FLAG_COHERENT,
    );
    assert_eq!(fd(&got.unwrap()), exported_fd);
    // Rounded up: 1500.2 ms must not become less than was asked.
    dev.dmabuf_wait_released(buffer.as_fd(), Duration::from_micros(1_500_200))
        .unwrap();
    assert_eq!(
        dev.dmabuf_import(DomId(5), buffer.as_fd(), 3).unwrap(),
        grefs
    );
    dev.dmabuf_import_release(buffer.as_fd()).unwrap();

    let mut expected = vec![Asked::Ioctl { number, arg }];
    for name in [
        "dmabuf_exp_wait_released",
        "dmabuf_imp_to_refs",
        "dmabuf_imp_release",
    ] {
        let Asked::Ioctl { number, arg } = call_of_c(name) else {
            panic!()
        };
        expected.push(Asked::Ioctl {
            number,
            arg: with_u32(arg, 0, fd(&buffer)),
        });
    }
    assert_eq!(kernel.asked(), expected);
}

#[test]
fn a_kernel_without_dmabuf_is_told_apart() {
    let kernel = FakeKernel::answering([Answer::Fails(Errno::NOTTY)]);
    let error = gntdev(&kernel)
        .dmabuf_export(DomId(5), &[GrantRef(8)], 0)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOTTY));
    assert!(
        error.to_string().contains("CONFIG_XEN_GNTDEV_DMABUF"),
        "{error}"
    );
}

fn copy<'a>(source: CopySide<'a>, dest: CopySide<'a>, len: u16) -> CopySegment<'a> {
    CopySegment {
        source,
        dest,
        len,
        status: GrantStatus::OKAY,
    }
}

#[test]
fn copy_segments_are_c_s_and_every_status_comes_back() {
    let Asked::Ioctl { number, arg: mut c } = call_of_c("grant_copy.segments") else {
        panic!()
    };
    let local = SharedPages::anonymous(2).unwrap();
    let address = (local.address() + 4000) as u64;
    c[8..16].copy_from_slice(&address.to_ne_bytes());
    let mut reply = reply_of_c("grant_copy.segments");
    reply[8..16].copy_from_slice(&address.to_ne_bytes());
    let kernel = FakeKernel::answering([Answer::Returns(0, reply)]);
    let mut segments = [
        copy(
            CopySide::Grant {
                grant: grant(5, 0x1ff),
                offset: 512,
            },
            CopySide::Local {
                pages: &local,
                offset: 4000,
            },
            1024,
        ),
        copy(
            CopySide::Grant {
                grant: grant(5, 8),
                offset: 0,
            },
            CopySide::Grant {
                grant: grant(7, 9),
                offset: 3584,
            },
            512,
        ),
    ];
    gntdev(&kernel).grant_copy(&mut segments).unwrap();
    assert_eq!(
        segments.map(|s| s.status),
        [GrantStatus::OKAY, GrantStatus::BAD_GNTREF]
    );
    let asked = kernel.asked();
    let [Asked::Ioctl { number: got, arg }, Asked::Segments(bytes)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (*got, arg.len(), &arg[..8]),
        (number, 16, &2u64.to_ne_bytes()[..])
    );
    assert_eq!(bytes, &c);
}

#[test]
fn a_copy_outside_our_pages_never_reaches_the_kernel() {
    // The kernel would write wherever the address points: this is the last check before it.
    let kernel = FakeKernel::default();
    let local = SharedPages::anonymous(1).unwrap();
    let mut frozen = gntdev_on(memfd(1), Syscalls)
        .mmap(0, 1, Access::ReadOnly)
        .unwrap();
    let from = CopySide::Grant {
        grant: grant(5, 8),
        offset: 0,
    };
    for (pages, offset, len) in [
        (&local, 4096, 1),
        (&local, 3585, 512),
        (&local, usize::MAX, 2),
        (&mut frozen, 0, 1),
    ] {
        let dest = CopySide::Local { pages, offset };
        let error = gntdev(&kernel)
            .grant_copy(&mut [copy(from, dest, len)])
            .unwrap_err();
        assert_eq!(error.errno(), Some(Errno::FAULT), "{error}");
    }
    let source = CopySide::Local {
        pages: &local,
        offset: 4096,
    };
    gntdev(&kernel)
        .grant_copy(&mut [copy(source, from, 1)])
        .unwrap_err();
    assert_eq!(kernel.asked(), []);
}

#[test]
fn a_failed_copy_leaves_the_statuses_alone() {
    let kernel = FakeKernel::answering([Answer::Fails(Errno::INVAL)]);
    let local = SharedPages::anonymous(1).unwrap();
    let side = CopySide::Local {
        pages: &local,
        offset: 0,
    };
    let mut segments = [copy(side, side, 16)];
    segments[0].status = GrantStatus::EAGAIN;
    let error = gntdev(&kernel).grant_copy(&mut segments).unwrap_err();
    assert!(error.to_string().contains("two local sides"), "{error}");
    assert_eq!(segments[0].status, GrantStatus::EAGAIN);
}

#[test]
fn signals_repeat_the_call_and_errors_do_not() {
    let kernel = FakeKernel::answering([
        Answer::Fails(Errno::INTR),
        Answer::Fails(Errno::INTR),
        replies("map_grant_ref"),
        Answer::Fails(Errno::NOMEM),
    ]);
    let dev = gntdev(&kernel);
    assert_eq!(dev.map_grant_ref(&three()).unwrap(), INDEX);
    assert_eq!(
        dev.map_grant_ref(&three()).unwrap_err().errno(),
        Some(Errno::NOMEM)
    );
    let call = call_of_c("map_grant_ref");
    assert_eq!(
        kernel.asked(),
        [call.clone(), call.clone(), call.clone(), call]
    );
}

#[test]
fn sizes_that_no_driver_takes_are_refused_before_memory_is() {
    let kernel = FakeKernel::default();
    for pages in [MAX_PAGES + 1, usize::MAX] {
        let errno = |error: crate::Error| assert_eq!(error.errno(), Some(Errno::INVAL), "{error}");
        errno(
            gntalloc(&kernel)
                .alloc_gref(DomId(5), pages, Access::ReadWrite)
                .unwrap_err(),
        );
        errno(gntalloc(&kernel).dealloc_gref(0, pages).unwrap_err());
        errno(gntdev(&kernel).unmap_grant_ref(0, pages).unwrap_err());
        errno(
            gntdev(&kernel)
                .mmap(0, pages, Access::ReadOnly)
                .unwrap_err(),
        );
        errno(
            gntdev(&kernel)
                .dmabuf_import(DomId(5), memfd(0).as_fd(), pages)
                .unwrap_err(),
        );
    }
    gntalloc(&kernel)
        .alloc_gref(DomId(5), 0, Access::ReadWrite)
        .unwrap_err();
    assert_eq!(kernel.asked(), []);
}

#[test]
fn errors_name_the_device_the_call_the_thing_and_the_cure() {
    let kernel = FakeKernel::answering([
        Answer::Fails(Errno::INVAL),
        Answer::Fails(Errno::NOSPC),
        Answer::Fails(Errno::NOENT),
    ]);
    let says = |error: crate::Error, words: &[&str]| {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
    };
    says(
        gntdev(&kernel).map_grant_ref(&three()).unwrap_err(),
        &[
            "/dev/xen/gntdev",
            "MAP_GRANT_REF",
            "3 grants",
            "grant 0x8 of domain 5",
            "limit",
        ],
    );
    says(
        gntalloc(&kernel)
            .alloc_gref(DomId(5), 3, Access::ReadOnly)
            .unwrap_err(),
        &[
            "/dev/xen/gntalloc",
            "ALLOC_GREF",
            "3 pages",
            "domain 5",
            "xen_gntalloc",
        ],
    );
    says(
        gntdev(&kernel).unmap_grant_ref(INDEX, 3).unwrap_err(),
        &["UNMAP_GRANT_REF", "0x123456000", "os error 2"],
    );
    kernel.asked();
}

#[test]
fn a_file_that_is_no_device_says_enotty() {
    // The real system call, on a real descriptor.
    let dev = gntdev_on(memfd(1), Syscalls);
    assert_eq!(
        dev.map_grant_ref(&three()).unwrap_err().errno(),
        Some(Errno::NOTTY)
    );
    assert_eq!(
        dev.unmap_grant_ref(0, 1).unwrap_err().errno(),
        Some(Errno::NOTTY)
    );
    let alloc = LinuxGntalloc {
        device: Device::with_kernel(gntalloc::NODE, memfd(1), Syscalls),
    };
    let error = alloc.alloc_gref(DomId(5), 1, Access::ReadOnly).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOTTY));
}

/// The permissions that the kernel shows at an address.
fn permissions(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let at = |line: &&str| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    };
    let line = maps.lines().find(at).expect("a mapping");
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn mappings_are_shared_exact_and_no_more_than_asked_for() {
    let file = memfd(4);
    rustix::io::pwrite(&file, b"granted", 2 * 4096).unwrap();
    let dev = gntdev_on(file.try_clone().unwrap(), Syscalls);
    let reader = dev.mmap(2 * 4096, 1, Access::ReadOnly).unwrap();
    let writer = dev.mmap(4096, 3, Access::ReadWrite).unwrap();
    assert_eq!((reader.pages(), writer.pages()), (1, 3));
    assert_eq!(permissions(reader.address()), "r--s");
    assert_eq!(permissions(writer.address()), "rw-s");
    let mut bytes = [0; 7];
    reader.read(0, &mut bytes);
    assert_eq!(&bytes, b"granted");
    writer.write(4096, b"changed");
    reader.read(0, &mut bytes);
    assert_eq!(&bytes, b"changed");

    // As gntalloc does it: always writable.
    let alloc = LinuxGntalloc {
        device: Device::with_kernel(gntalloc::NODE, file, Syscalls),
    };
    let own = Gntalloc::mmap(&alloc, 0, 1).unwrap();
    assert_eq!(permissions(own.address()), "rw-s");
}

#[test]
fn mappings_that_the_driver_would_refuse_are_refused() {
    let dev = gntdev_on(memfd(4), Syscalls);
    for (index, pages) in [(0, 0), (1, 1), (4095, 1)] {
        let error = dev.mmap(index, pages, Access::ReadOnly).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL), "{error}");
    }
    // What the kernel itself says is passed on: a descriptor that cannot be mapped.
    let (end, _other) = rustix::pipe::pipe().unwrap();
    let error = gntdev_on(end, Syscalls)
        .mmap(0, 1, Access::ReadOnly)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NODEV), "{error}");
}
