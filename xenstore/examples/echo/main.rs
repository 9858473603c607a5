//! An echo device: a front end shares a page, a back end writes each text back. All that it has of
//! xenbus is `pv_xenstore::xenbus::device`.
//!
//! ```sh
//! cargo run -p pv-xenstore --example echo                            # both ends, on a simulated Xen
//! cargo run -p pv-xenstore --example echo -- create linux 1 2        # dom0: front end in 1, back end in 2
//! cargo run -p pv-xenstore --example echo -- back linux 1            # in domain 2
//! cargo run -p pv-xenstore --example echo -- front linux some text   # in domain 1
//! ```
//!
//! `linux` is a real Xen. On a simulated one, processes of their own say which domain they are in:
//! `sim:DIR@2` instead of `linux`.

mod page;

mod front;

mod back;

mod toolstack;

mod world;

use back::Back;
use front::Front;
use libgnt::stop::Stop;
use libgnt::{DomId, Platform, PlatformChoice};
use pv_xenstore::Client;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{BACK, FRONT, World};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => both(),
        ["create", platform, front, back] => {
            let client = Client::connect(&*open(platform, "toolstack")?)?;
            toolstack::create(&client, DomId(front.parse()?), DomId(back.parse()?))?;
            println!("domain {front} has a device echo/0, with its back end in domain {back}");
            Ok(())
        }
        ["back", platform, front] => {
            let back = Back::open(open(platform, "back")?, DomId(front.parse()?)).map_err(plain)?;
            println!("serving domain {front}");
            back.run(&Stop::new()).map_err(plain)
        }
        ["front", platform, ref texts @ ..] => {
            let mut front = Front::open(open(platform, "front")?)?;
            for text in texts {
                say(&mut front, text)?;
            }
            front.close(PATIENCE)
        }
        _ => Err(
            "nothing, or `create PLATFORM FRONT BACK`, `back PLATFORM FRONT`, \
                  `front PLATFORM TEXT...`"
                .into(),
        ),
    }
}

fn open(platform: &str, process: &str) -> Result<Arc<dyn Platform>, Box<dyn Error>> {
    let (platform, domid) = match platform.rsplit_once('@') {
        Some((platform, domid)) => (platform, Some(DomId(domid.parse()?))),
        None => (platform, None),
    };
    let choice: PlatformChoice = platform.parse()?;
    Ok(libgnt::open(&choice, domid, process)?)
}

fn plain(error: Box<dyn Error + Send + Sync>) -> Box<dyn Error> {
    error
}

fn say(front: &mut Front, text: &str) -> Result<(), Box<dyn Error>> {
    let back = front.echo(text.as_bytes(), Instant::now() + PATIENCE)?;
    println!("{text} -> {}", String::from_utf8_lossy(&back));
    if back != text.as_bytes() {
        return Err("that is no echo".into());
    }
    Ok(())
}

/// Both ends in one process; the back end is restarted in between.
fn both() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path())?;
    toolstack::create(&world.store, FRONT, BACK)?;
    let mut front = Front::open(world.platform(FRONT, "front")?)?;
    let stops = [Stop::new(), Stop::new()];
    let asked = stops.clone();
    let platform = world.platform(BACK, "back")?;
    let backs = std::thread::spawn(move || {
        for stop in &asked {
            Back::open(Arc::clone(&platform), FRONT)?.run(stop)?;
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    say(&mut front, "hello")?;
    stops[0].ask();
    say(&mut front, "hello again, after the back end was restarted")?;
    println!("{} connections", front.connections);
    front.close(PATIENCE)?;
    stops[1].ask();
    backs
        .join()
        .map_err(|_| "the back end panicked")?
        .map_err(plain)
}
