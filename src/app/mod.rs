//! Wiring: from a configuration to a running gateway, and back to silence.

mod build;
mod views;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::gateway::Worker;
use crate::server::framing::HeadLimits;
use crate::server::tls::{self, Tls};
use crate::server::{ConnectionLimits, Entrance, Lifecycle, Patience, Workers, bind};
use crate::telemetry::access_log::{AccessLog, Sink};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{LAST_LINES, LogLevel};
use build::Parts;

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
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Clock::System, access_log: Sink::Off, log_level: None, key_wait: Duration::from_secs(3) }
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
        address: SocketAddr,
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
    /// A host in the configuration cannot stand in a header.
    #[error("an upstream's host cannot stand in a header")]
    Host(#[from] http::header::InvalidHeaderValue),
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
    listeners: Vec<SocketAddr>,
    redirects: Vec<SocketAddr>,
    admin: SocketAddr,
    parts: Arc<Parts>,
    workers: Option<Workers>,
    lifecycle: watch::Sender<Lifecycle>,
    access_log: AccessLog,
    control: Option<Control>,
    drain: Duration,
}

/// The number of the configuration: the one that the process started with.
const GENERATION: u64 = 1;

impl App {
    /// Binds every address, starts everything, and waits a while for the keys.
    ///
    /// # Errors
    /// When an address cannot be had, or a part cannot start. Nothing runs on then.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        let Options { clock, access_log, log_level, key_wait } = options;
        let metrics = Arc::new(Metrics::new());
        metrics.config_generation.set(GENERATION.cast_signed());

        // Everything that can be taken by another process is asked for first.
        let tls = Arc::new(Tls::load(&config.listeners).map_err(StartError::Tls)?);
        for expired in tls.expired(clock.now()) {
            tracing::warn!(error = %expired, "clients will not like this");
        }
        let entrances = bind_listeners(&config.listeners, &tls)?;
        let address = config.admin.address;
        let admin =
            Admin::bind(address).map_err(|source| StartError::Bind { what: "admin".into(), address, source })?;

        let control = Control::start().map_err(StartError::Thread)?;
        let access_log = AccessLog::start(access_log, Arc::clone(&metrics)).map_err(StartError::Thread)?;
        let (lifecycle, lifecycle_seen) = watch::channel(Lifecycle::Running);
        let (gateway, parts) = build::build(config, tls, &clock, &metrics, &control.handle)?;
        let server = gateway.server.clone();
        let snapshot = Arc::new(ArcSwap::from_pointee(gateway));

        let make_worker = {
            let (access_log, clock) = (access_log.clone(), clock.clone());
            move || Worker::new(Arc::clone(&snapshot), access_log.clone(), clock.clone())
        };
        let workers = Workers::start(server.workers, connection_limits(&server.limits), &lifecycle_seen, make_worker)
            .map_err(StartError::Thread)?;
        let parts = Arc::new(parts);
        let (mut listeners, mut redirects) = (Vec::new(), Vec::new());
        {
            let _control = control.handle.enter();
            for (address, socket, entrance) in entrances {
                match entrance {
                    Entrance::Redirect(_) => redirects.push(address),
                    Entrance::Plain | Entrance::Tls(_) => listeners.push(address),
                }
                let most = server.limits.connections;
                let accept = workers.accept(socket, entrance, most, &metrics, lifecycle_seen.clone());
                control.handle.spawn(accept.map_err(StartError::Thread)?);
            }
        }
        if !parts.tls.endpoints().is_empty() {
            control.handle.spawn(Arc::clone(&parts.tls).watch(clock.clone()));
        }
        let admin_address = admin.address();
        let views = views::views(Arc::clone(&parts), metrics, lifecycle_seen, clock, log_level);
        control.handle.spawn(async move {
            let Err(error) = admin.serve(views).await;
            tracing::error!(%error, "the admin listener stopped");
        });

        let keys = Arc::clone(&parts);
        let ready = async move { tokio::time::timeout(key_wait, keys.keys_ready()).await };
        if !matches!(control.run(ready), Some(Ok(()))) {
            tracing::warn!("the keys of a user pool cannot be had yet; tokens that need them are answered with 503");
        }
        Ok(Self {
            listeners,
            redirects,
            admin: admin_address,
            parts,
            workers: Some(workers),
            lifecycle,
            access_log,
            control: Some(control),
            drain: server.drain,
        })
    }

    /// Where clients connect, in the order of the configuration, with real ports.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Where clients are sent to `https`, in the order of the configuration, with real ports.
    pub fn redirects(&self) -> &[SocketAddr] {
        &self.redirects
    }

    /// Where the operator connects.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The configuration in force, with the real addresses of embedded pools.
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// Where the embedded pool of this name listens.
    pub fn pool(&self, name: &str) -> Option<SocketAddr> {
        let pool = self.parts.config.pools.iter().find(|pool| *pool.name == *name)?;
        pool.embedded.as_ref().map(|embedded| embedded.address)
    }

    /// Finishes open requests, for at most the configured time or until `hurry` says something;
    /// then cuts what is left.
    pub fn shutdown(mut self, hurry: &Receiver<()>) -> Ended {
        self.stop(Some(hurry))
    }

    fn stop(&mut self, hurry: Option<&Receiver<()>>) -> Ended {
        self.lifecycle.send_replace(Lifecycle::Draining);
        let Some(workers) = self.workers.take() else { return Ended::Drained };
        let ended = match hurry {
            None => Ended::Cut,
            Some(hurry) => wait_for_drain(&workers, self.drain, hurry),
        };
        self.lifecycle.send_replace(Lifecycle::Stopping);
        workers.join();
        #[cfg(feature = "devpool")]
        self.parts.shutdown();
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

/// Binds the addresses of all listeners, and those of their redirects.
fn bind_listeners(
    listeners: &[config::Listener],
    tls: &Tls,
) -> Result<Vec<(SocketAddr, TcpListener, Entrance)>, StartError> {
    let mut bound = Vec::new();
    let mut endpoints = tls.endpoints().iter();
    for (index, listener) in listeners.iter().enumerate() {
        let what = format!("listener {}", index + 1);
        let (address, socket) = bind_one(listener.address, &what)?;
        let entrance = match listener.tls.as_ref().and_then(|_| endpoints.next()) {
            Some(endpoint) => Entrance::Tls(Arc::clone(endpoint)),
            None => Entrance::Plain,
        };
        bound.push((address, socket, entrance));
        if let Some(from) = listener.tls.as_ref().and_then(|tls| tls.redirect_http_from) {
            let (from, socket) = bind_one(from, &format!("{what}, redirect_http_from"))?;
            bound.push((from, socket, Entrance::Redirect(address.port())));
        }
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, what: &str) -> Result<(SocketAddr, TcpListener), StartError> {
    let failed = |source| StartError::Bind { what: what.to_owned(), address, source };
    let socket = bind(address).map_err(failed)?;
    Ok((socket.local_addr().map_err(failed)?, socket))
}

/// Errors, one after the other.
fn list(errors: &[tls::Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn connection_limits(limits: &config::Limits) -> ConnectionLimits {
    ConnectionLimits {
        head: HeadLimits { bytes: limits.head_size, lines: limits.headers },
        handshake: limits.handshake,
        patience: Patience { idle: limits.idle, request_head: limits.request_head, body_stall: limits.body_stall },
    }
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
