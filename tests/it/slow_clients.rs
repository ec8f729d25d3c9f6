//! Slow and greedy clients: each loses its own connection, after a while that is configured, and nobody
//! else notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::tempdir;
use tokio::net::UnixStream;

use crate::support::h2::{
    END_HEADERS, END_STREAM, H2, HEADERS, PREFACE, SETTINGS, block, frame, get, headers, request,
};
use crate::support::{Answer, Certificate, Client, Portcullis, TlsClient, Upstream, route, soon, until};

const GET: &str = "GET /a HTTP/1.1\r\nHost: gw\r\n\r\n";
const H2C: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";

/// One worker, with this line of limits, in front of this upstream.
async fn limited(limit: &str, listener: &str, upstream: &Upstream) -> Portcullis {
    let server = format!("[server]\nworkers = 1\ndrain = \"2s\"\n[server.limits]\n{limit}\n");
    Portcullis::start(&(server + listener + &upstream.toml("app") + &route("/*", "app", "\"public\""))).await
}

/// Sends byte after byte, without end, until the gateway has had enough; returns what it said.
async fn dripped(mut client: Client, start: &[u8], drop: &[u8]) -> Vec<u8> {
    client.send(start).await;
    let drip = async {
        loop {
            client.send(drop).await;
            // The pace of the attack: always well within any time that is counted from the last byte.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Some(said) = client.read_if_closed().await {
                return said;
            }
        }
    };
    soon("the end of a connection that drips", drip).await
}

#[tokio::test]
async fn a_head_that_comes_in_drops_has_one_deadline_from_its_first_byte() {
    let upstream = Upstream::start().await;
    let gate = limited("request_head = \"300ms\"", "", &upstream).await;
    let mut neighbor = gate.raw().await;
    assert_eq!(neighbor.exchange(GET).await.status, 200);
    for (start, drop) in [(&b"GET /x HTTP/1.1\r\nHost: gw\r\nX: "[..], &b"y"[..]), (b"GET /x", b"x"), (b"", b"\r\n")] {
        let said = dripped(gate.raw().await, start, drop).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        // Too many empty lines are no request, whenever they come.
        let expected = if start.is_empty() { "HTTP/1.1 4" } else { "HTTP/1.1 408 " };
        assert!(said.starts_with(expected), "{said}");
    }
    assert_eq!(neighbor.exchange(GET).await.status, 200);
    assert!(upstream.requests().iter().all(|seen| seen.target == "/a"));
}

#[tokio::test]
async fn a_head_over_http2_that_comes_in_drops_has_one_deadline_too() {
    let upstream = Upstream::start().await;
    let gate = limited("request_head = \"300ms\"", H2C, &upstream).await;
    let mut neighbor = H2::open(gate.address()).await;
    assert_eq!(neighbor.exchange(get(1, "/a"), 1).await.status(), 200);
    // Of the preface; and of a header block, byte by byte in frames that look fine.
    let said = dripped(gate.raw().await, b"", PREFACE.get(..1).unwrap()).await;
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 4"), "it was no preface from its second byte on");
    let mut stuck = gate.raw().await;
    stuck.send(PREFACE.get(..20).unwrap()).await;
    assert!(String::from_utf8_lossy(&stuck.read_to_close().await).starts_with("HTTP/1.1 408 "));
    let opening =
        [PREFACE, &frame(SETTINGS, 0, 0, []), &frame(HEADERS, END_STREAM, 1, block(&request("GET", "/x", &[])))]
            .concat();
    let mut client = gate.raw().await;
    client.send(opening).await;
    client.read_to_close().await;
    assert_eq!(neighbor.exchange(get(3, "/a"), 3).await.status(), 200);
    assert!(upstream.requests().iter().all(|seen| seen.target == "/a"));
}

#[tokio::test]
async fn a_body_that_stands_still_anywhere_in_its_framing_is_408() {
    let upstream = Upstream::start().await;
    let gate = limited("body_stall = \"200ms\"", "", &upstream).await;
    for body in [
        "Content-Length: 10\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: ",
    ] {
        let mut client = gate.raw().await;
        client.send(format!("POST /x HTTP/1.1\r\nHost: gw\r\n{body}")).await;
        client.read().await.expect(408, "request_timeout");
        client.closed().await;
    }
    assert!(upstream.requests().is_empty(), "none of them looked whole");
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut_on_tcp_and_on_a_unix_socket() {
    let folder = tempdir().unwrap();
    let large = "x".repeat(20_000_000);
    let upstream = Upstream::scripted(move |_| Answer::ok(&large)).await;
    let path = folder.path().join("p.sock");
    let listeners =
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"unix:{}\"\n", path.display());
    let gate = limited("body_stall = \"200ms\"", &listeners, &upstream).await;
    let unix = Client::over(UnixStream::connect(&path).await.unwrap());
    for (connection, (mut client, target)) in [(gate.raw().await, "/tcp"), (unix, "/unix")].into_iter().enumerate() {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
        // Nothing is read: the sockets fill up, and then the gateway has waited long enough.
        assert_eq!(gate.access_line(target).await["status"], 499);
        upstream.closed(connection).await;
    }
}

