//! A user pool of which only the tokens and the key endpoint exist.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::reply::find;
use super::upstream::Gate;
use super::{soon, until};

/// An RSA key that signs tokens.
pub(crate) struct Key {
    pub(crate) kid: String,
    pair: KeyPair,
}

impl Key {
    /// One of the keys that all tests share: making one takes a while.
    pub(crate) fn nth(n: usize) -> &'static Self {
        static KEYS: [OnceLock<Key>; 3] = [const { OnceLock::new() }; 3];
        KEYS[n].get_or_init(|| Self { kid: format!("key-{n}"), pair: KeyPair::generate(KeySize::Rsa2048).unwrap() })
    }

    /// The public half as a JWK, under its own `kid`.
    pub(crate) fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": n, "e": e})
    }

    /// The public half as SubjectPublicKeyInfo, as somebody would use it who confuses algorithms.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        self.pair.public_key().as_der().unwrap().as_ref().to_vec()
    }

    /// A token with exactly these bytes as header and payload, signed with RS256.
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let rng = aws_lc_rs::rand::SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &rng, input.as_bytes(), &mut signature).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_raw(&json!({"kid": self.kid, "alg": "RS256"}).to_string(), &claims.to_string())
    }
}

/// What the key endpoint does when it is asked.
#[derive(Clone, Debug)]
pub(crate) enum KeyMode {
    /// Answers with these keys.
    Keys(Vec<Value>),
    /// Answers with this status, these header lines and this body.
    Answer(u16, String, Vec<u8>),
    /// Answers with these keys once the gate is open.
    After(Gate, Vec<Value>),
    /// Accepts and says nothing.
    Hang,
}

/// The key endpoint: it counts how often it was asked.
pub(crate) struct KeyEndpoint {
    address: SocketAddr,
    mode: Arc<Mutex<KeyMode>>,
    fetches: Arc<watch::Sender<usize>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl KeyEndpoint {
    async fn start(mode: KeyMode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, fetches) = (Arc::new(Mutex::new(mode)), Arc::new(watch::Sender::new(0)));
        let accepting = tokio::spawn({
            let (mode, fetches) = (Arc::clone(&mode), Arc::clone(&fetches));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&mode), Arc::clone(&fetches)));
                }
            }
        });
        Self { address, mode, fetches, accepting }
    }

    pub(crate) fn set(&self, mode: KeyMode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn keys(&self, keys: &[&Key]) {
        self.set(KeyMode::Keys(keys.iter().map(|key| key.jwk()).collect()));
    }

    pub(crate) fn fetches(&self) -> usize {
        *self.fetches.borrow()
    }

    /// Waits until it was asked `n` times in all.
    pub(crate) async fn fetched(&self, n: usize) {
        let mut count = self.fetches.subscribe();
        assert!(soon("a fetch of the keys", count.wait_for(|count| *count >= n)).await.is_ok());
    }

    /// Goes away: connections are refused from now on.
    pub(crate) async fn stop(&self) {
        self.accepting.abort();
        until("a refused connection", async || TcpStream::connect(self.address).await.is_err().then_some(())).await;
    }
}

async fn answer(mut stream: TcpStream, mode: Arc<Mutex<KeyMode>>, fetches: Arc<watch::Sender<usize>>) {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        if !stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            return;
        }
    }
    fetches.send_modify(|count| *count += 1);
    let mode = mode.lock().unwrap().clone();
    let (status, headers, body) = match mode {
        KeyMode::Keys(keys) => (200, String::new(), json!({ "keys": keys }).to_string().into_bytes()),
        KeyMode::Answer(status, headers, body) => (status, headers, body),
        KeyMode::After(gate, keys) => {
            gate.passed().await;
            (200, String::new(), json!({ "keys": keys }).to_string().into_bytes())
        }
        KeyMode::Hang => {
            let _until_it_gives_up = stream.read_buf(&mut bytes).await.is_ok();
            return;
        }
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    let _may_be_gone = stream.write_all(&[head.into_bytes(), body].concat()).await.is_ok();
}

/// Whether these are a request with its body, if it has one.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(head) = find(bytes, b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    bytes.len() >= head + 4 + length.unwrap_or(0usize)
}

/// The pool.
pub(crate) struct FakePool {
    pub(crate) id: String,
    pub(crate) client_id: String,
    pub(crate) endpoint: KeyEndpoint,
}

impl FakePool {
    /// A pool whose key set holds the first key.
    pub(crate) async fn start() -> Self {
        Self::named("Main00001").await
    }

