//! What the operator's listener shows.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::build::Parts;
use super::reload::{Cause, Live, Reloaded};
use crate::admin::{Part, Ready, View, Views, effective};
use crate::server::Lifecycle;
use crate::telemetry::metrics::{Certificate, Pool};
use crate::upstream::Upstream;

pub(super) fn views(live: &Arc<Live>, lifecycle: watch::Receiver<Lifecycle>) -> Views {
    let of_parts = |view: fn(&Parts) -> Value| {
        let live = Arc::clone(live);
        Box::new(move || view(&live.parts.load())) as View
    };
    let clones = || Arc::clone(live);
    let (to_ready, to_metrics, to_outbox, to_reload, to_level) = (clones(), clones(), clones(), clones(), clones());
    Views {
        ready: Box::new(move || ready(&to_ready, *lifecycle.borrow())),
        metrics: Box::new(move || metrics(&to_metrics)),
        routes: of_parts(|parts| effective::routes(&parts.config)),
        upstreams: of_parts(|parts| {
            let status = |upstream: &Upstream| json!({ "servers": upstream.status() });
            parts.upstreams().map(|one| (one.config().name.to_string(), status(one))).collect()
        }),
        keys: of_parts(|parts| {
            let sets = parts.key_sets.iter();
            sets.map(|(pool, keys)| (pool.name.to_string(), json!(keys.status()))).collect()
        }),
        config: of_parts(|parts| effective::config(&parts.config, parts.generation)),
        outbox: Box::new(move || outbox(&to_outbox.parts.load())),
        reload: Box::new(move || {
            let reload = Arc::clone(&to_reload).reload(Cause::Request);
            Box::pin(async { reload.await.map(|reloaded| show_reloaded(&reloaded)).map_err(|error| error.to_string()) })
        }),
        set_level: Box::new(move |level| {
            if let Some(log_level) = &to_level.log_level {
                log_level.set(level);
            }
        }),
    }
}

fn metrics(live: &Live) -> String {
    // These change while nothing happens.
    live.base.revoked.sweep(live.base.clock.now());
    let (metrics, parts, now) = (&live.base.metrics, live.parts.load(), live.base.clock.now());
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
}

fn ready(live: &Live, lifecycle: Lifecycle) -> Ready {
    let running = lifecycle == Lifecycle::Running;
    let process = Part {
        name: "process".into(),
        ready: running,
        reason: (!running).then(|| "it drains".to_owned()),
        age_seconds: None,
    };
    let parts = live.parts.load();
    let config = Part {
        name: "config".into(),
        // What is in force serves, whatever the file says by now.
        ready: true,
        reason: live.failure(),
        age_seconds: Some(live.base.clock.now().since(parts.since).as_secs()),
    };
    let keys = parts.key_sets.iter().map(|(pool, keys)| {
        let status = keys.status();
        let reason = status.last_error.or_else(|| (!status.ready).then(|| "no keys yet".to_owned()));
        Part { name: format!("keys {}", pool.name), ready: status.ready, reason, age_seconds: status.age_seconds }
    });
    [process, config].into_iter().chain(keys).collect::<Vec<_>>().into()
}

fn show_reloaded(reloaded: &Reloaded) -> Value {
    let Reloaded { generation, changed, needs_restart } = reloaded;
    json!({ "generation": generation, "changed": changed, "needs_restart": needs_restart })
}

#[cfg(feature = "devpool")]
fn outbox(parts: &Parts) -> Option<Value> {
    let messages = parts.embedded.iter().flat_map(|embedded| embedded.server.outbox().list());
    (!parts.embedded.is_empty()).then(|| json!({ "messages": messages.collect::<Vec<_>>() }))
}

#[cfg(not(feature = "devpool"))]
fn outbox(_parts: &Parts) -> Option<Value> {
    None
}
