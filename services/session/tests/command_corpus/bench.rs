//! The gateway in small: a pseudo-terminal, a tracker, a rule that forbids the word `forbidden`, and the oracles.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use gatehouse_session::command::{Finished, Observed, Options, Tracker, split};

/// What the user does, and what is waited for.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Keys, then until the asset is silent.
    Keys(String),
    /// Keys, then until the prompt is back.
    Line(String),
    /// Keys, then until the text was seen.
    Until(String, &'static str),
    /// Keys until their Enter is accepted, then until the prompt is back.
    Insist(String),
    /// Keys without waiting.
    Now(String),
    Resize(u16, u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Dash,
    Busybox,
    Python,
    /// A script on Python's readline with the prompts `mysql> ` and `    -> `, not the client of MySQL.
    MysqlLike,
}

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) shell: Shell,
    /// Added to the shell's start-up file.
    pub(crate) rc: &'static str,
    pub(crate) size: (u16, u16),
    pub(crate) steps: Vec<Step>,
    /// Compare the commands that start with `rec` with its log, instead of history.
    pub(crate) by_log: bool,
    /// Compare lines instead of commands: the history has those.
    pub(crate) by_lines: bool,
    /// Texts that no record may contain.
    pub(crate) never: Vec<&'static str>,
    /// How many Enters the rule refuses; at least, where [`Step::Insist`] is used.
    pub(crate) refused: usize,
    /// Some command is expected to run without a judged Enter.
    pub(crate) unjudged: bool,
    /// Text that the recorded output of the first command must contain.
    pub(crate) output: Option<&'static str>,
}

const PROMPT: &str = "h$ ";
const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(150);

pub(crate) fn require_programs() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = ["bash", "zsh", "dash", "busybox", "tmux", "vim", "less", "python3", "setsid"]
        .into_iter()
        .filter(|name| !std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
        .collect();
    assert!(
        missing.is_empty(),
        "the command corpus drives real programs; install the missing ones: apt-get install bash zsh dash busybox tmux vim \
         less python3 util-linux (missing: {})",
        missing.join(" ")
    );
}

struct Bench {
    tracker: Tracker,
    keys: File,
    output: Receiver<Vec<u8>>,
    raw: Vec<u8>,
    finished: Vec<Finished>,
    next_id: u64,
    refused: usize,
    last_output: Instant,
    ended: bool,
}

impl Bench {
    /// Feed output for at most `wait`; false when the asset is gone.
    fn pump(&mut self, wait: Duration) -> bool {
        match self.output.recv_timeout(wait) {
            Ok(bytes) => {
                self.raw.extend_from_slice(&bytes);
                self.last_output = Instant::now();
                let seen = self.tracker.output(&bytes, Instant::now());
                self.note(seen);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                return false;
            }
        }
        if self.tracker.deadline().is_some_and(|at| at <= Instant::now()) {
            let seen = self.tracker.poll(Instant::now());
            self.note(seen);
        }
        true
    }

    fn note(&mut self, seen: Vec<Observed>) {
        for event in seen {
            if let Observed::Finished(finished) = event {
                self.finished.push(finished);
            }
        }
    }

    fn send(&mut self, keys: &[u8]) {
        let mut rest = keys;
        while !rest.is_empty() && !self.ended {
            let step = self.tracker.input(rest, Instant::now());
            let (now, later) = rest.split_at(step.forward);
            self.keys.write_all(now).ok();
            rest = later;
            let Some(held) = step.gate else { continue };
            while let Some(wait) = self.tracker.needs_settle(Instant::now()) {
                if !self.pump(wait) {
                    return;
                }
            }
            let (enter, later) = rest.split_at(held);
            rest = later;
            let candidate = self.tracker.candidate().expect("an Enter is held");
            let forbidden = candidate
                .texts()
                .flat_map(|text| std::iter::once(text).chain(split(text)))
                .any(|part| part.split_whitespace().any(|word| word == "forbidden"));
            if forbidden {
                self.refused += 1;
                self.silence(Options::default().quiet);
                let clear = self.tracker.reject(Instant::now());
                self.keys.write_all(clear).ok();
                return;
            } else {
                self.next_id += 1;
                let (_, seen) = self.tracker.commit(self.next_id, Instant::now());
                self.note(seen);
                self.keys.write_all(enter).ok();
            }
        }
    }

