//! What scenarios have in common: the host, its domains, a device, the processes around them.

use crate::checks::Evidence;
use crate::settings::{Settings, Unmap};
use crate::timeline::{Event, Timeline, now_ns};
use crate::verdict::Figure;
use crate::world::{ChildId, News, Stopped, World};
use libgnt::DomId;
use libgnt::sim::client::SimPlatform;
use libgnt::sim::wire::Inspection;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The front end's domain. The back end and the consumer are in dom0.
pub const FRONT: DomId = DomId(1);

/// A world with a simulated Xen in it.
pub struct Stage<'a> {
    /// The processes.
    pub world: World,
    /// What was asked for.
    pub settings: &'a Settings,
    host: Option<ChildId>,
    toolstack: Option<Arc<SimPlatform>>,
    ledgers: Vec<(String, Vec<String>)>,
    figures: Vec<Figure>,
    timeline: Timeline,
}

/// Turns a library's error into one that stops the scenario.
pub(super) fn failed<E: std::fmt::Display>(doing: &str) -> impl FnOnce(E) -> Stopped + '_ {
    move |error| Stopped::Io {
        doing: doing.into(),
        error: io::Error::other(error.to_string()),
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(world: World, settings: &'a Settings) -> Stage<'a> {
        Stage {
            world,
            settings,
            host: None,
            toolstack: None,
            ledgers: Vec::new(),
            figures: Vec::new(),
            timeline: Timeline::none(),
        }
    }

    /// Where the simulated Xen's host serves.
    pub fn sim_dir(&self) -> PathBuf {
        self.world.dir().join("sim")
    }

    /// Starts the host, joins it as the toolstack, and creates the front end's domain.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_host(&mut self) -> Result<(), Stopped> {
        self.start_host_with(self.settings.unmap)
    }

    /// The same, whatever `--unmap` says.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_host_with(&mut self, unmap: Unmap) -> Result<(), Stopped> {
        self.timeline = Timeline::create(&self.world.timeline_path("pv-stress"), "pv-stress")
            .map_err(failed("the run's own timeline"))?;
        let mut args: Vec<OsString> = vec!["--dir".into(), self.sim_dir().into()];
        args.extend(["--unmap".into(), unmap.to_string().into()]);
        self.add_sabotage(&mut args);
        let host = self.world.spawn("host", "host", args)?;
        self.host = Some(host);
        self.world.await_ready(host)?;
        let toolstack =
            SimPlatform::connect(&self.sim_dir(), Some(DomId::DOM0), "toolstack", false)
                .map_err(failed("joining the simulated Xen"))?;
        toolstack
            .create_domain(FRONT, "front")
            .map_err(failed("creating the front's domain"))?;
        self.toolstack = Some(Arc::new(toolstack));
        Ok(())
    }

    fn add_sabotage(&self, args: &mut Vec<OsString>) {
        if let Some(sabotage) = self.settings.sabotage {
            args.extend(["--sabotage".into(), sabotage.to_string().into()]);
        }
    }

    /// The toolstack's view of the host.
    ///
    /// # Errors
    /// [`Stopped`] before [`Stage::start_host`].
    pub fn toolstack(&self) -> Result<&Arc<SimPlatform>, Stopped> {
        self.toolstack.as_ref().ok_or_else(|| Stopped::Io {
            doing: "asking the host".into(),
            error: io::Error::other("there is none yet"),
        })
    }

    /// Starts a process of a domain; its sabotage is the run's.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn spawn(
        &mut self,
        name: &str,
        role: &str,
        domid: DomId,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<ChildId, Stopped> {
        let mut platform = OsString::from("sim:");
        platform.push(self.sim_dir());
        let mut all: Vec<OsString> = vec!["--platform".into(), platform];
        all.extend(["--domain".into(), domid.0.to_string().into()]);
        self.add_sabotage(&mut all);
        all.extend(args);
        self.world.spawn(name, role, all)
    }

    /// Everything alive on the host, now.
    ///
    /// # Errors
    /// [`Stopped`], if the host is gone.
    pub fn inspect(&self) -> Result<Inspection, Stopped> {
        self.toolstack()?
            .inspect()
            .map_err(failed("inspecting the host"))
    }

    /// Waits for a fact that a child tells.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_fact(&mut self, id: ChildId, name: &str) -> Result<String, Stopped> {
        let what = format!("{} to tell {name:?}", self.world.child(id).name);
        self.world.await_news(id, &what, |news| match news {
            News::Fact { name: told, value } if told == name => Some(value.clone()),
            _ => None,
        })
    }

    /// Stops a child, and takes the ledger it shows at its end.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn stop(&mut self, id: ChildId) -> Result<(), Stopped> {
        self.world.stop(id)?;
        self.take_ledger(id)
    }

    /// Waits for a child to end by itself, and takes its ledger.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn await_end(&mut self, id: ChildId) -> Result<(), Stopped> {
        self.world.await_exit(id)?;
        self.take_ledger(id)
    }

    fn take_ledger(&mut self, id: ChildId) -> Result<(), Stopped> {
        let name = self.world.child(id).name.clone();
        let entries =
            self.world
                .await_news(id, &format!("{name}'s ledger"), |news| match news {
                    News::Ledger { entries } => Some(entries.clone()),
                    _ => None,
                })?;
        self.ledgers.push((name, entries));
        Ok(())
    }

    /// SIGKILL. Returns when, on the timelines' clock.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn kill(&mut self, id: ChildId) -> Result<u64, Stopped> {
        let at = now_ns();
        let name = self.world.child(id).name.clone();
        self.timeline.log(Event::Killed { who: name });
        self.world.kill(id)?;
        Ok(at)
    }

    /// A figure for the table.
    pub fn figure(&mut self, name: &str, value: impl ToString) {
        self.figures.push(Figure {
            name: name.into(),
            value: value.to_string(),
        });
    }

    /// Ends every process but the host, asks that what is left, and then ends it too.
    pub(super) fn finish(mut self) -> (Evidence, Vec<Figure>) {
        for id in self
            .world
            .children()
            .filter(|id| Some(*id) != self.host)
            .collect::<Vec<_>>()
        {
            self.world.end(id);
        }
        let inspection = self.settled();
        self.toolstack = None;
        let aftermath = self.world.finish();
        (
            Evidence::new(aftermath, inspection, self.ledgers),
            self.figures,
        )
    }

    /// The host's state once what is deferred had the time it may take: an unmap is retried less
    /// and less often, about sqrt(10 ms · T) apart after a hold of T; an end of access that the peer
    /// was in the way of, once a second, ten entries at a time.
    fn settled(&mut self) -> Option<Inspection> {
        const STEP: Duration = Duration::from_millis(10);
        self.toolstack.as_ref()?;
        let first = self.inspect().ok()?;
        let ending = first.grants.iter().filter(|grant| grant.ending).count();
        let gap = (0.010 * self.settings.hold_for.as_secs_f64()).sqrt();
        let patience = 2.0 + 2.0 * gap + ending as f64 / 10.0;
        let until = Instant::now() + Duration::from_secs_f64(patience);
        let mut state = first;
        while !is_settled(&state) && Instant::now() < until && self.world.interrupted().is_none() {
            self.world.idle(STEP);
            state = self.inspect().ok()?;
        }
        Some(state)
    }
}

fn is_settled(state: &Inspection) -> bool {
    state.grants.is_empty()
        && state.unmapping.is_empty()
        && state.holders.is_empty()
        && state.gntalloc_pages == 0
        && state.event_channels == 0
}
