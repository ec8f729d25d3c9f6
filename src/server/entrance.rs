//! How a connection begins: with a handshake or without, and in which HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{ConnectionLimits, LINGER, Lifecycle, Service, send_last, serve, write_last};
use super::framing::Refusal;
use super::http2;
use super::preface::{Opening, opening};
use super::tls::{Endpoint, Shaken};
use crate::http::{ConnInfo, Transport};

/// What a listener does with its connections.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// Serves them as they are.
    Plain {
        /// HTTP/2 as well, for clients that begin with it (RFC 9113 §3.3).
        h2c: bool,
    },
    /// Shakes hands first; ALPN says which HTTP follows.
    Tls(Arc<Endpoint>),
    /// Sends every client to `https` at this port.
    Redirect(u16),
}

/// What a client gets that is one too many. It must not hold a place for long: there are none.
pub(super) const FAREWELL: Duration = Duration::from_millis(200);

/// Serves a connection from its first byte on.
pub(super) async fn enter<S: Service, I: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: I,
    info: ConnInfo,
    entrance: Entrance,
    service: Rc<S>,
    limits: ConnectionLimits,
    lifecycle: watch::Receiver<Lifecycle>,
) {
    match entrance {
        Entrance::Redirect(_) | Entrance::Plain { h2c: false } => {
            serve(stream, info, service, limits, lifecycle).await;
        }
        // Apart, so that other connections do not take the room that these take.
        Entrance::Plain { h2c: true } => Box::pin(serve_either(stream, info, service, limits, lifecycle)).await,
        Entrance::Tls(endpoint) => {
            Box::pin(async move {
                let shaken = shake(stream, &info, &endpoint, limits.handshake, lifecycle.clone()).await;
                let Some(Shaken { stream, session, http2 }) = shaken else { return };
                let info = ConnInfo { transport: Transport::Tls(Arc::new(session)), ..info };
                if http2 {
                    http2::serve(stream, info, service, limits, lifecycle).await;
                } else {
                    serve(stream, info, service, limits, lifecycle).await;
                }
            })
            .await;
        }
    }
}

/// Tells a client that there are too many, in words that it understands.
pub(super) async fn turn_away<S: Service, I: AsyncRead + AsyncWrite + Unpin>(
    mut stream: I,
    info: ConnInfo,
    entrance: Entrance,
    service: &S,
    lifecycle: watch::Receiver<Lifecycle>,
) {
    match entrance {
        Entrance::Redirect(_) | Entrance::Plain { h2c: false } => say_goodbye(stream, info, false, service).await,
        Entrance::Plain { h2c: true } => {
            // The beginning of the preface, which is no HTTP/1 request.
            let mut first = [0; 3];
            let read = timeout(FAREWELL, stream.read_exact(&mut first)).await;
            say_goodbye(stream, info, read.is_ok() && http2::PREFACE.starts_with(&first), service).await;
        }
        Entrance::Tls(endpoint) => {
            let shaken = shake(stream, &info, &endpoint, FAREWELL, lifecycle).await;
            let Some(Shaken { stream, session, http2 }) = shaken else { return };
            let info = ConnInfo { transport: Transport::Tls(Arc::new(session)), ..info };
            say_goodbye(stream, info, http2, service).await;
        }
    }
}

async fn say_goodbye<S: Service, I: AsyncRead + AsyncWrite + Unpin>(
    mut stream: I,
    info: ConnInfo,
    http2: bool,
    service: &S,
) {
    let answer = service.refuse(&service.connected(info), Refusal::Overloaded);
    let farewell = async {
        if http2 {
            // The access line is that of an answer that was given, as this one will be.
            let _told = answer.into_body().collect().await.is_ok();
            write_last(&mut stream, &http2::go_away("overloaded")).await
        } else {
            send_last(&mut stream, answer).await
        }
    };
    let last = timeout(FAREWELL, farewell).await;
    tracing::debug!(told = last.is_ok(), "too many connections");
}

/// Shakes hands under a deadline. `None`: there is nobody to go on with.
async fn shake<I: AsyncRead + AsyncWrite + Unpin>(
    stream: I,
    info: &ConnInfo,
    endpoint: &Endpoint,
    deadline: Duration,
    mut lifecycle: watch::Receiver<Lifecycle>,
) -> Option<Shaken<I>> {
    let shaken = tokio::select! {
        biased;
        // There is no request yet that could be finished.
        _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining) => return None,
        shaken = timeout(deadline, endpoint.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(shaken)) => return Some(shaken),
        Err(_elapsed) => tracing::debug!(peer = %info.peer, "a TLS handshake took too long"),
        Ok(Err(error)) => tracing::debug!(%error, peer = %info.peer, "a TLS handshake failed"),
    }
    None
}

/// Serves whichever of the two the client begins with.
async fn serve_either<S: Service, I: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: I,
    info: ConnInfo,
    service: Rc<S>,
    limits: ConnectionLimits,
    lifecycle: watch::Receiver<Lifecycle>,
) {
    match opening(stream, &limits.patience, lifecycle.clone()).await {
        Opening::Http2(stream) => http2::serve(stream, info, service, limits, lifecycle).await,
        Opening::Http1(stream) => serve(stream, info, service, limits, lifecycle).await,
        Opening::Late(mut stream) => {
            let answer = service.refuse(&service.connected(info), Refusal::HeadTimeout);
            let told = timeout(LINGER, send_last(&mut stream, answer)).await;
            tracing::debug!(told = told.is_ok(), "refused before the protocol was known");
        }
        Opening::Gone => {}
    }
}
