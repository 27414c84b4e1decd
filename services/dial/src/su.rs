//! Switching from one account to another inside an open shell: a state machine without IO.
//!
//! The caller feeds it what the shell prints, types what it says, and neither shows nor records any of it; afterwards
//! [`Switch::prompt`] is what the user may see first.
//!
//! The secret is typed at most once, only after our own command was echoed, and only when the output *ends* with a line
//! that asks for a password. Each host command is followed by `; exit` and replaces the shell (`exec`), so that a switch
//! which failed leaves a closed shell and never a session in the wrong account.
//!
//! What this cannot prevent: whoever controls the log-in account controls its shell, and can make it imitate the prompt
//! of `su`. A direct log-in as the target account has no such risk.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use regex::Regex;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::error::clean;

/// How a platform switches accounts (JumpServer's `su_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `sudo su - USER`: the log-in account's password, the target's environment.
    Sudo,
    /// `su - USER`: the target account's password and environment.
    Su,
    /// `sudo su USER`: as `Sudo`, keeping the environment.
    OnlySudo,
    /// `su USER`: as `Su`, keeping the environment.
    OnlySu,
    /// `enable` (Cisco and alike): a shared password.
    Enable,
    /// `super` (Huawei, H3C).
    Super,
    /// `super LEVEL`; the level is the target account's name when it is a number from 0 to 15, else 15.
    SuperLevel,
}

impl FromStr for Method {
    type Err = SwitchError;

    fn from_str(name: &str) -> Result<Self, SwitchError> {
        Ok(match name {
            "sudo" => Self::Sudo,
            "su" => Self::Su,
            "only_sudo" => Self::OnlySudo,
            "only_su" => Self::OnlySu,
            "enable" => Self::Enable,
            "super" => Self::Super,
            "super_level" => Self::SuperLevel,
            other => return Err(SwitchError::UnknownMethod(clean(other))),
        })
    }
}

impl Method {
    fn on_device(self) -> bool {
        matches!(self, Self::Enable | Self::Super | Self::SuperLevel)
    }

    /// Whether the secret to type is the log-in account's own (`sudo`) rather than the target's.
    pub fn wants_own_secret(self) -> bool {
        matches!(self, Self::Sudo | Self::OnlySudo)
    }
}

/// Why a switch did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SwitchError {
    #[error(
        "unknown way of switching accounts: {0}; choose one of sudo, su, only_sudo, only_su, enable, super, super_level"
    )]
    UnknownMethod(String),
    #[error("account name {0} cannot be typed into a shell safely; rename the account")]
    UnsafeName(String),
    #[error("the asset asks for a password to switch to {0}, but none is stored; store the account's password")]
    NoSecret(String),
    #[error("the asset refused the password for switching to {0}; check the stored password")]
    WrongSecret(String),
    #[error("the asset refused to switch to {user}: {said}; check that the log-in account may switch")]
    Refused { user: String, said: String },
    #[error("the asset closed the shell while switching to {user}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Closed { user: String, said: String },
    #[error("the asset did not finish switching to {0} in time; check the platform's way of switching")]
    Timeout(String),
}

/// What the caller does next.
#[derive(PartialEq, Eq)]
pub enum Step {
    /// Feed more output, or call [`Switch::tick`] at [`Switch::wake_at`].
    Wait,
    /// Type these bytes (do not log, show or record them).
    Type(Zeroizing<Vec<u8>>),
    /// The shell now belongs to the target account.
    Done,
    /// It did not work; end the session.
    Failed(SwitchError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The shell has not shown its first prompt yet.
    Ready,
    /// The command is typed.
    Asked,
    /// The secret is typed.
    Answered,
    Over,
}

/// Output that is looked at, bytes; older output is forgotten.
const KEEP: usize = 16 * 1024;
/// A line is a prompt when nothing follows it for this long.
const QUIET: Duration = Duration::from_millis(120);
/// A shell without a prompt that we recognise gets the command after this long all the same.
const READY_WITHIN: Duration = Duration::from_secs(3);

static ESCAPES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    // CSI and OSC sequences, other two-character escapes, and what is left of control characters but line feeds.
    Regex::new(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x09\x0b-\x1f\x7f]")
        .ok()
});
static ASKS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = "password|passwort|passphrase|mot de passe|contrase|senha|пароль|密码|口令|密碼|パスワード";
    Regex::new(&format!("(?i)(?:{words})[^\n]*[:：]\\s*$")).ok()
});
static REFUSES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        "(?i)authentication failure|authentication failed|incorrect password|sorry, try again|permission denied|\
         access denied|not in the sudoers|not allowed to|may not run|does not exist|unknown id|unknown user|no such user|\
         command not found|not found$|bad secrets|bad passwords|invalid input|unrecognized command|unknown command|\
         % ?error|error in authentication|failed to|认证失败|密码错误|鉴定故障",
    )
    .ok()
});

