//! What is answered here: the identity routes, the questions of other proxies, and the keys of the
//! assertions.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response};

use super::Gateway;
use super::decide::Asked;
use super::grpc::Tongue;
use super::host::effective_host;
use super::refusals::problem_response;
use crate::access::Permit;
use crate::access::forwarded::X_REQUEST_ID;
use crate::auth::cors::Crossing;
use crate::auth::{Auth, check, jwks};
use crate::http::Body;
use crate::path;
use crate::problem::{Code, Problem};
use crate::server::RequestBody;
use crate::telemetry::access_log::Record;

/// A request for one of our own paths.
pub(super) struct Own<'a> {
    pub(super) auth: &'a Auth,
    /// The path below the prefix.
    pub(super) below: String,
    /// The host, as the client wrote it.
    pub(super) host: Option<HeaderValue>,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
}

impl Gateway {
    /// Answers a request for one of our own paths. What is wrong with it is said in HTTP, whatever the
    /// request looks like: a proxy that asks goes by the status.
    pub(super) async fn answer(
        &self,
        own: Own<'_>,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Response<Body> {
        record.route = Some(Arc::clone(own.auth.metrics_of(&own.below)));
        let answer = self.answer_or_refuse(own, request, record).await;
        let mut response = answer.unwrap_or_else(|problem| problem_response(&problem, Tongue::Http, record));
        response.headers_mut().insert(X_REQUEST_ID, record.request_id.header_value());
        response
    }

    async fn answer_or_refuse(
        &self,
        Own { auth, below, host, trusted }: Own<'_>,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Response<Body>, Problem> {
        if let Some(appended) = check::serves(&below) {
            return self.check(auth, appended, trusted, &request, record).await;
        }
        if let Some(keys) = self.assertion_keys.as_ref().filter(|_| below == jwks::PATH) {
            return jwks::answer(keys, request.method(), record.time);
        }
        let crossing = Crossing::judge(auth.config().cors.as_ref(), request.headers(), host.as_ref())?;
        request.body_mut().count_into(record.count_in());
        if let Some(response) = crossing.preflight(&request) {
            return Ok(response);
        }
        let answer = auth.handle(request, &below, record.client).await;
        let mut response = answer.unwrap_or_else(|problem| problem_response(&problem, Tongue::Http, record));
        crossing.apply(response.headers_mut());
        Ok(response)
    }

    /// Answers a proxy that asks whether a request may pass.
    async fn check(
        &self,
        auth: &Auth,
        appended: &str,
        trusted: bool,
        request: &Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Response<Body>, Problem> {
        if !trusted {
            let detail = "Only a proxy in trusted_proxies may ask";
            return Err(Problem::new(Code::AccessDenied, detail).because("untrusted_proxy"));
        }
        let asked = match check::asked(request.method(), appended, request.headers()) {
            Ok(asked) => asked,
            // The proxy is set up wrongly, which its operator should see.
            Err(unclear @ check::Unclear::Missing(_)) => return Err(unclear.into()),
            Err(unclear) => return Err(check::refusal(unclear.into())),
        };
        let permit = self.permit_for(auth, &asked, request.headers(), record).await.map_err(check::refusal)?;
        check::answer(&self.identity, &permit)
    }

    /// The decision on a request that another proxy has.
    async fn permit_for(
        &self,
        auth: &Auth,
        asked: &check::Asked,
        headers: &HeaderMap,
        record: &mut Record,
    ) -> Result<Permit, Problem> {
        let host = effective_host(&asked.target, &asked.host)?;
        let path = path::normalize(asked.target.path())?;
        if auth.serves(&host.name, &path.text).is_some() {
            // They are answered here, and no upstream has them.
            return Err(Problem::from(Code::AccessDenied).because("identity_route"));
        }
        let route = self.routes.find(&host.name, &path, &asked.method)?;
        let asked = Asked { host: &host.name, path: &path, method: &asked.method, headers, certificate: None };
        Ok(self.decide(route, &asked, record).await?.0)
    }
}
