//! From the file to what it means. Nothing stops at the first mistake: each section notes its own
//! and goes on with defaults, and a `Config` leaves this module only if none was noted.

mod assertion;
mod edits;
mod identity;
mod pool;
mod route;
mod tls;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use crate::config::diagnostic::{Diagnostic, Report, Span};
use crate::config::file::{ADMIN, LIMITS, LISTENER, LOG, ROOT, ROUTE, SERVER, STORE};
use crate::config::section::{Reader, Section};
use crate::config::values::Invalid;
use crate::config::{Admin, Config, Contents, Limits, ListenAddress, Listener, Loaded, Log, LogFormat, Server, values};
use crate::http::TrustedProxies;

/// Reads a configuration from its text. `path` is how the file is called, and its folder is what
/// relative paths are relative to; `env` looks up environment variables. Nothing else is looked at
/// but the files of secrets.
///
/// # Errors
/// All mistakes at once.
pub fn parse(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    parse_and_note(text, path, env, &mut Contents::default())
}

/// The same, and notes what was read from files of secrets.
pub(super) fn parse_and_note(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    contents: &mut Contents,
) -> Result<Loaded, Report> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What could be recovered would only add mistakes that are none.
        let found = syntax
            .iter()
            .map(|error| Diagnostic::error("not valid TOML").at(error.span().unwrap_or_default(), error.message()));
        return Err(Report::new(path, text, found.collect()));
    }
    let reader = Reader::new(path.parent().unwrap_or(Path::new("")), env);
    let root = Section::open(&reader, &ROOT, 0..0, table.get_ref());
    let config = whole(&root, text, path);
    let (found, secrets) = reader.finish();
    contents.add(secrets);
    let report = Report::new(path, text, found);
    if report.errors() > 0 { Err(report) } else { Ok(Loaded { config, warnings: report }) }
}

/// The file, section by section, and then what spans sections.
fn whole(root: &Section<'_>, text: &str, path: &Path) -> Config {
    version(root);
    let server = server(&root.child("server", &SERVER));
    let mut bound = Vec::new();
    let listeners = listeners(root, &server.trusted_proxies, &mut bound);
    let admin = admin(&root.child("admin", &ADMIN), &mut bound);
    let pools = pool::all(root, &mut bound);
    no_address_twice(root, &bound);
    let upstreams = upstream::all(root);
    let auth = identity::auth(root, &pools);
    let identity = identity::identity(root);
    let assertions = assertion::assertions(root, auth.as_ref());
    let asks = |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.authorities().is_some());
    let names = route::Names {
        asks_certificates: listeners.iter().any(asks),
        identity: &identity,
        pools: pools.iter().map(|pool| &*pool.name).collect(),
        upstreams: upstreams.iter().map(|upstream| &*upstream.name).collect(),
    };
    let routes = root.children("route", &ROUTE);
    let routes: Vec<route::Placed> =
        routes.iter().map(|section| route::one(section, &names, &pools, &server.limits, text)).collect();
    route::no_two_tie(root, &routes);
    route::none_in_auth(root, &routes, auth.as_ref());
    route::none_rewritten_into_stricter(root, &routes);
    route::websockets_over_http1(root, &routes, &upstreams);
    // The keys of [store] are in the table of what is not available: opening it is the whole check.
    let _checked = root.child("store", &STORE);
    Config {
        source: path.to_owned(),
        server,
        listeners,
        admin,
        pools: pools.into_iter().map(Arc::new).collect(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
        routes: routes.into_iter().filter_map(|route| route.meaning).map(Arc::new).collect(),
        auth,
        identity,
        assertions,
        log: log(&root.child("log", &LOG)),
    }
}

/// The format of the file itself.
fn version(root: &Section<'_>) {
    root.require("version", "1");
    let Some(value) = root.value("version") else { return };
    let integer = value.get_ref().as_integer();
    if !integer.is_some_and(|integer| integer.radix() == 10 && integer.as_str() == "1") {
        let unknown = Diagnostic::error("this version of the file format is not known");
        root.reader.note(unknown.at(value.span(), "must be 1").help("write version = 1"));
    }
}

