//! `[upstream.NAME]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use toml::Spanned;
use toml::de::DeValue;

use super::tls::certificate;
use crate::config::diagnostic::{Diagnostic, Span, closest};
use crate::config::file::{CERTIFICATE, ENDPOINT, HEALTH, UPSTREAM, UPSTREAM_TLS};
use crate::config::section::Section;
use crate::config::validate::assertion;
use crate::config::values::{self, Invalid};
use crate::config::{Balance, Endpoint, Health, HostHeader, Protocol, Servers, Transport, Upstream, UpstreamTls};

/// The built-in server.
const WHOAMI: &str = "whoami:";
/// The words of `protocol`.
const PROTOCOL: &[(&str, Protocol)] = &[("http1", Protocol::Http1), ("h2", Protocol::Http2), ("auto", Protocol::Auto)];
/// The words of `balance`.
const BALANCE: &[(&str, Balance)] =
    &[("least", Balance::Least), ("round_robin", Balance::RoundRobin), ("hash", Balance::Hash)];

/// Every upstream, sorted by name; also those with mistakes, so that routes may name them.
pub(super) fn all(root: &Section<'_>) -> Vec<Upstream> {
    root.named("upstream", &UPSTREAM).iter().map(|(name, section)| one(name, section)).collect()
}

fn one(name: &str, section: &Section<'_>) -> Upstream {
    section.require("servers", "[\"http://127.0.0.1:3000\"]");
    let servers = servers(section);
    Upstream {
        name: Arc::from(name),
        tls: tls(section, &servers),
        servers,
        protocol: section.choice("protocol", Protocol::Http1, PROTOCOL),
        balance: section.choice("balance", Balance::Least, BALANCE),
        host: host(section),
        connect: section.positive_duration("connect", Duration::from_secs(3)),
        response_head: section.positive_duration("response_head", Duration::from_secs(60)),
        idle: section.positive_duration("idle", Duration::from_secs(60)),
        connections: section.count("connections", 0, 0..=1_000_000),
        retries: u32::try_from(section.count("retries", 1, 0..=10)).unwrap_or(1),
        keep_authorization: section.choice("authorization", false, &[("drop", false), ("keep", true)]),
        resolve: section.positive_duration("resolve", Duration::from_secs(30)),
        health: health(section),
        assertion: assertion::of_upstream(section),
    }
}

/// `servers`: texts, or tables with a `url`.
fn servers(section: &Section<'_>) -> Servers {
    let mut whoami: Option<Span> = None;
    let mut endpoints: Vec<Spanned<Endpoint>> = Vec::new();
    let elements = match section.value("servers") {
        Some(value) => match value.get_ref() {
            DeValue::Array(array) => array,
            _ => {
                section.reader.wrong_type("servers", "a list of servers", value);
                return Servers::Whoami;
            }
        },
        None => return Servers::Whoami,
    };
    if elements.is_empty() {
        let none = Diagnostic::error("`servers` is empty");
        section.reader.note(none.at(section.place_of("servers"), "requests would have nowhere to go"));
    }
    for element in elements.iter() {
        let mut weight = 1;
        let url = match element.get_ref() {
            DeValue::String(text) => {
                let unavailable = section.reader.is_unavailable(&UPSTREAM, "servers", element);
                (!unavailable).then(|| Spanned::new(element.span(), text.as_ref()))
            }
            _ => section.child_from("servers", element, &ENDPOINT, "a list of texts and tables").and_then(|server| {
                server.require("url", "\"http://127.0.0.1:3000\"");
                weight = u32::try_from(server.count("weight", 1, 1..=1000)).unwrap_or(1);
                server.text("url")
            }),
        };
        let Some(url) = url else { continue };
        if *url.get_ref() == WHOAMI {
            whoami = Some(url.span());
            continue;
        }
        match endpoint(url.get_ref(), section.reader.folder) {
            Err(invalid) => {
                section.reader.invalid(format!("`{}` is not a server", url.get_ref()), url.span(), invalid);
            }
            Ok(endpoint) => match endpoints.iter().find(|earlier| earlier.get_ref().url() == endpoint.url()) {
                None => endpoints.push(Spanned::new(url.span(), Endpoint { weight, ..endpoint })),
                Some(earlier) => {
                    let twice = Diagnostic::error(format!("the server `{}` is there twice", url.get_ref()));
                    section.reader.note(twice.at(url.span(), "the second one").at(earlier.span(), "the first one"));
                }
            },
        }
    }
    match (whoami, endpoints.first()) {
        (Some(whoami), Some(first)) => {
            let mixed = Diagnostic::error("the built-in server stands alone");
            let mixed =
                mixed.at(whoami, "`whoami:` is answered by this process").at(first.span(), "this by another server");
            section.reader.note(mixed.help("make two upstreams of them"));
            Servers::Whoami
        }
        (Some(_), None) => Servers::Whoami,
        (None, _) => Servers::Http(endpoints.into_iter().map(Spanned::into_inner).collect()),
    }
}

