//! What upstreams do wrong, and what clients see of it, over HTTP/1.1 and over HTTP/2: a plain answer
//! as long as none has begun, and an end that nobody takes for a good one after that. Other requests
//! do not notice.

use crate::support::h2::{self, H2, Outcome};
use crate::support::{Answer, FakePool, Gate, Portcullis, Seen, Upstream, route};

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";

/// A gateway with a public route to these servers.
async fn in_front_of(servers: &str, more: &str) -> Portcullis {
    let pool = FakePool::start().await;
    let upstream = format!("[upstream.app]\nservers = [{servers}]\n{more}\n");
    Portcullis::start(&(LISTENER.to_owned() + &pool.toml("main") + &upstream + &route("/*", "app", "\"public\""))).await
}

/// What a client got of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// A problem, whole.
    Problem(u16, &'static str),
    /// The beginning of an answer, and then a cut.
    Cut,
}

/// Asks over both protocols; each time it must end like this.
async fn expect(gate: &Portcullis, method: &str, path: &str, expected: &Got) {
    let mut client = gate.raw().await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
    match (client.next(method).await, expected) {
        (Ok(reply), Got::Problem(status, code)) => {
            reply.expect(*status, code);
            let line = gate.access_line(path).await;
            assert_eq!((&line["status"], &line["code"]), (&(*status).into(), &(*code).into()), "{line}");
        }
        // Where the fault came with the beginning, that may not have been written yet.
        (Err(_), Got::Cut) => client.closed().await,
        (got, expected) => panic!("{path}: {got:?} instead of {expected:?}"),
    }
    let mut client = H2::open(gate.address()).await;
    let fields = h2::request(method, path, &[]);
    match (client.exchange(h2::headers(h2::END_STREAM, 1, &fields), 1).await, expected) {
        (Outcome::Answer { status, body, .. }, Got::Problem(wanted, code)) => {
            assert_eq!(status, *wanted, "{path}: {body}");
            assert!(body.contains(code), "{path}: {body}");
        }
        (Outcome::Reset(_), Got::Cut) => {}
        (got, expected) => panic!("{path} over HTTP/2: {got:?} instead of {expected:?}"),
    }
    assert!(client.is_alive().await, "{path}: the connection has nothing to do with it");
}

/// What the faulty upstream does, by path.
fn faulty(hold: &Gate) -> impl Fn(&Seen) -> Answer + Send + Sync + 'static + use<> {
    let hold = hold.clone();
    move |seen| match seen.target.as_str() {
        "/hangs" => Answer::nothing().wait(&hold),
        "/hangs-in-head" => Answer::raw("HTTP/1.1 200 OK\r\nContent-").wait(&hold),
        "/closes" => Answer::nothing().close(),
        "/resets" => Answer::nothing().reset(),
        "/closes-in-head" => Answer::raw("HTTP/1.1 200 OK\r\nContent-").close(),
        "/resets-in-head" => Answer::raw("HTTP/1.1 200 OK\r\nContent-").reset(),
        "/closes-behind-100" => Answer::raw("HTTP/1.1 100 Continue\r\n\r\n").close(),
        "/garbage" => Answer::raw("\u{16}\u{3}\u{1}garbage\r\n\r\n"),
        "/two-lengths" => Answer::with("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        "/closes-in-body" => Answer::with("Content-Length: 9\r\n", "abc").close(),
        "/resets-in-body" => Answer::with("Content-Length: 9\r\n", "abc").wait(&hold).reset(),
        "/closes-in-chunk" => Answer::with("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n5\r\n").close(),
        "/garbage-in-chunks" => {
            Answer::with("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n").wait(&hold).then("zz\r\n")
        }
        _ => Answer::ok("fine"),
    }
}

