//! The identity routes: everything that a person does with an account, as plain JSON over HTTP.
//!
//! [`ROUTES`] is the list; [`Auth::handle`] answers. Calls to the user pool, and the arithmetic of
//! password proofs, run on the control runtime in tasks of their own: a worker never waits for the
//! pool's CPU work, and a client that hangs up does not break a refresh in the middle.
//!
//! With `hide_existing_users` nobody learns from status, body, headers or time whether a username
//! exists. What an answer says of a delivery is then made from what the caller typed.

mod account;
mod answer;
pub mod check;
pub mod cors;
mod holders;
pub mod jwks;
mod members;
mod sessions;
mod signin;
mod tokens;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use crate::access::{Authenticator, Credential, Denial, authenticate};
use crate::clock::Clock;
use crate::cognito::{self, Refusal};
use crate::config;
use crate::http::{Body, BodyError, Peer};
use crate::problem::{Code, Problem};
use crate::store;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use holders::Holders;
use members::Members;
use sessions::Sessions;

/// One identity route.
#[derive(Debug)]
pub struct Route {
    /// Its only method.
    pub method: Method,
    /// Its path below the prefix.
    pub path: &'static str,
    action: Action,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Register,
    Confirm,
    Resend,
    Login,
    Challenge,
    Refresh,
    Logout,
    Validate,
    Forgot,
    Reset,
}

/// Every identity route there is.
pub static ROUTES: [Route; 10] = [
    post("/register", Action::Register),
    post("/confirm", Action::Confirm),
    post("/confirm/resend", Action::Resend),
    post("/login", Action::Login),
    post("/challenge", Action::Challenge),
    post("/refresh", Action::Refresh),
    post("/logout", Action::Logout),
    post("/validate", Action::Validate),
    post("/password/forgot", Action::Forgot),
    post("/password/reset", Action::Reset),
];

const fn post(path: &'static str, action: Action) -> Route {
    Route { method: Method::POST, path, action }
}

/// The identity routes of one user pool.
#[derive(Debug)]
pub struct Auth {
    config: config::Auth,
    client: Arc<cognito::Client>,
    authenticator: Arc<Authenticator>,
    revoked: Arc<store::Memory>,
    clock: Clock,
    control: Handle,
    /// Held metrics, one for each of [`ROUTES`], in their order.
    metrics: Vec<Arc<RouteMetrics>>,
    /// Of [`check`], which stands apart: it has any method and no body.
    check: Arc<RouteMetrics>,
    /// Of [`jwks`].
    jwks: Arc<RouteMetrics>,
    /// For everything else below the prefix.
    unknown: Arc<RouteMetrics>,
    sessions: Arc<Sessions>,
    /// Asked only where the app client has a secret.
    holders: Arc<Holders>,
    /// Whether the last real sign-up needed no confirmation: what a hidden one answers, too.
    confirms_itself: AtomicBool,
}

impl Auth {
    /// The routes of the pool that `client` talks to. Its calls run on `control`; `revoked` is what
    /// `authenticator` asks, too.
    pub fn new(
        config: config::Auth,
        client: Arc<cognito::Client>,
        authenticator: Arc<Authenticator>,
        revoked: Arc<store::Memory>,
        clock: Clock,
        control: Handle,
        metrics: &Metrics,
    ) -> Self {
        let held = |path: &str| Arc::new(RouteMetrics::new(metrics, format!("{}{path}", config.prefix)));
        Self {
            metrics: ROUTES.iter().map(|route| held(route.path)).collect(),
            check: held(check::PATH),
            jwks: held(jwks::PATH),
            unknown: held("/*"),
            sessions: Arc::new(Sessions::new()),
            holders: Arc::new(Holders::new()),
            confirms_itself: AtomicBool::new(false),
            config,
            client,
            authenticator,
            revoked,
            clock,
            control,
        }
    }

    /// The same, with the unfinished sign-ins of `before`, and whose its refresh tokens are, if they
    /// were begun with the same pool.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let (pool, known) = (self.client.pool(), before.client.pool());
        if pool.id != known.id || pool.endpoint != known.endpoint || pool.client_id != known.client_id {
            return self;
        }
        let confirms_itself = AtomicBool::new(before.confirms_itself.load(Ordering::Relaxed));
        let (sessions, holders) = (Arc::clone(&before.sessions), Arc::clone(&before.holders));
        Self { sessions, holders, confirms_itself, ..self }
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> &config::Auth {
        &self.config
    }

