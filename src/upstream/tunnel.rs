//! A server's connection after it has switched to WebSocket (RFC 6455 §4).

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Version};

use super::error::Invalid;
use super::response::strip_hop_by_hop;
use super::server::{Claim, Link};
use crate::http::single;
use crate::websocket;

/// A request to switch to WebSocket on its way to a server, and what came of it.
pub struct Handshake {
    key: HeaderValue,
    tunnel: Cell<Option<Tunnel>>,
}

impl Handshake {
    /// With this `Sec-WebSocket-Key`.
    pub fn new(key: HeaderValue) -> Self {
        Self { key, tunnel: Cell::new(None) }
    }

    /// The connection, once a server has answered with a 101 that keeps to the protocol.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        self.tunnel.into_inner()
    }

    /// Asks for it. The request has no body.
    pub(super) fn ask<B>(&self, request: &mut Request<B>) {
        let headers = request.headers_mut();
        headers.remove(header::TE);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, self.key.clone());
    }

    /// Checks and cleans the head of a 101 (RFC 6455 §4.1).
    ///
    /// # Errors
    /// When it is not the answer to this request.
    pub(super) fn check(&self, response: &mut Response<()>) -> Result<(), Invalid> {
        let accept = websocket::accept(&self.key);
        let headers = response.headers();
        let is = |name, wanted: &[u8]| matches!(single(headers, &name), Ok(Some(value)) if value.as_bytes().eq_ignore_ascii_case(wanted));
        let accepted = matches!(
            single(headers, &header::SEC_WEBSOCKET_ACCEPT), Ok(Some(value)) if value.as_bytes() == accept.as_bytes()
        );
        let framed = headers.contains_key(header::TRANSFER_ENCODING);
        let good = response.version() == Version::HTTP_11
            && is(header::UPGRADE, b"websocket")
            && websocket::names_upgrade(headers)
            && accepted
            && !framed;
        if !good {
            return Err(Invalid::Handshake);
        }
        strip_hop_by_hop(response.headers_mut());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(())
    }

    pub(super) fn open(&self, claim: Claim, mut link: Box<Link>) {
        // No further request is written with it.
        link.buffer = Vec::new();
        self.tunnel.set(Some(Tunnel { _claim: claim, link }));
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// A connection that is nothing but bytes. It is never used for another request; dropping it closes it.
pub struct Tunnel {
    _claim: Claim,
    link: Box<Link>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// The next bytes of the server; none at their end.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.link.connection.poll_bytes(cx)
    }

    /// Writes some of the bytes; says how many.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.connection.socket().poll_write(cx, bytes)
    }

    /// Has everything that was written sent.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.connection.socket().poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[(&'static str, &'static str)]) -> Response<()> {
        let mut response = Response::new(());
        for (name, value) in lines {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        response
    }

    #[test]
    fn an_answer_that_is_none_opens_nothing() {
        const ACCEPT: (&str, &str) = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        const UPGRADE: (&str, &str) = ("upgrade", "WebSocket");
        const CONNECTION: (&str, &str) = ("connection", "keep-alive, Upgrade");
        let check = |lines: &[(&'static str, &'static str)]| {
            let mut response = answer(lines);
            let handshake = Handshake::new(HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            handshake.check(&mut response).map(|()| response)
        };
        let cleaned = check(&[ACCEPT, UPGRADE, CONNECTION, ("content-length", "0"), ("x", "y")]).unwrap();
        let names: Vec<&str> = cleaned.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-accept", "x"]);
        for bad in [
            &[UPGRADE, CONNECTION][..],
            &[ACCEPT, UPGRADE],
            &[ACCEPT, CONNECTION],
            &[ACCEPT, ACCEPT, UPGRADE, CONNECTION],
            &[ACCEPT, UPGRADE, UPGRADE, CONNECTION],
            &[ACCEPT, ("upgrade", "h2c"), CONNECTION],
            &[ACCEPT, ("upgrade", "websocket, h2c"), CONNECTION],
            &[ACCEPT, UPGRADE, ("connection", "upgraded")],
            &[("sec-websocket-accept", "S3PPLMBITXAQ9KYGZZHZRBK+XOO="), UPGRADE, CONNECTION],
            &[ACCEPT, UPGRADE, CONNECTION, ("transfer-encoding", "chunked")],
        ] {
            assert!(matches!(check(bad), Err(Invalid::Handshake)), "{bad:?}");
        }
    }
}
