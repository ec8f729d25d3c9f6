//! Whose a refresh token is, for pools that ask.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;

use crate::cognito::Tokens;
use crate::secret::Secret;
use crate::token::Claims;

/// How many are remembered: the ones that are used.
const CAPACITY: usize = 10_000;

/// The usernames behind refresh tokens that this process has handed out.
///
/// REFRESH_TOKEN_AUTH names no user, and still its SECRET_HASH stands for the real username
/// ("Computing secret hash values"). Only pools that lack GetTokensFromRefreshToken, and whose app
/// client has a secret, have to be asked so: emulators. The token is not kept, only its hash.
#[derive(Debug)]
pub(super) struct Holders(Cache<[u8; 32], Arc<str>>);

impl Holders {
    pub(super) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// Remembers whose refresh token came with an access token that says this. After a refresh that
    /// gave no new one, it is the one that was `sent`.
    pub(super) fn note(&self, tokens: &Tokens, sent: Option<&Secret<String>>, claims: &Claims) {
        let username = claims.get("username").and_then(serde_json::Value::as_str);
        if let (Some(token), Some(username)) = (tokens.refresh_token.as_ref().or(sent), username) {
            self.0.insert(key(token), Arc::from(username));
        }
    }

    /// Whose it is, if this process knows.
    pub(super) fn of(&self, refresh_token: &Secret<String>) -> Option<Arc<str>> {
        self.0.get(&key(refresh_token))
    }
}

fn key(token: &Secret<String>) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
    key
}
