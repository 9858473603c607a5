//! A screen keeps showing a window whose mapping is gone: the granter draws, a third process shows the
//! pages, the mapper unmaps, the granter draws again, and what is on the screen is the new picture.
//! Then the other way round: a device writes to pages whose mapping is gone, and the granter sees it.

use super::stage::Stage;
use super::{Judge, Scenario};
use libgnt::{Access, ForeignGrant, GrantRef};
use pv_harness::hand::{HeldId, MapId, Order, Pages, ShareId, Unanswered, View};
use pv_harness::holder::sha256;
use pv_harness::picture::draw;
use pv_harness::processes::{ChildId, Stopped};
use pv_harness::settings::HoldName;
use pv_judges::checks::{
    Check, Evidence, ledgers_are_empty, released_after_holder, unmaps_return_while_held,
    was_held_while_unmapping,
};
use rustix::io::Errno;
use std::time::Duration;

/// A picture of 256 × 256.
const PAGES: usize = 16;
/// Drawn before the unmap, after it, and by the device.
const BEFORE: u32 = 1;
const AFTER: u32 = 2;
const BY_DEVICE: u32 = 3;
/// How long a release may take to be told.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct ScanOut;

/// What was seen of a window, and of its grants.
struct Window {
    /// What it is about.
    what: &'static str,
    /// Each picture that was to be seen, and what was.
    seen: Vec<(&'static str, u32, Option<Vec<u8>>)>,
    /// Grants that Xen shows in use while the pages were held, after the unmap.
    in_use_while_held: usize,
    /// The mapper was told of the release before the holder let go.
    told_early: bool,
    /// Grants that Xen shows in use after the release was told.
    in_use_after: usize,
}

/// The three processes, and the granter's pages.
struct Cast {
    granter: ChildId,
    mapper: ChildId,
    viewer: ChildId,
    share: ShareId,
    grants: Vec<ForeignGrant>,
}

impl Scenario for ScanOut {
    fn name(&self) -> &'static str {
        "scan-out"
    }

    fn summary(&self) -> &'static str {
        "a screen shows a granted window whose mapping is gone: it goes on showing what the granter draws, until it lets go"
    }

    fn uses_input(&self) -> bool {
        false
    }

    fn holds(&self) -> bool {
        true
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        let hold = stage.settings.hold.unwrap_or(HoldName::Pin);
        stage.start_host()?;
        let (front, back) = (stage.front(), stage.back());
        let granter = stage.spawn_hand("granter", front)?;
        let (share, grefs) = stage.hand(granter).share(back, PAGES, Access::ReadWrite)?;
        let grant = |gref: GrantRef| ForeignGrant { domid: front, gref };
        let cast = Cast {
            granter,
            mapper: stage.spawn_recording_hand("mapper", back)?,
            viewer: stage.spawn_recording_hand("viewer", back)?,
            share,
            grants: grefs.into_iter().map(grant).collect(),
        };
        let mut windows = vec![cast.show(stage, hold)?];
        if let Some(writer) = hold.writer() {
            windows.push(cast.paint(stage, writer)?);
        }
        for window in &windows {
            for (caption, _, seen) in &window.seen {
                if let Some(bytes) = seen {
                    stage.picture(caption, PAGES, bytes)?;
                }
            }
        }
        stage.stop(cast.viewer)?;
        stage.stop(cast.mapper)?;
        // It asks for the end of access, which is over: nobody maps the pages.
        stage.hand(granter).end_access(share)?;
        stage.stop(granter)?;
        Ok(Box::new(move |evidence: &Evidence| {
            let mut checks: Vec<Check> = windows.iter().flat_map(judge).collect();
            checks.extend([
                was_held_while_unmapping(evidence),
                unmaps_return_while_held(evidence),
                released_after_holder(evidence),
                ledgers_are_empty(evidence),
            ]);
            checks
        }))
    }
}

