//! A WebSocket between a client and an upstream: bytes both ways, until one of the two leaves or
//! there is a reason to end it.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::deadline::Deadline;
use super::lifetime::Life;
use crate::server::{Upgrade, Upgraded};
use crate::telemetry::access_log::Record;
use crate::upstream;
use crate::websocket::{Frames, close_frame};

/// Bytes that are read from a client at once.
const READ: usize = 16 * 1024;

/// The code of the last frame where the client would not be let in any more; from the range that
/// applications have to themselves (RFC 6455 §7.4.2).
const UNAUTHORIZED: u16 = 4401;
/// The same for any other end that is the gateway's doing (RFC 6455 §7.4.1).
const GOING_AWAY: u16 = 1001;

/// How long the last frame may take to leave, and the client to close its end.
const LINGER: Duration = Duration::from_secs(2);

/// Both ends of a WebSocket that is about to begin.
pub(super) struct Ends {
    pub(super) client: Upgrade,
    pub(super) upstream: upstream::Tunnel,
    /// Of the whole request.
    pub(super) deadline: Deadline,
    /// How long nothing may move.
    pub(super) idle: Duration,
    /// How long an end may take nothing of what it is sent.
    pub(super) stall: Duration,
}

/// Why a WebSocket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One of the two has closed its end, in good order as far as TCP can tell.
    Closed,
    /// One of the two is gone, or takes nothing any more. Says which.
    Broken(&'static str),
    /// The client would not be let in any more. Says why.
    Unpermitted(&'static str),
    /// Nothing moved, the route's `timeout` is over, or the gateway drains. Says which.
    Over(&'static str),
}

impl Ends {
    /// Carries bytes to the end of the WebSocket, and writes the record then. The answer that begins it
    /// has to be given for that.
    pub(super) fn carry(self, mut record: Box<Record>, life: Option<Life>) -> impl Future<Output = ()> {
        let Self { client, upstream, mut deadline, idle, stall } = self;
        let client = client.begin();
        async move {
            let Some(client) = client.await else {
                record.end("client_left");
                return;
            };
            let mut draining = Box::pin(client.draining());
            let now = Instant::now();
            let mut tunnel = Tunnel {
                received: record.count_in(),
                record,
                life,
                client: Side::new(client),
                upstream: Side::new(upstream),
                up: Bytes::new(),
                down: Bytes::new(),
                frames: Frames::default(),
                moved: now,
                alarm: Box::pin(sleep_until(now)),
                idle,
                stall,
            };
            let end = poll_fn(|cx| {
                if let Poll::Ready(end) = tunnel.poll(cx) {
                    return Poll::Ready(end);
                }
                if draining.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Over("draining"));
                }
                deadline.poll(cx).map(|()| End::Over("route_timeout"))
            })
            .await;
            tunnel.finish(end).await;
        }
    }
}

/// One end, and how it takes what it is sent.
struct Side<T> {
    io: T,
    /// Since when it has taken nothing.
    waiting: Option<Instant>,
    /// Something was written and not flushed.
    dirty: bool,
}

impl<T> Side<T> {
    fn new(io: T) -> Self {
        Self { io, waiting: None, dirty: false }
    }

    /// Notes whether it takes anything.
    fn noted<U>(&mut self, outcome: Poll<U>) -> Poll<U> {
        self.waiting = if outcome.is_pending() { self.waiting.or_else(|| Some(Instant::now())) } else { None };
        outcome
    }
}

