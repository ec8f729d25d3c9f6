//! What the configuration means.
//!
//! `file` is what the user wrote, this module is what it means, and `gateway::Gateway` is what
//! runs. Everything that can be wrong is found between the first two (`validate`); after that
//! nothing fails for a reason that stands in the file.

pub mod diagnostic;
mod edits;
pub mod file;
mod mask;
pub mod path;
mod section;
mod sources;
pub mod validate;
pub mod values;
pub mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

pub use crate::config::diagnostic::{Diagnostic, Report, Severity};
pub use crate::config::edits::{HeaderEdits, Rewrite};
pub use crate::config::validate::parse;
pub use crate::config::watch::Contents;
use crate::es256::SigningKey;
use crate::http::TrustedProxies;
use crate::secret::Secret;

/// A file that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What somebody should look at all the same.
    pub warnings: Report,
}

/// Reads and checks a configuration file. `env` looks up environment variables.
///
/// # Errors
/// All mistakes at once, or the reason why the file cannot be read.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    load_and_note(path, env).0
}

/// The same, with what was read for it: also of a file that cannot be used, so that it can be told
/// when there is something new to read.
pub fn load_and_note(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> (Result<Loaded, Report>, Contents) {
    let unreadable =
        |why: String| Report::new(path, "", vec![Diagnostic::error(format!("cannot read {}: {why}", path.display()))]);
    let read = std::fs::read(path);
    let mut contents = Contents::of(path, read.as_deref().ok());
    let text = read.map_err(|error| unreadable(error.to_string())).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|error| unreadable(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())))
    });
    let loaded = text.and_then(|text| validate::parse_and_note(&text, path, env, &mut contents));
    (loaded, contents)
}

/// A checked configuration. Names in it (of pools and upstreams) are known to resolve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub source: PathBuf,
    /// `[server]`.
    pub server: Server,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<Listener>,
    /// `[admin]`.
    pub admin: Admin,
    /// `[pool.*]`, sorted by name; at least one, unless every route is public.
    pub pools: Vec<Arc<Pool>>,
    /// `[upstream.*]`, sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// `[[route]]`, in file order; no two of them tie.
    pub routes: Vec<Arc<Route>>,
    /// `[auth]`; absent when the file has no pool that it could serve.
    pub auth: Option<Auth>,
    /// `[identity]`.
    pub identity: Identity,
    /// `[assertion]`.
    pub assertions: Assertions,
    /// `[log]`.
    pub log: Log,
}

/// `[server]`: what holds for the whole process.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Data-plane threads, at least 1; `0` in the file has become the number of cores.
    pub workers: usize,
    /// How long open requests get on shutdown.
    pub drain: Duration,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// `[server.limits]`.
    pub limits: Limits,
}

/// `[server.limits]`: what one client may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Open client connections, over all listeners.
    pub connections: usize,
    /// What comes before the first request: a PROXY header and a TLS handshake together.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub request_head: Duration,
    /// A kept connection without a request.
    pub idle: Duration,
    /// Bytes of request line and headers together.
    pub head_size: usize,
    /// Header lines.
    pub headers: usize,
    /// Bytes of a proxied request body, unless the route says otherwise. `None`: no limit.
    pub body: Option<u64>,
    /// A body of which no byte moves, in either direction.
    pub body_stall: Duration,
    /// Requests that may be open at once on one HTTP/2 connection.
    pub h2_streams: u32,
}

/// `[[listener]]`: an address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it is.
    pub address: ListenAddress,
    /// Open connections of this listener. `None`: as many as there may be over all.
    pub connections: Option<usize>,
    /// Every connection begins with a PROXY header, which tells whose it is.
    pub proxy_protocol: bool,
    /// Clients may speak HTTP/2 from the first byte on, without TLS. With TLS, ALPN tells.
    pub h2c: bool,
    /// `[listener.tls]`; absent: plaintext.
    pub tls: Option<Tls>,
    /// A plaintext address that answers everything with a redirect here. Port 0 takes any free port.
    pub redirect_http_from: Option<SocketAddr>,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An address and a port; port 0 takes any free port.
    Tcp(SocketAddr),
    /// `unix:PATH`; a socket of this machine.
    Unix(PathBuf),
    /// `systemd:NAME`; a socket that the service manager has opened, wherever that is.
    Inherited(String),
}

impl ListenAddress {
    /// The address, where it has one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Inherited(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As in the file.
impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// `[listener.tls]`: how the listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one; the first is also for names that none is for.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// Whether a listener asks clients for certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It does not ask.
    Off,
    /// It asks; one that is shown must be good.
    Optional(ClientCa),
    /// Without a good one there is no connection.
    Required(ClientCa),
}

