//! What the identity routes answer with.

use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::cognito::wire::CodeDeliveryDetails;
use crate::cognito::{Challenge, Tokens};
use crate::http::Body;

/// The destination that is shown when nothing the caller typed names one.
const UNNAMED: &str = "***";

/// The tokens of a sign-in or refresh, as RFC 6749 §5.1 names them.
pub(super) fn tokens(tokens: &Tokens, expires_in: Option<u64>) -> Response<Body> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("access_token", Some(tokens.access_token.expose().as_str().into()));
    put("id_token", tokens.id_token.as_ref().map(|token| token.expose().as_str().into()));
    put("refresh_token", tokens.refresh_token.as_ref().map(|token| token.expose().as_str().into()));
    put("token_type", Some("Bearer".into()));
    put("expires_in", expires_in.map(Value::from));
    crate::http::json(StatusCode::OK, &body)
}

/// A challenge, with the session as the gateway sealed it.
pub(super) fn challenge(challenge: &Challenge, session: &str) -> Response<Body> {
    let parameters: Map<String, Value> = challenge.parameters.iter().filter_map(parameter).collect();
    let mut body = json!({"challenge": challenge.name, "session": session, "parameters": parameters});
    if let (Some(choices), Some(body)) = (choices(challenge), body.as_object_mut()) {
        body.insert("choices".to_owned(), choices);
    }
    crate::http::json(StatusCode::OK, &body)
}

/// What one can answer with, where there is a choice.
fn choices(challenge: &Challenge) -> Option<Value> {
    if !challenge.available.is_empty() {
        return Some(challenge.available.clone().into());
    }
    let list = challenge.parameters.get("MFAS_CAN_CHOOSE")?;
    serde_json::from_str(list).ok().filter(Value::is_array)
}

/// The username stays in the sealed session. Values that are JSON inside a text become JSON.
fn parameter((name, value): (&str, &str)) -> Option<(String, Value)> {
    let value = match name {
        "USERNAME" | "USER_ID_FOR_SRP" => return None,
        "userAttributes" | "MFAS_CAN_CHOOSE" | "MFAS_CAN_SETUP" | "CREDENTIAL_REQUEST_OPTIONS" => {
            serde_json::from_str(value).unwrap_or_else(|_| value.into())
        }
        // `attributes` of the answer have no prefix, so these have none either.
        "requiredAttributes" => match serde_json::from_str::<Vec<String>>(value) {
            Ok(names) => names.iter().map(|name| name.strip_prefix("userAttributes.").unwrap_or(name)).collect(),
            Err(_) => value.into(),
        },
        _ => value.into(),
    };
    Some((name.to_owned(), value))
}

/// Where the pool says that a code went.
pub(super) fn delivery(details: Option<&CodeDeliveryDetails>) -> Value {
    details
        .map_or(Value::Null, |details| json!({"medium": details.delivery_medium, "destination": details.destination}))
}

/// Where a code would go that was sent to what the caller typed, in the form in which a pool masks
/// it: `a***@e***`, `+*******1234`. `None` when it is neither an e-mail address nor a phone number.
pub(super) fn typed_delivery(typed: &str) -> Option<Value> {
    let first = |text: &str| text.chars().next().map(String::from).unwrap_or_default();
    if let Some((local, domain)) = typed.split_once('@') {
        let destination = format!("{}***@{}***", first(local), first(domain));
        return Some(json!({"medium": "EMAIL", "destination": destination}));
    }
    let digits = typed.strip_prefix('+').filter(|rest| rest.len() >= 4 && rest.bytes().all(|b| b.is_ascii_digit()))?;
    let hidden = digits.len() - 4;
    let shown: String = digits.chars().skip(hidden).collect();
    Some(json!({"medium": "SMS", "destination": format!("+{}{shown}", "*".repeat(hidden))}))
}

/// The delivery of a code to an account of which nothing may be shown: the same for every username
/// that is not an address itself.
pub(super) fn hidden_delivery(username: &str) -> Value {
    typed_delivery(username).unwrap_or_else(|| json!({"medium": "EMAIL", "destination": UNNAMED}))
}

/// 204.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cognito::wire::Parameters;

    #[test]
    fn typed_addresses_are_masked_as_a_pool_does() {
        let destination = |typed: &str| typed_delivery(typed).map(|d| d["destination"].as_str().unwrap().to_owned());
        assert_eq!(destination("alice@example.com").as_deref(), Some("a***@e***"));
        assert_eq!(destination("+15550001234").as_deref(), Some("+*******1234"));
        assert_eq!(destination("@").as_deref(), Some("***@***"));
        for neither in ["alice", "+12", "+1555000x234", "", "é"] {
            assert_eq!(destination(neither), None, "{neither}");
        }
        assert_eq!(hidden_delivery("alice"), hidden_delivery("bob"));
    }

    #[test]
    fn challenges_show_json_as_json_and_no_username() {
        let answer = Challenge {
            name: "NEW_PASSWORD_REQUIRED".to_owned(),
            session: None,
            parameters: Parameters::default()
                .with("USER_ID_FOR_SRP", "sub-1".to_owned())
                .with("userAttributes", r#"{"email":"a@b.c"}"#.to_owned())
                .with("requiredAttributes", r#"["userAttributes.name"]"#.to_owned())
                .with("other", "[not json".to_owned()),
            available: Vec::new(),
            username: "sub-1".to_owned(),
        };
        let Body::Full(bytes) = challenge(&answer, "sealed").into_body() else { panic!("it has a body") };
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let parameters =
            json!({"userAttributes": {"email": "a@b.c"}, "requiredAttributes": ["name"], "other": "[not json"});
        assert_eq!(body, json!({"challenge": "NEW_PASSWORD_REQUIRED", "session": "sealed", "parameters": parameters}));
    }

    #[test]
    fn choices_come_from_either_place() {
        let mut answer = Challenge {
            name: "SELECT_MFA_TYPE".to_owned(),
            session: None,
            parameters: Parameters::default().with("MFAS_CAN_CHOOSE", r#"["SMS_MFA"]"#.to_owned()),
            available: Vec::new(),
            username: "u".to_owned(),
        };
        assert_eq!(choices(&answer), Some(json!(["SMS_MFA"])));
        answer.available = vec!["PASSWORD".to_owned()];
        assert_eq!(choices(&answer), Some(json!(["PASSWORD"])));
    }
}
