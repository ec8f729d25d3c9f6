//! What tokens say, how long they are good, and how they end.

use serde_json::{Value, json};

use super::*;

impl Running {
    async fn refresh(&self, client: &str, token: &Value) -> Result<Value, Exception> {
        self.call("GetTokensFromRefreshToken", json!({ "ClientId": client, "RefreshToken": token })).await
    }

    async fn user(&self, tokens: &Value) -> Result<Value, Exception> {
        self.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await
    }
}

fn revoked() -> Exception {
    exception("NotAuthorized", "Access Token has been revoked")
}

#[tokio::test]
async fn both_tokens_have_the_claims_of_cognito() {
    let pool = Running::new();
    let tokens = pool.tokens().await;
    let (access, id) = (claims(&tokens["AccessToken"]), claims(&tokens["IdToken"]));
    let now = pool.clock.now().seconds();
    for claims in [&access, &id] {
        assert_eq!(claims["iss"], format!("{}/{POOL}", pool.server.base_url()));
        assert_eq!(claims["cognito:groups"], json!(["admin"]));
        assert_eq!(
            (&claims["iat"], &claims["auth_time"], &claims["exp"]),
            (&json!(now), &json!(now), &json!(now + 3600))
        );
        assert_eq!(claims["sub"].as_str().unwrap().len(), 36);
    }
    assert_eq!(access["origin_jti"], id["origin_jti"]);
    assert_ne!(access["jti"], id["jti"]);
    let of_access = json!({ "token_use": "access", "client_id": CLIENT, "username": "demo", "scope": "aws.cognito.signin.user.admin" });
    let of_id = json!({ "token_use": "id", "aud": CLIENT, "cognito:username": "demo", "email": "demo@example.com", "email_verified": true });
    for (claims, expected) in [(&access, of_access), (&id, of_id)] {
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&claims[name], value, "{name}");
        }
    }
    assert!(access.get("email").is_none() && access.get("aud").is_none() && id.get("client_id").is_none());
}

#[tokio::test]
async fn tokens_verify_against_the_published_keys_also_after_a_rotation() {
    let pool = Running::new();
    let verify = async |token: &Value| -> bool {
        let token = token.as_str().unwrap();
        let header = jsonwebtoken::decode_header(token).unwrap();
        let set = pool.get(&format!("/{POOL}/.well-known/jwks.json")).await;
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(set).unwrap();
        let Some(key) = set.find(header.kid.as_deref().unwrap()) else { return false };
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let key = jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
        jsonwebtoken::decode::<Value>(token, &key, &validation).is_ok()
    };
    let before = pool.tokens().await;
    assert!(verify(&before["AccessToken"]).await && verify(&before["IdToken"]).await);
    pool.admin("RotateKeys", json!({})).await.unwrap();
    let after = pool.tokens().await;
    let kid = |token: &Value| jsonwebtoken::decode_header(token.as_str().unwrap()).unwrap().kid.unwrap();
    let kids = [&before, &after].map(|tokens| [kid(&tokens["AccessToken"]), kid(&tokens["IdToken"])]).concat();
    let distinct: std::collections::BTreeSet<&String> = kids.iter().collect();
    assert_eq!(distinct.len(), 4);
    for tokens in [&before, &after] {
        assert!(verify(&tokens["AccessToken"]).await && verify(&tokens["IdToken"]).await);
    }
    assert!(pool.user(&before).await.is_ok());
    pool.clock.advance(super::super::keys::OVERLAP);
    assert!(!verify(&before["AccessToken"]).await && verify(&after["AccessToken"]).await);
}

#[tokio::test]
async fn a_refresh_keeps_the_sign_in_and_its_end() {
    let pool = Running::new();
    let tokens = pool.tokens().await;
    pool.clock.advance(Duration::from_secs(3600));
    assert_eq!(refused(pool.user(&tokens).await), exception("NotAuthorized", "Access Token has expired"));
    for operation in ["GetTokensFromRefreshToken", "InitiateAuth"] {
        let reply = pool.call(operation, json!({
            "ClientId": CLIENT, "RefreshToken": tokens["RefreshToken"],
            "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": { "REFRESH_TOKEN": tokens["RefreshToken"], "DEVICE_KEY": null },
        })).await.unwrap();
        let fresh = &reply["AuthenticationResult"];
        assert!(fresh.get("RefreshToken").is_none(), "rotation is off");
        let (old, new) = (claims(&tokens["AccessToken"]), claims(&fresh["AccessToken"]));
        assert_eq!((&old["auth_time"], &old["origin_jti"]), (&new["auth_time"], &new["origin_jti"]));
        assert_ne!(old["iat"], new["iat"]);
        assert!(pool.user(fresh).await.is_ok());
    }
    pool.clock.advance(Duration::from_secs(30 * 86_400 - 3600));
    let expired = exception("NotAuthorized", "Refresh Token has expired");
    assert_eq!(refused(pool.refresh(CLIENT, &tokens["RefreshToken"]).await), expired);
    let invalid = exception("NotAuthorized", "Invalid Refresh Token");
    assert_eq!(refused(pool.refresh(CLIENT, &json!("eyJ.nonsense")).await), invalid);
    assert_eq!(refused(pool.refresh(CLIENT, &tokens["AccessToken"]).await), invalid);
}

