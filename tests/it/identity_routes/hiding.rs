//! Lesson 32: nobody learns from an answer, or from its time, who has an account.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{another, register};
use crate::support::{EMBEDDED, Portcullis, Reply, route};

/// A gateway with a confirmed user `known1`, an unconfirmed `newbie` and a disabled `locked`.
/// `nobody` does not exist. All names are equally long.
async fn populated(floor: &str) -> Portcullis {
    let pool = EMBEDDED.replace("20ms", floor);
    let gate = Portcullis::start(&(pool + &route("/*", "app", "\"required\""))).await;
    let pool = gate.pool_api("main");
    for name in ["known1", "locked"] {
        pool.add_user(name).await;
    }
    pool.must("AdminDisableUser", &json!({"Username": "locked"})).await;
    register(&gate, "newbie").await.expect(201, "");
    gate
}

const EVERYBODY: [&str; 4] = ["nobody", "known1", "newbie", "locked"];

/// Everything of a reply that a stranger could compare, without what differs in every reply.
fn visible(reply: &Reply, username: &str) -> String {
    let mut headers = reply.headers.clone();
    headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    headers.sort();
    let mut body: Value = if reply.body.is_empty() { Value::Null } else { reply.json() };
    if let Some(members) = body.as_object_mut() {
        members.remove("request_id");
    }
    format!("{} {headers:?} {}", reply.status, body.to_string().replace(username, "NAME"))
}

/// Asks the same about everybody; the answers must not be told apart.
async fn alike(gate: &Portcullis, path: &str, body: impl Fn(&str) -> Value) -> String {
    let mut answers = Vec::new();
    for username in EVERYBODY {
        let reply = gate.post_json(path, &body(username)).await;
        answers.push((username, visible(&reply, username)));
    }
    let (_, first) = &answers[0];
    for (username, answer) in &answers {
        assert_eq!(answer, first, "{path}: {username} differs from nobody");
    }
    first.clone()
}

#[tokio::test]
async fn lesson_32_enumeration_by_what_is_said() {
    let gate = populated("20ms").await;
    let code = gate.code_for("newbie").await;
    let wrong = another(&code);
    let login = alike(&gate, "/auth/login", |name| json!({"username": name, "password": "Wrong-1-password"})).await;
    assert!(login.starts_with("401") && login.contains("credentials_invalid"), "{login}");
    let confirm = alike(&gate, "/auth/confirm", |name| json!({"username": name, "code": wrong})).await;
    assert!(confirm.starts_with("400") && confirm.contains("code_mismatch"), "{confirm}");
    let reset = |name: &str| json!({"username": name, "code": wrong, "password": "Portcullis-9"});
    let reset = alike(&gate, "/auth/password/reset", reset).await;
    assert!(reset.starts_with("400") && reset.contains("code_mismatch"), "{reset}");
    let resend = alike(&gate, "/auth/confirm/resend", |name| json!({"username": name})).await;
    assert!(resend.starts_with("202"), "{resend}");
    let forgot = alike(&gate, "/auth/password/forgot", |name| json!({"username": name})).await;
    assert!(forgot.starts_with("202"), "{forgot}");
    let user = |name: &str| json!({"username": name, "password": "Portcullis-1", "email": "typed@example.com"});
    let register = alike(&gate, "/auth/register", user).await;
    assert!(register.starts_with("201"), "{register}");
    // Not even with the right password, or with a password that the policy rejects.
    let unconfirmed = gate.post_json("/auth/login", &json!({"username": "newbie", "password": "Portcullis-1"})).await;
    unconfirmed.expect(401, "credentials_invalid");
    let disabled = gate.post_json("/auth/login", &json!({"username": "locked", "password": "Portcullis-1"})).await;
    disabled.expect(401, "credentials_invalid");
    alike(&gate, "/auth/register", |name| json!({"username": name, "password": "weak", "email": "a@example.com"}))
        .await;
}

#[tokio::test]
async fn lesson_32_a_second_registration_changes_nothing() {
    let gate = populated("20ms").await;
    let takeover = json!({"username": "known1", "password": "Attacker-1", "email": "evil@example.com"});
    gate.post_json("/auth/register", &takeover).await.expect(201, "");
    let login = json!({"username": "known1", "password": "Attacker-1"});
    gate.post_json("/auth/login", &login).await.expect(401, "credentials_invalid");
    gate.login("known1").await;
    assert!(!gate.admin_get("/outbox").await.text().contains("evil@example.com"));
}

#[tokio::test]
async fn lesson_32_enumeration_by_time() {
    const FLOOR: Duration = Duration::from_millis(400);
    let gate = populated("400ms").await;
    for (path, body) in [
        ("/auth/login", json!({"password": "Wrong-1-password"})),
        ("/auth/password/forgot", json!({})),
        ("/auth/confirm/resend", json!({})),
        ("/auth/confirm", json!({"code": "000000"})),
        ("/auth/register", json!({"password": "Portcullis-1", "email": "a@example.com"})),
    ] {
        let mut quickest = [Duration::MAX; 2];
        for _round in 0..3 {
            for (quickest, username) in quickest.iter_mut().zip(["nobody", "known1"]) {
                let mut body = body.clone();
                body["username"] = json!(username);
                let began = Instant::now();
                gate.post_json(path, &body).await;
                *quickest = (*quickest).min(began.elapsed());
            }
        }
        // The quickest of a few is what an attacker would compare; other tests share the machine.
        let [nobody, known] = quickest;
        assert!(nobody.min(known) >= FLOOR, "{path}: sooner than the floor: {quickest:?}");
        assert!(nobody.abs_diff(known) < Duration::from_millis(100), "{path}: {quickest:?}");
    }
}
