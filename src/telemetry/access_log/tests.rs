use std::collections::VecDeque;
use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::*;
use crate::http::BodyError;

/// A body of unknown length that gives these frames and then ends, or never does.
struct Frames {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    ends: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn frames(frames: impl IntoIterator<Item = Result<Frame<Bytes>, BodyError>>, ends: bool) -> Frames {
    Frames { frames: frames.into_iter().collect(), ends }
}

fn request(method: Method, target: &str) -> Request<()> {
    Request::builder().method(method).uri(target).header("host", "app.example.com").body(()).unwrap()
}

fn begin(log: &AccessLog, request: &Request<()>) -> Box<Record> {
    Record::begin(log, Timestamp::from_seconds(1_767_582_249), [192, 0, 2, 7].into(), request)
}

fn get(log: &AccessLog) -> Box<Record> {
    begin(log, &request(Method::GET, "/api/orders?token=secret"))
}

fn only_line(lines: &mut UnboundedReceiver<String>) -> Value {
    let line = lines.try_recv().unwrap();
    assert!(lines.try_recv().is_err(), "one line a request");
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_finished_answer_is_one_line_with_every_field() {
    let (log, mut lines) = AccessLog::collect();
    let metrics = log.metrics().clone();
    let mut record = get(&log);
    record.route = Some(Arc::new(RouteMetrics::new(&metrics, "/api/*")));
    record.subject = Some("1f0c".into());
    record.pool = Some("main".into());
    record.code = Some("access_denied");
    record.reason = Some("groups".into());
    record.count_in().fetch_add(12, Ordering::Relaxed);
    record.first_byte = Some(Duration::from_micros(1250));
    record.upstream = Some("app".into());
    record.server = Some("127.0.0.1:3000".into());
    record.retries = 1;
    record.tls = Some("1.3");
    let (request_id, trace_id) = (record.request_id.to_string(), record.trace.trace_id().to_string());
    assert!(metrics.text().contains("portcullis_requests_in_flight 1"), "{}", metrics.text());

    let response = record.answer(Response::new(Full::new(Bytes::from_static(b"hello"))));
    assert!(lines.try_recv().is_err(), "not before the end");
    response.into_body().collect().await.unwrap();

    let mut line = only_line(&mut lines);
    assert!(line["duration_ms"].as_f64().is_some_and(|ms| (0.0..60_000.0).contains(&ms)), "{line}");
    line["duration_ms"] = 0.into();
    assert_eq!(
        line,
        serde_json::json!({
            "time": "2026-01-05T03:04:09.000Z", "request_id": request_id, "trace_id": trace_id,
            "client": "192.0.2.7", "method": "GET", "host": "app.example.com", "path": "/api/orders",
            "route": "/api/*", "status": 200, "code": "access_denied", "reason": "groups", "subject": "1f0c",
            "pool": "main", "bytes_in": 12, "bytes_out": 5, "duration_ms": 0, "first_byte_ms": 1.25,
            "upstream": "app", "server": "127.0.0.1:3000", "retries": 1, "tls": "1.3", "protocol": "HTTP/1.1",
        })
    );
    let text = metrics.text();
    assert!(text.contains("portcullis_requests_total{route=\"/api/*\",code=\"200\"} 1"), "{text}");
    assert!(text.contains("portcullis_request_seconds_count{route=\"/api/*\"} 1"), "{text}");
    assert!(text.contains("portcullis_requests_in_flight 0"), "{text}");
}

#[test]
fn a_request_without_an_answer_is_a_499() {
    let (log, mut lines) = AccessLog::collect();
    drop(get(&log));
    let line = only_line(&mut lines);
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_left".into()), "{line}");
    let text = log.metrics().text();
    assert!(text.contains("portcullis_requests_total{route=\"-\",code=\"499\"} 1"), "{text}");
}

#[tokio::test]
async fn an_answer_dropped_half_way_is_a_499_with_the_bytes_so_far() {
    let (log, mut lines) = AccessLog::collect();
    let mut body = get(&log).answer(Response::new(frames([data("abc"), data("defg")], false))).into_body();
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let line = only_line(&mut lines);
    assert_eq!((&line["status"], &line["bytes_out"]), (&499.into(), &7.into()), "{line}");
}

#[tokio::test]
async fn a_body_of_known_length_is_finished_with_its_last_byte() {
    let (log, mut lines) = AccessLog::collect();
    let mut body = get(&log).answer(Response::new(Full::new(Bytes::from_static(b"abc")))).into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(only_line(&mut lines)["status"], 200, "nobody has to ask for the end");
}

#[tokio::test]
async fn a_body_that_breaks_keeps_the_status_that_was_sent_and_says_why() {
    let (log, mut lines) = AccessLog::collect();
    let mut body = get(&log).answer(Response::new(frames([data("abc"), Err(BodyError::Upstream)], true))).into_body();
    while let Some(Ok(_)) = body.frame().await {}
    drop(body);
    let line = only_line(&mut lines);
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"the upstream's body broke off".into()));
}

