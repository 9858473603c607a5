//! A front end that goes from Initialising straight to Connected, as those of OVMF, U-Boot and
//! Mini-OS do, and the case in which our back end serves it.

use super::stage::{DIR, Linux, Side, Stage, Step};
use clap::Args;
use libgnt::event::{Channel, Events};
use libgnt::grant::{Granter, Ledger, Share};
use libgnt::proto::blkif::{
    Operation, Request, SECTORS_PER_PAGE, Segment, Segments, Status, X86_64,
};
use libgnt::ring::FrontRing;
use libgnt::{Access, DomId, PlatformChoice};
use pv_harness::error::{Error, Result};
use pv_xenstore::Client;
use pv_xenstore::toolstack::DeviceId;
use pv_xenstore::xenbus::XenbusState;
use pv_xenstore::xenbus::node::read_state;
use std::time::{Duration, Instant};

/// xvdc.
const DISK: DeviceId = DeviceId(51744);
const IMAGE: &str = "/peers/direct.img";
const IMAGE_BYTES: u64 = 4 << 20;
/// Where the front end writes its page, in sectors.
const SECTOR: u64 = 16;
const PAGE: usize = 4096;

/// Served by our back end: the ring's nodes with the state, before it, and before the back end is
/// there.
pub fn play(stage: &mut Stage<'_>) -> Step {
    stage.load_drivers(Linux::Leaves, Linux::Leaves)?;
    for (order, options, back_end_first) in [
        ("the ring's nodes and state 4 at once", "", true),
        ("the ring's nodes before state 4", " --nodes-first", true),
        ("the front end before the back end", "", false),
    ] {
        serve_one(stage, order, options, back_end_first)?;
    }
    Ok(())
}

