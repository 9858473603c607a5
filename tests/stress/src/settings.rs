//! What a run is asked to do.

use pv_harness::error::{Error, Result};
use pv_harness::holder::HoldName;
use pv_harness::settings::{Guest, PlatformKind, Unmap, quote, spell};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ways to make a run wrong on purpose, so that its judges can be seen to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RunSabotage {
    /// The hypervisor unmaps although somebody holds the pages.
    UnmapUnderHolder,
    /// The unmap's event comes when the unmap begins, so the back end answers before the release.
    EarlyEvent,
    /// A dead consumer's references are never dropped.
    HoldOutlivesOwner,
    /// The back end keeps writes in its memory only: acknowledged, and lost with it.
    VolatileDisk,
    /// The front end writes one bit that is not in its input.
    FlipBit,
    /// The granter gets pages back that its peer still maps.
    ReuseWhileInUse,
    /// The back end maps and unmaps the pages of one request once more, behind its ledger's back.
    MapBehindLedger,
}

impl RunSabotage {
    /// Is it done to the simulated Xen, so that a real one goes on as if nothing was?
    pub fn is_simulated(self) -> bool {
        match self {
            RunSabotage::UnmapUnderHolder
            | RunSabotage::EarlyEvent
            | RunSabotage::HoldOutlivesOwner
            | RunSabotage::ReuseWhileInUse => true,
            RunSabotage::VolatileDisk | RunSabotage::FlipBit | RunSabotage::MapBehindLedger => {
                false
            }
        }
    }

    /// Refuses one that the platform does not know.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(self, platform: PlatformKind) -> Result<()> {
        if platform == PlatformKind::Xen && self.is_simulated() {
            return Err(Error::Usage(format!(
                "--sabotage {self} is done to the simulated Xen, and not to a real one; use --platform sim"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for RunSabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum;
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => Ok(()),
        }
    }
}

/// The options of `run`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub platform: PlatformKind,
    /// When unmaps wait.
    pub unmap: Unmap,
    /// What the simulated domains are; `None`: as fits `unmap`.
    pub guest: Option<Guest>,
    /// How the third consumer holds pages; `None`: as the scenario prefers.
    pub hold: Option<HoldName>,
    /// For how long.
    pub hold_for: Duration,
    /// For each scenario.
    pub deadline: Duration,
    /// Of everything random.
    pub seed: u64,
    /// What goes through the pair.
    pub input: PathBuf,
    /// Holding pages on a PV guest is allowed.
    pub allow_kernel_damage: bool,
    /// What is to go wrong.
    pub sabotage: Option<RunSabotage>,
    /// The domains of the front end and of the back end, on a real Xen.
    pub domains: Option<(String, String)>,
    /// The command that made the machine that this run is on: it runs a scenario again, given the
    /// scenario and the seed.
    pub machine: Option<String>,
}

impl Settings {
    /// The command that runs one scenario again, as this run did.
    pub fn replay(&self, scenario: &str, report: &Path) -> String {
        if let Some(machine) = &self.machine {
            // A table's row is one machine with one holder after the other.
            let hold = match self.hold {
                Some(hold) if !machine.contains(" --hold ") => format!(" --hold {hold}"),
                _ => String::new(),
            };
            let seed = self.seed;
            return format!("{machine}{hold} --scenario {scenario} --seed {seed}");
        }
        let mut command = format!(
            "pv-stress run --scenario {scenario} --platform {} --unmap {} --hold-for {} --deadline {} --seed {}",
            self.platform,
            self.unmap,
            spell(self.hold_for),
            spell(self.deadline),
            self.seed
        );
        let mut add = |option: &str, value: String| {
            command.push_str(&format!(" {option} {value}"));
        };
        if let Some(guest) = self.guest {
            add("--guest", guest.to_string());
        }
        if let Some(hold) = self.hold {
            add("--hold", hold.to_string());
        }
        if let Some(sabotage) = self.sabotage {
            add("--sabotage", sabotage.to_string());
        }
        if let Some((front, back)) = &self.domains {
            add("--front", quote(front));
            add("--back", quote(back));
        }
        add("--input", quote(&self.input.display().to_string()));
        if self.allow_kernel_damage {
            command.push_str(" --allow-kernel-damage");
        }
        command.push_str(" --report ");
        command + &quote(&report.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_xen_is_not_sabotaged_in_vain() {
        let refused = RunSabotage::EarlyEvent.check(PlatformKind::Xen);
        assert!(refused.unwrap_err().to_string().contains("early-event"));
        for sabotage in [RunSabotage::FlipBit, RunSabotage::MapBehindLedger] {
            assert!(sabotage.check(PlatformKind::Xen).is_ok());
        }
        assert!(RunSabotage::EarlyEvent.check(PlatformKind::Sim).is_ok());
    }

    #[test]
    fn a_replay_says_everything() {
        let settings = Settings {
            platform: PlatformKind::Sim,
            unmap: Unmap::Sync,
            guest: Some(Guest::Pvh),
            hold: Some(HoldName::I915),
            hold_for: Duration::from_millis(1500),
            deadline: Duration::from_secs(90),
            seed: 7,
            input: "/tmp/it's here".into(),
            allow_kernel_damage: false,
            sabotage: Some(RunSabotage::FlipBit),
            domains: None,
            machine: None,
        };
        assert_eq!(
            settings.replay("copy", Path::new("r")),
            r"pv-stress run --scenario copy --platform sim --unmap sync --hold-for 1s500ms --deadline 1m30s --seed 7 --guest pvh --hold i915 --sabotage flip-bit --input '/tmp/it'\''s here' --report r"
        );
        let in_lab = Settings {
            machine: Some("pv-stress lab --kernel 6.12".into()),
            ..settings.clone()
        };
        assert_eq!(
            in_lab.replay("copy", Path::new("r")),
            "pv-stress lab --kernel 6.12 --hold i915 --scenario copy --seed 7"
        );
        let with_hold = Settings {
            machine: Some("pv-stress lab --hold pipe".into()),
            ..settings.clone()
        };
        assert_eq!(
            with_hold.replay("copy", Path::new("r")),
            "pv-stress lab --hold pipe --scenario copy --seed 7"
        );
        assert_eq!(humantime::parse_duration("1s500ms"), Ok(settings.hold_for));
    }
}
