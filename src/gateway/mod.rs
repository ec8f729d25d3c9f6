//! The request, on one page.
//!
//! `handle` cannot fail: it begins the record, turns a problem or a panic into an answer,
//! and moves the record into it. `respond` is the way of a request from top to bottom.

mod deadline;
mod decide;
mod grpc;
mod handshake;
pub mod host;
mod lifetime;
mod own;
mod panic;
mod redirect;
mod refusals;
pub mod route;
mod tunnel;

use std::cell::RefCell;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;

use self::deadline::Deadline;
use self::decide::Asked;
pub use self::decide::Decisions;
use self::grpc::{Told, Tongue};
use self::handshake::Handshake;
use self::host::effective_host;
use self::lifetime::{Held, Lasting, Life, Register};
use self::own::Own;
use self::refusals::{no_connect, problem_response};
use self::route::{Pattern, Routes};
use self::tunnel::Ends;
use crate::access::assertion::{self, Assertion};
use crate::access::forwarded::{Forwarded, Hop, TRACEPARENT, X_REQUEST_ID};
use crate::access::identity::{Identity, Stamp, stamp};
use crate::access::{Authenticator, Permit};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{self, Balance, HostPattern, PathPattern};
use crate::http::{Body, ConnInfo, Peer, Transport, client_addr, first};
use crate::limit::Limiter;
use crate::path::{self, NormalPath};
use crate::problem::{Code, Problem};
use crate::server::framing::Refusal;
use crate::server::{RequestBody, Service};
use crate::telemetry::access_log::{AccessLog, Path, Record};
use crate::telemetry::metrics::RouteMetrics;
use crate::telemetry::trace::{RequestId, TraceContext};
use crate::upstream::{self, Connections, Exchange, Timing, Trailers, Upstream};

/// Everything that one configuration made: immutable, shared by all workers.
#[derive(Debug)]
pub struct Gateway {
    /// Where requests go, and for whom.
    pub routes: Routes<Route>,
    /// Tells who sent a request.
    pub authenticator: Arc<Authenticator>,
    /// What upstreams are told of it.
    pub identity: Arc<Identity>,
    /// The identity routes.
    pub auth: Option<Auth>,
    /// What assertions are signed with, if an upstream gets any.
    pub assertion_keys: Option<Arc<assertion::Keys>>,
    /// `[server]`.
    pub server: config::Server,
    /// Decisions, counted.
    pub decisions: Decisions,
}

/// A route with everything resolved that its requests need.
#[derive(Debug)]
pub struct Route {
    /// As configured.
    pub config: Arc<config::Route>,
    /// Where its requests go.
    pub upstream: Arc<Upstream>,
    /// How often somebody may ask.
    pub limit: Option<Arc<Limiter>>,
    /// What is signed for the upstream.
    pub assertion: Option<Assertion>,
    /// Held metrics.
    pub metrics: Arc<RouteMetrics>,
}

impl Pattern for Route {
    fn host(&self) -> &HostPattern {
        self.config.host()
    }
    fn path(&self) -> &PathPattern {
        self.config.path()
    }
    fn methods(&self) -> Option<&[Method]> {
        self.config.methods()
    }
    fn keep_encoded_slashes(&self) -> bool {
        self.config.keep_encoded_slashes()
    }
}

/// What one worker thread serves requests with.
#[derive(Debug)]
pub struct Worker {
    snapshot: RefCell<Cache<Arc<ArcSwap<Gateway>>, Arc<Gateway>>>,
    connections: Rc<Connections>,
    streams: Register,
    log: AccessLog,
    clock: Clock,
}

/// What a worker knows of one client connection.
#[derive(Debug)]
pub struct Client {
    info: ConnInfo,
    hop: Hop,
}

/// An answer, and what is to come of it.
struct Answered {
    response: Response<Body>,
    /// What its caller was let in with.
    held: Option<Held>,
    /// It begins a WebSocket.
    ends: Option<Box<Ends>>,
}

impl From<Response<Body>> for Answered {
    fn from(response: Response<Body>) -> Self {
        Self { response, held: None, ends: None }
    }
}

impl Worker {
    /// A worker that follows `snapshot`. It belongs to the thread that makes it.
    pub fn new(snapshot: Arc<ArcSwap<Gateway>>, log: AccessLog, clock: Clock) -> Self {
        let snapshot = RefCell::new(Cache::new(snapshot));
        Self { snapshot, connections: Rc::default(), streams: Register::default(), log, clock }
    }

