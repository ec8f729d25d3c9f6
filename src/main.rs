//! The command line: what to do, and how it ended.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use portcullis::cli;

/// A reverse proxy that lets a request pass only after it verified the caller against an Amazon
/// Cognito user pool.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "PORTCULLIS_CONFIG",
        default_value = "config/portcullis.toml",
        global = true
    )]
    path: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; what happens without a command
    Run,
    /// Report every mistake in the configuration
    Check {
        /// Turn warnings into errors
        #[arg(long)]
        strict: bool,
        /// Also fetch the key sets and reach the upstreams
        #[arg(long)]
        online: bool,
    },
    /// Say which route a request takes, whether it may pass and why, and what goes upstream
    Explain(cli::explain::Question),
    /// Work with the embedded user pool
    #[cfg(feature = "devpool")]
    Pool {
        #[command(subcommand)]
        command: cli::pool::PoolCommand,
    },
    /// Exit with 0 when the running gateway is ready; for HEALTHCHECK
    Health,
    /// Print a new session key
    Keygen {
        /// A key for assertions instead
        #[arg(long)]
        assertion: bool,
    },
}

const EXIT_CODES: &str = "\
Exit codes:
  0   fine
  1   anything that is not below
  2   wrong usage
  3   the configuration cannot be used
  4   an address cannot be bound, or certificates and keys for TLS cannot be loaded
  5   a required store cannot be reached
  10  the time to drain was over before every request was finished";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments.config.path;
    let code = match arguments.command.unwrap_or(Command::Run) {
        Command::Run => cli::run::run(&path),
        Command::Check { strict, online } => cli::check::run(&path, strict, online),
        Command::Explain(question) => cli::explain::run(&path, &question),
        #[cfg(feature = "devpool")]
        Command::Pool { command } => cli::with_config(&path, |config| cli::pool::run(command, &config)),
        Command::Health => {
            cli::with_config(&path, |config| Ok(cli::health::run(config.admin.address, cli::health::DEADLINE)?))
        }
        Command::Keygen { assertion } => {
            let kind = if assertion { cli::keygen::Kind::Assertion } else { cli::keygen::Kind::Session };
            cli::finish(cli::keygen::run(kind, &mut std::io::stdout(), &mut std::io::stderr()))
        }
    };
    ExitCode::from(code)
}
