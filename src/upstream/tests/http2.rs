//! Exchanges with servers that speak HTTP/2.

use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// A gate to a server that has to speak HTTP/2.
fn gate_to(script: &Script) -> Gate {
    Gate::with(script, |config| config.protocol = Protocol::Http2)
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// One connection, as the server sees it. It goes on by itself, until it is dropped.
struct Server {
    requests: mpsc::UnboundedReceiver<Accepted>,
    goes: Option<oneshot::Sender<Going>>,
    task: JoinHandle<()>,
}

/// How a server goes.
enum Going {
    /// It answers what it has.
    Gracefully,
    /// It has looked at nothing.
    Abruptly,
}

impl Server {
    fn go(&mut self, how: Going) {
        assert!(self.goes.take().expect("it goes once").send(how).is_ok(), "the connection is over");
    }

    /// Waits until the connection is over.
    async fn over(mut self) {
        while self.requests.recv().await.is_some() {}
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(script: &Script) -> Server {
    accept_with(script, &h2::server::Builder::new()).await
}

async fn accept_with(script: &Script, builder: &h2::server::Builder) -> Server {
    let mut connection: Connection<TcpStream, Bytes> = builder.handshake(script.accept().await.stream).await.unwrap();
    let (accepted, requests) = mpsc::unbounded_channel();
    let (goes, mut told) = oneshot::channel();
    let task = tokio::task::spawn_local(async move {
        let mut has_gone = false;
        loop {
            tokio::select! {
                biased;
                Ok(how) = &mut told, if !has_gone => {
                    has_gone = true;
                    match how {
                        Going::Gracefully => connection.graceful_shutdown(),
                        Going::Abruptly => connection.abrupt_shutdown(Reason::NO_ERROR),
                    }
                }
                next = connection.accept() => match next {
                    Some(Ok(request)) => {
                        // A test that has seen enough lets the connection go on.
                        let _unread = accepted.send(request);
                    }
                    _ => return,
                },
            }
        }
    });
    Server { requests, goes: Some(goes), task }
}

/// The next request of a connection.
async fn next(server: &mut Server) -> Accepted {
    server.requests.recv().await.expect("the connection is over")
}

/// Answers with this body, and the end.
fn answer(reply: &mut SendResponse<Bytes>, text: &'static str) {
    let mut stream = reply.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
}

/// Reads a request's body: its text, and its trailers.
async fn received(mut body: RecvStream) -> (String, HeaderMap) {
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    (String::from_utf8(text).unwrap(), body.trailers().await.unwrap().unwrap_or_default())
}

#[test]
fn requests_share_one_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (first, second, mut server) = tokio::join!(gate.forward(get()), gate.forward(get()), async {
            let mut server = accept(&script).await;
            let (request, mut one) = next(&mut server).await;
            let (_, mut other) = next(&mut server).await;
            let uri = request.uri();
            assert_eq!(
                (uri.scheme_str(), uri.host(), request.method()),
                (Some("http"), Some("app.example"), &Method::GET)
            );
            assert_eq!(uri.path_and_query().unwrap(), "/x?y=1");
            assert!(request.headers().is_empty(), "{:?}", request.headers());
            answer(&mut one, "one");
            answer(&mut other, "other");
            server
        });
        let both = async { (text(first.unwrap()).await, text(second.unwrap()).await) };
        assert_eq!(both.await, ("one".to_owned(), "other".to_owned()));
        assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (1, 0));
        let (third, _server) = tokio::join!(async { text(gate.forward(get()).await.unwrap()).await }, async {
            answer(&mut next(&mut server).await.1, "third");
            server
        });
        assert_eq!(third, "third");
        script.assert_no_further_connection();
    });
}

