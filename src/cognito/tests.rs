//! The client against scripted pools.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::scripted::{Reply, Scripted};
use super::*;
use crate::clock::Timestamp;
use crate::config::{Flow, Keys, Pool, PoolId, TokenUse};
use crate::secret::Secret;

/// The configuration of a scripted pool.
pub(crate) fn pool(endpoint: &str, flow: Flow, client_secret: Option<&str>) -> Arc<Pool> {
    Arc::new(Pool {
        name: "main".into(),
        id: PoolId { region: "eu-west-1".to_owned(), suffix: "AbCdEf123".to_owned() },
        client_id: "client".to_owned(),
        client_secret: client_secret.map(|secret| Secret::from(secret.to_owned())),
        flow,
        clients: vec!["client".to_owned()],
        token_use: vec![TokenUse::Access],
        leeway: Duration::from_secs(10),
        endpoint: endpoint.to_owned(),
        issuers: vec!["https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEf123".to_owned()],
        jwks: format!("{endpoint}/jwks.json"),
        keys: Keys {
            refresh: Duration::from_secs(600),
            stale: Duration::from_secs(86_400),
            cooldown: Duration::from_secs(10),
            cache: None,
        },
        embedded: None,
    })
}

fn client_of(endpoint: &str, flow: Flow, client_secret: Option<&str>) -> Client {
    let http = crate::outbound::client(Duration::from_secs(2), Duration::from_secs(5)).unwrap();
    let clock = Clock::manual(Timestamp::from_seconds(1_767_582_249));
    Client::new(pool(endpoint, flow, client_secret), http, clock, Arc::new(Metrics::new()))
}

fn secret(text: &str) -> Secret<String> {
    Secret::from(text.to_owned())
}

fn tokens_reply() -> Reply {
    Reply::Json(
        200,
        json!({"ChallengeParameters": {}, "AuthenticationResult":
            {"AccessToken": "a", "IdToken": "i", "RefreshToken": "r", "ExpiresIn": 3600, "TokenType": "Bearer"}}),
    )
}

/// Each request gets the next reply.
fn in_order(replies: Vec<Reply>) -> impl Fn(usize, &scripted::Seen) -> Reply {
    let replies = Mutex::new(replies.into_iter());
    move |_, seen| replies.lock().unwrap().next().unwrap_or_else(|| panic!("no reply left for {seen:?}"))
}

#[tokio::test]
async fn the_password_flow_sends_the_password_with_the_hash_of_the_same_name() {
    let server = Scripted::start(|_, _| tokens_reply()).await;
    let client = client_of(&server.endpoint, Flow::Password, Some("s3cret"));
    let step = client.sign_in("alice@example.com", &secret("pw"), Some("device")).await.unwrap();
    let Step::Tokens(tokens) = step else { panic!("{step:?}") };
    assert_eq!((tokens.access_token.expose().as_str(), tokens.expires_in), ("a", Some(3600)));
    let hash = sign::secret_hash(&secret("s3cret"), "alice@example.com", "client");
    let parameters = json!({"USERNAME": "alice@example.com", "PASSWORD": "pw", "SECRET_HASH": hash.expose(),
        "DEVICE_KEY": "device"});
    let expected = json!({"ClientId": "client", "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": parameters});
    assert_eq!(server.seen()[0].body, expected);
    assert!(
        client
            .metrics
            .text()
            .contains("provider_requests_total{pool=\"main\",operation=\"InitiateAuth\",outcome=\"ok\"} 1")
    );
}

/// The pool's side of SRP for the user `sub-1` with the password `right`.
fn srp_pool(number: usize, seen: &scripted::Seen, state: &Mutex<Option<(srp::ServerStart, String)>>) -> Reply {
    let who = srp::Identity { pool_name: "AbCdEf123", user_id: "sub-1" };
    let salt = srp::Number::from_bytes(&[0xff; 16]);
    if number == 0 {
        let server = srp::ServerStart::random(&srp::verifier(who, "right", &salt)).unwrap();
        let srp_a = seen.body["AuthParameters"]["SRP_A"].as_str().unwrap().to_owned();
        let parameters = json!({"SALT": salt.to_hex(), "SRP_B": server.srp_b(), "SECRET_BLOCK": "c2VjcmV0",
            "USERNAME": "sub-1", "USER_ID_FOR_SRP": "sub-1"});
        *state.lock().unwrap() = Some((server, srp_a));
        return Reply::Json(
            200,
            json!({"ChallengeName": "PASSWORD_VERIFIER", "Session": "session-1", "ChallengeParameters": parameters}),
        );
    }
    let (server, srp_a) = state.lock().unwrap().take().unwrap();
    let answers = &seen.body["ChallengeResponses"];
    let text = |name: &str| answers[name].as_str().unwrap_or_else(|| panic!("{name} in {answers}"));
    assert_eq!(text("TIMESTAMP"), "Mon Jan 5 03:04:09 UTC 2026");
    assert_eq!(text("SECRET_HASH"), sign::secret_hash(&secret("s3cret"), "sub-1", "client").expose());
    assert_eq!((text("USERNAME"), seen.body["Session"].as_str()), ("sub-1", Some("session-1")));
    let (block, signature) = (text("PASSWORD_CLAIM_SECRET_BLOCK"), text("PASSWORD_CLAIM_SIGNATURE"));
    match server.verify(who, &srp_a, block, text("TIMESTAMP"), signature) {
        Ok(()) => tokens_reply(),
        Err(_) => Reply::fault("NotAuthorizedException", "Incorrect username or password."),
    }
}

