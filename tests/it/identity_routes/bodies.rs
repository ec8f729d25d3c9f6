//! What the identity routes take, and how they say no.

use serde_json::{Value, json};

use super::{login_with, register, with_own_pool};
use crate::support::Tokens;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

#[tokio::test]
async fn forms_and_synonyms_are_taken() {
    let gate = with_own_pool("").await;
    let form = "username=demo&password=Portcullis%2D1";
    let tokens = Tokens::of(&gate.request("POST", "/auth/login", &[FORM], form).await);
    let refreshed = gate.request("POST", "/auth/refresh", &[FORM], &format!("refresh_token={}", tokens.refresh)).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let named = json!({"name": "demo", "password": "Portcullis-1"});
    assert_eq!(gate.post_json("/auth/login", &named).await.status, 200, "`name` means `username`");
    let charset = [("Content-Type", "Application/JSON; charset=utf-8")];
    assert_eq!(gate.request("POST", "/auth/login", &charset, &named.to_string()).await.status, 200);
    let registered = gate
        .request("POST", "/auth/register", &[FORM], "username=form&password=Portcullis-1&email=f%40example.com")
        .await;
    assert_eq!(registered.status, 201, "{}", registered.text());
}

#[tokio::test]
async fn bodies_that_are_not_what_a_route_takes_are_refused() {
    let gate = with_own_pool("").await;
    for (path, body) in [
        ("/auth/login", json!({"username": "demo"})),
        ("/auth/login", json!({"password": "Portcullis-1"})),
        ("/auth/login", json!({"username": "demo", "name": "demo", "password": "Portcullis-1"})),
        ("/auth/login", json!({"username": "demo", "password": "Portcullis-1", "admin": true})),
        ("/auth/login", json!({"username": 1, "password": "Portcullis-1"})),
        ("/auth/login", json!({"username": "demo", "password": null})),
        ("/auth/login", json!({"username": "", "password": "Portcullis-1"})),
        ("/auth/login", json!(["demo", "Portcullis-1"])),
        ("/auth/login", json!("demo")),
        ("/auth/register", json!({"username": "a", "password": "Portcullis-1", "attributes": "x"})),
        ("/auth/register", json!({"username": "a", "password": "Portcullis-1", "attributes": {"name": 1}})),
        ("/auth/confirm", json!({"username": "a"})),
        ("/auth/confirm", json!({"username": "a", "code": 123_456})),
        ("/auth/confirm/resend", json!({"user": "a"})),
        ("/auth/challenge", json!({"new_password": "Portcullis-1"})),
        ("/auth/refresh", json!({"refresh_token": ""})),
        ("/auth/refresh", json!({"token": "x"})),
        ("/auth/password/forgot", json!({})),
        ("/auth/password/reset", json!({"username": "a", "code": "1"})),
    ] {
        let reply = gate.post_json(path, &body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "body_invalid"), "{path} {body}");
        assert!(!reply.text().contains("Portcullis-1"), "{}", reply.text());
    }
    for body in
        ["", "{", "{}x", "{\"username\":\"a\",}", "\u{0}", "nul", "{\"username\":\"\\ud800\",\"password\":\"x\"}"]
    {
        gate.request("POST", "/auth/login", &[JSON], body).await.expect(400, "body_invalid");
    }
    gate.request("POST", "/auth/login", &[FORM], "username=demo&password=x&extra=1").await.expect(400, "body_invalid");
    gate.request("POST", "/auth/login", &[FORM], "username=%zz").await.expect(400, "body_invalid");
    gate.request("POST", "/auth/login", &[("Content-Type", "text/plain")], "{}")
        .await
        .expect(415, "media_type_unsupported");
    gate.request("POST", "/auth/login", &[JSON, JSON], "{}").await.expect(400, "header_ambiguous");
}

