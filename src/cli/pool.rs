//! `portcullis pool …`: the embedded user pool on its own.
//!
//! A pool's data belongs to one process. While a server has it, these commands go to that server;
//! otherwise they open the file themselves. Either way they are the same operations.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::Clock;
use crate::cognito::wire::{CONTENT_TYPE, Fault, TARGET_PREFIX};
use crate::config::{Config, Pool};
use crate::devpool::{Local, OWN_PREFIX, Server};
use crate::outbound;

/// What to do with the embedded user pool.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Serve every embedded pool of the config, without the gateway
    Serve,
    /// List the users
    Users {
        /// Which pool.
        #[command(flatten)]
        which: Which,
    },
    /// Create a confirmed user with a verified e-mail address
    AddUser {
        /// Which pool.
        #[command(flatten)]
        which: Which,
        /// The user name
        username: String,
        /// The e-mail address
        #[arg(long)]
        email: Option<String>,
        /// A group, made if it is not there; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// The password.
        #[command(flatten)]
        password: Password,
    },
    /// Set a user's password
    SetPassword {
        /// Which pool.
        #[command(flatten)]
        which: Which,
        /// The user name
        username: String,
        /// The password.
        #[command(flatten)]
        password: Password,
    },
    /// Confirm a user who signed up, without the code
    Confirm {
        /// Which pool.
        #[command(flatten)]
        which: Which,
        /// The user name
        username: String,
    },
    /// Put a user into a group, which is made if it is not there
    AddToGroup {
        /// Which pool.
        #[command(flatten)]
        which: Which,
        /// The user name
        username: String,
        /// The group
        group: String,
    },
    /// Show the messages that the pool would have sent, newest first
    Outbox {
        /// Which pool.
        #[command(flatten)]
        which: Which,
    },
    /// Sign with new keys from now on; the old ones stay published for a day
    RotateKeys {
        /// Which pool.
        #[command(flatten)]
        which: Which,
    },
}

/// Which of the embedded pools is meant.
#[derive(Debug, Args)]
pub struct Which {
    /// The pool's name in the config; needed if several are embedded
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
}

/// A password and what it is good for.
#[derive(Args)]
pub struct Password {
    /// The password; without it, the first line of standard input
    #[arg(long, hide_env_values = true, env = "PORTCULLIS_POOL_PASSWORD")]
    password: Option<String>,
    /// The user has to replace it at the next sign-in
    #[arg(long)]
    temporary: bool,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

impl Password {
    fn read(&self) -> Result<String, Box<dyn Error>> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() { Err("no password was given".into()) } else { Ok(password.to_owned()) }
    }
}

