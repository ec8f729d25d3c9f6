//! Counting exchanges by their outcome without looking up a label set for each.

use std::sync::{Arc, OnceLock};

use http::StatusCode;
use prometheus_client::metrics::family::Family;

use crate::telemetry::metrics::{Count, Metrics, ServerCode};

/// `upstream_requests_total` of one server.
pub(super) struct Tally {
    family: Family<ServerCode, Count>,
    upstream: Arc<str>,
    server: Arc<str>,
    /// By status code from 100 to 599, each resolved when the code is first seen.
    by_status: Box<[OnceLock<Count>]>,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics, upstream: &Arc<str>, server: &Arc<str>) -> Self {
        Self {
            family: metrics.upstream_requests.clone(),
            upstream: Arc::clone(upstream),
            server: Arc::clone(server),
            by_status: (100..600).map(|_| OnceLock::new()).collect(),
        }
    }

    /// An exchange that ended with an answer.
    pub(super) fn answered(&self, status: StatusCode) {
        match self.by_status.get(usize::from(status.as_u16()) - 100) {
            Some(count) => count.get_or_init(|| self.resolve(status.as_str())).inc(),
            None => self.resolve(status.as_str()).inc(),
        };
    }

    /// An exchange that ended without one, for a reason out of a fixed list.
    pub(super) fn failed(&self, reason: &'static str) {
        self.resolve(reason).inc();
    }

    fn resolve(&self, code: &str) -> Count {
        let label = ServerCode::new(Arc::clone(&self.upstream), Arc::clone(&self.server), code);
        self.family.get_or_create(&label).clone()
    }
}
