//! Answers that go on for longer than what their caller was let in with.
//!
//! An answer that is there at once never gets here. One that has to be waited for takes a seat in its
//! worker's [`Register`], which looks round once a second: a stream whose token has expired or was
//! revoked, or which a new configuration would not let begin, ends within that second. Nothing else
//! about a stream costs more than about any other answer.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::decide::Asked;
use super::host::host_name;
use super::{Gateway, Worker};
use crate::access::{Credential, Permit, Principal, Refusal, authorize};
use crate::clock::Timestamp;
use crate::http::{Body, BodyError, first};
use crate::path;
use crate::telemetry::access_log::{Record, RecordedBody};
use crate::telemetry::metrics;

/// How often streams are looked at, and so how much later than its moment one may end.
const BEAT: Duration = Duration::from_secs(1);

/// The streams of one worker that may lose their permission.
#[derive(Debug, Default)]
pub(super) struct Register {
    seats: RefCell<Seats>,
    /// Grows with every look round.
    beat: Cell<u64>,
    /// Somebody looks round.
    is_kept: Cell<bool>,
}

#[derive(Debug, Default)]
struct Seats {
    taken: Vec<Option<Seat>>,
    free: Vec<usize>,
}

/// One stream, as far as looking round has to know it.
#[derive(Debug)]
struct Seat {
    /// When it ends by itself.
    until: Timestamp,
    principal: Option<Arc<Principal>>,
    waker: Waker,
}

impl Register {
    fn take(&self, seat: Seat) -> usize {
        let Seats { taken, free } = &mut *self.seats.borrow_mut();
        let place = free.pop().unwrap_or(taken.len());
        match taken.get_mut(place) {
            Some(empty) => *empty = Some(seat),
            None => taken.push(Some(seat)),
        }
        place
    }

    fn leave(&self, place: usize) {
        let Seats { taken, free } = &mut *self.seats.borrow_mut();
        if taken.get_mut(place).is_some_and(|seat| seat.take().is_some()) {
            free.push(place);
        }
        if free.len() == taken.len() {
            // The memory of a rush is given back.
            (*taken, *free) = (Vec::new(), Vec::new());
        }
    }

    fn change(&self, place: usize, change: impl FnOnce(&mut Seat)) {
        if let Some(Some(seat)) = self.seats.borrow_mut().taken.get_mut(place) {
            change(seat);
        }
    }

    /// Looks round: wakes those whose time is over, and everybody where something `changed` for all.
    /// False when nobody sits there.
    fn look_round(&self, now: Timestamp, changed: bool) -> bool {
        self.beat.set(self.beat.get() + 1);
        let seats = self.seats.borrow();
        for seat in seats.taken.iter().flatten() {
            let withdrawn = seat.principal.as_ref().is_some_and(|principal| principal.verified().is_withdrawn());
            if changed || withdrawn || seat.until <= now {
                seat.waker.wake_by_ref();
            }
        }
        seats.free.len() < seats.taken.len()
    }
}

/// What decides for all streams at once: the configuration, and how often something was revoked.
type Circumstances = (Arc<Gateway>, u64);

fn circumstances(worker: &Worker) -> Circumstances {
    let gateway = worker.gateway();
    let revocations = gateway.authenticator.revocations();
    (gateway, revocations)
}

/// Looks round until nobody is left; whoever comes next starts it again.
async fn keep(worker: Rc<Worker>, mut known: Circumstances) {
    loop {
        tokio::time::sleep(BEAT).await;
        let now = circumstances(&worker);
        let changed = !Arc::ptr_eq(&now.0, &known.0) || now.1 != known.1;
        known = now;
        if !worker.streams.look_round(worker.clock.now(), changed) {
            worker.streams.is_kept.set(false);
            return;
        }
    }
}

/// What a stream lives on: the decision that let it begin.
#[derive(Debug)]
pub(super) struct Life {
    worker: Rc<Worker>,
    /// By which it was decided.
    gateway: Arc<Gateway>,
    principal: Option<Arc<Principal>>,
    /// Whom the client's TLS certificate was given to.
    certificate: Option<Arc<str>>,
    /// How long it may go on afterwards.
    grace: Duration,
    /// It is a WebSocket.
    is_tunnel: bool,
    /// When it ends, and why.
    end: Option<(Timestamp, &'static str)>,
    seat: Option<usize>,
    /// The last look round that it took part in.
    beat: u64,
}

/// What a request was let in with, for [`Life`].
#[derive(Debug)]
pub(super) struct Held {
    permit: Permit,
    grace: Duration,
}

impl Held {
    /// `None` for an answer that may go on to its end, whatever happens.
    pub(super) fn new(permit: Permit, grace: Option<Duration>) -> Option<Self> {
        grace.map(|grace| Self { permit, grace })
    }
}

impl Life {
    pub(super) fn new(worker: Rc<Worker>, gateway: Arc<Gateway>, held: Held) -> Self {
        let Held { permit, grace } = held;
        let certificate = permit.certificate().cloned();
        let principal = permit.into_principal();
        let is_tunnel = false;
        let mut life =
            Self { worker, gateway, principal, certificate, grace, is_tunnel, end: None, seat: None, beat: 0 };
        life.end = life.expiry();
        life
    }

