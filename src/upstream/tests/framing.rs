//! What stands on the wire, in both directions.

use http::Method;

use super::*;

/// Sends a request, answers it, and returns what the server received up to `end`.
async fn received(request: Request<Sent>, end: &str) -> String {
    let script = Script::new();
    let gate = Gate::to(&script);
    let (answer, seen) = tokio::join!(gate.forward(request), async {
        let mut wire = script.accept().await;
        let seen = wire.until(end).await;
        wire.write(OK).await;
        (seen, wire)
    });
    assert_eq!(text(answer.unwrap()).await, "hi");
    assert_eq!(gate.connections_in("idle"), 1, "nothing is left to send");
    seen.0
}

/// Lets the server answer a request with these bytes and close if asked to.
async fn answered(gate: &Gate, script: &Script, request: Request<Sent>, bytes: &str, close: bool) -> Response<Body> {
    let (answer, wire) = tokio::join!(gate.forward(request), async {
        let mut wire = script.accept().await;
        wire.head().await;
        wire.write(bytes).await;
        (!close).then_some(wire)
    });
    // Kept open on purpose where the test looks at the connection.
    if let Some(wire) = wire {
        tokio::task::spawn_local(async move { { wire }.closed().await });
    }
    answer.unwrap()
}

#[test]
fn a_leftover_content_length_never_goes_with_an_empty_body() {
    on_worker(async {
        for method in [Method::GET, Method::DELETE, Method::HEAD] {
            let lines = [("content-length", "17"), ("transfer-encoding", "chunked"), ("expect", "100-continue")];
            let request = request(method.clone(), &lines, Sent::nothing());
            let script = Script::new();
            let gate = Gate::to(&script);
            let (answer, head) = tokio::join!(gate.forward(request), async {
                let mut wire = script.accept().await;
                let head = wire.head().await;
                wire.write("HTTP/1.1 204 No Content\r\n\r\n").await;
                head
            });
            answer.unwrap();
            assert_eq!(head, format!("{method} /x?y=1 HTTP/1.1\r\nhost: app.example\r\n\r\n"));
        }
        let head = received(request(Method::POST, &[("content-length", "17")], Sent::nothing()), "\r\n\r\n").await;
        assert!(head.contains("content-length: 0\r\n") && !head.contains("17"), "{head}");
    });
}

#[test]
fn a_known_length_is_stated_whatever_the_client_said() {
    on_worker(async {
        let lines = [("content-length", "3"), ("content-length", "9"), ("transfer-encoding", "chunked")];
        let seen = received(request(Method::GET, &lines, Sent::sized("hello")), "hello").await;
        assert_eq!(seen, "GET /x?y=1 HTTP/1.1\r\ncontent-length: 5\r\nhost: app.example\r\n\r\nhello");
    });
}

#[test]
fn a_body_of_unknown_length_is_chunked_for_every_method() {
    on_worker(async {
        for method in [Method::GET, Method::DELETE, Method::POST] {
            let body = Sent::of([data("hello"), data("world")]);
            let seen = received(request(method, &[("content-length", "3")], body), "0\r\n\r\n").await;
            assert!(seen.contains("transfer-encoding: chunked\r\n") && !seen.contains("content-length"), "{seen}");
            assert!(seen.ends_with("\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"), "{seen}");
        }
    });
}

#[test]
fn a_request_of_an_http_1_0_client_goes_on_as_1_1() {
    on_worker(async {
        let mut old = request(Method::POST, &[], Sent::of([data("hello")]));
        *old.version_mut() = http::Version::HTTP_10;
        let seen = received(old, "0\r\n\r\n").await;
        assert!(seen.starts_with("POST /x?y=1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n"), "{seen}");
    });
}

