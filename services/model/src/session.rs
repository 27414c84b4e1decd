//! Sessions and what they leave behind: rows of the audit views, and the tokens that start sessions.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::choices;
use crate::record::{Index, org_record};

choices! {
    pub enum LoginFrom {
        Ssh = "ST", "SSH Terminal";
        Rdp = "RT", "RDP Terminal";
        Web = "WT", "Web Terminal";
        Db = "DT", "DB Terminal";
        Vnc = "VT", "VNC Terminal";
    }
}

choices! {
    pub enum SessionType {
        Normal = "normal", "Normal";
        Tunnel = "tunnel", "Tunnel";
        Command = "command", "Command";
        Sftp = "sftp", "SFTP";
    }
}

choices! {
    pub enum SessionError {
        ConnectFailed = "connect_failed", "Connect failed";
        ReplayCreateFailed = "replay_create_failed", "Replay create failed";
        ReplayUploadFailed = "replay_upload_failed", "Replay upload failed";
        ReplayConvertFailed = "replay_convert_failed", "Replay convert failed";
        ReplayUnsupported = "replay_unsupported", "Replay unsupported";
    }
}

/// A sealed recording of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Relative to the recordings directory.
    pub file: String,
    /// Hex SHA-256: the end of the recording's hash chain, repeated in the ledger.
    pub digest: String,
    pub size: u64,
    pub duration_ms: u64,
    /// `false`: the daemon ended before the recording was sealed; it is readable to its last whole chunk.
    pub complete: bool,
}

/// One person's connection to one asset. Written when it starts and when it ends; live state is in the session service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub id: Uuid,
    pub org_id: Uuid,
    /// `Name(username)` at the time.
    pub user: String,
    pub user_id: Uuid,
    /// `name(address)` at the time.
    pub asset: String,
    pub asset_id: Uuid,
    /// `name(username)` at the time.
    pub account: String,
    /// Nil for manual and same-name accounts that are not stored.
    pub account_id: Uuid,
    pub protocol: String,
    pub login_from: LoginFrom,
    pub r#type: SessionType,
    pub remote_addr: String,
    pub is_success: bool,
    pub is_finished: bool,
    pub has_replay: bool,
    pub has_command: bool,
    pub date_start: DateTime<Utc>,
    pub date_end: Option<DateTime<Utc>>,
    #[serde(default)]
    pub comment: String,
    #[serde(default)]
    pub cmd_amount: u64,
    #[serde(default)]
    pub error_reason: Option<SessionError>,
    /// Why it ended, as a sentence.
    #[serde(default)]
    pub end_reason: String,
    #[serde(default)]
    pub replay: Option<Replay>,
    #[serde(default)]
    pub bytes_in: u64,
    #[serde(default)]
    pub bytes_out: u64,
}

org_record!(Session, "session", uncached, |record| {
    let mut indexes = vec![
        Index::many("user", *record.user_id.as_bytes()),
        Index::many("asset", *record.asset_id.as_bytes()),
        Index::many("account", *record.account_id.as_bytes()),
    ];
    if !record.is_finished {
        indexes.push(Index::many("open", *b"1"));
    }
    indexes
});

choices! {
    /// JumpServer's numbers.
    pub enum RiskLevel {
        Accept = "0", "Accept";
        Warning = "4", "Warning";
        Reject = "5", "Reject";
        ReviewReject = "6", "Review & Reject";
        ReviewAccept = "7", "Review & Accept";
        ReviewCancel = "8", "Review & Cancel";
    }
}

choices! {
    /// Where the text of a command comes from, and so how far it can be trusted.
    pub enum CommandConfidence {
        Exec = "exec", "Sent as one exec request";
        Echoed = "echoed", "Read from the terminal";
        Typed = "typed", "Typed without echo";
        Unknown = "unknown", "Unknown";
    }
}

/// A command row (U08). Never truncated by the row: `output_cut` says when the output is longer than what is kept here
/// (the recording holds all of it).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandRow {
    pub id: Uuid,
    pub org_id: Uuid,
    pub session: Uuid,
    pub user: String,
    pub user_id: Uuid,
    pub asset: String,
    pub asset_id: Uuid,
    pub account: String,
    pub account_id: Uuid,
    pub input: String,
    #[serde(default)]
    pub output: String,
    #[serde(default)]
    pub output_cut: bool,
    pub risk_level: RiskLevel,
    pub confidence: CommandConfidence,
    #[serde(default)]
    pub cmd_filter: Option<Uuid>,
    #[serde(default)]
    pub cmd_group: Option<Uuid>,
    pub remote_addr: String,
    /// When Enter was pressed.
    pub timestamp: DateTime<Utc>,
    /// Milliseconds from the start of the session, to jump to in the replay.
    pub offset_ms: u64,
    /// Position in the recording (`Recorder::position`).
    pub position: u64,
}

choices! {
    pub enum FileOperation {
        Mkdir = "mkdir", "Mkdir";
        Rmdir = "rmdir", "Rmdir";
        Delete = "delete", "Delete";
        Upload = "upload", "Upload";
        Rename = "rename", "Rename";
        Symlink = "symlink", "Symlink";
        Download = "download", "Download";
        RenameDir = "rename_dir", "Rename dir";
        Setstat = "setstat", "Set attributes";
    }
}

/// A file operation row (U09; JumpServer: FTP log).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRow {
    pub id: Uuid,
    pub org_id: Uuid,
    pub session: Uuid,
    pub user: String,
    pub user_id: Uuid,
    pub asset: String,
    pub asset_id: Uuid,
    pub account: String,
    pub account_id: Uuid,
    pub remote_addr: String,
    pub operate: FileOperation,
    pub filename: String,
    /// Second path of rename and symlink.
    #[serde(default)]
    pub target: String,
    pub is_success: bool,
    /// Why it failed or was refused.
    #[serde(default)]
    pub reason: String,
    pub date_start: DateTime<Utc>,
    #[serde(default)]
    pub size: u64,
    /// Hex, of the bytes that passed; empty when they did not pass in order from the first to the last.
    #[serde(default)]
    pub sha256: String,
    /// The content is kept and can be downloaded by an auditor.
    #[serde(default)]
    pub has_file: bool,
}

/// Everything that a connection token is bound to (P72, X10). The value is kept as SHA-256 only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionToken {
    pub id: Uuid,
    pub org_id: Uuid,
    pub value_hash: [u8; 32],
    pub user: Uuid,
    pub user_display: String,
    pub asset: Uuid,
    pub asset_display: String,
    /// Account user name or alias.
    pub account: String,
    pub protocol: String,
    pub connect_method: String,
    #[serde(default)]
    pub input_username: String,
    /// The typed secret of a manual account is in `Secret` under the token's id.
    #[serde(default)]
    pub has_input_secret: bool,
    #[serde(default)]
    pub connect_options: Map<String, Value>,
    pub remote_addr: String,
    pub is_active: bool,
    pub is_reusable: bool,
    /// Sessions started with it.
    #[serde(default)]
    pub used: u32,
    pub date_created: DateTime<Utc>,
    pub date_expired: DateTime<Utc>,
}

org_record!(ConnectionToken, "connection_token", |record| vec![Index::many("user", *record.user.as_bytes())]);