/// Runs a command and prints what it has to say to standard output.
///
/// # Errors
/// With the reason for the user to read: no such pool, a refusal of the pool, a file that cannot be
/// used.
pub fn run(command: PoolCommand, config: &Config) -> Result<(), Box<dyn Error>> {
    let text = execute(command, config)?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Runs a command; the text is what it has to say in the end.
fn execute(command: PoolCommand, config: &Config) -> Result<String, Box<dyn Error>> {
    Ok(match command {
        PoolCommand::Serve => {
            serve(config)?;
            String::new()
        }
        PoolCommand::Users { which } => users(&Connection::open(&which, config)?)?,
        PoolCommand::AddUser { which, username, email, groups, password } => {
            let secret = password.read()?;
            let pool = Connection::open(&which, config)?;
            let attributes = email.map(
                |email| json!([{ "Name": "email", "Value": email }, { "Name": "email_verified", "Value": "true" }]),
            );
            let user = json!({ "Username": username, "UserAttributes": attributes, "MessageAction": "SUPPRESS",
                "TemporaryPassword": secret });
            pool.call("AdminCreateUser", user)?;
            if !password.temporary {
                set_password(&pool, &username, &secret, true)?;
            }
            for group in &groups {
                add_to_group(&pool, &username, group)?;
            }
            format!("{username} can sign in\n")
        }
        PoolCommand::SetPassword { which, username, password } => {
            let secret = password.read()?;
            set_password(&Connection::open(&which, config)?, &username, &secret, !password.temporary)?;
            format!("{username} has a new password\n")
        }
        PoolCommand::Confirm { which, username } => {
            Connection::open(&which, config)?.call("AdminConfirmSignUp", json!({ "Username": username }))?;
            format!("{username} is confirmed\n")
        }
        PoolCommand::AddToGroup { which, username, group } => {
            add_to_group(&Connection::open(&which, config)?, &username, &group)?;
            format!("{username} is in {group}; tokens show it from the next sign-in or refresh on\n")
        }
        PoolCommand::Outbox { which } => outbox(&Connection::open(&which, config)?)?,
        PoolCommand::RotateKeys { which } => {
            Connection::open(&which, config)?.call("RotateKeys", json!({}))?;
            "new tokens are signed with new keys; the old keys stay published for a day\n".to_owned()
        }
    })
}

fn set_password(pool: &Connection, username: &str, password: &str, permanent: bool) -> Result<(), Box<dyn Error>> {
    let request = json!({ "Username": username, "Password": password, "Permanent": permanent });
    pool.call("AdminSetUserPassword", request).map(drop)
}

fn add_to_group(pool: &Connection, username: &str, group: &str) -> Result<(), Box<dyn Error>> {
    // A user who is not there must not leave a new group behind.
    pool.call("AdminGetUser", json!({ "Username": username }))?;
    if pool.call("GetGroup", json!({ "GroupName": group })).is_err() {
        pool.call("CreateGroup", json!({ "GroupName": group }))?;
    }
    pool.call("AdminAddUserToGroup", json!({ "Username": username, "GroupName": group })).map(drop)
}

/// One line per user: name, status, e-mail address.
fn users(pool: &Connection) -> Result<String, Box<dyn Error>> {
    let (mut text, mut next) = (String::new(), Value::Null);
    loop {
        let page = pool.call("ListUsers", json!({ "PaginationToken": next }))?;
        for user in list(&page, "Users") {
            let attributes = list(user, "Attributes").iter();
            let mut email = attributes.filter(|attribute| member(attribute, "Name") == "email");
            let email = email.next().map(|attribute| member(attribute, "Value")).unwrap_or_default();
            let enabled = user.get("Enabled") == Some(&Value::Bool(true));
            let status = if enabled { member(user, "UserStatus") } else { "DISABLED" };
            writeln!(text, "{:<24} {status:<22} {email}", member(user, "Username"))?;
        }
        next = page.get("PaginationToken").cloned().unwrap_or_default();
        if next.is_null() {
            return Ok(text);
        }
    }
}

/// One line per message: time, user, purpose, destination, code.
fn outbox(pool: &Connection) -> Result<String, Box<dyn Error>> {
    let reply = pool.call("ListMessages", json!({}))?;
    let mut text = String::new();
    for message in list(&reply, "Messages") {
        let of = |name| member(message, name);
        let (time, user, purpose) = (of("time"), of("username"), of("purpose"));
        writeln!(text, "{time}  {user:<20} {purpose:<15} {:<28} {}", of("destination"), of("code"))?;
    }
    Ok(text)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn member<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Serves until SIGINT or SIGTERM.
fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let embedded: Vec<&Arc<Pool>> = config.pools.iter().filter(|pool| pool.embedded.is_some()).collect();
    if embedded.is_empty() {
        return Err(no_pool().into());
    }
    let mut servers = Vec::new();
    for pool in embedded {
        let server = Server::bind(pool, Clock::System, runtime.handle())?;
        let line =
            format!("{}: user pool {} at {}, app client {}\n", pool.name, pool.id, server.base_url(), pool.client_id);
        io::stdout().write_all(line.as_bytes())?;
        servers.push(server);
    }
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // The runtime goes on here while another thread waits for the end.
        Ok(tokio::task::spawn_blocking(move || servers.iter().for_each(Server::shutdown)).await?)
    })
}

/// The way to a pool.
enum Way {
    /// A server has the data.
    Running { runtime: Runtime, http: reqwest::Client, url: String },
    /// Nobody has.
    File(Local),
}

/// A pool to run operations on.
struct Connection {
    pool: Arc<Pool>,
    way: Way,
}

