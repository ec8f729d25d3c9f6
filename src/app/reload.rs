//! What is in force, and how the next configuration takes its place.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{self, Notify};
use tokio::time::sleep;

use super::build::{Base, Parts, build};
use super::change::{Change, change};
use super::listeners::{Closed, Listeners};
use super::{StartError, Supervisor, admission, serving, warn_of_expired};
use crate::config::{self, Config, Contents, Loaded, Report, Servers, watch};
use crate::gateway::Gateway;
use crate::server::tls::Tls;
use crate::telemetry::LogLevel;
use crate::telemetry::metrics::{Metrics, Outcome, Pool, Server};
use crate::upstream::Upstream;

/// What is in force. Only a reload replaces it, one at a time.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) base: Base,
    pub(super) listeners: Listeners,
    pub(super) parts: ArcSwap<Parts>,
    pub(super) log_level: Option<LogLevel>,
    /// What workers follow: the gateway of `parts`.
    pub(super) snapshot: Arc<ArcSwap<Gateway>>,
    /// The file.
    pub(super) source: PathBuf,
    /// How long a reload waits for the keys of a pool that is new.
    pub(super) key_wait: Duration,
    /// What was read last, whether it could be used or not.
    pub(super) seen: Mutex<Contents>,
    /// Why the last reload changed nothing.
    pub(super) failure: Mutex<Option<String>>,
    /// Whose turn it is to reload.
    pub(super) turn: Arc<sync::Mutex<()>>,
    /// The service manager, if there is one.
    pub(super) supervisor: Supervisor,
}

/// What made somebody read the file again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    /// SIGHUP.
    Signal,
    /// `POST /reload`.
    Request,
    /// The file, or one that it names, has other content.
    Content,
}

/// A configuration came into force.
#[derive(Debug)]
pub(super) struct Reloaded {
    pub(super) generation: u64,
    pub(super) changed: Vec<String>,
    pub(super) needs_restart: Vec<String>,
}

/// Why everything stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReloaded {
    /// The file cannot be used.
    #[error("{0}")]
    Mistakes(Report),
    /// It could be used, and something of it cannot be had.
    #[error("{}", with_causes(.0))]
    Start(#[from] StartError),
    /// The process drains.
    #[error("the gateway stops, and reads no further configuration")]
    Stopping,
    /// Nobody knows.
    #[error("reading the configuration ended in a panic")]
    Panic,
}

impl NotReloaded {
    /// The outcome as a metric label.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Mistakes(_) => "invalid",
            Self::Start(_) | Self::Stopping | Self::Panic => "failed",
        }
    }
}