impl ClientAuth {
    /// Who vouches for clients, where that matters.
    pub fn authorities(&self) -> Option<&ClientCa> {
        match self {
            Self::Off => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

/// `client_ca`: a PEM file of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// The file.
    pub path: PathBuf,
    /// Where it stands in the file.
    pub place: Place,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Where in the file something stands. Any two are equal: a line that moves changes no meaning.
#[derive(Clone, Debug, Default)]
pub struct Place(pub diagnostic::Span);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// `[admin]`: the operator's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Port 0 takes any free port.
    pub address: SocketAddr,
}

/// `[pool.NAME]`: a Cognito user pool whose users may enter.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The name in the file.
    pub name: Arc<str>,
    /// `<region>_<suffix>`.
    pub id: PoolId,
    /// The app client as which the identity routes act.
    pub client_id: String,
    /// Its secret, if it has one.
    pub client_secret: Option<Secret<String>>,
    /// How a password is proven at sign-in.
    pub flow: Flow,
    /// All app clients whose tokens are accepted; contains `client_id`.
    pub clients: Vec<String>,
    /// The token uses that a route accepts unless it says otherwise.
    pub token_use: Vec<TokenUse>,
    /// Tolerated clock difference for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// Base URL of the Cognito API, without a trailing slash.
    pub endpoint: String,
    /// The exact `iss` values of this pool's tokens: both forms of the id, or what the file says.
    pub issuers: Vec<String>,
    /// Where the key set is.
    pub jwks: String,
    /// `[pool.NAME.keys]`.
    pub keys: Keys,
    /// `[pool.NAME.embedded]`: this process runs the pool itself.
    pub embedded: Option<Embedded>,
}

impl Pool {
    /// The same pool, with every address of an embedded one as it is after it was bound: in the file
    /// its port may be 0. Other pools stay as they are.
    #[must_use]
    pub fn at(&self, bound: SocketAddr) -> Self {
        let mut pool = self.clone();
        if let Some(embedded) = &mut pool.embedded {
            embedded.address = bound;
            pool.endpoint = format!("http://{bound}");
            let issuer = format!("{}/{}", pool.endpoint, pool.id);
            pool.jwks = format!("{issuer}{JWKS_PATH}");
            pool.issuers = vec![issuer];
        }
        pool
    }
}

/// Where a key set is below its issuer (Cognito developer guide, "Verifying JSON web tokens").
pub(crate) const JWKS_PATH: &str = "/.well-known/jwks.json";

/// A user pool id, `<region>_<suffix>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolId {
    /// For instance `eu-west-1`.
    pub region: String,
    /// What follows the underscore: the pool name of SRP.
    pub suffix: String,
}

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.region, self.suffix)
    }
}

/// How the gateway proves a password to Cognito.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// USER_SRP_AUTH: the password does not leave the gateway.
    Srp,
    /// USER_PASSWORD_AUTH: it is sent over TLS.
    Password,
}

/// The `token_use` claim of Cognito's two signed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenUse {
    /// For APIs: scopes, client, groups.
    Access,
    /// For the app itself: the user's attributes.
    Id,
}

impl TokenUse {
    /// The claim's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Id => "id",
        }
    }
}

/// `[pool.NAME.keys]`: how the key set is kept fresh.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    /// Between background fetches.
    pub refresh: Duration,
    /// How long keys outlive a failing endpoint.
    pub stale: Duration,
    /// Between fetches caused by an unknown `kid`.
    pub cooldown: Duration,
    /// A copy on disk, read at start when the endpoint does not answer.
    pub cache: Option<PathBuf>,
}

/// `[pool.NAME.embedded]`: a user pool for development, in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// A loopback address; port 0 takes any free port.
    pub address: SocketAddr,
    /// The database; `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// Users that exist from the start.
    pub users: Vec<SeedUser>,
}

/// A user that the embedded pool creates, confirmed, if it is not there yet.
#[derive(Clone, Debug, PartialEq)]
pub struct SeedUser {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// A verified e-mail address.
    pub email: Option<String>,
    /// Groups; created as needed.
    pub groups: Vec<String>,
}

/// `[upstream.NAME]`: a backend, under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name in the file.
    pub name: Arc<str>,
    /// Where requests go.
    pub servers: Servers,
    /// How they are spoken to.
    pub protocol: Protocol,
    /// Which of them takes a request.
    pub balance: Balance,
    /// What the backend gets as `Host`.
    pub host: HostHeader,
    /// To establish a connection, name look-up included.
    pub connect: Duration,
    /// From the last byte of the request to the end of the response head.
    pub response_head: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Connections to each server, over all workers. 0: any number.
    pub connections: usize,
    /// How often a request that was never sent, or is idempotent, is tried again.
    pub retries: u32,
    /// Whether the caller's `Authorization` reaches the backend.
    pub keep_authorization: bool,
    /// Between two look-ups of the servers' names.
    pub resolve: Duration,
    /// `[upstream.NAME.health]`; absent: servers are judged by requests alone.
    pub health: Option<Health>,
    /// `[upstream.NAME.tls]`.
    pub tls: UpstreamTls,
    /// `[upstream.NAME.assertion]`; absent: nothing is signed for it.
    pub assertion: Option<Assertion>,
}

