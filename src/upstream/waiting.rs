//! Requests that wait because there are as many connections as there may be.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::time::{Instant, sleep_until};

use super::cap::{Asked, Place, Slot};
use super::error::Error;
use super::server::{Link, Server};

/// How a request comes to its connection.
pub(super) enum Way {
    /// Over one that another request of this worker has just left.
    Kept(Box<Link>),
    /// Over a new one.
    New(Slot),
    /// One that is shared may have room now.
    Look,
}

/// Where a worker tells a request that waits that it is its turn.
#[derive(Default)]
pub(super) struct Seat {
    turn: RefCell<Option<Turn>>,
    waker: RefCell<Option<Waker>>,
}

/// What somebody who waits is told.
enum Turn {
    /// This connection is yours.
    Link(Box<Link>),
    /// Have a look.
    Look,
}

impl Seat {
    /// Hands a connection over.
    pub(super) fn take_over(&self, link: Box<Link>) {
        self.tell(Turn::Link(link));
    }

    /// Somebody may find room on a connection that is shared.
    pub(super) fn call(&self) {
        self.tell(Turn::Look);
    }

    fn tell(&self, turn: Turn) {
        self.turn.replace(Some(turn));
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection to the server, or the right to make one: at once, or by `deadline`. For `sure` see
/// [`Server::take_idle`].
///
/// # Errors
/// [`Error::Busy`] when there is none by then, or too many wait for one already.
pub(super) async fn way(server: &Rc<Server>, deadline: Instant, sure: bool) -> Result<Way, Error> {
    loop {
        let place = match server.member().ask() {
            Asked::Granted(slot) => return Ok(Way::New(slot)),
            Asked::Full => return Err(Error::Busy("queue_full")),
            Asked::Queued(place) => place,
        };
        server.make_room();
        let way = Box::pin(Waits::begin(server, place).end(deadline)).await?;
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
}

impl Waits {
    fn begin(server: &Rc<Server>, place: Place) -> Self {
        let seat = Rc::new(Seat::default());
        server.seats().borrow_mut().push_back(Rc::clone(&seat));
        server.waits(1);
        Self { server: Rc::clone(server), seat, place }
    }

    async fn end(mut self, deadline: Instant) -> Result<Way, Error> {
        let mut alarm = std::pin::pin!(sleep_until(deadline));
        poll_fn(|cx| {
            match self.seat.turn.take() {
                Some(Turn::Link(link)) => return Poll::Ready(Ok(Way::Kept(link))),
                Some(Turn::Look) => return Poll::Ready(Ok(Way::Look)),
                None => {}
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
        // What it was told is told to somebody else. A connection closes, which makes room; one that is
        // shared and should go does so at the next occasion.
        if let Some(Turn::Look) = self.seat.turn.take() {
            let _goes = self.server.stream_is_free();
        }
    }
}
