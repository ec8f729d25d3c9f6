//! Everything that can go wrong on the way, and whose fault it is.

use http::Method;

use super::super::health::Event;
use super::super::{ConnectError, Invalid};
use super::*;
use crate::config::Health;
use crate::telemetry::metrics::Server as ServerLabel;

/// The error of a request that the server answers with these bytes before it closes.
async fn refused(bytes: &str) -> Error {
    let script = Script::new();
    let gate = Gate::to(&script);
    let (answer, ()) = tokio::join!(gate.forward(get()), async {
        let mut wire = script.accept().await;
        wire.head().await;
        wire.write(bytes).await;
        wire.closed().await;
    });
    assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (0, 0));
    answer.unwrap_err()
}

#[test]
fn answers_that_cannot_be_passed_on() {
    on_worker(async {
        let huge = format!("HTTP/1.1 200 OK\r\nx-big: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(70_000));
        for garbage in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &huge,
        ] {
            let error = refused(garbage).await;
            assert!(matches!(error, Error::Invalid(Invalid::Head(_))), "{garbage:.60}: {error:?}");
        }
        let error = refused("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        assert!(matches!(error, Error::Invalid(Invalid::Upgrade)), "{error:?}");
        for coding in ["gzip", "gzip, chunked", "chunked, chunked", "identity\r\ntransfer-encoding: chunked"] {
            let error = refused(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n")).await;
            assert!(matches!(error, Error::Invalid(Invalid::TransferEncoding)), "{coding}: {error:?}");
        }
    });
}

#[test]
fn a_head_that_breaks_off_is_a_closed_connection() {
    on_worker(async {
        for part in ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let script = Script::new();
            let gate = Gate::to(&script);
            let (answer, ()) = tokio::join!(gate.forward(get()), async {
                let mut wire = script.accept().await;
                wire.head().await;
                wire.write(part).await;
            });
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::Closed(_)), "{part:?}: {error:?}");
            assert!(gate.metrics.text().contains("code=\"closed\"} 1"));
            script.assert_no_further_connection();
        }
    });
}

#[test]
fn a_body_that_breaks_off_never_ends_cleanly() {
    on_worker(async {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
        ] {
            let script = Script::new();
            let gate = Gate::to(&script);
            let (answer, ()) = tokio::join!(gate.forward(get()), async {
                let mut wire = script.accept().await;
                wire.head().await;
                wire.write(head).await;
            });
            assert_eq!(read(answer.unwrap()).await, Err(BodyError::Upstream), "{head}");
            assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (0, 0));
        }
    });
}

#[test]
fn a_slow_head_is_waited_for_so_long() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.response_head = Duration::from_millis(50));
        for body in [Sent::nothing(), Sent::sized("sent at once"), Sent::of([data("chunk")])] {
            let started = tokio::time::Instant::now();
            let (answer, ()) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
                script.accept().await.closed().await;
            });
            assert!(matches!(answer, Err(Error::HeadTimeout)), "{answer:?}");
            assert!(started.elapsed() >= Duration::from_millis(50));
        }
        assert_eq!(gate.timing.borrow().retries, 0);
        assert_eq!(gate.timing.borrow().first_byte, None);
    });
}

#[test]
fn the_wait_for_the_head_begins_when_the_body_was_sent() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.response_head = Duration::from_millis(50));
        let (client, body) = Sent::open(None);
        let (answer, ()) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.head().await;
            // The upload takes longer than the wait for the head would.
            tokio::time::sleep(Duration::from_millis(120)).await;
            client.send(data("late")).unwrap();
            drop(client);
            wire.until("late").await;
            wire.write(OK).await;
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
    });
}

