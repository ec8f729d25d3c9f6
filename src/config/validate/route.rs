//! `[[route]]`, and what holds between routes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Diagnostic, Span, closest};
use crate::config::file::{ACCESS, LIMIT};
use crate::config::section::Section;
use crate::config::validate::edits::{self, Direction};
use crate::config::validate::pool;
use crate::config::values::{self, Invalid};
use crate::config::{
    Access, Auth, HostPattern, Identity, Limit, LimitBy, Limits, PathPattern, Pool, Protocol, Route, Rule, TokenUse,
    Upstream, WebSocket, path,
};
use crate::distinguished_name;

/// What a route may refer to.
pub(super) struct Names<'a> {
    pub(super) pools: Vec<&'a str>,
    pub(super) upstreams: Vec<&'a str>,
    pub(super) identity: &'a Identity,
    /// Whether any listener asks clients for certificates.
    pub(super) asks_certificates: bool,
}

/// A route, and where it stands.
pub(super) struct Placed {
    /// The value of `path`, or the header of the route.
    span: Span,
    /// `None` when it has no usable path or host: then it matches nothing that could be compared.
    pub(super) meaning: Option<Route>,
}

/// How long nothing need move on a WebSocket. Longer than anybody waits for a chat's next word, short
/// enough for those whose client vanished without a word.
const WEBSOCKET_IDLE: Duration = Duration::from_secs(3600);

/// Reads one route.
pub(super) fn one(section: &Section<'_>, names: &Names<'_>, pools: &[Pool], limits: &Limits, text: &str) -> Placed {
    section.require("path", "\"/*\"");
    section.require("upstream", "\"app\"");
    let keep_encoded_slashes = section.choice("encoded_slashes", false, &[("reject", false), ("keep", true)]);
    let path = section.parsed("path", "a path in normal form", |text| path::pattern(text, keep_encoded_slashes));
    let host = section.parsed("host", "a host name", values::host_pattern);
    let host_is_wrong = host.is_none() && section.value("host").is_some();
    section.refuse_empty("methods", "no request would match");
    let methods = section.list("methods", "a method", values::method);
    let upstream = name_of(section, "upstream", &names.upstreams);
    let access = access(section, names, pools);
    let body = section.size("body").map_or(limits.body, |size| Some(size.into_inner()).filter(|bytes| *bytes > 0));
    let rewrite = edits::rewrite(section, path.as_ref().map(Spanned::get_ref), keep_encoded_slashes);
    let timeout = section.duration("timeout", Duration::ZERO);
    let stream_grace = section.parsed("stream_grace", "a duration", stream_grace);
    let websocket = websocket(section, methods.as_deref());
    let limit = limit(section, &access);
    let request_headers = edits::headers(section, Direction::Request, names.identity);
    let response_headers = edits::headers(section, Direction::Response, names.identity);
    let span = section.place_of("path");
    let (Some(path), false) = (path, host_is_wrong) else { return Placed { span, meaning: None } };
    let (host, path) = (host.map_or(HostPattern::Any, Spanned::into_inner), path.into_inner());
    let line = text.as_bytes().iter().take(section.place.start).filter(|byte| **byte == b'\n').count() + 1;
    let meaning = Some(Route {
        label: label(&host, &path),
        host,
        path,
        methods: methods.map(|methods| methods.into_iter().map(Spanned::into_inner).collect()),
        upstream: Arc::from(upstream.unwrap_or_default()),
        access,
        body,
        rewrite,
        timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
        stream_grace: stream_grace.map_or(Some(Duration::ZERO), Spanned::into_inner),
        websocket,
        limit,
        request_headers,
        response_headers,
        keep_encoded_slashes,
        line,
    });
    Placed { span, meaning }
}

/// `stream_grace`: a duration, or that streams do not end with their permission.
fn stream_grace(text: &str) -> Result<Option<Duration>, Invalid> {
    let duration = if text == "off" { return Ok(None) } else { values::duration(text) };
    duration.map(Some).map_err(|invalid| invalid.help("write a duration, for instance \"30s\", or \"off\""))
}

