//! One process of a replay: does on the simulated platform what it is told, a line at a time, so
//! that a test can walk real processes through a model's history.
//!
//! | line | does | says |
//! |---|---|---|
//! | `share PEER` | shares a page | `ok GREF` |
//! | `map DOMAIN GREF` | maps it | `ok` |
//! | `lend i915` or `lend pin` | has its page pinned, to be taken over | `ok HOLD` |
//! | `hold HOLD KIND` | takes it over | `ok` |
//! | `release` | lets go of it | `ok`, when it returns |
//! | `unmap` | unmaps | `ok`, when it returns |
//! | `released` | waits for the release | `ok` |
//! | `end` | ends access to the share | `ok ended` or `ok in-use` |
//!
//! What failed says `error WHY`.

use clap::ValueEnum as _;
use libgnt::grant::EndAccess;
use libgnt::grant::EndAccessError;
use libgnt::grant::Granter;
use libgnt::grant::Ledger;
use libgnt::grant::Map;
use libgnt::grant::Mapper;
use libgnt::grant::Share;
use libgnt::grant::UnmapError;
use libgnt::grant::Unmapping;
use libgnt::sim::client::SimPlatform;
use libgnt::sim::wire::{HoldId, HoldKind};
use libgnt::types::{Access, DomId, ForeignGrant, GrantRef};
use libgnt::{Platform, SharedPages};
use pv_harness::error::{Error, Result};
use pv_harness::settings::HoldName;
use pv_harness::timeline::{Event, Timeline};
use std::fmt::Display;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The options of `model actor`.
#[derive(Debug, clap::Args)]
pub struct ActorArgs {
    /// The simulated Xen's directory
    #[arg(long)]
    sim: PathBuf,
    /// The domain
    #[arg(long)]
    domain: u16,
    /// The process's name
    #[arg(long)]
    name: String,
    /// Where to record
    #[arg(long)]
    timeline: PathBuf,
}

struct Actor {
    platform: Arc<SimPlatform>,
    mapper: Option<Mapper>,
    timeline: Timeline,
    share: Option<Share>,
    map: Option<Map>,
    unmapping: Option<Unmapping>,
    hold: Option<(HoldId, SharedPages)>,
}

/// There is one request in a replay.
const REQUEST: u64 = 1;

/// Follows the lines on standard input to its end.
///
/// # Errors
/// [`Error`] if there is no simulated Xen to join, or nobody listens.
pub fn run(args: &ActorArgs) -> Result<ExitCode> {
    let usage = |what: &str, why: &dyn Display| Error::Usage(format!("{what}: {why}"));
    let platform = SimPlatform::connect(&args.sim, Some(DomId(args.domain)), &args.name, true)
        .map_err(|e| usage("joining the simulated Xen", &e))?;
    let timeline = Timeline::create(&args.timeline, &args.name)
        .map_err(|e| Error::file(&args.timeline, e, "choose another with --timeline"))?;
    let mut actor = Actor {
        platform: Arc::new(platform),
        mapper: None,
        timeline,
        share: None,
        map: None,
        unmapping: None,
        hold: None,
    };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| usage("standard input", &e))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match actor.does(&words) {
            Ok(said) => format!("ok {said}"),
            Err(why) => format!("error {why}"),
        };
        let told = writeln!(out, "{}", said.trim_end()).and_then(|()| out.flush());
        told.map_err(|e| usage("standard output", &e))?;
    }
    actor.timeline.log(Event::Finished);
    Ok(ExitCode::SUCCESS)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn number<T: std::str::FromStr>(word: &str) -> std::result::Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

impl Actor {
    fn platform(&self) -> Arc<dyn Platform> {
        Arc::clone(&self.platform) as Arc<dyn Platform>
    }

    fn memory_manager(&self) -> std::result::Result<&SimPlatform, String> {
        SimPlatform::of(&*self.platform).ok_or_else(|| "no memory manager".into())
    }

