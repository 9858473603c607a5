//! xenstore in tokio: one task takes in what comes (`AsyncFd`), and any number of others ask and wait.

use libgnt::DomId;
use pv_xenstore::client::Request;
use pv_xenstore::{Client, Error, Result, ServerConfig, ServerHandle, Watch, WatchEvent};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Clones share the connection.
#[derive(Clone)]
struct Store {
    client: Client,
    /// Something has come, or there is room.
    came: Arc<Notify>,
    /// There is something to send that had no room.
    full: Arc<Notify>,
}

impl Store {
    /// Starts the task that drives the connection, until it ends.
    fn start(client: Client) -> std::io::Result<Store> {
        let store = Store {
            client,
            came: Arc::default(),
            full: Arc::default(),
        };
        #[allow(
            deprecated,
            reason = "what replaces it is unsafe, and a client's descriptor is the same as long as it lives"
        )]
        let fd = AsyncFd::new(store.client.clone())?;
        let driven = store.clone();
        tokio::spawn(async move {
            let mut over = false;
            while !over {
                over = driven.client.drive().is_err();
                driven.came.notify_waiters();
                let interest = match driven.client.wants_room() {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                tokio::select! {
                    ready = fd.ready(interest) => match ready {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => over = true,
                    },
                    () = driven.full.notified() => {}
                }
            }
        });
        Ok(store)
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            // Before the look: what comes after it is heard.
            came.as_mut().enable();
            if let Some(found) = look()? {
                return Ok(found);
            }
            if self.client.wants_room() {
                self.full.notify_one();
            }
            came.await;
        }
    }

    async fn ask(&self, request: Request) -> Result<Vec<u8>> {
        let submit = || match self.client.submit(request.clone()) {
            Err(Error::Busy { .. }) => Ok(None),
            other => other.map(Some),
        };
        let mut ticket = self.until(submit).await?;
        self.until(|| {
            if ticket.is_answered() {
                ticket.poll().transpose()
            } else {
                Ok(None)
            }
        })
        .await
    }

    async fn next(&self, watch: &Watch) -> Result<WatchEvent> {
        self.until(|| {
            if watch.has_events() {
                watch.try_next()
            } else {
                Ok(None)
            }
        })
        .await
    }
}

async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    // Registered before the loop begins: that waits for an answer.
    let watch = client.watching("/example/99")?;
    let store = Store::start(client)?;
    assert!(store.next(&watch).await?.first);
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let path = format!("/example/{n}");
                store.ask(Request::write(&path, n.to_string())).await?;
                store.ask(Request::read(&path)).await
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await??, n.to_string().as_bytes());
    }
    let event = store.next(&watch).await?;
    println!("{} has changed", event.path);
    assert!(!event.first);
    Ok(())
}

/// Runs the tasks.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ServerHandle::start(ServerConfig::default())?;
    let (ours, theirs) = UnixStream::pair()?;
    server.attach(DomId::DOM0, theirs)?;
    let client = Client::from_stream(ours.into())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let done = run(client).await;
        server.stop();
        done
    })
}