/// `[upstream.NAME.assertion]`: what is said of a request is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Whom it is for: `aud`.
    pub audience: String,
    /// How long it is good, 1 to 60 s.
    pub ttl: Duration,
}

/// `[upstream.NAME.health]`: how servers are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for, as it goes over the wire; a query is allowed. 2xx and 3xx are good.
    pub path: String,
    /// Between two probes of a server.
    pub every: Duration,
    /// For a whole probe; not longer than `every`.
    pub timeout: Duration,
    /// Good probes in a row until a server is back in use.
    pub up: u32,
    /// Bad probes in a row until it is out of use.
    pub down: u32,
}

/// Where an upstream's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The built-in server that answers with what it received.
    Whoami,
    /// Servers elsewhere, at least one.
    Http(Vec<Endpoint>),
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is reached.
    pub transport: Transport,
    /// A name or an address; IPv6 without brackets. `localhost` for a unix socket.
    pub host: String,
    /// The port, 80 or 443 unless written; 0 for a unix socket.
    pub port: u16,
    /// `host:port` as it belongs in a `Host` header, without the default port.
    pub authority: String,
    /// Its share of the requests, 1 to 1000, compared with those of the others.
    pub weight: u32,
}

impl Endpoint {
    /// As in the file, which also tells it from all others.
    pub fn url(&self) -> String {
        match &self.transport {
            Transport::Plain => format!("http://{}", self.authority),
            Transport::Tls => format!("https://{}", self.authority),
            Transport::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// How metrics and logs call it.
    pub fn label(&self) -> String {
        match &self.transport {
            Transport::Plain | Transport::Tls => self.authority.clone(),
            Transport::Unix(_) => self.url(),
        }
    }
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `http://`.
    Plain,
    /// `https://`.
    Tls,
    /// `unix:PATH`; a socket of this machine.
    Unix(PathBuf),
}

/// `[upstream.NAME.tls]`: what is expected of `https://` servers, and shown to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the certificate authorities that count instead of the machine's.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate.
    pub client: Option<CertificateFiles>,
    /// The name in the certificate, and in SNI, instead of the URL's.
    pub server_name: Option<String>,
    /// Every certificate will do.
    pub danger_accept_invalid: bool,
}

impl UpstreamTls {
    /// Whether there is more to it than its settings: the content of files.
    pub fn has_files(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file: the certificate, and those that vouch for it.
    pub chain: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// Where they stand in the file.
    pub place: Place,
}

/// How the servers of an upstream are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, with prior knowledge otherwise (RFC 9113 §3.3).
    Http2,
    /// Over TLS what the server prefers of both; HTTP/1.1 otherwise.
    Auto,
}

/// Which server of an upstream takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two random ones.
    Least,
    /// Each in turn.
    RoundRobin,
    /// Always the same one for a user; for a client address where nobody is signed in.
    Hash,
}

/// What the backend gets as `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client sent.
    Preserve,
    /// The server's own authority.
    Server,
    /// A fixed text.
    Fixed(String),
}

/// `[[route]]`: which requests, to where, for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// How logs, metrics and `explain` call it: `host path`, or just the path.
    pub label: Arc<str>,
    /// Which `Host`.
    pub host: HostPattern,
    /// Which path.
    pub path: PathPattern,
    /// Which methods; `None`: all.
    pub methods: Option<Vec<Method>>,
    /// The upstream's name; it exists.
    pub upstream: Arc<str>,
    /// Who may pass.
    pub access: Access,
    /// Bytes of a request body. `None`: no limit.
    pub body: Option<u64>,
    /// What goes upstream in place of the path.
    pub rewrite: Option<Rewrite>,
    /// From the end of the request's head to the last byte of its answer. `None`: no limit.
    pub timeout: Option<Duration>,
    /// How long an answer may go on after its caller's token has expired, or would be refused for
    /// another reason. `None`: to its end.
    pub stream_grace: Option<Duration>,
    /// WebSockets are taken. `None`: a request for one is an ordinary request.
    pub websocket: Option<WebSocket>,
    /// How often somebody may ask.
    pub limit: Option<Limit>,
    /// What is changed of the request's headers, after all that the gateway does with them itself.
    pub request_headers: HeaderEdits,
    /// What is changed of the headers of the upstream's answer.
    pub response_headers: HeaderEdits,
    /// `%2f` in the path is kept as it is instead of refused.
    pub keep_encoded_slashes: bool,
    /// 1-based line of the `[[route]]` header in the file.
    pub line: usize,
}