#[test]
fn trailers_pass_both_ways_without_those_that_may_not() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let lines = [("te", "trailers"), ("trailer", "x-sum, x-auth-subject, authorization")];
        let last = trailer_frame(&[("x-sum", "1"), ("x-auth-subject", "root"), ("authorization", "b"), ("te", "c")]);
        let body = Sent::of([data("hello"), last]);
        let (answer, seen) = tokio::join!(gate.forward(request(Method::POST, &lines, body)), async {
            let mut wire = script.accept().await;
            let head = wire.head().await;
            let body = wire.until("\r\n0\r\n").await + &wire.until("\r\n\r\n").await;
            wire.write("HTTP/1.1 200 OK\r\ntrailer: x-end, set-cookie\r\ntransfer-encoding: chunked\r\n\r\n").await;
            wire.write("2\r\nhi\r\n0\r\nx-end: 2\r\nset-cookie: a=b\r\ncontent-length: 9\r\n\r\n").await;
            (head, body, wire)
        });
        let (head, body, _wire) = seen;
        assert!(head.contains("trailer: x-sum\r\n"), "{head}");
        assert!(head.contains("te: trailers\r\n") && head.contains("connection: te\r\n"), "{head}");
        assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
        let answer = answer.unwrap();
        assert_eq!(answer.headers()["trailer"], "x-end");
        assert_eq!(read(answer).await.unwrap(), ("hi".to_owned(), headers(&[("x-end", "2")])));
        assert_eq!(gate.connections_in("idle"), 1);
    });
}

#[test]
fn an_http_1_0_server_is_understood_but_its_connection_is_not_kept() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let bytes = "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end";
        let answer = answered(&gate, &script, get(), bytes, true).await;
        assert_eq!(answer.version(), http::Version::HTTP_11);
        assert_eq!(text(answer).await, "until the end");

        let bytes = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi";
        let answer = answered(&gate, &script, get(), bytes, false).await;
        assert_eq!(text(answer).await, "hi");
        assert_eq!(gate.connections_in("idle"), 0, "it may not know chunks");
    });
}

#[test]
fn answers_without_a_body_have_none() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        for (method, bytes, length) in [
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", Some("10")),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 10, 10\r\n\r\n", None),
            (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", Some("10")),
            (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 10\r\n\r\n", None),
        ] {
            let gone = Gate::to(&script);
            let answer = answered(&gone, &script, request(method, &[], Sent::nothing()), bytes, false).await;
            let stated = crate::http::first(answer.headers(), &http::header::CONTENT_LENGTH);
            assert_eq!(stated.map(|value| value.to_str().unwrap()), length, "{bytes}");
            assert!(matches!(answer.body(), Body::Empty), "{bytes}");
            assert_eq!(gone.connections_in("idle"), 1, "{bytes}");
        }
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn interim_answers_are_skipped() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let bytes = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{OK}");
        let answer = answered(&gate, &script, get(), &bytes, false).await;
        assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (200, "hi"));
    });
}

#[test]
fn a_length_beside_chunks_is_dropped_and_the_connection_closed() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let bytes = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        let answer = answered(&gate, &script, get(), bytes, false).await;
        assert!(!answer.headers().contains_key("content-length"));
        assert!(!answer.headers().contains_key("transfer-encoding"));
        assert_eq!(text(answer).await, "hi");
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn headers_of_the_upstreams_connection_do_not_reach_the_client() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let bytes = "HTTP/1.1 200 Fine\r\nconnection: keep-alive, X-Hop\r\nconnection: x-hop-2\r\nx-hop: 1\r\nx-hop-2: 2\r\n\
                     keep-alive: timeout=5\r\nupgrade: h2c\r\nproxy-authenticate: Basic\r\nset-cookie: a\r\n\
                     set-cookie: b\r\ncontent-length: 2\r\n\r\nhi";
        let answer = answered(&gate, &script, get(), bytes, false).await;
        assert_eq!(*answer.headers(), headers(&[("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "2")]));
        assert_eq!(text(answer).await, "hi");
        assert_eq!(gate.connections_in("idle"), 1);
    });
}

#[test]
fn the_host_is_the_configured_one() {
    on_worker(async {
        let script = Script::new();
        let own = script.endpoint().authority;
        for (config, expected) in [
            (HostHeader::Preserve, "app.example"),
            (HostHeader::Server, own.as_str()),
            (HostHeader::Fixed("fixed.example".to_owned()), "fixed.example"),
        ] {
            let gate = Gate::with(&script, |upstream| upstream.host = config);
            let lines = [("host", "smuggled.example"), ("host", "second.example")];
            let (answer, head) = tokio::join!(gate.forward(request(Method::GET, &lines, Sent::nothing())), async {
                let mut wire = script.accept().await;
                let head = wire.head().await;
                wire.write(OK).await;
                head
            });
            answer.unwrap();
            assert_eq!(head, format!("GET /x?y=1 HTTP/1.1\r\nhost: {expected}\r\n\r\n"));
        }
    });
}