    /// Answers a request; cannot fail.
    async fn handle(self: Rc<Self>, client: Rc<Client>, request: Request<RequestBody>) -> Response<Told<Lasting>> {
        let tongue = Tongue::of(&request);
        let mut record = Record::begin(&self.log, self.clock.now(), client.info.peer, &request);
        record.tls = client.info.transport.tls().map(|session| session.version);
        let gateway = self.gateway();
        let answer = {
            let answer = pin!(self.respond(&gateway, &client, request, &mut record));
            panic::caught(answer).await
        };
        let response = answer.unwrap_or_else(|_panic| {
            self.log.metrics().panics.inc();
            Err(Problem { close: true, ..Problem::from(Code::Internal).because("panic") })
        });
        let Answered { response, held, ends } =
            response.unwrap_or_else(|problem| problem_response(&problem, tongue, &mut record).into());
        let Some(ends) = ends else {
            let life = || held.map(|held| Life::new(self, gateway, held));
            return tongue.told(Lasting::answer(record, response, life));
        };
        record.switch(response.status());
        let log = self.log.clone();
        let life = held.map(|held| Life::new(self, gateway, held).of_tunnel());
        let carried = ends.carry(record, life);
        tokio::task::spawn_local(async move {
            if panic::caught(pin!(carried)).await.is_err() {
                log.metrics().panics.inc();
            }
        });
        tongue.told(Lasting::switch(response))
    }

    /// The configuration in force.
    fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    /// The way of a request, from top to bottom.
    async fn respond(
        &self,
        gateway: &Gateway,
        client: &Client,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Answered, Problem> {
        let head = request.headers();
        let trusted = gateway.server.trusted_proxies.contains(client.info.peer);
        if trusted {
            record.client = client_addr(client.info.peer, head, &gateway.server.trusted_proxies);
            continue_names(record, head);
        }
        let extended = request.body().is_connect();
        if request.method() == Method::CONNECT && !extended {
            return Err(no_connect());
        }
        // RFC 8441 §4: what HTTP/1.1 asks for with GET.
        let method = if extended { &Method::GET } else { request.method() };
        let host = effective_host(request.uri(), head)?;
        match &client.info.transport {
            Transport::Plain => {}
            Transport::Tls(session) if session.zone.load().contains(&host.name) => {}
            Transport::Tls(_) => return Err(Problem::from(Code::Misdirected).because("tls_zone")),
            Transport::Redirect(port) => {
                return Ok(redirect::to_https(&host, *port, request.uri(), record.request_id)?.into());
            }
        }
        let path = path::normalize(request.uri().path())?;

        if let Some(auth) = &gateway.auth
            && let Some(below) = auth.serves(&host.name, &path.text)
        {
            if extended {
                return Err(no_connect());
            }
            let asked = Own { auth, below: below.to_owned(), host: host.value.clone(), trusted };
            return Ok(Box::pin(gateway.answer(asked, request, record)).await.into());
        }

        let route = gateway.routes.find(&host.name, &path, method)?;
        record.route = Some(Arc::clone(&route.metrics));
        let mut deadline = Deadline::after(route.config.timeout);
        check_length(route.config.body, request.body())?;

        let certificate = client.info.transport.tls().and_then(|session| session.client_subject.as_ref());
        let (sockets, shown) = (route.config.websocket.as_ref(), certificate.is_some());
        let handshake = Handshake::read(&request, extended, sockets, host.value.as_ref(), shown)?;

        let credential = handshake.as_ref().and_then(|handshake| handshake.credential.as_ref());
        let headers = credential.unwrap_or(head);
        let asked = Asked { host: &host.name, path: &path, method, headers, certificate };
        let (permit, rewritten) = deadline.before(pin!(gateway.decide(route, &asked, record))).await?;
        let sent = match &rewritten {
            Some(rewritten) => path::normalize(rewritten)?,
            None => path,
        };
        let target = upstream_target(request.uri(), &sent)?;
        let trailers = Trailers::of(head, &**gateway.identity.managed());
        let forwarded = Forwarded {
            hop: &client.hop,
            trusted,
            client: record.client,
            host: host.value.as_ref(),
            request_id: record.request_id,
            trace: record.trace,
        };
        let switch = handshake.as_ref().map(|handshake| upstream::Handshake::new(handshake.key.clone()));
        let upstream = &route.upstream;
        let keep_authorization = upstream.config().keep_authorization;
        let exchange = Exchange {
            host: host.value.clone(),
            trailers,
            managed: gateway.identity.managed(),
            body_stall: gateway.server.limits.body_stall,
            affinity: affinity(upstream.config().balance, &permit, record.client),
            handshake: switch.as_ref(),
        };
        if let Some(target) = target {
            *request.uri_mut() = target;
        }
        let body = request.body_mut();
        if !body.is_end_stream() {
            body.set_limit(route.config.body.unwrap_or(u64::MAX));
            body.count_into(record.count_in());
        }
        let (handshake, client_end) = match handshake {
            Some(handshake) => (Some(handshake.prepare(&mut request)), request.body_mut().upgrade()),
            None => (None, None),
        };
        let (websocket, edits) = (handshake.is_some(), &route.config.request_headers);
        let assertion = route.assertion.as_ref().map(|assertion| (assertion, record.time));
        let identity = &gateway.identity;
        let stamp_with = Stamp { identity, forwarded, keep_authorization, websocket, edits, assertion };
        let vetted = stamp(request, &permit, &stamp_with)?;

        record.upstream = Some(Arc::clone(&upstream.config().name));
        let mut timing = Noted { timing: Timing::default(), record };
        let answer = vetted.send(upstream, &self.connections, &exchange, &mut timing.timing);
        let mut response = deadline.before(pin!(answer)).await?;
        route.config.response_headers.apply(response.headers_mut());
        let held = Held::new(permit, route.config.stream_grace);
        let tunnel = match handshake {
            Some(handshake) => handshake.conclude(&mut response, switch.and_then(upstream::Handshake::into_tunnel))?,
            None => None,
        };
        let Some((upstream, client)) = tunnel.zip(client_end) else {
            return Ok(Answered { response: deadline.watch(response), held, ends: None });
        };
        let idle = route.config.websocket.as_ref().map_or(Duration::MAX, |config| config.idle);
        let ends = Ends { client, upstream, deadline, idle, stall: gateway.server.limits.body_stall };
        Ok(Answered { response, held, ends: Some(Box::new(ends)) })
    }
}

impl Service for Worker {
    type Client = Client;
    type Body = Told<Lasting>;

