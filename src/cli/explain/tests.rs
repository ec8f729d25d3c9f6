use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::config;
use crate::token::testing::{CLIENT, access_claims};

const CONFIG: &str = r#"
version = 1
[[listener]]
address = "127.0.0.1:8080"
[pool.main]
id        = "eu-west-1_AbC123xyz"
client_id = "4hrtnexample"
[auth]
[upstream.app]
servers = ["whoami:"]
[upstream.trusting]
servers       = ["http://127.0.0.1:3000"]
authorization = "keep"
[upstream.trusting.assertion]
audience = "orders"
ttl = "20s"
[[route]]
path     = "/api/*"
upstream = "app"
[[route]]
path     = "/admin/*"
upstream = "app"
access   = { groups = ["root"], scopes = ["orders/read"] }
[[route]]
path     = "/open/*"
upstream = "trusting"
access   = "public"
[[route]]
path     = "/maybe"
methods  = ["GET"]
upstream = "app"
access   = "optional"
[[route]]
path             = "/strip/*"
upstream         = "app"
access           = "public"
strip_prefix     = "/strip"
rewrite          = "/v1/*"
timeout          = "5s"
limit            = { rate = "10/1m", burst = 5 }
request_headers  = { set = { "X-Env" = "prod", "X-Api-Key" = "hunter2" }, remove = ["Accept"] }
response_headers = { set = { "X-Frame-Options" = "DENY" }, remove = ["Server"] }
[[route]]
path         = "/through/*"
upstream     = "app"
access       = "public"
strip_prefix = "/through"
"#;

/// What a rule on certificates needs besides.
const CERTIFICATES: &str = r#"
[[listener]]
address = "127.0.0.1:8443"
[listener.tls]
certificates = [{ chain = "site.pem", key = "site.key" }]
client_ca    = "clients.pem"
client_auth  = "optional"
[[route]]
path     = "/batch"
upstream = "app"
access   = { certificates = ["CN=batch,O=Example"] }
[[route]]
path     = "/both"
upstream = "app"
access   = { certificates = ["CN=batch"], groups = ["root"] }
"#;

/// A command line, as clap reads it.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    question: Question,
}

/// The answer to a question, by lines.
fn answer(arguments: &[&str]) -> Vec<String> {
    let text = CONFIG.to_owned() + CERTIFICATES;
    let config = config::parse(&text, Path::new("portcullis.toml"), &|_| None).unwrap().config;
    let line = Line::try_parse_from(["explain"].iter().chain(arguments)).unwrap();
    let mut out = Vec::new();
    explain(&config, &line.question, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The same, for a caller with these claims.
fn answer_for(claims: &Value, arguments: &[&str]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), claims.to_string()).unwrap();
    answer(&[arguments, &["--claims", file.path().to_str().unwrap()]].concat())
}

fn has(lines: &[String], wanted: &str) -> bool {
    lines.iter().any(|line| line.starts_with(wanted))
}

#[test]
fn an_allowed_request_is_shown_as_it_goes_upstream() {
    let lines = answer_for(&access_claims(), &["GET", "/api/%61"]);
    for wanted in [
        "path /api/a",
        "route ",
        "rule required: a verified token",
        "token access token of pool main, client 4hrtnexample",
        "allowed as the token's user",
        "upstream app at whoami:",
        "sends x-auth-subject: 7f0c1f6e-0000-4000-8000-000000000001",
        "sends x-auth-groups: admin,staff",
    ] {
        assert!(has(&lines, wanted), "{wanted}: {lines:#?}");
    }
    assert!(!has(&lines, "refused"));
}

#[test]
fn what_would_be_signed_is_said() {
    let lines = answer(&["GET", "/open/x"]);
    let wanted =
        "sends x-portcullis-assertion: signed for audience orders by portcullis, for 20s, no sub: an anonymous caller";
    assert!(has(&lines, wanted), "{lines:#?}");
    let lines = answer(&["GET", "/maybe", "--header", "X_Portcullis-Assertion: forged"]);
    assert!(has(&lines, "removed x_portcullis-assertion") && !has(&lines, "sends x-portcullis"), "{lines:#?}");
}

