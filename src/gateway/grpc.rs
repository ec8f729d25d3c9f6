//! What is different for a client that speaks gRPC: it reads why a call failed from `grpc-status`,
//! and takes an HTTP status for a fault on the way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};

use crate::http::{BodyError, first};
use crate::problem::Problem;

/// How a client wants to be told what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tongue {
    /// With an HTTP status and a problem body.
    Http,
    /// With a gRPC status in the head. A body that breaks off is cut.
    Grpc,
    /// The same over HTTP/2, where a body that breaks off can end with the status.
    GrpcToTheEnd,
}

impl Tongue {
    /// What a request is written in.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match (*request.method() == Method::POST && is_grpc(request.headers()), request.version()) {
            (false, _) => Self::Http,
            (true, Version::HTTP_2) => Self::GrpcToTheEnd,
            (true, _) => Self::Grpc,
        }
    }

    /// The answer, which ends as the client expects it.
    pub(super) fn told<B>(self, answer: Response<B>) -> Response<Told<B>> {
        let to_the_end = self == Self::GrpcToTheEnd && is_grpc(answer.headers());
        answer.map(|body| Told { body: Some(body), to_the_end })
    }
}

/// `application/grpc`, with or without the name of a format. gRPC-Web is something else.
fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some(value) = first(headers, &header::CONTENT_TYPE).map(|value| value.as_bytes()) else { return false };
    match value.split_at_checked(TYPE.len()) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Told<B> {
    /// `None` once it broke off.
    body: Option<B>,
    to_the_end: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Told<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(error)) if self.to_the_end => {
                self.body = None;
                Poll::Ready(Some(Ok(Frame::trailers(Problem::from(error).grpc_status()))))
            }
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tongue(method: Method, version: Version, content_type: &'static str) -> Tongue {
        let request = Request::builder().method(method).version(version).header("content-type", content_type);
        Tongue::of(&request.body(()).unwrap())
    }

    #[test]
    fn grpc_is_told_by_its_type() {
        for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
            assert_eq!(tongue(Method::POST, Version::HTTP_2, content_type), Tongue::GrpcToTheEnd, "{content_type}");
            assert_eq!(tongue(Method::POST, Version::HTTP_11, content_type), Tongue::Grpc);
            assert_eq!(tongue(Method::GET, Version::HTTP_2, content_type), Tongue::Http);
        }
        for content_type in ["application/grpc-web", "application/grp", "application/json", "text/application/grpc"] {
            assert_eq!(tongue(Method::POST, Version::HTTP_2, content_type), Tongue::Http, "{content_type}");
        }
    }
}