/// Reads `http://host:port`, `https://host:port` or `unix:PATH`; a relative path is meant from `folder`.
fn endpoint(text: &str, folder: &Path) -> Result<Endpoint, Invalid> {
    let example = "write for instance \"http://127.0.0.1:3000\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Endpoint {
            transport: Transport::Unix(values::socket_path(path, folder)?),
            host: "localhost".to_owned(),
            port: 0,
            authority: "localhost".to_owned(),
            weight: 1,
        });
    }
    if !text.contains("://") {
        let why =
            if text.starts_with("whoami") { "the built-in server is \"whoami:\"" } else { "the scheme is missing" };
        return Err(Invalid::new(why).help(example));
    }
    let uri: Uri = text.parse().map_err(|_| Invalid::new("not a URL").help(example))?;
    let (transport, default_port, authority) = match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => (Transport::Plain, 80, authority),
        (Some("https"), Some(authority)) => (Transport::Tls, 443, authority),
        _ => return Err(Invalid::new("not an http:// or https:// URL").help(example)),
    };
    if authority.as_str().contains('@') {
        return Err(Invalid::new("it has a user name"));
    }
    if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
        return Err(Invalid::new("more than host and port").help("requests keep their own path"));
    }
    let written_port = authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
    let port = match (authority.port_u16(), written_port) {
        (Some(port), _) if port > 0 => port,
        (None, None) => default_port,
        _ => return Err(Invalid::new("the port is from 1 to 65535")),
    };
    let host = values::host_name(authority.host())?;
    let authority = if port == default_port { host.clone() } else { format!("{host}:{port}") };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Endpoint { transport, host, port, authority, weight: 1 })
}

/// `[upstream.NAME.tls]`.
fn tls(upstream: &Section<'_>, servers: &Servers) -> UpstreamTls {
    let section = upstream.child("tls", &UPSTREAM_TLS);
    let is_used = matches!(servers, Servers::Http(all) if all.iter().any(|one| one.transport == Transport::Tls));
    if section.is_present() && !is_used {
        let unused = Diagnostic::warning("[upstream.NAME.tls] has no effect");
        section.reader.note(unused.at(section.place.clone(), "no server of this upstream is https://"));
    }
    let client = section.child("client", &CERTIFICATE);
    let accept_invalid = section.flag("danger_accept_invalid", false);
    if accept_invalid {
        let danger = Diagnostic::warning("any certificate is accepted");
        let danger = danger.at(section.place_of("danger_accept_invalid"), "whoever is in between can read and change");
        section.reader.note(danger.help("name the authority that signed it: ca = \"tls/internal-ca.pem\""));
    }
    let name = |text: &str| match values::host_name(text)? {
        name if name.starts_with('[') => Err(Invalid::new("an IPv6 address stands here without brackets")),
        name => Ok(name),
    };
    UpstreamTls {
        ca: section.path("ca"),
        client: certificate(&client, "client"),
        server_name: section.parsed("server_name", "a host name", name).map(Spanned::into_inner),
        danger_accept_invalid: accept_invalid,
    }
}

