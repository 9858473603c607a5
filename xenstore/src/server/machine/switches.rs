//! What `control log` switches.

/// What `log` switches, and whether that is on from the start.
pub(super) const SWITCHES: [(&str, bool); 5] = [
    ("obj", true),
    ("io", true),
    ("wrl", false),
    ("acc", false),
    ("tdb", false),
];

/// What is on. Kept and shown; the program's own log has all of it in any case.
#[derive(Debug)]
pub(super) struct Switches(pub(super) [bool; SWITCHES.len()]);

impl Default for Switches {
    fn default() -> Switches {
        Switches(SWITCHES.map(|(_, on)| on))
    }
}
