//! What operators see: the log, one access line per request, and metrics.

pub mod access_log;
pub mod metrics;
pub mod trace;

use crate::config::LogFormat;

/// Whether lines are for people.
fn is_text(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}
