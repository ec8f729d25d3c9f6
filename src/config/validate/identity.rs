//! `[auth]` and `[identity]`.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Diagnostic, closest};
use crate::config::file::{AUTH, CORS, IDENTITY};
use crate::config::section::Section;
use crate::config::validate::route::name_of;
use crate::config::values::{self, Invalid};
use crate::config::{Auth, ClaimSource, Cors, Identity, Pool, path};

/// The pool that serves the identity routes when the file names none.
const DEFAULT_POOL: &str = "main";

/// `[auth]`; `None` when no pool could serve it.
pub(super) fn auth(root: &Section<'_>, pools: &[Pool]) -> Option<Auth> {
    let section = root.child("auth", &AUTH);
    let names: Vec<&str> = pools.iter().map(|pool| &*pool.name).collect();
    let default = match names.as_slice() {
        [only] => Some(*only),
        several => several.iter().copied().find(|name| *name == DEFAULT_POOL),
    };
    let pool = name_of(&section, "pool", &names).or(default);
    if section.is_present() && pool.is_none() {
        let nobody = Diagnostic::error("[auth] has no user pool to serve");
        let nobody =
            nobody.at(section.place.clone(), format!("`pool` is missing, and no pool is called `{DEFAULT_POOL}`"));
        section.reader.note(nobody.help("add pool = \"NAME\", the NAME of a [pool.NAME]"));
    }
    let prefix = section.parsed("prefix", "a path for the identity routes", path::prefix);
    let hosts = section.list("hosts", "a host name", values::host_name).unwrap_or_default();
    // Built in any case, so that mistakes in it are found without a pool, too.
    let auth = Auth {
        prefix: prefix.map_or_else(|| "/auth".to_owned(), Spanned::into_inner),
        hosts: hosts.into_iter().map(Spanned::into_inner).collect(),
        pool: Arc::from(pool.unwrap_or_default()),
        register: section.flag("register", true),
        hide_existing_users: section.flag("hide_existing_users", true),
        floor: section.duration("floor", Duration::from_millis(300)),
        cors: cors(&section),
    };
    pool.is_some().then_some(auth)
}

/// `cors`.
fn cors(section: &Section<'_>) -> Option<Cors> {
    let table = section.child("cors", &CORS);
    if !table.is_present() {
        return None;
    }
    table.require("origins", "[\"https://app.example.com\"]");
    table.refuse_empty("origins", "every page of another origin would be refused");
    let origins = table.list("origins", "an origin", values::origin)?;
    Some(Cors { origins: origins.into_iter().map(Spanned::into_inner).collect() })
}

/// What the identity headers are called behind the prefix, and what they hold.
const DEFAULT_HEADERS: [(&str, &str); 7] = [
    ("subject", "sub"),
    ("username", "username"),
    ("email", "email"),
    ("groups", "cognito:groups"),
    ("scopes", "scope"),
    ("pool", "@pool"),
    ("client", "@client"),
];

/// Headers with a meaning of their own: stripping one from every request would break it.
const STANDARD_HEADERS: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "baggage",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-event-id",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "sec-fetch-site",
    "sec-websocket-key",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-csrf-token",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];

/// `[identity]`. With another prefix the default headers are called by it.
pub(super) fn identity(root: &Section<'_>) -> Identity {
    let section = root.child("identity", &IDENTITY);
    let prefix = section.parsed("prefix", "a prefix of header names", prefix);
    let prefix = prefix.map_or_else(|| "x-auth-".to_owned(), Spanned::into_inner);
    let default = || {
        DEFAULT_HEADERS.iter().filter_map(|(name, claim)| {
            let name = HeaderName::from_bytes(format!("{prefix}{name}").as_bytes()).ok()?;
            Some((name, source(claim).ok()?))
        })
    };
    let headers = match section.value("headers") {
        Some(_) => headers(&section, &prefix),
        None => default().collect(),
    };
    Identity { prefix, headers }
}

/// Reads the start of header names, as inbound names are compared with it: lower case, and with a
/// dash for everything but letters and digits.
fn prefix(text: &str) -> Result<String, Invalid> {
    let help = "write for instance \"X-Auth-\"";
    let lower = text.to_ascii_lowercase();
    if lower.is_empty() {
        return Err(Invalid::new("empty: every header would be removed").help(help));
    }
    if !lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Invalid::new("letters, digits and dashes only").help(help));
    }
    if let Some(header) = STANDARD_HEADERS.iter().find(|header| header.starts_with(&lower)) {
        let help = format!(
            "every request would lose its `{header}` header: use a prefix of its own, for instance \"X-Auth-\""
        );
        return Err(Invalid::new("standard headers start so").help(help));
    }
    Ok(lower)
}

/// `[identity.headers]`.
fn headers(section: &Section<'_>, prefix: &str) -> Vec<(HeaderName, ClaimSource)> {
    let Some(value) = section.value("headers") else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        section.reader.wrong_type("headers", "a table of headers", value);
        return Vec::new();
    };
    let mut in_file_order: Vec<_> = table.iter().collect();
    in_file_order.sort_by_key(|(key, _)| key.span().start);
    let mut headers: Vec<(HeaderName, ClaimSource)> = Vec::new();
    for (key, value) in in_file_order {
        let text = key.get_ref().as_ref();
        let name = match values::header_name(text) {
            Ok(name) => name,
            Err(invalid) => {
                section.reader.invalid(format!("`{text}` is not a header name"), key.span(), invalid);
                continue;
            }
        };
        if !name.as_str().starts_with(prefix) {
            let outside = Diagnostic::error(format!("`{text}` does not start with the identity prefix"));
            let outside = outside.at(key.span(), format!("must start with {prefix}"));
            let help = "only headers with the prefix are removed from requests: clients could set this one themselves";
            section.reader.note(outside.help(help));
        }
        if headers.iter().any(|(other, _)| collapsed(other) == collapsed(&name)) {
            let twice = Diagnostic::error(format!("the header `{text}` is there twice"));
            section.reader.note(twice.at(key.span(), "neither case nor the kind of dash counts"));
        }
        let Some(claim) = value.get_ref().as_str() else {
            section.reader.wrong_type(text, "the name of a claim", value);
            continue;
        };
        match source(claim) {
            Ok(source) => headers.push((name, source)),
            Err(invalid) => section.reader.invalid(format!("`{claim}` is not a claim"), value.span(), invalid),
        }
    }
    headers
}

/// A header name as the laxest backend reads it.
fn collapsed(name: &HeaderName) -> String {
    name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Reads where a header's value comes from.
fn source(text: &str) -> Result<ClaimSource, Invalid> {
    match text {
        "username" => Ok(ClaimSource::Username),
        "@pool" => Ok(ClaimSource::Pool),
        "@client" => Ok(ClaimSource::Client),
        _ if text.starts_with('@') => {
            let why = closest(text, ["@pool", "@client"])
                .map_or_else(|| "not known".to_owned(), |name| format!("did you mean \"{name}\"?"));
            Err(Invalid::new(why).help("besides claims there are \"@pool\" and \"@client\""))
        }
        _ => values::claim_name(text).map(ClaimSource::Claim),
    }
}
