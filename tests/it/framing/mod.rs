//! RFC 9112 by raw bytes, on both sides of the gateway.

mod bodies;
mod cases;
mod conformance;
mod connections;
mod heads;
mod timeouts;
mod upstreams;

use crate::support::{FakePool, Portcullis, Upstream, route};

/// A gateway with one public route to this upstream, and these further lines of config.
async fn in_front_of(upstream: &Upstream, extra: &str) -> Portcullis {
    let pool = FakePool::start().await;
    let routes = route("/*", "app", "\"public\"") + &route("/small/*", "app", "\"public\"") + "body = \"1KiB\"\n";
    Portcullis::start(&(extra.to_owned() + &pool.toml("main") + &upstream.toml("app") + &routes)).await
}

/// `[server]` with other limits; what a limit is not given keeps its default.
fn limits(lines: &str) -> String {
    format!("[server]\nworkers = 1\ndrain = \"2s\"\n[server.limits]\n{lines}\n")
}