#[test]
fn a_client_that_stalls_is_told_apart_from_a_server_that_stalls() {
    on_worker(async {
        let script = Script::new();
        let mut gate = Gate::to(&script);
        gate.body_stall = Duration::from_millis(50);
        let (client, body) = Sent::open(Some(100));
        client.send(data("and then nothing")).unwrap();
        let (answer, ()) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            script.accept().await.closed().await;
        });
        assert!(matches!(answer, Err(Error::RequestBody(BodyError::Stalled))), "{answer:?}");

        let (client, body) = Sent::open(None);
        let block: &'static str = "x".repeat(1 << 20).leak();
        (0..32).for_each(|_| client.send(data(block)).unwrap());
        let (answer, wire) = tokio::join!(gate.forward(request(Method::POST, &[], body)), script.accept());
        assert!(matches!(answer, Err(Error::BodyStalled)), "{answer:?}");
        drop(wire);
    });
}

#[test]
fn a_request_body_that_breaks_off_cuts_the_connection() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let body = Sent::of([data("half"), Err(BodyError::TooLarge)]);
        let (answer, seen) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            script.accept().await.closed().await
        });
        assert!(matches!(answer, Err(Error::RequestBody(BodyError::TooLarge))), "{answer:?}");
        assert!(!seen.contains("0\r\n\r\n"), "the server may not take it for complete: {seen}");
        script.assert_no_further_connection();
    });
}

#[test]
fn a_request_body_that_breaks_off_under_an_answer_is_the_clients_fault_too() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("half")).unwrap();
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.until("half").await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi").await;
            wire
        });
        let answer = answer.unwrap();
        client.send(Err(BodyError::Client)).unwrap();
        assert_eq!(read(answer).await, Err(BodyError::Client));
        wire.closed().await;
    });
}

#[test]
fn an_answer_that_stands_still_is_given_up() {
    on_worker(async {
        let script = Script::new();
        let mut gate = Gate::to(&script);
        gate.body_stall = Duration::from_millis(50);
        let (answer, mut wire) = tokio::join!(gate.forward(get()), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi").await;
            wire
        });
        assert_eq!(read(answer.unwrap()).await, Err(BodyError::Stalled));
        wire.closed().await;
        assert_eq!(gate.connections_in("active"), 0);
    });
}

#[test]
fn an_answer_may_stand_still_while_the_upload_moves() {
    on_worker(async {
        let script = Script::new();
        let mut gate = Gate::to(&script);
        gate.body_stall = Duration::from_millis(200);
        let (client, body) = Sent::open(None);
        client.send(data("first")).unwrap();
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::POST, &[], body)), async {
            let mut wire = script.accept().await;
            wire.until("first").await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
            wire
        });
        let upload = async {
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                client.send(data("more")).unwrap();
                wire.until("more").await;
            }
            wire.write("hi").await;
        };
        let (body, ()) = tokio::join!(text(answer.unwrap()), upload);
        assert_eq!(body, "hi");
    });
}

#[test]
fn nobody_listens() {
    on_worker(async {
        let script = Script::new();
        let mut endpoint = script.endpoint();
        drop(script);
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.servers = Servers::Http(vec![endpoint.clone()]));
        let error = gate.forward(get()).await.unwrap_err();
        assert!(matches!(error, Error::Connect(ConnectError::Refused(_))), "{error:?}");
        assert_eq!(gate.timing.borrow().retries, 0, "there is no other server to try");
        assert_eq!(gate.timing.borrow().server.as_deref(), Some(endpoint.authority.as_str()));
        let metrics = gate.metrics.text();
        assert!(metrics.contains("code=\"connect_refused\"} 1"), "{metrics}");
        let healthy = format!("upstream_healthy{{upstream=\"app\",server=\"{}\"}} 0", endpoint.authority);
        assert!(metrics.contains(&healthy), "{metrics}");
        let again = Upstream::new(Arc::new(gate.upstream.config().clone()), &gate.metrics).unwrap();
        assert!(gate.metrics.text().contains(&healthy), "a reload does not make {again:?} healthy");

        endpoint.host = "no such host".to_owned();
        let gate = Gate::with(&script, |config| config.servers = Servers::Http(vec![endpoint]));
        let error = gate.forward(get()).await.unwrap_err();
        assert!(matches!(error, Error::Connect(ConnectError::Dns(_))), "{error:?}");
    });
}

