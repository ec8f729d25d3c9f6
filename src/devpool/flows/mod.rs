//! Whole flows over real HTTP, as an SDK runs them.

mod account;
mod admin;
mod http;
mod persistence;
mod signin;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Server;
use crate::clock::{Clock, Timestamp};
use crate::cognito::sign::secret_hash;
use crate::cognito::srp::{self, ClientStart, Identity};
use crate::cognito::wire::{CONTENT_TYPE, TARGET_PREFIX};
use crate::config::{Embedded, Flow, Keys, Pool, PoolId, SeedUser, TokenUse};
use crate::outbound;
use crate::secret::Secret;

const POOL: &str = "eu-west-1_Dev000001";
const CLIENT: &str = "4hrtnexample";
const PASSWORD: &str = "Portcullis-1";
const SECRET: &str = "9example87654321abcdefghijklmnop";

/// A running pool with the user `demo` in the group `admin`, and a client of it.
struct Running {
    server: Server,
    clock: Clock,
    http: reqwest::Client,
    pool: Pool,
}

/// An exception: name and text.
type Exception = (String, String);

impl Running {
    /// A pool in memory.
    fn new() -> Self {
        Self::with(None, None)
    }

    /// A pool in a file, whose configured client may have a secret.
    fn with(data: Option<PathBuf>, secret: Option<&str>) -> Self {
        let clock = Clock::manual(Timestamp::from_seconds(1_767_582_249));
        Self::start(pool(data, secret), clock)
    }

    fn start(pool: Pool, clock: Clock) -> Self {
        let server = Server::bind(&pool, clock.clone(), &Handle::current()).unwrap();
        let http = outbound::client(Duration::from_secs(5), Duration::from_secs(30)).unwrap();
        Self { server, clock, http, pool }
    }

    async fn restart(self) -> Self {
        let Self { server, clock, http, pool } = self;
        drop(http);
        tokio::task::spawn_blocking(move || server.shutdown()).await.unwrap();
        Self::start(pool, clock)
    }

    /// A request as it is.
    fn post(&self, target: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let request = self.http.post(self.server.base_url()).header("x-amz-target", target);
        request.header("content-type", CONTENT_TYPE).body(body)
    }

    /// An operation of the public.
    async fn call(&self, operation: &str, request: Value) -> Result<Value, Exception> {
        read(self.post(&format!("{TARGET_PREFIX}{operation}"), request.to_string())).await
    }