/// `[server]` and `[server.limits]`.
fn server(section: &Section<'_>) -> Server {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = section.count("workers", 0, 0..=1024);
    Server {
        workers: if workers == 0 { cores } else { workers },
        drain: section.positive_duration("drain", Duration::from_secs(30)),
        trusted_proxies: trusted_proxies(section),
        limits: limits(&section.child("limits", &LIMITS)),
    }
}

/// Networks, and `unix:` for whoever may connect to a unix socket.
fn trusted_proxies(section: &Section<'_>) -> TrustedProxies {
    let mut trusted = TrustedProxies::default();
    let parse = |text: &str| match text.strip_prefix("unix:") {
        None => values::network(text).map(Some),
        Some("") => Ok(None),
        Some(_) => {
            Err(Invalid::new("sockets are not told apart").help("write \"unix:\", which stands for all of them"))
        }
    };
    for proxy in section.list("trusted_proxies", "a network", parse).unwrap_or_default() {
        let span = proxy.span();
        let Some(network) = proxy.into_inner() else {
            trusted.unix = true;
            continue;
        };
        if network.prefix_len() == 0 {
            let everybody = Diagnostic::warning("every client is believed to be a proxy");
            let help = "anyone can then claim any address: name the networks of your proxies";
            section.reader.note(everybody.at(span, "every address").help(help));
        }
        trusted.networks.push(network);
    }
    trusted
}

fn limits(section: &Section<'_>) -> Limits {
    let head_size = section.size("head_size").map_or(32 << 10, |size| {
        let (span, bytes) = (size.span(), size.into_inner());
        // Below that common browsers fail, above it one client could take too much memory.
        if !(1 << 10..=1 << 20).contains(&bytes) {
            let out = Diagnostic::error("`head_size` is out of range");
            section.reader.note(out.at(span, "must be from 1KiB to 1MiB"));
        }
        bytes
    });
    Limits {
        connections: section.count("connections", 20_000, 1..=10_000_000),
        handshake: section.positive_duration("handshake", Duration::from_secs(10)),
        request_head: section.positive_duration("request_head", Duration::from_secs(10)),
        idle: section.positive_duration("idle", Duration::from_secs(75)),
        head_size: usize::try_from(head_size).unwrap_or(usize::MAX),
        headers: section.count("headers", 100, 1..=256),
        body: section.size("body").map(Spanned::into_inner).filter(|bytes| *bytes > 0),
        body_stall: section.positive_duration("body_stall", Duration::from_secs(60)),
        // With none nothing could be asked; each one more may make us hold a head and a buffer.
        h2_streams: u32::try_from(section.count("h2_streams", 128, 1..=1000)).unwrap_or(u32::MAX),
    }
}

/// An address that this process binds, and what for.
struct Bound {
    address: ListenAddress,
    span: Span,
    what: String,
}

/// `[[listener]]`.
fn listeners(root: &Section<'_>, trusted: &TrustedProxies, bound: &mut Vec<Bound>) -> Vec<Listener> {
    if root.value("listener").is_none() {
        let none = Diagnostic::error("there is no [[listener]]").at(0..0, "nothing to serve on");
        root.reader.note(none.help("add [[listener]] with address = \"127.0.0.1:8080\""));
    }
    let mut listeners = Vec::new();
    for section in root.children("listener", &LISTENER) {
        section.require("address", "\"127.0.0.1:8080\"");
        let h2c = section.flag("h2c", false);
        let connections = Some(section.count("connections", 0, 0..=10_000_000)).filter(|most| *most > 0);
        let proxy_protocol = section.flag("proxy_protocol", false);
        let (tls, redirect_http_from) = match tls::tls(&section, h2c, bound) {
            Some((tls, redirect)) => (Some(tls), redirect),
            None => (None, None),
        };
        let parse = |text: &str| match text.split_once(':') {
            Some(("unix", path)) => values::socket_path(path, section.reader.folder).map(ListenAddress::Unix),
            Some(("systemd", name)) => values::descriptor_name(name).map(ListenAddress::Inherited),
            _ => values::address(text).map(ListenAddress::Tcp),
        };
        let Some(address) = section.parsed("address", "an address to listen on", parse) else { continue };
        let (span, address) = (address.span(), address.into_inner());
        if proxy_protocol {
            somebody_is_believed(&section, &address, trusted);
        }
        bound.push(Bound { address: address.clone(), span, what: "a listener".to_owned() });
        let h2c = h2c && tls.is_none();
        listeners.push(Listener { address, connections, proxy_protocol, h2c, tls, redirect_http_from });
    }
    listeners
}