#[test]
fn a_refusal_says_which_answer_and_why() {
    let mut other_client = access_claims();
    other_client["client_id"] = json!("other");
    let mut other_issuer = access_claims();
    other_issuer["iss"] = json!("https://issuer.example");
    for (lines, wanted) in [
        (answer(&["GET", "/api/x"]), "refused 401 token_missing (missing)"),
        (answer_for(&access_claims(), &["GET", "/admin/x"]), "refused 403 access_denied (group)"),
        (answer_for(&other_client, &["GET", "/api/x"]), "refused 401 token_invalid (wrong_client)"),
        (answer_for(&other_client, &["GET", "/maybe"]), "refused 401 token_invalid (wrong_client)"),
        (answer_for(&other_issuer, &["GET", "/api/x"]), "refused 401 token_invalid (wrong_issuer)"),
        (answer(&["GET", "/api/x", "--header", "Authorization: Basic x"]), "refused 401 token_missing (scheme)"),
        (answer(&["GET", "/api/x", "--header", "Authorization: Bearer"]), "refused 401 token_invalid (malformed)"),
        (answer(&["GET", "/api/x", "--token", "a.b"]), "refused 401 token_invalid (malformed)"),
        (
            answer(&["GET", "/api/x", "--token", "a.b", "--header", "Authorization: Bearer c"]),
            "refused 400 header_ambiguous (ambiguous)",
        ),
        (answer(&["GET", "/api//x"]), "refused 400 path_ambiguous (empty_segment)"),
        (answer(&["GET", "/api/x", "--header", "Host: a b"]), "refused 400 request_malformed (host)"),
        (answer(&["GET", "/nowhere"]), "refused 404 route_unknown"),
        (answer(&["POST", "/maybe"]), "refused 405 method_not_allowed"),
    ] {
        assert!(has(&lines, wanted), "{wanted}: {lines:#?}");
        assert!(!has(&lines, "allowed") && !has(&lines, "sends"), "{lines:#?}");
    }
}

#[test]
fn nobody_may_pass_without_a_token_where_none_is_needed() {
    for path in ["/open/x", "/maybe"] {
        let lines = answer(&["GET", path]);
        assert!(has(&lines, "allowed as an anonymous caller"), "{lines:#?}");
        assert!(!has(&lines, "sends x-auth-"), "{lines:#?}");
    }
}

#[test]
fn what_is_removed_is_named_and_secrets_are_not_shown() {
    let headers =
        ["X-Auth-Subject: forged", "X_Forwarded_For: 1.1.1.1", "Cookie: s3cret", "Authorization: Bearer s3cret"];
    let headers: Vec<&str> = headers.iter().flat_map(|header| ["--header", *header]).collect();
    let lines = answer(&[&["GET", "/open/x"], &headers[..]].concat());
    for wanted in ["removed x-auth-subject", "removed x_forwarded_for", "sends cookie: ***", "sends authorization: ***"]
    {
        assert!(has(&lines, wanted), "{wanted}: {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("s3cret") || line.contains("forged")), "{lines:#?}");
    let lines = answer_for(&access_claims(), &["GET", "/api/x", "--header", "Authorization: Basic s3cret"]);
    assert!(has(&lines, "removed authorization"), "this upstream keeps none: {lines:#?}");
}

#[test]
fn identity_routes_are_the_gateways_own() {
    for path in ["/auth", "/auth/login", "/%61uth/login"] {
        assert!(has(&answer(&["POST", path]), "route identity route of pool main"), "{path}");
    }
    assert!(has(&answer(&["POST", "/authority"]), "refused 404 route_unknown"));
}

#[test]
fn claims_that_are_none_are_a_failure() {
    let config = config::parse(CONFIG, Path::new("portcullis.toml"), &|_| None).unwrap().config;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, wanted) in [
        ("[]", "not a JSON object"),
        (r#"{"sub":"a","sub":"b"}"#, "twice"),
        (r#"{"sub":"a"}"#, "not usable"),
        (&json!({"iss": 5, "client_id": CLIENT}).to_string(), "not usable"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let arguments = ["explain", "GET", "/api/x", "--claims", file.path().to_str().unwrap()];
        let line = Line::try_parse_from(arguments).unwrap();
        let error = explain(&config, &line.question, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{text}: {error}");
    }
}

#[test]
fn what_a_route_changes_is_shown() {
    let lines = answer(&["GET", "/strip/%61?b", "--header", "Accept: text/html"]);
    for wanted in [
        "limit 10 in 60s by client, 5 at once",
        "timeout 5s for the whole request",
        "rewritten /v1/a",
        "removed accept",
        "sends x-env: prod",
        "sends x-api-key: ***",
        "answer without server",
        "answer with x-frame-options: DENY",
    ] {
        assert!(has(&lines, wanted), "{wanted}: {lines:#?}");
    }
    let lines = answer(&["GET", "/through/api/x"]);
    assert!(has(&lines, "refused 403 access_denied (rewrite): that path belongs to /api/*"), "{lines:#?}");
    assert!(!has(&lines, "sends"), "{lines:#?}");
}

#[test]
fn a_certificate_can_be_a_caller() {
    let passed = answer(&["GET", "/batch", "--certificate", "cn=batch, o=Example"]);
    assert!(passed.contains(&"rule required: a certificate of any of CN=batch,O=Example".to_owned()), "{passed:?}");
    assert!(passed.contains(&"allowed as the owner of the certificate".to_owned()), "{passed:?}");
    for arguments in [&["GET", "/batch"][..], &["GET", "/batch", "--certificate", "CN=batch"]] {
        let refused = answer(arguments).join("\n");
        assert!(refused.contains("access_denied") && refused.contains("none of those that are named"), "{refused}");
    }
    let both = answer(&["GET", "/both", "--certificate", "CN=batch"]).join("\n");
    assert!(both.contains("any of the groups root, and a certificate of any of CN=batch"), "{both}");
    assert!(both.contains("token_missing"), "{both}");
    assert!(Line::try_parse_from(["explain", "GET", "/", "--certificate", "/CN=batch"]).is_err());
}
