//! The real binary.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use super::portcullis::{filled_in, newest_code, request};
use super::{Client, PoolApi, Reply, soon, until};

/// A running `portcullis run`. It is killed when it is dropped.
pub(crate) struct Process {
    folder: PathBuf,
    child: Option<Child>,
    pub(crate) listener: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts the gateway on these sections in `folder` and waits until it is ready. Starting in
    /// the same folder again is a restart.
    pub(crate) async fn start(folder: &Path, toml: &str) -> Self {
        Self::start_after(folder, toml, "true").await
    }

    /// The same after this shell command, which may limit what it has.
    pub(crate) async fn start_after(folder: &Path, toml: &str, first: &str) -> Self {
        Self::start_on(folder, toml, first, Stdio::null()).await
    }

    /// The same with this as standard input, which the shell command may make another descriptor of.
    pub(crate) async fn start_on(folder: &Path, toml: &str, first: &str, input: impl Into<Stdio>) -> Self {
        let (listener, admin) = (free_port(), free_port());
        let child = spawn(folder, &filled_in(toml, listener, admin), first, "run", input.into());
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (listener, admin) = (loopback(listener), loopback(admin));
        let mut process = Self { folder: folder.to_owned(), child: Some(child), listener, admin };
        process.ready().await;
        process
    }

    /// Writes its file anew, in place, with these sections.
    pub(crate) fn rewrite(&self, toml: &str) {
        std::fs::write(self.folder.join("portcullis.toml"), self.config(toml)).unwrap();
    }

    /// The text of a file with these sections and its own addresses.
    pub(crate) fn config(&self, toml: &str) -> String {
        filled_in(toml, self.listener.port(), self.admin.port())
    }

    /// Starts `portcullis pool serve` on these sections, with the pool at this port, and waits until it
    /// shows its keys.
    pub(crate) async fn serve_pool(folder: &Path, toml: &str, port: u16, pool_id: &str) -> Self {
        let child = spawn(folder, &config_at_free_ports(toml), "true", "pool serve", Stdio::null());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let process = Self { folder: folder.to_owned(), child: Some(child), listener: address, admin: address };
        until("the pool's keys", async || {
            let _up = tokio::net::TcpStream::connect(address).await.ok()?;
            let reply = process.admin_get(&format!("/{pool_id}/.well-known/jwks.json")).await;
            (reply.status == 200).then_some(())
        })
        .await;
        process
    }

    async fn ready(&mut self) {
        let admin = self.admin;
        until("readiness", async || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("it ended ({status}): {}", self.output());
            }
            let _up = tokio::net::TcpStream::connect(admin).await.ok()?;
            (self.admin_get("/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// Runs a command to its end.
    pub(crate) async fn run(folder: &Path, arguments: &[&str]) -> Finished {
        let mut command = command(folder, arguments);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = soon("the end of a command", output).await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Everything it printed so far, on both streams.
    pub(crate) fn output(&self) -> String {
        ["stdout", "stderr"].map(|name| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()).concat()
    }

    /// Its soft and its hard limit on open files, as the kernel has them.
    pub(crate) fn open_files(&self) -> (String, String) {
        let pid = self.child.as_ref().expect("it runs").id();
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        soon("the end of the process", tokio::task::spawn_blocking(move || child.wait())).await.unwrap().unwrap()
    }

    /// A whole request over a connection of its own.
    pub(crate) async fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        Client::connect(self.listener).await.exchange(request(method, target, headers, body)).await
    }

    pub(crate) async fn post_json(&self, target: &str, body: &Value) -> Reply {
        self.request("POST", target, &[("Content-Type", "application/json")], &body.to_string()).await
    }

    /// Asks the operator's listener.
    pub(crate) async fn admin_get(&self, target: &str) -> Reply {
        self.ask_admin("GET", target).await
    }

    /// The same with a method of one's own.
    pub(crate) async fn ask_admin(&self, method: &str, target: &str) -> Reply {
        let mut client = Client::connect(self.admin).await;
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        client.next(method).await.expect("the admin listener answers")
    }

    /// The newest code that its embedded pool sent to a user.
    pub(crate) async fn code_for(&self, username: &str) -> String {
        newest_code(&self.admin_get("/outbox").await.json(), username)
    }

    /// Its embedded pool at this port, as an SDK sees it.
    pub(crate) fn pool_api(&self, port: u16, pool_id: &str) -> PoolApi {
        PoolApi::new(SocketAddr::from(([127, 0, 0, 1], port)), pool_id)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill().is_ok() && child.wait().is_ok();
        }
    }
}

/// A whole config with these sections and listeners at free ports.
pub(crate) fn config_at_free_ports(toml: &str) -> String {
    filled_in(toml, free_port(), free_port())
}

/// Starts a command of the binary on this config, after this shell command.
fn spawn(folder: &Path, config: &str, first: &str, command: &str, input: Stdio) -> Child {
    std::fs::write(folder.join("portcullis.toml"), config).unwrap();
    let script = format!("{first} && exec \"$0\" {command} --config portcullis.toml");
    in_folder(Command::new("sh"), folder)
        .args(["-c", &script, BINARY])
        .stdin(input)
        .stdout(File::create(folder.join("stdout")).unwrap())
        .stderr(File::create(folder.join("stderr")).unwrap())
        .spawn()
        .unwrap()
}

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = in_folder(Command::new(BINARY), folder);
    command.args(arguments);
    command
}

fn in_folder(mut command: Command, folder: &Path) -> Command {
    command.current_dir(folder).env_remove("PORTCULLIS_CONFIG").stdin(Stdio::null());
    command
}

/// A port that nobody listens on, below the range from which the kernel picks.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).unwrap_or_default() * 100;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
