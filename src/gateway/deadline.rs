//! `timeout` of a route: the whole request, from its head to the last byte of its answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::http::{Body, BodyError};
use crate::problem::Problem;

/// The end of a request's time. Without one it costs nothing.
pub(super) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// So long from now.
    pub(super) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.map(|timeout| Box::pin(sleep(timeout))))
    }

    /// What the work comes to, or that there was no time for it.
    pub(super) fn before<T, E: Into<Problem>>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> impl Future<Output = Result<T, Problem>> {
        poll_fn(move |cx| match (work.as_mut().poll(cx), &mut self.0) {
            (Poll::Pending, Some(end)) => end.as_mut().poll(cx).map(|()| Err(BodyError::Overdue.into())),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Ready(outcome), _) => Poll::Ready(outcome.map_err(Into::into)),
        })
    }

    /// Ready when the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Pending, |end| end.as_mut().poll(cx))
    }

    /// The answer, which is cut when the time is over.
    pub(super) fn watch(self, response: Response<Body>) -> Response<Body> {
        match self.0 {
            Some(end) if matches!(response.body(), Body::Stream(_)) => {
                response.map(|body| Body::Stream(Box::pin(Timed { body, end })))
            }
            _ => response,
        }
    }
}

/// The body of an answer under way.
struct Timed {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.end.as_mut().poll(cx).is_ready() {
            // Dropped, so that the upstream's connection closes: nobody reads the rest of it.
            self.body = Body::Empty;
            return Poll::Ready(Some(Err(BodyError::Overdue)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        // A body that was cut has not ended.
        !self.end.is_elapsed() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use http_body_util::BodyExt;
    use tokio::time::advance;

    use super::*;
    use crate::problem::Code;

    /// One frame, and then nothing for ever.
    struct Endless(bool);

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_and_answer_share_the_time() {
        let mut deadline = Deadline::after(Some(Duration::from_secs(5)));
        let answer = Response::new(Body::Stream(Box::pin(Endless(false))));
        let slow = async {
            advance(Duration::from_secs(4)).await;
            Ok(answer)
        };
        let mut body = deadline.watch_after(slow).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        let begun = tokio::time::Instant::now();
        assert_eq!(body.frame().await.unwrap().unwrap_err(), BodyError::Overdue);
        let left = begun.elapsed().as_millis();
        assert!((1000..=1002).contains(&left), "what the work had left, and timers round up: {left}");
        assert!(!body.is_end_stream());
    }

    impl Deadline {
        async fn watch_after(&mut self, work: impl Future<Output = Result<Response<Body>, Problem>>) -> Response<Body> {
            let response = self.before(pin!(work)).await.unwrap();
            Self(self.0.take()).watch(response)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_longer_is_a_timeout_of_the_upstream() {
        let mut deadline = Deadline::after(Some(Duration::from_secs(5)));
        let never = pin!(std::future::pending::<Result<(), Problem>>());
        let problem = deadline.before(never).await.unwrap_err();
        assert_eq!((problem.code, &*problem.reason), (Code::UpstreamTimeout, "route_timeout"));
        let ready = pin!(async { Ok::<_, Problem>(1) });
        assert_eq!(deadline.before(ready).await, Ok(1), "what is there already is not thrown away");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_nothing_is_wrapped() {
        let deadline = Deadline::after(None);
        let watched = deadline.watch(Response::new(Body::from(Bytes::from_static(b"x"))));
        assert!(matches!(watched.body(), Body::Full(_)));
    }
}
