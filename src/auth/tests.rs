//! The identity routes against a scripted user pool.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::*;
use crate::access::identity::Identity;
use crate::cognito::scripted::{Reply, Scripted, Seen};
use crate::config::Flow;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::token::testing::{self, HEADER, NOW, access_claims, id_claims, sign};

const FLOOR: Duration = Duration::from_millis(40);

/// The routes in front of one scripted pool.
struct Fixture {
    auth: Auth,
    pool: Scripted,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// What a client sees of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Answer {
    fn code(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Fixture {
    async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(true, script).await
    }

    async fn with(hide: bool, script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::build(hide, None, script).await
    }

    async fn build(
        hide: bool,
        client_secret: Option<&str>,
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let pool = Scripted::start(script).await;
        let client_secret = client_secret.map(|secret| Secret::from(secret.to_owned()));
        let settings =
            config::Pool { endpoint: pool.endpoint.clone(), flow: Flow::Password, client_secret, ..testing::pool() };
        let metrics = Arc::new(Metrics::new());
        let http = crate::outbound::client(Duration::from_secs(2), Duration::from_secs(5)).unwrap();
        let clock = Clock::manual(NOW);
        let client = cognito::Client::new(Arc::new(settings), http, clock.clone(), Arc::clone(&metrics));
        let config = config::Auth {
            prefix: "/auth".to_owned(),
            hosts: Vec::new(),
            pool: "main".into(),
            register: true,
            hide_existing_users: hide,
            floor: FLOOR,
            cors: None,
        };
        let identity = Identity::new(&config::Identity { prefix: "x-auth-".to_owned(), headers: Vec::new() });
        let revoked = Arc::new(store::Memory::new(&metrics));
        let authenticator = Authenticator::new(testing::verifier(), Arc::new(identity), Arc::clone(&revoked), &metrics);
        let auth = Auth::new(
            config,
            Arc::new(client),
            Arc::new(authenticator),
            revoked,
            clock.clone(),
            Handle::current(),
            &metrics,
        );
        Self { auth, pool, clock, metrics }
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(path, &[("content-type", "application/json")], body.to_string()).await
    }

    async fn with_bearer(&self, path: &str, token: &str, body: Value) -> Answer {
        let authorization = format!("bearer {token}");
        self.send(path, &[("content-type", "application/json"), ("authorization", &authorization)], body.to_string())
            .await
    }

    async fn send(&self, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = Request::post(format!("/auth{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)).map_err(BodyError::from)).unwrap();
        let outcome = self.auth.handle(request, path, [192, 0, 2, 1].into()).await;
        let response = outcome.unwrap_or_else(|problem| problem.response("id"));
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() },
        }
    }

    /// The request, and whether its answer kept to the floor.
    async fn timed(&self, path: &str, body: Value) -> Answer {
        let started = Instant::now();
        let answer = self.post(path, body).await;
        assert!(started.elapsed() >= FLOOR, "{path} answered after {:?}", started.elapsed());
        answer
    }
}

fn tokens() -> Reply {
    let result = json!({"AccessToken": "a", "IdToken": "i", "RefreshToken": "r", "ExpiresIn": 3600});
    Reply::Json(200, json!({"ChallengeParameters": {}, "AuthenticationResult": result}))
}

fn access_token() -> String {
    sign(HEADER, &access_claims().to_string())
}

/// Every refusal that has to do with one user, as pools phrase them.
fn refusals_of_users() -> Vec<(&'static str, &'static str)> {
    vec![
        ("NotAuthorizedException", "Incorrect username or password."),
        ("UserNotFoundException", "User does not exist."),
        ("UserNotConfirmedException", "User is not confirmed."),
        ("NotAuthorizedException", "User is disabled."),
        ("NotAuthorizedException", "Password attempts exceeded"),
        ("NotAuthorizedException", "User cannot be confirmed. Current status is CONFIRMED"),
        ("InvalidParameterException", "User is already confirmed."),
        ("InvalidParameterException", "Cannot reset password for the user as there is no registered/verified email"),
        ("CodeMismatchException", "Invalid verification code provided, please try again."),
        ("ExpiredCodeException", "Invalid code provided, please request a code again."),
        ("LimitExceededException", "Attempt limit exceeded, please try after some time."),
        ("AliasExistsException", "An account with the email already exists."),
    ]
}

#[tokio::test]
async fn the_table_drives_the_routing() {
    let mut fixture = Fixture::start(|_, _| tokens()).await;
    for route in &ROUTES {
        let answer = fixture.send(route.path, &[], "x".to_owned()).await;
        assert_ne!(answer.status, 404, "{}", route.path);
        let request = Request::get("/").body(Full::new(Bytes::new()).map_err(BodyError::from)).unwrap();
        let problem = fixture.auth.handle(request, route.path, [192, 0, 2, 1].into()).await.unwrap_err();
        assert_eq!((problem.code, problem.allow.as_deref()), (Code::MethodNotAllowed, Some("POST")));
    }
    for path in ["", "/", "/login/", "/Login", "/me", "/password"] {
        assert_eq!(fixture.post(path, json!({})).await.code(), (404, "route_unknown"), "{path}");
    }
    fixture.auth.config.register = false;
    assert_eq!(fixture.post("/register", json!({})).await.code(), (404, "route_unknown"));
}

#[tokio::test]
async fn the_prefix_ends_at_a_slash_and_hosts_are_exact() {
    let mut fixture = Fixture::start(|_, _| tokens()).await;
    for (path, below) in [("/auth/login", Some("/login")), ("/auth", Some("")), ("/authority", None), ("/", None)] {
        assert_eq!(fixture.auth.serves("any.example", path), below, "{path}");
    }
    fixture.auth.config.hosts = vec!["app.example".to_owned()];
    assert_eq!(fixture.auth.serves("app.example", "/auth/login"), Some("/login"));
    assert_eq!(fixture.auth.serves("other.example", "/auth/login"), None);
}

#[tokio::test]
async fn a_taken_username_is_registered_like_a_new_one() {
    let fixture = Fixture::start(|_, seen| match seen.body["Username"].as_str() {
        Some("new") => Reply::Json(
            200,
            json!({"UserConfirmed": false, "UserSub": "s",
                "CodeDeliveryDetails": {"Destination": "x***@y***", "DeliveryMedium": "EMAIL"}}),
        ),
        Some("taken") => Reply::fault("UsernameExistsException", "User already exists"),
        _ => Reply::fault("CodeDeliveryFailureException", "m"),
    })
    .await;
    let register = async |username: &str| {
        let body = json!({"username": username, "password": "p", "email": "alice@example.com",
            "attributes": {"custom:tenant": "a"}});
        let mut answer = fixture.timed("/register", body).await;
        assert_eq!(answer.body["username"], username);
        answer.body["username"].take();
        answer
    };
    let new = register("new").await;
    let delivery = json!({"medium": "EMAIL", "destination": "a***@e***"});
    assert_eq!((new.status, &new.body), (201, &json!({"username": null, "confirmed": false, "delivery": delivery})));
    assert_eq!(new.header("cache-control"), Some("no-store"));
    assert_eq!(register("taken").await, new);
    assert_eq!(register("undeliverable").await, new);
    let attributes = &fixture.pool.seen()[0].body["UserAttributes"];
    let expected = json!([{"Name": "custom:tenant", "Value": "a"}, {"Name": "email", "Value": "alice@example.com"}]);
    assert_eq!(*attributes, expected);
}

#[tokio::test]
async fn a_pool_that_confirms_sign_ups_itself_hides_them_the_same_way() {
    let fixture = Fixture::start(|number, _| match number {
        0 => Reply::Json(200, json!({"UserConfirmed": true, "UserSub": "s"})),
        _ => Reply::fault("UsernameExistsException", "User already exists"),
    })
    .await;
    let body = json!({"name": "alice@example.com", "password": "p"});
    let new = fixture.post("/register", body.clone()).await;
    let expected = json!({"username": "alice@example.com", "confirmed": true, "delivery": null});
    assert_eq!((new.status, &new.body), (201, &expected));
    assert_eq!(fixture.post("/register", body).await, new);
}

#[tokio::test]
async fn hidden_answers_do_not_depend_on_the_user() {
    let refusals = refusals_of_users();
    let count = refusals.len();
    // 0..count: refusals; then a success.
    let script = move |number: usize, _: &Seen| match refusals.get(number % (count + 1)) {
        Some((kind, message)) => Reply::fault(kind, message),
        None => Reply::Json(200, json!({"CodeDeliveryDetails": {"Destination": "r***@s***", "DeliveryMedium": "SMS"}})),
    };
    let fixture = Fixture::start(script).await;
    for (path, body, expected) in [
        ("/login", json!({"username": "u", "password": "p"}), (401, "credentials_invalid")),
        ("/confirm", json!({"username": "u", "code": "1"}), (400, "code_mismatch")),
        ("/password/reset", json!({"username": "u", "code": "1", "password": "p"}), (400, "code_mismatch")),
        ("/confirm/resend", json!({"username": "u"}), (202, "")),
        ("/password/forgot", json!({"username": "u"}), (202, "")),
    ] {
        let first = fixture.timed(path, body.clone()).await;
        assert_eq!(first.code(), expected, "{path}");
        for number in 1..count {
            assert_eq!(fixture.timed(path, body.clone()).await, first, "{path} {number}");
        }
        let success = fixture.timed(path, body).await;
        match first.status {
            202 => {
                assert_eq!(success, first, "{path}: a code that was sent looks like one that was not");
                assert_eq!(first.body, json!({"delivery": {"medium": "EMAIL", "destination": "***"}}));
            }
            // A success without tokens: what matters here is that the next round starts at 0.
            _ => assert_ne!(success, first, "{path}"),
        }
    }
}

#[tokio::test]
async fn without_hiding_every_reason_has_its_code_and_no_answer_waits() {
    let mut fixture = Fixture::with(false, |_, seen| {
        let (kind, message) = seen.body["Username"]
            .as_str()
            .or(seen.body["AuthParameters"]["USERNAME"].as_str())
            .and_then(|username| username.split_once('|'))
            .unwrap();
        Reply::fault(kind, message)
    })
    .await;
    fixture.auth.config.floor = Duration::from_secs(3600);
    for (path, error, expected) in [
        ("/login", "NotAuthorizedException|Incorrect username or password.", (401, "credentials_invalid")),
        ("/login", "InvalidPasswordException|Invalid password", (401, "credentials_invalid")),
        ("/login", "UserNotConfirmedException|", (403, "account_unconfirmed")),
        ("/login", "PasswordResetRequiredException|", (403, "password_reset_required")),
        ("/login", "NotAuthorizedException|Password attempts exceeded", (429, "rate_limited")),
        ("/login", "ForbiddenException|", (502, "provider_error")),
        ("/login", "NotAuthorizedException|Unable to verify secret hash for client c", (500, "internal")),
        ("/login", "InvalidParameterException|USER_PASSWORD_AUTH flow not enabled for this client", (500, "internal")),
        ("/register", "UsernameExistsException|", (409, "user_exists")),
        ("/register", "InvalidPasswordException|Password not long enough", (400, "password_rejected")),
        ("/register", "NotAuthorizedException|SignUp is not permitted for this user pool", (403, "access_denied")),
        ("/confirm", "ExpiredCodeException|", (400, "code_expired")),
        ("/confirm", "UserNotFoundException|", (400, "code_mismatch")),
        ("/password/forgot", "UserNotFoundException|", (401, "credentials_invalid")),
        ("/password/forgot", "InternalErrorException|", (502, "provider_error")),
        ("/password/reset", "LimitExceededException|", (429, "rate_limited")),
    ] {
        let mut body = json!({"username": error});
        let further: &[&str] = match path {
            "/login" | "/register" => &["password"],
            "/confirm" => &["code"],
            "/password/reset" => &["code", "password"],
            _ => &[],
        };
        for name in further {
            body[name] = "x".into();
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), fixture.post(path, body)).await.unwrap();
        assert_eq!(answer.code(), expected, "{path} {error}");
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), Some("900"));
        }
        if answer.body["code"] == "password_rejected" {
            assert_eq!(answer.body["detail"], "Password not long enough");
        }
    }
}