#[test]
fn both_bodies_stream_at_the_same_time_and_end_with_trailers() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("ping")).unwrap();
        let post = request(Method::POST, &[("te", "trailers"), ("trailer", "x-sum")], body);
        let (response, (_server, request, mut stream)) = tokio::join!(gate.forward(post), async {
            let mut server = accept(&script).await;
            let (mut request, mut reply) = next(&mut server).await;
            assert_eq!(request.headers()["te"], "trailers");
            assert!(!request.headers().contains_key("transfer-encoding"));
            assert_eq!(request.body_mut().data().await.unwrap().unwrap(), "ping");
            let head = Response::builder().header("trailer", "x-total").body(()).unwrap();
            (server, request, reply.send_response(head, false).unwrap())
        });
        let response = response.unwrap();
        assert_eq!(response.headers()["trailer"], "x-total");
        let mut body = response.into_body();
        stream.send_data(Bytes::from_static(b"pong"), false).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "pong");
        // The server has begun to answer; the client goes on.
        client.send(data("ping again")).unwrap();
        client.send(trailer_frame(&[("x-sum", "1"), ("x-auth-subject", "root")])).unwrap();
        let (text, trailers) = received(request.into_body()).await;
        assert_eq!((text.as_str(), trailers), ("ping again", headers(&[("x-sum", "1")])));
        stream.send_trailers(headers(&[("x-total", "2")])).unwrap();
        let last = body.frame().await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap(), headers(&[("x-total", "2")]));
        assert!(body.is_end_stream());
    });
}

#[test]
fn an_answer_of_a_head_alone_has_no_body() {
    on_worker(async {
        for (method, status, length) in
            [(Method::GET, 200, None), (Method::HEAD, 200, Some("5")), (Method::GET, 304, Some("5"))]
        {
            let script = Script::new();
            let gate = gate_to(&script);
            let (response, _server) = tokio::join!(gate.forward(request(method, &[], Sent::nothing())), async {
                let mut server = accept(&script).await;
                let mut head = Response::builder().status(status).header("grpc-status", "5");
                if let Some(length) = length {
                    head = head.header("content-length", length);
                }
                next(&mut server).await.1.send_response(head.body(()).unwrap(), true).unwrap();
                server
            });
            let response = response.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["grpc-status"]),
                (status, &HeaderValue::from_static("5"))
            );
            assert!(matches!(response.body(), Body::Empty));
        }
    });
}

#[test]
fn what_the_server_never_looked_at_is_sent_again_whatever_it_is() {
    on_worker(async {
        for by_going_away in [false, true] {
            let script = Script::new();
            let gate = gate_to(&script);
            let post = request(Method::POST, &[], Sent::sized("once"));
            let (response, _server) = tokio::join!(gate.forward(post), async {
                let mut server = accept(&script).await;
                if by_going_away {
                    // The last stream that it will have looked at is none.
                    server.go(Going::Abruptly);
                    server.over().await;
                    server = accept(&script).await;
                } else {
                    next(&mut server).await.1.send_reset(Reason::REFUSED_STREAM);
                }
                let (request, mut reply) = next(&mut server).await;
                assert_eq!(received(request.into_body()).await.0, "once");
                answer(&mut reply, "hi");
                server
            });
            assert_eq!(text(response.unwrap()).await, "hi");
            assert_eq!(gate.timing.borrow().retries, 1);
        }
    });
}

#[test]
fn an_idempotent_request_outlives_the_connection_that_it_was_sent_on() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (first, mut server) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            answer(&mut next(&mut server).await.1, "first");
            server
        });
        assert_eq!(text(first.unwrap()).await, "first");
        let put = request(Method::PUT, &[], Sent::sized("twice"));
        let (second, _server) = tokio::join!(gate.forward(put), async {
            let (request, _reply) = next(&mut server).await;
            assert_eq!(received(request.into_body()).await.0, "twice");
            drop(server);
            let mut server = accept(&script).await;
            let (request, mut reply) = next(&mut server).await;
            assert_eq!(received(request.into_body()).await.0, "twice");
            answer(&mut reply, "second");
            server
        });
        assert_eq!(text(second.unwrap()).await, "second");
        assert_eq!(gate.timing.borrow().retries, 1);
    });
}

