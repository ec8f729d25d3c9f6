//! The metrics of the contract, in one registry.
//!
//! Counters on the hot path are resolved once (when a snapshot is built) and held; everybody else
//! looks a label set up in its family. No label is ever text that a stranger chose.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A counter.
pub type Count = Counter<u64, AtomicU64>;
/// A gauge of whole numbers.
pub type Level = Gauge<i64, AtomicI64>;
/// Histograms by label set.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Declares a label set with text values.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name {
            $(#[doc = concat!("`", stringify!($field), "`")] pub $field: Arc<str>),+
        }
        impl $name {
            /// A label set from its values, in the order of the fields.
            pub fn new($($field: impl Into<Arc<str>>),+) -> Self {
                Self { $($field: $field.into()),+ }
            }
        }
    )+};
}

labels! {
    /// Requests by route and status code.
    RouteCode { route, code }
    /// By route.
    Route { route }
    /// By listener.
    Listener { listener }
    /// Connections that were not taken (`untrusted`, `missing`, `malformed`, `late`).
    ListenerReason { listener, reason }
    /// Authentication by outcome (`anonymous`, `accepted`, `refused`, `denied`) and exact reason.
    Auth { outcome, reason }
    /// By outcome alone.
    Outcome { outcome }
    /// Key-set fetches.
    PoolOutcome { pool, outcome }
    /// By user pool.
    Pool { pool }
    /// Exchanges with one server of an upstream.
    ServerCode { upstream, server, code }
    /// By upstream.
    Upstream { upstream }
    /// By server of an upstream.
    Server { upstream, server }
    /// Connections to one server by state (`idle`, `active`).
    ServerState { upstream, server, state }
    /// Calls to a user pool.
    Provider { pool, operation, outcome }
    /// By Cognito operation.
    Operation { operation }
    /// By limit: the route's label.
    Limit { limit }
    /// By kind of revocation.
    Kind { kind }
    /// By exact reason.
    Reason { reason }
    /// By certificate.
    Certificate { name }
}

/// Every metric, by the name it has after the prefix `portcullis_`.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the contract's; their help texts stand in `Metrics::new`")]
pub struct Metrics {
    registry: Registry,
    pub requests: Family<RouteCode, Count>,
    pub request_seconds: Histograms<Route>,
    pub requests_in_flight: Level,
    pub connections: Family<Listener, Level>,
    pub proxy_refused: Family<ListenerReason, Count>,
    pub auth: Family<Auth, Count>,
    pub token_cache: Family<Outcome, Count>,
    pub jwks_fetch: Family<PoolOutcome, Count>,
    pub jwks_age_seconds: Family<Pool, Level>,
    pub jwks_keys: Family<Pool, Level>,
    pub upstream_requests: Family<ServerCode, Count>,
    pub upstream_seconds: Histograms<Upstream>,
    pub upstream_healthy: Family<Server, Level>,
    pub upstream_connections: Family<ServerState, Level>,
    pub retries: Family<Upstream, Count>,
    pub provider_requests: Family<Provider, Count>,
    pub provider_seconds: Histograms<Operation>,
    pub rate_limited: Family<Limit, Count>,
    pub revocations: Family<Kind, Level>,
    pub streams_ended: Family<Reason, Count>,
    pub config_generation: Level,
    pub tls_certificate_expiry_seconds: Family<Certificate, Level>,
    pub config_reload: Family<Outcome, Count>,
    pub access_log_dropped: Count,
    pub panics: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("portcullis");
        let build = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What is running", Info::new(build));
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        Self {
            requests: register!("requests", "Requests answered, by route and status", Family::default()),
            request_seconds: register!(
                "request_seconds",
                "Seconds from the end of a request's head to the last byte of its answer",
                Histograms::new_with_constructor(seconds)
            ),
            requests_in_flight: register!("requests_in_flight", "Requests being answered", Level::default()),
            connections: register!("connections", "Open client connections", Family::default()),
            proxy_refused: register!(
                "proxy_refused",
                "Connections closed for want of a PROXY header that is believed",
                Family::default()
            ),
            auth: register!("auth", "Decisions on credentials, with the exact reason", Family::default()),
            token_cache: register!("token_cache", "Look-ups of verified tokens", Family::default()),
            jwks_fetch: register!("jwks_fetch", "Fetches of a key set", Family::default()),
            jwks_age_seconds: register!("jwks_age_seconds", "Seconds since a key set was confirmed", Family::default()),
            jwks_keys: register!("jwks_keys", "Usable keys in a key set", Family::default()),
            upstream_requests: register!("upstream_requests", "Exchanges with upstream servers", Family::default()),
            upstream_seconds: register!(
                "upstream_seconds",
                "Seconds to an upstream's response head",
                Histograms::new_with_constructor(seconds)
            ),
            upstream_healthy: register!("upstream_healthy", "1 while a server is in use", Family::default()),
            upstream_connections: register!(
                "upstream_connections",
                "Connections to upstream servers",
                Family::default()
            ),
            retries: register!("retries", "Exchanges that were tried again", Family::default()),
            provider_requests: register!("provider_requests", "Calls to a user pool", Family::default()),
            provider_seconds: register!(
                "provider_seconds",
                "Seconds a call to a user pool took",
                Histograms::new_with_constructor(seconds)
            ),
            rate_limited: register!("rate_limited", "Requests refused by a rate limit", Family::default()),
            revocations: register!("revocations", "Revocations in force", Family::default()),
            streams_ended: register!("streams_ended", "Streams that outlived their permission", Family::default()),
            config_generation: register!("config_generation", "Number of the configuration in force", Level::default()),
            tls_certificate_expiry_seconds: register!(
                "tls_certificate_expiry_seconds",
                "Seconds until a certificate of ours expires",
                Family::default()
            ),
            config_reload: register!("config_reload", "Configurations read again", Family::default()),
            access_log_dropped: register!(
                "access_log_dropped",
                "Access lines lost because the writer was behind",
                Count::default()
            ),
            panics: register!("panics", "Requests that ended in a panic", Count::default()),
            registry,
        }
    }

    /// The OpenMetrics text that `GET /metrics` answers with.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ok = encode(&mut text, &self.registry).is_ok();
        text
    }
}

