//! What a service manager sees and does: notifications, and sockets that it has opened.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram, UnixListener};

use tempfile::tempdir;
use tokio::net::{UnixDatagram, UnixStream};

use crate::support::process::free_port;
use crate::support::{Client, Process, route, soon, until};

const GET: &str = "GET /a HTTP/1.1\r\nHost: gw\r\n\r\n";
/// Standard input becomes the first descriptor that is passed.
const PASSED: &str = "exec 3<&0 </dev/null && export LISTEN_PID=$$ LISTEN_FDS=1";

fn public() -> String {
    route("/*", "app", "\"public\"")
}

/// The other end of `NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = StdDatagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(UnixDatagram::from_std(socket).unwrap())
    }

    /// The next message but for signs of life.
    async fn hears(&self) -> String {
        loop {
            let message = self.next().await;
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    async fn next(&self) -> String {
        let mut buffer = [0; 512];
        let length = soon("a message", self.0.recv(&mut buffer)).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// Waits for a line of the log.
async fn logged(process: &Process, text: &str) -> String {
    let find = async || process.output().lines().find(|line| line.contains(text)).map(str::to_owned);
    until(&format!("a line with {text:?}"), find).await
}

#[tokio::test]
async fn it_says_when_it_is_ready_reloads_and_stops() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let first = format!("export NOTIFY_SOCKET={}", path.display());
    let mut process = Process::start_after(folder.path(), &public(), &first).await;
    assert_eq!(manager.next().await, "READY=1\nSTATUS=serving configuration 1");

    for (toml, status) in [
        (route("/b/*", "app", "\"public\""), "serving configuration 2"),
        ("nonsense".to_owned(), "serving configuration 2; what the file says now cannot be used, see the log"),
    ] {
        process.rewrite(&toml);
        process.signal("HUP");
        let reloading = manager.next().await;
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(manager.next().await, format!("READY=1\nSTATUS={status}"));
    }

    process.signal("TERM");
    assert_eq!(manager.hears().await.lines().next(), Some("STOPPING=1"));
    assert_eq!(process.exited().await.code(), Some(0), "{}", process.output());
}

#[tokio::test]
async fn it_gives_signs_of_life_when_asked_also_to_an_abstract_socket() {
    let folder = tempdir().unwrap();
    let name = format!("portcullis-it-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let first = format!("export NOTIFY_SOCKET=@{name} WATCHDOG_USEC=100000 WATCHDOG_PID=$$");
    let mut process = Process::start_after(folder.path(), &public(), &first).await;
    assert!(manager.hears().await.starts_with("READY=1\n"));
    assert_eq!(manager.next().await, "WATCHDOG=1");
    assert_eq!(manager.next().await, "WATCHDOG=1");
    process.signal("TERM");
    assert!(manager.hears().await.starts_with("STOPPING=1\n"));
    process.exited().await;
}

#[tokio::test]
async fn a_socket_of_the_same_address_is_taken_over_and_stays_open_behind_it() {
    let folder = tempdir().unwrap();
    // It is bound already: by itself the process could not have it.
    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let toml = format!("[[listener]]\naddress = \"{address}\"\n") + &public();
    let passed = OwnedFd::from(socket.try_clone().unwrap());
    let mut process = Process::start_on(folder.path(), &toml, PASSED, passed).await;
    assert_eq!(Client::connect(address).await.exchange(GET).await.status, 200);
    process.signal("TERM");
    assert_eq!(process.exited().await.code(), Some(0), "{}", process.output());

    // While nobody runs, clients wait for whoever is next.
    let mut waiting = Client::connect(address).await;
    waiting.send(GET).await;
    let _process = Process::start_on(folder.path(), &toml, PASSED, OwnedFd::from(socket)).await;
    assert_eq!(waiting.read().await.status, 200);
}

#[tokio::test]
async fn a_socket_is_found_by_its_name_and_its_file_is_not_ours() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("web");
    let socket = UnixListener::bind(&path).unwrap();
    let toml = "[[listener]]\naddress = \"systemd:web\"\n".to_owned() + &public();
    let first = format!("{PASSED} LISTEN_FDNAMES=web");
    let mut process = Process::start_on(folder.path(), &toml, &first, OwnedFd::from(socket)).await;
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.exchange(GET).await.status, 200);
    let serving = logged(&process, "serving").await;
    assert!(serving.contains(&format!("unix:{}", path.display())), "{serving}");
    process.signal("TERM");
    process.exited().await;
    assert!(path.exists());
}

#[tokio::test]
async fn a_name_that_nobody_passed_ends_the_start_and_a_socket_for_nobody_is_shown() {
    let folder = tempdir().unwrap();
    let toml =
        "version = 1\n[[listener]]\naddress = \"systemd:web\"\n[upstream.app]\nservers = [\"whoami:\"]\n".to_owned();
    std::fs::write(folder.path().join("portcullis.toml"), toml + &public()).unwrap();
    let unbound = Process::run(folder.path(), &["run", "--config", "portcullis.toml"]).await;
    assert_eq!(unbound.code, Some(4), "{unbound:?}");
    assert!(unbound.stderr.contains("systemd:web"), "{unbound:?}");

    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let process = Process::start_on(folder.path(), &public(), PASSED, OwnedFd::from(socket)).await;
    let warning = logged(&process, "no [[listener]] asks for").await;
    assert!(warning.contains(&address), "{warning}");
}

#[tokio::test]
async fn what_is_meant_for_another_process_is_not_taken() {
    let folder = tempdir().unwrap();
    let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free_port();
    let toml = format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n") + &public();
    let first = "exec 3<&0 </dev/null && export LISTEN_PID=1 LISTEN_FDS=1";
    let process = Process::start_on(folder.path(), &toml, first, OwnedFd::from(socket)).await;
    logged(&process, "serving").await;
    assert!(!process.output().contains("was passed"), "{}", process.output());

    // Nor is a file taken for a socket.
    let folder = tempdir().unwrap();
    let process = Process::start_on(folder.path(), &public(), PASSED, std::process::Stdio::null()).await;
    logged(&process, "of no use").await;
}
