//! Requests with a body that are sent a second time.

use http::Method;

use super::*;

#[test]
fn an_idempotent_request_is_sent_again_with_its_whole_body() {
    on_worker(async {
        for (body, end) in [
            (Sent::sized("a body"), "a body"),
            (Sent::of([data("a "), data("body")]), "2\r\na \r\n4\r\nbody\r\n0\r\n\r\n"),
        ] {
            let script = Script::new();
            let gate = Gate::to(&script);
            let put = request(Method::PUT, &[("x-a", "b")], body);
            let wire = first_exchange(&gate, &script).await;
            let (answer, (first, second)) = tokio::join!(gate.forward(put), async {
                let mut wire = wire;
                let first = wire.head().await + &wire.until(end).await;
                drop(wire);
                let mut wire = script.accept().await;
                let second = wire.head().await + &wire.until(end).await;
                wire.write(OK).await;
                (first, second)
            });
            assert_eq!(text(answer.unwrap()).await, "hi");
            assert_eq!(first, second);
            assert_eq!(gate.timing.borrow().retries, 1);
        }
    });
}

#[test]
fn what_the_client_had_not_sent_by_then_follows() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(Some(9));
        client.send(data("early")).unwrap();
        let mut wire = first_exchange(&gate, &script).await;
        let (answer, received) = tokio::join!(gate.forward(request(Method::PUT, &[], body)), async {
            wire.until("early").await;
            drop(wire);
            let mut wire = script.accept().await;
            wire.until("early").await;
            client.send(data("late")).unwrap();
            let received = wire.until("late").await;
            wire.write(OK).await;
            received
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
        assert_eq!(received, "late");
    });
}

#[test]
fn another_server_gets_what_a_new_connection_swallowed() {
    on_worker(async {
        let (one, other) = (Script::new(), Script::new());
        let gate = Gate::with(&one, |config| {
            config.balance = Balance::RoundRobin;
            config.servers = Servers::Http(vec![one.endpoint(), other.endpoint()]);
        });
        let put = request(Method::PUT, &[], Sent::sized("a body"));
        let (answer, ()) = tokio::join!(gate.forward(put), async {
            one.accept().await.until("a body").await;
            let mut wire = other.accept().await;
            wire.until("a body").await;
            wire.write(OK).await;
        });
        assert_eq!(text(answer.unwrap()).await, "hi");
    });
}

#[test]
fn what_may_not_or_cannot_be_sent_again_is_not() {
    on_worker(async {
        let large: &'static str = "x".repeat(64 * 1024).leak();
        for (method, retries, body) in [
            (Method::POST, 1, Sent::sized("once")),
            (Method::PUT, 0, Sent::sized("once")),
            (Method::PUT, 1, Sent::of([data(large), data("once")])),
            (Method::PUT, 1, Sent::of([data("once"), trailer_frame(&[("x-sum", "1")])])),
        ] {
            let script = Script::new();
            let gate = Gate::with(&script, |config| config.retries = retries);
            let mut wire = first_exchange(&gate, &script).await;
            let (answer, ()) = tokio::join!(gate.forward(request(method.clone(), &[], body)), async move {
                wire.until("once").await;
            });
            assert!(matches!(answer, Err(Error::Closed(_))), "{method}: {answer:?}");
            assert_eq!(gate.timing.borrow().retries, 0);
            script.assert_no_further_connection();
        }
    });
}

#[test]
fn an_upload_that_outlives_its_answer_is_whole_also_the_second_time() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::to(&script);
        let (client, body) = Sent::open(None);
        client.send(data("early")).unwrap();
        let mut wire = first_exchange(&gate, &script).await;
        let (answer, mut wire) = tokio::join!(gate.forward(request(Method::PUT, &[], body)), async {
            wire.until("early").await;
            drop(wire);
            let mut wire = script.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
            wire
        });
        client.send(data("late")).unwrap();
        drop(client);
        let (answer, received) = tokio::join!(text(answer.unwrap()), async {
            let received = wire.until("0\r\n\r\n").await;
            wire.write("hi").await;
            received
        });
        assert_eq!(answer, "hi");
        assert_eq!(received, "5\r\nearly\r\n4\r\nlate\r\n0\r\n\r\n");
    });
}
