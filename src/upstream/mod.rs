//! Upstreams: from a vetted request to the answer of a backend.
//!
//! [`forward()`] is one exchange. It picks a server (`balance`), takes a kept connection or makes one
//! (`connections`, `connect`, `http1`), frames the request anew (`request`), waits, cleans the answer
//! (`response`), and gives the connection back when the answer was read. An [`Upstream`] is shared
//! and never changes; [`Connections`] belong to one worker thread.
//!
//! Nothing here knows principals, routes or problems: what arrives has been decided on.

mod balance;
mod cap;
mod connect;
mod connections;
mod error;
mod forward;
mod health;
mod http1;
mod http2;
mod probe;
mod reach;
mod replay;
mod request;
mod resolve;
mod response;
mod retry;
mod server;
mod standing;
mod tally;
#[cfg(test)]
mod tests;
mod timer;
mod tls;
mod trailers;
mod tunnel;
mod waiting;
mod whoami;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use prometheus_client::metrics::histogram::Histogram;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::{self, HostHeader, Servers, Transport};
use crate::telemetry::metrics::{self, Count, Level, Metrics};

pub use connections::Connections;
pub use error::{ConnectError, Error, Invalid};
pub use forward::forward;
#[cfg(fuzzing)]
pub use http1::fuzzing;
pub use probe::probe;
pub use resolve::resolve;
pub use tls::BuildError;
pub use trailers::Trailers;
pub use tunnel::{Handshake, Tunnel};

use cap::Cap;
use health::Thresholds;
use resolve::Resolved;
use standing::Standing;
use tally::Tally;
use tls::{Tls, Towards};

/// Whether a header is one that only the gateway sets (the identity headers).
pub type Managed = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

/// What the caller of [`forward()`] knows besides the request.
pub struct Exchange<'a> {
    /// The host that the client asked for, for `host = "preserve"`. `None` (HTTP/1.0 without
    /// `Host`): the server's own name is sent.
    pub host: Option<HeaderValue>,
    /// What the client's head said of trailers, read before the hop-by-hop headers were removed.
    pub trailers: Trailers,
    /// Trailers for which this is true are dropped, as are those that only the gateway may say;
    /// `whoami:` shows such headers as the identity.
    pub managed: &'a Managed,
    /// How long a body may stand still, in either direction.
    pub body_stall: Duration,
    /// With `balance = "hash"`, requests of the same number go to the same server; see [`affinity`].
    pub affinity: u64,
    /// The request asks to switch to WebSocket.
    pub handshake: Option<&'a Handshake>,
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("host", &self.host)
            .field("body_stall", &self.body_stall)
            .finish_non_exhaustive()
    }
}

/// The [`Exchange::affinity`] of what belongs together, such as everything of one user. The same in
/// every worker and replica.
pub fn affinity(of: &[u8]) -> u64 {
    balance::number_of(of)
}

/// What the access line tells of an exchange. Filled in as it happens, so that it is right also
/// when the client leaves in the middle.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// `host:port` of the server that was tried last.
    pub server: Option<Arc<str>>,
    /// How often the request was tried again.
    pub retries: u32,
    /// From the start of the exchange to the answer's head.
    pub first_byte: Option<Duration>,
}

/// A backend under one name, with everything that is the same for each request resolved.
pub struct Upstream {
    config: Arc<config::Upstream>,
    target: Target,
    fixed_host: Option<HeaderValue>,
    /// For those of its servers that are `https://`.
    tls: Option<Arc<Tls>>,
    seconds: Histogram,
    retries: Count,
}

enum Target {
    Whoami(Tally),
    Http(Box<[Backend]>),
}

/// One server, as all workers share it.
struct Backend {
    endpoint: config::Endpoint,
    /// How metrics and logs call it.
    authority: Arc<str>,
    host: HeaderValue,
    /// `None`: a name, or a socket's path.
    address: Option<SocketAddr>,
    /// What its name means; `None` when it has none.
    resolved: Option<Arc<Resolved>>,
    /// For `https://`.
    tls: Option<Towards>,
    tally: Tally,
    standing: Arc<Standing>,
    /// How many connections all workers together may have to it.
    cap: Arc<Cap>,
    idle: Level,
    active: Level,
    waiting: Level,
}

/// One server of an upstream, for `GET /upstreams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// As in the configuration.
    pub url: String,
    /// Its share.
    pub weight: u32,
    /// Whether it is in use.
    pub healthy: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Exchanges under way.
    pub active: i64,
    /// Connections without one.
    pub idle: i64,
    /// Requests that wait for a connection.
    pub waiting: i64,
}

