//! The drawings and tables of `docs/unmap.md`: made here, so that they show what the checker
//! finds, and compared by a test.

use super::cli::{BoundArgs, explain};
use super::diagram;
use super::systems::{self, System};
use super::variant::Expected;
use pv_harness::error::Result;

/// What the essay shows: each discussion's naive way and the merged one, and the findings.
const DRAWN: &[&str] = &[
    "gntdev/sync",
    "gntdev/async-callback",
    "gntdev/odp",
    "gntdev/odp-write",
    "gntdev/remap-counted-too-early",
    "gntdev/error-path-waits-gup",
    "p2pdma/reuse-at-zero",
    "p2pdma/flag-zap-grace-count",
    "p2pdma/flag-not-drained",
    "vfio-pci/reversed",
    "vfio-pci/nested",
    "vfio-pci/pause-faults-at-start",
    "type1/blocking-pin",
    "type1/exclusion",
    "type1/lasting-flag-unmap",
    "type1/lasting-flag-other-device",
    "mpx/fault-under-lock",
    "mpx/look-up",
    "mpx/two-phases-marks-only",
    "xenbus/number-not-read-yet",
    "xenbus/probe-ends",
];

/// The files of `docs/diagrams`, as (name, contents).
///
/// # Errors
/// As [`explain`].
pub fn files() -> Result<Vec<(String, String)>> {
    const WIDTH: usize = 116;
    let systems = systems::all();
    let mut files = Vec::new();
    for id in DRAWN {
        let told = explain(&systems, id, None, BoundArgs::default())?;
        let name = id.replace('/', "-");
        let svg = diagram::svg(&told.history, &told.title);
        files.push((format!("{name}.svg"), svg));
        let text = anstream::adapter::strip_str(&told.text(WIDTH)).to_string();
        files.push((format!("{name}.txt"), text));
    }
    files.push(("variants.md".into(), variants(&systems)));
    Ok(files)
}

/// Every variant with its verdict, and every law.
fn variants(systems: &[System]) -> String {
    let mut out = "# The variants\n\nGenerated: see `pv-stress model list` for sizes and times. \
                   Every verdict is that of all interleavings, with three actors of the kind \
                   named.\n"
        .to_owned();
    for system in systems {
        out += &format!("\n## {}\n\n", system.title);
        out += "| variant | verdict | in one line | three of |\n|---|---|---|---|\n";
        for variant in &system.variants {
            let verdict = match variant.expected {
                Expected::Holds => "holds".to_owned(),
                Expected::Fails(laws) => format!("fails: {}", laws.join(", ")),
            };
            out += &format!(
                "| `{}` | {verdict} | {} | {} |\n",
                variant.id(),
                variant.statement,
                variant.kind
            );
        }
        out += "\nLaws:\n\n";
        let mut laws: Vec<(&str, &str)> = Vec::new();
        for (key, says) in system.variants.iter().flat_map(|v| v.laws()) {
            if !laws.iter().any(|(known, _)| *known == key) {
                laws.push((key, says));
            }
        }
        for (key, says) in laws {
            out += &format!("- **{key}**: {says}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// With `UPDATE_DOCS=1` in the environment, writes them instead.
    #[test]
    fn the_drawings_in_the_docs_are_fresh() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/diagrams");
        let update = std::env::var_os("UPDATE_DOCS").is_some();
        if update {
            std::fs::create_dir_all(&dir).unwrap();
        }
        let files = files().unwrap();
        for (name, text) in &files {
            let path = dir.join(name);
            if update {
                std::fs::write(&path, text).unwrap();
            }
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                there == *text,
                "docs/diagrams/{name} is stale: run this test with UPDATE_DOCS=1"
            );
        }
        for entry in std::fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                files.iter().any(|(known, _)| *known == name),
                "{name} is nobody's"
            );
        }
        // The essay shows every drawing, and nothing that is not there.
        let essay = std::fs::read_to_string(dir.join("../unmap.md")).unwrap();
        for (name, _) in files.iter().filter(|(name, _)| name.ends_with(".svg")) {
            assert!(
                essay.contains(&format!("diagrams/{name}")),
                "{name} is not shown"
            );
        }
        for link in essay.split("diagrams/").skip(1) {
            let name = link.split(')').next().unwrap();
            assert!(files.iter().any(|(known, _)| known == name), "no {name}");
        }
    }
}
