//! Everything that can happen to a pair.

use Step::*;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    // Progress: what will happen by itself, sooner or later.
    FrontStarts,
    BackStarts,
    FrontSeesPeer,
    FrontSeesOwn,
    FrontHearsDeath,
    BackSeesPeer,
    BackSeesOwn,
    BackHearsDeath,
    FrontTaskDone,
    BackTaskDone,
    Drained,
    // Trouble: what may happen.
    FrontTaskFails,
    BackTaskFails,
    FrontDies,
    BackDies,
    FrontFatal,
    BackFatal,
    FrontAsked,
    BackAsked,
    FrontAbandons,
    BackAbandons,
    ToolstackAsks,
    ToolstackForces,
    ToolstackCreates,
    ToolstackReplaces,
    ToolstackMoves,
    BackRemade,
    BackDomainVanishes,
}

pub(super) const PROGRESS: &[Step] = &[
    FrontStarts,
    BackStarts,
    FrontSeesPeer,
    FrontSeesOwn,
    FrontHearsDeath,
    BackSeesPeer,
    BackSeesOwn,
    BackHearsDeath,
    FrontTaskDone,
    BackTaskDone,
    Drained,
];
pub(super) const TROUBLE: &[Step] = &[
    FrontTaskFails,
    BackTaskFails,
    FrontDies,
    BackDies,
    FrontFatal,
    BackFatal,
    FrontAsked,
    BackAsked,
    ToolstackAsks,
    ToolstackForces,
    ToolstackCreates,
    ToolstackReplaces,
    ToolstackMoves,
    BackRemade,
    BackDomainVanishes,
];
pub(super) const DEADLINES: &[Step] = &[FrontAbandons, BackAbandons];