#[tokio::test]
async fn a_password_that_must_be_reset_is_said_even_when_hiding() {
    let fixture = Fixture::start(|_, _| Reply::fault("PasswordResetRequiredException", "m")).await;
    let answer = fixture.timed("/login", json!({"username": "u", "password": "p"})).await;
    assert_eq!(answer.code(), (403, "password_reset_required"));
}

#[tokio::test]
async fn a_login_gives_tokens_by_json_and_by_form() {
    let fixture = Fixture::start(|_, _| tokens()).await;
    let by_json = fixture.timed("/login", json!({"username": "u", "password": "p w"})).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let by_form = fixture.send("/login", &form, "name=u&password=p+w".to_owned()).await;
    let expected = json!({"access_token": "a", "id_token": "i", "refresh_token": "r", "token_type": "Bearer",
        "expires_in": 3600});
    assert_eq!((by_json.status, &by_json.body), (200, &expected));
    assert_eq!(by_json, by_form);
    assert_eq!(by_json.header("cache-control"), Some("no-store"));
    assert_eq!(fixture.pool.seen()[0].body, fixture.pool.seen()[1].body);
}

#[tokio::test]
async fn a_pool_without_expires_in_is_helped_out_by_the_token_itself() {
    let fixture =
        Fixture::start(|_, _| Reply::Json(200, json!({"AuthenticationResult": {"AccessToken": access_token()}}))).await;
    let answer = fixture.post("/login", json!({"username": "u", "password": "p"})).await;
    assert_eq!(answer.body["expires_in"], 3540);
}