    /// Another one, with its own id.
    pub(crate) async fn named(suffix: &str) -> Self {
        let endpoint = KeyEndpoint::start(KeyMode::Keys(vec![Key::nth(0).jwk()])).await;
        Self { id: format!("eu-west-1_{suffix}"), client_id: format!("client0of0{}", suffix.to_lowercase()), endpoint }
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://{}/{}", self.endpoint.address, self.id)
    }

    /// The section of the config that makes the gateway trust this pool. A test may append lines.
    pub(crate) fn toml(&self, name: &str) -> String {
        format!(
            "[pool.{name}]\nid = \"{}\"\nclient_id = \"{}\"\nendpoint = \"http://{}\"\n",
            self.id, self.client_id, self.endpoint.address
        )
    }

    /// The claims of a good access token of `sam`.
    pub(crate) fn access_claims(&self) -> Value {
        let now = Clock::System.now().seconds();
        json!({
            "sub": "11111111-2222-4333-8444-555555555555", "iss": self.issuer(), "client_id": self.client_id,
            "origin_jti": format!("origin-{}", portcullis::secret::random_id::<9>()), "event_id": "e", "token_use": "access",
            "scope": "aws.cognito.signin.user.admin", "auth_time": now, "iat": now, "exp": now + 3600,
            "jti": format!("jti-{}", portcullis::secret::random_id::<9>()), "username": "sam",
        })
    }

    /// A good access token but for these claims; `null` removes one.
    pub(crate) fn access(&self, but: Value) -> String {
        Key::nth(0).sign(&merged(self.access_claims(), but))
    }

    /// A good ID token but for these claims.
    pub(crate) fn id_token(&self, but: Value) -> String {
        let as_id = json!({
            "client_id": null, "scope": null, "username": null, "aud": self.client_id, "token_use": "id",
            "cognito:username": "sam", "email": "sam@example.com", "email_verified": true,
        });
        Key::nth(0).sign(&merged(merged(self.access_claims(), as_id), but))
    }
}

fn merged(mut claims: Value, but: Value) -> Value {
    let (Value::Object(claims_), Value::Object(but)) = (&mut claims, but) else { panic!("claims are objects") };
    for (name, value) in but {
        if value.is_null() {
            claims_.remove(&name)
        } else {
            claims_.insert(name, value)
        };
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::Client;

    #[tokio::test]
    async fn tokens_are_verified_by_the_keys_that_the_endpoint_serves() {
        let pool = FakePool::start().await;
        let mut client = Client::connect(pool.endpoint.address).await;
        client.send("GET /jwks HTTP/1.1\r\n\r\n").await;
        let jwk = client.next("GET").await.unwrap().json()["keys"][0].clone();
        assert_eq!(pool.endpoint.fetches(), 1);
        let text = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
        let key = jsonwebtoken::DecodingKey::from_rsa_components(&text("n"), &text("e")).unwrap();
        let token = pool.access(json!({"scope": null, "x": 1}));
        let (input, signature) = token.rsplit_once('.').unwrap();
        let rs256 = jsonwebtoken::Algorithm::RS256;
        assert!(jsonwebtoken::crypto::verify(signature, input.as_bytes(), &key, rs256).unwrap());
        let (_, payload) = input.split_once('.').unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        assert_eq!((&claims["x"], &claims["scope"]), (&json!(1), &Value::Null));
    }

    #[tokio::test]
    async fn the_endpoint_can_be_slow_wrong_silent_and_gone() {
        let pool = FakePool::start().await;
        let ask = async || {
            let mut client = Client::connect(pool.endpoint.address).await;
            client.send("GET /jwks HTTP/1.1\r\n\r\n").await;
            client
        };
        pool.endpoint.set(KeyMode::Answer(500, "x: y\r\n".to_owned(), b"oh".to_vec()));
        assert_eq!(ask().await.next("GET").await.unwrap().status, 500);
        let gate = Gate::new();
        pool.endpoint.set(KeyMode::After(gate.clone(), vec![]));
        let mut waiting = ask().await;
        pool.endpoint.fetched(2).await;
        gate.open();
        assert_eq!(waiting.next("GET").await.unwrap().text(), r#"{"keys":[]}"#);
        pool.endpoint.set(KeyMode::Hang);
        let mut silent = ask().await;
        pool.endpoint.fetched(3).await;
        silent.finish().await;
        assert!(silent.read_to_close().await.is_empty());
        pool.endpoint.stop().await;
    }
}
