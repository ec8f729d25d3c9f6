use crate::http::HOP_BY_HOP;
use std::net::SocketAddr;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::access::forwarded::Hop;
use crate::access::{Credential, Principal, authorize};
use crate::config::Access;
use crate::http::Transport;
use crate::telemetry::trace::{RequestId, TraceContext};
use crate::token::testing;

fn name(text: &str) -> HeaderName {
    HeaderName::from_bytes(text.as_bytes()).unwrap()
}

fn identity(headers: &[(&str, ClaimSource)]) -> Identity {
    let headers = headers.iter().map(|(text, source)| (name(text), source.clone())).collect();
    Identity::new(&config::Identity { prefix: "x-auth-".to_owned(), headers })
}

fn claim(name: &str) -> ClaimSource {
    ClaimSource::Claim(name.to_owned())
}

/// The header for a claim with this value, or `None` when it cannot be represented.
fn header_of(value: Value) -> Option<Vec<HeaderValue>> {
    let mut claims = testing::access_claims();
    claims["custom:x"] = value;
    let verified = testing::verified(&claims);
    let headers = identity(&[("x-auth-x", claim("custom:x"))]).headers_for(verified.claims(), verified.pool());
    match headers {
        Ok(headers) => Some(headers.into_iter().map(|(_, value)| value).collect()),
        Err(Unrepresentable(at)) => {
            assert_eq!(at, name("x-auth-x"));
            None
        }
    }
}

fn anonymous() -> Permit {
    authorize(&Access::Public, &Credential::Absent, None).unwrap()
}

/// A permit for a caller with these identity headers.
fn permit(headers: Result<Headers, Unrepresentable>) -> Permit {
    let verified = testing::verified(&testing::access_claims());
    let subject = verified.claims().sub.as_str().into();
    Permit { principal: Some(Arc::new(Principal { verified, headers, subject })), certificate: None }
}

fn try_stamp(headers: HeaderMap, permit: &Permit, trusted: bool, keep: bool) -> Result<HeaderMap, Unrepresentable> {
    let local = SocketAddr::from(([10, 0, 0, 2], 8080));
    let hop = Hop::new([10, 0, 0, 1].into(), Some(local), &Transport::Plain);
    let host = HeaderValue::from_static("app.example");
    let forwarded = Forwarded {
        hop: &hop,
        trusted,
        client: [10, 0, 0, 1].into(),
        host: Some(&host),
        request_id: RequestId::random(),
        trace: TraceContext::random(),
    };
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    let identity = identity(&[("x-auth-subject", claim("sub"))]);
    let edits = HeaderEdits::default();
    let stamp_with = Stamp {
        identity: &identity,
        forwarded,
        keep_authorization: keep,
        websocket: false,
        edits: &edits,
        assertion: None,
    };
    stamp(request, permit, &stamp_with).map(|vetted| vetted.request().headers().clone())
}

fn lines(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(text, value)| (name(text), HeaderValue::from_str(value).unwrap())).collect()
}

