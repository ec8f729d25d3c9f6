//! What operators see: the log, one access line per request, and metrics.

pub mod metrics;
