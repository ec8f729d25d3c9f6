//! Upstreams that speak HTTP/2, from clients of either version.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::h2_upstream::{H2Upstream, read};
use crate::support::{Portcullis, route};

/// The listener of these tests speaks both.
const H2C: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";

async fn in_front_of(upstream: &H2Upstream, settings: &str) -> Portcullis {
    Portcullis::start(&(H2C.to_owned() + &upstream.toml("app") + settings + &route("/*", "app", "\"public\""))).await
}

/// A client's connection to the gateway over HTTP/2.
async fn client(gate: &Portcullis) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn post(path: &str) -> http::request::Builder {
    Request::post(format!("http://gw{path}")).header("te", "trailers")
}

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
}

#[tokio::test]
async fn a_client_of_http_1_does_not_notice() {
    let upstream = H2Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut client = gate.raw().await;
    let head = "POST /b?c HTTP/1.1\r\nHost: gw\r\nTE: trailers\r\nConnection: te, x-hop\r\nX-Hop: 1\r\n";
    client
        .send(format!("{head}Trailer: x-in\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-in: 1\r\n\r\n"))
        .await;
    let (request, mut reply) = upstream.next().await;
    let names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
    assert!(!names.iter().any(|name| ["host", "connection", "transfer-encoding", "x-hop"].contains(name)), "{names:?}");
    assert_eq!((request.uri().authority().unwrap().as_str(), request.uri().path()), ("gw", "/b"));
    let (body, trailers) = read(request.into_body()).await.unwrap();
    assert_eq!((body.as_slice(), &trailers["x-in"]), (&b"hi"[..], &HeaderValue::from_static("1")));
    let head = Response::builder().header("trailer", "x-out").header("x-upstream", "1").body(()).unwrap();
    let mut stream = reply.send_response(head, false).unwrap();
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    stream.send_trailers(fields("x-out", "2")).unwrap();
    let answer = client.next("POST").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.trailers, [("x-out".to_owned(), "2".to_owned())]);
}

#[tokio::test]
async fn a_conversation_goes_on_in_both_directions_at_once() {
    let upstream = H2Upstream::start().await;
    let gate = in_front_of(&upstream, "").await;
    let mut sender = client(&gate).await;
    let (answer, mut sending) = sender.send_request(post("/talk").body(()).unwrap(), false).unwrap();
    let (mut request, mut reply) = upstream.next().await;
    let mut replying = reply.send_response(Response::new(()), false).unwrap();
    let mut answer = answer.await.unwrap();
    for word in ["one", "two", "three"] {
        sending.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
        assert_eq!(request.body_mut().data().await.unwrap().unwrap(), word);
        replying.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), word);
    }
    sending.send_trailers(fields("x-in", "1")).unwrap();
    assert_eq!(read(request.into_body()).await.unwrap().1, fields("x-in", "1"));
    replying.send_trailers(fields("grpc-status", "0")).unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap().1, fields("grpc-status", "0"));
}

#[tokio::test]
async fn what_the_server_does_wrong_is_the_same_problem_as_over_http_1() {
    let upstream = H2Upstream::start().await;
    let gate = in_front_of(&upstream, "response_head = \"300ms\"\nretries = 0\n").await;
    for (path, reset, status, code, reason) in [
        ("/reset", Some(Reason::INTERNAL_ERROR), 502, "upstream_unreachable", "closed"),
        ("/refused", Some(Reason::REFUSED_STREAM), 502, "upstream_unreachable", "closed"),
        ("/silent", None, 504, "upstream_timeout", "head_timeout"),
    ] {
        let (answer, _held) = tokio::join!(gate.get(path), async {
            let (request, mut reply) = upstream.next().await;
            if let Some(reset) = reset {
                reply.send_reset(reset);
            }
            (request, reply)
        });
        answer.expect(status, code);
        assert_eq!(gate.access_line(path).await["reason"], reason);
    }
    let mut client = gate.raw().await;
    client.send("GET /half HTTP/1.1\r\nHost: gw\r\n\r\n").await;
    let (_, mut reply) = upstream.next().await;
    let head = Response::builder().header("x-upstream", "1").body(()).unwrap();
    let mut stream = reply.send_response(head, false).unwrap();
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    client.peek(b"half").await;
    stream.send_reset(Reason::CANCEL);
    client.next("GET").await.expect_err("it never ends cleanly");
}

#[tokio::test]
async fn probes_speak_it_too() {
    let upstream = H2Upstream::start().await;
    let health = "[upstream.app.health]\npath = \"/healthz\"\nevery = \"50ms\"\ntimeout = \"50ms\"\nup = 1\ndown = 1\n";
    let gate = in_front_of(&upstream, health).await;
    for (status, healthy) in [(StatusCode::OK, true), (StatusCode::SERVICE_UNAVAILABLE, false), (StatusCode::OK, true)]
    {
        let reached = async || {
            let (request, mut reply) = upstream.next().await;
            assert_eq!(request.uri().path(), "/healthz");
            assert_eq!(request.headers()["user-agent"], "portcullis-health");
            reply.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
            let shown: Value = gate.admin_get("/upstreams").await.json();
            shown.to_string().contains(&format!("\"healthy\":{healthy}")).then_some(())
        };
        crate::support::until("what the probe found", reached).await;
    }
}
