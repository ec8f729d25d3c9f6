//! The gateway under test, in this process. The only file that knows how it is started.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use portcullis::app::{App, Options};
use portcullis::clock::Clock;
use portcullis::telemetry::access_log::Sink;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Client, PoolApi, Reply, soon, until};

/// A whole user pool in memory, with one user: `demo`, `Portcullis-1`, in the group `admin`.
pub(crate) const EMBEDDED: &str = r#"
[pool.main]
id = "eu-west-1_Embedded1"
client_id = "4hrtn0example0client0id000"
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]
[auth]
floor = "20ms"
"#;

/// The password of every user that a test makes.
pub(crate) const PASSWORD: &str = "Portcullis-1";

/// One `[[route]]`, with the text that belongs after `access =`.
pub(crate) fn route(path: &str, upstream: &str, access: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\naccess = {access}\n")
}

/// The sections of a test with those it did not care about.
pub(crate) fn filled_in(toml: &str, listener: u16, admin: u16) -> String {
    let mut text = "version = 1\n".to_owned();
    let mut unless = |present: &str, section: &str| {
        if !toml.contains(present) {
            text.push_str(section);
        }
    };
    unless("[server]", "[server]\nworkers = 1\ndrain = \"2s\"\n");
    unless("[[listener]]", &format!("[[listener]]\naddress = \"127.0.0.1:{listener}\"\n"));
    unless("[admin]", &format!("[admin]\naddress = \"127.0.0.1:{admin}\"\n"));
    unless("[upstream.", "[upstream.app]\nservers = [\"whoami:\"]\n");
    text + toml
}

/// The tokens of a sign-in.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) id: String,
    pub(crate) refresh: String,
}

impl Tokens {
    /// Reads what `/auth/login` answered.
    pub(crate) fn of(reply: &Reply) -> Self {
        let body = reply.json();
        let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned();
        Self { access: text("access_token"), id: text("id_token"), refresh: text("refresh_token") }
    }
}

/// A running gateway. It is shut down when it is dropped.
pub(crate) struct Portcullis {
    app: Option<App>,
    lines: Mutex<(UnboundedReceiver<String>, Vec<String>)>,
}

impl Portcullis {
    /// Starts with these sections, as if they stood in a file of a folder of its own.
    pub(crate) async fn start(toml: &str) -> Self {
        Self::start_at(toml, Path::new("/nonexistent"), Clock::System).await
    }

    /// Starts with relative paths meant from `folder`, and with this clock.
    pub(crate) async fn start_at(toml: &str, folder: &Path, clock: Clock) -> Self {
        Self::try_start_at(toml, folder, clock).await.unwrap_or_else(|e| panic!("{e}\n{toml}"))
    }

    /// Starts on a real file in `folder`, so that [`Portcullis::reload`] has something to read.
    pub(crate) async fn start_on_file(toml: &str, folder: &Path) -> Self {
        std::fs::write(folder.join("portcullis.toml"), filled_in(toml, 0, 0)).unwrap();
        Self::start_at(toml, folder, Clock::System).await
    }

    /// Puts these sections into the file and asks the operator's listener to read it.
    pub(crate) async fn reload(&self, toml: &str) -> Reply {
        std::fs::write(&self.app().config().source, filled_in(toml, 0, 0)).unwrap();
        self.admin("POST", "/reload").await
    }

