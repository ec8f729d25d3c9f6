//! What the operator's listener shows.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::build::Parts;
use crate::admin::{Part, Ready, Views};
use crate::clock::Clock;
use crate::config::{Access, Config, HostPattern, PathPattern, Route, Servers};
use crate::server::Lifecycle;
use crate::telemetry::LogLevel;
use crate::telemetry::metrics::{Metrics, Pool};

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
                parts.revoked.sweep(clock.now());
                for (pool, keys) in &parts.key_sets {
                    let age = keys.status().age_seconds.unwrap_or_default();
                    let gauge = metrics.jwks_age_seconds.get_or_create_owned(&Pool::new(Arc::clone(&pool.name)));
                    gauge.set(i64::try_from(age).unwrap_or(i64::MAX));
                }
                metrics.text()
            })
        },
        routes: shared(|parts| parts.config.routes.iter().map(|route| route_view(route)).collect()),
        upstreams: shared(|parts| upstreams(&parts.config)),
        keys: shared(|parts| {
            let sets = parts.key_sets.iter();
            sets.map(|(pool, keys)| (pool.name.to_string(), json!(keys.status()))).collect()
        }),
        config: shared(
            |parts| json!({ "generation": 1, "file": parts.config.source, "config": config(&parts.config) }),
        ),
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

fn route_view(route: &Route) -> Value {
    let host = match &route.host {
        HostPattern::Any => Value::Null,
        HostPattern::Exact(name) => json!(name),
        HostPattern::Wildcard(suffix) => json!(format!("*.{suffix}")),
    };
    let path = match &route.path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{path}/*"),
    };
    let access = match &route.access {
        Access::Public => json!("public"),
        Access::Optional => json!("optional"),
        Access::Required(rule) if *rule == Default::default() => json!("required"),
        Access::Required(rule) => json!({
            "groups": rule.groups,
            "scopes": rule.scopes,
            "claims": rule.claims.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "pool": rule.pool,
            "token_use": rule.token_use.as_ref().map(|uses| uses.iter().map(|token_use| token_use.as_str()).collect::<Vec<_>>()),
            "clients": rule.clients,
        }),
    };
    let methods =
        route.methods.as_ref().map(|methods| methods.iter().map(|method| method.as_str()).collect::<Vec<_>>());
    json!({
        "route": route.label, "host": host, "path": path, "methods": methods,
        "upstream": route.upstream, "access": access, "body": route.body, "line": route.line,
    })
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

/// The effective configuration. It is put together field by field, so that a secret can get in only
/// by being written down here.
fn config(config: &Config) -> Value {
    let pools: serde_json::Map<String, Value> = config
        .pools
        .iter()
        .map(|pool| {
            let view = json!({
                "id": pool.id.to_string(), "client_id": pool.client_id,
                "client_secret": pool.client_secret.as_ref().map(ToString::to_string),
                "clients": pool.clients, "issuers": pool.issuers, "endpoint": pool.endpoint, "jwks": pool.jwks,
                "embedded": pool.embedded.as_ref().map(|embedded| json!({ "address": embedded.address, "data": embedded.data })),
            });
            (pool.name.to_string(), view)
        })
        .collect();
    let listeners: Vec<String> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    json!({
        "server": { "workers": config.server.workers, "drain_seconds": config.server.drain.as_secs(), "trusted_proxies": config.server.trusted_proxies },
        "listeners": listeners,
        "admin": config.admin.address,
        "pools": pools,
        "upstreams": upstreams(config),
        "routes": config.routes.iter().map(|route| route_view(route)).collect::<Vec<_>>(),
        "auth": config.auth.as_ref().map(|auth| json!({
            "prefix": auth.prefix, "hosts": auth.hosts, "pool": auth.pool, "register": auth.register,
            "hide_existing_users": auth.hide_existing_users, "floor_ms": auth.floor.as_millis(),
        })),
        "identity": { "prefix": config.identity.prefix, "headers": config.identity.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>() },
    })
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
