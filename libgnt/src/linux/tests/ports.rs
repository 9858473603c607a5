//! The event-channel device: ioctls as C fills them in, and ports read and written.

use super::fake::{Answer, Asked, FakeKernel, call_of_c, done};
use crate::linux::device::Device;
use crate::linux::evtchn::{self, LinuxEvtchn};
use crate::linux::ioctl::{Kernel, Syscalls};
use crate::platform::Evtchn;
use crate::types::{DomId, EvtchnPort};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;

fn evtchn_on<K: Kernel>(file: OwnedFd, kernel: K) -> LinuxEvtchn<K> {
    LinuxEvtchn {
        device: Device::with_kernel(evtchn::NODE, file, kernel),
    }
}

fn evtchn(kernel: &FakeKernel) -> LinuxEvtchn<FakeKernel> {
    evtchn_on(pipe_with(PipeFlags::CLOEXEC).unwrap().0, kernel.clone())
}

fn bytes(ports: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ports.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn ports(numbers: impl IntoIterator<Item = u32>) -> Vec<EvtchnPort> {
    numbers.into_iter().map(EvtchnPort).collect()
}

#[test]
fn evtchn_speaks_as_c_does() {
    let bound = Answer::Returns(18, Vec::new());
    let kernel = FakeKernel::answering([
        bound.clone(),
        bound.clone(),
        bound,
        done(),
        done(),
        done(),
        done(),
        done(),
    ]);
    let dev = evtchn(&kernel);
    assert_eq!(dev.bind_virq(xen_sys::VIRQ_DEBUG).unwrap(), EvtchnPort(18));
    assert_eq!(
        dev.bind_interdomain(DomId(5), EvtchnPort(17)).unwrap(),
        EvtchnPort(18)
    );
    assert_eq!(dev.bind_unbound(DomId(5)).unwrap(), EvtchnPort(18));
    dev.unbind(EvtchnPort(17)).unwrap();
    dev.notify(EvtchnPort(17)).unwrap();
    dev.reset().unwrap();
    dev.restrict(DomId(5)).unwrap();
    dev.bind_static(EvtchnPort(17)).unwrap();
    let c = [
        "bind_virq",
        "bind_interdomain",
        "bind_unbound_port",
        "unbind",
        "notify",
        "reset",
    ];
    let mut expected: Vec<_> = c.map(call_of_c).into();
    expected.extend(["restrict_domid", "bind_static"].map(call_of_c));
    assert_eq!(kernel.asked(), expected);
}

#[test]
fn a_bind_that_returns_no_port_is_an_error() {
    for nonsense in [0, -5] {
        let kernel = FakeKernel::answering([Answer::Returns(nonsense, Vec::new())]);
        let error = evtchn(&kernel).bind_unbound(DomId(5)).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::IO), "{error}");
    }
}

#[test]
fn an_older_kernel_is_told_apart() {
    let kernel = FakeKernel::answering([Answer::Fails(Errno::NOSYS)]);
    let error = evtchn(&kernel).bind_static(EvtchnPort(3)).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOSYS));
    assert!(
        error.to_string().contains("this kernel has no such call"),
        "{error}"
    );
}

#[test]
fn ports_come_in_order_until_there_are_none() {
    // A pipe gives the same bytes and the same EAGAIN as the device.
    let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let dev = evtchn_on(read, Syscalls);
    let mut got = ports([99]);
    assert_eq!(dev.read(&mut got).unwrap(), 0);
    rustix::io::write(&write, &bytes([7])).unwrap();
    assert_eq!(dev.read(&mut got).unwrap(), 1);
    rustix::io::write(&write, &bytes(100..105)).unwrap();
    assert_eq!(dev.read(&mut got).unwrap(), 5);
    assert_eq!(dev.read(&mut got).unwrap(), 0);
    assert_eq!(got, ports([99, 7, 100, 101, 102, 103, 104]));
    // More than one page: the driver gives at most 1024 ports a call.
    rustix::io::write(&write, &bytes(0..1500)).unwrap();
    got.clear();
    assert_eq!(dev.read(&mut got).unwrap(), 1024);
    assert_eq!(dev.read(&mut got).unwrap(), 476);
    assert_eq!(got, ports(0..1500));
}

#[test]
fn half_a_port_is_an_error_that_keeps_the_whole_ones() {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let dev = evtchn_on(read, Syscalls);
    rustix::io::write(&write, &bytes([7, 8])[..6]).unwrap();
    let mut got = Vec::new();
    assert_eq!(dev.read(&mut got).unwrap_err().errno(), Some(Errno::IO));
    assert_eq!(got, ports([7]));
    drop(write);
    // An end of file is not "nothing now": a loop that polls would spin on it.
    assert_eq!(dev.read(&mut got).unwrap_err().errno(), Some(Errno::IO));
}

#[test]
fn an_overflow_is_told_and_signals_are_not() {
    let kernel = FakeKernel::answering([
        Answer::Fails(Errno::FBIG),
        Answer::Fails(Errno::INTR),
        Answer::Reads(bytes([3, 4])),
        Answer::Fails(Errno::AGAIN),
    ]);
    let dev = evtchn(&kernel);
    let mut got = Vec::new();
    let error = dev.read(&mut got).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::FBIG));
    assert!(error.to_string().contains("reset"), "{error}");
    assert_eq!(dev.read(&mut got).unwrap(), 2);
    assert_eq!(dev.read(&mut got).unwrap(), 0);
    assert_eq!(got, ports([3, 4]));
    assert_eq!(kernel.asked(), vec![Asked::Read { room: 4096 }; 4]);
}

#[test]
fn ports_go_back_in_pages_and_none_is_left_out() {
    let kernel = FakeKernel::answering([
        Answer::Fails(Errno::INTR),
        Answer::Wrote(4096),
        // Short, in the middle of a port: that port is not unmasked yet.
        Answer::Wrote(10),
        Answer::Wrote(1984 - 8),
    ]);
    evtchn(&kernel).unmask(&ports(0..1520)).unwrap();
    assert_eq!(
        kernel.asked(),
        [0..1024, 0..1024, 1024..1520, 1026..1520].map(|range| Asked::Write(bytes(range)))
    );
}

#[test]
fn a_write_that_takes_nothing_ends() {
    let kernel = FakeKernel::answering([Answer::Wrote(3), Answer::Fails(Errno::NOMEM)]);
    let dev = evtchn(&kernel);
    assert_eq!(
        dev.unmask(&ports([1, 2])).unwrap_err().errno(),
        Some(Errno::IO)
    );
    assert_eq!(
        dev.unmask(&ports([1, 2])).unwrap_err().errno(),
        Some(Errno::NOMEM)
    );
    dev.unmask(&[]).unwrap();
    assert_eq!(kernel.asked(), vec![Asked::Write(bytes([1, 2])); 2]);
}

#[test]
fn unmasked_ports_are_the_bytes_that_were_read() {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    evtchn_on(write, Syscalls)
        .unmask(&ports([1, 0x0102_0304]))
        .unwrap();
    let mut got = Vec::new();
    evtchn_on(read, Syscalls).read(&mut got).unwrap();
    assert_eq!(got, ports([1, 0x0102_0304]));
}
