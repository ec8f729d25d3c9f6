//! SECRET_HASH: how a confidential app client proves itself on public operations ("Computing secret
//! hash values" in the Amazon Cognito developer guide).

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::secret::Secret;

/// `base64(HMAC-SHA256(client secret, username ‖ client id))`. The username is the one that stands in
/// the same request; where none does (REFRESH_TOKEN_AUTH) it is the real one, never an alias.
pub fn secret_hash(client_secret: &Secret<String>, username: &str, client_id: &str) -> Secret<String> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, client_secret.expose().as_bytes()));
    context.update(username.as_bytes());
    context.update(client_id.as_bytes());
    Secret::from(STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let text = include_str!("../../tests/data/srp_vectors.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let vectors = file["secret_hash"].as_array().unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap().to_owned();
            let hash = secret_hash(&Secret::from(text("client_secret")), &text("username"), &text("client_id"));
            assert_eq!(hash.expose(), &text("secret_hash"));
        }
    }
}
