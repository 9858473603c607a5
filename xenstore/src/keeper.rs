//! A thread that keeps a device's side of xenstore, so that the loop that moves data never waits for
//! it: a guest that rewrites its nodes for ever, a quota that is used up, or a daemon that is slow or
//! gone costs this thread its time, and nobody else's.

use crate::error::{Error, Result};
use crate::steady::{Brake, Fired, Steady};
use crate::transport::timespec;
use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// What the thread drives: one end of a device. Every method may wait for xenstore.
pub trait Keep: Send + 'static {
    /// What the data's loop says.
    type Command: Send + 'static;
    /// What it is told.
    type News: Send + 'static;

    /// Watches, and begins.
    ///
    /// # Errors
    /// What will not pass; the thread ends.
    fn begin(&mut self, store: &mut Steady) -> Result<()>;

    /// Obeys a command.
    ///
    /// # Errors
    /// As [`Keep::begin`].
    fn obey(&mut self, store: &mut Steady, command: Self::Command) -> Result<()>;

    /// These watches have fired: reads again what they are about.
    ///
    /// # Errors
    /// As [`Keep::begin`].
    fn look(&mut self, store: &mut Steady, fired: &BTreeSet<String>) -> Result<()>;

    /// As [`Keep::look`], for whoever watches more than one thing: where they have fired.
    ///
    /// # Errors
    /// As [`Keep::begin`].
    fn look_at(&mut self, store: &mut Steady, fired: &Fired) -> Result<()> {
        self.look(store, &fired.tokens().map(str::to_owned).collect())
    }

    /// When [`Keep::late`] is to be called.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed.
    ///
    /// # Errors
    /// As [`Keep::begin`].
    fn late(&mut self, store: &mut Steady) -> Result<()> {
        let _ = store;
        Ok(())
    }

    /// The next thing to tell.
    fn news(&mut self) -> Option<Self::News>;

    /// Nothing more will happen.
    fn is_over(&self) -> bool;
}

/// What a [`Keeper`] has to tell.
#[derive(Debug)]
pub enum News<N> {
    /// This.
    Piece(N),
    /// Nothing now.
    Nothing,
    /// It has ended, and all was told.
    Over,
}

/// Looks that may follow each other at once.
const LOOKS_AT_ONCE: u32 = 64;
/// And after those: whoever changes a node more often than this is seen this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Commands that may wait: each answers one piece of news, so there are few.
const COMMANDS: usize = 64;
/// Pieces of news that may wait for the loop. What is beyond waits with the thread, which then looks
/// at nothing new: watches that fire meanwhile are merged ([`Steady::fired`]), and no piece is lost.
/// It still obeys commands, so the loop that says one can never wait for itself. Those alone add to
/// what waits, and each of them answers a piece that the loop has taken, or is one of the few that
/// it says by itself.
const NEWS: usize = 64;

/// The handle, and a source that becomes readable when there is news. Dropped, the thread ends when
/// xenstore lets it.
pub struct Keeper<K: Keep> {
    commands: Sender<K::Command>,
    news: Receiver<Result<K::News>>,
    /// Rung for the thread.
    bell: Arc<OwnedFd>,
    /// Rung by the thread.
    news_bell: Arc<OwnedFd>,
    brake: Brake,
    /// Until it has ended.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<K: Keep> Keeper<K> {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel gives no thread or no eventfd.
    pub fn start(name: &str, mut keep: K, mut store: Steady) -> io::Result<Keeper<K>> {
        let brake = store.brake();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = Arc::new(eventfd(0, flags)?);
        let news_bell = Arc::new(eventfd(0, flags)?);
        let (commands, obeys) = bounded(COMMANDS);
        let (tell, news) = bounded(NEWS);
        let (heard, rung) = (Arc::clone(&bell), Arc::clone(&news_bell));
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Dropped in the order from below, after a panic too: whoever hears of the end must not
                // be heard any more.
                let _at_end = Rings(Arc::clone(&rung));
                let tell = tell;
                let obeys = obeys;
                let mut untold = VecDeque::new();
                let teller = Teller {
                    news: &tell,
                    bell: &rung,
                };
                let ended = run(
                    (&mut keep, &mut store),
                    (&obeys, &heard),
                    &teller,
                    &mut untold,
                );
                // From here on this may wait for the loop, and so the loop must not wait for this.
                drop(obeys);
                teller.tell_all(untold.into_iter().map(Ok).chain(ended.err().map(Err)));
            })?;
        Ok(Keeper {
            commands,
            news,
            bell,
            news_bell,
            brake,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Says something to it. False: it has ended.
    pub fn tell(&self, command: K::Command) -> bool {
        let taken = self.commands.send(command).is_ok();
        ring(&self.bell);
        taken
    }

    /// What it tells, in order.
    ///
    /// # Errors
    /// What ended it.
    pub fn news(&self) -> Result<News<K::News>> {
        match self.news.try_recv() {
            Ok(piece) => {
                if self.news.len() + 1 >= NEWS {
                    // The thread may have found it full, and wait for this.
                    ring(&self.bell);
                }
                piece.map(News::Piece)
            }
            Err(TryRecvError::Empty) => Ok(News::Nothing),
            Err(TryRecvError::Disconnected) => {
                let thread = self
                    .thread
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                match thread.map(JoinHandle::join) {
                    Some(Err(_)) => Err(Error::Invalid("xenstore's thread panicked".into())),
                    _ => Ok(News::Over),
                }
            }
        }
    }

    /// As [`Keeper::news`], and waits for it until then.
    ///
    /// # Errors
    /// As [`Keeper::news`]; the kernel's.
    pub fn wait_news(&self, until: Instant) -> Result<News<K::News>> {
        loop {
            // Taken before the look: who rings after it is heard.
            let _ = rustix::io::read(&*self.news_bell, &mut [0_u8; 8]);
            match self.news()? {
                News::Nothing => {}
                news => return Ok(news),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(News::Nothing);
            }
            let timeout = timespec(left.saturating_add(Duration::from_millis(1)));
            let mut fds = [PollFd::new(&*self.news_bell, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    let operation = "poll";
                    return Err(Error::Io { operation, errno });
                }
            }
        }
    }

    /// From that moment on it tries nothing again.
    pub fn stop_at(&self, at: Instant) {
        self.brake.stop_at(at);
    }
}

impl<K: Keep> Source for Keeper<K> {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.news_bell.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.news_bell.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.news_bell.as_raw_fd()).deregister(registry)
    }
}

