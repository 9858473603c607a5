//! Deliberately broken variants, which the tests must catch. A check that never failed proves nothing.

/// What to break.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BackSabotage {
    /// Nothing.
    #[default]
    None,
    /// Breaks rule 1: answers when the unmap has begun.
    RespondBeforeRelease,
    /// Breaks rule 1: answers twice.
    RespondTwice,
    /// Breaks rule 3: unmaps while the disk works.
    UnmapDuringDisk,
    /// Breaks rule 4: takes requests without end.
    NoZombieBound,
    /// Never takes maps out of the cache.
    KeepCache,
    /// Breaks the bounds check.
    NoRangeCheck,
}
