//! `portcullis check --online`: are the neighbors there?

use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exit;
use crate::clock::Clock;
use crate::config::{self, Config, Pool, Servers, Transport};
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
            let outcome = match &endpoint.transport {
                Transport::Unix(path) => UnixStream::connect(path).map(drop).map_err(|error| error.to_string()),
                Transport::Plain | Transport::Tls => connect(&endpoint.host, endpoint.port),
            };
            let outcome = outcome.map(|()| "reached".to_owned());
            tell(format!("upstream {} at {}", upstream.name, endpoint.label()), outcome)?;
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

#[cfg(test)]
#[cfg(feature = "devpool")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The exit code and the text for a file with these upstream servers and an embedded pool.
    fn check_servers(servers: &str) -> (u8, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "version = 1\n[[listener]]\naddress = \"127.0.0.1:8080\"\n\
             [pool.main]\nid = \"eu-west-1_AbC123xyz\"\nclient_id = \"4hrtnexample\"\n\
             [pool.main.embedded]\naddress = \"127.0.0.1:0\"\n\
             [upstream.app]\nservers = [{servers}]\n[[route]]\npath = \"/*\"\nupstream = \"app\"\n"
        );
        std::fs::write(file.path(), text).unwrap();
        let mut out = Vec::new();
        let code = check(file.path(), &|_| None, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn neighbors_that_are_there_are_fine() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap();
        let (code, text) = check_servers(&format!("\"http://{authority}\""));
        assert!(text.contains(&format!("ok    upstream app at {authority}: reached")), "{text}");
        assert!(text.contains("ok    keys of pool main: embedded"), "{text}");
        assert_eq!(code, exit::FINE);
        assert_eq!(check_servers("\"whoami:\"").0, exit::FINE, "what is built in is always there");
    }

    #[test]
    fn one_that_is_not_there_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        // Bound but not listening: nobody else can take the port, and nobody answers.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let gone = silent.local_addr().unwrap().as_socket().unwrap();
        let (code, text) = check_servers(&format!("\"http://{gone}\", \"http://{there}\""));
        assert!(text.contains(&format!("FAIL  upstream app at {gone}: ")), "{text}");
        assert!(text.contains(&format!("ok    upstream app at {there}: ")), "the others are tried: {text}");
        assert_eq!(code, exit::OTHER);
    }

    #[test]
    fn a_broken_file_is_the_other_checks_business() {
        let mut out = Vec::new();
        let code = check(Path::new("/nonexistent/portcullis.toml"), &|_| None, &mut out).unwrap();
        assert_eq!((code, out.is_empty()), (exit::CONFIG, true));
    }
}
