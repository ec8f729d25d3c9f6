//! Who is calling, may they, and which path goes upstream.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::{Gateway, Route};
use crate::access::{Credential, Denial, Permit, authenticate, authorize};
use crate::config::{Access, LimitBy};
use crate::limit::Key;
use crate::path::{self, NormalPath};
use crate::problem::{Code, Problem};
use crate::telemetry::access_log::Record;
use crate::telemetry::metrics::{self, Count, Metrics};

/// What is decided on: a request that came, or one that a proxy asks about.
pub(super) struct Asked<'a> {
    pub(super) host: &'a str,
    pub(super) path: &'a NormalPath<'a>,
    pub(super) method: &'a Method,
    /// With the credential.
    pub(super) headers: &'a HeaderMap,
    /// Whom the client's TLS certificate was given to.
    pub(super) certificate: Option<&'a Arc<str>>,
}

impl Gateway {
    /// Who is calling, may they, and which path goes upstream if not the one that was asked for. The
    /// order is that of cost: counting before cryptography.
    pub(super) async fn decide(
        &self,
        route: &Route,
        asked: &Asked<'_>,
        record: &mut Record,
    ) -> Result<(Permit, Option<String>), Problem> {
        let now = record.time;
        if let Some(limit) = &route.limit
            && limit.by() == LimitBy::Client
        {
            limit.take(Key::Client(record.client), now)?;
        }
        let credential = match &route.config.access {
            // Nobody asks who is calling, so a bad token does no harm here and a good one no work.
            Access::Public => authenticate::unasked(asked.headers),
            _ => self.authenticator.credential(asked.headers, now).await,
        };
        let decision = authorize(&route.config.access, &credential, asked.certificate);
        self.decisions.count(&decision);
        let permit = decision?;
        if let Some(principal) = permit.principal() {
            record.subject = Some(Arc::clone(principal.subject()));
            record.pool = Some(Arc::clone(&principal.verified().pool().name));
        } else if matches!(route.config.access, Access::Required(_)) {
            // Nothing but the certificate let it in.
            record.subject = permit.certificate().cloned();
        }
        if let Some(limit) = &route.limit
            && limit.by() == LimitBy::Subject
        {
            let key = match (&record.pool, &record.subject) {
                (Some(pool), Some(subject)) => Key::Subject(pool, subject),
                // No pool is called so.
                (None, Some(subject)) => Key::Subject("@certificate", subject),
                _ => Key::Client(record.client),
            };
            limit.take(key, now)?;
        }
        Ok((permit, self.rewritten(route, asked, &credential)?))
    }

    /// The path that goes upstream if it is not the one that was asked for. Nobody reaches by another
    /// name what they could not reach by its own.
    ///
    /// # Errors
    /// When the caller could not.
    pub(super) fn rewritten(
        &self,
        route: &Route,
        asked: &Asked<'_>,
        credential: &Credential,
    ) -> Result<Option<String>, Problem> {
        let Some(rewrite) = &route.config.rewrite else { return Ok(None) };
        let rewritten = rewrite.apply(&asked.path.text);
        let may = |other: &Route| {
            !Arc::ptr_eq(&other.upstream, &route.upstream)
                || authorize(&other.config.access, credential, asked.certificate).is_ok()
        };
        if !self.routes.named(asked.host, &path::normalize(&rewritten)?, asked.method).all(may) {
            return Err(Problem::from(Code::AccessDenied).because("rewrite"));
        }
        Ok(Some(rewritten))
    }
}

/// The counters of `portcullis_auth_total`, the frequent ones held.
#[derive(Debug)]
pub struct Decisions {
    metrics: Arc<Metrics>,
    accepted: Count,
    anonymous: Count,
}

impl Decisions {
    /// Counters in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let held = |outcome: &'static str| metrics.auth.get_or_create_owned(&metrics::Auth::new(outcome, "ok"));
        let (accepted, anonymous) = (held("accepted"), held("anonymous"));
        Self { metrics, accepted, anonymous }
    }

    fn count(&self, decision: &Result<Permit, Denial>) {
        match decision {
            Ok(permit) if permit.principal().is_some() => self.accepted.inc(),
            Ok(_) => self.anonymous.inc(),
            Err(denial) => {
                let outcome = if matches!(denial, Denial::Lacking(_)) { "denied" } else { "refused" };
                self.metrics.auth.get_or_create_owned(&metrics::Auth::new(outcome, denial.as_str())).inc()
            }
        };
    }
}
