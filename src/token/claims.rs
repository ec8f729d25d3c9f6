//! What a Cognito token says, with types (Cognito developer guide, "Understanding user pool JSON web tokens").
//!
//! A claim that is there with the wrong type is an error, never an absent claim. Nothing here is
//! compared with the clock or the configuration.

use serde_json::{Map, Value};

use super::Reason;
use crate::config::TokenUse;

/// 9999-12-31T23:59:59Z, the last second that every calendar can show.
const LAST_SECOND: i64 = 253_402_300_799;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `sub`: the user (or the client, for machine-to-machine tokens). Opaque, never empty.
    pub sub: String,
    /// `username` of access tokens, `cognito:username` of ID tokens. Machines have none.
    pub username: Option<String>,
    /// The app client: `client_id` of access tokens, `aud` of ID tokens.
    pub client: String,
    /// `token_use`.
    pub token_use: TokenUse,
    /// `cognito:groups`; empty when the claim is absent.
    pub groups: Vec<String>,
    /// `exp`, in seconds since the epoch.
    pub exp: i64,
    /// `iat`, in seconds since the epoch.
    pub iat: i64,
    /// `nbf`, in seconds since the epoch. Cognito does not send it.
    pub nbf: Option<i64>,
    /// `auth_time`: when the user signed in, in seconds since the epoch.
    pub auth_time: Option<i64>,
    /// `jti`: this token.
    pub jti: Option<String>,
    /// `origin_jti`: the sign-in that this token comes from.
    pub origin_jti: Option<String>,
    scope: Option<String>,
    all: Map<String, Value>,
}

impl Claims {
    /// Any claim, by its name in the token.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.all.get(name)
    }

    /// Every claim, by name.
    pub fn all(&self) -> &Map<String, Value> {
        &self.all
    }

    /// The members of `scope`, in their order (RFC 6749 §3.3).
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.as_deref().unwrap_or_default().split(' ').filter(|scope| !scope.is_empty())
    }

    /// The typed form of a payload.
    ///
    /// # Errors
    /// The reason when a claim is missing or has the wrong type, or `token_use` is neither of the
    /// two signed kinds.
    pub(super) fn from_payload(all: Map<String, Value>) -> Result<Self, Reason> {
        issuer(&all)?;
        let token_use = match required_text(&all, "token_use")? {
            "access" => TokenUse::Access,
            "id" => TokenUse::Id,
            _ => return Err(Reason::WrongUse),
        };
        let audience = audience(&all)?;
        let client_id = text(&all, "client_id")?;
        let username = text(&all, "username")?;
        let cognito_username = text(&all, "cognito:username")?;
        let (client, username) = match token_use {
            TokenUse::Access => (client_id, username),
            TokenUse::Id => (single(audience)?, cognito_username),
        };
        let claims = Self {
            sub: required_text(&all, "sub")?.to_owned(),
            username: username.map(str::to_owned),
            client: client.ok_or(Reason::ClaimMissing)?.to_owned(),
            token_use,
            groups: texts(&all, "cognito:groups")?.unwrap_or_default().into_iter().map(str::to_owned).collect(),
            exp: date(&all, "exp")?.ok_or(Reason::ClaimMissing)?,
            iat: date(&all, "iat")?.ok_or(Reason::ClaimMissing)?,
            nbf: date(&all, "nbf")?,
            auth_time: date(&all, "auth_time")?,
            jti: text(&all, "jti")?.map(str::to_owned),
            origin_jti: text(&all, "origin_jti")?.map(str::to_owned),
            scope: text(&all, "scope")?.map(str::to_owned),
            all,
        };
        if claims.sub.is_empty() || claims.client.is_empty() {
            return Err(Reason::ClaimType);
        }
        Ok(claims)
    }
}

/// The `iss` of a payload that nobody has verified yet: good for choosing the pool, nothing else.
pub(super) fn issuer(payload: &Map<String, Value>) -> Result<&str, Reason> {
    required_text(payload, "iss")
}

fn required_text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<&'c str, Reason> {
    text(claims, name)?.ok_or(Reason::ClaimMissing)
}

fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Reason::ClaimType),
    }
}

fn texts<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<Vec<&'c str>>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Array(members)) => {
            members.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(Some).ok_or(Reason::ClaimType)
        }
        Some(_) => Err(Reason::ClaimType),
    }
}

/// `aud`: one text or a list of them (RFC 7519 §4.1.3).
fn audience(claims: &Map<String, Value>) -> Result<Option<Vec<&str>>, Reason> {
    match claims.get("aud") {
        Some(Value::String(audience)) => Ok(Some(vec![audience])),
        _ => texts(claims, "aud"),
    }
}

/// The only member. A token for two clients is for neither of them.
fn single(audience: Option<Vec<&str>>) -> Result<Option<&str>, Reason> {
    match audience.as_deref() {
        None => Ok(None),
        Some([one]) => Ok(Some(*one)),
        Some(_) => Err(Reason::ClaimType),
    }
}