impl Connection {
    fn open(which: &Which, config: &Config) -> Result<Self, Box<dyn Error>> {
        let pool = chosen(which, config)?;
        let embedded = pool.embedded.as_ref().ok_or_else(no_pool)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let http =
            outbound::client(Duration::from_secs(2), Duration::from_secs(30)).map_err(|error| error.to_string())?;
        let url = format!("http://{}", embedded.address);
        if embedded.address.port() != 0
            && let Some(pools) = runtime.block_on(served(&http, &url))
        {
            if pools.contains(&pool.id.to_string()) {
                return Ok(Self { pool, way: Way::Running { runtime, http, url } });
            }
            return Err(format!("what listens on {} is not the user pool {}", embedded.address, pool.id).into());
        }
        if embedded.data.is_none() {
            return Err(format!("pool {} keeps its data in memory, and is not running", pool.name).into());
        }
        let local = Local::open(&pool, Clock::System)?;
        Ok(Self { pool, way: Way::File(local) })
    }

    /// Runs an operation on the pool.
    fn call(&self, operation: &str, mut request: Value) -> Result<Value, Box<dyn Error>> {
        let own = matches!(operation, "RotateKeys" | "ListMessages");
        let target = format!("{}{operation}", if own { OWN_PREFIX } else { TARGET_PREFIX });
        if let Some(members) = request.as_object_mut() {
            members.insert("UserPoolId".to_owned(), json!(self.pool.id.to_string()));
        }
        match &self.way {
            Way::File(local) => Ok(local.call(&target, &request)?),
            Way::Running { runtime, http, url } => {
                let authorization = authorization(&self.pool);
                runtime.block_on(async {
                    let request = http
                        .post(url)
                        .header("x-amz-target", &target)
                        .header("content-type", CONTENT_TYPE)
                        .header("authorization", authorization)
                        .body(request.to_string());
                    let response = request.send().await?;
                    let fine = response.status().is_success();
                    let body = outbound::read_capped(response, ANSWER).await?;
                    if fine {
                        return Ok(serde_json::from_slice(&body).unwrap_or_default());
                    }
                    let fault: Fault = serde_json::from_slice(&body)?;
                    Err(format!("{}: {}", fault.kind.unwrap_or_default(), fault.message.unwrap_or_default()).into())
                })
            }
        }
    }
}

/// Bytes of an answer that are read at most: 60 users with all their attributes fit.
const ANSWER: usize = 16 << 20;

/// The pools that are served at an address; `None` when nothing answers there.
async fn served(http: &reqwest::Client, url: &str) -> Option<Vec<String>> {
    let response = http.get(format!("{url}/health")).send().await.ok()?;
    let body = outbound::read_capped(response, ANSWER).await.unwrap_or_default();
    let health: Value = serde_json::from_slice(&body).unwrap_or_default();
    let known = member(&health, "service") == "portcullis-pool";
    let pools = list(&health, "pools").iter().filter(|_| known).filter_map(Value::as_str);
    Some(pools.map(str::to_owned).collect())
}

/// The form of a signature, which is all that the pool asks for: it knows no AWS credentials.
fn authorization(pool: &Pool) -> String {
    let scope = format!("portcullis/20260101/{}/cognito-idp/aws4_request", pool.id.region);
    format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={}", "0".repeat(64))
}

fn chosen(which: &Which, config: &Config) -> Result<Arc<Pool>, String> {
    let mut embedded = config.pools.iter().filter(|pool| pool.embedded.is_some());
    if let Some(name) = &which.pool {
        return embedded.find(|pool| *pool.name == **name).cloned().ok_or(format!("no embedded pool is called {name}"));
    }
    let first = embedded.next().ok_or_else(no_pool)?;
    match embedded.next() {
        None => Ok(Arc::clone(first)),
        Some(second) => Err(format!("{} and {} are embedded: say which one with --pool", first.name, second.name)),
    }
}

