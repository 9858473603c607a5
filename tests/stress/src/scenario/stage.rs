//! What scenarios have in common: the host, its domains, a device, the processes around them.

mod finish;
mod kill;

use crate::role::{Assignment, HandTask, Home, HostTask, Part, Role};
use crate::settings::Settings;
use libgnt::DomId;
use libgnt::grant::Totals;
use libgnt::inspect::Inspection;
use libgnt::sim::client::SimPlatform;
use pv_harness::digest::digest;
use pv_harness::hand::RemoteHand;
use pv_harness::picture::shape;
use pv_harness::player::RunLink;
use pv_harness::processes::{Autopsy, Blocked, ChildId, News, Processes, Stopped};
use pv_harness::settings::{Guest, Unmap};
use pv_harness::timeline::{Event, Record, Timeline, now_ns, read_file};
use pv_judges::checks::{Watched, standstill};
use pv_judges::picture::Picture;
use pv_judges::verdict::Figure;
use pv_remote::xen::Xen;
use pv_xenstore::Client;
use pv_xenstore::toolstack::BlockDevice;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The front end's domain on the simulated Xen. The back end and the consumer are in dom0 there.
pub const FRONT: DomId = DomId(1);

/// A device, and what it is kept on.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its number.
    pub number: u32,
    /// Its image, in the directory of the run's processes.
    pub image: PathBuf,
}

/// The processes of a scenario, with a simulated Xen among them, or on a real one.
pub struct Stage<'a> {
    /// The processes.
    pub processes: Processes,
    /// What was asked for.
    pub settings: &'a Settings,
    host: Option<ChildId>,
    toolstack: Option<Arc<SimPlatform>>,
    xen: Option<Arc<Xen>>,
    devices: Vec<BlockDevice>,
    ledgers: Vec<(String, Vec<String>)>,
    totals: Vec<(String, Totals)>,
    observers: Vec<ChildId>,
    watched: Vec<Watched>,
    figures: Vec<Figure>,
    pictures: Vec<Picture>,
    timeline: Timeline,
}

/// How long nothing happens before the kernels are asked why.
const QUIET: Duration = Duration::from_secs(5);

/// A cycle among tasks that wait in a kernel, named by its edges.
fn cycle_in_a_kernel(hung: &[Autopsy], blocked: &[Blocked]) -> Option<String> {
    let found = standstill(hung, blocked)?;
    let around = &found.edges[..found.in_cycle];
    let edges: Vec<String> = around.iter().map(ToString::to_string).collect();
    (!edges.is_empty()).then(|| edges.join("; "))
}