#[tokio::test]
async fn it_is_the_same_over_tls() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let certificates =
        site.write(folder.path(), "site").replace("site.", &format!("{}/site.", folder.path().display()));
    let tls = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\ncertificates = [{certificates}]\n");
    let upstream = Upstream::start().await;
    let gate = limited("request_head = \"300ms\"\nbody_stall = \"300ms\"", &tls, &upstream).await;
    let site = TlsClient::new(&[&site], None);
    let connect = || site.connect(gate.address(), "app.example");

    let said = dripped(connect().await, b"GET /x HTTP/1.1\r\nHost: app.example\r\nX: ", b"y").await;
    assert!(said.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&said));
    let mut body = connect().await;
    body.send("POST /x HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\nabc").await;
    body.read().await.expect(408, "request_timeout");

    let fields = [(":method", "POST"), (":scheme", "https"), (":path", "/x"), (":authority", "app.example")];
    let mut stream = site.connect_h2(gate.address(), "app.example").await;
    stream.send([PREFACE, &frame(SETTINGS, 0, 0, []), &headers(END_HEADERS, 1, &fields)].concat()).await;
    assert_eq!(stream.outcome(1).await.status(), 408, "a body that does not come");
    stream.send(frame(HEADERS, END_STREAM, 3, block(&fields))).await;
    stream.end().await;
    assert!(upstream.requests().is_empty());
    assert_eq!(connect().await.exchange(GET.replace("gw", "app.example")).await.status, 200);
}

#[tokio::test]
async fn hundreds_of_slow_clients_are_gone_after_their_time_and_nobody_else_notices() {
    let upstream = Upstream::start().await;
    let gate = limited("request_head = \"500ms\"\nidle = \"1h\"", "", &upstream).await;
    let mut neighbor = gate.raw().await;
    assert_eq!(neighbor.exchange(GET).await.status, 200);
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut client = gate.raw().await;
        client.send("GET /x HTTP/1.1\r\n").await;
        slow.push(client);
    }
    assert_eq!(neighbor.exchange(GET).await.status, 200);
    let series = format!("portcullis_connections{{listener=\"{}\"}}", gate.address());
    for client in &mut slow {
        client.read().await.expect(408, "request_timeout");
    }
    drop(slow);
    until("their places", async || (gate.metric(&series).await == 1).then_some(())).await;
    assert_eq!(neighbor.exchange(GET).await.status, 200);
}

#[tokio::test]
async fn a_listener_may_have_a_cap_of_its_own() {
    let upstream = Upstream::start().await;
    let small = "[[listener]]\naddress = \"127.0.0.1:0\"\nconnections = 1\n";
    let gate = limited("connections = 3", &(small.to_owned() + &small.replace("= 1\n", "= 0\n")), &upstream).await;
    let (capped, other) = (gate.addresses()[0], gate.addresses()[1]);
    let mut kept = Client::connect(capped).await;
    assert_eq!(kept.exchange(GET).await.status, 200);
    let mut surplus = Client::connect(capped).await;
    surplus.send(GET).await;
    surplus.read().await.expect(503, "overloaded");
    surplus.closed().await;
    assert_eq!(Client::connect(other).await.exchange(GET).await.status, 200, "the other has room");
    drop(kept);
    until("a free place", async || {
        let mut client = Client::connect(capped).await;
        client.send(GET).await;
        client.next("GET").await.ok().filter(|reply| reply.status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_busy_data_plane_never_starves_the_operator() {
    let toml = "[server]\nworkers = 1\ndrain = \"2s\"\n".to_owned() + &route("/*", "app", "\"public\"");
    let gate = Portcullis::start(&toml).await;
    let (address, stop) = (gate.address(), Arc::new(AtomicBool::new(false)));
    let crowd = {
        let stop = Arc::clone(&stop);
        // On a thread of their own, so that they do not wait for the operator either.
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let each = |_| ask_on_and_on(address, Arc::clone(&stop));
            let crowd: tokio::task::JoinSet<()> = {
                let _inside = runtime.enter();
                (0..64).map(each).collect()
            };
            runtime.block_on(crowd.join_all());
        })
    };
    let served = "portcullis_requests_total{route=\"/*\",code=\"200\"}";
    until("a busy worker", async || (gate.metric(served).await > 500).then_some(())).await;
    let before = gate.metric(served).await;
    let meanwhile = async {
        while gate.metric(served).await < before + 1000 {
            assert_eq!(gate.admin_get("/live").await.status, 200);
            assert_eq!(gate.admin_get("/ready").await.status, 200);
        }
    };
    soon("a thousand requests, with the operator's in between", meanwhile).await;
    stop.store(true, Ordering::Relaxed);
    soon("the last answers", crowd).await.unwrap();
}

async fn ask_on_and_on(address: SocketAddr, stop: Arc<AtomicBool>) {
    let mut client = Client::connect(address).await;
    while !stop.load(Ordering::Relaxed) {
        // The next ones are there when one is answered: the worker is never without work.
        client.send(GET.repeat(16)).await;
        for _ in 0..16 {
            assert_eq!(client.read().await.status, 200);
        }
    }
}
