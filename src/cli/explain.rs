//! `portcullis explain`: what would happen to a request, and why. Decides nothing and sends nothing.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};

use super::load;
use crate::access::assertion;
use crate::access::authenticate::bearer;
use crate::access::forwarded::{Forwarded, Hop};
use crate::access::identity::{Identity, Stamp, stamp};
use crate::access::{Credential, Denial, Lack, authenticate, authorize, satisfies, shows};
use crate::clock::Clock;
use crate::config::{Access, Assertion, Config, HeaderEdits, Pool, Route, Rule, Servers};
use crate::distinguished_name;
use crate::gateway::host::effective_host;
use crate::gateway::route::{Miss, Routes};
use crate::http::Transport;
use crate::outbound;
use crate::path::normalize;
use crate::problem::{Code, Problem};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{RequestId, TraceContext};
use crate::token::jwks::KeySet;
use crate::token::{self, Claims, Unverified, Verifier};

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// The request's method
    method: Method,
    /// A path, or a whole URL where the host matters
    url: String,
    /// A token to send as `Authorization: Bearer`
    #[arg(long, value_name = "JWT", conflicts_with = "claims")]
    token: Option<String>,
    /// A JSON file with the claims of a token that counts as verified
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
    /// Whom the client's TLS certificate was given to, for instance `CN=batch,O=Example`
    #[arg(long, value_name = "NAME", value_parser = certificate)]
    certificate: Option<Arc<str>>,
    /// A further request header
    #[arg(long = "header", value_name = "'NAME: VALUE'")]
    headers: Vec<String>,
}

fn certificate(text: &str) -> Result<Arc<str>, &'static str> {
    distinguished_name::normal(text).map(Arc::from).ok_or("not a name such as CN=batch,O=Example")
}

/// How long the key endpoint may take.
const KEY_WAIT: Duration = Duration::from_secs(3);

/// Prints the answer to standard output. Returns the exit code.
pub fn run(path: &Path, question: &Question) -> u8 {
    match load(path) {
        Ok(config) => super::finish(explain(&config, question, &mut io::stdout())),
        Err(code) => code,
    }
}

type Failure = Box<dyn std::error::Error>;

fn explain(config: &Config, question: &Question, out: &mut dyn Write) -> Result<(), Failure> {
    let request = request(question)?;
    let mut line = |name: &str, text: &str| writeln!(out, "{name:<10} {text}");
    line("request", &format!("{} {}", request.method(), request.uri()))?;

    let refused = |problem: &Problem, why: &str| {
        format!("{} {} ({}): {why}", problem.code.status().as_u16(), problem.code.as_str(), problem.reason)
    };
    let host = match effective_host(request.uri(), request.headers()) {
        Ok(host) => host,
        Err(error) => return Ok(line("refused", &refused(&error.into(), &error.to_string()))?),
    };
    let normal = match normalize(request.uri().path()) {
        Ok(normal) => normal,
        Err(error) => return Ok(line("refused", &refused(&error.into(), &error.to_string()))?),
    };
    line("path", &normal.text)?;
    if let Some(auth) = &config.auth
        && let Some(below) = normal.text.strip_prefix(&auth.prefix)
        && (below.is_empty() || below.starts_with('/'))
        && (auth.hosts.is_empty() || auth.hosts.contains(&host.name.clone().into_owned()))
    {
        return Ok(line("route", &format!("identity route of pool {}: answered by the gateway itself", auth.pool))?);
    }
    let routes = Routes::new(config.routes.iter().cloned());
    let route = match routes.find(&host.name, &normal, request.method()) {
        Ok(route) => route,
        Err(miss) => {
            let why = match &miss {
                Miss::Unknown => "no route has this host and path".to_owned(),
                Miss::Method(methods) => format!("the routes with this path take {methods:?} only"),
                Miss::Ambiguous(ambiguity) => ambiguity.to_string(),
            };
            return Ok(line("refused", &refused(&miss.into(), &why))?);
        }
    };
    line("route", &format!("{} ({}:{})", route.label, config.source.display(), route.line))?;
    line("rule", &rule_text(&route.access))?;

    let certificate = question.certificate.as_ref();
    let shown = match &route.access {
        Access::Public => Shown::Nothing,
        _ => shown(config, question, &request)?,
    };
    line("token", &shown.text())?;
    if let Err(denial) = shown.against(&route.access, request.headers(), certificate) {
        let why = denial_text(&denial);
        return Ok(line("refused", &refused(&denial.into(), &why))?);
    }
    let who = match (&shown, &route.access) {
        (Shown::Nothing, Access::Required(_)) => "as the owner of the certificate",
        (Shown::Nothing, _) => "as an anonymous caller",
        _ => "as the token's user",
    };
    line("allowed", who)?;
    if let Some(limit) = &route.limit {
        let (by, burst) = (limit.by.as_str(), limit.burst);
        line("limit", &format!("{} in {:?} by {by}, {burst} at once", limit.rate, limit.per))?;
    }
    if let Some(timeout) = route.timeout {
        line("timeout", &format!("{timeout:?} for the whole request"))?;
    }
    if let Some(rewrite) = &route.rewrite {
        let text = rewrite.apply(&normal.text);
        let sent = match normalize(&text) {
            Ok(sent) => sent,
            Err(error) => return Ok(line("refused", &refused(&error.into(), &error.to_string()))?),
        };
        let stricter = routes.named(&host.name, &sent, request.method()).find(|other| {
            other.upstream == route.upstream && shown.against(&other.access, request.headers(), certificate).is_err()
        });
        line("rewritten", &sent.text)?;
        if let Some(other) = stricter {
            let problem = Problem::from(Code::AccessDenied).because("rewrite");
            let why = format!("that path belongs to {} ({}), whose rule is not met", other.label, other.line);
            return Ok(line("refused", &refused(&problem, &why))?);
        }
    }
    upstream(config, route, &shown, request, &mut line)?;
    Ok(edits("answer", &route.response_headers, &mut line)?)
}

