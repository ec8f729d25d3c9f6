//! Wiring: from a configuration to a running gateway, and back to silence.

mod build;
mod change;
mod listeners;
mod reload;
mod supervisor;
mod views;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::sync::{self, Notify, oneshot, watch};

use crate::admin::Admin;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, Contents, ListenAddress};
use crate::gateway::Worker;
use crate::server::framing::HeadLimits;
use crate::server::tls::{self, Tls};
use crate::server::{Admission, ConnectionLimits, Inherited, Lifecycle, Patience, Workers};
use crate::telemetry::access_log::{AccessLog, Sink};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{LAST_LINES, LogLevel};
use crate::upstream;
use build::Base;
use listeners::{Bound, Listeners};
use reload::Live;
pub use supervisor::Supervisor;

/// What a process decides about a gateway besides its configuration.
#[derive(Debug)]
pub struct Options {
    /// Where the time comes from.
    pub clock: Clock,
    /// Where access lines go.
    pub access_log: Sink,
    /// The log's level, so that it can be changed at run time.
    pub log_level: Option<LogLevel>,
    /// How long [`App::start`] waits for the key sets. A gateway without keys serves its public
    /// routes, and is not ready.
    pub key_wait: Duration,
    /// What was read for the configuration. From then on the files are watched, and the configuration
    /// is reloaded when they change. `None`: nobody watches.
    pub watch: Option<Contents>,
    /// Whoever notifies this asks for a reload.
    pub hangups: Arc<Notify>,
    /// Sockets that were passed to the process, for the listeners that ask for them.
    pub inherited: Vec<Inherited>,
    /// The service manager, if there is one.
    pub supervisor: Supervisor,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::System,
            access_log: Sink::Off,
            log_level: None,
            key_wait: Duration::from_secs(3),
            watch: None,
            hangups: Arc::default(),
            inherited: Vec::new(),
            supervisor: Supervisor::default(),
        }
    }
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not this machine's, or needs rights.
    #[error("cannot listen on {address} ({what})")]
    Bind {
        /// Which part of the configuration.
        what: String,
        /// The address.
        address: ListenAddress,
        /// What the system says.
        source: io::Error,
    },
    /// Certificates, keys or authorities of listeners are no good.
    #[error("{}", list(.0))]
    Tls(Vec<tls::Error>),
    /// The embedded pool did not start.
    #[cfg(feature = "devpool")]
    #[error("the embedded user pool `{name}` did not start")]
    Devpool {
        /// The pool's name in the file.
        name: Arc<str>,
        /// Why.
        source: crate::devpool::Error,
    },
    /// The configuration asks for an embedded pool, which this build does not have.
    #[error("pool `{0}` is embedded, but this build has no embedded pool (cargo feature `devpool`)")]
    NoDevpool(Arc<str>),
    /// A thread or runtime could not be made.
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
    /// TLS for calls to the user pool could not be set up.
    #[error("the client for calls to the user pool could not be made")]
    Outbound(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An upstream cannot be set up.
    #[error("upstream `{name}` cannot be set up")]
    Upstream {
        /// Its name in the file.
        name: Arc<str>,
        /// Why.
        source: upstream::BuildError,
    },
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request was finished.
    Drained,
    /// Some were cut: the time was over, or somebody was in a hurry.
    Cut,
}

/// A running gateway.
#[derive(Debug)]
pub struct App {
    admin: SocketAddr,
    live: Arc<Live>,
    workers: Option<Workers>,
    lifecycle: watch::Sender<Lifecycle>,
    access_log: AccessLog,
    control: Option<Control>,
}

impl App {
    /// Binds every address, starts everything, and waits a while for the keys.
    ///
    /// # Errors
    /// When an address cannot be had, or a part cannot start. Nothing runs on then.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        let Options { clock, access_log, log_level, key_wait, watch, hangups, inherited, supervisor } = options;
        let metrics = Arc::new(Metrics::new());

        // Everything that can be taken by another process is asked for first.
        let tls = Tls::prepare(&config.listeners, None, clock.now()).map_err(StartError::Tls)?;
        let tls = Arc::clone(tls.tls());
        warn_of_expired(&tls, clock.now());
        let bound = Bound::all(&config.listeners, &tls, &inherited)?;
        let address = config.admin.address;
        let admin = Admin::bind(address).map_err(|source| StartError::Bind {
            what: "admin".into(),
            address: address.into(),
            source,
        })?;

        let control = Control::start().map_err(StartError::Thread)?;
        let access_log = AccessLog::start(access_log, Arc::clone(&metrics)).map_err(StartError::Thread)?;
        let (lifecycle, lifecycle_seen) = watch::channel(Lifecycle::Running);
        let base = Base::new(clock.clone(), Arc::clone(&metrics), control.handle.clone())?;
        let parts = build::build(&base, config, tls, None)?;
        metrics.config_generation.set(parts.generation.cast_signed());
        let config = Arc::clone(&parts.config);
        let snapshot = Arc::new(ArcSwap::new(Arc::clone(&parts.gateway)));

        let make_worker = {
            let (snapshot, access_log) = (Arc::clone(&snapshot), access_log.clone());
            move || Worker::new(Arc::clone(&snapshot), access_log.clone(), clock.clone())
        };
        let workers =
            Workers::start(config.server.workers, &lifecycle_seen, make_worker).map_err(StartError::Thread)?;
        let admission = admission(&config.server);
        let inboxes = workers.inboxes().clone();
        let listeners = Listeners::new(inboxes, admission.clone(), metrics, control.handle.clone(), inherited);
        // Nobody can have closed them yet.
        let _open = listeners.replace(&config.listeners, bound, admission)?.is_ok();