#[test]
fn a_name_is_looked_up_and_its_addresses_are_tried() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            let mut endpoint = script.endpoint();
            endpoint.host = "localhost".to_owned();
            config.servers = Servers::Http(vec![endpoint]);
        });
        let (answer, _wire) = tokio::join!(gate.forward(get()), async {
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write(OK).await;
            wire
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
        assert_eq!(gate.connections_in("idle"), 1);

        // Whatever is behind the name now, it is not where the kept connection leads.
        let resolved = gate.upstream.backends()[0].resolved.clone().unwrap();
        let elsewhere = Script::new();
        resolved.learn("localhost", &Ok(vec![elsewhere.address()]));
        resolved.learn("localhost", &Err(std::io::ErrorKind::TimedOut.into()));
        let (answer, ()) = tokio::join!(gate.forward(get()), async {
            let mut wire = elsewhere.accept().await;
            wire.head().await;
            // And while the answer is under way it is the old place again.
            resolved.learn("localhost", &Ok(vec![script.address()]));
            wire.write(OK).await;
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
        assert_eq!(gate.connections_in("idle"), 0, "neither is kept");
    });
}

#[test]
fn a_connect_that_takes_too_long_is_given_up() {
    on_worker(async {
        let (address, _queued) = full_listener();
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.connect = Duration::from_millis(50);
            let endpoint = Endpoint { port: address.port(), authority: address.to_string(), ..script.endpoint() };
            config.servers = Servers::Http(vec![endpoint]);
        });
        let error = gate.forward(get()).await.unwrap_err();
        assert!(matches!(error, Error::Connect(ConnectError::Timeout)), "{error:?}");
    });
}

#[test]
fn a_server_that_refuses_is_avoided_while_there_is_another() {
    on_worker(async {
        let script = Script::new();
        let dead = Script::new().endpoint();
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(vec![dead.clone(), script.endpoint()]);
        });
        let serve = async {
            let mut wire = script.accept().await;
            loop {
                wire.head().await;
                wire.write(OK).await;
            }
        };
        let refused = async {
            loop {
                assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi", "no client notices");
                if gate.timing.borrow().retries == 1 {
                    break;
                }
            }
        };
        tokio::select! { () = refused => {}, _ = serve => unreachable!() }
        script.assert_no_further_connection();
        let refusals = format!("server=\"{}\",code=\"connect_refused\"}} 1\n", dead.authority);
        assert!(gate.metrics.text().contains(&refusals), "{}", gate.metrics.text());

        let servers = gate.connections.servers(&gate.upstream);
        let now = tokio::time::Instant::now();
        let pick = |avoid, at| gate.connections.pick(&gate.upstream, &servers, 0, avoid, at);
        let picked = |at| -> Vec<usize> { (0..64).map(|_| pick(None, at).unwrap()).collect() };
        assert!(!picked(now).contains(&0));
        let trials = picked(now + Duration::from_millis(1001)).into_iter().filter(|index| *index == 0).count();
        assert_eq!(trials, 1, "it gets another chance after 1 s");

        let standing = |index: usize| &gate.upstream.backends()[index].standing;
        standing(0).saw(Event::Answered, now);
        standing(1).saw(Event::NotConnected, now);
        assert!(picked(now).iter().all(|index| *index == 0));
        standing(0).saw(Event::NotConnected, now);
        assert!(picked(now).contains(&0) && picked(now).contains(&1), "the last one is never given up");
    });
}

