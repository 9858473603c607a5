//! Deliberately broken variants, one for each promise, which the tests must catch. A check that
//! never failed proves nothing.

/// What to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[doc(hidden)]
pub enum FrontSabotage {
    /// Nothing.
    #[default]
    None,
    /// Pages go back to the pool when the request is pushed, not when it is answered.
    FreeAtPush,
    /// A response is matched by its slot alone, so that an old one passes for a new one.
    IgnoreGeneration,
    /// The response's operation is not compared.
    IgnoreOperation,
    /// A page still mapped at the response is reused.
    IgnoreStillMapped,
    /// What was on the ring when the back end died is reported as done.
    AcknowledgeOnDeath,
    /// What was on the ring when the back end died is forgotten.
    ForgetOnDeath,
    /// Requests go out again newest first.
    ResendBackwards,
    /// A flush does not wait for the writes before it.
    FlushOvertakes,
    /// An I/O of several requests is done with its first answer.
    CompleteEarly,
    /// A smaller disk fails what the back end has on the ring, too.
    RefuseOnTheRing,
}