    /// The same for a WebSocket, which its route has to take as such.
    pub(super) fn of_tunnel(mut self) -> Self {
        self.is_tunnel = true;
        self
    }

    /// Ready when the stream has to end, with the reason. `cx` is woken when that may be so.
    pub(super) fn poll(&mut self, cx: &Context<'_>, record: &Record) -> Poll<&'static str> {
        let register = &self.worker.streams;
        match self.seat {
            None => {
                if !register.is_kept.replace(true) {
                    let known = circumstances(&self.worker);
                    tokio::task::spawn_local(keep(Rc::clone(&self.worker), known));
                }
                let (until, principal, waker) = (self.until(), self.principal.clone(), cx.waker().clone());
                self.seat = Some(register.take(Seat { until, principal, waker }));
                self.beat = register.beat.get();
                // Whatever happened since the decision is not told again.
                self.judge(record, record.time)
            }
            Some(place) => {
                register.change(place, |seat| seat.waker.clone_from(cx.waker()));
                self.poll_known(record)
            }
        }
    }

    /// The same for a stream that has something to say and does not wait.
    fn poll_known(&mut self, record: &Record) -> Poll<&'static str> {
        let beat = self.worker.streams.beat.get();
        if self.seat.is_none() || std::mem::replace(&mut self.beat, beat) == beat {
            return Poll::Pending;
        }
        self.judge(record, self.worker.clock.now())
    }

    /// Looks at everything that the stream lives on.
    fn judge(&mut self, record: &Record, now: Timestamp) -> Poll<&'static str> {
        let gateway = self.worker.gateway();
        if let Err(reason) = self.decide_again(gateway, record, now) {
            let end = now.after(self.grace);
            if self.end.is_none_or(|(known, _)| end < known) {
                self.end = Some((end, reason));
            }
        }
        if let Some(place) = self.seat {
            let (until, principal) = (self.until(), &self.principal);
            self.worker.streams.change(place, |seat| {
                seat.until = until;
                seat.principal.clone_from(principal);
            });
        }
        match self.end {
            Some((end, reason)) if end <= now => {
                let label = metrics::Reason::new(reason);
                self.worker.log.metrics().streams_ended.get_or_create_owned(&label).inc();
                Poll::Ready(reason)
            }
            _ => Poll::Pending,
        }
    }

    /// Whether the same request with the same token could begin now.
    fn decide_again(&mut self, gateway: Arc<Gateway>, record: &Record, now: Timestamp) -> Result<(), &'static str> {
        let refused = |error| Refusal::Token(error).as_str();
        if Arc::ptr_eq(&gateway, &self.gateway) {
            let principal = self.principal.as_ref();
            return principal.map_or(Ok(()), |known| gateway.authenticator.still_good(known, now).map_err(refused));
        }
        let again = self.principal.as_ref().map(|known| gateway.authenticator.again(known, now));
        let principal = again.transpose().map_err(refused)?;
        let (host, path) = (host_name(record.host.as_ref()), path::normalize(record.path.as_str()));
        let (Ok(host), Ok(path)) = (host, path) else { return Err(UNROUTED) };
        // What HTTP/2 has as CONNECT is a GET to routes (RFC 8441 §4).
        let method = if record.method == Method::CONNECT { &Method::GET } else { &record.method };
        let route = gateway.routes.find(&host, &path, method).map_err(|_miss| UNROUTED)?;
        if self.is_tunnel && route.config.websocket.is_none() {
            return Err("websocket");
        }
        let credential = principal.map_or(Credential::Absent, Credential::Accepted);
        let permit = authorize(&route.config.access, &credential, self.certificate.as_ref())
            .map_err(|denial| denial.as_str())?;
        let (headers, certificate) = (&HeaderMap::new(), self.certificate.as_ref());
        let asked = Asked { host: &host, path: &path, method, headers, certificate };
        gateway.rewritten(route, &asked, &credential).map_err(|_refused| "rewrite")?;
        self.principal = permit.into_principal();
        self.end = match route.config.stream_grace {
            Some(grace) => {
                self.grace = grace;
                self.expiry()
            }
            None => None,
        };
        self.gateway = gateway;
        Ok(())
    }

    /// The end that the token has in itself.
    fn expiry(&self) -> Option<(Timestamp, &'static str)> {
        let principal = self.principal.as_ref()?;
        Some((principal.verified().good_until().after(self.grace), "expired"))
    }

    fn until(&self) -> Timestamp {
        self.end.map_or(Timestamp::from_millis(u64::MAX), |(end, _)| end)
    }
}

/// No route would take the request any more.
const UNROUTED: &str = "route_unknown";

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(place) = self.seat {
            self.worker.streams.leave(place);
        }
    }
}