    fn connected(&self, info: ConnInfo) -> Client {
        Client { hop: Hop::new(info.peer, info.local, &info.transport), info }
    }

    fn call(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.handle(client, request)
    }

    fn refuse(&self, client: &Client, refusal: Refusal) -> Response<Self::Body> {
        // There is no request to take these from, so the line says that there was none.
        let mut nothing = Request::new(());
        *nothing.method_mut() = Method::from_bytes(b"-").unwrap_or_default();
        let mut record = Record::begin(&self.log, self.clock.now(), client.info.peer, &nothing);
        record.path = Path::default();
        record.tls = client.info.transport.tls().map(|session| session.version);
        let response = problem_response(&refusal.into(), Tongue::Http, &mut record);
        Tongue::Http.told(Lasting::answer(record, response, || None))
    }

    fn refuse_request<B>(&self, client: &Client, request: &Request<B>, refusal: Refusal) -> Response<Self::Body> {
        let mut record = Record::begin(&self.log, self.clock.now(), client.info.peer, request);
        let tongue = Tongue::of(request);
        record.tls = client.info.transport.tls().map(|session| session.version);
        let response = problem_response(&refusal.into(), tongue, &mut record);
        tongue.told(Lasting::answer(record, response, || None))
    }
}

/// What `balance = "hash"` goes by: the user, or the address of a client that is nobody.
fn affinity(balance: Balance, permit: &Permit, client: Peer) -> u64 {
    match (balance, permit.principal()) {
        (Balance::Least | Balance::RoundRobin, _) => 0,
        (Balance::Hash, Some(principal)) => upstream::affinity(principal.subject().as_bytes()),
        (Balance::Hash, None) => match client {
            Peer::Ip(IpAddr::V4(address)) => upstream::affinity(&address.octets()),
            Peer::Ip(IpAddr::V6(address)) => upstream::affinity(&address.octets()),
            Peer::Unix | Peer::Unknown => upstream::affinity(b""),
        },
    }
}

/// What happened upstream goes into the record also when the client leaves in the middle.
struct Noted<'a> {
    timing: Timing,
    record: &'a mut Record,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.record.server = self.timing.server.take();
        self.record.retries = self.timing.retries;
        self.record.first_byte = self.timing.first_byte;
    }
}

/// A trusted proxy's names for this request are continued.
fn continue_names(record: &mut Record, headers: &HeaderMap) {
    if let Some(id) = first(headers, &X_REQUEST_ID).and_then(RequestId::continued) {
        record.request_id = id;
    }
    if let Some(trace) = first(headers, &TRACEPARENT).and_then(|value| TraceContext::parse(value.as_bytes()).ok()) {
        record.trace = trace;
    }
}

/// A body that is declared too large is refused before anything else is done for it.
fn check_length(limit: Option<u64>, body: &RequestBody) -> Result<(), Problem> {
    match limit {
        Some(limit) if body.size_hint().lower() > limit => Err(Problem { close: true, ..Code::BodyTooLarge.into() }),
        _ => Ok(()),
    }
}

/// The target to send: the path that was decided on and the query as it came. `None` when that is
/// what the request has already.
fn upstream_target(uri: &http::Uri, path: &NormalPath<'_>) -> Result<Option<http::Uri>, Problem> {
    if uri.authority().is_none() && uri.path() == path.text {
        return Ok(None);
    }
    let target = match uri.query() {
        Some(query) => format!("{}?{query}", path.text),
        None => path.text.clone().into_owned(),
    };
    match target.parse() {
        Ok(uri) => Ok(Some(uri)),
        Err(_) => Err(Problem::from(Code::PathAmbiguous).because("target")),
    }
}
