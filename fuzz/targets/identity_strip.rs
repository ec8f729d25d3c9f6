//! What is left of a client's headers when a request is stamped: nothing that could be read as the
//! gateway's own word. Each line is `Name: value`; the first byte says whether the peer is trusted.
#![no_main]

use std::net::SocketAddr;

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::access::forwarded::{Forwarded, Hop};
use portcullis::access::identity::{Identity, Stamp, stamp};
use portcullis::access::{Credential, authorize};
use portcullis::config::{self, Access, HeaderEdits};
use portcullis::http::{HOP_BY_HOP, Transport};
use portcullis::telemetry::trace::{RequestId, TraceContext};

/// Set by the gateway on every request.
const SET: [&str; 8] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "traceparent",
];
/// Nobody's to say, in any spelling: names that begin so, and names that are these.
const GONE_PREFIXES: [&str; 5] = ["x-auth-", "x-forwarded-", "x-original-", "x-rewrite-", "x-portcullis-"];
const GONE: [&str; 7] =
    ["x-http-method-override", "x-method-override", "x-real-ip", "x-request-id", "traceparent", "proxy", "forwarded"];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let trusted = first % 2 == 1;
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(64) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(at);
        let name = HeaderName::from_bytes(name.trim_ascii());
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }

    let identity = Identity::new(&config::Identity { prefix: "x-auth-".to_owned(), headers: Vec::new() });
    let hop = Hop::new([10, 0, 0, 1].into(), Some(SocketAddr::from(([10, 0, 0, 2], 8080))), &Transport::Plain);
    let host = HeaderValue::from_static("app.example");
    let forwarded = Forwarded {
        hop: &hop,
        trusted,
        client: [203, 0, 113, 9].into(),
        host: Some(&host),
        request_id: RequestId::random(),
        trace: TraceContext::random(),
    };
    let permit = authorize(&Access::Public, &Credential::Absent, None).expect("public");
    let mut request = http::Request::new(());
    *request.headers_mut() = headers;
    let edits = HeaderEdits::default();
    let of = Stamp {
        identity: &identity,
        forwarded,
        keep_authorization: false,
        websocket: false,
        edits: &edits,
        assertion: None,
    };
    let vetted = stamp(request, &permit, &of).expect("there are no claims");

    let headers = vetted.request().headers();
    for name in headers.keys() {
        if SET.contains(&name.as_str()) {
            let values: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(values.len(), 1, "{name} has one value: the gateway's");
            continue;
        }
        let collapsed: String =
            name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        assert!(!GONE_PREFIXES.iter().any(|gone| collapsed.starts_with(gone)), "{name} survived");
        assert!(!GONE.contains(&&*collapsed) && *name != AUTHORIZATION, "{name} survived");
        assert!(!HOP_BY_HOP.iter().any(|hop| *hop == *collapsed), "{name} is hop-by-hop");
    }
    for name in SET {
        assert!(headers.contains_key(name), "{name} is always set");
    }
    if !trusted {
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "app.example");
        assert!(!headers.contains_key("tracestate"));
    }
    assert!(headers.get_all(COOKIE).iter().count() <= 1);
});
