//! What a kernel does with grants, seen through its own tracing: a second oracle beside the library's
//! ledger, which shares no code with it.
//!
//! Linux' tracefs puts probes on functions of the running kernel (`CONFIG_KPROBE_EVENTS`, which
//! Debian's kernels have; `Documentation/trace/kprobetrace.rst`). The probes are on what is called
//! once for each mapping, unmap and end of a grant, and on nothing that a request's data passes.
//!
//! - `probes`: which functions, and what of their arguments.
//! - `line`: a line of a trace.
//! - `account`: from lines to what the kernel did, a machine without I/O.
//! - `tracefs`: the files.

mod account;
mod line;
mod probes;
mod tracefs;

pub use account::{Account, Gap, Input, Told};
pub use line::{Hit, Line, LineError};
pub use tracefs::{Tracer, Unwatched};