#[test]
fn a_server_that_answers_nothing_is_left_for_another() {
    on_worker(async {
        let (mute, script) = (Script::new(), Script::new());
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(vec![mute.endpoint(), script.endpoint()]);
            config.balance = Balance::RoundRobin;
        });
        let serve = async {
            let mut wire = script.accept().await;
            loop {
                wire.head().await;
                wire.write(OK).await;
            }
        };
        let hang_up = async {
            loop {
                mute.accept().await.head().await;
            }
        };
        let requests = async {
            for _ in 0..20 {
                assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi", "no client notices");
            }
        };
        tokio::select! { () = requests => {}, _ = serve => unreachable!(), _ = hang_up => unreachable!() }
        let status = gate.upstream.status();
        assert_eq!((status[0].healthy, status[0].reason, status[1].healthy), (false, Some("requests fail"), true));
        assert!(
            gate.metrics.text().contains(&format!("server=\"{}\",code=\"closed\"}} 5\n", mute.endpoint().authority))
        );

        let same = Upstream::new(gate.upstream.config.clone(), &gate.metrics).unwrap();
        assert!(same.status()[0].healthy);
        assert_eq!(same.remembering(&gate.upstream).status()[0].reason, Some("requests fail"), "a reload heals nobody");
        assert_eq!(
            gate.metrics.upstream_healthy.get_or_create(&ServerLabel::new("app", mute.endpoint().authority)).get(),
            0
        );
    });
}

#[test]
fn when_probes_found_all_servers_bad_there_is_none() {
    on_worker(async {
        let script = Script::new();
        let health = Health {
            path: "/".to_owned(),
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            up: 1,
            down: 2,
        };
        let gate = Gate::with(&script, |config| config.health = Some(health));
        let standing = &gate.upstream.backends()[0].standing;
        let now = tokio::time::Instant::now();
        standing.saw(Event::ProbeFailed, now);
        assert!(standing.trouble().is_none());
        standing.saw(Event::ProbeFailed, now);
        let error = gate.forward(get()).await.unwrap_err();
        assert!(matches!(error, Error::NoServer), "{error:?}");
        script.assert_no_further_connection();
    });
}

#[test]
fn retries_end_with_their_budget() {
    on_worker(async {
        let dead = [Script::new().endpoint(), Script::new().endpoint()];
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(dead.to_vec());
            config.retries = 3;
        });
        let mut retries = 0;
        for _ in 0..10 {
            let error = gate.forward(get()).await.unwrap_err();
            assert!(matches!(error, Error::Connect(ConnectError::Refused(_))), "{error:?}");
            retries += gate.timing.borrow().retries;
        }
        assert_eq!(retries, 10, "and not three for each");
    });
}

#[test]
fn the_addresses_of_a_name_race() {
    on_worker(async {
        // Nobody listens at the first one, and the second one's queue is full: it does not answer.
        let (full, _queued) = full_listener();
        let script = Script::new();
        let gate = Gate::with(&script, |config| {
            config.servers = Servers::Http(vec![Endpoint { host: "localhost".to_owned(), ..script.endpoint() }]);
        });
        let resolved = gate.upstream.backends()[0].resolved.clone().unwrap();
        let refusing = "127.0.0.1:1".parse().unwrap();
        resolved.learn("localhost", &Ok(vec![refusing, full, script.address()]));
        let serve = async {
            loop {
                let mut wire = script.accept().await;
                wire.head().await;
                wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi").await;
            }
        };
        let ask = async {
            let started = tokio::time::Instant::now();
            for _ in 0..3 {
                assert_eq!(text(gate.forward(get()).await.unwrap()).await, "hi");
            }
            started.elapsed()
        };
        let took = tokio::select! { took = ask => took, () = serve => unreachable!() };
        // Each begins with another address. At least one meets the silent one before the server,
        // which costs a head start of 250 ms; at most two do.
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(4), "{took:?}");
    });
}

/// A listener that answers no further handshake, because its queue is full.
fn full_listener() -> (std::net::SocketAddr, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = vec![std::net::TcpStream::from(socket)];
    while let Ok(connection) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        queued.push(connection);
    }
    (address, queued)
}
