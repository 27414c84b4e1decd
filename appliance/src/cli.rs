//! The command line. Names and exit codes are contracts: 0 ok, 1 failed, 2 usage.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "gatehouse", version, about = "Bastion host and privileged-access manager")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon; without any file, a development instance on loopback
    Run {
        /// Configuration (TOML)
        #[arg(long)]
        config: Option<PathBuf>,
        /// Data directory; wins over the configuration
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Set up a data directory unattended: what the installer asks, as TOML
    Setup {
        #[arg(long)]
        data: PathBuf,
        /// `[seal] [admin] [site] [recovery]`
        #[arg(long)]
        answers: PathBuf,
    },
    /// What the running daemon says of itself, over its local socket
    Status {
        #[command(flatten)]
        at: DataDir,
        #[arg(long)]
        json: bool,
    },
    /// Check or export the audit ledger and the recordings, with the daemon stopped too
    Ledger {
        #[command(subcommand)]
        action: LedgerAction,
    },
    /// Back up everything into one encrypted file, or restore it elsewhere with the recovery words
    Backup {
        #[command(subcommand)]
        action: BackupAction,
    },
    /// Ways back in with the recovery words (asked on standard input)
    Recover {
        #[command(subcommand)]
        action: RecoverAction,
    },
}

#[derive(Args)]
pub(crate) struct DataDir {
    /// Data directory
    #[arg(long, default_value = ".dev")]
    pub data: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum LedgerAction {
    /// Check every segment, checkpoint and recording; says where the first problem is
    Verify {
        #[command(flatten)]
        at: DataDir,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the entries as JSON lines with the signed head at the end
    Export {
        #[command(flatten)]
        at: DataDir,
        /// File to write; `-` is standard output
        #[arg(long, default_value = "-")]
        out: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum BackupAction {
    /// Write a backup (stop the daemon first)
    Create {
        #[command(flatten)]
        at: DataDir,
        #[arg(long)]
        out: PathBuf,
    },
    /// Restore into a new data directory; the recovery words are read from standard input
    Restore {
        #[command(flatten)]
        at: DataDir,
        #[arg(long)]
        from: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum RecoverAction {
    /// Seal the root key to this machine again (lost key file, new hardware)
    Seal {
        #[command(flatten)]
        at: DataDir,
    },
    /// Give an administrator a new generated password, printed once, and lift locks
    Admin {
        #[command(flatten)]
        at: DataDir,
        #[arg(long)]
        username: String,
    },
}
