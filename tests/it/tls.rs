//! TLS on listeners, as clients see it.

use std::path::Path;

use portcullis::clock::Clock;
use serde_json::json;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::h2;
use crate::support::process::{config_at_free_ports, free_port};
use crate::support::{
    Answer, Certificate, Client, EMBEDDED, Portcullis, Process, TlsClient, Tokens, Upstream, route, soon, until,
};

/// A listener with this in its `[listener.tls]`.
fn listener(tls: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n{tls}\n")
}

fn public(upstream: &str) -> String {
    route("/*", upstream, "\"public\"")
}

async fn start(folder: &Path, toml: &str) -> Portcullis {
    Portcullis::start_at(toml, folder, Clock::System).await
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[tokio::test]
async fn a_request_over_tls_is_told_as_one() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let upstream = Upstream::start().await;
    let tls = format!("certificates = [{}]", site.write(folder.path(), "site"));
    let gate = start(folder.path(), &(listener(&tls) + &upstream.toml("app") + &public("app"))).await;
    let mut client = TlsClient::new(&[&site], None).connect(gate.address(), "app.example").await;
    for path in ["/one", "/two"] {
        let reply = client.exchange(get("app.example", path)).await;
        assert_eq!(reply.status, 200, "kept alive");
        let seen = upstream.next_request().await;
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-port"), Some(gate.address().port().to_string().as_str()));
        assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;host=\"app.example\";proto=https"));
        assert_eq!(gate.access_line(path).await["tls"], "1.3");
    }
    drop(client);
    let text = gate.admin_get("/metrics").await.text();
    let left = text.lines().find_map(|line| {
        line.strip_prefix("portcullis_tls_certificate_expiry_seconds{name=\"app.example\"} ")?.parse::<i64>().ok()
    });
    assert!(left.is_some_and(|left| left > 86_400), "{text}");
}

#[tokio::test]
async fn what_is_no_tls_gets_nothing_and_others_go_on() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let limits = "[server]\nworkers = 1\n[server.limits]\nhandshake = \"200ms\"\n";
    let tls = format!("certificates = [{}]", site.write(folder.path(), "site"));
    let gate = start(folder.path(), &(limits.to_owned() + &listener(&tls) + &public("app"))).await;
    let mut plain = Client::connect(gate.address()).await;
    plain.send(get("app.example", "/plain")).await;
    let answer = plain.read_to_close().await;
    assert!(!answer.starts_with(b"HTTP/"), "{:?}", String::from_utf8_lossy(&answer));
    let mut silent = TcpStream::connect(gate.address()).await.unwrap();
    // A handshake message that announces more than ever comes.
    let mut slow = TcpStream::connect(gate.address()).await.unwrap();
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let mut client = TlsClient::new(&[&site], None).connect(gate.address(), "app.example").await;
    assert_eq!(client.exchange(get("app.example", "/")).await.status, 200);
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let ended = soon("the end of a handshake that is none", stream.read_to_end(&mut rest)).await;
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    assert_eq!(client.exchange(get("app.example", "/")).await.status, 200);
    assert!(gate.access_lines().iter().all(|line| !line.contains("/plain")));
}

#[tokio::test]
async fn one_connection_too_many_hears_so_over_tls() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let limits = "[server]\nworkers = 1\n[server.limits]\nconnections = 1\n";
    let tls = format!("certificates = [{}]", site.write(folder.path(), "site"));
    let gate = start(folder.path(), &(limits.to_owned() + &listener(&tls) + &public("app"))).await;
    let trusting = TlsClient::new(&[&site], None);
    let mut first = trusting.connect(gate.address(), "app.example").await;
    assert_eq!(first.exchange(get("app.example", "/")).await.status, 200);
    let mut second = trusting.connect(gate.address(), "app.example").await;
    let reply = second.read().await;
    assert_eq!((reply.status, reply.code()), (503, "overloaded".to_owned()));
}