impl Cast {
    /// The granter's window is on a screen, is unmapped, and is drawn to.
    fn show(&self, stage: &mut Stage<'_>, hold: HoldName) -> Result<Window, Stopped> {
        self.draw(stage, BEFORE)?;
        let (map, held) = self.lend(stage, hold)?;
        let view = View::Held(held);
        let before = stage.hand(self.viewer).see(view)?;
        stage.hand(self.mapper).unmap(map)?;
        self.draw(stage, AFTER)?;
        let after = stage.hand(self.viewer).see(view)?;
        self.end(stage, map, held, |in_use_while_held, told_early| Window {
            what: "the screen",
            seen: vec![
                ("on the screen before the unmap", BEFORE, before),
                (
                    "on the screen after the unmap, when the granter had drawn again",
                    AFTER,
                    after,
                ),
            ],
            in_use_while_held,
            told_early,
            in_use_after: 0,
        })
    }

    /// A device has the window to write to, it is unmapped, and the device writes.
    fn paint(&self, stage: &mut Stage<'_>, hold: HoldName) -> Result<Window, Stopped> {
        let (map, held) = self.lend(stage, hold)?;
        stage.hand(self.mapper).unmap(map)?;
        let own = View::Pages(Pages::Share(self.share));
        let before = stage.hand(self.granter).see(own)?;
        let picture = BY_DEVICE;
        stage
            .hand(self.viewer)
            .done(&Order::Paint { held, picture })?;
        let after = stage.hand(self.granter).see(own)?;
        self.end(stage, map, held, |in_use_while_held, told_early| Window {
            what: "the device",
            seen: vec![
                (
                    "in the granter's pages before the device wrote",
                    AFTER,
                    before,
                ),
                (
                    "in the granter's pages after the device wrote to what was unmapped",
                    BY_DEVICE,
                    after,
                ),
            ],
            in_use_while_held,
            told_early,
            in_use_after: 0,
        })
    }

    fn draw(&self, stage: &mut Stage<'_>, picture: u32) -> Result<(), Stopped> {
        let pages = Pages::Share(self.share);
        Ok(stage
            .hand(self.granter)
            .done(&Order::Draw { pages, picture })?)
    }

    /// The mapper maps the window and lends it to the viewer, who alone holds it then. It is mapped to be
    /// read, as a window is, where the holder takes that.
    fn lend(&self, stage: &mut Stage<'_>, hold: HoldName) -> Result<(MapId, HeldId), Stopped> {
        let mut mapper = stage.hand(self.mapper);
        let mut access = Access::ReadOnly;
        let mut map = mapper.map(self.grants.clone(), access)?;
        let mut lent = mapper.lend(map, hold, PAGES);
        if matches!(&lent, Err(Unanswered::Refused(why)) if why.errno() == Some(Errno::FAULT)) {
            mapper.unmap(map)?;
            mapper.await_release(map, PATIENCE)?;
            access = Access::ReadWrite;
            map = mapper.map(self.grants.clone(), access)?;
            lent = mapper.lend(map, hold, PAGES);
        }
        let (id, loan) = lent?;
        let held = stage.hand(self.viewer).attach(loan)?;
        stage.hand(self.mapper).settle(id, true)?;
        let how = match access {
            Access::ReadOnly => "to be read",
            Access::ReadWrite => "to be written",
        };
        stage.figure(&format!("{hold} takes pages mapped"), how);
        Ok((map, held))
    }

    /// The holder lets go of what has been unmapped; what Xen showed before and after.
    fn end(
        &self,
        stage: &mut Stage<'_>,
        map: MapId,
        held: HeldId,
        window: impl FnOnce(usize, bool) -> Window,
    ) -> Result<Window, Stopped> {
        let in_use_while_held = self.in_use(stage)?;
        let told = stage.hand(self.mapper).await_release(map, Duration::ZERO);
        stage.hand(self.viewer).release(held)?;
        let told_early = told.is_ok();
        if !told_early {
            stage.hand(self.mapper).await_release(map, PATIENCE)?;
        }
        let in_use_after = self.in_use(stage)?;
        Ok(Window {
            in_use_after,
            ..window(in_use_while_held, told_early)
        })
    }

