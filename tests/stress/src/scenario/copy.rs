//! The file goes through the pair and back, in each of the three ways data can travel.

use super::stage::{Stage, failed};
use super::{Judge, Scenario};
use crate::role::{Carriage, Transfer};
use pv_harness::digest::digest;
use pv_harness::processes::Stopped;
use pv_judges::checks::{Check, Evidence, ledgers_are_empty, same_data};
use std::time::Instant;

/// How data travels, and in words.
const WAYS: [(Transfer, &str); 3] = [
    (Transfer::Map, "a map and an unmap for each request"),
    (Transfer::Copy, "grant copy"),
    (Transfer::Persistent, "persistent grants"),
];

pub struct Copy;

/// What one way came to.
struct Carried {
    way: &'static str,
    sent: String,
    read_back: String,
    image: String,
}

impl Scenario for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn summary(&self) -> &'static str {
        "the file goes through the pair and back, by map, by grant copy and by persistent grants"
    }

    fn play(&self, stage: &mut Stage<'_>) -> Result<Judge, Stopped> {
        stage.start_host()?;
        let bytes = stage.input_bytes(0)?;
        let input = digest(&stage.settings.input, 0, bytes).map_err(failed("reading the input"))?;
        let mut carried = Vec::new();
        for (n, (transfer, way)) in WAYS.into_iter().enumerate() {
            let number = u32::try_from(n).unwrap_or(0);
            let device = stage.create_device(number, bytes)?;
            let name = format!("back-end-{transfer}");
            let back = stage.start_back_end(&name, &device, transfer, None, None)?;
            let carriage = Carriage {
                persistent: transfer == Transfer::Persistent,
                ..Carriage::default()
            };
            let began = Instant::now();
            let name = format!("front-end-{transfer}");
            let front = stage.start_front_end(&name, &device, carriage)?;
            let sent = stage.await_sent(front)?;
            let read_back = stage.await_read_back(front)?;
            let seconds = began.elapsed().as_secs_f64().max(1e-6);
            let rate = 2.0 * bytes as f64 / seconds / 1e6;
            stage.figure(&transfer.to_string(), format!("{rate:.0} MB/s"));
            stage.stop(front)?;
            stage.stop(back)?;
            let image = stage.image_digest(&device, 0, bytes)?;
            carried.push(Carried {
                way,
                sent,
                read_back,
                image,
            });
        }
        Ok(Box::new(move |evidence: &Evidence| {
            let mut checks: Vec<Check> = carried
                .iter()
                .flat_map(|carried| judge(&input, carried))
                .collect();
            checks.push(ledgers_are_empty(evidence));
            checks
        }))
    }
}

fn judge(input: &str, carried: &Carried) -> [Check; 3] {
    let Carried {
        way,
        sent,
        read_back,
        image,
    } = carried;
    [
        same_data(&format!("{way}: what was sent"), input, Some(sent)),
        same_data(&format!("{way}: what came back"), input, Some(read_back)),
        same_data(&format!("{way}: what is on the image"), input, Some(image)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_seen() {
        let carried = |sent: &str, read_back: &str, image: &str| Carried {
            way: "map",
            sent: sent.into(),
            read_back: read_back.into(),
            image: image.into(),
        };
        let failed = |carried: &Carried| judge("a", carried).iter().filter(|c| !c.passed).count();
        assert_eq!(failed(&carried("a", "a", "a")), 0);
        assert_eq!(failed(&carried("b", "a", "a")), 1);
        assert_eq!(failed(&carried("a", "b", "a")), 1);
        assert_eq!(failed(&carried("a", "a", "b")), 1);
    }
}
