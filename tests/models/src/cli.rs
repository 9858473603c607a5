//! `pv-stress model`.

use super::catalogue::{pick, pick_one};
use super::graph::Recorder;
use super::history::History;
use super::search::Limits;
use super::systems::{self, System};
use super::variant::{Bounds, Expected, Variant};
use super::verdict::{Verdict, check};
use super::{diagram, table};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use pv_harness::error::{Error, Result, closed_pipe_is_fine};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The commands of `model`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Check every model and print the table: what is expected of each, and what was found
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// How far to go
        #[command(flatten)]
        bounds: BoundArgs,
    },
    /// Check models; status 1 if a verdict is not the expected one
    Check {
        /// A system, or SYSTEM/VARIANT (default: everything)
        name: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// How far to go
        #[command(flatten)]
        bounds: BoundArgs,
    },
    /// Tell a variant's story, and draw the shortest history that breaks it
    Explain {
        /// SYSTEM/VARIANT
        name: String,
        /// The history of this law (default: the variant's point)
        #[arg(long)]
        law: Option<String>,
        /// Draw it into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// Write story and drawing into this file
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Columns of the drawing in the terminal (default: the terminal's)
        #[arg(long, value_name = "N")]
        width: Option<usize>,
        /// How far to go
        #[command(flatten)]
        bounds: BoundArgs,
    },
    /// Walk through a variant's states in a browser
    Explore {
        /// SYSTEM/VARIANT
        name: String,
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
        listen: SocketAddr,
        /// How far to go
        #[command(flatten)]
        bounds: BoundArgs,
    },
}

/// How far the checker goes.
#[derive(Clone, Copy, Debug, Args)]
pub struct BoundArgs {
    /// Actors of the kind that there are several of (default: as the variant says)
    #[arg(long, value_name = "N")]
    actors: Option<usize>,
    /// Stop a variant after so many states; it then is not exhaustive
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_states)]
    max_states: usize,
    /// Stop a variant after so long; it then is not exhaustive
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    time_limit: Duration,
}

impl BoundArgs {
    fn limits(self) -> Limits {
        Limits {
            max_states: self.max_states,
            time: self.time_limit,
        }
    }