fn new_password_challenge() -> Reply {
    Reply::Json(
        200,
        json!({"ChallengeName": "NEW_PASSWORD_REQUIRED", "Session": "pool-session",
            "ChallengeParameters": {"USER_ID_FOR_SRP": "sub-1", "requiredAttributes": "[\"userAttributes.name\"]"}}),
    )
}

#[tokio::test]
async fn a_challenge_is_answered_once_with_what_was_sealed() {
    let fixture = Fixture::start(|number, _| if number == 0 { new_password_challenge() } else { tokens() }).await;
    let challenge = fixture.post("/login", json!({"username": "alice", "password": "p"})).await;
    assert_eq!((challenge.status, &challenge.body["challenge"]), (200, &json!("NEW_PASSWORD_REQUIRED")));
    assert_eq!(challenge.body["parameters"], json!({"requiredAttributes": ["name"]}));
    let session = &challenge.body["session"];
    assert!(!session.as_str().unwrap().contains("pool-session"));
    let answer = json!({"session": session, "new_password": "n", "attributes": {"name": "Alice"}});
    assert_eq!(fixture.post("/challenge", answer.clone()).await.body["access_token"], "a");
    let sent = &fixture.pool.seen()[1].body;
    assert_eq!(sent["Session"], "pool-session");
    assert_eq!(
        sent["ChallengeResponses"],
        json!({"USERNAME": "sub-1", "NEW_PASSWORD": "n", "userAttributes.name": "Alice"})
    );
    assert_eq!(fixture.post("/challenge", answer).await.code(), (401, "session_expired"));
    assert_eq!(fixture.pool.seen().len(), 2, "the second answer did not reach the pool");
}