fn no_pool() -> String {
    "the config has no embedded pool".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TEXT: &str = r#"
        version = 1
        [[listener]]
        address = "127.0.0.1:8080"
        [pool.main]
        id = "eu-west-1_Dev000001"
        client_id = "4hrtnexample"
        [pool.main.embedded]
        address = "ADDRESS"
        data = "pool.redb"
        users = [{ username = "demo", password = "Portcullis-1" }]
        [upstream.app]
        servers = ["whoami:"]
        [[route]]
        path = "/*"
        upstream = "app"
    "#;

    /// A config with a data file of its own, whose pool is at `address`.
    fn config(directory: &tempfile::TempDir, address: &str) -> Config {
        let path = directory.path().join("portcullis.toml");
        std::fs::write(&path, TEXT.replace("ADDRESS", address)).unwrap();
        config::load(&path, &|_| None).unwrap().config
    }

    fn which() -> Which {
        Which { pool: None }
    }

    fn password(password: &str) -> Password {
        Password { password: Some(password.to_owned()), temporary: false }
    }

    fn add_user(username: &str, secret: &str) -> PoolCommand {
        let (email, groups) = (Some("eve@example.com".to_owned()), vec!["staff".to_owned()]);
        PoolCommand::AddUser {
            which: which(),
            username: username.to_owned(),
            email,
            groups,
            password: password(secret),
        }
    }

    /// Everything that can be done to a pool.
    fn administer(config: &Config) {
        let run = |command| execute(command, config).unwrap();
        run(add_user("eve", "Evening-1"));
        let group = "admin".to_owned();
        run(PoolCommand::AddToGroup { which: which(), username: "eve".to_owned(), group });
        run(PoolCommand::SetPassword { which: which(), username: "eve".to_owned(), password: password("Evening-2") });
        run(PoolCommand::RotateKeys { which: which() });
        let users = run(PoolCommand::Users { which: which() });
        let mut lines = users.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("demo ") && line.contains("CONFIRMED")), "{users}");
        assert!(
            lines.next().is_some_and(|line| line.starts_with("eve ") && line.ends_with("eve@example.com")),
            "{users}"
        );
        let refused = |command| execute(command, config).unwrap_err().to_string();
        assert_eq!(refused(add_user("eve", "Evening-1")), "UsernameExistsException: User account already exists");
        assert!(refused(add_user("fred", "weak")).starts_with("InvalidPasswordException: "));
        let confirm = PoolCommand::Confirm { which: which(), username: "demo".to_owned() };
        assert!(refused(confirm).contains("Current status is CONFIRMED"));
        let nobody = PoolCommand::AddToGroup { which: which(), username: "nobody".to_owned(), group: "new".to_owned() };
        assert_eq!(refused(nobody), "UserNotFoundException: User does not exist.");
    }

    #[test]
    fn a_pool_that_does_not_run_is_changed_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        administer(&config(&directory, "127.0.0.1:0"));
    }

    #[test]
    fn a_running_pool_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let server =
            Server::bind(&config(&directory, "127.0.0.1:0").pools[0], Clock::System, runtime.handle()).unwrap();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let driver = std::thread::spawn(move || runtime.block_on(ended).is_ok());
        administer(&config(&directory, &server.addr().to_string()));
        server.shutdown();
        end.send(()).unwrap();
        assert!(driver.join().unwrap());
    }

    #[test]
    fn a_file_in_use_and_an_unknown_pool_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory, "127.0.0.1:0");
        let _open = Local::open(&config.pools[0], Clock::System).unwrap();
        let error = execute(PoolCommand::Users { which: which() }, &config).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        let unknown = PoolCommand::Users { which: Which { pool: Some("other".to_owned()) } };
        assert_eq!(execute(unknown, &config).unwrap_err().to_string(), "no embedded pool is called other");
    }

    #[derive(Debug, clap::Parser)]
    struct CommandLine {
        #[command(subcommand)]
        command: PoolCommand,
    }

    #[test]
    fn the_command_line_is_read() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
        let read =
            |words: &str| <CommandLine as clap::Parser>::try_parse_from(words.split(' ')).map(|line| line.command);
        let command = read("pool add-user eve --email e@example.com --group a --group b --password Evening-1").unwrap();
        assert!(
            matches!(command, PoolCommand::AddUser { groups, password, .. } if groups == ["a", "b"] && !password.temporary)
        );
        assert!(
            matches!(read("pool rotate-keys --pool main").unwrap(), PoolCommand::RotateKeys { which } if which.pool.is_some())
        );
        assert!(read("pool confirm").is_err());
    }

    #[test]
    fn no_password_shows_in_a_debug_text() {
        assert!(!format!("{:?}", add_user("eve", "Evening-1")).contains("Evening"));
    }
}
