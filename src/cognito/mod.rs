//! The client of Amazon Cognito's user pool API: public operations only, so that no AWS credentials
//! are needed.
//!
//! [`Client::call`] is the one way out; [`flow`] says what the calls are made for. The client knows
//! nothing of the requests that it is used for, and nothing here prints a secret.

pub mod error;
pub mod flow;
pub mod sign;
pub mod srp;
pub mod wire;

#[cfg(test)]
pub(crate) mod scripted;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

pub use error::{Error, Refusal};
pub use flow::{Challenge, SignedUp, Step, Tokens};

use crate::clock::Clock;
use crate::config;
use crate::outbound::{ReadError, read_capped};
use crate::secret::random;
use crate::telemetry::metrics::{Metrics, Operation as OperationLabel, Provider};
use wire::Operation;

/// The largest answer that is read.
const REPLY_LIMIT: usize = 256 * 1024;
/// All attempts of one call together, pauses included.
const DEADLINE: Duration = Duration::from_secs(10);
/// Attempts of one call.
const ATTEMPTS: u32 = 3;
/// The bound of the first pause; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// One user pool, as one of its app clients.
#[derive(Debug)]
pub struct Client {
    pool: Arc<config::Pool>,
    url: String,
    http: reqwest::Client,
    clock: Clock,
    metrics: Arc<Metrics>,
    deadline: Duration,
    /// How many password proofs are computed at a time: a flood of sign-ins waits here instead of
    /// taking every core from the requests that are already authenticated.
    computations: Semaphore,
    /// The pool knows no GetTokensFromRefreshToken.
    refresh_by_flow: AtomicBool,
}

impl Client {
    /// A client of `pool`. `http` comes from [`crate::outbound::client`]; its deadline is that of one
    /// attempt, while a call with its repetitions ends within ten seconds.
    pub fn new(pool: Arc<config::Pool>, http: reqwest::Client, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            url: format!("{}/", pool.endpoint),
            pool,
            http,
            clock,
            metrics,
            deadline: DEADLINE,
            computations: Semaphore::new(cores.div_ceil(2)),
            refresh_by_flow: AtomicBool::new(false),
        }
    }

    /// The pool's configuration.
    pub fn pool(&self) -> &config::Pool {
        &self.pool
    }

    /// Sends one request and reads its reply. It is sent again, up to three times in all and with full
    /// jitter, where that does no harm.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn call<O: Operation>(&self, request: &O) -> Result<O::Reply, Error> {
        let deadline = Instant::now() + self.deadline;
        // Request types are structs and maps with text keys, which always serialize.
        let body = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
        let mut attempt = 1;
        loop {
            let started = Instant::now();
            let outcome = timeout_at(deadline, self.attempt::<O>(body.clone())).await.unwrap_or(Err(Error::Timeout));
            self.count(O::NAME, started, outcome.as_ref().err());
            let error = match outcome {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let pause = pause(attempt, &error, u32::from_be_bytes(random()));
            if attempt == ATTEMPTS || !error.may_retry(O::REPEATABLE) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            attempt += 1;
        }
    }

    async fn attempt<O: Operation>(&self, body: Bytes) -> Result<O::Reply, Error> {
        let response = self
            .http
            .post(&self.url)
            .header(header::CONTENT_TYPE, wire::CONTENT_TYPE)
            .header("x-amz-target", format!("{}{}", wire::TARGET_PREFIX, O::NAME))
            .body(body)
            .send()
            .await
            .map_err(transport)?;
        let status = response.status();
        let text = |name| {
            let value = crate::http::first(response.headers(), &name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let kind = text(http::HeaderName::from_static("x-amzn-errortype"));
        let retry_after = text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let body = read_capped(response, REPLY_LIMIT).await.map_err(|error| match error {
            ReadError::Broken(error) => transport(error),
            ReadError::TooLarge(limit) => Error::TooLarge(limit),
        })?;
        if !status.is_success() {
            return Err(error::from_answer(status.as_u16(), kind.as_deref(), retry_after, &body));
        }
        // Operations without an output answer no bytes at all.
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(body).map_err(|_| Error::Foreign { status: status.as_u16() })
    }

    fn count(&self, operation: &'static str, started: Instant, error: Option<&Error>) {
        let outcome = error.map_or("ok", Error::label);
        let labels = Provider::new(Arc::clone(&self.pool.name), operation, outcome);
        self.metrics.provider_requests.get_or_create(&labels).inc();
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.provider_seconds.get_or_create(&OperationLabel::new(operation)).observe(seconds);
    }
}

/// Who failed on the way, without the URL.
fn transport(error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_connect() {
        Error::Unreachable(error)
    } else if error.is_timeout() {
        Error::Timeout
    } else {
        Error::Broken(error)
    }
}

/// Full jitter: anything from nothing to the doubled bound, so that many gateways do not come back at
/// the same moment. `fraction` is of `u32::MAX`. A pool that names a time gets it.
fn pause(attempt: u32, error: &Error, fraction: u32) -> Duration {
    let bound = PAUSE * 2_u32.saturating_pow(attempt - 1);
    let jitter = bound.mul_f64(f64::from(fraction) / f64::from(u32::MAX));
    match error {
        Error::Throttled { retry_after: Some(wait) } => jitter.max(*wait),
        _ => jitter,
    }
}

#[cfg(test)]
mod tests;