    fn until(&mut self, from: usize, text: &str) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while memchr::memmem::find(&self.raw[from.min(self.raw.len())..], text.as_bytes()).is_none() {
            if Instant::now() > end || !self.pump(Duration::from_millis(20)) {
                return Err(format!("waited in vain for {text:?}\n{}", self.tail()));
            }
        }
        self.silence(Duration::from_millis(60));
        Ok(())
    }

    fn silence(&mut self, length: Duration) {
        let start = Instant::now();
        loop {
            let quiet_since = self.last_output.max(start);
            let Some(left) = length.checked_sub(quiet_since.elapsed()) else { return };
            if !self.pump(left.max(Duration::from_millis(1))) || start.elapsed() > PATIENCE {
                return;
            }
        }
    }

    fn tail(&self) -> String {
        let from = self.raw.len().saturating_sub(1500);
        format!("last bytes: {}", self.raw[from..].escape_ascii())
    }
}

/// Ends what a case started, also when it fails.
struct Started(Child, std::path::PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        let server = std::fs::read_dir(&self.1).is_ok_and(|mut dir| {
            dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("tmux-")))
        });
        if server {
            let mut kill = Command::new("tmux");
            kill.arg("kill-server").env("TMUX_TMPDIR", &self.1).env_remove("TMUX");
            kill.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
        }
    }
}

