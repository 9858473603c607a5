//! What dom0 does when it is up, as shell, and the two domains' configurations.

use super::options::{DEADLINE, Guest, LabArgs};
use crate::settings::quote;
use std::fmt::Write;

/// The names of the two domains.
pub const DOMAINS: [&str; 2] = ["front", "back"];
/// Where the user's input is, in dom0 and the domains.
pub const INPUT: &str = "input";

/// Starts one domain, given its name, and again if it does not come up: an emulated processor
/// loses a guest now and then, as a triple fault or a standstill in its boot.
pub const START_DOMAIN: &str = include_str!("start-domain.sh");

/// Starts both domains, and says in `$slow` how many times as long each deadline is to be: once for
/// every 15 s that they took. On two idle cores they take less than 30 s; a deadline that is right
/// there is wrong on a busy machine, and a busy machine is no reason to fail.
const START_BOTH: &str = "\
begun=$(cut -d. -f1 /proc/uptime)
start-domain front & start-domain back && wait
slow=$((($(cut -d. -f1 /proc/uptime) - begun) / 15))
[ $slow -ge 2 ] || slow=1
[ $slow -le 8 ] || slow=8
[ $slow = 1 ] || echo \"LAB: slow machine: $slow\"
";
/// Where the report is in dom0.
pub const REPORT: &str = "/results/report";
/// And the conformance suite's, in it.
pub const CONFORM_REPORT: &str = "conform.json";
/// What a line begins with that says how many times as long deadlines are.
pub const SLOW: &str = "slow machine: ";

/// dom0's script. It leaves its status in `/results/status`.
pub fn job(args: &LabArgs) -> String {
    let mut job = format!("cd /lab\n{START_BOTH}");
    if args.shell {
        job.push_str("echo 'LAB: the domains are front and back; exit ends the machine'\n");
        job.push_str("setsid -c sh </dev/console >/dev/console 2>&1\necho 0 >/results/status\n");
        return job;
    }
    let command = match &args.run {
        Some(command) => command.clone(),
        None if args.conform => conform(),
        None => scenarios(args),
    };
    let _ = writeln!(job, "echo 'LAB: running'");
    let _ = writeln!(
        job,
        "( slow=$slow sh -c {} 2>&1; echo $? >/results/status ) </dev/null | sed 's/^/LAB| /'",
        quote(&command)
    );
    job
}

/// The conformance suite in the domains; then on the simulated Xen, with both answers in one table.
fn conform() -> String {
    format!(
        "\
mkdir -p {REPORT}
front=$(xl domid front) back=$(xl domid back)
pv-stress on --deadline 20m back \"pv-stress conform --platform xen --as-peer-of $front\" &
pv-stress on --deadline 20m front \"pv-stress conform --platform xen --peer $back --json\" \
    > {REPORT}/{CONFORM_REPORT}
real=$?
wait
pv-stress conform --beside {REPORT}/{CONFORM_REPORT}
simulated=$?
[ $real -ge $simulated ] && exit $real
exit $simulated"
    )
}

/// The command that runs the scenarios.
fn scenarios(args: &LabArgs) -> String {
    let mut command = format!(
        "pv-stress run --platform xen --front front --back back --log info --report {REPORT} --restart-domain start-domain",
    );
    let mut add = |option: &str, value: String| {
        let _ = write!(command, " {option} {}", quote(&value));
    };
    if !args.scenario.is_empty() {
        add("--scenario", args.scenario.join(","));
    }
    if let Some(hold) = args.hold {
        add("--hold", hold.to_string());
    }
    if let Some(seed) = args.seed {
        add("--seed", seed.to_string());
    }
    let input = match args.input {
        Some(_) => format!("/lab/{INPUT}"),
        None => "/bin/busybox".into(),
    };
    add("--input", input);
    add("--machine", args.machine());
    add("--hold-for", format!("{}ms", args.hold_for.as_millis()));
    match args.deadline {
        Some(deadline) => add("--deadline", format!("{}ms", deadline.as_millis())),
        // Counted by the shell that starts it.
        None => {
            let seconds = DEADLINE.as_secs();
            let _ = write!(command, " --deadline $(({seconds} * slow))s");
        }
    }
    if args.allow_kernel_damage {
        command.push_str(" --allow-kernel-damage");
    }
    command
}

/// A domain's configuration for `xl create`.
pub fn config(name: &str, guest: Guest) -> String {
    let kind = match guest {
        Guest::Pvh => "pvh",
        Guest::Pv => "pv",
    };
    // The boot's messages say where one stops that does not come up. The supervisor silences the
    // kernel when it takes the console over, and reads everything else from the kernel's buffer.
    let lines = [
        format!("name=\"{name}\""),
        format!("type=\"{kind}\""),
        "memory=320".into(),
        "vcpus=1".into(),
        "kernel=\"/lab/vmlinuz\"".into(),
        "ramdisk=\"/lab/domain.cpio\"".into(),
        "extra=\"console=hvc0 loglevel=7 panic=1\"".into(),
        "on_poweroff=\"destroy\"".into(),
        "on_reboot=\"destroy\"".into(),
        "on_crash=\"destroy\"\n".into(),
    ];
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::args;
    use super::*;

    #[test]
    fn options_reach_the_run() {
        let job = job(&args(&[
            "--scenario",
            "copy",
            "hold-unmap",
            "--hold",
            "fork",
            "--seed",
            "7",
        ]));
        assert!(
            job.contains("--scenario copy,hold-unmap --hold fork --seed 7"),
            "{job}"
        );
        assert!(job.contains("--deadline $((180 * slow))s"), "{job}");
        for domain in DOMAINS {
            assert!(job.contains(&format!("start-domain {domain}")), "{job}");
        }
        let job = super::job(&args(&["--deadline", "90s"]));
        assert!(job.contains("--deadline 90000ms"), "{job}");
    }

    #[test]
    fn a_command_replaces_the_scenarios() {
        let job = job(&args(&["--run", "echo \"it\""]));
        assert!(job.contains("sh -c 'echo \"it\"'"), "{job}");
        assert!(!job.contains("pv-stress run"), "{job}");
        let conform = super::job(&args(&["--conform"]));
        assert!(conform.contains("--as-peer-of $front"), "{conform}");
        assert!(config("front", Guest::Pv).contains("type=\"pv\""));
    }
}