#[tokio::test]
async fn http2_is_spoken_when_alpn_says_so() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let upstream = Upstream::start().await;
    let tls = format!("certificates = [{}]", site.write(folder.path(), "site"));
    let gate = start(folder.path(), &(listener(&tls) + &upstream.toml("app") + &public("app"))).await;
    let mut client = TlsClient::new(&[&site], None).connect_h2(gate.address(), "app.example").await;
    client.begin(&[]).await;
    for (stream, path) in [(1, "/one"), (3, "/two")] {
        assert_eq!(client.exchange(h2::get(stream, path), stream).await.status(), 200);
        assert_eq!(upstream.next_request().await.header("x-forwarded-proto"), Some("https"));
        let line = gate.access_line(path).await;
        assert_eq!((&line["protocol"], &line["tls"]), (&json!("HTTP/2"), &json!("1.3")));
    }
    // What was agreed on is spoken: HTTP/1 behind it is no HTTP/2.
    let mut client = TlsClient::new(&[&site], None).connect_h2(gate.address(), "app.example").await;
    client.send(get("app.example", "/three")).await;
    assert!(matches!(client.end().await, None | Some(h2::code::PROTOCOL)));
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn one_http2_connection_too_many_hears_so_in_frames() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let limits = "[server]\nworkers = 1\n[server.limits]\nconnections = 1\n";
    let tls = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let plain = "[[listener]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let gate = start(folder.path(), &(limits.to_owned() + &tls + plain + &public("app"))).await;
    let [secure, plain] = *gate.addresses() else { panic!("two listeners") };
    let trusting = TlsClient::new(&[&site], None);
    let mut first = trusting.connect(secure, "app.example").await;
    assert_eq!(first.exchange(get("app.example", "/")).await.status, 200);

    let mut over_tls = trusting.connect_h2(secure, "app.example").await;
    over_tls.begin(&[]).await;
    let mut with_prior_knowledge = h2::H2::open(plain).await;
    for client in [&mut over_tls, &mut with_prior_knowledge] {
        let settings = client.any().await.expect("a server begins with its settings");
        assert_eq!((settings.kind, settings.stream, settings.payload.len()), (h2::SETTINGS, 0, 0));
        let goaway = client.any().await.expect("a last word");
        assert_eq!((goaway.kind, goaway.number(0), goaway.number(4)), (h2::GOAWAY, 0, h2::code::CALM));
        assert_eq!(&goaway.payload[8..], b"overloaded");
        assert!(client.any().await.is_none());
    }
    let mut client = Client::connect(plain).await;
    client.send(get("app.example", "/")).await;
    client.read().await.expect(503, "overloaded");
    assert_eq!(gate.access_lines().iter().filter(|line| line.contains("overloaded")).count(), 3);
}

#[tokio::test]
async fn a_reload_replaces_what_changed_and_nothing_else() {
    let folder = tempdir().unwrap();
    let (site, other) = (Certificate::new(&["app.example"]), Certificate::new(&["other.example"]));
    let first = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let more = listener(&format!("certificates = [{}]", other.write(folder.path(), "other")));
    let gate = Portcullis::start_on_file(&(first.clone() + &public("app")), folder.path()).await;
    let (address, trusting) = (gate.address(), TlsClient::new(&[&site, &other], None));
    let mut kept = trusting.connect(address, "app.example").await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);

    assert_eq!(gate.reloaded(&(first.clone() + &more + &public("app"))).await["changed"], json!(["listener"]));
    let added = gate.addresses()[1];
    assert_eq!(trusting.connect(added, "other.example").await.exchange(get("x", "/")).await.status, 200);
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);
    assert!(trusting.resumes(address, "app.example").await, "the same ticket keys");

    // Another certificate: the listener's socket goes on, and its connections finish.
    let changed = format!("certificates = [{}]", other.write(folder.path(), "changed"));
    gate.reloaded(&(listener(&changed) + &public("app"))).await;
    assert_eq!(gate.addresses(), [address]);
    kept.closed().await;
    trusting.connect(address, "other.example").await;
    assert!(trusting.try_connect(address, "app.example").await.is_err(), "its certificate is gone");
    until("nobody to listen", async || Client::try_connect(added).await.is_none().then_some(())).await;

    // Without TLS, and with it again.
    gate.reloaded(&("[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned() + &public("app"))).await;
    assert_eq!((gate.addresses(), gate.get("/").await.status), (vec![address], 200));
    gate.reloaded(&(first + &public("app"))).await;
    trusting.connect(address, "app.example").await;

    // The files are still looked at.
    let new = Certificate::new(&["app.example"]);
    new.write(folder.path(), "site");
    let trusting = TlsClient::new(&[&new], None);
    until("the new certificate", async || trusting.try_connect(address, "app.example").await.ok()).await;
}

#[tokio::test]
async fn a_reload_with_files_that_cannot_be_used_changes_nothing() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let tls = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let gate = Portcullis::start_on_file(&(tls.clone() + &public("app")), folder.path()).await;
    let (address, trusting) = (gate.address(), TlsClient::new(&[&site], None));
    let mut kept = trusting.connect(address, "app.example").await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);

    let nowhere = listener("certificates = [{ chain = \"nowhere.pem\", key = \"site.key\" }]");
    std::fs::write(folder.path().join("site.key"), Certificate::new(&["app.example"]).key).unwrap();
    let removed = route("/gone", "app", "\"public\"");
    for (toml, what) in [(nowhere, "nowhere.pem"), (tls.clone(), "site.key: the private key does not belong")] {
        let reply = gate.reload(&(toml + &removed)).await;
        reply.expect(422, "config_invalid");
        assert!(reply.text().contains(what), "{}", reply.text());
        assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200, "with the routes of before");
        let mut fresh = trusting.connect(address, "app.example").await;
        assert_eq!(fresh.exchange(get("app.example", "/")).await.status, 200);
    }
    assert_eq!(gate.metric("portcullis_config_reload_total{outcome=\"failed\"}").await, 2);
    assert!(gate.admin_get("/ready").await.text().contains("site.key"));

    // What is mended is in force at once.
    let new = Certificate::new(&["app.example"]);
    new.write(folder.path(), "site");
    gate.reloaded(&(tls + &public("app"))).await;
    TlsClient::new(&[&new], None).connect(address, "app.example").await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200, "and its connections live on");
}