/// How an answer ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// So that nobody takes what there is for the whole.
    Cut,
    /// Like a whole one: server-sent events are each complete or ignored (HTML standard, §9.2.6), and
    /// browsers come back by themselves.
    Whole,
}

impl Ending {
    fn of(response: &Response<Body>) -> Self {
        if response.body().size_hint().exact().is_some() {
            return Self::Cut;
        }
        let kind = first(response.headers(), &header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"text/event-stream") { Self::Whole } else { Self::Cut }
    }
}

/// The body of an answer, for as long as its caller may have it.
#[derive(Debug)]
pub struct Lasting {
    /// `None` once it ended early, and where there is none.
    body: Option<RecordedBody<Body>>,
    life: Option<Life>,
    ending: Ending,
}

impl Lasting {
    /// The answer to a request, which ends when `life` does, if it has one.
    pub(super) fn answer(
        record: Box<Record>,
        response: Response<Body>,
        life: impl FnOnce() -> Option<Life>,
    ) -> Response<Self> {
        let (life, ending) = match response.body() {
            Body::Stream(_) => (life(), Ending::of(&response)),
            Body::Empty | Body::Full(_) => (None, Ending::Cut),
        };
        record.answer(response).map(|body| Self { body: Some(body), life, ending })
    }

    /// An answer that begins a WebSocket: what follows it is none of an answer's business.
    pub(super) fn switch(response: Response<Body>) -> Response<Self> {
        response.map(|_empty| Self { body: None, life: None, ending: Ending::Cut })
    }

    fn end(&mut self, reason: &'static str) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(body) = &mut self.body {
            body.record().end(reason);
        }
        // Dropped, so that the upstream learns that nobody listens any more.
        (self.body, self.life) = (None, None);
        Poll::Ready(match self.ending {
            Ending::Cut => Some(Err(BodyError::Unpermitted)),
            Ending::Whole => None,
        })
    }
}

impl HttpBody for Lasting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Some(life) = &mut this.life else { return Pin::new(body).poll_frame(cx) };
        // First, because a stream that always has something to say would never be asked otherwise.
        if let Poll::Ready(reason) = life.poll_known(body.record()) {
            return this.end(reason);
        }
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => match life.poll(cx, body.record()) {
                Poll::Ready(reason) => this.end(reason),
                Poll::Pending => Poll::Pending,
            },
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sit(register: &Register, until: u64) -> (usize, Arc<Counted>) {
        let counted = Arc::new(Counted::default());
        let (until, waker) = (Timestamp::from_seconds(until), Waker::from(Arc::clone(&counted)));
        (register.take(Seat { until, principal: None, waker }), counted)
    }

    #[test]
    fn those_are_woken_whose_time_is_over_and_everybody_after_a_change() {
        let register = Register::default();
        let ((first, early), (second, late)) = (sit(&register, 10), sit(&register, 20));
        let woken = || (early.0.load(Ordering::Relaxed), late.0.load(Ordering::Relaxed));
        assert!(register.look_round(Timestamp::from_seconds(9), false));
        assert_eq!(woken(), (0, 0));
        assert!(register.look_round(Timestamp::from_seconds(10), false));
        assert_eq!(woken(), (1, 0));
        assert!(register.look_round(Timestamp::from_seconds(11), true));
        assert_eq!(woken(), (2, 1));
        register.leave(first);
        assert!(register.look_round(Timestamp::from_seconds(30), false));
        assert_eq!(woken(), (2, 2), "who left is not woken");
        register.leave(second);
        assert!(!register.look_round(Timestamp::from_seconds(31), true), "nobody is left");
    }

    #[test]
    fn seats_are_used_again() {
        let register = Register::default();
        let places: Vec<usize> = (0..3).map(|until| sit(&register, until).0).collect();
        register.leave(places[1]);
        register.leave(places[1]);
        assert_eq!((sit(&register, 5).0, sit(&register, 6).0), (places[1], 3));
        for place in [0, 1, 2, 3] {
            register.leave(place);
        }
        assert_eq!(register.seats.borrow().taken.capacity(), 0);
    }

    #[test]
    fn only_streams_of_whole_parts_may_look_whole() {
        let answer = |kind: &'static str, body: Body| {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            Ending::of(&response)
        };
        for (kind, expected) in [
            ("text/event-stream", Ending::Whole),
            ("Text/Event-Stream; charset=utf-8", Ending::Whole),
            ("application/grpc+proto", Ending::Cut),
            ("text/event-streams", Ending::Cut),
            ("application/grpc-web+proto", Ending::Cut),
            ("application/json", Ending::Cut),
            ("", Ending::Cut),
        ] {
            assert_eq!(answer(kind, Body::Stream(Box::pin(Unsized))), expected, "{kind}");
            let known = Body::from(Bytes::from_static(b"x"));
            assert_eq!(answer(kind, known), Ending::Cut, "one that says how long it is");
        }
    }

    /// A body of which nobody knows how long it is.
    struct Unsized;

    impl HttpBody for Unsized {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }
}
