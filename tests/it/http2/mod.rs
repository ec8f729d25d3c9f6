//! HTTP/2 by raw frames: the protocol, its attacks, and the lessons of other gateways over it.

mod attacks;
mod cases;
mod conformance;
mod exchanges;
mod identity_lessons;
mod lessons;

use crate::support::h2::H2;
use crate::support::{Portcullis, Upstream, route};

/// The listener of these tests.
const H2C: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";

/// A gateway that speaks HTTP/2 with one public route to this upstream, and these further lines.
async fn in_front_of(upstream: &Upstream, extra: &str) -> Portcullis {
    let routes = route("/*", "app", "\"public\"") + &route("/small/*", "app", "\"public\"") + "body = \"1KiB\"\n";
    Portcullis::start(&(extra.to_owned() + H2C + &upstream.toml("app") + &routes)).await
}

/// `[server]` with other limits; what a limit is not given keeps its default.
fn limits(lines: &str) -> String {
    format!("[server]\nworkers = 1\ndrain = \"2s\"\n[server.limits]\n{lines}\n")
}

async fn open(gate: &Portcullis) -> H2 {
    H2::open(gate.address()).await
}