    /// The same for a file that is fine, with the answer.
    pub(crate) async fn reloaded(&self, toml: &str) -> Value {
        let reply = self.reload(toml).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// The same for a test that expects it to fail.
    pub(crate) async fn try_start_at(toml: &str, folder: &Path, clock: Clock) -> Result<Self, String> {
        let (text, file) = (filled_in(toml, 0, 0), folder.join("portcullis.toml"));
        let loaded = portcullis::config::parse(&text, &file, &|name| std::env::var(name).ok());
        let config = loaded.map_err(|report| report.to_string())?.config;
        let (access_log, lines) = Sink::collect();
        // `start` blocks until the key sets are there, which this thread may be serving.
        let starting = tokio::task::spawn_blocking(move || {
            App::start(config, Options { clock, access_log, ..Options::default() })
        });
        let app = soon("the gateway", starting).await.unwrap().map_err(|e| e.to_string())?;
        Ok(Self { app: Some(app), lines: Mutex::new((lines, Vec::new())) })
    }

    fn app(&self) -> &App {
        self.app.as_ref().expect("it runs until it is dropped")
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// Where clients connect over TCP, listener by listener.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.app().listeners().iter().filter_map(|address| address.tcp()).collect()
    }

    /// Where clients are sent to `https`.
    pub(crate) fn redirects(&self) -> Vec<SocketAddr> {
        self.app().redirects()
    }

    /// A fresh connection.
    pub(crate) async fn raw(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// A whole request over a connection of its own, with `Host: gw`.
    pub(crate) async fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.raw().await.exchange(request(method, target, headers, body)).await
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.request("GET", target, &[], "").await
    }

    pub(crate) async fn get_as(&self, target: &str, token: &str) -> Reply {
        self.request("GET", target, &[("Authorization", &format!("Bearer {token}"))], "").await
    }

    pub(crate) async fn post_json(&self, target: &str, body: &Value) -> Reply {
        self.request("POST", target, &[("Content-Type", "application/json")], &body.to_string()).await
    }

    pub(crate) async fn post_json_as(&self, target: &str, token: &str, body: &Value) -> Reply {
        let authorization = format!("Bearer {token}");
        let headers = [("Content-Type", "application/json"), ("Authorization", &authorization)];
        self.request("POST", target, &headers, &body.to_string()).await
    }

    /// Signs in through the gateway's own route.
    pub(crate) async fn login(&self, username: &str) -> Tokens {
        let body = serde_json::json!({"username": username, "password": PASSWORD});
        let reply = self.post_json("/auth/login", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        Tokens::of(&reply)
    }

    /// Asks the operator's listener.
    pub(crate) async fn admin_get(&self, target: &str) -> Reply {
        self.admin("GET", target).await
    }

    async fn admin(&self, method: &str, target: &str) -> Reply {
        let mut client = Client::connect(self.app().admin()).await;
        client
            .send(request(method, target, &[("Connection", "close")], "").replace("Host: gw", "Host: localhost"))
            .await;
        client.next(method).await.expect("the admin listener answers")
    }

    /// The embedded pool of this name, as an SDK sees it.
    pub(crate) fn pool_api(&self, name: &str) -> PoolApi {
        PoolApi::new(self.app().pool(name).expect("an embedded pool"), "eu-west-1_Embedded1")
    }

    /// The newest code that the embedded pool sent to a user.
    pub(crate) async fn code_for(&self, username: &str) -> String {
        newest_code(&self.admin_get("/outbox").await.json(), username)
    }

    /// The value of a metric with exactly this name and these labels; absent is 0.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.admin_get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap_or_else(|_| panic!("{series} {value}")))
    }

    /// The access lines so far.
    pub(crate) fn access_lines(&self) -> Vec<String> {
        let mut lines = self.lines.lock().unwrap();
        while let Ok(line) = lines.0.try_recv() {
            lines.1.push(line);
        }
        lines.1.clone()
    }

    /// Waits for the access line of a request, found by its path.
    pub(crate) async fn access_line(&self, path: &str) -> Value {
        let found = async || {
            let lines = self.access_lines();
            let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            parsed.find(|line| line["path"] == path)
        };
        until(&format!("the access line of {path}"), found).await
    }
}

impl Drop for Portcullis {
    fn drop(&mut self) {
        // It waits for its threads, which the test's own thread has no time for.
        if let Some(app) = self.app.take() {
            std::thread::spawn(move || drop(app));
        }
    }
}

/// The bytes of a request with `Host: gw`, and with a length if there is a body or a POST.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: gw\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

/// The newest code for a user in what `GET /outbox` answered.
pub(crate) fn newest_code(outbox: &Value, username: &str) -> String {
    let messages = outbox.as_array().or_else(|| outbox["messages"].as_array());
    let messages = messages.unwrap_or_else(|| panic!("an outbox: {outbox}"));
    let newest = messages.iter().find(|message| message["username"] == username);
    let code = newest.and_then(|message| message["code"].as_str());
    code.unwrap_or_else(|| panic!("no code for {username}: {outbox}")).to_owned()
}