/// Whether there is anybody whose PROXY header would be believed: without one nobody could connect.
fn somebody_is_believed(section: &Section<'_>, address: &ListenAddress, trusted: &TrustedProxies) {
    let (is_there, example) = match address {
        ListenAddress::Tcp(_) => (!trusted.networks.is_empty(), "10.0.0.0/8"),
        ListenAddress::Unix(_) => (trusted.unix, "unix:"),
        // Of either kind.
        ListenAddress::Inherited(_) => (!trusted.networks.is_empty() || trusted.unix, "10.0.0.0/8"),
    };
    if !is_there {
        let nobody = Diagnostic::error("nobody's PROXY header would be believed");
        let nobody = nobody.at(section.place_of("proxy_protocol"), "asks every peer for one");
        section.reader.note(nobody.help(format!("name the proxies in [server]: trusted_proxies = [\"{example}\"]")));
    }
}

/// `[admin]`.
fn admin(section: &Section<'_>, bound: &mut Vec<Bound>) -> Admin {
    let default = SocketAddr::from(([127, 0, 0, 1], 9901));
    let written = section.parsed("address", "an address to listen on", values::address);
    let span = section.place_of("address");
    let address = written.map_or(default, Spanned::into_inner);
    if !address.ip().is_loopback() {
        let open = Diagnostic::warning("the admin listener is reachable from other machines");
        let help =
            "whoever reaches it sees the configuration and can reload it: guard it by a firewall or use 127.0.0.1";
        section.reader.note(open.at(span.clone(), "not a loopback address").help(help));
    }
    bound.push(Bound { address: address.into(), span, what: "the admin listener".to_owned() });
    Admin { address }
}

/// Whether everything that is bound can be bound at the same time.
fn no_address_twice(root: &Section<'_>, bound: &[Bound]) {
    for (index, second) in bound.iter().enumerate() {
        let Some(first) = bound.iter().take(index).find(|first| collide(&first.address, &second.address)) else {
            continue;
        };
        let (first, second) = if first.span.start > second.span.start { (second, first) } else { (first, second) };
        let twice = Diagnostic::error(format!("{} is taken", second.address));
        let twice = twice.at(second.span.clone(), format!("for {}", second.what));
        let twice = if first.span.is_empty() {
            twice.help(format!("{} is there by default: give it another address", first.what))
        } else {
            twice.at(first.span.clone(), format!("by {}", first.what))
        };
        root.reader.note(twice);
    }
}

/// Whether the second of two addresses could not be bound. Port 0 is always free.
fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) = (a, b) else { return a == b };
    let overlap = |a: IpAddr, b: IpAddr| a == b || (a.is_ipv4() == b.is_ipv4() && a.is_unspecified());
    a.port() != 0 && a.port() == b.port() && (overlap(a.ip(), b.ip()) || overlap(b.ip(), a.ip()))
}

/// `[log]`.
fn log(section: &Section<'_>) -> Log {
    use tracing::Level;
    let levels = [
        ("trace", Level::TRACE),
        ("debug", Level::DEBUG),
        ("info", Level::INFO),
        ("warn", Level::WARN),
        ("error", Level::ERROR),
    ];
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: section.choice("level", Level::INFO, &levels),
        format: section.choice("format", LogFormat::Auto, &formats),
        access: section.flag("access", true),
    }
}

#[cfg(test)]
mod tests;
