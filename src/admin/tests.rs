use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

struct Running {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    levels: Receiver<Level>,
    _serving: tokio::task::JoinSet<()>,
}

async fn start(outbox: bool) -> Running {
    let admin = Admin::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (address, ready) = (admin.address(), Arc::new(AtomicBool::new(true)));
    let (send_level, levels) = channel();
    let is_ready = ready.clone();
    let views = Views {
        ready: Box::new(move || {
            let ready = is_ready.load(Ordering::Relaxed);
            let reason = (!ready).then(|| "no key set".to_owned());
            let keys = Part { name: "keys main".into(), ready, reason, age_seconds: Some(7) };
            Ready::from(vec![Part { name: "listener".into(), ready: true, reason: None, age_seconds: None }, keys])
        }),
        metrics: Box::new(|| "# EOF\n".to_owned()),
        routes: Box::new(|| json!("routes")),
        upstreams: Box::new(|| json!("upstreams")),
        keys: Box::new(|| json!("keys")),
        config: Box::new(|| json!("config")),
        outbox: Box::new(move || outbox.then(|| json!("outbox"))),
        reload: Box::new(move || {
            let outcome = if outbox { Ok(json!({ "generation": 2 })) } else { Err("line 1 <is> wrong".to_owned()) };
            Box::pin(std::future::ready(outcome))
        }),
        set_level: Box::new(move |level| send_level.send(level).unwrap()),
    };
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { drop(admin.serve(views).await) });
    Running { address, ready, levels, _serving: serving }
}

impl Running {
    /// Sends exactly this and reads to the end: status, head and body.
    async fn send(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    async fn put_level(&self, body: &str) -> (u16, String, String) {
        let length = body.len();
        self.send(&format!("PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await
    }
}

#[tokio::test]
async fn every_endpoint_of_the_list_answers() {
    let admin = start(true).await;
    for path in ["/routes", "/upstreams", "/keys", "/config", "/outbox"] {
        let (status, head, body) = admin.get(path).await;
        assert_eq!((status, body), (200, format!("\"{}\"", path.trim_start_matches('/'))));
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
    assert_eq!(admin.get("/live").await.0, 200);
    let (status, head, body) = admin.get("/metrics").await;
    assert_eq!((status, body.as_str()), (200, "# EOF\n"));
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
}

#[tokio::test]
async fn ready_names_every_part_and_why_not() {
    let admin = start(false).await;
    assert_eq!(admin.get("/ready").await.0, 200);
    admin.ready.store(false, Ordering::Relaxed);
    let (status, _, body) = admin.get("/ready").await;
    assert_eq!(status, 503);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({ "ready": false, "parts": [
            { "name": "listener", "ready": true },
            { "name": "keys main", "ready": false, "reason": "no key set", "age_seconds": 7 },
        ] })
    );
    assert_eq!(admin.get("/live").await.0, 200, "alive all the same");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_allowed() {
    let admin = start(false).await;
    for path in ["/", "/nothing", "/live/", "/outbox"] {
        let (status, head, body) = admin.get(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert!(body.contains("route_unknown"), "{body}");
    }
    let (status, head, _) = admin.send("POST /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(status == 405 && head.contains("allow: get, head"), "{head}");
    let (status, head, _) = admin.get("/log-level").await;
    assert!(status == 405 && head.contains("allow: put"), "{head}");
    let (status, head, body) = admin.send("HEAD /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(status == 200 && body.is_empty(), "{head}{body}");
}

#[tokio::test]
async fn a_reload_says_what_changed_or_why_nothing_did() {
    const RELOAD: &str = "POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n";
    let (good, bad) = (start(true).await, start(false).await);
    let (status, _, body) = good.send(&format!("{RELOAD}\r\n")).await;
    assert_eq!((status, body.as_str()), (200, "{\"generation\":2}"));
    let (status, head, body) = bad.send(&format!("{RELOAD}\r\n")).await;
    assert!(status == 422 && head.contains("application/problem+json"), "{head}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&problem["code"], &problem["detail"]), (&"config_invalid".into(), &"line 1 <is> wrong".into()));
    // A web page that posts to this machine.
    let (status, _, body) = good.send(&format!("{RELOAD}Origin: http://localhost:9901\r\n\r\n")).await;
    assert!(status == 403 && body.contains("origin_denied"), "{body}");
    let (status, head, _) = good.get("/reload").await;
    assert!(status == 405 && head.contains("allow: post"), "{head}");
}

#[tokio::test]
async fn the_level_is_set_by_word_or_by_json() {
    let admin = start(false).await;
    for body in ["debug", "debug\n", "\"debug\"", "{\"level\": \"DEBUG\"}"] {
        assert_eq!(admin.put_level(body).await.0, 200, "{body}");
        assert_eq!(admin.levels.try_recv(), Ok(Level::DEBUG));
    }
    for (body, status) in [("loud", 400), ("", 400), ("3", 400), ("{}", 400), (&*"x".repeat(300), 413)] {
        assert_eq!(admin.put_level(body).await.0, status, "{body}");
        assert!(admin.levels.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_rebound_name_is_turned_away() {
    let admin = start(false).await;
    let with = async |host: &str| admin.send(&format!("GET /live HTTP/1.1\r\n{host}\r\n")).await;
    for fine in ["localhost", "LocalHost:9901", "127.0.0.1", "127.1.2.3:80", "[::1]:9901", "[::ffff:127.0.0.1]"] {
        assert_eq!(with(&format!("Host: {fine}\r\n")).await.0, 200, "{fine}");
    }
    assert_eq!(with("").await.0, 200);
    for bad in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", "", "a b", "x@y"] {
        let (status, _, body) = with(&format!("Host: {bad}\r\n")).await;
        assert!(status == 421 && body.contains("misdirected"), "{bad} {body}");
    }
    assert_eq!(with("Host: localhost\r\nHost: evil.example\r\n").await.0, 421);
}

#[tokio::test]
async fn one_free_place_is_enough() {
    let admin = start(false).await;
    // One place less than there are is taken by clients that say nothing.
    let mut silent = Vec::new();
    for _ in 1..CONNECTIONS {
        silent.push(TcpStream::connect(admin.address).await.unwrap());
    }
    assert_eq!(admin.get("/live").await.0, 200);
    assert_eq!(admin.get("/live").await.0, 200, "the place was given back");
}
