//! Which connection a request goes over, and what becomes of it afterwards.

use http::Method;

use super::*;

#[test]
fn an_upstream_is_shared_by_all_workers() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Upstream>();
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let mut wire = first_exchange(&gate, &script).await;
        assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (1, 0));
        for _ in 0..3 {
            let (answer, ()) = tokio::join!(gate.forward(get()), async {
                wire.head().await;
                wire.write("HTTP/1.1 204 No Content\r\n\r\n").await;
            });
            answer.unwrap();
        }
        script.assert_no_further_connection();
        assert_eq!(gate.connections_in("idle"), 1);
        let text = gate.metrics.text();
        let server = script.endpoint().authority;
        let line = |code: &str, count| {
            format!("upstream_requests_total{{upstream=\"app\",server=\"{server}\",code=\"{code}\"}} {count}")
        };
        assert!(text.contains(&line("200", 1)) && text.contains(&line("204", 3)), "{text}");
    });
}

#[test]
fn chunked_bodies_and_bodies_that_are_read_late_give_the_connection_back() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (answer, mut wire) = tokio::join!(gate.forward(get()), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
            wire
        });
        let answer = answer.unwrap();
        assert_eq!(gate.connections_in("active"), 1, "the exchange lasts until its body is read");
        let (body, ()) = tokio::join!(text(answer), wire.write("0\r\n\r\n"));
        assert_eq!(body, "hi");
        assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (1, 0));
    });
}

#[test]
fn what_cannot_be_sent_again_never_goes_over_a_connection_that_was_closed() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        for body in [Sent::sized("once"), Sent::of([data("once")]), Sent::nothing()] {
            let wire = first_exchange(&gate, &script).await;
            // Nothing has run since: the worker has not been told of it.
            drop(wire);
            assert_eq!(gate.connections_in("idle"), 1);
            let (answer, received) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
                let mut wire = script.accept().await;
                let received = wire.head().await;
                wire.write(OK).await;
                received
            });
            assert_eq!(text(answer.unwrap()).await, "hi");
            assert!(received.starts_with("POST /x?y=1 HTTP/1.1\r\n"), "{received}");
            assert_eq!(gate.timing.borrow().retries, 0);
            while gate.connections_in("idle") > 0 {
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn an_idempotent_request_outlives_the_kept_connection_it_was_sent_on() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let mut wire = first_exchange(&gate, &script).await;
        let (answer, (first, second)) = tokio::join!(gate.forward(get()), async {
            let first = wire.head().await;
            drop(wire);
            let mut wire = script.accept().await;
            let second = wire.head().await;
            wire.write(OK).await;
            (first, second)
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
        assert_eq!(first, second);
        assert_eq!(gate.timing.borrow().retries, 1);
    });
}

#[test]
fn a_new_connection_that_ends_without_an_answer_is_not_tried_twice() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (answer, ()) = tokio::join!(gate.forward(get()), async {
            script.accept().await.head().await;
        });
        assert!(matches!(answer.unwrap_err(), Error::Closed(_)));
        script.assert_no_further_connection();
    });
}

#[test]
fn a_request_that_may_have_been_acted_on_is_never_sent_again() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let mut wire = first_exchange(&gate, &script).await;
        let post = request(Method::POST, &[], Sent::nothing());
        let (answer, ()) = tokio::join!(gate.forward(post), async move {
            wire.head().await;
        });
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error:?}");
        assert_eq!(gate.timing.borrow().retries, 0);
        script.assert_no_further_connection();
    });
}

#[test]
fn a_connection_that_the_server_closed_is_not_used() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        drop(first_exchange(&gate, &script).await);
        while gate.connections_in("idle") > 0 {
            tokio::task::yield_now().await;
        }
        first_exchange(&gate, &script).await;
        assert_eq!(gate.timing.borrow().retries, 0);
    });
}

#[test]
fn early_bytes_on_an_idle_connection_end_it() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let mut wire = first_exchange(&gate, &script).await;
        wire.write("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned").await;
        wire.closed().await;
        assert_eq!(gate.connections_in("idle"), 0);
        first_exchange(&gate, &script).await;
    });
}

#[test]
fn bytes_behind_an_answer_end_the_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (answer, mut wire) = tokio::join!(gate.forward(get()), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n").await;
            wire
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
        wire.closed().await;
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn an_unused_connection_is_closed_when_its_time_is_over() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.idle = Duration::from_millis(30));
        let mut wire = first_exchange(&gate, &script).await;
        wire.closed().await;
        assert_eq!(gate.connections_in("idle"), 0);
        let mut wire = first_exchange(&gate, &script).await;
        wire.closed().await;
    });
}

#[test]
fn an_expired_connection_is_not_handed_out_even_before_it_is_closed() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let _wire = first_exchange(&gate, &script).await;
        let server = gate.connections.servers(&gate.upstream)[0].clone();
        assert!(server.take_idle(tokio::time::Instant::now() + Duration::from_secs(61), false).is_none());
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn a_body_that_is_dropped_half_way_closes_the_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (answer, mut wire) = tokio::join!(gate.forward(get()), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi").await;
            wire
        });
        drop(answer.unwrap());
        wire.closed().await;
        assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (0, 0));
    });
}

