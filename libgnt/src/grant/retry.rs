//! Retrying with a deadline, never for ever.

use crate::error::{Error, Result};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long, and how often, to try again what another domain's state may make fail for a while:
/// a paged-out grant, a quota that somebody else uses up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// No attempt starts after this.
    pub deadline: Duration,
    /// The first pause; each next one is twice as long, up to [`Retry::MAX_PAUSE`].
    pub first_pause: Duration,
}

impl Default for Retry {
    /// 2 seconds, from 1 ms on.
    fn default() -> Self {
        Retry::until(Duration::from_secs(2))
    }
}

impl Retry {
    /// Pauses do not grow beyond this.
    pub const MAX_PAUSE: Duration = Duration::from_millis(200);

    /// One attempt, no retry.
    pub const ONCE: Retry = Retry {
        deadline: Duration::ZERO,
        first_pause: Duration::ZERO,
    };

    /// With the first pause of [`Retry::default`].
    pub const fn until(deadline: Duration) -> Retry {
        Retry {
            deadline,
            first_pause: Duration::from_millis(1),
        }
    }

    /// Runs `attempt` until it succeeds, fails for good, or the deadline comes. The pauses are
    /// jittered, so that agents which failed together do not come back together.
    ///
    /// # Errors
    /// The last error of `attempt`, or [`Error::Timeout`] where it was one to retry.
    pub fn run<T>(
        &self,
        what: impl Fn() -> String,
        passing: &[Errno],
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let began = Instant::now();
        let mut pause = self.first_pause;
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.errno().is_some_and(|errno| passing.contains(&errno)) {
                return Err(error);
            }
            let waited = began.elapsed();
            if waited.saturating_add(pause) >= self.deadline {
                if self.deadline.is_zero() {
                    return Err(error);
                }
                return Err(Error::Timeout {
                    what: format!("{}: {error}", what()),
                    waited,
                });
            }
            // Nothing announces that a quota or a paged-out page came back: time is the only event.
            std::thread::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            pause = pause.saturating_mul(2).min(Self::MAX_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: Errno) -> Error {
        Error::device("a device", "try", errno, "")
    }

    #[test]
    fn passing_errors_are_retried_and_others_are_not() {
        let retry = Retry {
            deadline: Duration::from_secs(60),
            first_pause: Duration::from_micros(1),
        };
        let mut calls = 0;
        let result = retry.run(String::new, &[Errno::AGAIN], || {
            calls += 1;
            if calls < 5 {
                Err(error(Errno::AGAIN))
            } else {
                Ok(calls)
            }
        });
        assert_eq!(result.ok(), Some(5));
        let mut calls = 0;
        let result: Result<()> = retry.run(String::new, &[Errno::AGAIN], || {
            calls += 1;
            Err(error(Errno::INVAL))
        });
        assert_eq!(
            (calls, result.err().and_then(|e| e.errno())),
            (1, Some(Errno::INVAL))
        );
    }

    #[test]
    fn times_without_end_are_no_overflow() {
        let retry = Retry {
            deadline: Duration::MAX,
            first_pause: Duration::MAX,
        };
        let result: Result<()> =
            retry.run(String::new, &[Errno::AGAIN], || Err(error(Errno::AGAIN)));
        assert!(matches!(result, Err(Error::Timeout { .. })));
    }

    #[test]
    fn the_deadline_ends_it_and_says_what_was_tried() {
        let retry = Retry {
            deadline: Duration::from_millis(5),
            ..Retry::default()
        };
        let result: Result<()> = retry.run(
            || "share 3 pages".into(),
            &[Errno::NOSPC],
            || Err(error(Errno::NOSPC)),
        );
        let text = result.expect_err("deadline").to_string();
        assert!(text.starts_with("share 3 pages: try on a device"), "{text}");
    }
}