    fn of(self, variant: &Variant) -> Result<Bounds> {
        let bounds = variant.bounds(self.actors);
        match self.actors {
            Some(asked) if asked != bounds.actors => Err(Error::Usage(format!(
                "{} can have 1 to {} of its {}, not {asked}; use --actors {}",
                variant.id(),
                variant.actors.1,
                variant.kind,
                bounds.actors
            ))),
            _ => Ok(bounds),
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// [`Error::Usage`] for names and bounds that cannot be, [`Error::Environment`] for files and
/// addresses that cannot be used.
pub fn run(command: ModelCommand) -> Result<ExitCode> {
    let systems = systems::all();
    match command {
        ModelCommand::List { json, bounds } => {
            let verdicts = check_all(&systems, None, bounds)?;
            print(&verdicts, json)?;
            Ok(ExitCode::SUCCESS)
        }
        ModelCommand::Check { name, json, bounds } => {
            let verdicts = check_all(&systems, name.as_deref(), bounds)?;
            print(&verdicts, json)?;
            let good = verdicts.iter().all(|verdict| verdict.as_expected);
            Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        ModelCommand::Explain {
            name,
            law,
            svg,
            html,
            width,
            bounds,
        } => {
            let explained = explain(&systems, &name, law.as_deref(), bounds)?;
            if let Some(path) = &svg {
                let drawn = diagram::svg(&explained.history, &explained.title);
                save(path, &drawn)?;
            }
            if let Some(path) = &html {
                let (story, said) = (&explained.story, &explained.conclusion);
                let page = diagram::html(&explained.history, &explained.title, story, said);
                save(path, &page)?;
            }
            show(&explained.text(width.unwrap_or_else(terminal_width)))?;
            Ok(ExitCode::SUCCESS)
        }
        ModelCommand::Explore {
            name,
            listen,
            bounds,
        } => {
            let picked = pick_one(&systems, &name)?;
            let variant = &systems[picked.system].variants[picked.variant];
            let bounds = bounds.of(variant)?;
            // The explorer panics if it cannot listen: find out first, and which port 0 stands for.
            let listen = std::net::TcpListener::bind(listen)
                .and_then(|probe| probe.local_addr())
                .map_err(|e| {
                    Error::environment(listen, e, "choose another address with --listen")
                })?;
            show(&format!(
                "{} at http://{listen}/ (end with ^C)\n",
                variant.id()
            ))?;
            variant.explore(bounds, listen);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check_all(systems: &[System], name: Option<&str>, bounds: BoundArgs) -> Result<Vec<Verdict>> {
    let picked = pick(systems, name)?;
    let total = picked.len();
    let mut verdicts = Vec::new();
    for (i, place) in picked.iter().enumerate() {
        let system = &systems[place.system];
        let variant = &system.variants[place.variant];
        // Over a whole system, as many actors as asked for, where a variant can have them.
        let its_bounds = if name.is_some_and(|name| name == variant.id()) {
            bounds.of(variant)?
        } else {
            variant.bounds(bounds.actors)
        };
        let recorder = Arc::new(Recorder::default());
        let bar = progress(&variant.id(), i, total, &recorder);
        verdicts.push(check(
            system,
            variant,
            its_bounds,
            bounds.limits(),
            &recorder,
        ));
        bar.finish_and_clear();
    }
    Ok(verdicts)
}

/// A line on standard error while a variant is checked; nothing where that is no terminal.
fn progress(id: &str, done: usize, total: usize, recorder: &Arc<Recorder>) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let recorder = Arc::clone(recorder);
    let states = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}", recorder.expanded.load(Ordering::Relaxed));
    };
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {msg}: {states} states") {
        bar.set_style(style.with_key("states", states));
    }
    bar.set_position(done as u64 + 1);
    bar.set_message(id.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A variant, told and drawn.
pub struct Explained {
    /// `SYSTEM/VARIANT: statement`.
    pub title: String,
    /// Paragraphs.
    pub story: Vec<String>,
    /// The history.
    pub history: History,
    /// What it shows.
    pub conclusion: Vec<String>,
}

impl Explained {
    /// For a terminal or a text file.
    pub fn text(&self, width: usize) -> String {
        let mut out = format!("{}\n", self.title);
        for paragraph in &self.story {
            out += &format!("\n{}\n", diagram::fill(paragraph, width.min(100)));
        }
        out += &format!("\n{}\n", diagram::text(&self.history, width));
        for line in &self.conclusion {
            out += &format!("{}\n", diagram::fill(line, width.min(100)));
        }
        out
    }
}

/// Explains a variant.
///
/// # Errors
/// [`Error::Usage`] for a name or law that there is not, or bounds too small to find the history.
pub fn explain(
    systems: &[System],
    name: &str,
    law: Option<&str>,
    args: BoundArgs,
) -> Result<Explained> {
    let picked = pick_one(systems, name)?;
    let system = &systems[picked.system];
    let variant = &system.variants[picked.variant];
    let bounds = args.of(variant)?;
    let laws = variant.laws();
    let mut story = vec![
        format!("{}. {}", system.title, system.cycle),
        variant.story.to_owned(),
    ];
    let wanted = match (law, variant.expected) {
        (Some(law), _) => Some(
            (laws.iter().map(|(key, _)| *key).find(|key| *key == law)).ok_or_else(|| {
                let known: Vec<&str> = laws.iter().map(|(key, _)| *key).collect();
                Error::Usage(format!(
                    "{} has no law `{law}`; it has {}",
                    variant.id(),
                    known.join(", ")
                ))
            })?,
        ),
        (None, Expected::Fails(laws)) => laws.first().copied(),
        (None, Expected::Holds) => None,
    };
    let history = match wanted {
        Some(law) => smallest(variant, bounds, law, args).ok_or_else(|| {
            Error::Usage(format!(
                "no history of {} breaks `{law}` within {} states and {} {}s",
                variant.id(),
                args.max_states,
                bounds.actors,
                variant.kind
            ))
        })?,
        None => {
            story.push(
                "No interleaving breaks a law. This run takes the turns that undo the naive way, \
                 and gets through."
                    .into(),
            );
            like_the_naive(systems, variant, bounds, args)
        }
    };
    let conclusion = diagram::conclusion(&history, &laws);
    story.push(format!("Merged: {}", system.merged));
    Ok(Explained {
        title: format!("{}: {}", variant.id(), variant.statement),
        story,
        history,
        conclusion,
    })
}

/// The shortest history with the fewest actors that break the law, unless asked for a number.
fn smallest(
    variant: &Variant,
    bounds: Bounds,
    law: &'static str,
    args: BoundArgs,
) -> Option<History> {
    let fewest = if args.actors.is_some() {
        bounds.actors
    } else {
        1
    };
    (fewest..=bounds.actors)
        .find_map(|actors| variant.history(Bounds { actors }, law, args.max_states))
}

fn like_the_naive(
    systems: &[System],
    variant: &Variant,
    bounds: Bounds,
    args: BoundArgs,
) -> History {
    let naive = systems::mends(&variant.id())
        .and_then(|id| {
            systems
                .iter()
                .flat_map(|s| &s.variants)
                .find(|v| v.id() == id)
        })
        .and_then(|naive| match naive.expected {
            Expected::Fails([law, ..]) => smallest(naive, naive.bounds(args.actors), law, args),
            _ => None,
        });
    let none = History {
        law: None,
        actors: Vec::new(),
        start: Vec::new(),
        events: Vec::new(),
        left_over: None,
    };
    // No more actors than the naive history needs.
    let few = Bounds {
        actors: args.actors.unwrap_or(1),
    };
    let like = naive.as_ref().unwrap_or(&none);
    let run = variant.run_like(few, like);
    if run.actors.len() >= like.actors.len() {
        run
    } else {
        variant.run_like(bounds, like)
    }
}

/// The default bounds, for whoever explains without a command line.
impl Default for BoundArgs {
    fn default() -> Self {
        let limits = Limits::default();
        BoundArgs {
            actors: None,
            max_states: limits.max_states,
            time_limit: limits.time,
        }
    }
}

fn print(verdicts: &[Verdict], json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(verdicts)
            .map_err(|e| Error::environment("the verdicts as JSON", e, "report this"))?;
        return show(&(text + "\n"));
    }
    show(&table::table(verdicts))
}

fn show(text: &str) -> Result<()> {
    closed_pipe_is_fine(anstream::stdout().write_all(text.as_bytes()))
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .map_err(|e| Error::file(path, e, "choose a file that can be written"))
}

fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    match size {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 120,
    }
}