/// The request as a client would send it.
fn request(question: &Question) -> Result<Request<()>, Failure> {
    let mut request = Request::builder().method(question.method.clone()).uri(&question.url).body(())?;
    for text in &question.headers {
        let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not `Name: value`"))?;
        request.headers_mut().append(HeaderName::try_from(name.trim())?, HeaderValue::from_str(value.trim())?);
    }
    if let Some(token) = &question.token {
        request.headers_mut().append(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    }
    Ok(request)
}

/// What the request shows of its sender.
enum Shown {
    Nothing,
    Refused(Denial),
    Claims { claims: Box<Claims>, pool: Arc<Pool>, verified: &'static str },
}

impl Shown {
    /// Whether it passes.
    fn against(&self, access: &Access, headers: &HeaderMap, certificate: Option<&Arc<str>>) -> Result<(), Denial> {
        match (access, self) {
            (Access::Public, _) | (_, Self::Nothing) => {
                authorize(access, &authenticate::unasked(headers), certificate).map(|_| ())
            }
            (_, Self::Refused(denial)) => Err(denial.clone()),
            (Access::Required(rule), Self::Claims { claims, pool, .. }) => {
                shows(rule, certificate.map(|subject| &**subject))?;
                satisfies(rule, claims, pool)
            }
            (Access::Optional, Self::Claims { claims, pool, .. }) => satisfies(&Rule::default(), claims, pool),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Nothing => "none, or not looked at".to_owned(),
            Self::Refused(denial) => denial_text(denial),
            Self::Claims { claims, pool, verified } => format!(
                "{} token of pool {}, client {}, sub {}, groups {:?}; {verified}",
                claims.token_use.as_str(),
                pool.name,
                claims.client,
                claims.sub,
                claims.groups
            ),
        }
    }
}

fn shown(config: &Config, question: &Question, request: &Request<()>) -> Result<Shown, Failure> {
    if let Some(file) = &question.claims {
        let bytes = std::fs::read(file)?;
        let serde_json::Value::Object(payload) = crate::json::strict_parse(&bytes, 16)? else {
            return Err("the claims are not a JSON object".into());
        };
        let unverified =
            Unverified::from_payload(payload).map_err(|reason| format!("the claims are not usable: {reason}"))?;
        return Ok(claims_of(config, unverified, "taken as verified, as you asked"));
    }
    let token = match bearer(request.headers()) {
        Ok(Some(token)) => token,
        Ok(None) => return Ok(Shown::Nothing),
        Err(refusal) => return Ok(Shown::Refused(Denial::Refused(refusal))),
    };
    let refused = |error| Shown::Refused(Denial::Refused(crate::access::Refusal::Token(error)));
    match verify(config, token)? {
        Ok(shown) => Ok(shown),
        Err(token::Error::Refused(reason)) => Ok(refused(reason.into())),
        // Without keys the claims can still be held against the rule.
        Err(token::Error::KeysUnavailable) => Ok(match Unverified::from_token(token) {
            Ok(unverified) => claims_of(config, unverified, "NOT verified: the keys cannot be had here"),
            Err(reason) => refused(reason.into()),
        }),
    }
}

fn claims_of(config: &Config, unverified: Unverified, verified: &'static str) -> Shown {
    let Unverified { claims, issuer } = unverified;
    match config.pools.iter().find(|pool| pool.issuers.contains(&issuer)) {
        Some(pool) => Shown::Claims { claims: Box::new(claims), pool: Arc::clone(pool), verified },
        None => Shown::Refused(Denial::Refused(crate::access::Refusal::Token(token::Reason::WrongIssuer.into()))),
    }
}

/// Verifies a token as the gateway would.
fn verify(config: &Config, token: &str) -> Result<Result<Shown, token::Error>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let http = outbound::client(KEY_WAIT, KEY_WAIT).map_err(|error| error.to_string())?;
    let metrics = Arc::new(Metrics::new());
    let sets = config.pools.iter().map(|pool| {
        let keys = KeySet::start(Arc::clone(pool), http.clone(), Clock::System, Arc::clone(&metrics), runtime.handle());
        (Arc::clone(pool), keys)
    });
    let verifier = Verifier::new(sets.collect());
    let outcome = runtime.block_on(verifier.verify(token, Clock::System.now(), KEY_WAIT));
    Ok(outcome.map(|verified| Shown::Claims {
        claims: Box::new(verified.claims().clone()),
        pool: Arc::clone(verified.pool()),
        verified: "signature and times verified",
    }))
}

fn rule_text(access: &Access) -> String {
    match access {
        Access::Public => "public: everybody may pass, a credential is not looked at".to_owned(),
        Access::Optional => "optional: no credential, or a good one".to_owned(),
        Access::Required(rule) if *rule == Rule::default() => "required: a verified token".to_owned(),
        Access::Required(rule) => {
            let mut wants = Vec::new();
            let mut want = |what: &str, list: &[String]| {
                if !list.is_empty() {
                    wants.push(format!("{what} {}", list.join(", ")));
                }
            };
            want("any of the groups", &rule.groups);
            want("the scopes", &rule.scopes);
            for (claim, values) in &rule.claims {
                want(&format!("{claim} as any of"), values);
            }
            want("of pool", rule.pool.as_deref().map(str::to_owned).as_slice());
            want("of a client of", rule.clients.as_deref().unwrap_or_default());
            let uses = rule.token_use.iter().flatten().map(|token_use| token_use.as_str().to_owned());
            want("of the kind", &uses.collect::<Vec<_>>());
            let certificates = match &*rule.certificates {
                [] => String::new(),
                named => format!("a certificate of any of {}", named.join("; ")),
            };
            let token = match (rule.wants_token(), wants.is_empty()) {
                (false, _) => String::new(),
                (true, true) => "a verified token".to_owned(),
                (true, false) => format!("a verified token with {}", wants.join("; ")),
            };
            let both = if certificates.is_empty() || token.is_empty() { "" } else { ", and " };
            format!("required: {token}{both}{certificates}")
        }
    }
}

fn denial_text(denial: &Denial) -> String {
    match denial {
        Denial::Missing => "there is no token".to_owned(),
        Denial::Refused(refusal) => format!("the credential is refused: {}", refusal.as_str()),
        Denial::Lacking(Lack::Certificate) => "the client's certificate is none of those that are named".to_owned(),
        Denial::Lacking(Lack::Group) => "the token has none of the groups".to_owned(),
        Denial::Lacking(Lack::Scope(scope)) => format!("the token lacks the scope {scope}"),
        Denial::Lacking(Lack::Claim(claim)) => format!("the token lacks the claim {claim}, or has another value"),
    }
}

/// What the upstream would receive.
fn upstream(
    config: &Config,
    route: &Route,
    shown: &Shown,
    request: Request<()>,
    line: &mut dyn FnMut(&str, &str) -> io::Result<()>,
) -> Result<(), Failure> {
    let Some(upstream) = config.upstreams.iter().find(|upstream| upstream.name == route.upstream) else {
        return Err("the route's upstream is gone".into());
    };
    let servers = match &upstream.servers {
        Servers::Whoami => "whoami: (built in)".to_owned(),
        Servers::Http(endpoints) => endpoints.iter().map(|endpoint| endpoint.url()).collect::<Vec<_>>().join(", "),
    };
    line("upstream", &format!("{} at {servers}", upstream.name))?;
    let identity = Identity::new(&config.identity);
    let identity_headers = match shown {
        Shown::Claims { claims, pool, .. } => identity.headers_for(claims, pool),
        _ => Ok(Vec::new()),
    };
    let identity_headers = match identity_headers {
        Ok(headers) => headers,
        Err(error) => {
            let why = error.to_string();
            let problem = Problem::from(error);
            return Ok(line("refused", &format!("403 {}: {why}", problem.code.as_str()))?);
        }
    };
    let local = config.listeners.iter().find_map(|listener| listener.address.tcp());
    let client = IpAddr::from(Ipv4Addr::LOCALHOST).into();
    let transport = if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
        Transport::Tls(Arc::default())
    } else {
        Transport::Plain
    };
    let hop = Hop::new(client, local, &transport);
    let host = effective_host(request.uri(), request.headers())?.value;
    let before: Vec<HeaderName> = request.headers().keys().cloned().collect();
    let forwarded = Forwarded {
        hop: &hop,
        trusted: false,
        client,
        host: host.as_ref(),
        request_id: RequestId::random(),
        trace: TraceContext::random(),
    };
    let anonymous = authorize(&Access::Public, &Credential::Absent, None).map_err(|denial| denial_text(&denial))?;
    let edits = &route.request_headers;
    let stamp_with = Stamp {
        identity: &identity,
        forwarded,
        keep_authorization: upstream.keep_authorization,
        websocket: false,
        edits,
        // What would be signed stands below: a signature by a key that is not the gateway's shows nothing.
        assertion: None,
    };
    let vetted = stamp(request, &anonymous, &stamp_with)?;
    let mut headers = vetted.request().headers().clone();
    for name in before.iter().filter(|name| !headers.contains_key(*name)) {
        line("removed", name.as_str())?;
    }
    headers.extend(identity_headers);
    for (name, value) in &headers {
        let shown = if *name == header::AUTHORIZATION || *name == header::COOKIE || value.is_sensitive() {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        line("sends", &format!("{name}: {shown}"))?;
    }
    if let Some(Assertion { audience, ttl }) = &upstream.assertion {
        let who = match shown {
            Shown::Claims { claims, .. } => format!("sub {}, groups {:?}", claims.sub, claims.groups),
            _ => "no sub: an anonymous caller".to_owned(),
        };
        let of = format!("signed for audience {audience} by {}, for {ttl:?}, {who}", config.assertions.issuer);
        line("sends", &format!("{}: {of}", assertion::HEADER))?;
    }
    Ok(())
}

/// What is changed of the answer's headers.
fn edits(name: &str, edits: &HeaderEdits, line: &mut dyn FnMut(&str, &str) -> io::Result<()>) -> io::Result<()> {
    for removed in &edits.remove {
        line(name, &format!("without {removed}"))?;
    }
    for (set, value) in &edits.set {
        let shown = if value.is_sensitive() { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        line(name, &format!("with {set}: {shown}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