impl Live {
    /// Reads the file again and puts it in force, whole or not at all. For the control runtime, which
    /// goes on meanwhile.
    pub(super) async fn reload(self: Arc<Self>, cause: Cause) -> Result<Reloaded, NotReloaded> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let reload = tokio::task::spawn_blocking(move || {
            self.supervisor.reloading();
            let outcome = self.read_and_swap();
            self.report(cause, &outcome);
            drop(turn);
            outcome
        });
        reload.await.unwrap_or(Err(NotReloaded::Panic))
    }

    /// Reloads whenever somebody asks by a signal and, if `watched`, when there is something new to
    /// read. Runs until it is dropped.
    pub(super) async fn follow(self: Arc<Self>, hangups: Arc<Notify>, watched: bool) {
        let known = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let look = |contents: Contents| async {
            // Blocking threads do not panic here; one that did would have seen no change.
            let unchanged = contents.clone();
            tokio::task::spawn_blocking(move || contents.look_again()).await.unwrap_or(unchanged)
        };
        loop {
            let cause = tokio::select! {
                () = hangups.notified() => Cause::Signal,
                () = watch::changed(known, look), if watched => Cause::Content,
            };
            // How it ended stands in the log.
            let _reported = Arc::clone(&self).reload(cause).await.is_ok();
        }
    }

    /// Takes over new certificates of what is in force. Runs until it is dropped.
    pub(super) async fn watch_certificates(self: Arc<Self>) {
        loop {
            sleep(watch::INTERVAL).await;
            let parts = self.parts.load_full();
            if parts.tls.endpoints().is_empty() && !parts.upstreams().any(Upstream::has_certificates) {
                continue;
            }
            // A reload reads them, too.
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let live = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || {
                let (parts, now) = (live.parts.load_full(), live.base.clock.now());
                parts.tls.refresh(now);
                parts.upstreams().for_each(|upstream| upstream.refresh_certificates(now));
                drop(turn);
            });
            if look.await.is_err() {
                tracing::error!("looking at the files of certificates ended in a panic");
            }
        }
    }

    /// Why the last reload changed nothing, if it did not.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_and_swap(&self) -> Result<Reloaded, NotReloaded> {
        let (loaded, seen) = config::load_and_note(&self.source, &|name| std::env::var(name).ok());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let Loaded { config, warnings } = loaded.map_err(NotReloaded::Mistakes)?;
        if !warnings.diagnostics.is_empty() {
            tracing::warn!(%warnings, "the configuration has something to look at");
        }
        let before = self.parts.load_full();
        let Change { config, changed, needs_restart } = change(&before.config, &before.written(), config);
        let level = config.log.level;

        // Everything that can fail comes first.
        let tls = Tls::prepare(&config.listeners, Some(&before.tls), self.base.clock.now()).map_err(StartError::Tls)?;
        let bound = self.listeners.bind_new(&config.listeners, tls.tls())?;
        let parts = Arc::new(build(&self.base, config, Arc::clone(tls.tls()), Some(&before))?);
        let ready = async { tokio::time::timeout(self.key_wait, parts.keys_ready(Some(&before))).await };
        if self.base.control.block_on(ready).is_err() {
            tracing::warn!("the keys of a new user pool cannot be had yet; its tokens are answered with 503");
        }
        let admission = admission(&parts.config.server);
        self.listeners.replace(&parts.config.listeners, bound, admission)?.map_err(|Closed| NotReloaded::Stopping)?;

        tls.put_in_force();
        warn_of_expired(&parts.tls, self.base.clock.now());
        self.snapshot.store(Arc::clone(&parts.gateway));
        self.parts.store(Arc::clone(&parts));
        self.base.metrics.config_generation.set(parts.generation.cast_signed());
        if let Some(log_level) = self.log_level.as_ref().filter(|_| level != before.config.log.level) {
            log_level.set(level);
        }
        forget(&self.base.metrics, &before.config, &parts.config);
        #[cfg(feature = "devpool")]
        before.shutdown(Some(&parts));
        Ok(Reloaded { generation: parts.generation, changed, needs_restart })
    }

    /// Says how a reload ended: in the log, in a metric, and in `/ready`.
    fn report(&self, cause: Cause, outcome: &Result<Reloaded, NotReloaded>) {
        let label = outcome.as_ref().map_or_else(NotReloaded::outcome, |_| "ok");
        self.base.metrics.config_reload.get_or_create_owned(&Outcome::new(label)).inc();
        let failure = match outcome {
            Ok(Reloaded { generation, changed, needs_restart }) => {
                tracing::info!(?cause, generation, ?changed, "a new configuration is in force");
                if !needs_restart.is_empty() {
                    tracing::warn!(?needs_restart, "this stays as it is until a restart");
                }
                None
            }
            Err(error) => {
                let generation = self.parts.load().generation;
                tracing::error!(?cause, generation, %error, "the configuration stays as it is");
                Some(error.to_string())
            }
        };
        let status = serving(self.parts.load().generation);
        match outcome {
            Ok(_) => self.supervisor.ready(&status),
            // It has heard so already.
            Err(NotReloaded::Stopping) => {}
            Err(_) => self.supervisor.ready(&format!("{status}; what the file says now cannot be used, see the log")),
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Gauges of what is no longer in the configuration would show its last state for ever.
fn forget(metrics: &Metrics, before: &Config, now: &Config) {
    for pool in before.pools.iter().filter(|pool| now.pools.iter().all(|other| other.name != pool.name)) {
        let label = Pool::new(Arc::clone(&pool.name));
        metrics.jwks_age_seconds.remove(&label);
        metrics.jwks_keys.remove(&label);
    }
    let servers = |config: &Config| -> Vec<Server> {
        let of = |upstream: &Arc<config::Upstream>| match &upstream.servers {
            Servers::Whoami => Vec::new(),
            Servers::Http(all) => all.iter().map(|one| Server::new(Arc::clone(&upstream.name), one.label())).collect(),
        };
        config.upstreams.iter().flat_map(of).collect()
    };
    let now = servers(now);
    for gone in servers(before).iter().filter(|server| !now.contains(server)) {
        metrics.upstream_healthy.remove(gone);
    }
}

/// An error with everything behind it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
