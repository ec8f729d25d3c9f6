//! A user pool that fails, and what the client is told.

use serde_json::{Value, json};

use crate::support::{FakePool, KeyMode, Portcullis, route};

async fn gate_of(pool: &FakePool) -> Portcullis {
    let auth = "[auth]\nfloor = \"20ms\"\n";
    Portcullis::start(&(pool.toml("main") + "flow = \"password\"\n" + auth + &route("/*", "app", "\"required\""))).await
}

/// What a login gets while the pool answers every call with this.
async fn login_while(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> (u16, String, Option<String>) {
    let pool = FakePool::start().await;
    let gate = gate_of(&pool).await;
    pool.endpoint.set(KeyMode::Answer(status, headers.to_owned(), body.into()));
    let reply = gate.post_json("/auth/login", &json!({"username": "sam", "password": "Portcullis-1"})).await;
    (reply.status, reply.code(), reply.header("retry-after").map(str::to_owned))
}

fn error(name: &str, message: &str) -> String {
    json!({"__type": name, "message": message}).to_string()
}

#[tokio::test]
async fn failures_of_the_pool_are_told_apart() {
    let plain = |status: u16, code: &str| (status, code.to_owned(), None);
    let html = "<html>Service Unavailable</html>";
    assert_eq!(login_while(503, "", html).await, plain(502, "provider_error"));
    assert_eq!(login_while(200, "", html).await, plain(502, "provider_error"));
    assert_eq!(login_while(200, "", "{}").await, plain(502, "provider_error"), "neither tokens nor a challenge");
    assert_eq!(login_while(200, "", vec![b' '; 2_000_000]).await, plain(502, "provider_error"));
    assert_eq!(login_while(302, "location: http://evil.example/\r\n", "").await, plain(502, "provider_error"));
    let wrong = error("NotAuthorizedException", "Incorrect username or password.");
    assert_eq!(login_while(400, "", wrong).await, plain(401, "credentials_invalid"));
    let unknown = error("UserNotFoundException", "User does not exist.");
    assert_eq!(login_while(400, "", unknown).await, plain(401, "credentials_invalid"), "hidden");
    let (status, code, retry_after) = login_while(400, "", error("TooManyRequestsException", "Rate exceeded")).await;
    assert_eq!((status, code.as_str()), (503, "provider_throttled"));
    assert!(retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|n| n >= 1)));
    // An operator's mistake must not look like a wrong password.
    let secret = error("NotAuthorizedException", "Unable to verify secret hash for client 4hrtn");
    assert_ne!(login_while(400, "", secret).await.0, 401);
}

#[tokio::test]
async fn a_pool_that_is_away_fails_sign_in_but_not_known_tokens() {
    let pool = FakePool::start().await;
    let gate = gate_of(&pool).await;
    let token = pool.access(json!({}));
    pool.endpoint.stop().await;
    let reply = gate.post_json("/auth/login", &json!({"username": "sam", "password": "Portcullis-1"})).await;
    reply.expect(502, "provider_error");
    assert_eq!(gate.get_as("/x", &token).await.status, 200);
    // Sign-out always succeeds here, whatever the pool says to it.
    gate.post_json_as("/auth/logout", &token, &json!({"refresh_token": "x"})).await.expect(204, "");
    gate.get_as("/x", &token).await.expect(401, "token_revoked");
}

#[tokio::test]
async fn a_challenge_that_this_version_cannot_answer_is_still_passed_on() {
    for name in ["SOFTWARE_TOKEN_MFA", "SMS_MFA", "EMAIL_OTP", "MFA_SETUP", "SELECT_MFA_TYPE", "SOMETHING_NEW"] {
        let pool = FakePool::start().await;
        let gate = gate_of(&pool).await;
        let challenge = json!({
            "ChallengeName": name, "Session": "cognito-session-that-nobody-should-see",
            "ChallengeParameters": {"USER_ID_FOR_SRP": "sam", "CODE_DELIVERY_MEDIUM": "SMS"},
        });
        pool.endpoint.set(KeyMode::Answer(200, String::new(), challenge.to_string().into_bytes()));
        let reply = gate.post_json("/auth/login", &json!({"username": "sam", "password": "Portcullis-1"})).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let body: Value = reply.json();
        assert_eq!((&body["challenge"], body["session"].is_string()), (&json!(name), true), "{body}");
        assert!(!reply.text().contains("cognito-session"), "{body}");
        let answer = json!({"session": body["session"], "code": "123456"});
        gate.post_json("/auth/challenge", &answer).await.expect(400, "challenge_invalid");
    }
}