pub(crate) fn run(case: &Case) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let (master, slave) = terminal(case.size);
    let mut started = Started(start(case, dir.path(), slave), dir.path().to_owned());
    let (to_bench, output) = channel();
    let mut reader = File::from(master.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            if to_bench.send(chunk[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    // More patient than a gateway: many shells at once on a busy machine answer late.
    let options =
        Options { quiet: Duration::from_millis(50), max_settle: Duration::from_secs(2), ..Options::default() };
    let mut bench = Bench {
        tracker: Tracker::new(case.size.0, case.size.1, options),
        keys: File::from(master),
        output,
        raw: Vec::new(),
        finished: Vec::new(),
        next_id: 0,
        refused: 0,
        last_output: Instant::now(),
        ended: false,
    };
    bench.until(0, prompt(case.shell))?;
    for step in &case.steps {
        let from = bench.raw.len();
        match step {
            Step::Keys(keys) => {
                bench.send(keys.as_bytes());
                bench.silence(SILENCE);
            }
            Step::Line(keys) => {
                bench.send(keys.as_bytes());
                bench.until(from, prompt(case.shell))?;
            }
            Step::Until(keys, text) => {
                bench.send(keys.as_bytes());
                bench.until(from, text)?;
            }
            Step::Insist(keys) => {
                for _ in 0..3 {
                    let refused = bench.refused;
                    bench.send(keys.as_bytes());
                    if bench.refused == refused {
                        break;
                    }
                    bench.silence(SILENCE);
                }
                bench.until(from, prompt(case.shell))?;
            }
            Step::Now(keys) => bench.send(keys.as_bytes()),
            Step::Resize(cols, rows) => {
                resize(bench.keys.as_fd(), (*cols, *rows));
                bench.tracker.resize(*cols, *rows);
                bench.silence(SILENCE);
            }
        }
    }
    let leave = if case.shell == Shell::Python || case.shell == Shell::MysqlLike { "exit()\r" } else { "exit\r" };
    bench.send(leave.as_bytes());
    let end = Instant::now() + PATIENCE;
    while bench.pump(Duration::from_millis(50)) {
        if started.0.try_wait().ok().flatten().is_some() && bench.last_output.elapsed() > Duration::from_millis(200) {
            break;
        }
        if Instant::now() > end {
            return Err(format!("the shell did not end\n{}", bench.tail()));
        }
    }
    let seen = bench.tracker.close();
    bench.note(seen);
    check(case, dir.path(), &bench).map_err(|why| format!("{why}\n{}", bench.tail()))
}

fn check(case: &Case, dir: &Path, bench: &Bench) -> Result<(), String> {
    let recorded: Vec<String> = bench.finished.iter().map(|finished| words(&finished.text)).collect();
    let (mut have, mut want) = (recorded.clone(), oracle(case, dir));
    if case.by_log {
        have.retain(|text| text.starts_with("rec "));
    }
    if case.by_lines && !case.by_log {
        have = bench.finished.iter().flat_map(|finished| finished.text.split('\n').map(words)).collect();
        have.retain(|line| !line.is_empty());
        want.retain(|line| !line.is_empty());
    }
    if have != want {
        return Err(format!("recorded {have:#?}\nbut ran  {want:#?}\nall {:#?}", bench.finished));
    }
    if let Some(text) = recorded.iter().find(|text| case.never.iter().any(|never| text.contains(never))) {
        return Err(format!("{text:?} must not be in the record"));
    }
    let insists = case.steps.iter().any(|step| matches!(step, Step::Insist(_)));
    if bench.refused != case.refused && !(insists && bench.refused > case.refused) {
        return Err(format!("{} refused instead of {}; recorded {recorded:#?}", bench.refused, case.refused));
    }
    if let Some(finished) = bench.finished.iter().find(|finished| finished.unjudged && !case.unjudged) {
        return Err(format!("ran without being judged: {finished:#?}"));
    }
    let log = std::fs::read_to_string(dir.join("rec.log")).unwrap_or_default();
    if log.contains("forbidden") {
        return Err(format!("a forbidden command ran: {log}"));
    }
    if let Some(text) = case.output {
        let first = bench.finished.first().ok_or("nothing was recorded")?;
        if !first.output.contains(text) || first.output.contains(PROMPT) {
            return Err(format!("output {:?} is not what was shown", first.output));
        }
    }
    Ok(())
}

/// Blanks do not matter to a shell, and a screen cannot tell them apart; a backslash joins lines.
fn words(text: &str) -> String {
    text.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn oracle(case: &Case, dir: &Path) -> Vec<String> {
    if case.by_log {
        let log = std::fs::read_to_string(dir.join("rec.log")).unwrap_or_default();
        return log.lines().map(|line| words(&format!("rec {line}"))).collect();
    }
    let text = std::fs::read_to_string(dir.join("oracle")).unwrap_or_default();
    match case.shell {
        // With HISTTIMEFORMAT a line with the time stands before each entry.
        Shell::Bash => {
            let mut entries = Vec::new();
            for line in text.lines() {
                let time = line
                    .strip_prefix('#')
                    .is_some_and(|time| time.len() == 10 && time.bytes().all(|b| b.is_ascii_digit()));
                match entries.last_mut() {
                    _ if time => entries.push(String::new()),
                    Some(entry) => *entry = format!("{entry}\n{line}"),
                    None => {}
                }
            }
            let before = std::fs::read_to_string(dir.join("before")).unwrap_or_default().lines().count();
            entries.iter().skip(before / 2).map(|entry| words(entry)).collect()
        }
        Shell::Python => text.lines().map(words).collect(),
        _ => text.split('\0').filter(|entry| !entry.is_empty()).map(words).collect(),
    }
}

fn prompt(shell: Shell) -> &'static str {
    match shell {
        Shell::Python => ">>> ",
        Shell::MysqlLike => "mysql> ",
        _ => PROMPT,
    }
}

fn terminal((cols, rows): (u16, u16)) -> (OwnedFd, OwnedFd) {
    let size = nix::pty::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(Some(&size), None).unwrap();
    for fd in [&pair.master, &pair.slave] {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).unwrap();
    }
    (pair.master, pair.slave)
}

/// The size is set by `stty` on the terminal: the system call needs code that is not allowed here.
fn resize(terminal: std::os::fd::BorrowedFd<'_>, (cols, rows): (u16, u16)) {
    let stdin = Stdio::from(terminal.try_clone_to_owned().unwrap());
    let status =
        Command::new("stty").args(["cols", &cols.to_string(), "rows", &rows.to_string()]).stdin(stdin).status();
    assert!(status.unwrap().success());
}

const REC: &str = "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"$REC_LOG\"\n";

const MYSQL_LIKE: &str = r#"
import os, readline, sys
log = open(os.environ["ORACLE"], "a")
while True:
    text, ask = "", "mysql> "
    while True:
        try:
            line = input(ask)
        except KeyboardInterrupt:
            print("^C"); text, ask = "", "mysql> "; continue
        except EOFError:
            sys.exit()
        if not text and line == "exit()":
            log.write(line + "\0"); sys.exit()
        if not (text or line): continue
        text = text + "\n" + line if text else line
        if line.rstrip().endswith(";"): break
        ask = "    -> "
    log.write(text + "\0"); log.flush()
    print("Query OK, 0 rows affected (0.00 sec)\n")
"#;

fn start(case: &Case, dir: &Path, slave: OwnedFd) -> Child {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    std::fs::create_dir(dir.join("bin")).unwrap();
    let rec = file("bin/rec", REC);
    std::fs::set_permissions(&rec, std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["alpha-file.txt", "beta-one.log", "beta-two.log", "forbidden"] {
        file(name, "content\n");
    }
    let before = "#1000000000\nrec forbidden old\n#1000000001\nrec allowed old\n";
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]);
    match case.shell {
        Shell::Bash => {
            file("oracle", before);
            file("before", before);
            let rc = format!(
                "PS1='{PROMPT}'; HISTFILE=$ORACLE; HISTTIMEFORMAT='%s '; HISTSIZE=1000; unset HISTCONTROL\n\
                 shopt -s cmdhist lithist\n{}\n",
                case.rc
            );
            command.args(["bash", "--noprofile", "--rcfile"]).arg(file("rc", &rc)).arg("-i");
        }
        Shell::Zsh => {
            let rc = format!(
                "PS1='{PROMPT}'; PS2='%_> '; HISTSIZE=1000; unsetopt PROMPT_SP\nbindkey -e\n\
                 print -s 'rec forbidden old'; print -s 'rec allowed old'\n\
                 preexec() {{ printf '%s\\0' \"$1\" >> $ORACLE }}\n{}\n",
                case.rc
            );
            file(".zshrc", &rc);
            command.args(["zsh", "-d", "-i"]);
        }
        Shell::Dash => {
            command.args(["dash", "-i"]).env("ENV", file("rc", case.rc));
        }
        Shell::Busybox => {
            command.args(["busybox", "sh", "-i"]).env("ENV", file("rc", case.rc));
        }
        Shell::Python => {
            let rc = "import atexit, os, readline\n\
                      atexit.register(lambda: readline.write_history_file(os.environ['ORACLE']))\n";
            command.args(["python3", "-q"]).env("PYTHONSTARTUP", file("rc.py", rc));
        }
        Shell::MysqlLike => {
            command.arg("python3").arg(file("mysql-like.py", MYSQL_LIKE));
        }
    }
    let path = std::env::join_paths(
        std::iter::once(dir.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    command
        .current_dir(dir)
        .env("PATH", path.unwrap())
        .env("HOME", dir)
        .env("ZDOTDIR", dir)
        .env("ORACLE", dir.join("oracle"))
        .env("REC_LOG", dir.join("rec.log"))
        .env("PS1", PROMPT)
        .env("PS2", "> ")
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .env("INPUTRC", "/dev/null")
        .env("TMUX_TMPDIR", dir)
        .env("SHELL", "/bin/bash")
        .env_remove("TMUX")
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::from(slave));
    command.spawn().unwrap()
}