/// `websocket = true` of a route, with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocket {
    /// Origins, besides the host's own, whose pages may open one; as browsers write them.
    pub origins: Vec<HeaderValue>,
    /// How long nothing may move in either direction.
    pub idle: Duration,
}

/// The host a route is for. All text is lower case without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// No `host` key.
    Any,
    /// This name.
    Exact(String),
    /// `*.example.com` is stored as `example.com` and means one or more further labels.
    Wildcard(String),
}

/// The path a route is for, in normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// `/api/*` is stored as `/api` and means `/api` and everything below `/api/`; `/*` as ``.
    Prefix(String),
}

/// `limit` of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many requests, at least 1, …
    pub rate: u32,
    /// … in this time, in the long run.
    pub per: Duration,
    /// So many at once, at least 1.
    pub burst: u32,
    /// Who is counted together.
    pub by: LimitBy,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitBy {
    /// The client's address.
    Client,
    /// The user; anonymous callers by their address.
    Subject,
}

impl LimitBy {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Subject => "subject",
        }
    }
}

/// Who may pass a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; credentials are not looked at.
    Public,
    /// No credential is fine; one that is present must be good.
    Optional,
    /// A verified token that meets the rule.
    Required(Rule),
}

/// What a caller must show: a verified token, a client certificate, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Any of these groups. Empty: does not matter.
    pub groups: Vec<String>,
    /// All of these scopes.
    pub scopes: Vec<String>,
    /// All of these claims, each with any of the values.
    pub claims: Vec<(String, Vec<String>)>,
    /// Tokens of this pool only.
    pub pool: Option<Arc<str>>,
    /// These token uses instead of the pool's.
    pub token_use: Option<Vec<TokenUse>>,
    /// These app clients instead of the pool's.
    pub clients: Option<Vec<String>>,
    /// The client's TLS certificate was given to any of these, in the form of
    /// [`crate::distinguished_name`]. Empty: does not matter.
    pub certificates: Vec<String>,
}

impl Rule {
    /// Whether a token is needed. Where nothing but a certificate is asked for, that is enough.
    pub fn wants_token(&self) -> bool {
        let Self { groups, scopes, claims, pool, token_use, clients, certificates } = self;
        let any = !(groups.is_empty() && scopes.is_empty() && claims.is_empty());
        certificates.is_empty() || any || pool.is_some() || token_use.is_some() || clients.is_some()
    }
}

/// `[auth]`: the identity routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// For instance `/auth`; in normal form, without a trailing slash.
    pub prefix: String,
    /// Host names that have them, lower case. Empty: every one.
    pub hosts: Vec<String>,
    /// The pool's name; it exists.
    pub pool: Arc<str>,
    /// Whether people may sign themselves up.
    pub register: bool,
    /// The same answer, in the same time, for known and unknown users.
    pub hide_existing_users: bool,
    /// Those answers never come sooner.
    pub floor: Duration,
    /// Pages of which other origins may use them. `None`: nothing is said about origins.
    pub cors: Option<Cors>,
}

/// `cors` of `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Exactly as browsers write them (RFC 6454 §6.2), at least one.
    pub origins: Vec<HeaderValue>,
}

/// `[identity]`: how the backend learns who is calling.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Inbound headers that could be read as one of these are removed; lower case.
    pub prefix: String,
    /// What is set, for which header. Every name starts with the prefix.
    pub headers: Vec<(HeaderName, ClaimSource)>,
}

impl Identity {
    /// Whether a header could be read as one of the identity headers.
    pub fn manages(&self, name: &HeaderName) -> bool {
        crate::http::starts_collapsed(name.as_str(), self.prefix.as_bytes())
    }
}

/// `[assertion]`: who signs for upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertions {
    /// `iss`.
    pub issuer: Arc<str>,
    /// The first signs, all are published. Empty: the process makes one for itself.
    pub keys: Vec<Arc<SigningKey>>,
}

/// Where an identity header's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimSource {
    /// `username` of access tokens, `cognito:username` of ID tokens.
    Username,
    /// `@pool`: the pool's name in the file.
    Pool,
    /// `@client`: `client_id` of access tokens, `aud` of ID tokens.
    Client,
    /// Any other claim, by name.
    Claim(String),
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// How lines look.
    pub format: LogFormat,
    /// One line per request.
    pub access: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
