//! `pv-stress conform`.

use super::member::{Member, StartHand};
use super::relay::{self, Relayed};
use super::rule::Rule;
use super::rules;
use super::run::{Kernel, Plan, try_rule};
use super::table::{Report, print_rule, side_by_side};
use libgnt::sim::client::SimPlatform;
use libgnt::sim::core::{Config, KernelSabotage};
use libgnt::{DomId, PlatformChoice};
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use pv_harness::host;
use pv_harness::kernel::LinuxVersion;
use pv_harness::settings::{Guest, PlatformKind};
use pv_harness::timeline::Timeline;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The simulator's two domains.
const SIM_OWN: DomId = DomId(1);
const SIM_PEER: DomId = DomId(2);

/// The options of `conform`.
#[derive(Debug, clap::Args)]
pub struct ConformArgs {
    /// Where to run
    #[arg(long, default_value = "sim")]
    platform: PlatformKind,
    /// Only these rules (default: all)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    rule: Vec<String>,
    /// With --platform xen: the domain where `--as-peer-of` runs
    #[arg(long, value_name = "DOMID")]
    peer: Option<u16>,
    /// With --platform xen: serve the rules that run in this other domain, until they are done
    #[arg(long, value_name = "DOMID", conflicts_with_all = ["peer", "rule", "list"])]
    as_peer_of: Option<u16>,
    /// The simulated domains are guests of this kind; on a real Xen the kernel says what it is
    #[arg(long, value_name = "KIND")]
    guest: Option<Guest>,
    /// Try the rules too that damage a PV guest's kernel
    #[arg(long)]
    allow_kernel_damage: bool,
    /// How long a rule may take
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// Say which rules there are, and where they come from
    #[arg(long)]
    list: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Print the table beside those of earlier runs, whose reports (`--json`) are in these files
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["json", "list"])]
    beside: Vec<PathBuf>,
    /// Break the simulated Xen on purpose, to see that a rule notices
    #[arg(long, value_name = "FAULT", hide = true, value_parser = parse_sabotage)]
    sabotage: Option<Fault>,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Host(KernelSabotage),
    Store(pv_xenstore::StoreSabotage),
}

fn parse_sabotage(name: &str) -> Result<Fault, String> {
    Ok(match name {
        "unmap-ignores-references" => Fault::Host(KernelSabotage::UnmapIgnoresReferences),
        "event-before-unmap" => Fault::Host(KernelSabotage::EventBeforeUnmap),
        "reuse-while-in-use" => Fault::Host(KernelSabotage::ReuseWhileInUse),
        "hold-outlives-owner" => Fault::Host(KernelSabotage::HoldOutlivesOwner),
        "no-quota" => Fault::Host(KernelSabotage::NoQuota),
        "no-notifier" => Fault::Host(KernelSabotage::NoNotifier),
        "no-map-reference" => Fault::Host(KernelSabotage::NoMapReferenceAcrossAsync),
        "store-ignores-conflicts" => Fault::Store(pv_xenstore::StoreSabotage::IgnoresConflicts),
        "store-tells-everybody" => Fault::Store(pv_xenstore::StoreSabotage::TellsEverybody),
        _ => return Err("no such fault".into()),
    })
}