#[tokio::test]
async fn the_srp_flow_proves_the_password_under_the_canonical_name() {
    for (password, accepted) in [("right", true), ("wrong", false)] {
        let state = Mutex::new(None);
        let server = Scripted::start(move |number, seen| srp_pool(number, seen, &state)).await;
        let client = client_of(&server.endpoint, Flow::Srp, Some("s3cret"));
        let outcome = client.sign_in("alice@example.com", &secret(password), None).await;
        match outcome {
            Ok(Step::Tokens(_)) => assert!(accepted),
            Err(Error::Refused(Refusal::Credentials)) => assert!(!accepted),
            other => panic!("{other:?}"),
        }
        assert_eq!(server.operations(), ["InitiateAuth", "RespondToAuthChallenge"]);
        assert!(!format!("{:?}", server.seen()).contains(password), "the password was sent");
    }
}

#[tokio::test]
async fn a_challenge_is_a_value_and_its_answer_carries_the_canonical_name() {
    let server = Scripted::start(in_order(vec![
        Reply::Json(
            200,
            json!({"ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": "s1",
                "ChallengeParameters": {"USER_ID_FOR_SRP": "sub-1", "userAttributes": "{}", "requiredAttributes": ["x"]}}),
        ),
        tokens_reply(),
    ]))
    .await;
    let client = client_of(&server.endpoint, Flow::Password, None);
    let step = client.sign_in("alice", &secret("temporary"), None).await.unwrap();
    let Step::Challenge(challenge) = step else { panic!("{step:?}") };
    assert_eq!((challenge.name.as_str(), challenge.username.as_str()), ("NEW_PASSWORD_REQUIRED", "sub-1"));
    assert_eq!(challenge.parameters.get("requiredAttributes"), Some(r#"["x"]"#));
    let attributes = BTreeMap::from([("name".to_owned(), "Alice".to_owned())]);
    let step = client.answer_new_password(&challenge.username, challenge.session, &secret("new"), &attributes).await;
    assert!(matches!(step, Ok(Step::Tokens(_))), "{step:?}");
    let expected = json!({"ClientId": "client", "ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": "s1",
        "ChallengeResponses": {"USERNAME": "sub-1", "NEW_PASSWORD": "new", "userAttributes.name": "Alice"}});
    assert_eq!(server.seen()[1].body, expected);
}

#[tokio::test]
async fn a_forgotten_device_is_left_out_in_a_second_try() {
    let server = Scripted::start(in_order(vec![
        Reply::fault("ResourceNotFoundException", "Device does not exist."),
        tokens_reply(),
    ]))
    .await;
    let client = client_of(&server.endpoint, Flow::Password, None);
    assert!(client.sign_in("alice", &secret("pw"), Some("gone")).await.is_ok());
    let keys: Vec<Value> = server.seen().iter().map(|seen| seen.body["AuthParameters"]["DEVICE_KEY"].clone()).collect();
    assert_eq!(keys, [json!("gone"), Value::Null]);
}

#[tokio::test]
async fn refresh_falls_back_and_remembers_only_what_worked() {
    let server = Scripted::start(in_order(vec![
        Reply::page(500),
        Reply::fault("NotAuthorizedException", "Invalid Refresh Token"),
        Reply::page(500),
        tokens_reply(),
        tokens_reply(),
    ]))
    .await;
    let client = client_of(&server.endpoint, Flow::Password, None);
    let outcome = client.refresh(&secret("bad"), None).await;
    assert!(matches!(outcome, Err(Error::Refused(Refusal::RefreshTokenInvalid))), "{outcome:?}");
    assert!(client.refresh(&secret("good"), None).await.is_ok());
    assert!(client.refresh(&secret("good"), None).await.is_ok());
    let (new, old) = ("GetTokensFromRefreshToken", "InitiateAuth");
    assert_eq!(server.operations(), [new, old, new, old, old]);
    assert_eq!(server.seen()[4].body["AuthParameters"], json!({"REFRESH_TOKEN": "good"}));
}

#[tokio::test]
async fn a_pool_that_has_the_operation_gets_the_raw_client_secret_and_no_fallback() {
    let server = Scripted::start(in_order(vec![
        tokens_reply(),
        Reply::fault("NotAuthorizedException", "Refresh Token has been revoked"),
    ]))
    .await;
    let client = client_of(&server.endpoint, Flow::Password, Some("s3cret"));
    assert!(client.refresh(&secret("r"), None).await.is_ok());
    let outcome = client.refresh(&secret("r"), None).await;
    assert!(matches!(outcome, Err(Error::Refused(Refusal::RefreshTokenRevoked))), "{outcome:?}");
    assert_eq!(server.seen()[0].body, json!({"ClientId": "client", "ClientSecret": "s3cret", "RefreshToken": "r"}));
    assert_eq!(server.operations().len(), 2);
}

#[tokio::test]
async fn throttling_is_waited_out_and_repeatable_calls_survive_failures() {
    let throttled = || Reply::fault("TooManyRequestsException", "Rate exceeded");
    let server = Scripted::start(in_order(vec![
        throttled(),
        Reply::page(503),
        Reply::Json(200, json!({})),
        throttled(),
        Reply::Raw(String::new()),
    ]))
    .await;
    let client = client_of(&server.endpoint, Flow::Password, None);
    assert!(client.revoke(&secret("r")).await.is_ok());
    assert_eq!(server.operations().len(), 3);
    // A sign-up is sent again after throttling, but not after a connection that broke: it may exist.
    let outcome = client.sign_up("alice", &secret("pw"), &BTreeMap::new()).await;
    assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
    assert_eq!(server.operations().len(), 5);
}

#[tokio::test]
async fn endless_throttling_and_a_long_retry_after_end_the_call() {
    let server = Scripted::start(|number, _| match number {
        0..3 => Reply::fault("TooManyRequestsException", "Rate exceeded"),
        _ => Reply::Raw(
            "HTTP/1.1 400 X\r\nretry-after: 30\r\ncontent-length: 37\r\n\r\n{\"__type\":\"TooManyRequestsException\"}"
                .into(),
        ),
    })
    .await;
    let client = client_of(&server.endpoint, Flow::Password, None);
    let outcome = client.forgot_password("alice").await;
    assert!(matches!(outcome, Err(Error::Throttled { retry_after: None })), "{outcome:?}");
    let outcome = client.forgot_password("alice").await;
    let wait = Duration::from_secs(30);
    assert!(matches!(&outcome, Err(Error::Throttled { retry_after: Some(w) }) if *w == wait), "{outcome:?}");
    assert_eq!(server.operations().len(), 4);
}

#[tokio::test]
async fn pages_silence_floods_and_refused_connections_have_their_own_errors() {
    let huge = "x".repeat(REPLY_LIMIT + 1);
    let server = Scripted::start(in_order(vec![
        Reply::page(403),
        Reply::page(200),
        Reply::Raw(format!("HTTP/1.1 200 OK\r\n\r\n{huge}")),
        Reply::Silence,
        Reply::Json(400, json!({"__type": "ForbiddenException"})),
    ]))
    .await;
    let mut client = client_of(&server.endpoint, Flow::Password, None);
    let mut labels = Vec::new();
    for number in 0..5 {
        client.deadline = Duration::from_millis(if number == 3 { 100 } else { 10_000 });
        labels.push(client.confirm_sign_up("alice", &secret("1")).await.unwrap_err().label());
    }
    assert_eq!(labels, ["foreign", "foreign", "too_large", "timeout", "firewall"]);
    assert_eq!(server.operations().len(), 5, "none of them is sent again");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = client_of(&format!("http://{closed}"), Flow::Password, None);
    let error = client.confirm_sign_up("alice", &secret("1")).await.unwrap_err();
    assert_eq!(error.label(), "unreachable");
    assert!(client.metrics.text().contains("outcome=\"unreachable\"} 3"), "it was never sent: tried three times");
}

#[test]
fn pauses_have_full_jitter_below_a_doubling_bound() {
    assert_eq!(pause(1, &Error::Timeout, 0), Duration::ZERO);
    assert_eq!(pause(1, &Error::Timeout, u32::MAX), Duration::from_millis(100));
    assert_eq!(pause(2, &Error::Timeout, u32::MAX), Duration::from_millis(200));
    let wait = Some(Duration::from_secs(2));
    assert_eq!(pause(1, &Error::Throttled { retry_after: wait }, 0), Duration::from_secs(2));
}