/// What is left of an anonymous stranger's headers, without what the gateway always sets.
fn left(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    let stamped = try_stamp(lines(headers), &anonymous(), false, false).unwrap();
    let ours = try_stamp(HeaderMap::new(), &anonymous(), false, false).unwrap();
    let theirs = stamped.iter().filter(|(name, _)| !ours.contains_key(*name));
    theirs.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[test]
fn every_source_has_its_header() {
    let all = [
        ("x-auth-subject", claim("sub")),
        ("x-auth-username", ClaimSource::Username),
        ("x-auth-groups", claim("cognito:groups")),
        ("x-auth-scopes", claim("scope")),
        ("x-auth-pool", ClaimSource::Pool),
        ("x-auth-client", ClaimSource::Client),
        ("x-auth-email", claim("email")),
        ("x-auth-verified", claim("email_verified")),
        ("x-auth-time", claim("auth_time")),
    ];
    let shown = |claims: &Value| -> Vec<(String, String)> {
        let verified = testing::verified(claims);
        let headers = identity(&all).headers_for(verified.claims(), verified.pool()).unwrap();
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let access = [
        pair("x-auth-subject", "7f0c1f6e-0000-4000-8000-000000000001"),
        pair("x-auth-username", "demo"),
        pair("x-auth-groups", "admin,staff"),
        pair("x-auth-scopes", "aws.cognito.signin.user.admin orders/read"),
        pair("x-auth-pool", "main"),
        pair("x-auth-client", testing::CLIENT),
        pair("x-auth-time", "1800000000"),
    ];
    assert_eq!(shown(&testing::access_claims()), access, "an access token has no email: no header");
    let id = [
        access[0].clone(),
        access[1].clone(),
        pair("x-auth-groups", "admin"),
        access[4].clone(),
        access[5].clone(),
        pair("x-auth-email", "demo@example.com"),
        pair("x-auth-verified", "true"),
        access[6].clone(),
    ];
    assert_eq!(shown(&testing::id_claims()), id, "an ID token has other names for the same things");
}

#[test]
fn a_claim_is_said_unchanged_or_not_at_all() {
    for (value, header) in [
        (json!("a b"), "a b"),
        (json!(""), ""),
        (json!("a,b"), "a,b"),
        (json!("\"quoted\\\""), "\"quoted\\\""),
        (json!(5), "5"),
        (json!(-1.5), "-1.5"),
        (json!(false), "false"),
        (json!([]), ""),
        (json!(["a"]), "a"),
        (json!(["a", "b c"]), "a,b c"),
        (json!("100%"), "100%25"),
        (json!("Zoë"), "Zo%C3%AB"),
        (json!(["é", "%"]), "%C3%A9,%25"),
        (json!(" admin"), "%20admin"),
        (json!("admin  "), "admin %20"),
        (json!(" "), "%20"),
        (json!("\u{2003}"), "%E2%80%83"),
    ] {
        let headers = header_of(value.clone()).unwrap();
        assert_eq!(headers, [header], "{value}");
    }
    assert_eq!(header_of(json!(null)), Some(vec![]), "nothing is said about nothing");
}

#[test]
fn what_could_be_read_as_something_else_is_refused() {
    for value in [
        json!("a\r\nX-Auth-Groups: admin"),
        json!("a\nb"),
        json!("a\tb"),
        json!("a\0"),
        json!("a\u{7f}"),
        json!("a\u{85}b"),
        json!(["admin,staff"]),
        json!([","]),
        json!(["a", "b\n"]),
        json!([" admin"]),
        json!(["a", "b "]),
        json!(["a", 5]),
        json!([["a"]]),
        json!([null]),
        json!({"a": "b"}),
    ] {
        assert_eq!(header_of(value.clone()), None, "{value}");
    }
}

#[test]
fn a_caller_who_cannot_be_described_is_not_passed_on() {
    let unsaid = Unrepresentable(name("x-auth-x"));
    let permit = permit(Err(unsaid.clone()));
    assert_eq!(try_stamp(HeaderMap::new(), &permit, false, false), Err(unsaid));
}

#[test]
fn the_callers_own_headers_replace_what_was_sent() {
    let permit = permit(Ok(vec![(name("x-auth-subject"), HeaderValue::from_static("real"))]));
    let sent = lines(&[
        ("X-Auth-Subject", "forged"),
        ("X-Auth-Subject", "forged too"),
        ("X_Auth_Subject", "forged"),
        ("X-Auth-Groups", "admin"),
        // RFC 9110 §7.6.1: what is nominated here is removed, but never what is set afterwards.
        ("Connection", "X-Auth-Subject, x-auth-GROUPS"),
        ("Connection", "x-forwarded-for,Traceparent , forwarded"),
    ]);
    for trusted in [false, true] {
        let headers = try_stamp(sent.clone(), &permit, trusted, false).unwrap();
        let values: Vec<_> = headers.get_all("x-auth-subject").iter().collect();
        assert_eq!(values, ["real"]);
        let others = headers.keys().filter(|name| name.as_str().contains("auth")).count();
        assert_eq!(others, 1, "{headers:?}");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert!(headers.contains_key("traceparent") && headers.contains_key("forwarded"));
    }
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let names = HOP_BY_HOP;
    let sent: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(left(&sent), []);
    let aliases = [("transfer_encoding", "chunked"), ("Keep.Alive", "x"), ("proxy_authorization", "Basic x")];
    assert_eq!(left(&aliases), [], "as CGI folds them");
    let nominated = [("Connection", "close, X-One ,x-TWO"), ("Connection", ",, x-three"), ("connection", "not a name")];
    let named = [("x-one", "1"), ("x-two", "2"), ("x-three", "3"), ("x-four", "4"), ("close", "5")];
    let kept = [("x-four".to_owned(), "4".to_owned()), ("close".to_owned(), "5".to_owned())];
    assert_eq!(left(&[&nominated[..], &named[..]].concat()), kept);
}

#[test]
fn only_the_gateway_speaks_of_the_way_here() {
    for text in [
        "X-Forwarded-For",
        "X_Forwarded_For",
        "x.forwarded.proto",
        "X-Forwarded_Host",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Forwarded-Prefix",
        "X-Forwarded-Client-Cert",
        "x~forwarded~user",
        "X-Original-URL",
        "x_original_uri",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "x_http_method_override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Portcullis-Anything",
        "X-Real-IP",
        "x_real_ip",
        "X-Client-IP",
        "X-Request-Id",
        "x_request_id",
        "Forwarded",
        "Proxy",
        "tracestate",
        "traceparent",
    ] {
        let stamped = try_stamp(lines(&[(text, "forged")]), &anonymous(), false, false).unwrap();
        assert!(!stamped.values().any(|value| value == "forged"), "{text}: {stamped:?}");
    }
    for text in ["X-Forward", "X-Forwarded", "Proxy-Status", "X-Requested-With", "X-Authority", "X-Auth", "Origin"] {
        assert_eq!(left(&[(text, "kept")]), [(text.to_ascii_lowercase(), "kept".to_owned())]);
    }
}

#[test]
fn split_cookies_are_one_list() {
    let joined = [("cookie".to_owned(), "a=1; b=2; c=3".to_owned())];
    assert_eq!(left(&[("Cookie", "a=1; b=2"), ("cookie", "c=3")]), joined);
    assert_eq!(left(&[("Cookie", "a=1; b=2; c=3")]), joined);
}

#[test]
fn authorization_is_passed_on_only_where_it_is_asked_for() {
    let sent = || lines(&[("Authorization", "Bearer a.b.c")]);
    assert!(!try_stamp(sent(), &anonymous(), true, false).unwrap().contains_key("authorization"));
    assert_eq!(try_stamp(sent(), &anonymous(), false, true).unwrap()["authorization"], "Bearer a.b.c");
}

/// RFC 9110 §5.6.2.
const TOKEN_PUNCTUATION: &[u8] = b"!#$%&'*+-.^_`|~";

fn token_character() -> impl Strategy<Value = char> {
    prop_oneof![
        proptest::char::range('a', 'z'),
        proptest::char::range('A', 'Z'),
        proptest::char::range('0', '9'),
        prop::sample::select(TOKEN_PUNCTUATION).prop_map(char::from),
    ]
}

/// A spelling of `x-auth-` that a backend may fold to it: any case, any punctuation for the hyphens.
fn spelled_prefix() -> impl Strategy<Value = String> {
    let separators = prop::collection::vec(prop::sample::select(TOKEN_PUNCTUATION), 2);
    (separators, prop::collection::vec(any::<bool>(), 7)).prop_map(|(separators, upper)| {
        let mut separators = separators.into_iter();
        let spell = |(letter, upper): (char, bool)| match letter {
            '-' => separators.next().map_or('-', char::from),
            letter if upper => letter.to_ascii_uppercase(),
            letter => letter,
        };
        "x-auth-".chars().zip(upper).map(spell).collect()
    })
}

#[test]
fn every_token_character_is_one_of_a_headers_name() {
    // The property below is about all of them, and would be silent about one that cannot be sent.
    for character in (0..=127_u8).filter(|byte| byte.is_ascii_alphanumeric() || TOKEN_PUNCTUATION.contains(byte)) {
        let spelled = [b"x", &[character][..], b"auth", &[character], b"s"].concat();
        let spelled = HeaderName::from_bytes(&spelled).unwrap();
        let headers = HeaderMap::from_iter([(spelled.clone(), HeaderValue::from_static("forged"))]);
        let survives = try_stamp(headers, &anonymous(), false, false).unwrap().contains_key(&spelled);
        assert_eq!(survives, character.is_ascii_alphanumeric(), "{spelled}");
    }
}

proptest! {
    #[test]
    fn no_spelling_of_a_managed_name_survives(
        prefix in spelled_prefix(),
        rest in prop::collection::vec(token_character(), 0..12),
        trusted: bool,
        keep: bool,
    ) {
        let spelled: String = prefix.chars().chain(rest).collect();
        let sent = lines(&[(&spelled, "forged"), (&spelled, "forged again"), ("accept", "*/*")]);
        let stamped = try_stamp(sent, &anonymous(), trusted, keep).unwrap();
        prop_assert!(!stamped.contains_key(&spelled), "{spelled}");
        prop_assert!(stamped.contains_key("accept"));
    }

    #[test]
    fn whatever_survives_is_not_read_as_a_managed_name(
        names in prop::collection::vec(prop::collection::vec(token_character(), 1..16), 0..20),
    ) {
        let names: Vec<String> = names.into_iter().map(|name| name.into_iter().collect()).collect();
        let sent: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        for name in try_stamp(lines(&sent), &anonymous(), false, false).unwrap().keys() {
            let folded: String = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            prop_assert!(!folded.starts_with("x-auth-"), "{name}");
        }
    }

    #[test]
    fn a_text_without_control_characters_comes_back_whole(text in "[^\\p{Cc}]{0,40}") {
        let value = encode(&text).unwrap();
        // As a server reads a field's value (RFC 9110 §5.5).
        let seen = value.to_str().unwrap().trim_matches([' ', '\t']).to_owned();
        let back = percent_decode_str(&seen).decode_utf8().unwrap().into_owned();
        prop_assert_eq!(back, text);
    }
}

#[test]
fn what_a_cgi_backend_would_read_as_framing_or_as_our_words_is_removed() {
    for name in [
        "transfer-encoding",
        "transfer_encoding",
        "Transfer.Encoding",
        "content_length",
        "keep_alive",
        "x_forwarded_for",
        "X-Original_URL",
        "x_http_method.override",
        "proxy",
    ] {
        assert!(is_ours(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
    }
    for name in ["content-type", "content-length-x", "cookie", "x-forward", "user-agent", "te-x"] {
        assert!(!is_ours(&HeaderName::from_static(name)), "{name}");
    }
}
