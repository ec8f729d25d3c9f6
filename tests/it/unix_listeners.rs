//! Listeners on unix sockets: their files, and clients without an address.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::tempdir;
use tokio::net::UnixStream;

use crate::support::{Certificate, Client, EMBEDDED, FakePool, Portcullis, Process, TlsClient, Upstream, route, soon};

const LISTENER: &str = "[[listener]]\naddress = \"unix:p.sock\"\n";
const GET: &str = "GET /a HTTP/1.1\r\nHost: gw\r\n\r\n";
const TRUSTING: &str = "[server]\nworkers = 1\ntrusted_proxies = [\"unix:\"]\n";

async fn connect(path: &Path) -> Client {
    Client::over(soon("a connection", UnixStream::connect(path)).await.unwrap())
}

fn public() -> String {
    route("/*", "app", "\"public\"")
}

/// The gateway on `p.sock` in `folder`, in front of a scripted upstream.
async fn on_socket(folder: &Path, more: &str) -> (Portcullis, Upstream) {
    let upstream = Upstream::start().await;
    let toml = LISTENER.to_owned() + more + &upstream.toml("app");
    (Portcullis::start_on_file(&(toml + &public()), folder).await, upstream)
}

#[tokio::test]
async fn a_client_without_an_address_is_served_and_nothing_is_made_up_for_it() {
    let folder = tempdir().unwrap();
    let (gate, upstream) = on_socket(folder.path(), "").await;
    let forged = "X-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-Port: 1\r\n";
    let mut client = connect(&folder.path().join("p.sock")).await;
    for path in ["/a", "/b"] {
        let reply = client.exchange(format!("GET {path} HTTP/1.1\r\nHost: gw\r\n{forged}\r\n")).await;
        assert_eq!(reply.status, 200);
        let seen = upstream.next_request().await;
        assert_eq!(seen.header("forwarded"), Some("for=unknown;host=\"gw\";proto=http"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        for name in ["x-forwarded-for", "x-real-ip", "x-forwarded-port"] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!(gate.access_line(path).await["client"], "unix:");
    }
    let name = format!("unix:{}", folder.path().join("p.sock").display());
    assert_eq!(gate.metric(&format!("portcullis_connections{{listener=\"{name}\"}}")).await, 1);
    assert_eq!(gate.admin_get("/config").await.json()["listener"][0]["address"], name);
}

#[tokio::test]
async fn whoever_may_connect_is_believed_only_where_the_file_says_so() {
    let folder = tempdir().unwrap();
    let (gate, upstream) = on_socket(folder.path(), TRUSTING).await;
    let mut client = connect(&folder.path().join("p.sock")).await;
    let said = "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(client.exchange(format!("GET /a HTTP/1.1\r\nHost: gw\r\n{said}\r\n")).await.status, 200);
    let seen = upstream.next_request().await;
    assert_eq!(seen.header("x-forwarded-for"), Some("1.1.1.1, 203.0.113.9"));
    assert_eq!(seen.header("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("forwarded"), Some("for=unknown;host=\"gw\";proto=http"));
    assert_eq!(gate.access_line("/a").await["client"], "203.0.113.9");
    assert_eq!(gate.admin_get("/config").await.json()["server"]["trusted_proxies"], json!(["unix:"]));
}

#[tokio::test]
async fn a_limit_by_client_counts_all_who_have_no_address_as_one() {
    let folder = tempdir().unwrap();
    let toml = LISTENER.to_owned() + &public() + "limit = { rate = \"1/1h\", burst = 1, by = \"client\" }\n";
    let _gate = Portcullis::start_on_file(&toml, folder.path()).await;
    let path = folder.path().join("p.sock");
    assert_eq!(connect(&path).await.exchange(GET).await.status, 200);
    connect(&path).await.exchange(GET).await.expect(429, "rate_limited");
}

#[tokio::test]
async fn a_reload_adds_and_removes_sockets_and_their_files() {
    let folder = tempdir().unwrap();
    let (added, tcp) = (folder.path().join("q.sock"), "[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let gate = Portcullis::start_on_file(&(tcp.to_owned() + &public()), folder.path()).await;
    let both = tcp.to_owned() + &LISTENER.replace("p.sock", "q.sock") + &public();
    assert_eq!(gate.reloaded(&both).await["changed"], json!(["listener"]));
    let mut idle = connect(&added).await;
    assert_eq!(idle.exchange(GET).await.status, 200);

    // Other settings at the same path: the socket goes on, and so does its file.
    gate.reloaded(&both.replace("q.sock\"\n", "q.sock\"\nh2c = true\n")).await;
    idle.closed().await;
    let mut idle = connect(&added).await;
    assert_eq!(idle.exchange(GET).await.status, 200);

    gate.reloaded(&(tcp.to_owned() + &public())).await;
    assert!(!added.exists());
    idle.closed().await;
    assert_eq!(gate.get("/a").await.status, 200, "the other listener is as it was");

    std::fs::write(&added, "precious").unwrap();
    gate.reload(&both).await.expect(422, "config_invalid");
    assert_eq!(std::fs::read_to_string(&added).unwrap(), "precious");
    assert_eq!(gate.get("/a").await.status, 200);
}

#[tokio::test]
async fn http2_and_tokens_work_over_a_socket() {
    let folder = tempdir().unwrap();
    let pool = FakePool::start().await;
    let toml = LISTENER.to_owned() + "h2c = true\n" + &pool.toml("main") + &route("/*", "app", "\"required\"");
    let _gate = Portcullis::start_on_file(&toml, folder.path()).await;
    let path = folder.path().join("p.sock");
    connect(&path).await.exchange(GET).await.expect(401, "token_missing");
    let token = pool.access(json!({}));
    let request = format!("GET /a HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n");
    assert_eq!(connect(&path).await.exchange(request).await.status, 200);
    let mut client = connect(&path).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // The type of a SETTINGS frame on stream 0 (RFC 9113 §6.5), behind its three bytes of length.
    client.peek(b"\x04\0\0\0\0\0").await;
}

#[tokio::test]
async fn tls_works_over_a_socket_and_its_redirect_goes_to_the_usual_port() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let tls = format!(
        "[listener.tls]\ncertificates = [{}]\nredirect_http_from = \"127.0.0.1:0\"\n",
        site.write(folder.path(), "site")
    );
    let gate = Portcullis::start_on_file(&(LISTENER.to_owned() + &tls + &public()), folder.path()).await;
    let stream = UnixStream::connect(folder.path().join("p.sock")).await.unwrap();
    let mut client = TlsClient::new(&[&site], None).over(stream, "app.example").await.unwrap();
    assert_eq!(client.exchange("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n").await.status, 200);
    let line = gate.access_line("/a").await;
    assert_eq!((&line["client"], &line["tls"]), (&json!("unix:"), &json!("1.3")));
    let mut plain = Client::connect(gate.redirects()[0]).await;
    let reply = plain.exchange("GET /b HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    assert_eq!((reply.status, reply.header("location")), (308, Some("https://app.example/b")));
}

#[tokio::test]
async fn the_file_is_there_while_the_process_is_and_what_a_killed_one_left_is_replaced() {
    let folder = tempdir().unwrap();
    let (path, toml) = (folder.path().join("p.sock"), LISTENER.to_owned() + &public());
    let mut process = Process::start_after(folder.path(), &toml, "umask 027").await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750, "the umask decides");

    // A second one at the same path is refused, and harms nobody.
    let config = std::fs::read_to_string(folder.path().join("portcullis.toml")).unwrap();
    let second = config.replace(&process.admin.to_string(), "127.0.0.1:0");
    std::fs::write(folder.path().join("second.toml"), second).unwrap();
    let refused = Process::run(folder.path(), &["run", "--config", "second.toml"]).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("p.sock"), "{refused:?}");
    assert_eq!(connect(&path).await.exchange(GET).await.status, 200);

    process.signal("KILL");
    process.exited().await;
    assert!(path.exists());
    let mut process = Process::start(folder.path(), &toml).await;
    assert_eq!(connect(&path).await.exchange(GET).await.status, 200);
    let healthy = Process::run(folder.path(), &["health", "--config", "portcullis.toml"]).await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");

    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(0), "{}", process.output());
    assert!(!path.exists());
}

#[tokio::test]
async fn the_banner_says_how_to_reach_it() {
    let folder = tempdir().unwrap();
    let mut process = Process::start(folder.path(), &(LISTENER.to_owned() + EMBEDDED + &public())).await;
    let output = process.output();
    // The file is named by a relative path, and so is what is relative to it.
    assert!(output.contains("listening   unix:p.sock\n"), "{output}");
    let login = "curl -s --unix-socket 'p.sock' http://localhost/auth/login ";
    assert!(output.contains(login), "{output}");
    process.signal("TERM");
    process.exited().await;
}
