//! A device between the two domains: its nodes, a back end of ours, its grants.

use super::{CAME_TO_ITS_END, CLOSE, DIR, Side, Stage, Step};
use libgnt::inspect::GrantState;
use pv_xenstore::toolstack::{BlockDevice, DeviceId};
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::xenbus::node::read_state;
use std::path::Path;
use std::time::Instant;

/// A back end of ours that serves.
#[derive(Clone, Debug)]
pub struct Server {
    /// The command line that started it.
    command: String,
    /// Its process.
    pid: u32,
}

impl Stage<'_> {
    /// Creates a device between the two, as a toolstack does, with more nodes for its back end.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if xenstore refuses.
    pub fn attach(&mut self, devid: DeviceId, extra: &[(&str, &str)]) -> Step<BlockDevice> {
        let (front, back) = (self.domid(Side::Front), self.domid(Side::Back));
        let mut device = BlockDevice::new(front, back, devid, "");
        device.extra = extra
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if let Err(error) = device.create(&self.client) {
            return Err(self.fail(CAME_TO_ITS_END, format!("creating a device: {error}")));
        }
        self.devices.push(device.clone());
        Ok(device)
    }

    /// Removes a device; both ends must close it before, and a back end of ours must end then.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if they do not.
    pub fn detach(&mut self, device: &BlockDevice, server: Option<&Server>) -> Step {
        const NAME: &str = "both ends close the device when it is removed";
        self.devices.retain(|other| other != device);
        let is_closed =
            |state: &Option<XenbusState>| matches!(state, None | Some(XenbusState::Closed));
        let found = match device.remove(&self.client, CLOSE.max(self.step)) {
            Ok(removed) if removed.states.iter().all(is_closed) => Ok(String::new()),
            Ok(removed) => Err(format!("{removed:?}")),
            Err(error) => Err(error.to_string()),
        };
        self.check(NAME, found)?;
        if let Some(Server { pid, .. }) = server {
            let gone = format!("[ ! -e /proc/{pid} ]");
            self.must_become(Side::Back, "our back end ends with its device", &gone)?;
        }
        Ok(())
    }

    /// Makes the image of a device where its back end is.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if there is no room.
    pub fn make_image(&mut self, image: &str, bytes: u64) -> Step {
        match self.xen.back.make_file(Path::new(image), bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(CAME_TO_ITS_END, format!("making {image}: {error}"))),
        }
    }

    /// Starts our back end on an image, with this `--mode`.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if it cannot be started.
    pub fn serve(&mut self, device: &BlockDevice, image: &str, mode: &str) -> Step<Server> {
        let front = device.front_domid.0;
        let command = format!(
            "pv-stress pv-backend serve --front {front} --device {} --image {image} --mode {mode} >>{DIR}/back-end.err 2>&1 </dev/null",
            device.devid
        );
        let mut server = Server { command, pid: 0 };
        self.start(&mut server)?;
        Ok(server)
    }

    /// Starts a back end again.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if it cannot be started.
    pub fn start(&mut self, server: &mut Server) -> Step {
        let started = self.run(
            Side::Back,
            "starting the back end",
            &format!("{} & echo $!", server.command),
        )?;
        match started.trim().parse() {
            Ok(pid) => server.pid = pid,
            Err(_) => return Err(self.fail(CAME_TO_ITS_END, format!("its pid is {started:?}"))),
        }
        Ok(())
    }

    /// Kills a back end with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if it was gone before.
    pub fn kill(&mut self, server: &Server) -> Step {
        let pid = server.pid;
        let kill = format!("kill -KILL {pid}\nwhile [ -e /proc/{pid} ]; do usleep 10000; done");
        self.run(Side::Back, "killing the back end", &kill)?;
        Ok(())
    }

    /// What the front end of a device has written of itself: its state and its ring.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if xenstore does not say it.
    pub fn front_nodes(&mut self, device: &BlockDevice) -> Step<String> {
        let directory = device.paths().front;
        let read = |name: &&str| {
            let value = self.client.read_string(&format!("{directory}/{name}"))?;
            Ok(format!("{name} {value}"))
        };
        let nodes: pv_xenstore::Result<Vec<String>> = ["state", "ring-ref", "event-channel"]
            .iter()
            .map(read)
            .collect();
        match nodes {
            Ok(nodes) => Ok(nodes.join(", ")),
            Err(error) => Err(self.fail(CAME_TO_ITS_END, format!("its front end: {error}"))),
        }
    }

    /// Waits until a front end has written a state. With the back end not there yet nobody else is
    /// told.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if it does not in time.
    pub fn await_front(&mut self, device: &BlockDevice, state: XenbusState) -> Step {
        let doing = "waiting for the front end";
        let until = Instant::now() + self.patience();
        let directory = device.paths().front;
        let node = format!("{directory}/state");
        let reached = self.client.watch(&node, &node).and_then(|()| {
            let mut found = read_state(&self.client, &directory)?;
            while found != Some(state) && Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                self.client.wait_watch_event(left)?;
                found = read_state(&self.client, &directory)?;
            }
            self.client.unwatch(&node, &node)?;
            Ok(found)
        });
        match reached {
            Ok(found) if found == Some(state) => Ok(()),
            other => Err(self.fail(CAME_TO_ITS_END, format!("{doing}: {other:?}"))),
        }
    }

    /// Grants of the front's domain that are mapped now and were not when the case began.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if Xen does not say it.
    pub fn mapped(&mut self) -> Step<Vec<GrantState>> {
        let front = self.domid(Side::Front);
        match self.xen.inspect() {
            Ok(inspection) => {
                let grants = inspection.grants.into_iter();
                Ok(grants.filter(|g| g.grant.domid == front).collect())
            }
            Err(error) => Err(self.fail(CAME_TO_ITS_END, error.to_string())),
        }
    }

    /// Waits until [`Stage::mapped`] are so few, for they may be on their way; how many there are.
    ///
    /// # Errors
    /// [`Ended`](super::Ended) if Xen does not say it.
    pub fn mapped_at_last(&mut self, few: usize) -> Step<usize> {
        let until = Instant::now() + self.patience();
        loop {
            // Xen's own list takes a moment to print, and nobody is told when a grant is unmapped.
            let mapped = self.mapped()?.len();
            if mapped <= few || Instant::now() >= until {
                return Ok(mapped);
            }
        }
    }
}