#[tokio::test]
async fn certificates_towards_upstreams_are_taken_over_too() {
    let (front, back) = (tempdir().unwrap(), tempdir().unwrap());
    let write = |server: &Certificate, client: &Certificate| {
        for (folder, name, one) in
            [(&back, "site", server), (&back, "clients", client), (&front, "back", server), (&front, "own", client)]
        {
            one.write(folder.path(), name);
        }
    };
    let make = || (Certificate::new(&["127.0.0.1"]), Certificate::new(&["front"]));
    let ((server, client), (new_server, new_client)) = (make(), make());
    write(&server, &client);
    let strict = "certificates = [{ chain = \"site.pem\", key = \"site.key\" }]\nclient_ca = \"clients.pem\"\n";
    let strict = listener(&(strict.to_owned() + "client_auth = \"required\""));
    let behind = start(back.path(), &(strict + &public("app"))).await;
    // No connection is kept, so that each request shakes hands.
    let upstream = format!(
        "[upstream.app]\nservers = [\"https://{}\"]\nidle = \"1ms\"\n[upstream.app.tls]\nca = \"back.pem\"\n\
         client = {{ chain = \"own.pem\", key = \"own.key\" }}\n",
        behind.address()
    );
    let gate = start(front.path(), &(upstream + &public("app"))).await;
    assert_eq!(gate.get("/").await.status, 200);
    write(&new_server, &new_client);
    let knows = TlsClient::new(&[&new_server], Some(&new_client));
    let mut direct =
        until("the new server", async || knows.try_connect(behind.address(), "127.0.0.1").await.ok()).await;
    assert_eq!(direct.exchange(get("127.0.0.1", "/")).await.status, 200);
    until("the new client", async || (gate.get("/").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_redirect_comes_and_goes_and_the_listener_stays() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let tls = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let redirecting = tls.clone() + "redirect_http_from = \"127.0.0.1:0\"\n";
    let gate = Portcullis::start_on_file(&(tls.clone() + &public("app")), folder.path()).await;
    let mut kept = TlsClient::new(&[&site], None).connect(gate.address(), "app.example").await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);
    assert!(gate.redirects().is_empty());

    gate.reloaded(&(redirecting + &public("app"))).await;
    let [from] = *gate.redirects() else { panic!("one redirect") };
    let reply = Client::connect(from).await.exchange(get("app.example", "/x")).await;
    let location = format!("https://app.example:{}/x", gate.address().port());
    assert_eq!((reply.status, reply.header("location")), (308, Some(location.as_str())));

    gate.reloaded(&(tls + &public("app"))).await;
    until("nobody to listen", async || Client::try_connect(from).await.is_none().then_some(())).await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);
}

