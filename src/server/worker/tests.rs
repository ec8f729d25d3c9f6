use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::*;
use crate::http::Body;
use crate::server::body::RequestBody;
use crate::server::framing::{HeadLimits, Refusal};
use crate::server::io::Patience;

const PLAIN: Entrance = Entrance::Plain { h2c: false };
const TERMS: Terms = Terms { most: None, proxy_protocol: false };
const LONG: Duration = Duration::from_secs(60);

/// Answers with the name of its thread; what it does before is in the path.
struct Named {
    gate: Arc<Gate>,
}

/// Where requests for `/wait` wait, and say that they do.
#[derive(Debug)]
struct Gate {
    arrived: Semaphore,
    open: Semaphore,
}

impl Service for Named {
    type Client = ();
    type Body = Body;

    fn connected(&self, _info: ConnInfo) {}

    async fn call(self: Rc<Self>, _client: Rc<()>, request: Request<RequestBody>) -> Response<Body> {
        match request.uri().path() {
            "/panic" => panic!("as asked"),
            "/wait" => {
                self.gate.arrived.add_permits(1);
                self.gate.open.acquire().await.unwrap().forget();
            }
            _ => {}
        }
        let name = std::thread::current().name().unwrap().to_owned();
        Response::new(Body::from(Bytes::from(name)))
    }

    fn refuse(&self, _client: &(), refusal: Refusal) -> Response<Body> {
        let mut response = Response::new(Body::from(Bytes::from(format!("{refusal:?}"))));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    fn refuse_request<B>(&self, client: &(), _request: &Request<B>, refusal: Refusal) -> Response<Body> {
        self.refuse(client, refusal)
    }
}

/// Workers behind a listener, and the switch.
struct Setup {
    workers: Workers,
    address: SocketAddr,
    switch: watch::Sender<Lifecycle>,
    admission: watch::Sender<Admission>,
    gate: Arc<Gate>,
    metrics: Metrics,
}

impl Setup {
    fn new(count: usize, most: usize) -> Self {
        let patience = Patience { idle: LONG, request_head: LONG, body_stall: LONG };
        let limits = ConnectionLimits {
            head: HeadLimits { bytes: 8192, lines: 100 },
            patience,
            handshake: LONG,
            h2_streams: 128,
        };
        let (switch, lifecycle) = watch::channel(Lifecycle::Running);
        let gate = Arc::new(Gate { arrived: Semaphore::new(0), open: Semaphore::new(0) });
        let make = {
            let gate = Arc::clone(&gate);
            move || Named { gate: Arc::clone(&gate) }
        };
        let workers = Workers::start(count, &lifecycle, make).unwrap();
        let (listener, address) = bind();
        let metrics = Metrics::new();
        let (admission, admitted) = watch::channel(Admission { most, limits, trusted: Arc::default() });
        tokio::spawn(workers.inboxes().accept(listener, PLAIN, TERMS, admitted, &metrics, lifecycle).unwrap());
        Self { workers, address, switch, admission, gate, metrics }
    }

