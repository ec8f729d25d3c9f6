//! `/auth/.well-known/jwks.json`: the keys with which upstreams check the gateway's assertions.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::access::assertion::{Keys, LEAD};
use crate::clock::Timestamp;
use crate::http::{Body, json};
use crate::problem::{Code, Problem};

/// The path below the prefix of the identity routes.
pub const PATH: &str = "/.well-known/jwks.json";

/// The key set at `now`. Everybody may have it, and keep it for as long as a new key waits.
///
/// # Errors
/// When the method is neither GET nor HEAD.
pub fn answer(keys: &Keys, method: &Method, now: Timestamp) -> Result<Response<Body>, Problem> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Problem { allow: Some("GET, HEAD".to_owned()), ..Problem::from(Code::MethodNotAllowed) });
    }
    let mut response = json(StatusCode::OK, &keys.document(now));
    let age = format!("public, max-age={}", LEAD.as_secs());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::try_from(age).unwrap_or(NO_CACHE));
    Ok(response)
}

/// A number always fits into a header.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