struct Tunnel {
    client: Side<Upgraded>,
    upstream: Side<upstream::Tunnel>,
    /// From the client, not written yet.
    up: Bytes,
    /// From the upstream, not written yet.
    down: Bytes,
    /// Of what the client was sent.
    frames: Frames,
    record: Box<Record>,
    received: Arc<AtomicU64>,
    life: Option<Life>,
    /// When something last moved.
    moved: Instant,
    alarm: Pin<Box<Sleep>>,
    idle: Duration,
    stall: Duration,
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let moved = |tunnel: &Self| (tunnel.received.load(Ordering::Relaxed), tunnel.record.bytes_out);
        let before = moved(self);
        // The upstream's last word first: what the client says then may find nobody.
        for polled in [self.poll_down(cx), self.poll_up(cx)] {
            if let Poll::Ready(Err(end)) = polled {
                return Poll::Ready(end);
            }
        }
        if before != moved(self) {
            self.moved = Instant::now();
        }
        if let Some(life) = &mut self.life
            && let Poll::Ready(reason) = life.poll(cx, &self.record)
        {
            return Poll::Ready(End::Unpermitted(reason));
        }
        self.poll_alarm(cx)
    }

    /// From the client to the upstream.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        const LEFT: End = End::Broken("upstream_left");
        let upstream = &mut self.upstream;
        // Not kept: a WebSocket that is quiet has no buffers.
        let mut room = [MaybeUninit::uninit(); READ];
        loop {
            while !self.up.is_empty() {
                let written = upstream.io.poll_write(cx, &self.up);
                let written = ready!(upstream.noted(written)).map_err(|_gone| LEFT)?;
                if written == 0 {
                    return Poll::Ready(Err(LEFT));
                }
                self.up.advance(written);
                upstream.dirty = true;
            }
            let mut read = ReadBuf::uninit(&mut room);
            match Pin::new(&mut self.client.io).poll_read(cx, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Err(_gone)) => return Poll::Ready(Err(End::Broken("client_left"))),
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(())) => {}
            }
            self.received.fetch_add(read.filled().len() as u64, Ordering::Relaxed);
            self.up = Bytes::copy_from_slice(read.filled());
        }
        self.up = Bytes::new();
        if upstream.dirty {
            let flushed = upstream.io.poll_flush(cx);
            ready!(upstream.noted(flushed)).map_err(|_gone| LEFT)?;
            upstream.dirty = false;
        }
        Poll::Pending
    }

    /// From the upstream to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        const LEFT: End = End::Broken("client_left");
        let client = &mut self.client;
        loop {
            while !self.down.is_empty() {
                let written = Pin::new(&mut client.io).poll_write(cx, &self.down);
                let written = ready!(client.noted(written)).map_err(|_gone| LEFT)?;
                if written == 0 {
                    return Poll::Ready(Err(LEFT));
                }
                self.frames.feed(self.down.get(..written).unwrap_or_default());
                self.record.bytes_out += written as u64;
                self.down.advance(written);
                client.dirty = true;
            }
            self.down = match self.upstream.io.poll_read(cx) {
                Poll::Pending => Bytes::new(),
                Poll::Ready(Err(_gone)) => return Poll::Ready(Err(End::Broken("upstream_left"))),
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => return Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(bytes)) => bytes,
            };
            if self.down.is_empty() {
                break;
            }
        }
        if client.dirty {
            let flushed = Pin::new(&mut client.io).poll_flush(cx);
            ready!(client.noted(flushed)).map_err(|_gone| LEFT)?;
            client.dirty = false;
        }
        Poll::Pending
    }

    /// Whether one of the two has taken nothing for too long, or both have said nothing.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (since, limit, end) = match (self.client.waiting, self.upstream.waiting) {
                (Some(since), _) => (since, self.stall, End::Broken("client_stalled")),
                (None, Some(since)) => (since, self.stall, End::Broken("upstream_stalled")),
                (None, None) => (self.moved, self.idle, End::Over("idle")),
            };
            // A limit too large to be a point in time is no limit.
            let Some(due) = since.checked_add(limit) else { return Poll::Pending };
            if self.alarm.deadline() > due {
                self.alarm.as_mut().reset(due);
            }
            ready!(self.alarm.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(end);
            }
            self.alarm.as_mut().reset(due);
        }
    }

    /// Says why, as far as somebody listens, and closes both ends.
    async fn finish(mut self, end: End) {
        let close = match end {
            End::Closed => None,
            End::Broken(reason) => {
                self.record.end(reason);
                None
            }
            End::Unpermitted(reason) => {
                self.record.end(reason);
                Some(close_frame(UNAUTHORIZED, "The permission ended"))
            }
            End::Over(reason) => {
                self.record.end(reason);
                Some(close_frame(GOING_AWAY, "Going away"))
            }
        };
        if end == End::Broken("client_left") || end == End::Broken("client_stalled") {
            return;
        }
        let told = timeout(LINGER, self.say(close)).await;
        let Self { client, upstream, .. } = &mut self;
        let flushed = timeout(LINGER, poll_fn(|cx| upstream.io.poll_flush(cx))).await;
        // Closing with unread bytes would be a reset, with which the last frame could be lost.
        let closed = timeout(LINGER, close_end(&mut client.io)).await;
        tracing::debug!(
            ?end,
            told = told.is_ok(),
            flushed = flushed.is_ok(),
            closed = closed.is_ok(),
            "a WebSocket ended"
        );
    }

    /// Puts a last frame behind the present one.
    async fn say(&mut self, frame: Option<Vec<u8>>) -> io::Result<()> {
        let Some(frame) = frame else { return self.client.io.flush().await };
        while !self.frames.at_boundary() {
            if self.down.is_empty() {
                let upstream = &mut self.upstream.io;
                self.down = poll_fn(|cx| upstream.poll_read(cx)).await?;
                if self.down.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let rest = self.down.split_to(self.frames.left_of(&self.down));
            self.client.io.write_all(&rest).await?;
            self.frames.feed(&rest);
            self.record.bytes_out += rest.len() as u64;
        }
        self.client.io.write_all(&frame).await?;
        self.record.bytes_out += frame.len() as u64;
        self.client.io.flush().await
    }
}

/// Closes our end of a client's connection and waits for the client's.
async fn close_end(client: &mut Upgraded) -> io::Result<()> {
    client.shutdown().await?;
    let mut rest = [0; 1024];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}