#[tokio::test]
async fn five_wrong_answers_end_a_challenge_and_failures_of_the_pool_do_not_count() {
    let fixture = Fixture::start(|number, _| match number {
        0 => new_password_challenge(),
        1..=3 => Reply::fault("ForbiddenException", "m"),
        _ => Reply::fault("InvalidPasswordException", "Password not long enough"),
    })
    .await;
    let session = fixture.post("/login", json!({"username": "u", "password": "p"})).await.body["session"].take();
    let answer = json!({"session": session, "new_password": "n"});
    for _ in 0..3 {
        assert_eq!(fixture.post("/challenge", answer.clone()).await.code(), (502, "provider_error"));
    }
    for _ in 0..sessions::ATTEMPTS {
        assert_eq!(fixture.post("/challenge", answer.clone()).await.code(), (400, "password_rejected"));
    }
    assert_eq!(fixture.post("/challenge", answer).await.code(), (401, "session_expired"));
    assert_eq!(fixture.pool.seen().len(), 9);
}

#[tokio::test]
async fn sessions_that_are_over_and_answers_that_do_not_fit() {
    let fixture = Fixture::start(|number, _| match number {
        0 => Reply::Json(200, json!({"ChallengeName": "SOFTWARE_TOKEN_MFA", "Session": "s"})),
        1 => new_password_challenge(),
        _ => Reply::fault("NotAuthorizedException", "Invalid session for the user, session is expired."),
    })
    .await;
    let login = json!({"username": "u", "password": "p"});
    let challenge = fixture.post("/login", login.clone()).await;
    assert_eq!(challenge.body["challenge"], "SOFTWARE_TOKEN_MFA");
    let totp = challenge.body["session"].clone();
    let new_password = fixture.post("/login", login).await.body["session"].take();
    for (answer, expected) in [
        (json!({"session": totp, "code": "123456"}), (400, "challenge_invalid")),
        (json!({"session": totp, "new_password": "n"}), (400, "challenge_invalid")),
        (json!({"session": new_password}), (400, "challenge_invalid")),
        (json!({"session": new_password, "code": "1"}), (400, "challenge_invalid")),
        (json!({"session": new_password, "new_password": "n", "credential": {"id": []}}), (400, "challenge_invalid")),
        (json!({"session": "forged", "new_password": "n"}), (401, "session_expired")),
        (json!({"session": new_password, "new_password": "n"}), (401, "session_expired")),
        (json!({"new_password": "n"}), (400, "body_invalid")),
    ] {
        assert_eq!(fixture.post("/challenge", answer.clone()).await.code(), expected, "{answer}");
    }
    fixture.clock.advance(Duration::from_secs(3600));
    let late = fixture.post("/challenge", json!({"session": totp, "code": "1"})).await;
    assert_eq!(late.code(), (401, "session_expired"));
    assert_eq!(fixture.pool.operations(), ["InitiateAuth", "InitiateAuth", "RespondToAuthChallenge"]);
}

