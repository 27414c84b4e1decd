//! The stage for end-to-end tests and benchmarks: a real Gatehouse, real servers, real clients, all on loopback ports of
//! their own and in temporary directories. What lives here starts and stops things and asks the API; assertions live in
//! the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stage that cannot be set up should stop the test with a message"
)]

pub mod api;
pub mod askpass;
pub mod interactive;
pub mod peers;
pub mod world;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Use this program instead of the one beside the tests.
pub fn set_binary(path: PathBuf) {
    assert!(BINARY.set(path).is_ok(), "the program under test is chosen already");
}

/// The program under test: beside the test binary's directory, where `cargo build -p gatehouse` puts it.
pub fn gatehouse_binary() -> PathBuf {
    if let Some(path) = BINARY.get() {
        return path.clone();
    }
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().map(|d| d.join("gatehouse")).find(|p| p.is_file());
    path.expect("the gatehouse binary is not built: run `cargo build -p gatehouse` first (make test does)")
}

/// The Python of the environment with the foreign clients (paramiko, ansible, httpsig), which `make test` prepares.
pub fn python() -> PathBuf {
    std::env::var_os("GATEHOUSE_TEST_PYTHON").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/gatehouse/venv/bin/python"),
        PathBuf::from,
    )
}

/// Waits until `probe` answers, at most `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

/// Runs a command to its end, feeding it `input`; it is killed and the test fails after `limit`.
pub fn run_limited(command: &mut std::process::Command, input: &[u8], limit: Duration) -> Output {
    use std::io::{Read, Write};
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let input = input.to_vec();
    let feed = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let read_out = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = out.read_to_end(&mut all);
        all
    });
    let read_err = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = err.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    });
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let _ = feed.join();
    let output = Output {
        code: status.and_then(|s| s.code()),
        stdout: read_out.join().unwrap(),
        stderr: read_err.join().unwrap(),
    };
    assert!(status.is_some(), "{command:?} did not end within {limit:?}: {output:?}");
    output
}