/// For a probe, unless it would be longer than the time between two.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `[upstream.NAME.health]`.
fn health(upstream: &Section<'_>) -> Option<Health> {
    let section = upstream.child("health", &HEALTH);
    if !section.is_present() {
        return None;
    }
    section.require("path", "\"/healthz\"");
    let path = |text: &str| match text.parse::<PathAndQuery>() {
        Ok(_) if !text.starts_with('/') => Err(Invalid::new("it begins with /")),
        Ok(_) if text.contains('#') => Err(Invalid::new("a fragment is never sent")),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Invalid::new("not a path that can be sent")),
    };
    let every = section.positive_duration("every", Duration::from_secs(5));
    let timeout =
        section.positive_duration("timeout", if every < TIMEOUT && !every.is_zero() { every } else { TIMEOUT });
    if timeout > every && !every.is_zero() {
        let long = Diagnostic::error("`timeout` is longer than `every`");
        section.reader.note(long.at(section.place_of("timeout"), "a probe ends before the next one begins"));
    }
    let count = |key: &str, default: usize| u32::try_from(section.count(key, default, 1..=100)).unwrap_or(1);
    Some(Health {
        path: section.parsed("path", "a path", path).map_or_else(|| "/".to_owned(), Spanned::into_inner),
        every,
        timeout,
        up: count("up", 2),
        down: count("down", 3),
    })
}

/// `host`: one of two words, or a fixed text.
fn host(section: &Section<'_>) -> HostHeader {
    let authority = |text: &str| {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
            _ => (text, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(Invalid::new("the port is from 0 to 65535"));
        }
        values::host_name(name).map(|_| text.to_owned())
    };
    let Some(written) = section.parsed("host", "a host", authority) else { return HostHeader::Preserve };
    match written.get_ref().as_str() {
        "preserve" => HostHeader::Preserve,
        "server" => HostHeader::Server,
        fixed => {
            if !fixed.contains(['.', ':'])
                && let Some(word) = closest(fixed, ["preserve", "server"])
            {
                let typo = Diagnostic::warning(format!("the upstream gets `{fixed}` as Host"));
                section.reader.note(typo.at(written.span(), format!("did you mean \"{word}\"?")));
            }
            HostHeader::Fixed(fixed.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{endpoint as at, *};

    #[test]
    fn endpoints_know_what_belongs_in_a_host_header() {
        let endpoint = |text: &str| at(text, Path::new("/etc/portcullis"));
        for (text, host, port, authority) in [
            ("http://127.0.0.1:3000", "127.0.0.1", 3000, "127.0.0.1:3000"),
            ("http://App.Internal/", "app.internal", 80, "app.internal"),
            ("http://app:80", "app", 80, "app"),
            ("http://[::1]:8080", "::1", 8080, "[::1]:8080"),
            ("http://[::1]", "::1", 80, "[::1]"),
            ("https://app", "app", 443, "app"),
            ("https://app:80", "app", 80, "app:80"),
            ("http://app:443", "app", 443, "app:443"),
        ] {
            let transport = if text.starts_with("https") { Transport::Tls } else { Transport::Plain };
            let expected =
                Endpoint { transport, host: host.to_owned(), port, authority: authority.to_owned(), weight: 1 };
            assert_eq!(endpoint(text), Ok(expected), "{text}");
        }
        for text in [
            "app:3000",
            "ftp://app",
            "http://app/v1",
            "http://a@app",
            "http://app:0",
            "http://app:70000",
            "http://",
            "http://app:",
            "http://app?x",
            "unix:",
            &format!("unix:/{}", "x".repeat(107)),
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        assert_eq!(endpoint("unix:run/app.sock").unwrap().url(), "unix:/etc/portcullis/run/app.sock");
        assert_eq!(endpoint("unix:/run/app.sock").unwrap().label(), "unix:/run/app.sock");
    }
}
