//! What one actor of a model does, written down step by step, as the discussions write it.
//!
//! Each operation is one atomic step; between any two steps, any other actor may move. Jumps are
//! free: `goto` and `label` are resolved when the program is built.

use super::lock::Mode;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A property of a model: what must always hold. Broken either by a step that says so
/// ([`Step::breaks`]) or by a state that `holds` refuses.
#[derive(Debug)]
pub struct Law<V: 'static> {
    /// Its name: a letter or a word.
    pub key: &'static str,
    /// In one sentence.
    pub says: &'static str,
    /// For laws about states.
    pub holds: Option<fn(&V) -> bool>,
}

impl<V> Law<V> {
    /// A law about steps: no state shows whether it is kept.
    pub(super) const fn of_steps(key: &'static str, says: &'static str) -> Law<V> {
        Law {
            key,
            says,
            holds: None,
        }
    }
}

impl<V> Clone for Law<V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<V> Copy for Law<V> {}

/// A step being made: the model's variables, and who makes it.
pub struct Step<'a, V> {
    /// The actor's number.
    pub me: usize,
    pub(super) vars: &'a mut V,
    pub(super) broken: &'a mut Vec<&'static str>,
    pub(super) crashed: bool,
}

impl<V> Step<'_, V> {
    /// This step breaks the law of that name. The model goes on.
    pub fn breaks(&mut self, law: &'static str) {
        self.broken.push(law);
    }

    /// This step breaks the law, and nothing sensible can follow (memory is corrupt): the history
    /// ends here.
    pub fn crashes(&mut self, law: &'static str) {
        self.broken.push(law);
        self.crashed = true;
    }
}

impl<V> Deref for Step<'_, V> {
    type Target = V;
    fn deref(&self) -> &V {
        self.vars
    }
}

impl<V> DerefMut for Step<'_, V> {
    fn deref_mut(&mut self) -> &mut V {
        self.vars
    }
}

