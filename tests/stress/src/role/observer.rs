//! The observer of a domain's kernel, as a process: the second oracle's evidence.

use super::{Outcome, RoleProcess};
use libgnt::machine::{Machine, Now, monotonic};
use pv_harness::processes::{News, Order};
use pv_harness::timeline::{Event, KernelEvent};
use pv_harness::trace::{Account, Gap, Input, Tracer, Unwatched};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What is under way at the end is over within this: killed processes end, and give back what they
/// had, and the kernel looks once a second at grants that are to end, ten at a time.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(process: &RoleProcess) -> Outcome {
    match Tracer::begin() {
        Ok(tracer) => Ok(Watch::new(process, tracer).run()?),
        Err(Unwatched(why)) => {
            tracing::warn!(why, "this kernel is not watched");
            let event = KernelEvent::Unwatched { why };
            process.timeline.log(Event::Kernel(event));
            process.control.send(&News::Ready)?;
            // Ends with the order, or with the run.
            while !matches!(process.await_order("to stop"), Ok(Order::Stop) | Err(_)) {}
            Ok(())
        }
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// The trace has more.
    Trace,
    /// It is to stop, or the run is gone.
    Stop,
    /// The time is over.
    Late,
}

struct Watch<'a> {
    process: &'a RoleProcess,
    tracer: Tracer,
    account: Account,
}

impl<'a> Watch<'a> {
    fn new(process: &'a RoleProcess, tracer: Tracer) -> Watch<'a> {
        Watch {
            process,
            tracer,
            account: Account::default(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let functions = self.tracer.functions();
        let event = KernelEvent::Watched { functions };
        self.process.timeline.log(Event::Kernel(event));
        self.process.control.send(&News::Ready)?;
        self.process.timeline.waiting("the order to stop");
        while self.wait(None)? == Woken::Trace {
            self.take()?;
        }
        self.settle()?;
        if let Err(Unwatched(why)) = self.tracer.stop() {
            self.gap(why);
        }
        for gap in self.tracer.missed() {
            self.step(Input::Gap(gap));
        }
        self.take()?;
        self.step(Input::End);
        Ok(())
    }

    /// Waits until all that was seen to begin is over, but not for ever; a second order ends it, too.
    fn settle(&mut self) -> io::Result<()> {
        self.take()?;
        if let Err(Unwatched(why)) = self.tracer.wake_for_each() {
            self.gap(why);
            return Ok(());
        }
        self.process.timeline.waiting("the kernel to give all back");
        let until = monotonic() + PATIENCE;
        loop {
            self.take()?;
            if self.account.is_settled() {
                return Ok(());
            }
            match self.wait(Some(until))? {
                Woken::Trace => {}
                Woken::Late => return Ok(()),
                Woken::Stop => {
                    self.gap("it was told to end before all was over".into());
                    return Ok(());
                }
            }
        }
    }

    /// Takes in what the trace has.
    fn take(&mut self) -> io::Result<()> {
        let (lines, unread) = self.tracer.read()?;
        if unread > 0 {
            self.gap(format!("{unread} lines could not be read"));
        }
        for line in lines {
            self.step(Input::Line(line));
        }
        Ok(())
    }

    fn gap(&mut self, why: String) {
        self.step(Input::Gap(Gap::of_all(why)));
    }

    fn step(&mut self, input: Input) {
        let mut told = Vec::new();
        self.account.step(monotonic(), input, &mut told);
        for told in told {
            let event = Event::Kernel(told.event);
            self.process.timeline.log_at(told.ns, event);
        }
    }

    fn wait(&self, until: Option<Now>) -> io::Result<Woken> {
        loop {
            let left = until.map(|until| until.saturating_sub(monotonic()));
            let timeout = left.map(Timespec::try_from).transpose();
            let timeout = timeout.map_err(io::Error::other)?;
            let mut fds = [
                PollFd::new(&self.process.control, PollFlags::IN),
                PollFd::from_borrowed_fd(self.tracer.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let trace = !fds[1].revents().is_empty();
            match self.process.control.try_recv::<Order>() {
                Ok(Some(Order::Stop)) | Err(_) => return Ok(Woken::Stop),
                Ok(_) if trace => return Ok(Woken::Trace),
                Ok(_) => {}
            }
        }
    }
}
