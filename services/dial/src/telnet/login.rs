//! Telnet log-in: wait for the prompts that the platform describes, type the account's name and password, and tell a
//! shell from a refusal.
//!
//! The password is typed once, and only at the end of a line that matches the platform's password prompt.

use std::time::Duration;

use bytes::Bytes;
use regex::{Regex, RegexBuilder};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::peer::TelnetPeer;
use crate::error::{DialError, Proof, Stage};
use crate::route::{DialContext, Route};
use crate::tcp;

/// Text of the log-in dialogue that is looked at; older text is forgotten.
const KEEP: usize = 16 * 1024;
/// A line counts as a prompt when nothing follows it for this long.
const QUIET: Duration = Duration::from_millis(40);
/// After the password a shell may greet in several pieces.
const QUIET_AFTER_PASSWORD: Duration = Duration::from_millis(150);
/// A console that shows nothing may wait for the Enter key ("press RETURN to get started").
const NUDGE_AFTER: Duration = Duration::from_secs(2);

/// The platform's prompts, compiled. Case is ignored.
pub struct TelnetPrompts {
    username: Regex,
    password: Regex,
    success: Regex,
}

impl TelnetPrompts {
    /// Compiles the patterns of a platform's telnet settings.
    ///
    /// # Errors
    /// [`DialError::BadPattern`].
    pub fn new(username: &str, password: &str, success: &str) -> Result<Self, DialError> {
        let compile = |which: &'static str, pattern: &str| {
            RegexBuilder::new(pattern)
                .case_insensitive(true)
                .size_limit(1 << 20)
                .build()
                .map_err(|e| DialError::BadPattern { which, reason: e.to_string() })
        };
        Ok(Self {
            username: compile("username prompt", username)?,
            password: compile("password prompt", password)?,
            success: compile("success prompt", success)?,
        })
    }

    /// JumpServer's defaults.
    ///
    /// # Errors
    /// None in practice: the patterns are constant.
    pub fn standard() -> Result<Self, DialError> {
        Self::new("username:|login:", "password:", r"success|成功|#|>|\$")
    }
}

/// As whom to log in over telnet, and what the terminal is like.
pub struct TelnetLogin {
    /// Account name; may be empty for a console that asks only for a password.
    pub username: String,
    pub password: Zeroizing<String>,
    pub prompts: TelnetPrompts,
    /// Value for TERMINAL-TYPE.
    pub term: String,
    pub cols: u16,
    pub rows: u16,
}

/// Dials the asset and logs in.
///
/// # Errors
/// Those of [`crate::tcp`] and [`login`].
pub async fn connect(route: &Route, login: &TelnetLogin, ctx: &DialContext) -> Result<TelnetPeer, DialError> {
    let stream = tcp::tcp(route, ctx).await?;
    let mut peer = TelnetPeer::new(stream, &login.term, login.cols, login.rows);
    self::login(&mut peer, login, &route.target(), ctx.timeouts.auth).await?;
    Ok(peer)
}

/// Logs in over an open connection within `limit`. What the asset shows after the password (greeting, shell prompt) is
/// the first thing that the peer's reader returns; what came before is not.
///
/// # Errors
/// [`DialError::AuthRejected`] when the asset asks again or hangs up after the password, [`DialError::NoPrompt`] when no
/// known prompt shows within `limit`, [`DialError::ClosedEarly`].
pub async fn login(peer: &mut TelnetPeer, login: &TelnetLogin, target: &str, limit: Duration) -> Result<(), DialError> {
    let mut dialogue = Dialogue { peer, login, target, seen: Vec::new(), nudged: false };
    let deadline = Instant::now() + limit;
    if dialogue.first_prompt(deadline).await? == Prompt::Username {
        dialogue.type_line(login.username.as_bytes(), deadline).await?;
        dialogue.password_prompt(deadline).await?;
    }
    dialogue.type_line(login.password.as_bytes(), deadline).await?;
    let greeting = dialogue.shell(deadline).await?;
    peer.unread(greeting);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prompt {
    Username,
    Password,
}

/// What a wait for output ended with.
#[derive(PartialEq, Eq)]
enum Heard {
    Bytes,
    Quiet,
}

struct Dialogue<'a> {
    peer: &'a mut TelnetPeer,
    login: &'a TelnetLogin,
    target: &'a str,
    /// Raw bytes since the last line that we typed, bounded.
    seen: Vec<u8>,
    nudged: bool,
}

