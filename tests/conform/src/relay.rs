//! Orders to another domain, through xenstore: each side writes a node of its own that the other
//! may read, and watches the other's. A node holds one message; a number tells it from the last.
//!
//! Used on a real Xen only. The simulator's partner is a child on a pipe.

use super::member::{Member, StartHand, broken as no_hand};
use super::outcome::{Outcome, Stop};
use super::things::PATIENCE;
use libgnt::{DomId, Platform};
use pv_harness::error::{Error, Result};
use pv_harness::hand::{Answer, Link, Order, Refusal, RemoteHand};
use pv_harness::player::HandProcess;
use pv_xenstore::Client;
use pv_xenstore::perms::{Permission, Rights};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// In each domain's own, writable directory.
const NODE: &str = "data/pvpair-conform";
/// How long to trust the watch before looking anyway.
const LOOK_ANYWAY: Duration = Duration::from_millis(500);
/// How long the other domain's relay may take to appear: it may have to boot.
const START: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    session: u64,
    number: u64,
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
enum What {
    /// A hand that has nothing, whatever was before.
    Begin,
    Tell(Order),
    /// Kill the hand's process.
    Kill,
    /// No more sessions.
    End,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    session: u64,
    number: u64,
    answer: Answer,
}

/// One domain's mailbox, and a look at another's.
#[derive(Debug)]
struct Mail {
    client: Client,
    theirs: String,
}

impl Mail {
    fn open(platform: &dyn Platform, own: DomId, peer: DomId) -> pv_xenstore::Result<Mail> {
        let client = Client::connect(platform)?;
        let theirs = format!("/local/domain/{}/{NODE}", peer.0);
        client.watch(&theirs, "mail")?;
        if client.try_read(NODE)?.is_none() {
            client.write(NODE, "")?;
        }
        let rights = [
            Permission::new(Rights::None, own),
            Permission::new(Rights::Read, peer),
        ];
        client.set_perms(NODE, &rights)?;
        Ok(Mail { client, theirs })
    }

    fn post(&self, message: &impl Serialize) -> pv_xenstore::Result<()> {
        let text = serde_json::to_vec(message).unwrap_or_default();
        self.client.write(NODE, text)
    }