#[test]
fn a_client_that_leaves_before_the_head_closes_the_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let mut wire = {
            let forward = gate.forward(get());
            tokio::select! {
                answer = forward => panic!("{answer:?}"),
                wire = async { let mut wire = script.accept().await; wire.head().await; wire } => wire,
            }
        };
        wire.closed().await;
        assert_eq!(gate.connections_in("active"), 0);
    });
}

#[test]
fn an_answer_before_the_end_of_the_upload_ends_the_upload_and_the_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(Some(1000));
        client.send(data("only a part")).unwrap();
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::PUT, &[], body)), async {
            let mut wire = script.accept().await;
            wire.until("only a part").await;
            wire.write("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await;
            wire
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(text(answer).await, "no");
        assert_eq!(wire.closed().await, "", "nothing more of the upload");
        assert_eq!(gate.connections_in("idle"), 0);
        client.closed().await;
    });
}

#[test]
fn an_answer_arrives_although_the_server_closes_under_the_upload() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let block: &'static str = "x".repeat(1 << 20).leak();
        let (client, body) = Sent::open(None);
        (0..64).for_each(|_| client.send(data(block)).unwrap());
        let (answer, ()) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await;
            // With unread bytes: this resets the connection.
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(text(answer).await, "no");
        assert_eq!(gate.connections_in("idle"), 0);
    });
}

#[test]
fn an_upload_goes_on_while_nobody_reads_the_answer() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("one")).unwrap();
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.until("one").await;
            wire.write(OK).await;
            wire
        });
        let answer = answer.unwrap();
        client.send(data("two")).unwrap();
        wire.until("two").await;
        drop(client);
        wire.until("0\r\n\r\n").await;
        assert_eq!(text(answer).await, "hi");
        assert_eq!(gate.connections_in("idle"), 1);
    });
}

#[test]
fn a_small_request_leaves_in_one_piece() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (answer, ()) = tokio::join!(gate.forward(request(Method::POST, &[], Sent::sized("small"))), async {
            let mut wire = script.accept().await;
            wire.stream.readable().await.unwrap();
            let mut bytes = [0; 4096];
            let count = wire.stream.try_read(&mut bytes).unwrap();
            assert!(bytes[..count].ends_with(b"\r\n\r\nsmall"), "{}", String::from_utf8_lossy(&bytes[..count]));
            wire.write(OK).await;
        });
        answer.unwrap();
    });
}

#[test]
fn both_bodies_may_stream_at_the_same_time() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("one")).unwrap();
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.until("3\r\none\r\n").await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none").await;
            wire
        });
        let mut body = answer.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        client.send(data("two")).unwrap();
        drop(client);
        wire.until("3\r\ntwo\r\n0\r\n\r\n").await;
        let (last, ()) = tokio::join!(body.frame(), wire.write("two"));
        assert_eq!(last.unwrap().unwrap().into_data().unwrap(), "two");
        assert_eq!(gate.connections_in("idle"), 1);
    });
}

#[test]
fn connections_live_on_when_the_upstream_is_built_anew() {
    on_worker(async {
        let script = Script::new();
        let other = Script::new();
        let mut gate = Gate::to(&script);
        let mut wire = first_exchange(&gate, &script).await;

        let mut config = gate.upstream.config().clone();
        config.servers = Servers::Http(vec![other.endpoint()]);
        let elsewhere = Arc::new(Upstream::new(Arc::new(config.clone()), &gate.metrics).unwrap());
        // A request in flight may still hold the one before.
        let before = std::mem::replace(&mut gate.upstream, elsewhere);
        first_exchange(&gate, &other).await;

        config.servers = Servers::Http(vec![other.endpoint(), script.endpoint()]);
        gate.upstream = Arc::new(Upstream::new(Arc::new(config.clone()), &gate.metrics).unwrap().remembering(&before));
        let servers = gate.connections.servers(&gate.upstream);
        assert!(Arc::strong_count(&before) == 1, "a worker does not keep what a reload replaced");
        let link =
            servers[1].take_idle(tokio::time::Instant::now(), false).expect("the first connection is still there");
        drop(link);
        wire.closed().await;

        // Whoever remembers nothing counts its connections anew, so it must not get those of others.
        let stranger = Arc::new(Upstream::new(Arc::new(config), &gate.metrics).unwrap());
        assert!(!std::rc::Rc::ptr_eq(&gate.connections.servers(&stranger)[1], &servers[1]));

        drop((before, stranger));
        gate.upstream = Arc::new(Upstream::new(Arc::new(gate.upstream.config().clone()), &gate.metrics).unwrap());
        gate.connections.servers(&gate.upstream);
        assert_eq!(format!("{:?}", gate.connections), "Connections { upstreams: 1, .. }");
    });
}

#[test]
fn a_connection_is_not_kept_for_ever() {
    // Not `on_worker`, whose own patience would be over when the clock is moved.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.idle = Duration::from_secs(7200));
        let serve = async {
            let mut wire = script.accept().await;
            for _ in 0..2 {
                wire.head().await;
                wire.write(OK).await;
            }
            wire.closed().await;
        };
        let ask = async {
            assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi");
            assert_eq!(gate.connections_in("idle"), 1);
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(3601)).await;
            tokio::time::resume();
            assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi");
            assert_eq!(gate.connections_in("idle"), 0, "it was good for one more");
        };
        tokio::join!(ask, serve);
        script.assert_no_further_connection();
    });
}
