//! C, D and E, where the bug needs a conversation: sealed values, guesses, claims, upgrades.

use serde_json::{Value, json};

use super::Stage;
use crate::support::{Answer, EMBEDDED, FakePool, Portcullis, Upstream, route};

/// A gateway whose user `newbie` has to choose a new password, and the challenge that says so.
async fn challenged() -> (Portcullis, String) {
    let gate = Portcullis::start(&(EMBEDDED.to_owned() + &route("/*", "app", "\"required\""))).await;
    let new = json!({"Username": "newbie", "TemporaryPassword": "Temporary-1", "MessageAction": "SUPPRESS"});
    gate.pool_api("main").must("AdminCreateUser", &new).await;
    let login = json!({"username": "newbie", "password": "Temporary-1"});
    let challenge = gate.post_json("/auth/login", &login).await.json();
    let session = challenge["session"].as_str().unwrap_or_else(|| panic!("{challenge}")).to_owned();
    (gate, session)
}

#[tokio::test]
async fn lesson_31_a_changed_seal_is_as_good_as_none() {
    let (gate, session) = challenged().await;
    let refusal = async |session: &str| -> Value {
        let answer = json!({"session": session, "new_password": "Portcullis-1"});
        let reply = gate.post_json("/auth/challenge", &answer).await;
        let mut body = reply.expect(401, "session_expired").json();
        body["request_id"] = Value::Null;
        body
    };
    let random = refusal(&portcullis::secret::random_id::<48>()).await;
    for at in [0, 1, session.len() / 4, session.len() / 2, session.len() - 2, session.len() - 1] {
        let mut bytes = session.clone().into_bytes();
        // The last character holds bits that decoders may ignore: a change must count all the same.
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(refusal(&String::from_utf8(bytes).unwrap()).await, random, "byte {at}");
    }
    assert_eq!(refusal(session.split_at(session.len() / 2).0).await, random);
    assert_eq!(refusal(&format!("{session}{session}")).await, random);
    // The real one still is.
    let answer = json!({"session": session, "new_password": "Portcullis-1"});
    assert_eq!(gate.post_json("/auth/challenge", &answer).await.status, 200);
}

#[tokio::test]
async fn lesson_33_a_challenge_ends_after_five_answers_by_whoever_gives_them() {
    let (gate, session) = challenged().await;
    // Also when they come at once: none of them may see the count before the others.
    let answers = (0..12).map(|_| async {
        let answer = json!({"session": session, "new_password": "weak"});
        gate.post_json("/auth/challenge", &answer).await.code()
    });
    let codes = futures_join(answers).await;
    let counted = codes.iter().filter(|code| *code != "session_expired").count();
    assert!((1..=5).contains(&counted), "{codes:?}");
    let right = json!({"session": session, "new_password": "Portcullis-1"});
    gate.post_json("/auth/challenge", &right).await.expect(401, "session_expired");
}

/// All of them, under way at the same time.
async fn futures_join<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        for (one, done) in &mut all {
            if done.is_none()
                && let std::task::Poll::Ready(value) = one.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if all.iter().all(|(_, done)| done.is_some()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn lesson_34_claims_are_compared_whole() {
    let rule = "[[route]]\npath = \"/tenant/*\"\nupstream = \"app\"\naccess = { claims = { \"custom:tenant\" = [\"a.b\"] } }\n";
    let stage = Stage::with_routes(rule).await;
    for tenant in [
        json!("a.b "),
        json!("axb"),
        json!("A.B"),
        json!("x@a.b"),
        json!("a.b@x"),
        json!("a.b,c"),
        json!([["a.b"]]),
        Value::Null,
    ] {
        let token = stage.pool.access(json!({"custom:tenant": tenant}));
        stage.gate.get_as("/tenant/x", &token).await.expect(403, "access_denied");
    }
    stage.upstream.saw_nothing();
    assert_eq!(stage.gate.get_as("/tenant/x", &stage.pool.access(json!({"custom:tenant": "a.b"}))).await.status, 200);
}

#[tokio::test]
async fn lesson_37_no_upgrade_is_passed_on_and_nothing_travels_behind_one() {
    let stage = Stage::set().await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2",
        &format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{key}"),
    ] {
        // What follows is the next request of this connection, to be judged like any other.
        let request = format!("GET /public/up HTTP/1.1\r\nHost: gw\r\n{lines}\r\n\r\n");
        let mut client = stage.gate.raw().await;
        client.send(request + "GET /admin HTTP/1.1\r\nHost: gw\r\n\r\n").await;
        let reply = client.read().await;
        assert_ne!(reply.status, 101, "{lines:?}");
        client.read().await.expect(401, "token_missing");
        for seen in stage.upstream.requests() {
            assert_eq!((seen.target.as_str(), seen.header("upgrade")), ("/public/up", None), "{lines:?}");
            assert!(seen.header("http2-settings").is_none());
        }
    }
    stage
        .gate
        .raw()
        .await
        .exchange("CONNECT gw:443 HTTP/1.1\r\nHost: gw:443\r\n\r\n")
        .await
        .expect(405, "method_not_allowed");
}

#[tokio::test]
async fn lesson_37_a_switch_that_nobody_asked_for_is_no_answer() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother";
    let upstream = Upstream::scripted(move |seen| match seen.target.as_str() {
        "/up" => Answer::raw(switching).then(smuggled),
        _ => Answer::ok("fine"),
    })
    .await;
    let pool = FakePool::start().await;
    let gate =
        Portcullis::start(&(pool.toml("main") + &upstream.toml("app") + &route("/*", "app", "\"public\""))).await;
    gate.get("/up").await.expect(502, "upstream_invalid");
    upstream.closed(0).await;
    assert_eq!(gate.get("/next").await.text(), "fine", "its connection serves nobody else");
}