    /// What the other domain's node holds, if it is a message and may be read.
    fn look<T: DeserializeOwned>(&self) -> Option<T> {
        // Not there yet, not readable yet, or left by somebody else: all the same here.
        let text = self.client.read(&self.theirs).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What this side's node holds.
    fn last_reply(&self) -> Option<Reply> {
        let text = self.client.read(NODE).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn wait(&self) -> pv_xenstore::Result<()> {
        self.client.wait_watch_event(LOOK_ANYWAY)?;
        while self.client.next_watch_event()?.is_some() {}
        Ok(())
    }
}

/// The link to the hand of another domain.
#[derive(Debug)]
pub struct Relayed {
    mail: Mail,
    peer: DomId,
    session: u64,
    number: u64,
}

impl Link for Relayed {
    type Lost = Stop;

    fn send(&mut self, order: &Order) -> Outcome {
        self.post(What::Tell(order.clone()))
    }

    fn receive(&mut self) -> Outcome<Answer> {
        // A hand may wait for as long as we have patience, and then has to answer.
        self.answer(2 * PATIENCE)
    }
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Broken(format!("the relay to the other domain: {error}"))
}

impl Relayed {
    /// A new hand in the other domain.
    pub(super) fn begin(platform: &dyn Platform, own: DomId, peer: DomId) -> Outcome<Relayed> {
        let mut relayed = Relayed {
            mail: Mail::open(platform, own, peer).map_err(broken)?,
            peer,
            session: fastrand::u64(..),
            number: 0,
        };
        match relayed.request(What::Begin, START)? {
            Answer::Done => {}
            other => {
                return Err(broken(format!(
                    "the other domain starts no hand: {other:?}"
                )));
            }
        }
        Ok(relayed)
    }

    /// Tells the other domain that nothing more will come.
    pub(super) fn end(platform: &dyn Platform, own: DomId, peer: DomId) -> Outcome {
        let mut relayed = Relayed::begin(platform, own, peer)?;
        relayed.request(What::End, PATIENCE).map(drop)
    }

    pub(super) fn kill(&mut self) -> Outcome {
        self.request(What::Kill, PATIENCE).map(drop)
    }

    fn request(&mut self, what: What, patience: Duration) -> Outcome<Answer> {
        self.post(what)?;
        self.answer(patience)
    }

    fn post(&mut self, what: What) -> Outcome {
        self.number += 1;
        let request = Request {
            session: self.session,
            number: self.number,
            what,
        };
        self.mail.post(&request).map_err(broken)
    }

    fn answer(&self, patience: Duration) -> Outcome<Answer> {
        let until = Instant::now() + patience;
        loop {
            // Every look is a message to xenstore and back, so not before there is news.
            self.mail.wait().map_err(broken)?;
            if let Some(reply) = self.mail.look::<Reply>()
                && (reply.session, reply.number) == (self.session, self.number)
            {
                return Ok(reply.answer);
            }
            if Instant::now() > until {
                return Err(broken(format!(
                    "{} does not answer; run `pv-stress conform --platform xen --as-peer-of N` there",
                    self.peer
                )));
            }
        }
    }
}

/// Serves another domain's rules until they are done.
///
/// # Errors
/// [`Error::Environment`]: xenstore.
pub(super) fn serve(
    start: StartHand,
    member: &Member,
    platform: &dyn Platform,
    asker: DomId,
) -> Result<()> {
    serve_with(&|member| member.start_hand(start), member, platform, asker)
}

/// The hand of the session of this number.
type Session = Option<(u64, RemoteHand<HandProcess>)>;
type Start<'a> = &'a dyn Fn(&Member) -> Outcome<HandProcess>;

fn serve_with(
    start: Start<'_>,
    member: &Member,
    platform: &dyn Platform,
    asker: DomId,
) -> Result<()> {
    let cannot = |error: pv_xenstore::Error| {
        Error::environment(
            "xenstore",
            error,
            "see that it runs, and that both domains live",
        )
    };
    let own = member.domid(platform)?;
    let mail = Mail::open(platform, own, asker).map_err(cannot)?;
    // What was answered before this began is not asked again; what was not, still waits.
    let mut last = mail.last_reply().map(|r| (r.session, r.number));
    let mut hand: Session = None;
    loop {
        mail.wait().map_err(cannot)?;
        let request = mail.look::<Request>();
        let Some(request) = request.filter(|r| Some((r.session, r.number)) != last) else {
            continue;
        };
        last = Some((request.session, request.number));
        let end = matches!(request.what, What::End);
        let answer = perform(start, member, &mut hand, request.session, request.what);
        let answer = answer.unwrap_or_else(|stop| Answer::Refused(Refusal::because(stop)));
        let reply = Reply {
            session: request.session,
            number: request.number,
            answer,
        };
        mail.post(&reply).map_err(cannot)?;
        if end {
            return Ok(());
        }
    }
}

fn perform(
    start: Start<'_>,
    member: &Member,
    hand: &mut Session,
    session: u64,
    what: What,
) -> Outcome<Answer> {
    match (what, hand.as_mut()) {
        (What::Begin, _) => {
            let old = hand.take().map(|(_, old)| old);
            // One that was killed, or is stuck in an answer, is of no more use.
            let clean = old.and_then(|mut old| old.done(&Order::Forget).ok().map(|()| old));
            *hand = Some(match clean {
                Some(old) => (session, old),
                None => (session, RemoteHand::over(start(member)?)),
            });
            Ok(Answer::Done)
        }
        (What::End, _) => {
            *hand = None;
            Ok(Answer::Done)
        }
        (What::Tell(order), Some((of, hand))) if *of == session => {
            hand.ask(&order).map_err(no_hand)
        }
        (What::Kill, Some((of, hand))) if *of == session => {
            hand.link().kill().map_err(no_hand)?;
            Ok(Answer::Done)
        }
        _ => Err(broken("no such session")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libgnt::PlatformChoice;
    use libgnt::sim::core::Config;
    use pv_harness::host;
    use pv_harness::timeline::Timeline;

    /// The asker's domain may be up long before the other one is.
    #[test]
    fn a_request_waits_for_the_relay_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let _host = host::start(dir.path(), Config::default(), None, Timeline::none()).unwrap();
        let member = |domain| Member {
            platform: PlatformChoice::Sim(dir.path().to_owned()),
            domain: Some(domain),
        };
        let asker = member(1).join("asker").unwrap();
        let other = member(2).join("other").unwrap();
        let mail = Mail::open(&*asker, DomId(1), DomId(2)).unwrap();
        let early = Request {
            session: 7,
            number: 1,
            what: What::Kill,
        };
        mail.post(&early).unwrap();
        let no_hand = |_: &Member| Err(Stop::Broken("no hand in this test".into()));
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve_with(&no_hand, &member(2), &*other, DomId(1)));
            let answered = || mail.look::<Reply>().filter(|reply| reply.session == 7);
            let begun = Instant::now();
            while answered().is_none() {
                assert!(begun.elapsed() < PATIENCE, "no answer");
                mail.wait().unwrap();
            }
            // What a refusal says arrives, and the end ends it.
            let refused = Relayed::begin(&*asker, DomId(1), DomId(2)).unwrap_err();
            assert!(
                refused.to_string().contains("no hand in this test"),
                "{refused}"
            );
            let end = Request {
                session: 8,
                number: 1,
                what: What::End,
            };
            mail.post(&end).unwrap();
            serving.join().unwrap().unwrap();
        });
    }
}