#[tokio::test]
async fn a_listener_that_is_added_moves_its_hosts_out_of_reach_of_open_connections() {
    let folder = tempdir().unwrap();
    let (site, inner) = (Certificate::new(&["public.example"]), Certificate::new(&["inner.example"]));
    Certificate::new(&["person"]).write(folder.path(), "clients");
    let open = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let certificates = inner.write(folder.path(), "inner");
    let closed =
        listener(&format!("certificates = [{certificates}]\nclient_ca = \"clients.pem\"\nclient_auth = \"required\""));
    let gate = Portcullis::start_on_file(&(open.clone() + &public("app")), folder.path()).await;
    let mut kept = TlsClient::new(&[&site], None).connect(gate.address(), "public.example").await;
    assert_eq!(kept.exchange(get("inner.example", "/")).await.status, 200);
    gate.reloaded(&(open + &closed + &public("app"))).await;
    kept.exchange(get("inner.example", "/")).await.expect(421, "misdirected");
    assert_eq!(kept.exchange(get("public.example", "/")).await.status, 200);
}

#[tokio::test]
async fn lesson_39_a_connection_stays_in_the_zone_of_its_client_certificate() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["public.example", "*.both.example"]);
    let inner = Certificate::new(&["inner.example", "inner.both.example"]);
    let (person, stranger) = (Certificate::new(&["person"]), Certificate::new(&["stranger"]));
    person.write(folder.path(), "clients");
    let required = format!(
        "certificates = [{}]\nclient_ca = \"clients.pem\"\nclient_auth = \"required\"",
        inner.write(folder.path(), "inner")
    );
    let upstream = Upstream::start().await;
    let open = format!("certificates = [{}]", site.write(folder.path(), "site"));
    let toml = listener(&open) + &listener(&required) + &upstream.toml("app") + &public("app");
    let gate = start(folder.path(), &toml).await;
    let [outside, inside] = *gate.addresses() else { panic!("two listeners") };
    let (anonymous, known) = (TlsClient::new(&[&site, &inner], None), TlsClient::new(&[&site, &inner], Some(&person)));

    // Without the certificate there is no way in, under whatever name.
    for host in ["inner.example", "INNER.example.", "inner.example:443", "inner.both.example"] {
        let mut client = anonymous.connect(outside, "public.example").await;
        let reply = client.exchange(get(host, "/x")).await;
        assert_eq!((reply.status, reply.code()), (421, "misdirected".to_owned()), "{host}");
    }
    assert_eq!(gate.access_line("/x").await["reason"], "tls_zone");
    for client in [&anonymous, &TlsClient::new(&[&inner], Some(&stranger))] {
        // With TLS 1.3 a client learns of its refusal with the first bytes it reads.
        if let Ok(mut client) = client.try_connect(inside, "inner.example").await {
            client.send(get("inner.example", "/")).await;
            client.closed().await;
        }
    }
    upstream.saw_nothing();

    let mut client = anonymous.connect(outside, "other.both.example").await;
    assert_eq!(
        client.exchange(get("other.both.example", "/y")).await.status,
        200,
        "a wildcard has what nobody else names"
    );
    upstream.next_request().await;
    let mut client = known.connect(inside, "inner.example").await;
    assert_eq!(client.exchange(get("inner.example", "/")).await.status, 200);
    let certificate = format!(":{}:", person.base64());
    assert_eq!(upstream.next_request().await.header("client-cert"), Some(certificate.as_str()), "RFC 9440");
    let reply = client.exchange(get("public.example", "/")).await;
    assert_eq!(reply.status, 421, "and not the other way round");
    assert!(known.resumes(inside, "inner.example").await);
    assert!(!known.resumes(outside, "public.example").await, "a ticket of one zone opens no other");
}