    fn does(&mut self, words: &[&str]) -> std::result::Result<String, String> {
        match words {
            ["share", peer] => {
                let granter = Granter::open(self.platform(), Ledger::new()).map_err(text)?;
                let peer = DomId(number(peer)?);
                let share = granter.share(peer, 1, Access::ReadWrite).map_err(text)?;
                let gref = share.grefs()[0];
                self.share = Some(share);
                Ok(gref.0.to_string())
            }
            ["map", domain, gref] => self.map(number(domain)?, number(gref)?),
            ["lend", kind] => self.lend(kind),
            ["hold", hold, kind] => {
                let hold = HoldId(number(hold)?);
                let kind = HoldName::from_str(kind, false)?;
                let pages = self.memory_manager()?.attach(hold).map_err(text)?;
                self.timeline.log(Event::Held {
                    hold: hold.0,
                    kind,
                    pages: 1,
                });
                self.hold = Some((hold, pages));
                Ok(String::new())
            }
            ["release"] => self.release(),
            ["unmap"] => self.unmap(),
            ["released"] => {
                let unmapping = self.unmapping.take().ok_or("nothing is being unmapped")?;
                unmapping.wait(Duration::from_secs(60)).map_err(text)?;
                self.timeline.log(Event::Released { request: REQUEST });
                Ok(String::new())
            }
            ["end"] => {
                let share = self.share.take().ok_or("nothing is shared")?;
                match share.end_access() {
                    Ok(EndAccess::Ended) => Ok("ended".into()),
                    Ok(EndAccess::Unobservable) => Ok("unobservable".into()),
                    Err(EndAccessError::InUse { share, .. }) => {
                        self.share = Some(share);
                        Ok("in-use".into())
                    }
                    Err(error) => Err(text(error)),
                }
            }
            other => Err(format!("what is `{}`?", other.join(" "))),
        }
    }

    fn map(&mut self, domain: u16, gref: u32) -> std::result::Result<String, String> {
        let mapper = Mapper::open(self.platform(), Ledger::new()).map_err(text)?;
        let grants = [ForeignGrant {
            domid: DomId(domain),
            gref: GrantRef(gref),
        }];
        self.map = Some(mapper.map(&grants, Access::ReadWrite).map_err(text)?);
        self.mapper = Some(mapper);
        self.timeline.log(Event::Mapped {
            request: REQUEST,
            id: REQUEST,
            grants: grants.to_vec(),
        });
        Ok(String::new())
    }

    fn lend(&mut self, kind: &str) -> std::result::Result<String, String> {
        let map = self.map.as_ref().ok_or("nothing is mapped")?;
        let kind = match kind {
            "i915" => HoldKind::I915,
            _ => HoldKind::Plain,
        };
        let hold = self
            .memory_manager()?
            .pin(map.pages(), 0, 1, kind)
            .map_err(text)?;
        self.timeline.log(Event::Lent {
            request: REQUEST,
            hold: hold.0,
            grants: map.grants().to_vec(),
        });
        Ok(hold.0.to_string())
    }

    fn release(&mut self) -> std::result::Result<String, String> {
        let (hold, pages) = self.hold.take().ok_or("nothing is held")?;
        drop(pages);
        self.timeline.log(Event::HoldReleasing { hold: hold.0 });
        let released = self.memory_manager()?.release(hold).map_err(text);
        self.timeline.log(Event::HoldReleased {
            hold: hold.0,
            error: released.clone().err(),
        });
        released.map(|()| String::new())
    }

    fn unmap(&mut self) -> std::result::Result<String, String> {
        let map = self.map.take().ok_or("nothing is mapped")?;
        self.timeline.log(Event::UnmapBegan {
            request: REQUEST,
            grants: map.grants().to_vec(),
        });
        let error = match map.unmap() {
            Ok(unmapping) => {
                self.unmapping = Some(unmapping);
                None
            }
            Err(refused) => {
                let why = refused.to_string();
                if let UnmapError::Failed { unmapping, .. } = *refused {
                    self.unmapping = Some(unmapping);
                }
                Some(why)
            }
        };
        self.timeline.log(Event::UnmapReturned {
            request: REQUEST,
            took_us: 0,
            error: error.clone(),
        });
        error.map_or_else(|| Ok(String::new()), Err)
    }
}