#[tokio::test]
async fn bodies_over_16_kib_are_refused_announced_or_not() {
    let gate = with_own_pool("").await;
    let large = json!({"username": "demo", "password": "p".repeat(17 * 1024)}).to_string();
    gate.request("POST", "/auth/login", &[JSON], &large).await.expect(413, "body_too_large");
    let mut client = gate.raw().await;
    let head =
        "POST /auth/login HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len())).await;
    client.read().await.expect(413, "body_too_large");
    let fits = json!({"username": "demo", "password": "p".repeat(15 * 1024)}).to_string();
    let reply = gate.request("POST", "/auth/login", &[JSON], &fits).await;
    assert!(matches!(reply.status, 400 | 401), "{}", reply.text());
}

#[tokio::test]
async fn a_token_is_shown_once() {
    let gate = with_own_pool("").await;
    let tokens = gate.login("demo").await;
    let both = gate.post_json_as("/auth/validate", &tokens.access, &json!({"token": tokens.access})).await;
    both.expect(400, "header_ambiguous");
    gate.post_json("/auth/validate", &json!({"token": "x"})).await.expect(401, "token_invalid");
    let by_header = gate.post_json_as("/auth/validate", &tokens.access, &json!({})).await;
    assert_eq!(by_header.json()["claims"]["username"], "demo", "{}", by_header.text());
    gate.post_json("/auth/logout", &json!({"refresh_token": tokens.refresh})).await.expect(401, "token_missing");
    gate.post_json("/auth/refresh", &json!({"refresh_token": tokens.access})).await;
    let not_a_refresh_token = gate.post_json("/auth/refresh", &json!({"refresh_token": "nonsense"})).await;
    assert_eq!(not_a_refresh_token.status, 401, "{}", not_a_refresh_token.text());
}

#[tokio::test]
async fn without_hiding_each_state_of_an_account_has_its_own_answer() {
    let gate = with_own_pool("hide_existing_users = false\n").await;
    register(&gate, "sam").await.expect(201, "");
    register(&gate, "sam").await.expect(409, "user_exists");
    register(&gate, "demo").await.expect(409, "user_exists");
    login_with(&gate, "sam", "Portcullis-1").await.expect(403, "account_unconfirmed");
    login_with(&gate, "demo", "Wrong-1-password").await.expect(401, "credentials_invalid");
    let weak = json!({"username": "weak", "password": "weak", "email": "w@example.com"});
    gate.post_json("/auth/register", &weak).await.expect(400, "password_rejected");
    let reset = json!({"Username": "demo"});
    gate.pool_api("main").must("AdminResetUserPassword", &reset).await;
    login_with(&gate, "demo", "Portcullis-1").await.expect(403, "password_reset_required");
}

#[tokio::test]
async fn a_weak_password_is_rejected() {
    let gate = with_own_pool("").await;
    for password in ["Short-1", "alllowercase-1", "ALLUPPERCASE-1", "NoDigits-here", "NoSymbols1"] {
        let user = json!({"username": "weak", "password": password, "email": "w@example.com"});
        gate.post_json("/auth/register", &user).await.expect(400, "password_rejected");
    }
}

#[tokio::test]
async fn registration_can_be_switched_off() {
    let gate = with_own_pool("register = false\n").await;
    let reply = register(&gate, "sam").await;
    assert!(matches!(reply.status, 404 | 403), "{}", reply.text());
    assert!(gate.admin_get("/outbox").await.json().to_string().find("sam").is_none());
}

#[tokio::test]
async fn attributes_reach_the_pool() {
    let gate = with_own_pool("").await;
    let user = json!({"username": "ann", "password": "Portcullis-1", "email": "ann@example.com", "attributes": {"given_name": "Ann"}});
    gate.post_json("/auth/register", &user).await.expect(201, "");
    let stored = gate.pool_api("main").must("AdminGetUser", &json!({"Username": "ann"})).await;
    let attributes: Vec<Value> = stored["UserAttributes"].as_array().cloned().unwrap_or_default();
    for (name, value) in [("email", "ann@example.com"), ("given_name", "Ann")] {
        assert!(attributes.contains(&json!({"Name": name, "Value": value})), "{stored}");
    }
}