#[test]
fn what_it_may_have_looked_at_is_not() {
    on_worker(async {
        for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
            let script = Script::new();
            let gate = gate_to(&script);
            let (response, _server) =
                tokio::join!(gate.forward(request(Method::POST, &[], Sent::sized("once"))), async {
                    let mut server = accept(&script).await;
                    let (_request, mut reply) = next(&mut server).await;
                    reply.send_reset(reason);
                    server
                });
            assert!(matches!(response, Err(Error::Closed(_))), "{reason}: {response:?}");
            assert_eq!(gate.timing.borrow().retries, 0);
        }
    });
}

#[test]
fn a_server_that_goes_answers_what_it_has_and_gets_nothing_more() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (first, server) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            let (_, mut reply) = next(&mut server).await;
            let mut stream = reply.send_response(Response::new(()), false).unwrap();
            server.go(Going::Gracefully);
            stream.send_data(Bytes::from_static(b"last"), true).unwrap();
            server
        });
        assert_eq!(text(first.unwrap()).await, "last");
        let (second, _server) = tokio::join!(gate.forward(get()), async {
            server.over().await;
            let mut server = accept(&script).await;
            answer(&mut next(&mut server).await.1, "first");
            server
        });
        assert_eq!(text(second.unwrap()).await, "first");
        assert_eq!(gate.timing.borrow().retries, 0);
    });
}

#[test]
fn a_body_that_breaks_off_never_ends_cleanly() {
    on_worker(async {
        for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
            let script = Script::new();
            let gate = gate_to(&script);
            let (response, (_server, mut stream)) = tokio::join!(gate.forward(get()), async {
                let mut server = accept(&script).await;
                let mut stream = next(&mut server).await.1.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                (server, stream)
            });
            stream.send_reset(reason);
            assert_eq!(read(response.unwrap()).await, Err(BodyError::Upstream), "{reason}");
        }
        // And when the whole connection goes.
        let script = Script::new();
        let gate = gate_to(&script);
        let (response, (server, _stream)) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            let mut stream = next(&mut server).await.1.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            (server, stream)
        });
        drop(server);
        assert_eq!(read(response.unwrap()).await, Err(BodyError::Upstream));
    });
}

#[test]
fn whatever_else_speaks_there_is_no_answer() {
    on_worker(async {
        for (said, is_invalid) in [
            ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", true),
            ("SSH-2.0-OpenSSH_9.2\r\n", true),
            ("\0\0\0\u{4}\0\0\0\0\0", false),
            ("", false),
        ] {
            let script = Script::new();
            let gate = gate_to(&script);
            let (response, ()) = tokio::join!(gate.forward(get()), async {
                let mut wire = script.accept().await;
                wire.write(said).await;
                wire.until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            });
            let error = response.unwrap_err();
            assert_eq!(matches!(error, Error::Invalid(_)), is_invalid, "{said:?}: {error:?}");
            assert_eq!(matches!(error, Error::Closed(_)), !is_invalid, "{said:?}: {error:?}");
        }
    });
}

#[test]
fn a_head_that_does_not_come_and_a_body_that_is_not_taken() {
    on_worker(async {
        let script = Script::new();
        let mut gate = Gate::with(&script, |config| {
            config.protocol = Protocol::Http2;
            config.response_head = Duration::from_millis(50);
        });
        gate.body_stall = Duration::from_millis(100);
        let (response, ()) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            let (request, _reply) = next(&mut server).await;
            server.over().await;
            drop(request);
        });
        assert!(matches!(response, Err(Error::HeadTimeout)), "{response:?}");

        let (client, body) = Sent::open(None);
        let block: &'static str = "x".repeat(1 << 20).leak();
        (0..4).for_each(|_| client.send(data(block)).unwrap());
        let (response, _held) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut server = accept(&script).await;
            let (request, _reply) = next(&mut server).await;
            (server, request)
        });
        assert!(matches!(response, Err(Error::BodyStalled)), "{response:?}");
    });
}