#[tokio::test]
async fn a_revoked_family_is_over_and_others_are_not() {
    let pool = Running::new();
    let (one, two) = (pool.tokens().await, pool.tokens().await);
    let revoke = |token: &Value| pool.call("RevokeToken", json!({ "ClientId": CLIENT, "Token": token }));
    assert_eq!(revoke(&one["RefreshToken"]).await, Ok(json!({})));
    assert_eq!(revoke(&one["RefreshToken"]).await, Ok(json!({})), "again is fine");
    assert_eq!(refused(pool.user(&one).await), revoked());
    let refused_refresh = refused(pool.refresh(CLIENT, &one["RefreshToken"]).await);
    assert_eq!(refused_refresh, exception("NotAuthorized", "Refresh Token has been revoked"));
    assert!(pool.user(&two).await.is_ok());
    assert_eq!(refused(revoke(&two["AccessToken"]).await).0, "UnsupportedTokenTypeException");
    let other = pool.admin("CreateUserPoolClient", json!({ "ClientName": "other" })).await.unwrap();
    let other = other["UserPoolClient"]["ClientId"].as_str().unwrap();
    let stolen = pool.call("RevokeToken", json!({ "ClientId": other, "Token": two["RefreshToken"] })).await;
    assert_eq!(refused(stolen).0, "UnauthorizedException");
    assert_eq!(refused(pool.refresh(other, &two["RefreshToken"]).await).1, "Invalid Refresh Token");

    assert_eq!(pool.call("GlobalSignOut", json!({ "AccessToken": two["AccessToken"] })).await, Ok(json!({})));
    assert_eq!(refused(pool.user(&two).await), revoked());
    assert!(pool.refresh(CLIENT, &two["RefreshToken"]).await.is_err());
    assert!(pool.user(&pool.tokens().await).await.is_ok(), "a new sign-in is a new family");
}

#[tokio::test]
async fn access_operations_take_access_tokens_of_this_pool_only() {
    let pool = Running::new();
    let tokens = pool.tokens().await;
    let invalid = exception("NotAuthorized", "Invalid Access Token");
    let with = |token: Value| pool.call("GetUser", json!({ "AccessToken": token }));
    assert_eq!(refused(with(tokens["IdToken"].clone()).await), invalid);
    assert_eq!(refused(with(json!("a.b.c")).await), invalid);
    let other = Running::new();
    assert_eq!(refused(with(other.tokens().await["AccessToken"].clone()).await), invalid);
    let text = tokens["AccessToken"].as_str().unwrap();
    let (rest, _signature) = text.rsplit_once('.').unwrap();
    assert_eq!(refused(with(json!(format!("{rest}."))).await), invalid);
}

#[tokio::test]
async fn rotated_refresh_tokens_work_once_and_reuse_ends_the_family() {
    let pool = Running::new();
    let made = pool
        .admin(
            "CreateUserPoolClient",
            json!({
                "ClientName": "rotating", "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
                "RefreshTokenRotation": { "Feature": "ENABLED", "RetryGracePeriodSeconds": 10 },
                "AccessTokenValidity": 10, "TokenValidityUnits": { "AccessToken": "minutes" },
            }),
        )
        .await
        .unwrap();
    let client = made["UserPoolClient"]["ClientId"].as_str().unwrap();
    let first = pool.sign_in_by_srp(client, "demo", PASSWORD).await.unwrap()["AuthenticationResult"].clone();
    assert_eq!(first["ExpiresIn"], 600);
    let second = pool.refresh(client, &first["RefreshToken"]).await.unwrap()["AuthenticationResult"].clone();
    assert!(second["RefreshToken"].is_string());
    assert!(pool.refresh(client, &first["RefreshToken"]).await.is_ok(), "a lost answer may be asked for again");
    pool.clock.advance(Duration::from_secs(10));
    let reuse = refused(pool.refresh(client, &first["RefreshToken"]).await);
    assert_eq!(reuse.0, "RefreshTokenReuseException");
    assert_eq!(refused(pool.refresh(client, &second["RefreshToken"]).await).1, "Refresh Token has been revoked");
    assert_eq!(refused(pool.user(&second).await), revoked());
    let off = pool.call("InitiateAuth", json!({
        "ClientId": client, "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": { "REFRESH_TOKEN": second["RefreshToken"] },
    }));
    assert_eq!(refused(off.await).0, "InvalidParameterException");
}
