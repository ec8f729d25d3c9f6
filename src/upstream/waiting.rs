//! Requests that wait because there are as many connections as there may be.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::cap::{Asked, Place, Slot};
use super::error::Error;
use super::server::{Link, Server};

/// How a request comes to its connection.
pub(super) enum Way {
    /// Over one that another request of this worker has just left.
    Kept(Link),
    /// Over a new one.
    New(Slot),
}

/// Where a worker puts the connection for a request that waits.
#[derive(Default)]
pub(super) struct Seat {
    link: RefCell<Option<Link>>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    /// Hands a connection over.
    pub(super) fn take_over(&self, link: Link) {
        self.link.replace(Some(link));
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection to the server, or the right to make one: at once, or by `deadline`. A connection
/// that the request has no use for after all is kept for `idle`. For `sure` see
/// [`Server::take_idle`].
///
/// # Errors
/// [`Error::Busy`] when there is none by then, or too many wait for one already.
pub(super) async fn way(server: &Rc<Server>, deadline: Instant, idle: Duration, sure: bool) -> Result<Way, Error> {
    loop {
        let place = match server.member().ask() {
            Asked::Granted(slot) => return Ok(Way::New(slot)),
            Asked::Full => return Err(Error::Busy("queue_full")),
            Asked::Queued(place) => place,
        };
        let way = Box::pin(Waits::begin(server, place, idle).end(deadline)).await?;
        match way {
            Way::Kept(link) if link.is_dead(sure) => {}
            way => return Ok(way),
        }
    }
}

/// A request in the queue. It leaves when this is dropped.
struct Waits {
    server: Rc<Server>,
    seat: Rc<Seat>,
    place: Place,
    idle: Duration,
}

impl Waits {
    fn begin(server: &Rc<Server>, place: Place, idle: Duration) -> Self {
        let seat = Rc::new(Seat::default());
        server.seats().borrow_mut().push_back(Rc::clone(&seat));
        server.waits(1);
        Self { server: Rc::clone(server), seat, place, idle }
    }

    async fn end(mut self, deadline: Instant) -> Result<Way, Error> {
        let mut alarm = std::pin::pin!(sleep_until(deadline));
        poll_fn(|cx| {
            let link = self.seat.link.take();
            if let Some(link) = link {
                return Poll::Ready(Ok(Way::Kept(link)));
            }
            if let Poll::Ready(Ok(slot)) = Pin::new(&mut self.place.granted).poll(cx) {
                return Poll::Ready(Ok(Way::New(slot)));
            }
            self.seat.waker.replace(Some(cx.waker().clone()));
            alarm.as_mut().poll(cx).map(|()| Err(Error::Busy("queue_timeout")))
        })
        .await
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.server.waits(-1);
        self.server.seats().borrow_mut().retain(|seat| !Rc::ptr_eq(seat, &self.seat));
        let link = self.seat.link.take();
        if let Some(link) = link {
            self.server.keep(link, self.idle);
        }
    }
}