/// How logs and metrics call a route.
fn label(host: &HostPattern, path: &PathPattern) -> Arc<str> {
    let path = match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{path}/*"),
    };
    match host {
        HostPattern::Any => path.into(),
        HostPattern::Exact(host) => format!("{host} {path}").into(),
        HostPattern::Wildcard(host) => format!("*.{host} {path}").into(),
    }
}

/// A text that must be one of the names of other sections.
pub(super) fn name_of<'a>(section: &Section<'a>, key: &str, names: &[&str]) -> Option<&'a str> {
    let name = section.text(key)?;
    if !names.contains(name.get_ref()) {
        let unknown = Diagnostic::error(format!("there is no {key} `{}`", name.get_ref()));
        let label = closest(name.get_ref(), names.iter().copied())
            .map_or_else(|| "not in the file".to_owned(), |similar| format!("did you mean `{similar}`?"));
        let help = format!("add [{key}.{}]", name.get_ref());
        section.reader.note(unknown.at(name.span(), label).help(help));
    }
    Some(name.get_ref())
}

/// `access`: a word or a table.
fn access(section: &Section<'_>, names: &Names<'_>, pools: &[Pool]) -> Access {
    let required = || Access::Required(Rule::default());
    let access = match section.value("access") {
        None => required(),
        Some(value) => match value.get_ref() {
            DeValue::String(word) => match word.as_ref() {
                "public" => Access::Public,
                "optional" => Access::Optional,
                "required" => required(),
                other => {
                    let words = ["public", "optional", "required"];
                    let why = closest(other, words)
                        .map_or_else(|| "not known".to_owned(), |word| format!("did you mean \"{word}\"?"));
                    let invalid =
                        Invalid::new(why).help("write \"public\", \"optional\", \"required\" or a table of rules");
                    section.reader.invalid("`access` is not one of its words".to_owned(), value.span(), invalid);
                    required()
                }
            },
            _ => section
                .child_from("access", value, &ACCESS, "a word or a table")
                .map_or_else(required, |table| Access::Required(rule(&table, names, pools))),
        },
    };
    let wants_token = match &access {
        Access::Public => false,
        Access::Optional => true,
        Access::Required(rule) => rule.wants_token(),
    };
    if wants_token && pools.is_empty() {
        let nobody = Diagnostic::error("no user pool whose tokens this route could accept");
        let nobody = nobody.at(section.place_of("access"), "needs a verified token");
        section.reader.note(nobody.help("add [pool.main], or make the route public: access = \"public\""));
    }
    access
}

/// `websocket`, and the keys that mean nothing without it.
fn websocket(section: &Section<'_>, methods: Option<&[Spanned<Method>]>) -> Option<WebSocket> {
    section.refuse_empty("origins", "pages of the host's own origin need not be named");
    let origins = section.list("origins", "an origin", values::origin).unwrap_or_default();
    let idle = section.positive_duration("websocket_idle", WEBSOCKET_IDLE);
    if !section.flag("websocket", false) {
        for key in ["origins", "websocket_idle"] {
            if section.value(key).is_some() {
                let alone = Diagnostic::error(format!("`{key}` is for WebSockets, which this route does not take"));
                let alone = alone.at(section.place_of(key), "has no effect");
                section.reader.note(alone.help(format!("add websocket = true, or leave out `{key}`")));
            }
        }
        return None;
    }
    if methods.is_some_and(|methods| methods.iter().all(|method| *method.get_ref() != Method::GET)) {
        let never = Diagnostic::error("no WebSocket would match: they begin with GET");
        section.reader.note(never.at(section.place_of("methods"), "without GET").help("add \"GET\""));
    }
    Some(WebSocket { origins: origins.into_iter().map(Spanned::into_inner).collect(), idle })
}

/// `limit`; without `burst` as many at once as in the whole time.
fn limit(section: &Section<'_>, access: &Access) -> Option<Limit> {
    let table = section.child("limit", &LIMIT);
    if !table.is_present() {
        return None;
    }
    table.require("rate", "\"100/1s\"");
    let rate = table.parsed("rate", "a rate", values::rate).map(Spanned::into_inner);
    let by = table.choice("by", LimitBy::Client, &[("client", LimitBy::Client), ("subject", LimitBy::Subject)]);
    if by == LimitBy::Subject && *access == Access::Public {
        let nobody = Diagnostic::error("a public route has no subjects to limit");
        let nobody = nobody.at(table.place_of("by"), "nobody is asked who they are");
        section.reader.note(nobody.help("write by = \"client\", or access = \"optional\""));
    }
    let default = rate.and_then(|(rate, _)| usize::try_from(rate).ok()).unwrap_or(1);
    let burst = table.count("burst", default, 1..=1_000_000_000);
    let (rate, per) = rate?;
    Some(Limit { rate, per, burst: u32::try_from(burst).unwrap_or(u32::MAX), by })
}

/// `access` as a table.
fn rule(section: &Section<'_>, names: &Names<'_>, pools: &[Pool]) -> Rule {
    for key in ["groups", "scopes", "claims", "clients", "certificates"] {
        section.refuse_empty(key, "this asks for nothing");
    }
    let texts = |key: &str, what: &str| {
        let list = section.list(key, what, values::claim_name)?;
        Some(list.into_iter().map(Spanned::into_inner).collect::<Vec<String>>())
    };
    let clients = section.list("clients", "an app client id", pool::client_id);
    let certificates = section.list("certificates", "the name of a certificate's owner", owner);
    let rule = Rule {
        groups: texts("groups", "a group").unwrap_or_default(),
        scopes: texts("scopes", "a scope").unwrap_or_default(),
        claims: claims(section),
        pool: name_of(section, "pool", &names.pools).map(Arc::from),
        token_use: pool::token_use(section),
        clients: clients.map(|list| list.into_iter().map(Spanned::into_inner).collect()),
        certificates: certificates.map(|list| list.into_iter().map(Spanned::into_inner).collect()).unwrap_or_default(),
    };
    if section.value("certificates").is_some() && !names.asks_certificates {
        let never = Diagnostic::error("`certificates` can never be met: no listener asks clients for theirs");
        let never = never.at(section.place_of("certificates"), "nobody shows one");
        section.reader.note(never.help("add client_ca and client_auth to a [listener.tls]"));
    }
    if section.is_empty() {
        let empty = Diagnostic::error("`access` has no rule");
        section.reader.note(empty.at(section.place.clone(), "asks for nothing").help("write access = \"required\""));
    }
    let candidates = || pools.iter().filter(|pool| rule.pool.as_ref().is_none_or(|name| *name == pool.name));
    let access_tokens = match &rule.token_use {
        Some(uses) => uses.contains(&TokenUse::Access),
        None => candidates().count() == 0 || candidates().any(|pool| pool.token_use.contains(&TokenUse::Access)),
    };
    if !rule.scopes.is_empty() && !access_tokens {
        let never = Diagnostic::error("`scopes` can never be met: ID tokens have none");
        let never = never.at(section.place_of("scopes"), "only access tokens have scopes");
        section.reader.note(never.help("add token_use = [\"access\"] to the rule"));
    }
    rule
}

/// The subject of a certificate, in its one form.
fn owner(text: &str) -> Result<String, Invalid> {
    let help = "openssl x509 -noout -subject -nameopt RFC2253 -in client.pem prints it";
    distinguished_name::normal(text).ok_or_else(|| Invalid::new("not a name such as CN=batch,O=Example").help(help))
}

/// `claims`: each with the values that are fine.
fn claims(section: &Section<'_>) -> Vec<(String, Vec<String>)> {
    let Some(value) = section.value("claims") else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        section.reader.wrong_type("claims", "a table of claims", value);
        return Vec::new();
    };
    let mut claims = Vec::new();
    for (name, values) in table {
        let text = name.get_ref().as_ref();
        if let Err(invalid) = values::claim_name(text) {
            section.reader.invalid(format!("`{text}` is not a claim name"), name.span(), invalid);
        }
        let accepted = section.reader.texts(text, values);
        if values.get_ref().as_array().is_some_and(|array| array.is_empty()) {
            let never = Diagnostic::error(format!("the claim `{text}` can never be met"));
            section.reader.note(never.at(values.span(), "no value is fine"));
        }
        claims.push((text.to_owned(), accepted.into_iter().map(|text| (*text.get_ref()).to_owned()).collect()));
    }
    claims
}

/// Two routes that match the same requests, with nothing to prefer one of them.
pub(super) fn no_two_tie(root: &Section<'_>, routes: &[Placed]) {
    for (index, second) in routes.iter().enumerate() {
        let earlier = routes.iter().take(index).find(|first| match (&first.meaning, &second.meaning) {
            (Some(first), Some(second)) => tie(first, second),
            _ => false,
        });
        let (Some(first), Some(route)) = (earlier, &second.meaning) else { continue };
        let line = first.meaning.as_ref().map_or(0, |route| route.line);
        let title = format!("two routes match the same requests: `{}`", route.label);
        let tied = Diagnostic::error(title)
            .at(second.span.clone(), format!("the route of line {}", route.line))
            .at(first.span.clone(), format!("the route of line {line}"));
        root.reader.note(tied.help("the order in the file does not count: tell them apart by host, path or methods"));
    }
}

fn tie(a: &Route, b: &Route) -> bool {
    let methods = match (&a.methods, &b.methods) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
        _ => false,
    };
    methods && a.host == b.host && a.path == b.path
}

/// Routes that the identity routes would hide.
pub(super) fn none_in_auth(root: &Section<'_>, routes: &[Placed], auth: Option<&Auth>) {
    let Some(auth) = auth else { return };
    for placed in routes {
        let Some(route) = &placed.meaning else { continue };
        let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = &route.path;
        let inside = path.strip_prefix(&auth.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let same_host =
            auth.hosts.is_empty() || matches!(&route.host, HostPattern::Exact(host) if auth.hosts.contains(host));
        if inside && same_host {
            let hidden = Diagnostic::error(format!("`{}` belongs to the identity routes", route.label));
            let hidden = hidden.at(placed.span.clone(), format!("inside of {}", auth.prefix));
            root.reader.note(hidden.help("choose another path, or another `prefix` or `hosts` in [auth]"));
        }
    }
}

/// A WebSocket begins with an upgrade, which HTTP/2 does not have (RFC 9113 §8.6).
pub(super) fn websockets_over_http1(root: &Section<'_>, routes: &[Placed], upstreams: &[Upstream]) {
    for placed in routes {
        let Some(route) = placed.meaning.as_ref().filter(|route| route.websocket.is_some()) else { continue };
        if upstreams.iter().any(|upstream| upstream.name == route.upstream && upstream.protocol != Protocol::Http1) {
            let wrong = Diagnostic::error(format!("WebSockets reach `{}` over HTTP/1.1 only", route.upstream));
            let wrong = wrong.at(placed.span.clone(), "this route takes WebSockets");
            let help = "give the route an [upstream.NAME] of its own, with protocol = \"http1\"";
            root.reader.note(wrong.help(help));
        }
    }
}

/// A rewrite that lets a request reach a path of the same upstream which another route guards in
/// another way. Such requests are refused one by one, unless they satisfy both; here somebody is told.
pub(super) fn none_rewritten_into_stricter(root: &Section<'_>, routes: &[Placed]) {
    for placed in routes {
        let Some((route, rewrite)) = placed.meaning.as_ref().and_then(|route| Some((route, route.rewrite.as_ref()?)))
        else {
            continue;
        };
        let guards = |other: &&Placed| {
            other.meaning.as_ref().is_some_and(|other| {
                !std::ptr::eq(other, route)
                    && other.upstream == route.upstream
                    && other.access != Access::Public
                    && other.access != route.access
                    && share_a_host(&other.host, &route.host)
                    && share_a_method(other, route)
                    && share_a_path(&other.path, &rewrite.to)
            })
        };
        let Some((guard, label)) =
            routes.iter().find(guards).and_then(|guard| Some((guard, &guard.meaning.as_ref()?.label)))
        else {
            continue;
        };
        let warning = Diagnostic::warning(format!("rewritten paths of `{}` belong to `{label}`", route.label))
            .at(placed.span.clone(), "must meet the rule of both, or they are refused")
            .at(guard.span.clone(), "this route guards such paths");
        root.reader.note(warning.help("if that is meant, give the two routes an [upstream.NAME] each"));
    }
}

fn share_a_host(a: &HostPattern, b: &HostPattern) -> bool {
    use HostPattern::{Any, Exact, Wildcard};
    let below = |name: &str, parent: &str| name.strip_suffix(parent).is_some_and(|head| head.ends_with('.'));
    match (a, b) {
        (Any, _) | (_, Any) => true,
        (Exact(a), Exact(b)) => a == b,
        (Exact(name), Wildcard(parent)) | (Wildcard(parent), Exact(name)) => below(name, parent),
        (Wildcard(a), Wildcard(b)) => a == b || below(a, b) || below(b, a),
    }
}

fn share_a_method(a: &Route, b: &Route) -> bool {
    match (&a.methods, &b.methods) {
        (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
        _ => true,
    }
}

fn share_a_path(a: &PathPattern, b: &PathPattern) -> bool {
    use PathPattern::{Exact, Prefix};
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (a, b) {
        (Exact(a), Exact(b)) => a == b,
        (Exact(path), Prefix(prefix)) | (Prefix(prefix), Exact(path)) => below(path, prefix),
        (Prefix(a), Prefix(b)) => below(a, b) || below(b, a),
    }
}