    /// How many of the window's grants Xen shows mapped.
    fn in_use(&self, stage: &Stage<'_>) -> Result<usize, Stopped> {
        let grants = stage.inspect()?.grants;
        let ours = grants
            .iter()
            .filter(|state| state.maps > 0 && self.grants.contains(&state.grant));
        Ok(ours.count())
    }
}

fn judge(window: &Window) -> Vec<Check> {
    let Window {
        what,
        seen,
        in_use_while_held,
        told_early,
        in_use_after,
    } = window;
    let mut checks: Vec<Check> = seen
        .iter()
        .map(|(place, picture, seen)| is_picture(place, *picture, seen.as_deref()))
        .collect();
    let name = format!("{what}: the grants stay in use while the pages are held");
    checks.push(match (*in_use_while_held, told_early) {
        (PAGES, false) => Check::pass(
            &name,
            format!("Xen shows all {PAGES}, and nobody was told of a release"),
        ),
        (PAGES, true) => Check::fail(&name, "the mapper was told of their release before"),
        (shown, _) => Check::fail(&name, format!("Xen shows {shown} of {PAGES}")),
    });
    let name = format!("{what}: and are released when the holder has let go");
    checks.push(match in_use_after {
        0 => Check::pass(&name, "Xen shows none any more"),
        shown => Check::fail(&name, format!("Xen still shows {shown} of {PAGES}")),
    });
    checks
}

/// Is it that picture, to the last byte?
fn is_picture(place: &str, picture: u32, seen: Option<&[u8]>) -> Check {
    let name = format!("{place}: picture {picture}");
    let Some(bytes) = seen else {
        return Check::pass(&name, "not looked at: this holder cannot");
    };
    let drawn = draw(picture, PAGES);
    let wrong = drawn.iter().zip(bytes).filter(|(a, b)| a != b).count();
    if bytes == drawn {
        return Check::pass(&name, format!("SHA-256 {}", &sha256(bytes)[..12]));
    }
    let mut drawn_ever = [BEFORE, AFTER, BY_DEVICE].into_iter();
    let detail = match drawn_ever.find(|&other| draw(other, PAGES) == bytes) {
        Some(other) => format!("it is picture {other}"),
        None => format!(
            "{wrong} of {} bytes are others, and it is none that was drawn",
            drawn.len()
        ),
    };
    Check::fail(&name, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Window {
        Window {
            what: "the screen",
            seen: vec![
                ("before", BEFORE, Some(draw(BEFORE, PAGES))),
                ("after", AFTER, Some(draw(AFTER, PAGES))),
            ],
            in_use_while_held: PAGES,
            told_early: false,
            in_use_after: 0,
        }
    }

    fn failures(spoil: impl FnOnce(&mut Window)) -> Vec<String> {
        let mut window = good();
        spoil(&mut window);
        let failed = judge(&window).into_iter().filter(|check| !check.passed);
        failed
            .map(|check| format!("{}: {}", check.name, check.detail))
            .collect()
    }

    fn bytes(window: &mut Window, n: usize) -> &mut Vec<u8> {
        window.seen[n].2.as_mut().unwrap()
    }

    #[test]
    fn each_fact_has_its_judge() {
        assert_eq!(failures(|_| {}), Vec::<String>::new());
        type Spoiled = (fn(&mut Window), &'static str);
        let spoil: [Spoiled; 6] = [
            (|w| bytes(w, 0)[17] ^= 1, "1 of 65536 bytes"),
            (|w| *bytes(w, 1) = draw(BEFORE, PAGES), "it is picture 1"),
            (|w| bytes(w, 1).truncate(9), "none that was drawn"),
            (|w| w.in_use_while_held = 3, "Xen shows 3 of 16"),
            (|w| w.told_early = true, "told of their release before"),
            (|w| w.in_use_after = 1, "still shows 1 of 16"),
        ];
        for (spoil, why) in spoil {
            let failed = failures(spoil);
            assert!(failed.len() == 1 && failed[0].contains(why), "{failed:?}");
        }
    }
}