/// A NumericDate. Cognito sends whole seconds; fractions, negative and far numbers are refused, so
/// that no later arithmetic can wrap.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(seconds @ 0..=LAST_SECOND) => Ok(Some(seconds)),
            _ => Err(Reason::ClaimType),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing;
    use super::*;

    fn parse(claims: &Value) -> Result<Claims, Reason> {
        Claims::from_payload(claims.as_object().unwrap().clone())
    }

    /// The claims of a good access token with one of them replaced.
    fn with(name: &str, value: Value) -> Result<Claims, Reason> {
        let mut claims = testing::access_claims();
        claims[name] = value;
        parse(&claims)
    }

    #[test]
    fn an_access_token_has_its_client_in_client_id() {
        let claims = parse(&testing::access_claims()).unwrap();
        assert_eq!(claims.client, testing::CLIENT);
        assert_eq!(claims.username.as_deref(), Some("demo"));
        assert_eq!(claims.token_use, TokenUse::Access);
        assert_eq!(claims.groups, ["admin", "staff"]);
        assert_eq!(claims.scopes().collect::<Vec<_>>(), ["aws.cognito.signin.user.admin", "orders/read"]);
        assert_eq!(claims.get("version"), Some(&json!(2)));
        assert_eq!(with("aud", json!(["https://api.example"])).unwrap().client, testing::CLIENT, "RFC 8707");
    }

    #[test]
    fn an_id_token_has_its_client_in_aud() {
        let mut id = testing::id_claims();
        let claims = parse(&id).unwrap();
        assert_eq!((claims.client.as_str(), claims.username.as_deref()), (testing::CLIENT, Some("demo")));
        assert_eq!(claims.token_use, TokenUse::Id);
        assert_eq!(claims.scopes().count(), 0);
        id["aud"] = json!([testing::CLIENT]);
        assert_eq!(parse(&id).unwrap().client, testing::CLIENT);
        for aud in
            [json!([testing::CLIENT, "other"]), json!([]), json!([5]), json!(5), json!(null), json!({}), json!("")]
        {
            id["aud"] = aud.clone();
            assert_eq!(parse(&id), Err(Reason::ClaimType), "{aud}");
        }
        id["client_id"] = json!(testing::CLIENT);
        id.as_object_mut().unwrap().remove("aud");
        assert_eq!(parse(&id), Err(Reason::ClaimMissing), "client_id does not stand in for aud");
    }

    #[test]
    fn required_claims_are_required() {
        for name in ["iss", "sub", "exp", "iat", "token_use", "client_id"] {
            let mut claims = testing::access_claims();
            claims.as_object_mut().unwrap().remove(name).unwrap();
            assert_eq!(parse(&claims), Err(Reason::ClaimMissing), "{name}");
        }
        for name in ["username", "cognito:groups", "scope", "auth_time", "jti", "origin_jti"] {
            let mut claims = testing::access_claims();
            claims.as_object_mut().unwrap().remove(name).unwrap();
            assert!(parse(&claims).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_wrong_type_is_not_an_absent_claim() {
        for name in
            ["iss", "sub", "token_use", "client_id", "username", "cognito:username", "scope", "jti", "origin_jti"]
        {
            for value in [json!(5), json!(null), json!(["x"]), json!({}), json!(true)] {
                assert_eq!(with(name, value.clone()), Err(Reason::ClaimType), "{name}: {value}");
            }
        }
        for value in [json!("admin"), json!(["admin", 5]), json!(null), json!({"admin": true})] {
            assert_eq!(with("cognito:groups", value.clone()), Err(Reason::ClaimType), "{value}");
        }
        assert_eq!(with("sub", json!("")), Err(Reason::ClaimType), "nobody");
        assert_eq!(with("client_id", json!("")), Err(Reason::ClaimType));
    }

    #[test]
    fn dates_are_whole_seconds_that_a_calendar_can_show() {
        // Each of these has let an expired token live in some product.
        let bad = [
            json!("4102444800"),
            json!(-1),
            json!(1e300),
            json!(1e18),
            json!(9_007_199_254_740_993_u64),
            json!(u64::MAX),
            json!(LAST_SECOND + 1),
            json!(1_700_000_000.0),
            json!(1_700_000_000.5),
            json!(null),
            json!([1_700_000_000]),
            json!(true),
        ];
        for name in ["exp", "iat", "nbf", "auth_time"] {
            for value in &bad {
                assert_eq!(with(name, value.clone()), Err(Reason::ClaimType), "{name}: {value}");
            }
            assert!(with(name, json!(0)).is_ok());
            assert!(with(name, json!(LAST_SECOND)).is_ok());
        }
    }

    #[test]
    fn only_the_two_signed_uses_exist() {
        for token_use in ["refresh", "Access", "", "access id"] {
            assert_eq!(with("token_use", json!(token_use)), Err(Reason::WrongUse), "{token_use}");
        }
    }
}
