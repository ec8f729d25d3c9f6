//! From failures of the gateway's own to answers.

use http::{HeaderValue, Method, Response};

use super::grpc::Tongue;
use super::handshake;
use super::host::HostError;
use super::route::Miss;
use crate::access::forwarded::X_REQUEST_ID;
use crate::http::Body;
use crate::path::Ambiguity;
use crate::problem::{Code, Problem};
use crate::telemetry::access_log::Record;

/// The answer that tells of a problem, in the client's way, and its note in the record.
pub(super) fn problem_response(problem: &Problem, tongue: Tongue, record: &mut Record) -> Response<Body> {
    record.code = Some(problem.code.as_str());
    record.reason = Some(problem.reason.clone());
    let mut response = match tongue {
        Tongue::Http => problem.response(record.request_id.as_str()),
        Tongue::Grpc | Tongue::GrpcToTheEnd => problem.grpc_response(),
    };
    let id: HeaderValue = record.request_id.header_value();
    response.headers_mut().insert(X_REQUEST_ID, id);
    handshake::name_version(problem, response.headers_mut());
    response
}

/// A CONNECT that is not the beginning of a WebSocket.
pub(super) fn no_connect() -> Problem {
    let refused = Problem::from(Code::MethodNotAllowed).because("connect");
    // RFC 9110 §15.5.6 asks for a list, although no resource is meant.
    let allow = Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned());
    Problem { close: true, allow, ..refused }
}

impl From<Ambiguity> for Problem {
    fn from(ambiguity: Ambiguity) -> Self {
        Self::from(Code::PathAmbiguous).because(ambiguity.as_str())
    }
}

impl From<Miss> for Problem {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Ambiguous(ambiguity) => ambiguity.into(),
            Miss::Unknown => Self::from(Code::RouteUnknown),
            Miss::Method(methods) => {
                let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
                names.sort_unstable();
                names.dedup();
                Self { allow: Some(names.join(", ")), ..Self::from(Code::MethodNotAllowed) }
            }
        }
    }
}

/// Whoever sends such a head may have sent anything behind it: the connection ends.
impl From<HostError> for Problem {
    fn from(error: HostError) -> Self {
        let problem = match error {
            HostError::Repeated => Self::from(Code::HeaderAmbiguous).because("host"),
            HostError::Malformed => Self::from(Code::RequestMalformed).because("host"),
            HostError::Contradiction => Self::from(Code::RequestMalformed).because("host_contradiction"),
        };
        Self { close: true, ..problem }
    }
}
