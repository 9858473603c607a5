//! How long a device that is to go is waited for. Without I/O: states and times go in.

use crate::xenbus::XenbusState::{self, Closed, Connected, InitWait, Initialising, Unknown};
use libgnt::machine::{Machine, Now};
use std::time::Duration;

/// What preceded the removal of a device's directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both ends were closed, as far as they were there.
    Closed,
    /// No front end had connected, so there was nothing to close; the back end, if one ran, did not
    /// say that it is closed.
    Unused,
    /// The back end was closed, which is all that libxl waits for: it holds nothing of the front end's
    /// any more. The front end did not say that it is; its process may be dead.
    BackClosed,
    /// The deadline. The directories were taken away from under ends that may be connected.
    Forced,
}

/// How long an end may take to say that it is closed when there is nothing left to close with the
/// other: a process needs milliseconds, and a dead one will never do it. Neither will Linux' back end
/// to which no front end came: it waits for that.
const ALONE: Duration = Duration::from_secs(2);

/// What is learnt: the front end's state and the back end's; `None`: its directory is gone.
pub(super) type Input = [Option<XenbusState>; 2];

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing more: the directories may go.
    Over(End),
    /// Look again when a state changes, and then at the latest.
    WaitUntil(Now),
}

/// How long the two ends are waited for, given what they do.
pub(super) struct Patience {
    deadline: Now,
    /// How long the back end may take when no front end is in the way; `None`: up to the deadline,
    /// for it has served one.
    unused: Option<Duration>,
    /// How it will end if an end that is alone stays silent, and since when that is so.
    alone: Option<(End, Now)>,
}

impl Patience {
    /// `before` is what the back end's state was before it was asked to close.
    pub(super) fn new(before: Option<XenbusState>, deadline: Now) -> Patience {
        Patience {
            deadline,
            unused: match before {
                // The toolstack's own value: no back end has ever run.
                Some(Initialising | Unknown) => Some(Duration::ZERO),
                Some(InitWait) => Some(ALONE),
                _ => None,
            },
            alone: None,
        }
    }

    fn judge(&mut self, now: Now, [front, back]: Input) -> Action {
        // A front end in these has no connection.
        let front_is_out = matches!(front, None | Some(Initialising | InitWait | Closed));
        let back_is_out = matches!(back, None | Some(Closed));
        let alone = match (front_is_out, back_is_out) {
            (true, true) => return Action::Over(End::Closed),
            (false, true) => Some((End::BackClosed, ALONE)),
            // A front end may have come just before the back end was asked to close.
            (true, false) if back != Some(Connected) => self.unused.map(|time| (End::Unused, time)),
            _ => None,
        };
        let (end, until) = match alone {
            Some((end, time)) => {
                let (_, since) = self
                    .alone
                    .filter(|(before, _)| *before == end)
                    .unwrap_or((end, now));
                self.alone = Some((end, since));
                (end, self.deadline.min(since + time))
            }
            None => {
                self.alone = None;
                (End::Forced, self.deadline)
            }
        };
        if now < until {
            Action::WaitUntil(until)
        } else {
            Action::Over(end)
        }
    }
}

impl Machine for Patience {
    type Input = Input;
    type Action = Action;

