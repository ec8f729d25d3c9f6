//! One fetch of a key set, with everything about it bounded.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::time::timeout;

use super::document::{DocumentError, MAX_DOCUMENT};
use crate::outbound::{ReadError, read_capped};

/// From the first byte sent to the last byte received, whatever the client allows.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a fetch brought no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the endpoint cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// A redirect is one of them: the client follows none.
    #[error("the endpoint answered with status {0}")]
    Status(StatusCode),
    #[error("the answer cannot be read")]
    Read(#[source] ReadError),
    #[error("the answer is not a usable key set")]
    Document(#[source] DocumentError),
}

impl FetchError {
    /// The label of `jwks_fetch_total`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::Read(ReadError::TooLarge(_)) | Self::Document(DocumentError::TooLarge) => "too_large",
            Self::Read(ReadError::Broken(_)) => "broken",
            Self::Document(_) => "invalid",
        }
    }
}

/// The bytes that `url` answers with.
///
/// # Errors
/// When there is no complete answer with status 200 within 10 s and 256 KiB.
pub(super) async fn fetch(http: &reqwest::Client, url: &str) -> Result<Bytes, FetchError> {
    let answer = async {
        let request = http.get(url).header(header::ACCEPT, "application/json");
        let response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        read_capped(response, MAX_DOCUMENT).await.map_err(|error| match error {
            ReadError::Broken(cause) if cause.is_timeout() => FetchError::Timeout,
            other => FetchError::Read(other),
        })
    };
    timeout(DEADLINE, answer).await.unwrap_or(Err(FetchError::Timeout))
}

fn failed(error: reqwest::Error) -> FetchError {
    if error.is_timeout() { FetchError::Timeout } else { FetchError::Unreachable(error.without_url()) }
}