impl Dialogue<'_> {
    async fn first_prompt(&mut self, deadline: Instant) -> Result<Prompt, DialError> {
        loop {
            if self.hear(QUIET, deadline, Stage::Prompt, "user name or password prompt").await? == Heard::Bytes {
                continue;
            }
            match self.prompt() {
                Some(prompt) => return Ok(prompt),
                None => self.wait_or_nudge(deadline, "user name or password prompt").await?,
            }
        }
    }

    async fn password_prompt(&mut self, deadline: Instant) -> Result<(), DialError> {
        loop {
            if self.hear(QUIET, deadline, Stage::Auth, "password prompt").await? == Heard::Bytes {
                continue;
            }
            match self.prompt() {
                Some(Prompt::Password) => return Ok(()),
                // It wants the name again: it does not like it and says so before asking for a password.
                Some(Prompt::Username) => return Err(self.rejected(Vec::new())),
                None => self.wait_for_more(deadline, Stage::Auth, "password prompt").await?,
            }
        }
    }

    async fn shell(&mut self, deadline: Instant) -> Result<Bytes, DialError> {
        loop {
            match self.hear(QUIET_AFTER_PASSWORD, deadline, Stage::Auth, "success prompt").await {
                Ok(Heard::Bytes) => continue,
                Ok(Heard::Quiet) => {}
                Err(DialError::ClosedEarly { .. }) => return Err(self.rejected(vec![Proof::Password])),
                Err(error) => return Err(error),
            }
            if self.prompt().is_some() {
                return Err(self.rejected(vec![Proof::Password]));
            }
            if self.shows_success() {
                return Ok(self.greeting());
            }
            match self.wait_for_more(deadline, Stage::Auth, "success prompt").await {
                Err(DialError::ClosedEarly { .. }) => return Err(self.rejected(vec![Proof::Password])),
                other => other?,
            }
        }
    }

    /// Reads for at most `quiet`.
    async fn hear(
        &mut self,
        quiet: Duration,
        deadline: Instant,
        stage: Stage,
        which: &'static str,
    ) -> Result<Heard, DialError> {
        if Instant::now() >= deadline {
            return Err(DialError::NoPrompt { target: self.target.to_owned(), which });
        }
        match timeout(quiet, self.peer.read()).await {
            Ok(read) => self.took(read, stage).map(|()| Heard::Bytes),
            Err(_) => Ok(Heard::Quiet),
        }
    }

    async fn wait_for_more(&mut self, deadline: Instant, stage: Stage, which: &'static str) -> Result<(), DialError> {
        match timeout_at(deadline, self.peer.read()).await {
            Ok(read) => self.took(read, stage),
            Err(_) => Err(DialError::NoPrompt { target: self.target.to_owned(), which }),
        }
    }

    async fn wait_or_nudge(&mut self, deadline: Instant, which: &'static str) -> Result<(), DialError> {
        let nudge = Instant::now() + NUDGE_AFTER;
        if self.nudged || nudge >= deadline {
            return self.wait_for_more(deadline, Stage::Prompt, which).await;
        }
        match timeout_at(nudge, self.peer.read()).await {
            Ok(read) => self.took(read, Stage::Prompt),
            Err(_) => {
                self.nudged = true;
                self.type_line(b"", deadline).await
            }
        }
    }

    fn took(&mut self, read: std::io::Result<Bytes>, stage: Stage) -> Result<(), DialError> {
        match read {
            Ok(data) if !data.is_empty() => {
                self.seen.extend_from_slice(&data);
                if self.seen.len() > KEEP {
                    let excess = self.seen.len() - KEEP;
                    self.seen.drain(..excess);
                }
                Ok(())
            }
            Ok(_) | Err(_) => Err(DialError::ClosedEarly { target: self.target.to_owned(), stage, reason: None }),
        }
    }

    async fn type_line(&mut self, text: &[u8], deadline: Instant) -> Result<(), DialError> {
        self.seen.clear();
        let mut line = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        line.extend_from_slice(text);
        // As the Enter key sends it (CR NUL on the wire): some servers take CR LF for two lines, and the second one would
        // answer the password prompt.
        line.push(b'\r');
        match timeout_at(deadline, self.peer.write(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                Err(DialError::ClosedEarly { target: self.target.to_owned(), stage: Stage::Auth, reason: None })
            }
            Err(_) => Err(DialError::NoPrompt { target: self.target.to_owned(), which: "prompt" }),
        }
    }

    /// The prompt that the text ends with, if any. Only the last, unfinished line counts: "Last login: Monday" is not a
    /// prompt, and neither is a line that more text follows.
    fn prompt(&self) -> Option<Prompt> {
        let line = self.last_line();
        let ends_with = |pattern: &Regex| {
            pattern
                .find_iter(&line)
                .last()
                .is_some_and(|m| line.get(m.end()..).is_some_and(|rest| rest.trim().is_empty()))
        };
        if ends_with(&self.login.prompts.password) {
            Some(Prompt::Password)
        } else if ends_with(&self.login.prompts.username) {
            Some(Prompt::Username)
        } else {
            None
        }
    }

    fn last_line(&self) -> String {
        let start = self.seen.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        String::from_utf8_lossy(self.seen.get(start..).unwrap_or_default()).into_owned()
    }

    /// The success pattern matches something other than a complaint.
    fn shows_success(&self) -> bool {
        let text = String::from_utf8_lossy(&self.seen);
        let (done, last) = text.rsplit_once('\n').unwrap_or(("", &text));
        let success = &self.login.prompts.success;
        success.is_match(last) || done.lines().any(|line| !complains(line) && success.is_match(line))
    }

    /// What the asset showed since the password was typed, without the password should the asset have echoed it.
    fn greeting(&mut self) -> Bytes {
        let seen = std::mem::take(&mut self.seen);
        let secret = self.login.password.as_bytes();
        if secret.is_empty() || !seen.windows(secret.len()).any(|w| w == secret) {
            return seen.into();
        }
        let text = Zeroizing::new(seen);
        let mut clean = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            if let Some(after) = rest.strip_prefix(secret) {
                rest = after;
            } else {
                clean.push(*first);
                rest = tail;
            }
        }
        clean.into()
    }

    fn rejected(&self, tried: Vec<Proof>) -> DialError {
        DialError::AuthRejected {
            target: self.target.to_owned(),
            username: self.login.username.clone(),
            tried,
            methods: Vec::new(),
        }
    }
}

fn complains(line: &str) -> bool {
    let line = line.to_lowercase();
    ["incorrect", "fail", "denied", "invalid", "error", "wrong", "bad ", "失败", "错误"]
        .iter()
        .any(|w| line.contains(w))
}