#[test]
fn a_client_that_leaves_resets_its_stream_alone() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (first, (mut server, mut stream)) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            let (_, mut reply) = next(&mut server).await;
            (server, reply.send_response(Response::new(()), false).unwrap())
        });
        drop(first);
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
        assert_eq!(reset.await.unwrap(), Reason::CANCEL);
        let (second, _server) = tokio::join!(gate.forward(get()), async {
            answer(&mut next(&mut server).await.1, "hi");
            server
        });
        assert_eq!(text(second.unwrap()).await, "hi");
        script.assert_no_further_connection();
    });
}

#[test]
fn more_streams_than_the_server_takes_make_another_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let mut one_at_a_time = h2::server::Builder::new();
        one_at_a_time.max_concurrent_streams(1);
        let (first, (_one, mut reply)) = tokio::join!(gate.forward(get()), async {
            let mut server = accept_with(&script, &one_at_a_time).await;
            let (_, mut reply) = next(&mut server).await;
            let stream = reply.send_response(Response::new(()), false).unwrap();
            (server, stream)
        });
        let (second, _other) = tokio::join!(gate.forward(get()), async {
            let mut server = accept_with(&script, &one_at_a_time).await;
            answer(&mut next(&mut server).await.1, "second");
            server
        });
        assert_eq!(text(second.unwrap()).await, "second");
        reply.send_data(Bytes::from_static(b"first"), true).unwrap();
        assert_eq!(text(first.unwrap()).await, "first");
        assert_eq!(gate.connections_in("idle"), 2);
    });
}

#[test]
fn the_cap_holds_for_connections_and_their_streams_are_waited_for() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.protocol = Protocol::Http2;
            config.connections = 1;
        });
        let mut one_at_a_time = h2::server::Builder::new();
        one_at_a_time.max_concurrent_streams(1);
        let texts = async {
            let first = gate.forward(get()).await.unwrap();
            let (second, first) = tokio::join!(gate.forward(get()), text(first));
            (first, text(second.unwrap()).await)
        };
        let serve = async {
            let mut server = accept_with(&script, &one_at_a_time).await;
            let (_, mut reply) = next(&mut server).await;
            let mut stream = reply.send_response(Response::new(()), false).unwrap();
            let waits = async {
                while gate.connections_in("waiting") == 0 {
                    tokio::task::yield_now().await;
                }
            };
            waits.await;
            stream.send_data(Bytes::from_static(b"first"), true).unwrap();
            answer(&mut next(&mut server).await.1, "second");
            server.over().await;
        };
        let texts = tokio::select! { texts = texts => texts, () = serve => unreachable!() };
        assert_eq!(texts, ("first".to_owned(), "second".to_owned()));
        script.assert_no_further_connection();
    });
}

#[test]
fn an_unused_connection_is_closed_when_its_time_is_over() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.protocol = Protocol::Http2;
            config.idle = Duration::from_millis(50);
        });
        let (first, server) = tokio::join!(gate.forward(get()), async {
            let mut server = accept(&script).await;
            answer(&mut next(&mut server).await.1, "hi");
            server
        });
        assert_eq!(text(first.unwrap()).await, "hi");
        assert_eq!(gate.connections_in("idle"), 1);
        server.over().await;
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn an_answer_before_the_end_of_the_upload_arrives() {
    on_worker(async {
        let script = Script::new();
        let gate = gate_to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("part")).unwrap();
        let (response, _server) = tokio::join!(gate.forward(request(Method::PUT, &[], body)), async {
            let mut server = accept(&script).await;
            let (request, mut reply) = next(&mut server).await;
            let head = Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(()).unwrap();
            let mut stream = reply.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(b"no"), true).unwrap();
            // RFC 9113 §8.1: after the whole answer `h2` resets the stream, because nobody reads the rest.
            drop(request);
            server
        });
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(text(response).await, "no");
        drop(client);
    });
}
