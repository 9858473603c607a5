//! A line of a trace, as the kernel writes it (`trace_print_context`, `kernel/trace/trace_output.c`,
//! and `print_kprobe_event`, `kernel/trace/trace_kprobe.c`; Linux 5.10 to 7.2).
//!
//! ```text
//!        pv-stress-412     [000] .....   61.204817: unmap: (gnttab_unmap_refs+0x0/0x1c0) count=11
//! CPU:0 [LOST 12 EVENTS]
//! ```

use std::fmt;

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A probe was passed.
    Hit(Hit),
    /// So many events did not fit into the buffer.
    Lost(u64),
}

/// A probe that a thread passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// When, on the trace's clock, in nanoseconds; the kernel prints whole microseconds.
    pub ns: u64,
    /// The thread.
    pub thread: u32,
    /// The probe's name.
    pub probe: String,
    fields: Vec<(String, Option<i64>)>,
}

impl Hit {
    /// An argument, where it could be read: the kernel prints `(fault)` in place of a value that it
    /// could not.
    pub fn field(&self, name: &str) -> Option<i64> {
        let (_, value) = self.fields.iter().find(|(field, _)| field == name)?;
        *value
    }
}

/// A line that is neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError(String);

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no line of a trace: {:?}", self.0)
    }
}

impl std::error::Error for LineError {}

impl Line {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Line, LineError> {
        let read = match lost(text) {
            Some(events) => Some(Line::Lost(events)),
            None => hit(text).map(Line::Hit),
        };
        read.ok_or_else(|| LineError(text.to_owned()))
    }
}

fn lost(text: &str) -> Option<u64> {
    let (cpu, rest) = text.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    cpu.parse::<u32>().ok()?;
    rest.strip_suffix(" EVENTS]")?.parse().ok()
}

/// A thread's name may be anything, so it is read from the end.
fn hit(text: &str) -> Option<Hit> {
    let (head, tail) = text.rsplit_once(": (")?;
    let (head, probe) = head.rsplit_once(' ')?;
    let (head, stamp) = head.trim_end().strip_suffix(':')?.rsplit_once(' ')?;
    let (thread, _processor) = head.rsplit_once('[')?;
    let (_name, thread) = thread.trim_end().rsplit_once('-')?;
    let (_place, fields) = tail.split_once(')')?;
    let fields = fields.split_ascii_whitespace().map(|field| {
        let (name, value) = field.split_once('=')?;
        Some((name.to_owned(), number(value)))
    });
    Some(Hit {
        ns: nanoseconds(stamp)?,
        thread: thread.parse().ok()?,
        probe: probe.to_owned(),
        fields: fields.collect::<Option<_>>()?,
    })
}

fn nanoseconds(stamp: &str) -> Option<u64> {
    let (seconds, micros) = stamp.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
    Some(seconds * 1_000_000_000 + micros * 1000)
}

/// Addresses keep their bits.
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(u64::cast_signed),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Hit {
        match Line::parse(text) {
            Ok(Line::Hit(hit)) => hit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_kernels_are_read() {
        let map = read(
            "       pv-stress-412     [000] .....    61.204817: map: (gnttab_map_refs+0x0/0x140) addr=0xffff88800c1f2000 gref=8 domid=1 pages=11",
        );
        assert_eq!((map.ns, map.thread), (61_204_817_000, 412));
        assert_eq!(map.probe, "map");
        assert_eq!(map.field("gref"), Some(8));
        assert_eq!(
            map.field("addr").map(i64::cast_unsigned),
            Some(0xffff_8880_0c1f_2000)
        );
        assert_eq!(map.field("nothing"), None);
        // 5.10 has four flags, and a return says from where to where.
        let mapped = read(
            "          <...>-9       [000] d..1  7.000001: mapped: (mmap_region+0x2a1/0x6c0 <- gntdev_mmap) ret=-22",
        );
        assert_eq!((mapped.ns, mapped.field("ret")), (7_000_001_000, Some(-22)));
    }

    #[test]
    fn odd_threads_and_unreadable_arguments_are_no_trouble() {
        let odd = read(
            "a [1] b: (c)-x-22      [001] ..... 1.000000: unmap: (f+0x0/0x1) addr=(fault) pages=3",
        );
        assert_eq!((odd.thread, odd.field("addr")), (22, None));
        assert_eq!(odd.field("pages"), Some(3));
    }

    #[test]
    fn lost_events_are_said() {
        assert_eq!(Line::parse("CPU:0 [LOST 12 EVENTS]"), Ok(Line::Lost(12)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "# tracer: nop",
            "CPU:0 [LOST many EVENTS]",
            "x-1 [000] ..... 1.5: unmap: (f+0x0/0x1)",
            "x-1 [000] ..... 1.000000 unmap: (f+0x0/0x1)",
            "x-1 [000] ..... 1.000000: unmap: (f+0x0/0x1) pages",
            "x-y [000] ..... 1.000000: unmap: (f+0x0/0x1) pages=1",
        ] {
            let error = Line::parse(text).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