/// Turns a library's error into one that stops the scenario.
pub(super) fn failed<E: std::fmt::Display>(doing: &str) -> impl FnOnce(E) -> Stopped + '_ {
    move |error| Stopped::Io {
        doing: doing.into(),
        error: io::Error::other(error.to_string()),
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        mut processes: Processes,
        settings: &'a Settings,
        xen: Option<Arc<Xen>>,
    ) -> Stage<'a> {
        if let Some(xen) = &xen {
            processes.set_elsewhere(xen.clone());
        }
        processes.end_at_standstill(QUIET, cycle_in_a_kernel);
        Stage {
            xen,
            devices: Vec::new(),
            processes,
            settings,
            host: None,
            toolstack: None,
            ledgers: Vec::new(),
            totals: Vec::new(),
            observers: Vec::new(),
            watched: Vec::new(),
            figures: Vec::new(),
            pictures: Vec::new(),
            timeline: Timeline::none(),
        }
    }

    /// Where the simulated Xen's host serves.
    pub fn sim_dir(&self) -> PathBuf {
        self.processes.dir().join("sim")
    }

    /// Starts the host, joins it as the toolstack, and creates the front end's domain.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_host(&mut self) -> Result<(), Stopped> {
        self.start_host_with(self.settings.unmap, self.guest())
    }

    /// What the simulated domains are to be.
    pub fn guest(&self) -> Guest {
        let usual = Guest::usual(self.settings.unmap);
        self.settings.guest.unwrap_or(usual)
    }

    /// The same, whatever `--unmap` and `--guest` say.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start_host_with(&mut self, unmap: Unmap, guest: Guest) -> Result<(), Stopped> {
        self.timeline = Timeline::create(&self.processes.timeline_path("pv-stress"), "pv-stress")
            .map_err(failed("the run's own timeline"))?;
        if let Some(xen) = &self.xen {
            xen.begin(self.processes.dir())
                .map_err(failed("beginning on this Xen"))?;
            return self.start_observers();
        }
        let task = HostTask {
            dir: self.sim_dir(),
            unmap,
            guest,
        };
        let part = self.part(None, Role::Host(task));
        let host = self.processes.spawn("host", Assignment::Play(part))?;
        self.host = Some(host);
        self.processes.await_ready(host)?;
        let toolstack =
            SimPlatform::connect(&self.sim_dir(), Some(DomId::DOM0), "toolstack", false)
                .map_err(failed("joining the simulated Xen"))?;
        toolstack
            .create_domain(FRONT, "front")
            .map_err(failed("creating the front's domain"))?;
        self.toolstack = Some(Arc::new(toolstack));
        Ok(())
    }

    /// A role to play; its sabotage is the run's.
    fn part(&self, home: Option<Home>, role: Role) -> Part {
        Part {
            home,
            sabotage: self.settings.sabotage,
            role,
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

    /// Starts a role in a domain.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn spawn(&mut self, name: &str, domid: DomId, role: Role) -> Result<ChildId, Stopped> {
        let assignment = match &self.xen {
            Some(xen) => {
                let mut domains = xen.domains().into_iter();
                let domain = domains.find(|domain| domain.domid == domid);
                let domain = domain.ok_or_else(|| Stopped::Io {
                    doing: format!("starting {name}"),
                    error: io::Error::other(format!("no roles can be started in {domid}")),
                })?;
                let mut watched = self.watched.iter_mut();
                if role.maps()
                    && let Some(watched) = watched.find(|watched| watched.domain == domain.name)
                {
                    watched.mappers.push(name.to_owned());
                }
                Assignment::StandFor {
                    relay: domain.socket().to_owned(),
                    part: self.part(Some(Home::Xen), role),
                }
            }
            None => {
                let dir = self.sim_dir();
                Assignment::Play(self.part(Some(Home::Sim { dir, domid }), role))
            }
        };
        self.processes.spawn(name, assignment)
    }

    /// In each domain one that watches what its kernel does.
    fn start_observers(&mut self) -> Result<(), Stopped> {
        let Some(xen) = self.xen.clone() else {
            return Ok(());
        };
        for domain in xen.domains() {
            let observer = format!("observer-{}", domain.name);
            let id = self.spawn(&observer, domain.domid, Role::Observer)?;
            self.observers.push(id);
            let watched = Watched {
                domain: domain.name.clone(),
                observer,
                mappers: Vec::new(),
            };
            self.watched.push(watched);
        }
        for id in self.observers.clone() {
            self.processes.await_ready(id)?;
        }
        Ok(())
    }

    /// Starts a process of a domain that does what the scenario orders.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn spawn_hand(&mut self, name: &str, domid: DomId) -> Result<ChildId, Stopped> {
        self.spawn(name, domid, Role::Hand(HandTask::default()))
    }

    /// The same; it records what it maps, holds and unmaps.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn spawn_recording_hand(&mut self, name: &str, domid: DomId) -> Result<ChildId, Stopped> {
        let task = HandTask {
            record: true,
            allow_kernel_damage: self.settings.allow_kernel_damage,
        };
        self.spawn(name, domid, Role::Hand(task))
    }

    /// Gives orders to such a process.
    pub fn hand(&mut self, id: ChildId) -> RemoteHand<RunLink<'_>> {
        RemoteHand::over(RunLink {
            processes: &mut self.processes,
            id,
        })
    }

    /// The front end's domain.
    pub fn front(&self) -> DomId {
        self.xen.as_ref().map_or(FRONT, |xen| xen.front.domid)
    }

    /// The domain of the back end and the consumer.
    pub fn back(&self) -> DomId {
        self.xen.as_ref().map_or(DomId::DOM0, |xen| xen.back.domid)
    }

    /// A domain that is neither the front end's nor the back end's.
    pub fn other(&self) -> DomId {
        if self.xen.is_some() {
            DomId::DOM0
        } else {
            DomId(2)
        }
    }

    /// Makes an image where the back end is.
    pub(super) fn make_image(&self, image: &Path, bytes: u64) -> Result<(), Stopped> {
        let doing = "making the image";
        match &self.xen {
            Some(xen) => xen.back.make_file(image, bytes).map_err(failed(doing)),
            None => {
                let made = File::create(image).and_then(|file| file.set_len(bytes));
                made.map_err(failed(doing))
            }
        }
    }

    /// SHA-256 of a part of a device's image.
    pub(super) fn image_digest(
        &self,
        device: &Device,
        offset: u64,
        bytes: u64,
    ) -> Result<String, Stopped> {
        let doing = "reading the image";
        match &self.xen {
            Some(xen) => {
                let digests = xen.back.digests(&device.image, &[(offset, bytes)]);
                let digests = digests.map_err(failed(doing))?;
                digests
                    .into_iter()
                    .next()
                    .ok_or("no digest")
                    .map_err(failed(doing))
            }
            None => digest(&device.image, offset, bytes).map_err(failed(doing)),
        }
    }

    /// Removes what a killed consumer could not.
    pub(super) fn remove_consumer_socket(&self) -> Result<(), Stopped> {
        let socket = self.consumer_socket();
        match &self.xen {
            Some(xen) => xen.back.remove(&socket).map_err(failed("tidying up")),
            None => std::fs::remove_file(socket).map_err(failed("tidying up")),
        }
    }

    /// What a process has recorded until now.
    pub(super) fn records_so_far(&self, process: &str) -> Result<Vec<Record>, Stopped> {
        if let Some(xen) = &self.xen {
            for domain in xen.domains() {
                let records = domain
                    .timeline(process)
                    .map_err(failed("reading a timeline"))?;
                if let Some(records) = records {
                    return Ok(records);
                }
            }
        }
        read_file(&self.processes.timeline_path(process)).map_err(failed("reading a timeline"))
    }

    /// Describes a device to both ends in xenstore.
    pub(super) fn describe(&mut self, device: BlockDevice) -> Result<(), Stopped> {
        let doing = "connecting to xenstore";
        let client = match &self.xen {
            Some(xen) => xen.xenstore().map_err(failed(doing))?,
            None => Client::connect(&**self.toolstack()?).map_err(failed(doing))?,
        };
        device
            .create(&client)
            .map_err(failed("creating the device"))?;
        self.devices.push(device);
        Ok(())
    }

    /// Everything alive on the host, now.
    ///
    /// # Errors
    /// [`Stopped`], if the host is gone.
    pub fn inspect(&self) -> Result<Inspection, Stopped> {
        if let Some(xen) = &self.xen {
            return xen.inspect().map_err(failed("asking Xen"));
        }
        self.toolstack()?
            .inspect()
            .map_err(failed("inspecting the host"))
    }

    /// Stops a child, and takes the ledger it shows at its end.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn stop(&mut self, id: ChildId) -> Result<(), Stopped> {
        self.processes.stop(id)?;
        self.take_ledger(id)
    }

    fn take_ledger(&mut self, id: ChildId) -> Result<(), Stopped> {
        let name = self.processes.child(id).name.clone();
        let (entries, totals) =
            self.processes
                .await_news(id, &format!("{name}'s ledger"), |news| match news {
                    News::Ledger { entries, totals } => Some((entries.clone(), *totals)),
                    _ => None,
                })?;
        self.totals.push((name.clone(), totals));
        self.ledgers.push((name, entries));
        Ok(())
    }

    /// SIGKILL. Returns when, on the timelines' clock.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn kill(&mut self, id: ChildId) -> Result<u64, Stopped> {
        let at = now_ns();
        let name = self.processes.child(id).name.clone();
        self.timeline.log(Event::Killed { who: name });
        self.processes.kill(id)?;
        Ok(at)
    }

    /// A picture of grey bytes that fills so many pages, for the report.
    ///
    /// # Errors
    /// [`Stopped`], if the bytes are of another size.
    pub fn picture(&mut self, caption: &str, pages: usize, bytes: &[u8]) -> Result<(), Stopped> {
        let picture = Picture::grey(caption, shape(pages), bytes);
        self.pictures
            .push(picture.map_err(failed("taking a picture"))?);
        Ok(())
    }

    /// A figure for the table.
    pub fn figure(&mut self, name: &str, value: impl ToString) {
        self.figures.push(Figure {
            name: name.into(),
            value: value.to_string(),
        });
    }
}
