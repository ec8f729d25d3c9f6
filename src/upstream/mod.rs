//! Upstreams: from a vetted request to the answer of a backend.
//!
//! [`forward()`] is one exchange. It picks a server (`balance`), takes a kept connection or makes one
//! (`connections`, `connect`), frames the request anew (`request`), waits, cleans the answer
//! (`response`), and gives the connection back when the answer was read. An [`Upstream`] is shared
//! and never changes; [`Connections`] belong to one worker thread.
//!
//! Nothing here knows principals, routes or problems: what arrives has been decided on.

mod balance;
mod connect;
mod connections;
mod error;
mod forward;
mod http1;
mod request;
mod response;
mod tally;
#[cfg(test)]
mod tests;
mod timer;
mod trailers;
mod whoami;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, InvalidHeaderValue};
use prometheus_client::metrics::histogram::Histogram;

use crate::config::{self, HostHeader, Servers};
use crate::telemetry::metrics::{self, Count, Level, Metrics};

pub use connections::Connections;
pub use error::{ConnectError, Error, Invalid};
pub use forward::forward;
pub use trailers::Trailers;

use tally::Tally;

/// Whether a header is one that only the gateway sets (the identity headers).
pub type Managed = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

/// What the caller of [`forward()`] knows besides the request.
pub struct Exchange<'a> {
    /// The host that the client asked for, for `host = "preserve"`. `None` (HTTP/1.0 without
    /// `Host`): the server's own name is sent.
    pub host: Option<HeaderValue>,
    /// What the client's head said of trailers, read before the hop-by-hop headers were removed.
    pub trailers: Trailers,
    /// Trailers for which this is true are dropped; `whoami:` shows such headers as the identity.
    pub managed: &'a Managed,
    /// How long a body may stand still, in either direction.
    pub body_stall: Duration,
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("host", &self.host)
            .field("body_stall", &self.body_stall)
            .finish_non_exhaustive()
    }
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
    authority: Arc<str>,
    host: HeaderValue,
    /// `None`: a name, which has to be looked up.
    address: Option<SocketAddr>,
    tally: Tally,
    healthy: Level,
    idle: Level,
    active: Level,
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
    /// When a host cannot stand in a header; a checked configuration has none of these.
    pub fn new(config: Arc<config::Upstream>, metrics: &Metrics) -> Result<Self, InvalidHeaderValue> {
        let name = &config.name;
        let target = match &config.servers {
            Servers::Whoami => Target::Whoami(Tally::new(metrics, name, &Arc::from(whoami::NAME))),
            Servers::Http(endpoints) => Target::Http(
                endpoints.iter().map(|endpoint| Backend::new(name, endpoint, metrics)).collect::<Result<_, _>>()?,
            ),
        };
        let fixed_host = match &config.host {
            HostHeader::Fixed(host) => Some(HeaderValue::from_str(host)?),
            HostHeader::Preserve | HostHeader::Server => None,
        };
        let label = metrics::Upstream::new(Arc::clone(name));
        Ok(Self {
            seconds: metrics.upstream_seconds.get_or_create(&label).clone(),
            retries: metrics.retries.get_or_create(&label).clone(),
            target,
            fixed_host,
            config,
        })
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
    fn new(upstream: &Arc<str>, endpoint: &config::Endpoint, metrics: &Metrics) -> Result<Self, InvalidHeaderValue> {
        let authority: Arc<str> = Arc::from(endpoint.authority.as_str());
        let connections = |state: &'static str| {
            let label = metrics::ServerState::new(Arc::clone(upstream), Arc::clone(&authority), state);
            metrics.upstream_connections.get_or_create(&label).clone()
        };
        let label = metrics::Server::new(Arc::clone(upstream), Arc::clone(&authority));
        let healthy = metrics.upstream_healthy.get_or_create(&label).clone();
        healthy.set(1);
        Ok(Self {
            host: HeaderValue::from_str(&authority)?,
            address: endpoint.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, endpoint.port)),
            tally: Tally::new(metrics, upstream, &authority),
            healthy,
            idle: connections("idle"),
            active: connections("active"),
            endpoint: endpoint.clone(),
            authority,
        })
    }
}