        let live = Arc::new(Live {
            base,
            listeners,
            parts: ArcSwap::from_pointee(parts),
            log_level,
            snapshot,
            source: config.source.clone(),
            key_wait,
            seen: Mutex::new(watch.clone().unwrap_or_default()),
            failure: Mutex::default(),
            turn: Arc::new(sync::Mutex::new(())),
            supervisor,
        });
        control.handle.spawn(live.supervisor.watchdog());
        control.handle.spawn(Arc::clone(&live).follow(hangups, watch.is_some()));
        control.handle.spawn(Arc::clone(&live).watch_certificates());
        let admin_address = admin.address();
        let views = views::views(&live, lifecycle_seen);
        control.handle.spawn(async move {
            let Err(error) = admin.serve(views).await;
            tracing::error!(%error, "the admin listener stopped");
        });

        let parts = live.parts.load_full();
        let ready = async move { tokio::time::timeout(key_wait, parts.keys_ready(None)).await };
        if !matches!(control.run(ready), Some(Ok(()))) {
            tracing::warn!("the keys of a user pool cannot be had yet; tokens that need them are answered with 503");
        }
        live.supervisor.ready(&serving(1));
        Ok(Self { admin: admin_address, live, workers: Some(workers), lifecycle, access_log, control: Some(control) })
    }

    /// Where clients connect, in the order of the configuration, with real ports.
    pub fn listeners(&self) -> Vec<ListenAddress> {
        self.live.listeners.addresses()
    }

    /// Where clients are sent to `https`, in the order of the configuration, with real ports.
    pub fn redirects(&self) -> Vec<SocketAddr> {
        self.live.listeners.redirects()
    }

    /// Where the operator connects.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The configuration in force, with the real addresses of embedded pools.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.live.parts.load().config)
    }

    /// Where the embedded pool of this name listens.
    pub fn pool(&self, name: &str) -> Option<SocketAddr> {
        let config = self.config();
        let pool = config.pools.iter().find(|pool| *pool.name == *name)?;
        pool.embedded.as_ref().map(|embedded| embedded.address)
    }

    /// Finishes open requests, for at most the configured time or until `hurry` says something;
    /// then cuts what is left.
    pub fn shutdown(mut self, hurry: &Receiver<()>) -> Ended {
        self.stop(Some(hurry))
    }

    fn stop(&mut self, hurry: Option<&Receiver<()>>) -> Ended {
        let Some(workers) = self.workers.take() else { return Ended::Drained };
        self.live.supervisor.stopping();
        self.live.listeners.close();
        self.lifecycle.send_replace(Lifecycle::Draining);
        let ended = match hurry {
            None => Ended::Cut,
            Some(hurry) => wait_for_drain(&workers, self.config().server.drain, hurry),
        };
        self.lifecycle.send_replace(Lifecycle::Stopping);
        workers.join();
        #[cfg(feature = "devpool")]
        self.live.parts.load().shutdown(None);
        self.access_log.close(LAST_LINES);
        drop(self.control.take());
        ended
    }
}

impl Drop for App {
    /// A gateway that is dropped cuts what is open.
    fn drop(&mut self) {
        self.stop(None);
    }
}

/// What the service manager shows beside the name of the service.
fn serving(generation: u64) -> String {
    format!("serving configuration {generation}")
}

/// Waits until no connection is open.
fn wait_for_drain(workers: &Workers, drain: Duration, hurry: &Receiver<()>) -> Ended {
    // The threads end when their last connection does; a look now and then is all it takes to know,
    // and the channel wakes us at once when somebody is in a hurry.
    const LOOK: Duration = Duration::from_millis(20);
    let deadline = tokio::time::Instant::now() + drain;
    while workers.open() > 0 {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            tracing::warn!(open = workers.open(), "the time to drain is over");
            return Ended::Cut;
        }
        match hurry.recv_timeout(left.min(LOOK)) {
            Ok(()) => return Ended::Cut,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(left.min(LOOK)),
        }
    }
    Ended::Drained
}

/// Says which certificates are of no use any more, and served all the same.
fn warn_of_expired(tls: &Tls, now: Timestamp) {
    for expired in tls.expired(now) {
        tracing::warn!(error = %expired, "clients will not like this");
    }
}

/// Errors, one after the other.
fn list(errors: &[tls::Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn admission(server: &config::Server) -> Admission {
    let limits = &server.limits;
    let head = HeadLimits { bytes: limits.head_size, lines: limits.headers };
    let patience = Patience { idle: limits.idle, request_head: limits.request_head, body_stall: limits.body_stall };
    let most = limits.connections;
    let limits = ConnectionLimits { head, patience, handshake: limits.handshake, h2_streams: limits.h2_streams };
    Admission { most, limits, trusted: Arc::new(server.trusted_proxies.clone()) }
}

/// The control plane: one thread with one runtime for key refresh, calls to user pools, the admin
/// listener and the accept loops. A busy data plane never starves it.
#[derive(Debug)]
struct Control {
    handle: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            // Password hashing and SRP are the blocking work; more threads than that gain nothing.
            .max_blocking_threads(8)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            // Either somebody says stop, or nobody is left to say it.
            runtime.block_on(stopped).unwrap_or_default();
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a future there and waits for it. `None` when it panicked.
    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        self.handle.spawn(async move { done.send(future.await).unwrap_or_default() });
        outcome.recv().ok()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap_or_default();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}
