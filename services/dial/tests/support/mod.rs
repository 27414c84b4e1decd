//! Real peers for the tests: OpenSSH's sshd with throw-away keys on a free loopback port, and small asset impostors.
//!
//! Nothing here asserts anything about the crate.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gatehouse_dial::{
    Auth, DialContext, DialError, Hop, HostKey, HostKeyVerdict, HostKeys, Route, SshLogin, SshPeer, Timeouts,
};
use zeroize::Zeroizing;

/// Creates a key pair with ssh-keygen, as an administrator would; `args` are its options, e.g. `-t ed25519`.
pub(crate) fn keygen(path: &Path, args: &[&str]) {
    let ok = Command::new("ssh-keygen").arg("-q").args(args).arg("-f").arg(path).status().unwrap().success();
    assert!(ok, "ssh-keygen {args:?}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The account that the tests run as; sshd lets it in by key.
pub(crate) fn me() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name
}

/// OpenSSH's sshd, killed when dropped.
pub(crate) struct Sshd {
    pub(crate) port: u16,
    pub(crate) dir: tempfile::TempDir,
    child: Child,
}

impl Sshd {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// `extra` is appended to sshd_config.
    pub(crate) fn with(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let p = |name: &str| dir.path().join(name);
        keygen(&p("host_ed25519"), &["-t", "ed25519", "-N", ""]);
        keygen(&p("host_rsa"), &["-t", "rsa", "-b", "2048", "-N", ""]);
        keygen(&p("user"), &["-t", "ed25519", "-N", ""]);
        keygen(&p("user_rsa"), &["-t", "rsa", "-b", "2048", "-N", ""]);
        let mut keys = fs::read_to_string(p("user.pub")).unwrap();
        keys.push_str(&fs::read_to_string(p("user_rsa.pub")).unwrap());
        fs::write(p("authorized_keys"), keys).unwrap();
        fs::set_permissions(p("authorized_keys"), fs::Permissions::from_mode(0o600)).unwrap();
        // sshd refuses to start without its privilege separation directory, which a container may lack.
        let _ = fs::create_dir_all("/run/sshd");
        let port = free_port();
        let d = dir.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {d}/host_ed25519\nHostKey {d}/host_rsa\n\
             AuthorizedKeysFile {d}/authorized_keys\nPidFile {d}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n\
             MaxStartups 100\nLogLevel ERROR\nPrintMotd no\n{extra}\n"
        );
        fs::write(p("sshd_config"), config).unwrap();
        let log = fs::File::create(p("log")).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(p("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let sshd = Self { port, dir, child };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "sshd: {}", fs::read_to_string(sshd.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
        sshd
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn route(&self) -> Route {
        Route::direct("127.0.0.1", self.port)
    }

    pub(crate) fn login(&self) -> SshLogin {
        login(vec![key(&self.path("user"))])
    }

    /// This sshd as a gateway of a zone.
    pub(crate) fn hop(&self, name: &str) -> Arc<Hop> {
        Arc::new(Hop { name: name.into(), address: "127.0.0.1".into(), port: self.port, login: self.login() })
    }

    /// SHA256 fingerprint of a host key, from ssh-keygen.
    pub(crate) fn fingerprint(&self, name: &str) -> String {
        let out = Command::new("ssh-keygen").args(["-l", "-E", "sha256", "-f"]).arg(self.path(name)).output().unwrap();
        String::from_utf8(out.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    pub(crate) async fn dial(&self) -> SshPeer {
        gatehouse_dial::ssh(&self.route(), &self.login(), &context()).await.unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn login(auth: Vec<Auth>) -> SshLogin {
    SshLogin { username: me(), auth, legacy: false }
}

pub(crate) fn key(path: &Path) -> Auth {
    Auth::Key { pem: Zeroizing::new(fs::read_to_string(path).unwrap()), passphrase: None }
}

pub(crate) fn password(secret: &str) -> Auth {
    Auth::Password(Zeroizing::new(secret.to_owned()))
}

/// Host keys in memory, as the store would keep them.
#[derive(Default)]
pub(crate) struct Pins(pub(crate) Mutex<Vec<(String, u16, HostKey)>>);

#[async_trait]
impl HostKeys for Pins {
    async fn check(&self, host: &str, port: u16, key: &HostKey) -> HostKeyVerdict {
        let mut pins = self.0.lock().unwrap();
        match pins.iter().find(|(h, p, _)| h == host && *p == port) {
            Some((_, _, pinned)) if pinned == key => HostKeyVerdict::Known,
            Some((_, _, pinned)) => HostKeyVerdict::Changed { expected: pinned.sha256.clone() },
            None => {
                pins.push((host.to_owned(), port, key.clone()));
                HostKeyVerdict::PinnedNow
            }
        }
    }

    async fn pinned_algorithms(&self, host: &str, port: u16) -> Vec<String> {
        let pins = self.0.lock().unwrap();
        pins.iter().filter(|(h, p, _)| h == host && *p == port).map(|(_, _, k)| k.algorithm.clone()).collect()
    }
}

pub(crate) fn context() -> DialContext {
    with_pins(Arc::new(Pins::default()))
}

pub(crate) fn with_pins(pins: Arc<Pins>) -> DialContext {
    let mut ctx = DialContext::new(pins);
    // Long enough for a busy machine, short enough for a test that waits for one.
    let each = Duration::from_secs(10);
    ctx.timeouts = Timeouts { tcp: each, handshake: each, auth: each, request: each };
    ctx
}

/// The error, for results whose value has no `Debug` on purpose.
pub(crate) fn error_of<T>(result: Result<T, DialError>) -> DialError {
    match result {
        Ok(_) => panic!("should have failed"),
        Err(error) => error,
    }
}

/// Resident memory of this process, bytes.
pub(crate) fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Bytes that do not compress or repeat in step with any buffer size.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}
