//! Drives the machine over a connection.

use super::super::feature::{BadNode, Published, ReadError};
use super::super::node::{read_online, read_state};
use super::super::state::XenbusState;
use super::machine::Roster;
use super::words::{Action, Found, Input, Limits, Seen};
use crate::client::Client;
use crate::error::Result;
use crate::keeper::{Keep, Keeper, News};
use crate::steady::{Fired, Open, Steady};
use crate::value;
use libgnt::DomId;
use libgnt::machine::{Machine, monotonic};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Instant;

const TOKEN: &str = "roster";

/// What became of a device. It is named by its directory: the watched one, and the place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterNews {
    /// It is there, and was not.
    Appeared {
        /// Its directory.
        back: String,
        /// What stands in it.
        seen: Seen,
    },
    /// It says something else now.
    Changed {
        /// Its directory.
        back: String,
        /// What stands in it.
        seen: Seen,
    },
    /// It is gone. One that was made anew appears right after.
    Gone {
        /// Its directory.
        back: String,
    },
    /// Somebody's trouble, told once: a directory that stays half made, or one too many.
    Trouble {
        /// Its directory.
        back: String,
        /// What is wrong.
        why: String,
    },
}

/// Watches a directory of devices, on a thread of its own.
#[derive(Debug)]
pub struct DeviceWatch(Keeper<Watched>);

impl DeviceWatch {
    /// Starts with whatever is there. `directory` is absolute or relative to the domain's home, and need
    /// not exist; `open` makes another connection when `client` is lost.
    ///
    /// # Errors
    /// The kernel gives no thread or no eventfd.
    pub fn start(
        directory: &str,
        limits: Limits,
        (client, open): (Client, Open),
    ) -> io::Result<DeviceWatch> {
        let watched = Watched {
            directory: directory.to_owned(),
            roster: Roster::new(limits),
            news: VecDeque::new(),
        };
        Keeper::start("xenstore-devices", watched, Steady::new(client, open)).map(DeviceWatch)
    }

    /// What came of the devices, in order.
    ///
    /// # Errors
    /// What ended the watching.
    pub fn news(&self) -> Result<News<RosterNews>> {
        self.0.news()
    }

    /// As [`DeviceWatch::news`], and waits until then.
    ///
    /// # Errors
    /// As [`DeviceWatch::news`].
    pub fn wait_news(&self, until: Instant) -> Result<News<RosterNews>> {
        self.0.wait_news(until)
    }
}

impl Source for DeviceWatch {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.0.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.0.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }
}

#[derive(Debug)]
struct Watched {
    directory: String,
    roster: Roster,
    news: VecDeque<RosterNews>,
}

impl Watched {
    fn path(&self, place: &str) -> String {
        match place {
            "" => self.directory.clone(),
            place => format!("{}/{place}", self.directory),
        }
    }

    /// An event's path within the directory; anything else is everything.
    fn place<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(self.directory.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .unwrap_or("")
    }

    fn feed(&mut self, store: &mut Steady, input: Input) -> Result<()> {
        let mut next = Some(input);
        // No more looks than a turn's, each of which asks for the next one.
        while let Some(input) = next.take() {
            let mut actions = Vec::new();
            self.roster.step(monotonic(), input, &mut actions);
            for action in actions {
                let answer = self.perform(store, action)?;
                next = answer.or(next);
            }
        }
        Ok(())
    }

    fn perform(&mut self, store: &mut Steady, action: Action) -> Result<Option<Input>> {
        let news = match action {
            Action::List(place) => {
                let path = self.path(&place);
                let names = store.run(|client| match client.directory(&path) {
                    Err(error) if error.is_gone() => Ok(None),
                    names => names.map(Some),
                })?;
                return Ok(Some(Input::Listed(place, names)));
            }
            Action::Look(place) => {
                let path = self.path(&place);
                let found = store.run(|client| look(client, &path))?;
                return Ok(Some(Input::Looked(place, found)));
            }
            Action::Appeared(place, seen) => RosterNews::Appeared {
                back: self.path(&place),
                seen,
            },
            Action::Changed(place, seen) => RosterNews::Changed {
                back: self.path(&place),
                seen,
            },
            Action::Gone(place) => RosterNews::Gone {
                back: self.path(&place),
            },
            Action::HalfMade(place, why) => RosterNews::Trouble {
                back: self.path(&place),
                why,
            },
            Action::Refused(place, why) => RosterNews::Trouble {
                back: self.path(&place),
                why: why.into(),
            },
        };
        self.news.push_back(news);
        Ok(None)
    }
}

/// Reads a place. What changes meanwhile fires the watch again, and is read again.
fn look(client: &Client, path: &str) -> Result<Found> {
    let Some(state) = read_state(client, path)? else {
        return Ok(match client.read_unless_gone(path)? {
            None => Found::Gone,
            Some(_) => Found::Half(format!("{path}/state is missing")),
        });
    };
    let own = Published::new(client, path);
    let whole = || -> std::result::Result<Seen, ReadError> {
        let front = own.read("frontend")?.ok_or_else(|| BadNode::Missing {
            path: format!("{path}/frontend"),
        })?;
        Ok(Seen {
            state,
            front: String::from_utf8_lossy(value::trimmed(&front)).into_owned(),
            front_domid: DomId(own.required("frontend-id")?),
            online: read_online(client, path)?,
        })
    };
    match whole() {
        Ok(seen) if seen.state == XenbusState::Unknown => {
            Ok(Found::Half(format!("{path}/state is no state")))
        }
        Ok(seen) => Ok(Found::Whole(seen)),
        Err(ReadError::Store(error)) => Err(error),
        Err(bad) => Ok(Found::Half(bad.to_string())),
    }
}

impl Keep for Watched {
    type Command = std::convert::Infallible;
    type News = RosterNews;

    fn begin(&mut self, store: &mut Steady) -> Result<()> {
        // Its first event is the first look at everything.
        store.watch(&self.directory, TOKEN)
    }

    fn obey(&mut self, _: &mut Steady, command: Self::Command) -> Result<()> {
        match command {}
    }

    fn look(&mut self, store: &mut Steady, _: &BTreeSet<String>) -> Result<()> {
        self.feed(store, Input::Happened(String::new()))?;
        self.feed(store, Input::Turn)
    }

    fn look_at(&mut self, store: &mut Steady, fired: &Fired) -> Result<()> {
        for path in fired.paths(TOKEN) {
            let place = self.place(path).to_owned();
            self.feed(store, Input::Happened(place))?;
        }
        self.feed(store, Input::Turn)
    }

    fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.roster.has_work() {
            return Some(now);
        }
        let left = self.roster.deadline()?.saturating_sub(monotonic());
        now.checked_add(left)
    }

    fn late(&mut self, store: &mut Steady) -> Result<()> {
        self.feed(store, Input::Late)?;
        self.feed(store, Input::Turn)
    }

    fn news(&mut self) -> Option<RosterNews> {
        self.news.pop_front()
    }

    fn is_over(&self) -> bool {
        false
    }
}