#[tokio::test]
async fn refresh_answers_tokens_or_what_is_wrong_with_the_token() {
    let texts =
        ["Invalid Refresh Token", "Refresh Token has expired", "Refresh Token has been revoked", "User is disabled."];
    let fixture = Fixture::start(move |number, _| match texts.get(number) {
        Some(text) => Reply::fault("NotAuthorizedException", text),
        None => {
            Reply::Json(200, json!({"AuthenticationResult": {"AccessToken": "a", "IdToken": "i", "ExpiresIn": 60}}))
        }
    })
    .await;
    let body = json!({"refresh_token": "r"});
    for code in ["token_invalid", "token_expired", "token_revoked", "token_invalid"] {
        assert_eq!(fixture.post("/refresh", body.clone()).await.code(), (401, code));
    }
    let answer = fixture.post("/refresh", body).await;
    let expected = json!({"access_token": "a", "id_token": "i", "token_type": "Bearer", "expires_in": 60});
    assert_eq!((answer.status, &answer.body), (200, &expected));
    assert!(fixture.pool.operations().iter().all(|operation| operation == "GetTokensFromRefreshToken"));
}

#[tokio::test]
async fn a_refresh_by_flow_is_signed_for_the_real_username() {
    let script = |_: usize, seen: &Seen| {
        let mut result = json!({"AccessToken": access_token(), "ExpiresIn": 3600});
        match (seen.operation.as_str(), seen.body["AuthFlow"].as_str()) {
            // An emulator: it lacks the operation, and wants the hash.
            ("GetTokensFromRefreshToken", _) => return Reply::page(500),
            (_, Some("USER_PASSWORD_AUTH")) => result["RefreshToken"] = "r1".into(),
            // It rotates once.
            (_, Some("REFRESH_TOKEN_AUTH")) if seen.body["AuthParameters"]["REFRESH_TOKEN"] == "r1" => {
                result["RefreshToken"] = "r2".into();
            }
            _ => {}
        }
        Reply::Json(200, json!({"ChallengeParameters": {}, "AuthenticationResult": result}))
    };
    let fixture = Fixture::build(true, Some("s3cret"), script).await;
    let unknown = fixture.post("/refresh", json!({"refresh_token": "of another process"})).await;
    assert_eq!(unknown.status, 502, "{unknown:?}");
    let username = access_claims()["username"].as_str().unwrap().to_owned();
    let login = fixture.post("/login", json!({"username": "an-alias@example.com", "password": "pw"})).await;
    assert_eq!(login.body["refresh_token"], "r1");
    for token in ["r1", "r2", "r2"] {
        let answer = fixture.post("/refresh", json!({"refresh_token": token})).await;
        assert_eq!(answer.status, 200, "{token}: {answer:?}");
        let last = fixture.pool.seen().pop().unwrap().body;
        let client_id = last["ClientId"].as_str().unwrap();
        let hash = cognito::sign::secret_hash(&Secret::from("s3cret".to_owned()), &username, client_id);
        assert_eq!(last["AuthParameters"], json!({"REFRESH_TOKEN": token, "SECRET_HASH": hash.expose()}));
    }
}