#[tokio::test]
async fn rules_name_the_owners_of_certificates() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let (batch, other) = (Certificate::of("batch, nightly"), Certificate::of("other"));
    std::fs::write(folder.path().join("clients.pem"), batch.chain.clone() + &other.chain).unwrap();
    let tls = listener(&format!(
        "certificates = [{}]\nclient_ca = \"clients.pem\"\nclient_auth = \"optional\"",
        site.write(folder.path(), "site")
    ));
    let upstream = Upstream::start().await;
    let (named, both) = (
        r#"{ certificates = ["cn = batch\\2c nightly"] }"#,
        r#"{ certificates = ["CN=batch\\, nightly"], pool = "main" }"#,
    );
    let limit = "limit = { rate = \"2/1h\", by = \"subject\" }\n";
    let toml = [EMBEDDED, &tls, &upstream.toml("app"), &route("/both", "app", both), &route("/*", "app", named), limit];
    let gate = start(folder.path(), &toml.concat()).await;
    let connect = async |shown: Option<&Certificate>| {
        TlsClient::new(&[&site], shown).connect(gate.address(), "app.example").await
    };
    let (mut batch, mut other, mut nobody) =
        (connect(Some(&batch)).await, connect(Some(&other)).await, connect(None).await);
    for client in [&mut other, &mut nobody] {
        client.exchange(get("app.example", "/other")).await.expect(403, "access_denied");
        client.exchange(get("app.example", "/both")).await.expect(403, "access_denied");
    }
    assert_eq!(gate.access_line("/other").await["reason"], "certificate");
    upstream.saw_nothing();
    assert_eq!(batch.exchange(get("app.example", "/report")).await.status, 200);
    assert_eq!(gate.access_line("/report").await["subject"], "CN=batch\\, nightly");
    batch.exchange(get("app.example", "/both")).await.expect(401, "token_missing");
    let with = |path: &str, token: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: app.example\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    batch.exchange(with("/bad", "x.y.z")).await.expect(401, "token_invalid");
    let login = r#"{"username":"demo","password":"Portcullis-1"}"#;
    let login = format!(
        "POST /auth/login HTTP/1.1\r\nHost: app.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{login}",
        login.len()
    );
    let token = Tokens::of(&batch.exchange(login).await).access;
    assert_eq!(batch.exchange(with("/both", &token)).await.status, 200);
    other.exchange(with("/both", &token)).await.expect(403, "access_denied");
    assert_eq!(batch.exchange(get("app.example", "/second")).await.status, 200);
    batch.exchange(get("app.example", "/third")).await.expect(429, "rate_limited");
}

#[tokio::test]
async fn nobody_forges_a_client_certificate() {
    let upstream = Upstream::start().await;
    let gate = Portcullis::start(&(upstream.toml("app") + &public("app"))).await;
    let forged = [
        "Client-Cert",
        "client_cert",
        "Client-Cert-Chain",
        "X-Forwarded-Client-Cert",
        "X-Client-Cert",
        "X-SSL-Client-Verify",
        "Ssl-Client-Cert",
        "X_SSL_Client_S_DN",
    ];
    let headers: Vec<_> = forged.iter().map(|name| (*name, "forged")).collect();
    assert_eq!(gate.request("GET", "/", &headers, "").await.status, 200);
    let seen = upstream.next_request().await;
    assert!(!seen.text().contains("forged"), "{seen:?}");
}

#[tokio::test]
async fn the_redirect_sends_everything_to_https() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let certificates = site.write(folder.path(), "site");
    let tls = format!("certificates = [{certificates}]\nredirect_http_from = \"127.0.0.1:0\"");
    let gate = start(folder.path(), &(listener(&tls) + &public("app"))).await;
    let (port, from) = (gate.address().port(), gate.redirects()[0]);
    let location = |path: &str| format!("https://app.example:{port}{path}");
    let ask = async |request: String| Client::connect(from).await.exchange(request).await;
    let reply = ask(get("App.Example:80", "/a//b?c=%2F&d")).await;
    assert_eq!((reply.status, reply.header("location")), (308, Some(location("/a//b?c=%2F&d").as_str())));
    let body = "POST /orders HTTP/1.1\r\nHost: app.example\r\nContent-Length: 2\r\n\r\n{}";
    let reply = ask(body.to_owned()).await;
    assert_eq!((reply.status, reply.header("location")), (308, Some(location("/orders").as_str())));
    for host in ["evil.example/", "a b", "user@app.example", ""] {
        let reply = ask(get(host, "/")).await;
        assert_eq!((reply.status, reply.code()), (400, "request_malformed".to_owned()), "{host}");
    }
    assert_eq!(ask("GET / HTTP/1.0\r\n\r\n".to_owned()).await.status, 400);
}