    /// One action each time.
    fn step(&mut self, now: Now, states: Input, actions: &mut Vec<Action>) {
        actions.push(self.judge(now, states));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xenbus::XenbusState::{Closing, Initialised};

    const DEADLINE: Duration = Duration::from_secs(100);

    #[test]
    fn who_is_waited_for_and_how_long() {
        let start = Now::from_secs(1);
        let wait = |seconds| Action::WaitUntil(start + Duration::from_secs(seconds));
        let (all, grace) = (DEADLINE.as_secs(), ALONE.as_secs());
        // The back end before it was asked to close, both now, and what follows.
        for (before, front, back, step) in [
            (
                Some(Connected),
                Some(Closed),
                Some(Closed),
                Action::Over(End::Closed),
            ),
            (
                Some(Connected),
                None,
                Some(Closed),
                Action::Over(End::Closed),
            ),
            (
                Some(Connected),
                Some(Closed),
                None,
                Action::Over(End::Closed),
            ),
            (Some(Connected), Some(Connected), Some(Closing), wait(all)),
            // It may still hold what it had mapped.
            (Some(Connected), Some(Closed), Some(Closing), wait(all)),
            (Some(Connected), None, Some(Closing), wait(all)),
            (Some(Closing), Some(Initialising), Some(Closing), wait(all)),
            (
                Some(Closed),
                Some(Initialising),
                Some(Closed),
                Action::Over(End::Closed),
            ),
            // A back end offers the device, and may say that it is closed.
            (
                Some(InitWait),
                Some(Initialising),
                Some(Closing),
                wait(grace),
            ),
            (Some(InitWait), None, Some(Closing), wait(grace)),
            (
                Some(InitWait),
                Some(Closed),
                Some(Closed),
                Action::Over(End::Closed),
            ),
            // A front end has begun to connect.
            (Some(InitWait), Some(Initialised), Some(Closing), wait(all)),
            (
                Some(InitWait),
                Some(Initialising),
                Some(Connected),
                wait(all),
            ),
            (
                Some(Initialising),
                Some(Initialised),
                Some(Closing),
                wait(all),
            ),
            (Some(Initialising), Some(Unknown), Some(Closing), wait(all)),
            // No back end has ever run.
            (
                Some(Initialising),
                Some(Initialising),
                Some(Closing),
                Action::Over(End::Unused),
            ),
            (None, Some(Initialising), None, Action::Over(End::Closed)),
            // The back end is closed, or gone: the front end may say that it is, too.
            (None, Some(Connected), None, wait(grace)),
            (Some(Connected), Some(Connected), Some(Closed), wait(grace)),
            (Some(Closed), Some(Initialised), Some(Closed), wait(grace)),
        ] {
            let mut patience = Patience::new(before, start + DEADLINE);
            assert_eq!(
                patience.judge(start, [front, back]),
                step,
                "{before:?} {front:?} {back:?}"
            );
        }
    }

    #[test]
    fn a_front_end_that_comes_late_is_waited_for_and_its_back_end_after_it() {
        let start = Now::from_secs(1);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Some(InitWait), at(100));
        let out = [Some(Initialising), Some(Closing)];
        let come = [Some(Initialised), Some(Closing)];
        let left = [Some(Closed), Some(Closing)];
        assert_eq!(patience.judge(start, out), Action::WaitUntil(start + ALONE));
        assert_eq!(patience.judge(at(1), come), Action::WaitUntil(at(100)));
        assert_eq!(patience.judge(at(50), come), Action::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(at(60), left),
            Action::WaitUntil(at(60) + ALONE)
        );
        assert_eq!(patience.judge(at(63), left), Action::Over(End::Unused));
        assert_eq!(patience.judge(at(101), come), Action::Over(End::Forced));
    }

    #[test]
    fn a_front_end_that_stays_silent_is_left_when_its_back_end_is_closed() {
        let start = Now::from_secs(1);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Some(Connected), at(100));
        let [serving, closed] = [Closing, Closed].map(|back| [Some(Connected), Some(back)]);
        assert_eq!(patience.judge(start, serving), Action::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(at(50), closed),
            Action::WaitUntil(at(50) + ALONE)
        );
        // As if it was opened again: it starts anew.
        assert_eq!(patience.judge(at(51), serving), Action::WaitUntil(at(100)));
        assert_eq!(
            patience.judge(at(60), closed),
            Action::WaitUntil(at(60) + ALONE)
        );
        assert_eq!(
            patience.judge(at(63), closed),
            Action::Over(End::BackClosed)
        );
    }
}
