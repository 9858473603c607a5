//! Which scenarios there are.

use super::{Scenario, copy, hold_unmap, holders, killed, partial_map, revoke_in_use, scan_out};
use pv_harness::error::{Error, Result};
use pv_harness::settings::PlatformKind;
use std::collections::HashSet;

/// All of them, in the order of a run without arguments.
pub fn all() -> &'static [&'static dyn Scenario] {
    &[
        &copy::Copy,
        &hold_unmap::HoldUnmap,
        &hold_unmap::HoldUnmapSync,
        &holders::Holders,
        &killed::BackendKilled,
        &killed::FrontendKilled,
        &killed::ConsumerKilled,
        &partial_map::PartialMap,
        &revoke_in_use::RevokeInUse,
        &scan_out::ScanOut,
    ]
}

/// The scenario of a name.
///
/// # Errors
/// [`Error::Usage`], with the names there are.
pub fn find(name: &str) -> Result<&'static dyn Scenario> {
    all()
        .iter()
        .copied()
        .find(|scenario| scenario.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = all().iter().map(|scenario| scenario.name()).collect();
            Error::Usage(format!(
                "there is no scenario {name:?}; there are {}",
                names.join(", ")
            ))
        })
}

/// The scenarios of these names, each once; all that make sense on the platform, if there are no names.
///
/// # Errors
/// As [`find`]; [`Error::Usage`] for one that the platform cannot show.
pub fn chosen(names: &[String], platform: PlatformKind) -> Result<Vec<&'static dyn Scenario>> {
    let makes_sense = |scenario: &&dyn Scenario| {
        platform == PlatformKind::Sim || scenario.only_simulated().is_none()
    };
    if names.is_empty() {
        return Ok(all().iter().copied().filter(makes_sense).collect());
    }
    let mut seen = HashSet::new();
    // Twice the same would write its logs to the same place.
    names
        .iter()
        .filter(|name| seen.insert(name.as_str()))
        .map(|name| {
            let scenario = find(name)?;
            match scenario.only_simulated() {
                Some(why) if platform == PlatformKind::Xen => Err(Error::Usage(format!(
                    "{name} is for --platform sim only: {why}"
                ))),
                _ => Ok(scenario),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_once_and_strangers_are_refused() {
        let names = ["partial-map".to_owned(), "partial-map".to_owned()];
        assert_eq!(chosen(&names, PlatformKind::Sim).unwrap().len(), 1);
        assert_eq!(chosen(&[], PlatformKind::Sim).unwrap().len(), all().len());
        let Err(error) = chosen(&["nonsense".to_owned()], PlatformKind::Sim) else {
            panic!()
        };
        assert!(error.to_string().contains("partial-map"), "{error}");
    }
}
