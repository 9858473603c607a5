//! The echo device of `pv-xenstore`'s examples, between two domains: its files are these.

#[path = "../../../xenstore/examples/echo/page.rs"]
mod page;

#[path = "../../../xenstore/examples/echo/front.rs"]
mod front;

#[path = "../../../xenstore/examples/echo/back.rs"]
mod back;

#[path = "../../../xenstore/examples/echo/toolstack.rs"]
mod toolstack;

pub use toolstack::create;

use crate::over::platform;
use crate::part::Part;
use libgnt::DomId;
use libgnt::stop::Stop;
use pv_harness::error::{Error, Result};
use pv_judges::checks::Check;
use std::time::{Duration, Instant};

/// Serves a front end's domain until the device is gone.
///
/// # Errors
/// There is no such device; Xen's devices.
pub fn serve(front: DomId) -> Result<Part> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| ended("back", &*error);
    let back = back::Back::open(platform("echo-back")?, front).map_err(failed)?;
    back.run(&Stop::new()).map_err(failed)?;
    Ok(Part::of(Check::pass("the back end ended in order", "")))
}

/// Has so many texts echoed, each other than the one before, and closes.
///
/// # Errors
/// There is no device; a text did not come back in time.
pub fn echo(texts: u32, patience: Duration) -> Result<Part> {
    let failed = |error: Box<dyn std::error::Error>| ended("front", &*error);
    let begun = Instant::now();
    let mut front = front::Front::open(platform("echo-front")?).map_err(failed)?;
    let mut wrong = Vec::new();
    for number in 0..texts {
        let text = format!("text {number}").repeat(1 + number as usize % 8);
        let text = &text.as_bytes()[..text.len().min(page::TEXT_MAX)];
        let back = front
            .echo(text, Instant::now() + patience)
            .map_err(failed)?;
        if back != text {
            wrong.push(format!(
                "text {number} came back as {:?}",
                String::from_utf8_lossy(&back)
            ));
        }
    }
    let detail = format!(
        "{texts} texts, {} connections, {:.1} s",
        front.connections,
        begun.elapsed().as_secs_f64()
    );
    front.close(patience).map_err(failed)?;
    let echoed = Check::none("every text came back", wrong, detail);
    let closed = Check::pass("the front end closed in order", "");
    Ok(Part {
        checks: vec![echoed, closed],
    })
}

fn ended(which: &str, error: &dyn std::error::Error) -> Error {
    Error::environment(
        format!("the echo device's {which} end"),
        error,
        "see the device's nodes",
    )
}