impl ServerStatus {
    fn whoami() -> Self {
        Self { url: "whoami:".to_owned(), weight: 1, healthy: true, reason: None, active: 0, idle: 0, waiting: 0 }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Upstream {
    /// The upstream that the configuration describes. Opens no connection.
    ///
    /// # Errors
    /// When a certificate file cannot be used, or a host cannot stand in a header; a checked
    /// configuration has none of the latter.
    pub fn new(config: Arc<config::Upstream>, metrics: &Metrics) -> Result<Self, BuildError> {
        let name = &config.name;
        let tls = Tls::for_upstream(&config)?;
        let target = match &config.servers {
            Servers::Whoami => Target::Whoami(Tally::new(metrics, name, &Arc::from(whoami::NAME))),
            Servers::Http(endpoints) => Target::Http(
                endpoints
                    .iter()
                    .map(|endpoint| Backend::new(&config, endpoint, tls.as_ref(), metrics))
                    .collect::<Result<_, _>>()?,
            ),
        };
        let fixed_host = match &config.host {
            HostHeader::Fixed(host) => Some(HeaderValue::from_str(host)?),
            HostHeader::Preserve | HostHeader::Server => None,
        };
        let label = metrics::Upstream::new(Arc::clone(name));
        let upstream = Self {
            seconds: metrics.upstream_seconds.get_or_create(&label).clone(),
            retries: metrics.retries.get_or_create(&label).clone(),
            target,
            fixed_host,
            tls,
            config,
        };
        upstream.set_thresholds();
        Ok(upstream)
    }

    /// The same, but what is known of servers that are also in `before` lives on: a reload does not
    /// make an ill server well.
    #[must_use]
    pub fn remembering(mut self, before: &Self) -> Self {
        if let Target::Http(backends) = &mut self.target {
            for backend in backends {
                let known = before.backends().iter().find(|known| known.endpoint.url() == backend.endpoint.url());
                if let Some(known) = known {
                    backend.standing = Arc::clone(&known.standing);
                    backend.resolved = known.resolved.clone();
                    backend.cap = Arc::clone(&known.cap);
                    backend.cap.set_limit(self.config.connections);
                }
                backend.standing.publish_health();
            }
        }
        self.set_thresholds();
        self
    }

    fn set_thresholds(&self) {
        let Some(health) = &self.config.health else { return };
        for backend in self.backends() {
            backend.standing.judge_by(Thresholds { up: health.up, down: health.down });
        }
    }

    /// Takes over what changed in the certificate files and is good, for new connections. Blocks while
    /// it reads.
    pub fn refresh_certificates(&self, now: Timestamp) {
        if let Some(tls) = &self.tls {
            tls.refresh(now);
        }
    }

    /// Whether [`Upstream::refresh_certificates`] has files to look at.
    pub fn has_certificates(&self) -> bool {
        self.tls.is_some() && self.config.tls.has_files()
    }

    /// Its servers as the operator sees them.
    pub fn status(&self) -> Vec<ServerStatus> {
        let status = |backend: &Backend| {
            let trouble = backend.standing.trouble();
            ServerStatus {
                url: backend.endpoint.url(),
                weight: backend.endpoint.weight,
                healthy: trouble.is_none(),
                reason: trouble,
                active: backend.active.get(),
                idle: backend.idle.get(),
                waiting: backend.waiting.get(),
            }
        };
        match &self.target {
            Target::Whoami(_) => vec![ServerStatus::whoami()],
            Target::Http(backends) => backends.iter().map(status).collect(),
        }
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    fn backends(&self) -> &[Backend] {
        match &self.target {
            Target::Whoami(_) => &[],
            Target::Http(backends) => backends,
        }
    }

    /// The `Host` header for a server that is called `own` (RFC 9110 §7.2).
    fn host_header(&self, asked: Option<&HeaderValue>, own: &HeaderValue) -> HeaderValue {
        let preserved = match self.config.host {
            HostHeader::Preserve => asked,
            HostHeader::Server | HostHeader::Fixed(_) => None,
        };
        preserved.or(self.fixed_host.as_ref()).unwrap_or(own).clone()
    }
}

impl Backend {
    fn new(
        config: &config::Upstream,
        endpoint: &config::Endpoint,
        tls: Option<&Arc<Tls>>,
        metrics: &Metrics,
    ) -> Result<Self, BuildError> {
        let upstream = &config.name;
        let authority: Arc<str> = Arc::from(endpoint.label());
        let connections = |state: &'static str| {
            let label = metrics::ServerState::new(Arc::clone(upstream), Arc::clone(&authority), state);
            metrics.upstream_connections.get_or_create(&label).clone()
        };
        let label = metrics::Server::new(Arc::clone(upstream), Arc::clone(&authority));
        let is_known = metrics.upstream_healthy.get(&label).is_some();
        let healthy = metrics.upstream_healthy.get_or_create(&label).clone();
        if !is_known {
            // What is known of the same server under other settings still holds.
            healthy.set(1);
        }
        let ip = endpoint.host.parse::<IpAddr>().ok();
        let is_name = ip.is_none() && !matches!(endpoint.transport, Transport::Unix(_));
        Ok(Self {
            host: HeaderValue::from_str(&endpoint.authority)?,
            tls: match (&endpoint.transport, tls) {
                (Transport::Tls, Some(tls)) => Some(tls.towards(&endpoint.host)?),
                _ => None,
            },
            address: ip.map(|ip| SocketAddr::new(ip, endpoint.port)),
            resolved: is_name.then(Arc::default),
            tally: Tally::new(metrics, upstream, &authority),
            standing: Arc::new(Standing::new(upstream, &authority, healthy)),
            cap: Arc::new(Cap::new(config.connections)),
            idle: connections("idle"),
            active: connections("active"),
            waiting: connections("waiting"),
            endpoint: endpoint.clone(),
            authority,
        })
    }
}