#[tokio::test]
async fn a_sign_out_is_felt_by_every_token_of_the_sign_in() {
    let fixture = Fixture::start(|_, _| Reply::Json(200, json!({}))).await;
    let (access, id) = (access_token(), sign(HEADER, &id_claims().to_string()));
    assert_eq!(fixture.with_bearer("/validate", &access, json!({})).await.status, 200);
    let body = json!({"refresh_token": "r", "everywhere": true});
    let answer = fixture.with_bearer("/logout", &access, body).await;
    assert_eq!((answer.status, &answer.body), (204, &Value::Null));
    assert_eq!(fixture.pool.operations(), ["GlobalSignOut", "RevokeToken"]);
    assert_eq!(fixture.pool.seen()[0].body, json!({"AccessToken": access}));
    for token in [&access, &id] {
        assert_eq!(fixture.with_bearer("/validate", token, json!({})).await.code(), (401, "token_revoked"));
    }
    // A token of the same sign-in that was made just before and lives longer.
    let mut younger = access_claims();
    younger["iat"] = NOW.seconds().into();
    younger["exp"] = (NOW.seconds() + 24 * 3600).into();
    fixture.clock.advance(Duration::from_secs(24 * 3600 - 5));
    let younger = sign(HEADER, &younger.to_string());
    assert_eq!(fixture.with_bearer("/validate", &younger, json!({})).await.code(), (401, "token_revoked"));
}

#[tokio::test]
async fn a_sign_out_without_origin_goes_by_the_token_and_needs_neither_body_nor_pool() {
    let fixture = Fixture::start(|_, _| Reply::page(403)).await;
    let mut claims = access_claims();
    claims.as_object_mut().unwrap().remove("origin_jti");
    let token = sign(HEADER, &claims.to_string());
    let authorization = format!("Bearer {token}");
    let answer = fixture.send("/logout", &[("authorization", &authorization)], String::new()).await;
    assert_eq!(answer.status, 204);
    assert!(fixture.pool.seen().is_empty());
    assert_eq!(fixture.with_bearer("/validate", &token, json!({})).await.code(), (401, "token_revoked"));

    // The pool's failure is in the log, not in the answer.
    claims["jti"] = "another".into();
    let token = sign(HEADER, &claims.to_string());
    let answer = fixture.with_bearer("/logout", &token, json!({"refresh_token": "r"})).await;
    assert_eq!((answer.status, fixture.pool.operations().len()), (204, 1));
}