#[tokio::test]
async fn new_certificates_are_taken_over_and_no_connection_is_dropped() {
    let folder = tempdir().unwrap();
    let (old, new) = (Certificate::new(&["app.example"]), Certificate::new(&["app.example"]));
    let tls = format!("certificates = [{}]", old.write(folder.path(), "site"));
    let gate = start(folder.path(), &(listener(&tls) + &public("app"))).await;
    let mut kept = TlsClient::new(&[&old], None).connect(gate.address(), "app.example").await;
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);
    new.write(folder.path(), "site");
    let trusting = TlsClient::new(&[&new], None);
    let mut fresh =
        until("the new certificate", async || trusting.try_connect(gate.address(), "app.example").await.ok()).await;
    assert_eq!(fresh.exchange(get("app.example", "/")).await.status, 200);
    assert_eq!(kept.exchange(get("app.example", "/")).await.status, 200);
}

#[tokio::test]
async fn files_that_do_not_fit_end_the_start_with_4_and_check_shows_where() {
    let folder = tempdir().unwrap();
    let (site, other) = (Certificate::new(&["app.example"]), Certificate::new(&["app.example"]));
    let certificates = site.write(folder.path(), "site");
    std::fs::write(folder.path().join("site.key"), other.key).unwrap();
    let toml = config_at_free_ports(&(listener(&format!("certificates = [{certificates}]")) + &public("app")));
    std::fs::write(folder.path().join("portcullis.toml"), &toml).unwrap();
    let line = toml.lines().position(|line| line.starts_with("certificates")).unwrap() + 1;
    let run = Process::run(folder.path(), &["run", "--config", "portcullis.toml"]).await;
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("site.key: the private key does not belong to the certificate"), "{run:?}");
    let check = Process::run(folder.path(), &["check", "--config", "portcullis.toml"]).await;
    assert_eq!(check.code, Some(4), "{check:?}");
    assert!(check.stderr.contains(&format!("portcullis.toml:{line}:17")), "{check:?}");
    std::fs::write(folder.path().join("site.key"), site.key).unwrap();
    let check = Process::run(folder.path(), &["check", "--strict", "--config", "portcullis.toml"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[tokio::test]
async fn draining_waits_for_no_handshake_and_says_goodbye_to_idle_connections() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    let port = free_port();
    let tls = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let toml = tls.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")) + &public("app");
    let mut process = Process::start(folder.path(), &toml).await;
    let address = ([127, 0, 0, 1], port).into();
    let mut idle = TlsClient::new(&[&site], None).connect(address, "app.example").await;
    assert_eq!(idle.exchange(get("app.example", "/")).await.status, 200);
    let mut silent = TcpStream::connect(address).await.unwrap();
    let open = format!("portcullis_connections{{listener=\"127.0.0.1:{port}\"}} 2");
    until("both connections", async || process.admin_get("/metrics").await.text().contains(&open).then_some(())).await;
    process.signal("TERM");
    // The drain of this gateway is 2 s, after which it would end with 10; a handshake may take 10 s.
    assert_eq!(process.exited().await.code(), Some(0));
    idle.closed().await;
    let mut rest = Vec::new();
    assert!(silent.read_to_end(&mut rest).await.is_err() || rest.is_empty());
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_cut_over_tls_too() {
    let folder = tempdir().unwrap();
    let site = Certificate::new(&["app.example"]);
    // More than all buffers on the way hold.
    let body = "x".repeat(32 << 20);
    let upstream =
        Upstream::scripted(move |_| Answer::with(&format!("content-length: {}\r\n", body.len()), &body)).await;
    let limits = "[server]\nworkers = 1\n[server.limits]\nbody_stall = \"300ms\"\n".to_owned();
    let tls = listener(&format!("certificates = [{}]", site.write(folder.path(), "site")));
    let gate = start(folder.path(), &(limits + &tls + &upstream.toml("app") + &public("app"))).await;
    let trusting = TlsClient::new(&[&site], None);
    let mut client = trusting.connect(gate.address(), "app.example").await;
    client.send(get("app.example", "/large")).await;
    upstream.closed(0).await;
    assert_eq!(gate.access_line("/large").await["status"], 499);
    let mut over_http2 = trusting.connect_h2(gate.address(), "app.example").await;
    let room = (1 << 31) - 1_u32;
    over_http2.begin(&[(4, room)]).await;
    over_http2.send(h2::frame(h2::WINDOW_UPDATE, 0, 0, (room - 65_535).to_be_bytes())).await;
    over_http2.send(h2::get(1, "/large-too")).await;
    upstream.closed(1).await;
    assert_eq!(gate.access_line("/large-too").await["status"], 499);
    drop((client, over_http2));
}
