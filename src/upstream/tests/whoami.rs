//! The built-in upstream.

use http::Method;
use serde_json::{Value, json};

use super::*;

async fn told(gate: &Gate, request: Request<Sent>) -> Value {
    let answer = gate.forward(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    serde_json::from_str(&text(answer).await).unwrap()
}

#[test]
fn it_tells_what_a_server_would_have_received() {
    on_worker(async {
        let script = Script::new();
        let gate = Gate::with(&script, |config| config.servers = Servers::Whoami);
        let lines = [("x-auth-subject", "u1"), ("x-auth-groups", "a,b"), ("accept", "a"), ("accept", "b")];
        let request = request(Method::POST, &lines, Sent::of([data("hello"), data("!")]));
        assert_eq!(
            told(&gate, request).await,
            json!({
                "method": "POST",
                "path": "/x",
                "query": "y=1",
                "headers": {
                    "accept": ["a", "b"],
                    "host": "app.example",
                    "transfer-encoding": "chunked",
                    "x-auth-groups": "a,b",
                    "x-auth-subject": "u1",
                },
                "identity": { "x-auth-groups": "a,b", "x-auth-subject": "u1" },
                "body_length": 6,
            })
        );
        assert_eq!(gate.timing.borrow().server.as_deref(), Some("whoami"));
        assert!(gate.metrics.text().contains("server=\"whoami\",code=\"200\"} 1"));

        let mut plain = get();
        *plain.uri_mut() = "/only".parse().unwrap();
        let answer = told(&gate, plain).await;
        assert_eq!((&answer["query"], &answer["body_length"]), (&Value::Null, &json!(0)));
        assert!(answer.as_object().unwrap().get("query").is_none());
    });
}

#[test]
fn its_body_is_read_within_the_same_limits() {
    on_worker(async {
        let script = Script::new();
        let mut gate = Gate::with(&script, |config| config.servers = Servers::Whoami);
        gate.body_stall = Duration::from_millis(30);
        let broken = request(Method::POST, &[], Sent::of([data("half"), Err(BodyError::TooLarge)]));
        let error = gate.forward(broken).await.unwrap_err();
        assert!(matches!(error, Error::RequestBody(BodyError::TooLarge)), "{error:?}");
        let (client, body) = Sent::open(None);
        let error = gate.forward(request(Method::POST, &[], body)).await.unwrap_err();
        assert!(matches!(error, Error::RequestBody(BodyError::Stalled)), "{error:?}");
        drop(client);
    });
}