/// The whole command.
///
/// # Errors
/// [`Error::Usage`], [`Error::Environment`]: exit status 2.
pub fn run(args: &ConformArgs, start: StartHand) -> Result<ExitCode> {
    let rules = chosen(&args.rule)?;
    if args.list {
        list(&rules, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.platform {
        PlatformKind::Sim => on_sim(args, &rules),
        PlatformKind::Xen => on_xen(args, &rules, start),
    }
}

fn on_sim(args: &ConformArgs, rules: &[&Rule]) -> Result<ExitCode> {
    if args.peer.is_some() || args.as_peer_of.is_some() {
        return Err(Error::Usage(
            "--peer and --as-peer-of are for --platform xen; the simulated Xen starts its own"
                .into(),
        ));
    }
    let failed = |error: &dyn std::fmt::Display| {
        Error::environment(
            "the simulated Xen",
            error,
            "see the message; it needs a writable TMPDIR",
        )
    };
    let dir = tempfile::Builder::new()
        .prefix("pv-conform-")
        .tempdir()
        .map_err(|error| failed(&error))?;
    let (of_the_host, of_the_store) = match args.sabotage {
        Some(Fault::Host(sabotage)) => (Some(sabotage), None),
        Some(Fault::Store(sabotage)) => (None, Some(sabotage)),
        None => (None, None),
    };
    let mut config = Config::default();
    config.sabotage = of_the_host;
    let guest = args.guest.unwrap_or(Guest::Pvh);
    config.guest = guest.into();
    let host = host::start(dir.path(), config, of_the_store, Timeline::none())
        .map_err(|error| failed(&error))?;
    // The domains must not die with the processes of a rule.
    SimPlatform::connect(dir.path(), Some(DomId::DOM0), "conform", true)
        .and_then(|dom0| {
            dom0.create_domain(SIM_OWN, "own")?;
            dom0.create_domain(SIM_PEER, "peer")
        })
        .map_err(|error| failed(&error))?;
    let plan = Plan {
        member: Member {
            platform: PlatformChoice::Sim(dir.path().to_owned()),
            domain: Some(SIM_OWN.0),
        },
        peer: SIM_PEER,
        deadline: args.deadline,
        kernel: None,
        guest: Some(guest.into()),
        damage: args.allow_kernel_damage,
    };
    let system = format!("the simulated Xen, as {guest}");
    let status = judge_all(args, rules, &plan, &system)?;
    host.stop().map_err(|error| failed(&error))?;
    Ok(status)
}

fn on_xen(args: &ConformArgs, rules: &[&Rule], start: StartHand) -> Result<ExitCode> {
    let member = Member {
        platform: PlatformChoice::Linux,
        domain: None,
    };
    let platform = member
        .join("conform")
        .map_err(|error| Error::Usage(format!("--platform xen: {error}")))?;
    if let Some(asker) = args.as_peer_of {
        relay::serve(start, &member, &*platform, DomId(asker))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.guest.is_some() {
        return Err(Error::Usage(
            "--guest is for the simulated Xen; on a real one the kernel says what it is".into(),
        ));
    }
    let Some(peer) = args.peer.map(DomId) else {
        return Err(Error::Usage(
            "--platform xen needs a second domain: run `pv-stress conform --platform xen --as-peer-of N` there with this domain's id, and name that domain here with --peer".into(),
        ));
    };
    let guest = platform.guest_type().ok();
    let told = guest.map_or("guest type unknown".into(), |guest| format!("{guest:?}"));
    let kernel = rustix::system::uname();
    let system = format!("Linux {}, {told}", kernel.release().to_string_lossy());
    let own = member.domid(&*platform)?;
    // The other domain may still be booting: that is nobody's rule.
    let other_domain = |stop| Error::environment("the other domain", stop, "see whether it lives");
    Relayed::begin(&*platform, own, peer).map_err(other_domain)?;
    let plan = Plan {
        member,
        peer,
        deadline: args.deadline,
        kernel: Some(Kernel(LinuxVersion::running())),
        guest,
        damage: args.allow_kernel_damage,
    };
    let status = judge_all(args, rules, &plan, &system)?;
    Relayed::end(&*platform, own, peer).map_err(other_domain)?;
    Ok(status)
}

fn judge_all(args: &ConformArgs, rules: &[&Rule], plan: &Plan, system: &str) -> Result<ExitCode> {
    let mut out = anstream::stdout();
    let earlier = args.beside.iter().map(|path| load(path));
    let mut all = earlier.collect::<Result<Vec<_>>>()?;
    let mut report = Report {
        tool: concat!("pv-stress ", env!("CARGO_PKG_VERSION")).into(),
        platform: args.platform.to_string(),
        system: system.into(),
        rules: Vec::new(),
    };
    for rule in rules {
        let judged = try_rule(rule, plan);
        if !args.json && all.is_empty() {
            closed_pipe_is_fine(print_rule(&judged, &mut out))?;
        }
        report.rules.push(judged);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
        closed_pipe_is_fine(text.and_then(|text| writeln!(out, "{text}")))?;
    } else {
        closed_pipe_is_fine(report.print_sum(&mut out))?;
    }
    let status = report.exit_status();
    if !all.is_empty() {
        all.insert(0, report);
        closed_pipe_is_fine(side_by_side(&all, &mut out))?;
    }
    Ok(ExitCode::from(status))
}

/// An earlier run's report.
fn load(path: &Path) -> Result<Report> {
    let bad = |error: &dyn std::fmt::Display| {
        Error::file(
            path,
            error,
            "name a report that `pv-stress conform --json` printed",
        )
    };
    let text = std::fs::read(path).map_err(|error| bad(&error))?;
    serde_json::from_slice(&text).map_err(|error| bad(&error))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Rule>> {
    if names.is_empty() {
        return Ok(rules::all().collect());
    }
    names
        .iter()
        .map(|name| {
            rules::find(name).ok_or_else(|| {
                Error::Usage(format!(
                    "there is no rule {name:?}; `pv-stress conform --list` says which there are"
                ))
            })
        })
        .collect()
}

fn list(rules: &[&Rule], json: bool) -> Result<()> {
    let mut out = anstream::stdout();
    if json {
        let list: Vec<_> = rules
            .iter()
            .map(|rule| {
                serde_json::json!({
                    "name": rule.name,
                    "says": rule.says,
                    "source": rule.source,
                    "on": rule.on.name(),
                    "since": rule.since.map(|since| since.name()),
                    "differs_on_sim": rule.differs_on_sim,
                })
            })
            .collect();
        return closed_pipe_is_fine(writeln!(out, "{}", serde_json::Value::Array(list)));
    }
    for rule in rules {
        closed_pipe_is_fine(writeln!(
            out,
            "{}\n    {}\n    ({}{}; {})",
            rule.name,
            rule.says,
            rule.on.name(),
            rule.since
                .map_or(String::new(), |since| format!(", {}", since.name())),
            rule.source
        ))?;
    }
    Ok(())
}
