//! gRPC: what the gateway says to clients that read nothing but `grpc-status`, and what it leaves alone.

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::h2_upstream::{H2Upstream, read};
use crate::support::{FakePool, Portcullis, route, soon};

const H2C: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";

/// Routes of every kind to a server that speaks gRPC, and one to nobody.
async fn in_front_of(upstream: &H2Upstream) -> (FakePool, Portcullis) {
    let pool = FakePool::start().await;
    let nobody = "[upstream.nobody]\nservers = [\"http://127.0.0.1:1\"]\nprotocol = \"h2\"\n";
    let routes = route("/open.S/*", "app", "\"public\"")
        + "[[route]]\npath = \"/timed.S/*\"\nupstream = \"app\"\naccess = \"public\"\ntimeout = \"300ms\"\n"
        + "[[route]]\npath = \"/limited.S/*\"\nupstream = \"app\"\naccess = \"public\"\nlimit = { rate = \"1/1m\", burst = 1 }\n"
        + &route("/closed.S/*", "app", "\"required\"")
        + &route("/admin.S/*", "app", "{ groups = [\"admin\"] }")
        + &route("/nobody.S/*", "nobody", "\"public\"");
    let gate =
        Portcullis::start(&(H2C.to_owned() + &pool.toml("main") + &upstream.toml("app") + nobody + &routes)).await;
    (pool, gate)
}

/// A client's connection to the gateway.
async fn client(gate: &Portcullis) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn call(path: &str) -> http::request::Builder {
    Request::post(format!("http://gw{path}")).header("content-type", "application/grpc+proto").header("te", "trailers")
}

/// The answer to a call that sends one message and its end.
async fn answered(
    client: &mut h2::client::SendRequest<Bytes>,
    request: http::request::Builder,
) -> Result<Response<RecvStream>, h2::Error> {
    let (answer, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sending.send_data(Bytes::from_static(b"\0\0\0\0\x01m"), true).unwrap();
    soon("an answer", answer).await
}

/// What a refused call is told: its status and message.
fn told(head: &HeaderMap) -> (String, String) {
    let text = |name: &str| head[name].to_str().unwrap().to_owned();
    (text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn a_refusal_is_a_grpc_status_in_the_head() {
    let upstream = H2Upstream::start().await;
    let (pool, gate) = in_front_of(&upstream).await;
    let mut client = client(&gate).await;
    let (pat, expired) = (pool.access(json!({})), pool.access(json!({ "exp": 1_000_000_000 })));
    let bearer = |token: &str| format!("Bearer {token}");
    for (path, token, status, code) in [
        ("/closed.S/missing", None, "16", "token_missing"),
        ("/closed.S/expired", Some(&expired), "16", "token_expired"),
        ("/admin.S/denied", Some(&pat), "7", "access_denied"),
        ("/unknown.S/m", None, "12", "route_unknown"),
        ("/nobody.S/m", None, "14", "upstream_unreachable"),
    ] {
        let mut request = call(path);
        if let Some(token) = token {
            request = request.header("authorization", bearer(token));
        }
        let answer = answered(&mut client, request).await.unwrap();
        assert!(answer.body().is_end_stream(), "all of it is in the head");
        let head = answer.headers();
        assert_eq!((answer.status().as_u16(), &head["content-type"]), (200, &"application/grpc".parse().unwrap()));
        assert!(head.contains_key("x-request-id") && !head.contains_key("www-authenticate"));
        let (told, message) = told(head);
        assert_eq!(told, status, "{path}: {message}");
        assert!(message.len() > 10, "{message}");
        let line = gate.access_line(path).await;
        assert_eq!((&line["code"], &line["status"]), (&code.into(), &200.into()), "{line}");
    }
}

#[tokio::test]
async fn a_limit_is_an_exhausted_resource() {
    let upstream = H2Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream).await;
    let mut client = client(&gate).await;
    let (first, ()) = tokio::join!(answered(&mut client, call("/limited.S/m")), async {
        let (_, mut reply) = upstream.next().await;
        reply.send_response(Response::builder().header("grpc-status", "0").body(()).unwrap(), true).unwrap();
    });
    assert_eq!(first.unwrap().headers()["grpc-status"], "0");
    let second = answered(&mut client, call("/limited.S/m")).await.unwrap();
    assert_eq!(told(second.headers()).0, "8");
}

#[tokio::test]
async fn whoever_speaks_something_else_gets_a_problem() {
    let upstream = H2Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream).await;
    let mut client = client(&gate).await;
    for content_type in ["application/json", "application/grpc-web+proto"] {
        let request = Request::post("http://gw/closed.S/m").header("content-type", content_type);
        let answer = answered(&mut client, request).await.unwrap();
        assert_eq!(answer.status(), 401, "{content_type}");
        assert!(!answer.headers().contains_key("grpc-status"));
    }
    // Over HTTP/1.1 it is a gRPC client all the same.
    let headers = [("Content-Type", "application/grpc")];
    let answer = gate.request("POST", "/closed.S/m", &headers, "").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("16")));
}

#[tokio::test]
async fn what_the_server_says_of_a_call_passes_as_it_is() {
    let upstream = H2Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream).await;
    let mut client = client(&gate).await;
    let deadline = call("/open.S/m").header("grpc-timeout", "250m").header("x-auth-subject", "root");
    let (answer, ()) = tokio::join!(answered(&mut client, deadline), async {
        let (request, mut reply) = upstream.next().await;
        assert_eq!(
            (&request.headers()["grpc-timeout"], request.headers().contains_key("x-auth-subject")),
            (&"250m".parse().unwrap(), false)
        );
        assert_eq!(request.headers()["te"], "trailers");
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
        let head = head.header("grpc-message", "no such thing").body(()).unwrap();
        reply.send_response(head, true).unwrap();
    });
    let answer = answer.unwrap();
    assert!(answer.body().is_end_stream(), "trailers alone stay alone");
    assert_eq!(told(answer.headers()), ("5".to_owned(), "no such thing".to_owned()));
}

#[tokio::test]
async fn a_call_that_is_cut_ends_with_a_status() {
    let upstream = H2Upstream::start().await;
    let (_pool, gate) = in_front_of(&upstream).await;
    let mut client = client(&gate).await;
    // Before the answer has begun.
    let (late, _held) = tokio::join!(answered(&mut client, call("/timed.S/m")), upstream.next());
    assert_eq!(told(late.unwrap().headers()).0, "4");

    // And afterwards.
    let head = || Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    for (path, status) in [("/timed.S/n", "4"), ("/open.S/n", "14")] {
        let (answer, (_request, mut stream)) = tokio::join!(answered(&mut client, call(path)), async {
            let (request, mut reply) = upstream.next().await;
            let mut stream = reply.send_response(head(), false).unwrap();
            stream.send_data(Bytes::from_static(b"\0\0\0\0\x01m"), false).unwrap();
            (request, stream)
        });
        let mut body = answer.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), &b"\0\0\0\0\x01m"[..]);
        if status == "14" {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        let (_, trailers) = read(body).await.unwrap();
        assert_eq!(told(&trailers).0, status, "{path}");
    }
}