    /// An operation of administrators on the configured pool.
    async fn admin(&self, operation: &str, mut request: Value) -> Result<Value, Exception> {
        let members = request.as_object_mut().unwrap();
        members.entry("UserPoolId").or_insert_with(|| json!(POOL));
        let target = match operation {
            "RotateKeys" => "PortcullisPool.RotateKeys".to_owned(),
            other => format!("{TARGET_PREFIX}{other}"),
        };
        read(self.post(&target, request.to_string()).header("authorization", signature())).await
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.server.base_url())).send().await.unwrap();
        serde_json::from_slice(&outbound::read_capped(response, 1 << 20).await.unwrap()).unwrap()
    }

    async fn sign_in(&self, username: &str, password: &str) -> Result<Value, Exception> {
        let parameters = json!({ "USERNAME": username, "PASSWORD": password });
        self.call(
            "InitiateAuth",
            json!({
                "ClientId": CLIENT, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": parameters,
            }),
        )
        .await
    }

    /// Tokens of `demo`.
    async fn tokens(&self) -> Value {
        self.sign_in("demo", PASSWORD).await.unwrap()["AuthenticationResult"].clone()
    }

    /// Signs in by SRP as the client says, which may have a secret.
    async fn sign_in_by_srp(&self, client: &str, username: &str, password: &str) -> Result<Value, Exception> {
        let start = ClientStart::random().unwrap();
        let challenge = self.start_srp(client, username, &start).await?;
        let answer = self.srp_answer(&challenge, &start, password);
        self.answer_srp(client, answer).await
    }

    async fn start_srp(&self, client: &str, username: &str, start: &ClientStart) -> Result<Value, Exception> {
        self.call(
            "InitiateAuth",
            json!({
                "ClientId": client,
                "AuthFlow": "USER_SRP_AUTH",
                "AuthParameters": { "USERNAME": username, "SRP_A": start.srp_a(), "SECRET_HASH": self.hash(username) },
            }),
        )
        .await
    }

    fn srp_answer(&self, challenge: &Value, start: &ClientStart, password: &str) -> Value {
        let parameter = |name: &str| challenge["ChallengeParameters"][name].as_str().unwrap();
        let user_id = parameter("USER_ID_FOR_SRP");
        let timestamp = srp::timestamp(self.clock.now());
        let (salt, srp_b, block) = (parameter("SALT"), parameter("SRP_B"), parameter("SECRET_BLOCK"));
        let who = Identity { pool_name: "Dev000001", user_id };
        let signature = start.respond(who, password, salt, srp_b, block, &timestamp).unwrap();
        json!({
            "USERNAME": user_id,
            "PASSWORD_CLAIM_SECRET_BLOCK": block,
            "PASSWORD_CLAIM_SIGNATURE": signature,
            "TIMESTAMP": timestamp,
            "SECRET_HASH": self.hash(user_id),
        })
    }

    async fn answer_srp(&self, client: &str, responses: Value) -> Result<Value, Exception> {
        self.call(
            "RespondToAuthChallenge",
            json!({
                "ClientId": client, "ChallengeName": "PASSWORD_VERIFIER", "ChallengeResponses": responses,
            }),
        )
        .await
    }

    /// SECRET_HASH, if the configured client has a secret.
    fn hash(&self, username: &str) -> Option<String> {
        let secret = self.pool.client_secret.as_ref()?;
        Some(secret_hash(secret, username, CLIENT).expose().clone())
    }

    /// Signs a user up with an e-mail address.
    async fn sign_up(&self, username: &str) -> Result<Value, Exception> {
        self.call(
            "SignUp",
            json!({
                "ClientId": CLIENT, "Username": username, "Password": PASSWORD, "SecretHash": self.hash(username),
                "UserAttributes": [{ "Name": "email", "Value": format!("{username}@example.com") }],
            }),
        )
        .await
    }

    /// The newest code in the outbox.
    async fn code(&self) -> String {
        let outbox = self.server.outbox();
        let messages = tokio::task::spawn_blocking(move || outbox.list()).await.unwrap();
        messages.first().unwrap().code.clone()
    }
}

fn pool(data: Option<PathBuf>, secret: Option<&str>) -> Pool {
    Pool {
        name: "main".into(),
        id: PoolId { region: "eu-west-1".to_owned(), suffix: "Dev000001".to_owned() },
        client_id: CLIENT.to_owned(),
        client_secret: secret.map(|secret| Secret::from(secret.to_owned())),
        flow: Flow::Srp,
        clients: vec![CLIENT.to_owned()],
        token_use: vec![TokenUse::Access],
        leeway: Duration::ZERO,
        endpoint: String::new(),
        issuers: Vec::new(),
        jwks: String::new(),
        keys: Keys { refresh: Duration::ZERO, stale: Duration::ZERO, cooldown: Duration::ZERO, cache: None },
        embedded: Some(Embedded {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            data,
            users: vec![SeedUser {
                username: "demo".to_owned(),
                password: Secret::from(PASSWORD.to_owned()),
                email: Some("demo@example.com".to_owned()),
                groups: vec!["admin".to_owned()],
            }],
        }),
    }
}

/// An `Authorization` of the form that SDKs send.
fn signature() -> String {
    let credential = "AKIDEXAMPLE/20260105/eu-west-1/cognito-idp/aws4_request";
    let signed = "content-type;host;x-amz-date;x-amz-target";
    format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={}", "0a".repeat(32))
}

async fn read(request: reqwest::RequestBuilder) -> Result<Value, Exception> {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = outbound::read_capped(response, 1 << 20).await.unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    if status.is_success() {
        return Ok(body);
    }
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Err((text("__type"), text("message")))
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Exception>) -> Exception {
    outcome.unwrap_err()
}

fn exception(name: &str, text: &str) -> Exception {
    (format!("{name}Exception"), text.to_owned())
}

fn bad_credentials() -> Exception {
    exception("NotAuthorized", "Incorrect username or password.")
}

/// The claims of a token, unverified.
fn claims(token: &Value) -> Value {
    use base64::Engine;
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}
