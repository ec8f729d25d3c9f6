//! What the operator's listener shows.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::GENERATION;
use super::build::Parts;
use crate::admin::{Part, Ready, Views, effective};
use crate::clock::Clock;
use crate::config::{Config, Servers};
use crate::server::Lifecycle;
use crate::telemetry::LogLevel;
use crate::telemetry::metrics::{Certificate, Metrics, Pool};

pub(super) fn views(
    parts: Arc<Parts>,
    metrics: Arc<Metrics>,
    lifecycle: watch::Receiver<Lifecycle>,
    clock: Clock,
    log_level: Option<LogLevel>,
) -> Views {
    let shared = |view: fn(&Parts) -> Value| {
        let parts = Arc::clone(&parts);
        Box::new(move || view(&parts)) as Box<dyn Fn() -> Value + Send + Sync>
    };
    let ready = {
        let parts = Arc::clone(&parts);
        Box::new(move || ready(&parts, *lifecycle.borrow()))
    };
    Views {
        ready,
        metrics: {
            let parts = Arc::clone(&parts);
            Box::new(move || {
                // These change while nothing happens.
                let now = clock.now();
                parts.revoked.sweep(now);
                // A certificate that was replaced may have had another name.
                metrics.tls_certificate_expiry_seconds.clear();
                for (name, end) in parts.tls.expiries() {
                    let gauge = metrics.tls_certificate_expiry_seconds.get_or_create_owned(&Certificate::new(name));
                    gauge.set(end.seconds() - now.seconds());
                }
                for (pool, keys) in &parts.key_sets {
                    let age = keys.status().age_seconds.unwrap_or_default();
                    let gauge = metrics.jwks_age_seconds.get_or_create_owned(&Pool::new(Arc::clone(&pool.name)));
                    gauge.set(i64::try_from(age).unwrap_or(i64::MAX));
                }
                metrics.text()
            })
        },
        routes: shared(|parts| effective::routes(&parts.config)),
        upstreams: shared(|parts| upstreams(&parts.config)),
        keys: shared(|parts| {
            let sets = parts.key_sets.iter();
            sets.map(|(pool, keys)| (pool.name.to_string(), json!(keys.status()))).collect()
        }),
        config: shared(|parts| effective::config(&parts.config, GENERATION)),
        outbox: outbox(&parts),
        set_level: Box::new(move |level| {
            if let Some(log_level) = &log_level {
                log_level.set(level);
            }
        }),
    }
}

fn ready(parts: &Parts, lifecycle: Lifecycle) -> Ready {
    let running = lifecycle == Lifecycle::Running;
    let process = Part {
        name: "process".into(),
        ready: running,
        reason: (!running).then(|| "it drains".to_owned()),
        age_seconds: None,
    };
    let keys = parts.key_sets.iter().map(|(pool, keys)| {
        let status = keys.status();
        let reason = status.last_error.or_else(|| (!status.ready).then(|| "no keys yet".to_owned()));
        Part { name: format!("keys {}", pool.name), ready: status.ready, reason, age_seconds: status.age_seconds }
    });
    std::iter::once(process).chain(keys).collect::<Vec<_>>().into()
}

fn upstreams(config: &Config) -> Value {
    let servers = |servers: &Servers| match servers {
        Servers::Whoami => json!(["whoami:"]),
        Servers::Http(endpoints) => endpoints.iter().map(|endpoint| format!("http://{}", endpoint.authority)).collect(),
    };
    config
        .upstreams
        .iter()
        .map(|upstream| (upstream.name.to_string(), json!({ "servers": servers(&upstream.servers) })))
        .collect()
}

#[cfg(feature = "devpool")]
fn outbox(parts: &Arc<Parts>) -> Option<Box<dyn Fn() -> Value + Send + Sync>> {
    if parts.devpools.is_empty() {
        return None;
    }
    let parts = Arc::clone(parts);
    Some(Box::new(move || {
        let messages = parts.devpools.iter().flat_map(|server| server.outbox().list());
        json!({ "messages": messages.collect::<Vec<_>>() })
    }))
}

#[cfg(not(feature = "devpool"))]
fn outbox(_parts: &Arc<Parts>) -> Option<Box<dyn Fn() -> Value + Send + Sync>> {
    None
}