    /// What follows the prefix in a normal path, if the identity routes are meant: empty, or from the
    /// next slash on. The host is in lower case and without its port.
    pub fn serves<'p>(&self, host: &str, path: &'p str) -> Option<&'p str> {
        if !self.config.hosts.is_empty() && !self.config.hosts.iter().any(|known| known == host) {
            return None;
        }
        path.strip_prefix(self.config.prefix.as_str()).filter(|below| below.is_empty() || below.starts_with('/'))
    }

    /// The counters of the route with this path below the prefix.
    pub fn metrics_of(&self, below_prefix: &str) -> &Arc<RouteMetrics> {
        if check::serves(below_prefix).is_some() {
            return &self.check;
        }
        if below_prefix == jwks::PATH {
            return &self.jwks;
        }
        let index = ROUTES.iter().position(|route| route.path == below_prefix);
        index.and_then(|index| self.metrics.get(index)).unwrap_or(&self.unknown)
    }

    /// Answers a request whose path is `below_prefix` after the prefix, with its leading slash.
    ///
    /// # Errors
    /// The problem that the client is told.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        below_prefix: &str,
        client_addr: Peer,
    ) -> Result<Response<Body>, Problem>
    where
        B: HttpBody<Data = Bytes, Error = BodyError>,
    {
        let route = self.route(request.method(), below_prefix)?;
        let outcome = self.answer(route.action, request).await;
        let (outcome_label, reason) = match &outcome {
            Ok(_) => ("ok", "ok"),
            Err(problem) => (problem.code.as_str(), problem.reason.as_ref()),
        };
        tracing::info!(route = route.path, client = %client_addr, outcome = outcome_label, reason, "identity route");
        let mut response = outcome?;
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    fn route(&self, method: &Method, path: &str) -> Result<&'static Route, Problem> {
        let found = ROUTES.iter().find(|route| route.path == path);
        let route = found.filter(|route| self.config.register || route.action != Action::Register);
        match route {
            None => Err(Code::RouteUnknown.into()),
            Some(route) if route.method == *method => Ok(route),
            Some(route) => {
                Err(Problem { allow: Some(route.method.to_string()), ..Problem::from(Code::MethodNotAllowed) })
            }
        }
    }

    async fn answer<B>(&self, action: Action, request: Request<B>) -> Result<Response<Body>, Problem>
    where
        B: HttpBody<Data = Bytes, Error = BodyError>,
    {
        let (parts, body) = request.into_parts();
        if let Credential::Refused(refusal) = authenticate::unasked(&parts.headers) {
            return Err(Denial::Refused(refusal).into());
        }
        let may_be_empty = matches!(action, Action::Logout | Action::Validate);
        let members = Members::read(&parts.headers, body, may_be_empty).await?;
        match action {
            Action::Register => self.register(members).await,
            Action::Confirm => self.confirm(members).await,
            Action::Resend => self.resend(members).await,
            Action::Login => self.login(members).await,
            Action::Challenge => self.challenge(members).await,
            Action::Refresh => self.refresh(members).await,
            Action::Logout => self.logout(&parts.headers, members).await,
            Action::Validate => self.validate(&parts.headers, members).await,
            Action::Forgot => self.forgot(members).await,
            Action::Reset => self.reset(members).await,
        }
    }

    /// Calls the user pool on the control runtime. The call goes on when the caller goes away.
    async fn ask<T, F>(&self, call: impl FnOnce(Arc<cognito::Client>) -> F) -> Result<T, cognito::Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, cognito::Error>> + Send + 'static,
    {
        let task = self.control.spawn(call(Arc::clone(&self.client)));
        let outcome = task.await.unwrap_or(Err(cognito::Error::Stopped));
        if let Err(error) = &outcome {
            report(error);
        }
        outcome
    }

    /// Lets no answer out before the floor, counted from here: the body has been read by now, so that
    /// a client cannot use the time up by sending it slowly.
    async fn paced<T>(&self, work: impl Future<Output = T>) -> T {
        if !self.config.hide_existing_users {
            return work.await;
        }
        let earliest = Instant::now() + self.config.floor;
        let outcome = work.await;
        sleep_until(earliest).await;
        outcome
    }

    /// Whether nobody may learn of this refusal, because it happens only to users that exist, or only
    /// to users that do not.
    fn hides(&self, error: &cognito::Error) -> bool {
        self.config.hide_existing_users && error.refusal().is_some_and(depends_on_user)
    }
}

/// Says what the operator has to look at. What users get wrong is in the route's own line.
fn report(error: &cognito::Error) {
    use std::error::Error as _;
    match error {
        cognito::Error::Refused(Refusal::Misconfigured(_)) => {
            tracing::error!(%error, "the configuration does not fit the user pool");
        }
        cognito::Error::Refused(Refusal::RefreshTokenReused) => {
            tracing::warn!("a refresh token was used again after its rotation: it may have been stolen");
        }
        cognito::Error::Refused(
            Refusal::TriggerFailed
            | Refusal::DeliveryFailed
            | Refusal::Firewall
            | Refusal::OperationUnknown
            | Refusal::Internal
            | Refusal::Other(_),
        ) => tracing::warn!(%error, "the user pool failed"),
        cognito::Error::Refused(_) => {}
        error => tracing::warn!(%error, cause = error.source().map(tracing::field::display), "the user pool failed"),
    }
}

/// Whether a refusal tells something about the account that was named.
const fn depends_on_user(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Credentials
        | Refusal::UserUnknown
        | Refusal::LockedOut
        | Refusal::Disabled
        | Refusal::TemporaryPasswordExpired
        | Refusal::Unconfirmed
        | Refusal::ResetRequired
        | Refusal::CodeMismatch
        | Refusal::CodeExpired
        | Refusal::AttemptsExceeded
        | Refusal::UserExists
        | Refusal::AlreadyConfirmed
        | Refusal::ResetImpossible
        | Refusal::TriggerRefused
        | Refusal::DeliveryFailed => true,
        Refusal::Session
        | Refusal::SignUpDisabled
        | Refusal::PasswordPolicy(_)
        | Refusal::PasswordReused
        | Refusal::RefreshTokenInvalid
        | Refusal::RefreshTokenExpired
        | Refusal::RefreshTokenRevoked
        | Refusal::RefreshTokenReused
        | Refusal::NotRevocable
        | Refusal::AccessTokenInvalid
        | Refusal::DeviceUnknown
        | Refusal::TriggerFailed
        | Refusal::Firewall
        | Refusal::OperationUnknown
        | Refusal::Internal
        | Refusal::Parameter(_)
        | Refusal::Misconfigured(_)
        | Refusal::Other(_) => false,
    }
}

#[cfg(test)]
mod tests;
