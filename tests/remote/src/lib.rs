//! Roles of a run in other domains of a real Xen.
//!
//! The run is in dom0, the processes of its roles are not. Each domain runs a [`supervise`]r that
//! speaks with the run over the domain's console (`link`, `message`): Xen gives every domain one, no
//! network is needed, and it works when the devices under test do not. In dom0 each of these processes
//! has a proxy, a process that stands for it (`proxy`), so that [`pv_harness::processes`] treats it as
//! any other child.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may"))]

mod clock;
mod domain;
mod link;
mod message;
mod proxy;
mod relay;
mod shared;
mod supervisor;
mod terminal;
pub mod xen;

pub use domain::{Domain, RemoteError};
pub use message::{About, End};
pub use proxy::stand_for;
pub use supervisor::supervise;

/// The lines of one record of `/dev/kmsg`, with their time.
fn kernel_line(record: &str) -> Option<String> {
    let (header, text) = record.split_once(';')?;
    let micros: u64 = header.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next()?;
    Some(format!(
        "[{:>5}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_records_become_lines() {
        let record = "4,802,97123456,-;WARNING: CPU: 0 PID: 1 at x.c:1\n SUBSYSTEM=cpu\n";
        assert_eq!(
            kernel_line(record).unwrap(),
            "[   97.123456] WARNING: CPU: 0 PID: 1 at x.c:1"
        );
        assert_eq!(kernel_line("nonsense"), None);
    }
}
