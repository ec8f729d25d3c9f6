//! `portcullis check --online`: are the neighbors there?

use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exit;
use crate::clock::Clock;
use crate::config::{self, Config, Pool, Servers};
use crate::outbound;
use crate::telemetry::metrics::Metrics;
use crate::token::jwks::KeySet;

/// For each neighbor.
const DEADLINE: Duration = Duration::from_secs(5);

/// Fetches every key set and connects to every server. A line for each goes to `out`.
///
/// # Errors
/// When the text cannot be written.
pub(super) fn check(path: &Path, env: &dyn Fn(&str) -> Option<String>, out: &mut dyn Write) -> io::Result<u8> {
    let Ok(loaded) = config::load(path, env) else { return Ok(exit::CONFIG) };
    let Config { pools, upstreams, .. } = loaded.config;
    let mut all_there = true;
    let mut tell = |what: String, outcome: Result<String, String>| {
        all_there &= outcome.is_ok();
        match outcome {
            Ok(text) => writeln!(out, "  ok    {what}: {text}"),
            Err(text) => writeln!(out, "  FAIL  {what}: {text}"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for pool in pools {
        let outcome = match pool.embedded {
            Some(_) => Ok("embedded, starts with the gateway".to_owned()),
            None => runtime.block_on(fetch_keys(&pool)),
        };
        tell(format!("keys of pool {}", pool.name), outcome)?;
    }
    for upstream in upstreams {
        let Servers::Http(endpoints) = &upstream.servers else { continue };
        for endpoint in endpoints {
            let outcome = connect(&endpoint.host, endpoint.port).map(|()| "reached".to_owned());
            tell(format!("upstream {} at {}", upstream.name, endpoint.authority), outcome)?;
        }
    }
    Ok(if all_there { exit::FINE } else { exit::OTHER })
}

async fn fetch_keys(pool: &Arc<Pool>) -> Result<String, String> {
    let http = outbound::client(DEADLINE, DEADLINE).map_err(|error| error.to_string())?;
    // The endpoint is asked, not the copy on disk.
    let mut uncached = Pool::clone(pool);
    uncached.keys.cache = None;
    let handle = tokio::runtime::Handle::current();
    let keys = KeySet::start(Arc::new(uncached), http, Clock::System, Arc::new(Metrics::new()), &handle);
    let outcome = tokio::time::timeout(DEADLINE, keys.ready()).await;
    let status = keys.status();
    match outcome {
        Ok(()) => Ok(format!("{} from {}", status.keys.len(), pool.jwks)),
        Err(_) => Err(status.last_error.unwrap_or_else(|| format!("no answer from {}", pool.jwks))),
    }
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match std::net::TcpStream::connect_timeout(&address, DEADLINE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}