#[tokio::test]
async fn only_one_good_access_token_signs_out() {
    let fixture = Fixture::start(|_, _| Reply::Json(200, json!({}))).await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = access_claims();
        change(&mut claims);
        sign(HEADER, &claims.to_string())
    };
    for (token, code) in [
        (sign(HEADER, &id_claims().to_string()), "token_invalid"),
        (with(&|claims| claims["client_id"] = "another".into()), "token_invalid"),
        (with(&|claims| claims["exp"] = 1_800_000_001.into()), "token_expired"),
        ("nonsense".to_owned(), "token_invalid"),
        (String::new(), "token_invalid"),
    ] {
        assert_eq!(fixture.with_bearer("/logout", &token, json!({})).await.code(), (401, code), "{token}");
    }
    assert_eq!(fixture.post("/logout", json!({})).await.code(), (401, "token_missing"));
    let good = format!("Bearer {}", access_token());
    let basic = fixture.send("/logout", &[("authorization", "Basic eDp5")], String::new()).await;
    assert_eq!(basic.code(), (401, "token_missing"));
    let twice = fixture.send("/logout", &[("authorization", &good), ("authorization", &good)], String::new()).await;
    assert_eq!(twice.code(), (400, "header_ambiguous"));
    assert_eq!(fixture.with_bearer("/validate", &access_token(), json!({})).await.status, 200, "nobody signed out");
}

#[tokio::test]
async fn validate_says_what_a_token_says() {
    let fixture = Fixture::start(|_, _| Reply::page(500)).await;
    let id = sign(HEADER, &id_claims().to_string());
    let answer = fixture.post("/validate", json!({"token": id})).await;
    let expected = json!({"valid": true, "token_use": "id", "expires_in": 3540, "claims": id_claims()});
    assert_eq!((answer.status, &answer.body), (200, &expected));
    let both = fixture.with_bearer("/validate", &id, json!({"token": id})).await;
    assert_eq!(both.code(), (400, "header_ambiguous"));
    assert_eq!(fixture.post("/validate", json!({})).await.code(), (401, "token_missing"));
    let tampered = format!("{}A", access_token());
    let refused = fixture.post("/validate", json!({"token": tampered})).await;
    assert_eq!(refused.code(), (401, "token_invalid"));
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
    fixture.clock.advance(Duration::from_secs(3545));
    assert_eq!(fixture.post("/validate", json!({"token": id})).await.body["expires_in"], 0, "within the leeway");
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_break_its_refresh() {
    let arrived = Arc::new(tokio::sync::Notify::new());
    let at_pool = Arc::clone(&arrived);
    let fixture = Fixture::start(move |_, _| {
        at_pool.notify_one();
        tokens()
    })
    .await;
    tokio::select! {
        biased;
        () = arrived.notified() => {}
        answer = fixture.post("/refresh", json!({"refresh_token": "r"})) => panic!("too early: {answer:?}"),
    }
    // The request is gone now; its call is not.
    let done = async {
        let line = r#"operation="GetTokensFromRefreshToken",outcome="ok"} 1"#;
        while !fixture.metrics.text().contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), done).await.unwrap();
}

#[tokio::test]
async fn throttling_and_outages_are_not_the_users_fault() {
    let fixture = Fixture::start(|number, _| match number {
        0..3 => Reply::fault("TooManyRequestsException", "Rate exceeded"),
        _ => Reply::page(503),
    })
    .await;
    let answer = fixture.post("/password/forgot", json!({"username": "u"})).await;
    assert_eq!((answer.code(), answer.header("retry-after")), ((503, "provider_throttled"), Some("1")));
    let answer = fixture.post("/login", json!({"username": "u", "password": "p"})).await;
    assert_eq!(answer.code(), (502, "provider_error"));
}
