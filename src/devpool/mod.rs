//! The embedded user pool: a server that speaks Cognito's API, for development and tests.
//!
//! It listens on loopback in the same process and is used over HTTP like the real one, so that the
//! gateway has one way of talking to a pool. What it keeps stands in one file (`store`); an
//! operation is a plain function from a request and the time to a reply or a `refusal`.
//!
//! - `serve` takes HTTP requests, `operations` is the table of what they can ask for,
//! - `account` and `signin` are what users do, `admin_*` what administrators do,
//! - `directory` finds and keeps users, `records` says what is kept,
//! - `password`, `keys`, `tokens`, `sessions` and `messages` hold the rules.

mod account;
mod admin_groups;
mod admin_pools;
mod admin_users;
mod directory;
mod keys;
mod local;
mod messages;
mod names;
mod operations;
mod password;
mod records;
mod refusal;
mod serve;
mod service;
mod sessions;
mod signin;
mod store;
mod tokens;
mod validate;

#[cfg(test)]
mod flows;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use local::{Local, Refused};
pub use messages::{Message, Outbox};
pub use operations::OWN_PREFIX;

use crate::clock::Clock;
use crate::config;
use service::Service;

/// Why there is no embedded pool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pool's configuration has no `embedded` table.
    #[error("pool {0} is not an embedded one")]
    NotEmbedded(String),
    /// It would be reachable from other machines, and everybody who reaches it administers it.
    #[error("the embedded pool listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("the embedded pool cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store cannot be opened or used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The signing keys cannot be made or read.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// There is no pool of that id in the store.
    #[error("there is no user pool {0}")]
    UnknownPool(String),
    /// The password of a user in the configuration breaks the pool's policy.
    #[error("user {0}: {1}")]
    SeedPassword(String, String),
}

/// How long [`Server::shutdown`] waits: longer than the server gives its connections.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A running embedded pool. Dropping it stops it; [`Server::shutdown`] also waits for the end.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    outbox: Outbox,
    stop: watch::Sender<bool>,
    /// Closed when the server has ended.
    ended: Mutex<Receiver<()>>,
}

impl Server {
    /// Opens the pool's data, listens and serves on `runtime`. The first start of a pool generates
    /// its keys, which takes up to a second; the calling thread is blocked for that long and must
    /// not be one of the runtime's.
    ///
    /// # Errors
    /// When the address is not a loopback one or is taken, or the data cannot be used.
    pub fn bind(pool: &config::Pool, clock: Clock, runtime: &Handle) -> Result<Self, Error> {
        let embedded = pool.embedded.as_ref().ok_or_else(|| Error::NotEmbedded(pool.name.to_string()))?;
        if !embedded.address.ip().is_loopback() {
            return Err(Error::NotLoopback(embedded.address));
        }
        let failed = |source| Error::Bind { address: embedded.address, source };
        let listener = std::net::TcpListener::bind(embedded.address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // The issuer of its tokens is the address where its keys are found.
        let base_url = format!("http://{address}");
        let service = Service::open(pool, embedded.data.as_deref(), &embedded.users, base_url, clock.now())?;
        let service = Arc::new(service);
        let outbox = Outbox(Arc::downgrade(&service));
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = sync_channel(0);
        runtime.spawn(async move {
            serve::serve(listener, service, clock, stopped).await;
            drop::<std::sync::mpsc::SyncSender<()>>(end);
        });
        tracing::warn!(
            pool = %pool.id, %address,
            "the embedded user pool is for development and tests only: everybody on this machine administers it"
        );
        Ok(Self { address, outbox, stop, ended: Mutex::new(ended) })
    }

    /// Where it listens; the port is the one that was taken if the configuration says 0.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The API endpoint, without a trailing slash. A pool's issuer is this, a slash and its id.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The messages that the pool would have sent. It stays usable, and goes empty, after the end.
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Stops taking requests, gives open ones a moment, and returns when the data file is closed.
    /// It blocks, and the runtime has to go on meanwhile: not for one of its threads.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the embedded pool did not end in time");
        }
    }
}