    /// One more listener, with a switch of its own.
    fn listen(&self) -> (SocketAddr, watch::Sender<Lifecycle>) {
        let (listener, address) = bind();
        let (switch, lifecycle) = watch::channel(Lifecycle::Running);
        let admitted = self.admission.subscribe();
        let accept = self.workers.inboxes().accept(listener, PLAIN, TERMS, admitted, &self.metrics, lifecycle);
        tokio::spawn(accept.unwrap());
        (address, switch)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A new connection, and the answer it got.
    async fn visit(&self) -> (TcpStream, String) {
        let mut stream = self.connect().await;
        let answer = ask(&mut stream, "/").await;
        (stream, answer)
    }

    /// Waits until so many connections are open. The count changes on another thread, which
    /// tells nobody.
    async fn until_open(&self, count: usize) {
        let reached = async {
            while self.workers.open() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, reached).await.unwrap();
    }

    /// Waits for the threads to end.
    async fn join(self) {
        let join = tokio::task::spawn_blocking(move || self.workers.join());
        tokio::time::timeout(LONG, join).await.unwrap().unwrap();
    }
}

fn bind() -> (ListeningSocket, SocketAddr) {
    let listener = ListeningSocket::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = listener.address().unwrap().tcp().unwrap();
    (listener, address)
}

async fn send(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
}

/// Sends a request and reads the body of the answer.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    send(stream, path).await;
    let answer = answer(stream).await;
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Reads one answer.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "the connection ended in {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
}

/// What comes until the connection ends, which may also be by a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap();
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_connection_goes_to_the_worker_with_the_fewest_and_stays_there() {
    let setup = Setup::new(3, 100);
    let mut of_worker: BTreeMap<String, Vec<TcpStream>> = BTreeMap::new();
    for _ in 0..6 {
        let (mut stream, name) = setup.visit().await;
        assert_eq!(ask(&mut stream, "/").await, name, "the next request is on the same thread");
        of_worker.entry(name).or_default().push(stream);
    }
    let counts: Vec<_> = of_worker.iter().map(|(name, streams)| (name.as_str(), streams.len())).collect();
    assert_eq!(counts, [("worker-0", 2), ("worker-1", 2), ("worker-2", 2)]);
    let gauge = Listener::new(setup.address.to_string());
    assert_eq!(setup.metrics.connections.get_or_create(&gauge).get(), 6);

    drop(of_worker.remove("worker-1"));
    setup.until_open(4).await;
    let (_first, first) = setup.visit().await;
    let (_second, second) = setup.visit().await;
    assert_eq!([first, second], ["worker-1", "worker-1"], "it has the fewest");
}

#[tokio::test]
async fn one_connection_too_many_hears_so_and_costs_the_others_nothing() {
    let setup = Setup::new(2, 2);
    let (mut first, _) = setup.visit().await;
    let (second, _) = setup.visit().await;
    let mut third = setup.connect().await;
    let refused = rest(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.ends_with("connection: close\r\n\r\nOverloaded"), "{refused}");
    drop(third);
    assert!(ask(&mut first, "/").await.starts_with("worker-"));

    drop(second);
    setup.until_open(1).await;
    assert!(setup.visit().await.1.starts_with("worker-"), "there is a place again");
}

#[tokio::test]
async fn draining_finishes_what_was_begun_and_takes_nothing_new() {
    let setup = Setup::new(2, 100);
    let (mut idle, _) = setup.visit().await;
    let mut busy = setup.connect().await;
    send(&mut busy, "/wait").await;
    setup.gate.arrived.acquire().await.unwrap().forget();

    setup.switch.send_replace(Lifecycle::Draining);
    assert_eq!(rest(&mut idle).await, "", "an idle connection is closed");
    setup.until_open(1).await;
    assert!(TcpStream::connect(setup.address).await.is_err(), "nobody listens");

    setup.gate.open.add_permits(1);
    let answer = rest(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("worker-1"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    setup.join().await;
}

#[tokio::test]
async fn a_listener_ends_with_its_own_connections_and_no_others() {
    let setup = Setup::new(1, 100);
    let (mut kept, _) = setup.visit().await;
    let (address, switch) = setup.listen();
    let (mut idle, mut busy) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    ask(&mut idle, "/").await;
    send(&mut busy, "/wait").await;
    setup.gate.arrived.acquire().await.unwrap().forget();

    switch.send_replace(Lifecycle::Draining);
    assert_eq!(rest(&mut idle).await, "", "an idle connection is closed");
    setup.until_open(2).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    assert_eq!(ask(&mut kept, "/").await, "worker-0", "the other listener's connection stays");
    assert_eq!(setup.visit().await.1, "worker-0", "and it takes new ones");

    setup.gate.open.add_permits(1);
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 200 OK"), "what was begun is finished");
}

#[tokio::test]
async fn new_limits_hold_for_new_connections() {
    let setup = Setup::new(1, 1);
    let (mut first, _) = setup.visit().await;
    setup.admission.send_modify(|admission| {
        admission.most = 2;
        admission.limits.head.lines = 1;
    });
    let mut second = setup.connect().await;
    let two_lines = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    second.write_all(two_lines).await.unwrap();
    assert!(rest(&mut second).await.ends_with("HeadTooLarge"), "there is room for it, with the new limit");
    first.write_all(two_lines).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200 OK"), "the old connection keeps the old one");
}

#[tokio::test]
async fn stopping_cuts_what_is_open() {
    let setup = Setup::new(1, 100);
    let mut busy = setup.connect().await;
    send(&mut busy, "/wait").await;
    setup.gate.arrived.acquire().await.unwrap().forget();
    setup.switch.send_replace(Lifecycle::Stopping);
    assert_eq!(rest(&mut busy).await, "");
    setup.join().await;
}

#[tokio::test]
async fn a_panic_ends_its_connection_only() {
    let setup = Setup::new(1, 100);
    let (mut other, _) = setup.visit().await;
    let mut bad = setup.connect().await;
    send(&mut bad, "/panic").await;
    assert_eq!(rest(&mut bad).await, "");
    assert_eq!(ask(&mut other, "/").await, "worker-0");
    setup.until_open(1).await;
    assert_eq!(setup.visit().await.1, "worker-0", "and its place is given back");
}