impl<K: Keep> Drop for Keeper<K> {
    fn drop(&mut self) {
        self.brake.stop_at(Instant::now());
        // The channel is closed when this returns; it looks again then, at the latest.
        let (closed, _) = bounded(0);
        drop(std::mem::replace(&mut self.commands, closed));
        ring(&self.bell);
    }
}

impl<K: Keep> fmt::Debug for Keeper<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeper({} pieces of news)", self.news.len())
    }
}

/// The thread's end of the news.
struct Teller<'a, N> {
    news: &'a Sender<Result<N>>,
    bell: &'a OwnedFd,
}

impl<N> Teller<'_, N> {
    /// Tells what there is room for. False: nobody listens any more.
    fn tell_what_fits(&self, untold: &mut VecDeque<N>) -> bool {
        let mut any = false;
        while let Some(piece) = untold.pop_front() {
            match self.news.try_send(Ok(piece)) {
                Ok(()) => any = true,
                Err(TrySendError::Full(piece)) => {
                    untold.extend(piece.ok());
                    untold.rotate_right(1);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        if any {
            ring(self.bell);
        }
        true
    }

    /// Tells everything, and waits for room, unless nobody listens any more.
    fn tell_all(&self, pieces: impl Iterator<Item = Result<N>>) {
        for piece in pieces {
            if self.news.send(piece).is_err() {
                return;
            }
            ring(self.bell);
        }
    }
}

/// Until the end. What has not been told by then is left in `untold`.
fn run<K: Keep>(
    (keep, store): (&mut K, &mut Steady),
    (commands, bell): (&Receiver<K::Command>, &OwnedFd),
    teller: &Teller<'_, K::News>,
    untold: &mut VecDeque<K::News>,
) -> Result<()> {
    let mut pace = Pace::default();
    let mut fired = Fired::default();
    keep.begin(store)?;
    loop {
        while let Some(piece) = keep.news() {
            untold.push_back(piece);
        }
        if !teller.tell_what_fits(untold) {
            return Ok(());
        }
        if keep.is_over() {
            return Ok(());
        }
        match commands.try_recv() {
            Ok(command) => {
                keep.obey(store, command)?;
                continue;
            }
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {}
        }
        if keep.deadline().is_some_and(|at| at <= Instant::now()) {
            keep.late(store)?;
            continue;
        }
        fired.append(store.fired_at()?);
        let patience = pace.left();
        let may_look = untold.is_empty();
        if may_look && !fired.is_empty() && patience.is_zero() {
            pace.looked();
            keep.look_at(store, &std::mem::take(&mut fired))?;
            continue;
        }
        if store.has_events() {
            continue;
        }
        let mut timeout = keep
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        if may_look && !fired.is_empty() {
            timeout = Some(timeout.map_or(patience, |timeout| timeout.min(patience)));
        }
        wait(store, bell, timeout)?;
    }
}

/// Sleeps until xenstore has an event, somebody rings, or the time is over.
fn wait(store: &Steady, bell: &OwnedFd, timeout: Option<Duration>) -> Result<()> {
    let Some(client) = store.client() else {
        return Ok(());
    };
    // Rounded up: not to come back just before.
    let timeout = timeout.map(|timeout| timespec(timeout.saturating_add(Duration::from_millis(1))));
    let store = client.as_fd();
    let mut fds = [
        PollFd::new(bell, PollFlags::IN),
        PollFd::from_borrowed_fd(store, PollFlags::IN),
    ];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => {
            let operation = "poll";
            return Err(Error::Io { operation, errno });
        }
    }
    // Nobody else reads it; whether anybody rang is seen by the commands.
    let _ = rustix::io::read(bell, &mut [0_u8; 8]);
    Ok(())
}

/// Rings when it is dropped.
struct Rings(Arc<OwnedFd>);

impl Drop for Rings {
    fn drop(&mut self) {
        ring(&self.0);
    }
}

fn ring(bell: &OwnedFd) {
    // Full means that it rings already.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Some looks at once, and then one now and then.
#[derive(Debug)]
struct Pace {
    tokens: u32,
    since: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            tokens: LOOKS_AT_ONCE,
            since: Instant::now(),
        }
    }
}

impl Pace {
    fn left(&mut self) -> Duration {
        let passed = self.since.elapsed();
        let earned = passed.as_nanos() / LOOK_EVERY.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(LOOKS_AT_ONCE);
            self.since = Instant::now();
        }
        match self.tokens {
            0 => LOOK_EVERY.saturating_sub(passed),
            _ => Duration::ZERO,
        }
    }

    fn looked(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }
}