#[tokio::test]
async fn every_fault_has_its_answer_and_the_next_request_does_not_notice() {
    use Got::{Cut, Problem};
    let unreachable = Problem(502, "upstream_unreachable");
    let invalid = || Problem(502, "upstream_invalid");
    let late = || Problem(504, "upstream_timeout");
    let hold = Gate::new();
    let upstream = Upstream::scripted(faulty(&hold)).await;
    let server =
        upstream.toml("x").lines().nth(1).unwrap().trim_start_matches("servers = [").trim_end_matches(']').to_owned();
    let gate = in_front_of(&server, "response_head = \"300ms\"\nretries = 0").await;
    for (path, expected) in [
        ("/hangs", late()),
        ("/hangs-in-head", late()),
        ("/closes", Problem(502, "upstream_unreachable")),
        ("/resets", unreachable),
        ("/closes-in-head", Problem(502, "upstream_unreachable")),
        ("/resets-in-head", Problem(502, "upstream_unreachable")),
        ("/closes-behind-100", Problem(502, "upstream_unreachable")),
        ("/garbage", invalid()),
        ("/two-lengths", invalid()),
        ("/closes-in-body", Cut),
        ("/closes-in-chunk", Cut),
    ] {
        for method in ["GET", "POST"] {
            if method == "POST" && expected == Cut {
                continue;
            }
            let before = upstream.requests().len();
            expect(&gate, method, path, &expected).await;
            let faulty = upstream.requests().into_iter().skip(before).filter(|seen| seen.target == path).count();
            assert_eq!(faulty, 2, "{method} {path}: without retries each is sent once");
            assert_eq!(gate.get("/fine").await.text(), "fine", "behind {path}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_while_it_is_passed_on_is_cut() {
    for path in ["/resets-in-body", "/garbage-in-chunks"] {
        let hold = Gate::new();
        let upstream = Upstream::scripted(faulty(&hold)).await;
        let gate =
            Portcullis::start(&(LISTENER.to_owned() + &upstream.toml("app") + &route("/*", "app", "\"public\""))).await;
        let (mut old, mut new) = (gate.raw().await, H2::open(gate.address()).await);
        old.send(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n")).await;
        new.send(h2::get(1, path)).await;
        // Both have what came before the fault.
        old.peek(b"abc").await;
        assert!(new.until(h2::DATA).await.is_some_and(|frame| frame.payload == b"abc"));
        hold.open();
        old.next("GET").await.expect_err("never a clean end");
        old.closed().await;
        assert!(matches!(new.end_or_reset().await, Outcome::Reset(_)), "{path}: the stream alone");
        assert_eq!(new.exchange(h2::get(3, "/fine"), 3).await.body(), "fine");
        let line = gate.access_line(path).await;
        assert_eq!(line["status"], 200, "{line}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_and_a_name_that_is_nobodys_are_502() {
    let upstream = Upstream::start().await;
    let refusing = format!("\"http://{}\"", upstream.address());
    upstream.stop().await;
    let gate = in_front_of(&refusing, "").await;
    expect(&gate, "GET", "/x", &Got::Problem(502, "upstream_unreachable")).await;

    // RFC 6761 §6.4: no name server knows it. One that does not answer makes it a 504.
    let gate = in_front_of("\"http://nobody.invalid\"", "connect = \"1s\"").await;
    let reply = gate.get("/x").await;
    assert!(
        [(502, "upstream_unreachable".to_owned()), (504, "upstream_timeout".to_owned())]
            .contains(&(reply.status, reply.code())),
        "{reply:?}"
    );
    let reason = gate.access_line("/x").await["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("connect") || reason.contains("dns"), "{reason}");
}

#[tokio::test]
async fn a_get_that_got_no_answer_is_tried_at_another_server_and_a_post_is_not() {
    let hold = Gate::new();
    let (bad, good) = (Upstream::scripted(faulty(&hold)).await, Upstream::start().await);
    let servers = format!("\"http://{}\", \"http://{}\"", bad.address(), good.address());
    let gate = in_front_of(&servers, "balance = \"round_robin\"").await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(gate.request("POST", "/resets", &[], "x").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "each server had one");
    let posts = |upstream: &Upstream| upstream.requests().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!((posts(&bad), posts(&good)), (1, 1), "and each was sent once");
    for _ in 0..2 {
        assert_eq!(gate.get("/resets").await.status, 200, "whoever is asked first");
    }
}
