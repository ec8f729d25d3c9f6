//! Where messages end: the tracker, held against hyper and against a plain reading of RFC 9112.
//! The first byte says how the rest is cut into reads.
//!
//! Whatever the tracker lets through, hyper takes for the same requests with the same bodies.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use libfuzzer_sys::fuzz_target;
use portcullis::server::framing::{Framing, HeadLimits, Tracker, vet};

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, lines: 32 };

/// A request as it was understood: the method, and the body unless it was cut or broken.
type Message = (String, Option<Vec<u8>>);

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };

    let mut tracker = Tracker::new(LIMITS);
    let accepted = match tracker.feed(bytes) {
        Ok(()) => bytes,
        Err((good, _)) => &bytes[..good],
    };
    let whole = accepted.len() == bytes.len();
    let expected = messages(accepted);
    let pieces = cut_into_reads(bytes, usize::from(cut % 16) + 1);
    // A head that did not end is judged by its first piece.
    assert!(pieces == whole || (!whole && unfinished(bytes)), "how it is cut changes nothing");

    let (seen, error) = serve(accepted);
    for (at, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
        assert_eq!(seen, expected, "request {at}");
    }
    assert!(seen.len() <= expected.len(), "hyper sees a request that is none: {:?}", seen.last());
    if let Some(error) = error {
        let cut = expected.last().is_some_and(|(_, body)| body.is_none());
        assert!(cut, "hyper refuses what the tracker takes: {error:?}");
    }
});

/// Whether the tracker takes everything when it comes in pieces.
fn cut_into_reads(bytes: &[u8], size: usize) -> bool {
    let mut tracker = Tracker::new(LIMITS);
    bytes.chunks(size).all(|read| tracker.feed(read).is_ok())
}

/// Whether the last head has no end.
fn unfinished(bytes: &[u8]) -> bool {
    !bytes.ends_with(b"\n\n") && !bytes.ends_with(b"\n\r\n")
}

/// The requests in what the tracker took, the slow and plain way. Ends at the first one whose
/// answer closes the connection.
fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or(bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return messages };
        let (head, rest) = bytes.split_at(end + 4);
        let framing = vet(head, LIMITS).expect("the tracker took it");
        let method = String::from_utf8_lossy(head.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        let body = match framing {
            Framing::Length(length) => rest.get(..length as usize).map(|body| (body.to_vec(), body.len())),
            Framing::Chunked => chunked(rest),
        };
        let Some((body, used)) = body else {
            messages.push((method, None));
            return messages;
        };
        messages.push((method, Some(body)));
        bytes = &rest[used..];
    }
}

/// A chunked body and its length on the wire; `None` when it is cut.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let rest = bytes.get(at..)?;
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        Some((&rest[..end], at + end + 2))
    };
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (size, after) = line(at)?;
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = usize::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("digits");
        if size == 0 {
            at = after;
            break;
        }
        body.extend_from_slice(bytes.get(after..after.checked_add(size)?)?);
        at = after + size + 2;
        bytes.get(..at)?;
    }
    loop {
        let (trailer, after) = line(at)?;
        at = after;
        if trailer.is_empty() {
            return Some((body, at));
        }
    }
}

/// The requests that hyper finds in these bytes, on a connection that then stays open.
fn serve(bytes: &[u8]) -> (Vec<Message>, Option<hyper::Error>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let method = request.method().to_string();
            let at = seen.borrow().len();
            seen.borrow_mut().push((method, None));
            if let Ok(body) = request.into_body().collect().await {
                seen.borrow_mut()[at].1 = Some(body.to_bytes().to_vec());
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let error = {
        let connection = http1::Builder::new()
            .half_close(false)
            .header_read_timeout(None)
            .max_headers(256)
            .max_buf_size(64 * 1024)
            .serve_connection(Wire(bytes.to_vec(), 0), service);
        run(connection).and_then(Result::err)
    };
    (seen.take(), error)
}

/// Polls a future for as long as somebody wakes it.
fn run<F: Future>(future: F) -> Option<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}

/// A socket that brings these bytes, takes everything, and stays open.
struct Wire(Vec<u8>, usize);

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let rest = &self.0[self.1..];
        if rest.is_empty() {
            return Poll::Pending;
        }
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        self.1 += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
