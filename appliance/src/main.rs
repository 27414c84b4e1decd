//! The `gatehouse` command: the daemon and the tools around it.
//!
//! What lives here: the command line, configuration, set-up, the composition of services under the supervisor, and the
//! offline commands. What must not: business rules; they belong to the services.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to people here")]

mod cli;
mod config;
mod offline;
mod open;
mod run;
mod setup;
mod status;
mod supervisor;
mod upkeep;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use cli::{BackupAction, Cli, Command, LedgerAction, RecoverAction};
use config::{Config, Log};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Usage errors end here with 2.
    let cli = Cli::parse();
    // One TLS provider for everything, chosen before anything can choose another.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("gatehouse: a TLS provider was installed before ours");
        return ExitCode::FAILURE;
    }
    match dispatch(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gatehouse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// `Ok(false)`: it ran, and what it found is not good.
fn dispatch(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run { config, data } => {
            let config = Config::load(config.as_deref(), data)?;
            log(&config.log);
            runtime()?.block_on(run::run(config))?;
        }
        Command::Setup { data, answers } => {
            log(&Log { level: "warn".into(), json: false });
            let answers = setup::Answers::load(&answers)?;
            let done = runtime()?.block_on(setup::run(&data, answers))?;
            report_setup(&data, &done);
        }
        Command::Status { at, json } => return runtime()?.block_on(status::ask(&at.data, json)),
        Command::Ledger { action: LedgerAction::Verify { at, json } } => return offline::verify(&at.data, json),
        Command::Ledger { action: LedgerAction::Export { at, out } } => offline::export(&at.data, &out)?,
        Command::Backup { action: BackupAction::Create { at, out } } => {
            runtime()?.block_on(offline::backup_create(&at.data, &out))?;
        }
        Command::Backup { action: BackupAction::Restore { at, from } } => offline::backup_restore(&at.data, &from)?,
        Command::Recover { action: RecoverAction::Seal { at } } => offline::recover_seal(&at.data)?,
        Command::Recover { action: RecoverAction::Admin { at, username } } => {
            runtime()?.block_on(offline::recover_admin(&at.data, &username))?;
        }
    }
    Ok(true)
}

fn report_setup(data: &Path, done: &setup::Done) {
    eprintln!("{} is set up; start it with `gatehouse run`", data.display());
    if let Some(words) = &done.words {
        println!("recovery words (shown once):\n{}", words.as_str());
    }
    if let Some(qr) = &done.qr {
        println!("{}", qr.as_str());
    }
}

fn log(config: &Log) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    if config.json { builder.json().init() } else { builder.init() }
}
