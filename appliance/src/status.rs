//! The daemon's local socket: one JSON answer per connection. Only the owner of the data directory can open it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use gatehouse_session::Core;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::supervisor::{State, States};

pub(crate) fn socket_path(data: &Path) -> PathBuf {
    data.join("gatehouse.sock")
}

/// What there is to say.
#[derive(Clone)]
pub(crate) struct Facts {
    pub core: Core,
    pub states: States,
    pub seal: String,
    pub listen: Value,
    pub began: Instant,
}

impl Facts {
    fn answer(&self) -> Value {
        let health = self.core.store().health();
        let states = self.states.snapshot();
        let degraded = states.values().any(|s| matches!(s, State::Degraded { .. }));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "status": if !health.is_healthy() { "failed" } else if degraded { "degraded" } else { "ok" },
            "store": format!("{health:?}"),
            "seal": {"method": self.seal, "hardware": false},
            "services": states,
            "listen": self.listen,
            "sessions": self.core.live().count(),
        })
    }
}

/// Serves until shutdown.
pub(crate) async fn serve(path: &Path, facts: Facts, shutdown: CancellationToken) -> anyhow::Result<()> {
    // A socket left by a killed daemon; the store's lock says that no other one runs.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (mut stream, _) = accepted?;
        let text = facts.answer().to_string();
        // One answer at a time is enough here, and a client that does not read is not waited for.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), stream.write_all(text.as_bytes())).await;
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// `gatehouse status`.
pub(crate) async fn ask(data: &Path, as_json: bool) -> anyhow::Result<bool> {
    let path = socket_path(data);
    let mut stream = UnixStream::connect(&path)
        .await
        .with_context(|| format!("no daemon answers at {}: is `gatehouse run` running there?", path.display()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let value: Value = serde_json::from_str(&text).context("the daemon's answer cannot be read")?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        println!("gatehouse {}: {}", text("/version"), text("/status"));
        println!("  seal: {}", text("/seal/method"));
        println!("  sessions: {}, up {} s", number("/sessions"), number("/uptime_seconds"));
        for (name, state) in value.get("services").and_then(Value::as_object).into_iter().flatten() {
            println!("  {name}: {}", state.get("state").and_then(Value::as_str).unwrap_or("?"));
        }
    }
    Ok(value.get("status").and_then(Value::as_str) == Some("ok"))
}