fn serve_one(stage: &mut Stage<'_>, order: &str, options: &str, back_end_first: bool) -> Step {
    stage.make_image(IMAGE, IMAGE_BYTES)?;
    let device = stage.attach(DISK, &[])?;
    let seconds = (stage.patience().as_secs() / 2).max(1);
    let front =
        format!("pv-stress direct-front-end --device {DISK} --deadline {seconds}s{options}");
    let name = format!("it is served: {order}");
    let server = if back_end_first {
        let server = stage.serve(&device, IMAGE, "auto")?;
        stage.must(Side::Front, &name, &front)?;
        server
    } else {
        let mut server = None;
        stage.must_meanwhile(Side::Front, &name, &front, |stage| {
            stage.await_front(&device, XenbusState::Connected)?;
            server = Some(stage.serve(&device, IMAGE, "auto")?);
            Ok(())
        })?;
        match server {
            Some(server) => server,
            None => return Ok(()),
        }
    };
    let name = format!("its page is on the image: {order}");
    let see = format!(
        "dd if={IMAGE} bs=512 skip={SECTOR} count={SECTORS_PER_PAGE} 2>/dev/null | sha256sum | cut -c 1-64 >{DIR}/sum
        [ \"$(cat {DIR}/sum)\" = {} ]",
        sum()
    );
    stage.must(Side::Back, &name, &see)?;
    stage.detach(&device, Some(&server))
}

/// The page that it writes.
fn page() -> Vec<u8> {
    (0..PAGE).map(|n| (n % 251) as u8).collect()
}

fn sum() -> String {
    crate::fetch::tree::Sum::of_bytes(&page()).sha256
}

/// The options of `direct-front-end`.
#[derive(Debug, Args)]
pub struct DirectFrontArgs {
    /// linux, or sim:DIR
    #[arg(long, default_value = "linux")]
    platform: PlatformChoice,
    /// The domain, on the simulated Xen
    #[arg(long, value_name = "DOMID")]
    domain: Option<u16>,
    /// The device
    #[arg(long, default_value = "xvda")]
    device: DeviceId,
    /// Write the ring's nodes in a transaction of their own, before the state
    #[arg(long)]
    nodes_first: bool,
    /// The usual way instead, through Initialised
    #[arg(long, conflicts_with = "nodes_first")]
    usual: bool,
    /// How long each step may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

/// One end with nothing around it: a ring, a channel and two pages.
struct Front<'a> {
    client: &'a Client,
    directory: String,
    back: String,
    deadline: Duration,
    events: Events,
    channel: Channel,
    ring: FrontRing<X86_64>,
    requests: u64,
}

/// Connects, writes a page, reads it back and closes.
///
/// # Errors
/// What did not come, and in which state the back end was instead; other data than was written.
pub fn run(args: &DirectFrontArgs) -> Result<()> {
    let xen = |error: libgnt::Error| failed("its pages and its channel", error);
    let store = |error: pv_xenstore::Error| failed("xenstore", error);
    let platform =
        libgnt::open(&args.platform, args.domain.map(DomId), "direct-front").map_err(xen)?;
    let client = Client::connect(&*platform).map_err(store)?;
    let directory = format!("device/vbd/{}", args.device);
    let back = client.read_string(&format!("{directory}/backend"));
    let back = back.map_err(store)?;
    let domid = client.read_parsed(&format!("{directory}/backend-id"));
    let domid = DomId(domid.map_err(store)?);
    let granter = Granter::open(platform.clone(), Ledger::new()).map_err(xen)?;
    let ring = granter.share(domid, 1, Access::ReadWrite).map_err(xen)?;
    let data = granter.share(domid, 2, Access::ReadWrite).map_err(xen)?;
    let events = Events::open(&*platform).map_err(xen)?;
    let channel = events.bind_unbound(domid).map_err(xen)?;
    client
        .watch(&format!("{back}/state"), "back")
        .map_err(store)?;
    let mut front = Front {
        client: &client,
        directory,
        back,
        deadline: args.deadline,
        channel,
        events,
        ring: FrontRing::new(ring.pages().clone(), X86_64),
        requests: 0,
    };
    let first = match args.usual {
        true => XenbusState::Initialised,
        false => XenbusState::Connected,
    };
    front.offer(&ring, first, args.nodes_first).map_err(store)?;
    front.await_back(&[XenbusState::Connected])?;
    if args.usual {
        front.write_state(XenbusState::Connected)?;
    }
    front.carry(&data)?;
    front.close()
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::environment(what, error, "see the back end's log")
}

impl Front<'_> {
    /// Shows the back end a ring, without one look at its state before.
    fn offer(
        &self,
        ring: &Share,
        state: XenbusState,
        nodes_first: bool,
    ) -> pv_xenstore::Result<()> {
        let nodes = [
            ("ring-ref", ring.grefs()[0].0.to_string()),
            ("event-channel", self.channel.port().0.to_string()),
            ("protocol", "x86_64-abi".into()),
        ];
        let own = format!("{}/state", self.directory);
        self.client.transaction(|tx| {
            for (name, value) in &nodes {
                tx.write(&format!("{}/{name}", self.directory), value)?;
            }
            if !nodes_first {
                tx.write(&own, state.as_str())?;
            }
            Ok(())
        })?;
        if nodes_first {
            self.client.write(&own, state.as_str())?;
        }
        Ok(())
    }

    fn write_state(&self, state: XenbusState) -> Result<()> {
        let own = format!("{}/state", self.directory);
        let written = self.client.write(&own, state.as_str());
        written.map_err(|error| failed("xenstore", error))
    }

    /// Waits until the back end is in one of these states.
    fn await_back(&self, wanted: &[XenbusState]) -> Result<()> {
        let store = |error: pv_xenstore::Error| failed("xenstore", error);
        let until = Instant::now() + self.deadline;
        loop {
            let state = read_state(self.client, &self.back).map_err(store)?;
            if state.is_some_and(|state| wanted.contains(&state)) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let state = state.map_or("gone".into(), |state| format!("in state {state:?}"));
                let cause = format!(
                    "after {:?} it is {state}, and must be in {wanted:?}",
                    self.deadline
                );
                return Err(failed("the back end", cause));
            }
            self.client.wait_watch_event(left).map_err(store)?;
        }
    }

    /// A page to the disk, and the same page back, into other memory.
    fn carry(&mut self, data: &Share) -> Result<()> {
        let (written, mut read) = (page(), vec![0; PAGE]);
        data.pages().write(0, &written);
        self.ask(Operation::Write, data, 0)?;
        self.ask(Operation::Read, data, 1)?;
        data.pages().read(PAGE, &mut read);
        if read != written {
            return Err(failed("the disk", "what is read is not what was written"));
        }
        Ok(())
    }

    /// One request, with one of the data pages, to its answer.
    fn ask(&mut self, operation: Operation, data: &Share, page: usize) -> Result<()> {
        let xen = |error: libgnt::Error| failed("its channel", error);
        let what = format!("request {} ({operation:?})", self.requests);
        let segment = Segment {
            gref: data.grefs()[page].0,
            first_sector: 0,
            last_sector: SECTORS_PER_PAGE - 1,
        };
        let request = Request {
            operation,
            handle: 0,
            id: self.requests,
            sector: SECTOR,
            segments: Segments::from_iter([segment]),
        };
        self.requests += 1;
        self.ring
            .push(&request)
            .map_err(|error| failed(&what, error))?;
        if self.ring.publish() {
            self.channel.notify().map_err(xen)?;
        }
        loop {
            match self.ring.pop().map_err(|error| failed(&what, error))? {
                Some(answer) if answer.id == request.id && answer.status == Status::Okay => {
                    return Ok(());
                }
                Some(answer) => return Err(failed(&what, format!("the answer is {answer:?}"))),
                None => {}
            }
            if self
                .ring
                .final_check()
                .map_err(|error| failed(&what, error))?
            {
                continue;
            }
            let ports = self.events.wait(self.deadline);
            let ports = ports.map_err(|error| failed(&what, error))?;
            self.events.unmask(&ports).map_err(xen)?;
        }
    }

    /// As a boot loader leaves its disk to the system that it has loaded.
    fn close(&self) -> Result<()> {
        self.write_state(XenbusState::Closing)?;
        self.await_back(&[XenbusState::Closing, XenbusState::Closed])?;
        self.write_state(XenbusState::Closed)?;
        self.await_back(&[XenbusState::Closed, XenbusState::InitWait])
    }
}