#[test]
fn answers_without_a_body_on_the_wire_are_finished_unread() {
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 200)] {
        let (log, mut lines) = AccessLog::collect();
        let record = begin(&log, &request(method.clone(), "/"));
        let mut response = Response::new(Full::new(Bytes::from_static(if status == 200 && method == Method::GET {
            b""
        } else {
            b"abc"
        })));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        drop(record.answer(response));
        let line = only_line(&mut lines);
        assert_eq!((&line["status"], &line["bytes_out"]), (&status.into(), &0.into()), "{method} {line}");
    }
}

#[test]
fn a_panic_is_logged_as_what_it_is() {
    let (log, mut lines) = AccessLog::collect();
    let record = get(&log);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _record = record;
        std::panic::resume_unwind(Box::new("a bug"));
    }));
    assert!(outcome.is_err());
    let line = only_line(&mut lines);
    assert_eq!((&line["status"], &line["reason"]), (&500.into(), &"panic".into()));
}

#[test]
fn the_query_is_nowhere_in_the_record() {
    let (log, mut lines) = AccessLog::collect();
    let record = get(&log);
    assert!(!format!("{record:?}").contains("secret"), "{record:?}");
    drop(record);
    assert!(!lines.try_recv().unwrap().contains("secret"));
}

#[test]
fn a_closed_sink_is_counted_and_nothing_else() {
    let (log, lines) = AccessLog::collect();
    drop(lines);
    drop(get(&log));
    assert!(log.metrics().text().contains("portcullis_access_log_dropped_total 1"));
}

#[test]
fn without_lines_there_are_metrics_all_the_same() {
    let log = AccessLog::start(Sink::Off, Arc::default()).unwrap();
    drop(get(&log));
    let text = log.metrics().text();
    assert!(text.contains("portcullis_requests_total{route=\"-\",code=\"499\"} 1"), "{text}");
    assert!(text.contains("portcullis_access_log_dropped_total 0"), "{text}");
    assert!(log.close(Duration::ZERO));
}

/// What hyper polls of a body is what the record has to go by.
#[tokio::test]
async fn over_a_real_connection_every_answer_is_finished() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (head, known) in [("GET / HTTP/1.1", true), ("GET / HTTP/1.1", false), ("HEAD / HTTP/1.1", true)] {
        let (log, mut lines) = AccessLog::collect();
        let (mut client, server) = tokio::io::duplex(4096);
        let service = hyper::service::service_fn(move |incoming: Request<hyper::body::Incoming>| {
            let record = Record::begin(&log, Timestamp::from_seconds(0), [192, 0, 2, 7].into(), &incoming);
            let body = if known {
                Full::new(Bytes::from_static(b"abcde")).map_err(BodyError::from).boxed()
            } else {
                frames([data("abc"), data("de")], true).boxed()
            };
            async move { Ok::<_, Infallible>(record.answer(Response::new(body))) }
        });
        let io = hyper_util::rt::TokioIo::new(server);
        let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        client.write_all(format!("{head}\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let (served, read) = tokio::join!(served, client.read_to_string(&mut answer));
        served.unwrap();
        read.unwrap();
        let line = only_line(&mut lines);
        let sent = if head.starts_with("HEAD") { 0 } else { 5 };
        assert_eq!((&line["status"], &line["bytes_out"]), (&200.into(), &sent.into()), "{head} {answer}");
    }
}