/// The metrics of one route, held: resolved once when a snapshot is built, then a few nanoseconds
/// a request.
#[derive(Debug)]
pub struct RouteMetrics {
    label: Arc<str>,
    seconds: Histogram,
    requests: Family<RouteCode, Count>,
    /// Held counters by the status's first digit and its last two, each made when it first occurs:
    /// there are 900 statuses, and a route sees a handful.
    codes: [OnceLock<Box<[OnceLock<Count>; 100]>>; 10],
}

impl RouteMetrics {
    /// The handles for the route that logs and metrics call `label`. Two of the same label (before
    /// and after a reload) count on in the same places.
    pub fn new(metrics: &Metrics, label: impl Into<Arc<str>>) -> Self {
        let label = label.into();
        Self {
            seconds: metrics.request_seconds.get_or_create_owned(&Route::new(label.clone())),
            requests: metrics.requests.clone(),
            codes: [const { OnceLock::new() }; 10],
            label,
        }
    }

    /// How logs and metrics call the route.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Counts one answered request.
    pub fn observe(&self, status: StatusCode, seconds: f64) {
        self.seconds.observe(seconds);
        let (class, rest) = (usize::from(status.as_u16() / 100), usize::from(status.as_u16() % 100));
        let Some(class) = self.codes.get(class) else { return };
        let class = class.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        let Some(count) = class.get(rest) else { return };
        count
            .get_or_init(|| self.requests.get_or_create_owned(&RouteCode::new(self.label.clone(), status.as_str())))
            .inc();
    }
}