/// The state machine.
pub struct Switch {
    method: Method,
    user: String,
    secret: Option<Zeroizing<String>>,
    command: String,
    phase: Phase,
    seen: Vec<u8>,
    heard_at: Instant,
    /// What was heard has been looked at after a pause; nothing to do until more comes.
    judged: bool,
    started: Instant,
    deadline: Instant,
}

impl Switch {
    /// `user` is the target account; `secret` what to type when asked (see [`Method::wants_own_secret`]); the whole
    /// switch may take until `deadline`.
    ///
    /// # Errors
    /// [`SwitchError::UnsafeName`] when the name cannot be passed through a shell unharmed.
    pub fn new(
        method: Method,
        user: &str,
        secret: Option<Zeroizing<String>>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Self, SwitchError> {
        let command = command(method, user)?;
        Ok(Self {
            method,
            user: user.to_owned(),
            secret,
            command,
            phase: Phase::Ready,
            seen: Vec::new(),
            heard_at: now,
            judged: true,
            started: now,
            deadline,
        })
    }

    /// Takes output of the shell.
    pub fn feed(&mut self, output: &[u8], now: Instant) -> Step {
        if self.phase == Phase::Over || output.is_empty() {
            return Step::Wait;
        }
        self.heard_at = now;
        self.judged = false;
        self.seen.extend_from_slice(output);
        if self.seen.len() > KEEP {
            let excess = self.seen.len() - KEEP;
            self.seen.drain(..excess);
        }
        // Prompts are judged when the output pauses; a refusal is one as soon as its line is complete.
        if self.phase != Phase::Ready
            && let Some(said) = self.refusal()
        {
            return self.fail(SwitchError::Refused { user: self.user.clone(), said });
        }
        Step::Wait
    }

    /// When to call [`Switch::tick`] if nothing else happens before.
    pub fn wake_at(&self) -> Instant {
        let next = match self.phase {
            Phase::Asked | Phase::Answered | Phase::Ready if !self.judged => self.heard_at + QUIET,
            Phase::Ready => self.started + READY_WITHIN,
            Phase::Asked | Phase::Answered | Phase::Over => self.deadline,
        };
        next.min(self.deadline)
    }

    /// Judges what was printed once the output has paused, and watches the clock.
    pub fn tick(&mut self, now: Instant) -> Step {
        if self.phase == Phase::Over {
            return Step::Wait;
        }
        if now >= self.deadline {
            return self.fail(SwitchError::Timeout(self.user.clone()));
        }
        let paused = now >= self.heard_at + QUIET;
        if self.phase == Phase::Ready && now >= self.started + READY_WITHIN {
            return self.type_command();
        }
        if self.judged || !paused {
            return Step::Wait;
        }
        self.judged = true;
        let (lines, last) = self.text();
        match self.phase {
            Phase::Ready if is_prompt(&last) => self.type_command(),
            // Our own echo ends in a line feed: before that, what looks like a prompt is the old one.
            Phase::Asked if lines.is_empty() => Step::Wait,
            Phase::Asked => {
                if asks(&last) {
                    self.type_secret()
                } else if self.switched(&lines, &last) {
                    self.finish()
                } else {
                    Step::Wait
                }
            }
            Phase::Answered if asks(&last) => self.fail(SwitchError::WrongSecret(self.user.clone())),
            Phase::Answered if self.switched(&lines, &last) => self.finish(),
            Phase::Answered if self.method == Method::Enable && last.trim_end().ends_with('>') => {
                self.fail(SwitchError::WrongSecret(self.user.clone()))
            }
            Phase::Ready | Phase::Answered | Phase::Over => Step::Wait,
        }
    }

    /// The shell is gone.
    pub fn closed(&mut self) -> SwitchError {
        let said = self.refusal().or_else(|| self.last_words()).unwrap_or_default();
        self.phase = Phase::Over;
        self.forget();
        SwitchError::Closed { user: self.user.clone(), said }
    }

    /// After [`Step::Done`]: the new shell's prompt line, raw, to be shown to the user.
    pub fn prompt(&self) -> &[u8] {
        let start = self.seen.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        self.seen.get(start..).unwrap_or_default()
    }

    fn type_command(&mut self) -> Step {
        self.phase = Phase::Asked;
        self.seen.clear();
        let mut line = Zeroizing::new(self.command.clone().into_bytes());
        line.push(b'\r');
        Step::Type(line)
    }

    fn type_secret(&mut self) -> Step {
        let Some(secret) = self.secret.take() else {
            return self.fail(SwitchError::NoSecret(self.user.clone()));
        };
        self.phase = Phase::Answered;
        self.seen.clear();
        let mut line = Zeroizing::new(Vec::with_capacity(secret.len() + 1));
        line.extend_from_slice(secret.as_bytes());
        line.push(b'\r');
        Step::Type(line)
    }

    fn finish(&mut self) -> Step {
        self.phase = Phase::Over;
        self.secret = None;
        Step::Done
    }

    fn fail(&mut self, error: SwitchError) -> Step {
        self.phase = Phase::Over;
        self.forget();
        Step::Failed(error)
    }

    fn forget(&mut self) {
        self.secret = None;
        self.seen.clear();
    }

    /// Complete lines since we typed last, without the echo of our command, and the unfinished last one; both without
    /// escape sequences.
    fn text(&self) -> (Vec<String>, String) {
        let raw = String::from_utf8_lossy(&self.seen);
        let plain = match ESCAPES.as_ref() {
            Some(escapes) => escapes.replace_all(&raw, "").into_owned(),
            None => raw.into_owned(),
        };
        let mut lines: Vec<String> = plain.split('\n').map(str::to_owned).collect();
        let last = lines.pop().unwrap_or_default();
        (lines, last)
    }

    fn switched(&self, lines: &[String], last: &str) -> bool {
        match self.method {
            Method::Enable => last.trim_end().ends_with('#'),
            Method::Super | Method::SuperLevel => {
                // The prompt does not change; the device says so instead.
                is_device_prompt(last)
                    && lines.iter().any(|l| {
                        let l = l.to_lowercase();
                        l.contains("privilege") || l.contains("级别")
                    })
            }
            _ => is_prompt(last),
        }
    }

    fn refusal(&self) -> Option<String> {
        let refuses = REFUSES.as_ref()?;
        let (lines, _) = self.text();
        lines.iter().filter(|l| !l.contains(&self.command)).find(|l| refuses.is_match(l.trim())).map(|l| clean(l))
    }

    fn last_words(&self) -> Option<String> {
        let (lines, last) = self.text();
        let mut words = lines;
        words.push(last);
        words.iter().rev().map(|l| clean(l)).find(|l| !l.is_empty() && !l.contains(&self.command))
    }
}

fn command(method: Method, user: &str) -> Result<String, SwitchError> {
    if method.on_device() {
        let level = user.parse::<u8>().ok().filter(|l| *l <= 15).unwrap_or(15);
        return Ok(match method {
            Method::Enable => "enable".to_owned(),
            Method::Super => "super".to_owned(),
            _ => format!("super {level}"),
        });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '\\' | '+' | '$' | ' ');
    if user.is_empty()
        || user.len() > 128
        || user.starts_with('-')
        || user.ends_with('\\')
        || !user.chars().all(allowed)
    {
        return Err(SwitchError::UnsafeName(clean(user)));
    }
    // Inside single quotes nothing is special but csh's `!` and, to fish, a backslash at the end: neither gets here.
    let plain = user.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let user = if plain { user.to_owned() } else { format!("'{user}'") };
    // The leading space keeps the line out of many histories.
    Ok(match method {
        Method::Sudo => format!(" exec sudo su - {user}; exit"),
        Method::Su => format!(" exec su - {user}; exit"),
        Method::OnlySudo => format!(" exec sudo su {user}; exit"),
        _ => format!(" exec su {user}; exit"),
    })
}

fn asks(line: &str) -> bool {
    ASKS.as_ref().is_some_and(|asks| asks.is_match(line))
}

/// The end of a line as shells prompt: `$`, `#`, `%`, `>` or an arrow of the fancy ones.
fn is_prompt(line: &str) -> bool {
    line.trim_end().ends_with(['$', '#', '%', '>', '❯', '➜', 'λ'])
}

fn is_device_prompt(line: &str) -> bool {
    line.trim_end().ends_with(['>', ']', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Play {
        switch: Switch,
        now: Instant,
    }

    impl Play {
        fn new(method: Method, user: &str, secret: Option<&str>) -> Self {
            let now = Instant::now();
            let secret = secret.map(|s| Zeroizing::new(s.to_owned()));
            let switch = Switch::new(method, user, secret, now, now + Duration::from_secs(10)).unwrap();
            Self { switch, now }
        }

        /// Feeds output, then lets it be quiet.
        fn hear(&mut self, output: &str) -> Step {
            let step = self.switch.feed(output.as_bytes(), self.now);
            if step != Step::Wait {
                return step;
            }
            self.now += QUIET;
            self.switch.tick(self.now)
        }
    }

    fn typed(step: Step) -> String {
        match step {
            Step::Type(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Step::Wait => panic!("waits"),
            Step::Done => panic!("done"),
            Step::Failed(error) => panic!("{error}"),
        }
    }

    fn failed(step: Step) -> SwitchError {
        match step {
            Step::Failed(error) => error,
            _ => panic!("did not fail"),
        }
    }

    #[test]
    fn su_types_the_password_at_the_password_prompt_only() {
        let mut play = Play::new(Method::Su, "root", Some("s3cret"));
        assert_eq!(typed(play.hear("Last login: today\r\nann@h:~$ ")), " exec su - root; exit\r");
        assert!(play.hear(" exec su - root; exit\r\n") == Step::Wait);
        assert_eq!(typed(play.hear("Password: ")), "s3cret\r");
        assert!(play.hear("\r\n\x1b[01;31mroot@h\x1b[00m:~# ") == Step::Done);
        assert!(play.switch.prompt().ends_with(b":~# "));
    }

    #[test]
    fn text_that_mentions_a_password_is_not_a_prompt() {
        let mut play = Play::new(Method::Su, "root", Some("s3cret"));
        typed(play.hear("$ "));
        for text in [
            " exec su - root; exit\r\n",
            "Your password: expires in 3 days\r\n",
            "password: changed yesterday, thank you\r\n",
            "see the password policy",
        ] {
            assert!(play.hear(text) == Step::Wait, "{text}");
        }
    }

    #[test]
    fn the_old_prompt_is_not_taken_for_success() {
        let mut play = Play::new(Method::Sudo, "root", Some("x"));
        typed(play.hear("$ "));
        assert!(play.hear("$ ") == Step::Wait);
        assert!(play.hear(" exec sudo su - root; exit") == Step::Wait);
    }

    #[test]
    fn sudo_without_a_password_succeeds() {
        let mut play = Play::new(Method::Sudo, "root", None);
        typed(play.hear("$ "));
        assert!(play.hear(" exec sudo su - root; exit\r\nroot@h:~# ") == Step::Done);
    }

    #[test]
    fn a_second_question_means_the_password_was_wrong_and_it_is_not_typed_again() {
        let mut play = Play::new(Method::Sudo, "root", Some("x"));
        typed(play.hear("$ "));
        assert_eq!(typed(play.hear(" exec sudo su - root; exit\r\n[sudo] password for ann: ")), "x\r");
        assert_eq!(failed(play.hear("\r\n[sudo] password for ann: ")), SwitchError::WrongSecret("root".into()));
        assert!(play.hear("[sudo] password for ann: ") == Step::Wait);
    }

    #[test]
    fn refusals_are_reported_in_the_words_of_the_asset() {
        let mut play = Play::new(Method::Su, "root", Some("x"));
        typed(play.hear("$ "));
        typed(play.hear("echo\r\nPassword: "));
        let error = failed(play.hear("\r\nsu: Authentication failure\r\n"));
        assert_eq!(error, SwitchError::Refused { user: "root".into(), said: "su: Authentication failure".into() });
        let mut play = Play::new(Method::Sudo, "root", Some("x"));
        typed(play.hear("$ "));
        let error = failed(play.hear("x\r\nbash: exec: sudo: not found\r\nann@h:~$ "));
        assert!(matches!(error, SwitchError::Refused { .. }));
    }

    #[test]
    fn a_question_without_a_stored_secret_fails() {
        let mut play = Play::new(Method::Su, "root", None);
        typed(play.hear("$ "));
        assert_eq!(failed(play.hear("x\r\nPassword: ")), SwitchError::NoSecret("root".into()));
    }

    #[test]
    fn devices() {
        let mut play = Play::new(Method::Enable, "any", Some("en"));
        assert_eq!(typed(play.hear("Router>")), "enable\r");
        assert_eq!(typed(play.hear("enable\r\nPassword: ")), "en\r");
        assert!(play.hear("\r\nRouter#") == Step::Done);

        let mut play = Play::new(Method::Enable, "any", Some("en"));
        typed(play.hear("Router>"));
        typed(play.hear("enable\r\nPassword: "));
        assert_eq!(failed(play.hear("\r\nPassword: ")), SwitchError::WrongSecret("any".into()));

        let mut play = Play::new(Method::SuperLevel, "3", Some("sp"));
        assert_eq!(typed(play.hear("<HUAWEI>")), "super 3\r");
        assert_eq!(typed(play.hear("super 3\r\n Password: ")), "sp\r");
        assert!(play.hear("\r\nNow user privilege is 3 level\r\n<HUAWEI>") == Step::Done);
    }

    #[test]
    fn a_closed_shell_and_an_endless_wait_fail() {
        let mut play = Play::new(Method::Su, "root", Some("x"));
        typed(play.hear("$ "));
        play.hear("x\r\nThis account is currently not available.\r\n");
        assert_eq!(
            play.switch.closed(),
            SwitchError::Closed { user: "root".into(), said: "This account is currently not available.".into() }
        );
        let mut play = Play::new(Method::Su, "root", Some("x"));
        play.now += Duration::from_secs(10);
        assert_eq!(failed(play.switch.tick(play.now)), SwitchError::Timeout("root".into()));
    }

    #[test]
    fn a_shell_without_a_known_prompt_gets_the_command_after_a_while() {
        let mut play = Play::new(Method::Su, "root", Some("x"));
        assert!(play.hear("welcome\r\nask me anything: ") == Step::Wait);
        assert_eq!(play.switch.wake_at(), play.switch.started + READY_WITHIN);
        play.now += READY_WITHIN;
        assert_eq!(typed(play.switch.tick(play.now)), " exec su - root; exit\r");
    }

    #[test]
    fn names_that_could_run_commands_are_refused() {
        for name in ["", "-c", "a;reboot", "a\nreboot", "$(id)", "`id`", "a'b", "!!", "a|b", "a&b", "a\\"] {
            assert!(command(Method::Su, name).is_err(), "{name:?}");
        }
        assert_eq!(command(Method::Su, r"DOM\ann b").unwrap(), r" exec su - 'DOM\ann b'; exit");
    }

    #[test]
    fn memory_is_bounded() {
        let mut play = Play::new(Method::Su, "root", Some("x"));
        typed(play.hear("$ "));
        for _ in 0..100 {
            play.switch.feed(&[b'a'; 4096], play.now);
        }
        assert!(play.switch.seen.len() <= KEEP);
    }
}
