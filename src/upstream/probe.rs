//! Asking servers how they are (`[upstream.NAME.health]`).

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::connect::{Stream, open};
use super::health::Event;
use super::http2;
use super::reach::speaks_http2;
use super::{Backend, Upstream};
use crate::config;

/// Bytes of the head of a probe's answer, and of the buffer that it is read into.
const MAX_HEAD: usize = 16 * 1024;

/// Probes every server of the upstream until nobody else holds it. Belongs on the control runtime,
/// where a busy data plane does not make servers look ill. Ends at once without a `health` section.
pub async fn probe(upstream: Weak<Upstream>) {
    let mut probes = JoinSet::new();
    {
        let Some(alive) = upstream.upgrade() else { return };
        let Some(health) = alive.config.health.clone().map(Arc::new) else { return };
        for index in 0..alive.backends().len() {
            probes.spawn(probe_one(Weak::clone(&upstream), index, Arc::clone(&health)));
        }
    }
    probes.join_all().await;
}

async fn probe_one(upstream: Weak<Upstream>, index: usize, health: Arc<config::Health>) {
    let mut ticks = interval(health.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Held for one probe at a time: a reload's old upstream goes when its requests are done.
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(backend) = upstream.backends().get(index) else { return };
        let deadline = Instant::now() + health.timeout;
        let outcome = timeout_at(deadline, ask(&upstream, backend, &health.path, deadline)).await;
        let event = match outcome {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => Event::ProbePassed,
            outcome => {
                tracing::debug!(server = %backend.authority, ?outcome, "a probe failed");
                Event::ProbeFailed
            }
        };
        backend.standing.saw(event, Instant::now());
    }
}

/// Why a probe got no answer, for the log.
#[derive(Debug)]
#[expect(dead_code, reason = "they are read by `Debug`, for the log")]
enum Trouble {
    Connect(super::ConnectError),
    Request(http::Error),
    Answer(hyper::Error),
    Http2(h2::Error),
}

/// The status of the answer. The body is not waited for.
async fn ask(upstream: &Upstream, backend: &Backend, path: &str, deadline: Instant) -> Result<StatusCode, Trouble> {
    let stream = open(backend, deadline).await.map_err(Trouble::Connect)?;
    if speaks_http2(&stream, upstream.config.protocol).map_err(Trouble::Connect)? {
        let request = request(upstream, backend, path).body(()).map_err(Trouble::Request)?;
        return http2::ask(stream, &request, backend.tls.is_some()).await.map_err(Trouble::Http2);
    }
    match stream {
        Stream::Plain(stream) => ask_over(stream, upstream, backend, path).await,
        Stream::Tls(stream) => ask_over(*stream, upstream, backend, path).await,
        Stream::Unix(stream) => ask_over(stream, upstream, backend, path).await,
    }
}

fn request(upstream: &Upstream, backend: &Backend, path: &str) -> http::request::Builder {
    Request::get(path)
        .header(header::HOST, upstream.host_header(None, &backend.host))
        .header(header::USER_AGENT, HeaderValue::from_static("portcullis-health"))
}

async fn ask_over<S>(stream: S, upstream: &Upstream, backend: &Backend, path: &str) -> Result<StatusCode, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = &mut http1::Builder::new();
    let (mut sender, connection) = builder
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(Trouble::Answer)?;
    let request = request(upstream, backend, path)
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(Trouble::Request)?;
    tokio::select! {
        answer = sender.send_request(request) => answer.map(|answer| answer.status()).map_err(Trouble::Answer),
        // The connection ends before the answer is there only when that is the answer.
        Err(error) = connection => Err(Trouble::Answer(error)),
    }
}