/// What a step does to the variables.
pub type Effect<V> = Arc<dyn Fn(&mut Step<'_, V>) + Send + Sync>;
/// A question about the variables.
pub type Test<V> = Arc<dyn Fn(&V) -> bool + Send + Sync>;
/// The actors who would have to act for a wait to end.
pub type Owners<V> = Arc<dyn Fn(&V) -> Vec<usize> + Send + Sync>;

/// One operation.
pub(super) enum Op<V> {
    /// Take a lock; queue if it is not to be had.
    Take {
        lock: usize,
        mode: Mode,
    },
    /// Take a lock or go elsewhere; never waits.
    Try {
        lock: usize,
        mode: Mode,
        or: usize,
    },
    /// Let go of a lock.
    Release {
        lock: usize,
    },
    /// Something that can always happen.
    Act {
        text: &'static str,
        effect: Effect<V>,
    },
    /// Something that has to wait.
    Wait {
        text: &'static str,
        did: Option<&'static str>,
        until: Test<V>,
        owners: Owners<V>,
        effect: Effect<V>,
        /// When an actor may rest here for ever: a service that has nothing to do.
        rest: Option<Test<V>>,
    },
    /// A look at shared state, and a way to go for each answer.
    Ask {
        text: &'static str,
        test: Test<V>,
        or: usize,
    },
    /// One of several ways, as the model will have it.
    Choose {
        ways: Vec<(&'static str, usize)>,
    },
    Goto {
        to: usize,
    },
    /// The actor is done.
    End,
}

/// An actor's program.
pub struct Program<V> {
    /// The actor's name, a column's head in diagrams.
    pub name: String,
    pub(super) ops: Vec<Op<V>>,
    labels: BTreeMap<&'static str, usize>,
    pending: Vec<(usize, usize, &'static str)>,
}

impl<V: 'static> Program<V> {
    /// An actor that does nothing yet.
    pub fn new(name: impl Into<String>) -> Self {
        Program {
            name: name.into(),
            ops: Vec::new(),
            labels: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    fn op(mut self, op: Op<V>) -> Self {
        self.ops.push(op);
        self
    }

    fn jump(&mut self, slot: usize, to: &'static str) {
        self.pending.push((self.ops.len(), slot, to));
    }

    /// Takes a lock for reading.
    pub fn read(self, lock: usize) -> Self {
        let mode = Mode::Read;
        self.op(Op::Take { lock, mode })
    }

    /// Takes a lock for writing.
    pub fn write(self, lock: usize) -> Self {
        let mode = Mode::Write;
        self.op(Op::Take { lock, mode })
    }

    /// Takes a lock for reading if that needs no wait; else goes to `or`.
    pub fn try_read(mut self, lock: usize, or: &'static str) -> Self {
        self.jump(0, or);
        self.op(Op::Try {
            lock,
            mode: Mode::Read,
            or: 0,
        })
    }

    /// Lets go of a lock.
    pub fn unlock(self, lock: usize) -> Self {
        self.op(Op::Release { lock })
    }

    /// Does something.
    pub fn act(
        self,
        text: &'static str,
        effect: impl Fn(&mut Step<'_, V>) + Send + Sync + 'static,
    ) -> Self {
        let effect = Arc::new(effect);
        self.op(Op::Act { text, effect })
    }

    /// Waits for `until`; `owners` are those who would have to act.
    pub fn wait(
        self,
        text: &'static str,
        until: impl Fn(&V) -> bool + Send + Sync + 'static,
        owners: impl Fn(&V) -> Vec<usize> + Send + Sync + 'static,
    ) -> Self {
        self.waits(text, None, until, owners, |_| {}, None)
    }

    /// Waits for `until`, and in the same step does something: `did` says what.
    pub fn wait_then(
        self,
        text: &'static str,
        did: &'static str,
        until: impl Fn(&V) -> bool + Send + Sync + 'static,
        owners: impl Fn(&V) -> Vec<usize> + Send + Sync + 'static,
        effect: impl Fn(&mut Step<'_, V>) + Send + Sync + 'static,
    ) -> Self {
        self.waits(text, Some(did), until, owners, effect, None)
    }

    fn waits(
        self,
        text: &'static str,
        did: Option<&'static str>,
        until: impl Fn(&V) -> bool + Send + Sync + 'static,
        owners: impl Fn(&V) -> Vec<usize> + Send + Sync + 'static,
        effect: impl Fn(&mut Step<'_, V>) + Send + Sync + 'static,
        rest: Option<Test<V>>,
    ) -> Self {
        self.op(Op::Wait {
            text,
            did,
            until: Arc::new(until),
            owners: Arc::new(owners),
            effect: Arc::new(effect),
            rest,
        })
    }

    /// Where a service rests while `idle`: having nothing to do is no deadlock. With something to
    /// do, it waits for `until`, like [`Self::wait_then`].
    pub fn rest(
        self,
        text: &'static str,
        did: &'static str,
        idle: impl Fn(&V) -> bool + Send + Sync + 'static,
        until: impl Fn(&V) -> bool + Send + Sync + 'static,
        owners: impl Fn(&V) -> Vec<usize> + Send + Sync + 'static,
        effect: impl Fn(&mut Step<'_, V>) + Send + Sync + 'static,
    ) -> Self {
        let rest: Test<V> = Arc::new(idle);
        self.waits(text, Some(did), until, owners, effect, Some(rest))
    }

    /// Looks at shared state: on if `test`, else to `or`.
    pub fn ask(
        mut self,
        text: &'static str,
        test: impl Fn(&V) -> bool + Send + Sync + 'static,
        or: &'static str,
    ) -> Self {
        self.jump(0, or);
        self.op(Op::Ask {
            text,
            test: Arc::new(test),
            or: 0,
        })
    }

    /// Goes one of several ways.
    pub fn choose(mut self, ways: &[(&'static str, &'static str)]) -> Self {
        for (slot, (_, to)) in ways.iter().enumerate() {
            self.jump(slot, to);
        }
        let ways = ways.iter().map(|(text, _)| (*text, 0)).collect();
        self.op(Op::Choose { ways })
    }

    /// Names the next step.
    pub fn label(mut self, name: &'static str) -> Self {
        let twice = self.labels.insert(name, self.ops.len());
        debug_assert!(twice.is_none(), "label {name} twice in {}", self.name);
        self
    }

    /// Goes to a named step.
    pub fn goto(mut self, to: &'static str) -> Self {
        self.jump(0, to);
        self.op(Op::Goto { to: 0 })
    }

    /// The actor's work is done.
    pub fn end(self) -> Self {
        self.op(Op::End)
    }

    /// Steps that several programs share.
    pub fn then(self, part: impl FnOnce(Self) -> Self) -> Self {
        part(self)
    }

    /// Steps that only some variants have.
    pub fn when(self, yes: bool, part: impl FnOnce(Self) -> Self) -> Self {
        if yes { part(self) } else { self }
    }

    /// Resolves the jumps. Every program ends with [`Op::End`].
    pub(super) fn build(mut self) -> Self {
        self.ops.push(Op::End);
        let end = self.ops.len() - 1;
        for (at, slot, to) in std::mem::take(&mut self.pending) {
            let target = self.labels.get(to).copied();
            debug_assert!(target.is_some(), "no label {to} in {}", self.name);
            let target = target.unwrap_or(end);
            match &mut self.ops[at] {
                Op::Try { or, .. } | Op::Ask { or, .. } => *or = target,
                Op::Goto { to } => *to = target,
                Op::Choose { ways } => ways[slot].1 = target,
                _ => {}
            }
        }
        self
    }

    /// Where an actor that has come to `at` really is: jumps are free.
    pub(super) fn settle(&self, mut at: usize) -> usize {
        while let Op::Goto { to } = self.ops[at] {
            at = to;
        }
        at
    }
}