/// Buckets from half a millisecond to a minute.
fn seconds() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        metrics.requests.get_or_create(&RouteCode::new("/api/*", "200")).inc();
        metrics.jwks_age_seconds.get_or_create(&Pool::new("main")).set(3);
        let text = metrics.text();
        assert!(text.contains("portcullis_requests_total{route=\"/api/*\",code=\"200\"} 1"), "{text}");
        assert!(text.contains("portcullis_jwks_age_seconds{pool=\"main\"} 3"), "{text}");
        assert!(text.contains("portcullis_build_info{version="), "{text}");
    }

    #[test]
    fn routes_of_the_same_label_count_in_the_same_places() {
        let metrics = Metrics::new();
        let (before, after) = (RouteMetrics::new(&metrics, "/*"), RouteMetrics::new(&metrics, "/*"));
        before.observe(StatusCode::OK, 0.1);
        after.observe(StatusCode::OK, 0.2);
        after.observe(StatusCode::from_u16(999).unwrap(), 0.2);
        let text = metrics.text();
        assert!(text.contains("portcullis_requests_total{route=\"/*\",code=\"200\"} 2"), "{text}");
        assert!(text.contains("portcullis_requests_total{route=\"/*\",code=\"999\"} 1"), "{text}");
        assert!(text.contains("portcullis_request_seconds_count{route=\"/*\"} 3"), "{text}");
    }

    /// One event on each metric, because a family shows nothing before its first.
    fn touched() -> Metrics {
        let metrics = Metrics::new();
        // No `..`: a metric that is added has to be added here.
        let Metrics {
            registry: _,
            requests,
            request_seconds,
            requests_in_flight: _,
            connections,
            proxy_refused,
            auth,
            token_cache,
            jwks_fetch,
            jwks_age_seconds,
            jwks_keys,
            upstream_requests,
            upstream_seconds,
            upstream_healthy,
            upstream_connections,
            retries,
            provider_requests,
            provider_seconds,
            rate_limited,
            revocations,
            streams_ended,
            config_generation: _,
            tls_certificate_expiry_seconds,
            config_reload,
            access_log_dropped: _,
            panics: _,
        } = &metrics;
        drop(requests.get_or_create(&RouteCode::new("a", "b")));
        drop(request_seconds.get_or_create(&Route::new("a")));
        drop(connections.get_or_create(&Listener::new("a")));
        drop(proxy_refused.get_or_create(&ListenerReason::new("a", "b")));
        drop(auth.get_or_create(&Auth::new("a", "b")));
        drop(token_cache.get_or_create(&Outcome::new("a")));
        drop(jwks_fetch.get_or_create(&PoolOutcome::new("a", "b")));
        drop(jwks_age_seconds.get_or_create(&Pool::new("a")));
        drop(jwks_keys.get_or_create(&Pool::new("a")));
        drop(upstream_requests.get_or_create(&ServerCode::new("a", "b", "c")));
        drop(upstream_seconds.get_or_create(&Upstream::new("a")));
        drop(upstream_healthy.get_or_create(&Server::new("a", "b")));
        drop(upstream_connections.get_or_create(&ServerState::new("a", "b", "c")));
        drop(retries.get_or_create(&Upstream::new("a")));
        drop(provider_requests.get_or_create(&Provider::new("a", "b", "c")));
        drop(provider_seconds.get_or_create(&Operation::new("a")));
        drop(config_reload.get_or_create(&Outcome::new("a")));
        drop(rate_limited.get_or_create(&Limit::new("a")));
        drop(revocations.get_or_create(&Kind::new("a")));
        drop(streams_ended.get_or_create(&Reason::new("a")));
        drop(tls_certificate_expiry_seconds.get_or_create(&Certificate::new("a")));
        metrics
    }

    /// `name type labels` of every metric that the text shows.
    fn shown(text: &str) -> Vec<String> {
        let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let row = |(family, kind): (&str, &str)| {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                "histogram" => "_count",
                _ => "",
            };
            let sample = format!("{family}{suffix}");
            let labels = text.lines().find_map(|line| line.strip_prefix(&sample)?.strip_prefix('{')?.split('}').next());
            let labels: Vec<_> = labels.into_iter().flat_map(|text| text.split(',')).collect();
            let labels: Vec<_> = labels.iter().filter_map(|label| label.split('=').next()).collect();
            format!("{} {kind} {}", if kind == "histogram" { family } else { &sample }, labels.join(" "))
        };
        kinds.map(row).collect()
    }

    /// The same of the table in the documentation.
    fn documented() -> Vec<String> {
        let rows = include_str!("../../docs/METRICS.md").lines().filter(|line| line.starts_with("| `portcullis_"));
        let cells = rows.map(|row| row.split('|').skip(1).map(|cell| cell.trim().replace(['`', ','], "")));
        let rows = cells.filter_map(|mut cells| {
            let (name, kind, labels) = (cells.next()?, cells.next()?, cells.next()?);
            Some(format!("{name} {kind} {labels}"))
        });
        // Alerts have two columns.
        rows.filter(|row| ["counter", "gauge", "histogram", "info"].iter().any(|kind| row.contains(kind))).collect()
    }

    #[test]
    fn the_documentation_lists_every_metric_with_its_type_and_labels() {
        let (mut shown, mut documented) = (shown(&touched().text()), documented());
        shown.sort();
        documented.sort();
        assert_eq!(shown, documented);
    }
}
