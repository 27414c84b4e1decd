//! Real servers that play the assets.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Pty};

use crate::{free_port, wait_for};

/// The name of the user who runs the tests: sshd without root serves only its own user.
pub fn own_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name
}

pub fn ssh_keygen(kind: &str, path: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(status.success());
}

/// OpenSSH's sshd on a loopback port, with a host key and one authorized key of its own.
pub struct Sshd {
    pub port: u16,
    pub user: String,
    /// PEM of the key that opens it.
    pub private_key: String,
    pub private_key_file: PathBuf,
    pub dir: tempfile::TempDir,
    child: Child,
}

impl Sshd {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// `extra` is added to `sshd_config`.
    pub fn start_with(extra: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("gh-sshd-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        ssh_keygen("ed25519", &at("host_key"));
        ssh_keygen("ed25519", &at("id"));
        std::fs::copy(at("id.pub"), at("authorized_keys")).unwrap();
        let _ = std::fs::create_dir_all("/run/sshd");
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {keys}\nPidFile none\n\
             PasswordAuthentication no\nPubkeyAuthentication yes\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
             PermitUserEnvironment no\nMaxStartups 200\nMaxSessions 200\nAcceptEnv LANG LC_*\n\
             Subsystem sftp internal-sftp\n{extra}\n",
            host = at("host_key").display(),
            keys = at("authorized_keys").display(),
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        let child = spawn_sshd(dir.path());
        let me = Self {
            port,
            user: own_user(),
            private_key: std::fs::read_to_string(at("id")).unwrap(),
            private_key_file: at("id"),
            dir,
            child,
        };
        me.wait();
        me
    }

    fn wait(&self) {
        wait_for("sshd", Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// A new host key, as a replaced (or impersonated) machine would show.
    pub fn change_host_key(&mut self) {
        self.stop();
        for name in ["host_key", "host_key.pub"] {
            std::fs::remove_file(self.dir.path().join(name)).unwrap();
        }
        ssh_keygen("ed25519", &self.dir.path().join("host_key"));
        self.child = spawn_sshd(self.dir.path());
        self.wait();
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGKILL to the server and to every process that serves a connection, as when the machine loses power.
    pub fn cut(&mut self) {
        let mut doomed = vec![self.child.id()];
        let mut at = 0;
        while let Some(parent) = doomed.get(at) {
            doomed.extend(children_of(*parent));
            at += 1;
        }
        for pid in doomed {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        self.stop();
    }

    /// `ssh` straight to it, for comparison.
    pub fn direct(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(crate::world::SSH_OPTIONS)
            .args(["-p", &self.port.to_string(), "-o", "IdentitiesOnly=yes", "-i"])
            .arg(&self.private_key_file)
            .arg(format!("{}@127.0.0.1", self.user));
        ssh
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may contain anything: state, parent.
        let after = stat.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(1).is_some_and(|p| p == parent.to_string())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

fn spawn_sshd(dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("sshd.log")).unwrap();
    Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sshd is not installed: make test-deps")
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An SSH server that takes passwords, which a test's own sshd cannot be made to do without changing the machine's
/// accounts. A shell echoes what is typed and answers `USER heard LINE`; a command answers `USER ran COMMAND`.
pub struct PasswordPeer {
    pub port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl PasswordPeer {
    /// Accepts these pairs of user name and password.
    pub async fn start(accounts: &[(&str, &str)]) -> Self {
        let accounts: Vec<(String, String)> = accounts.iter().map(|(u, p)| ((*u).into(), (*p).into())).collect();
        let dir = tempfile::tempdir().unwrap();
        ssh_keygen("ed25519", &dir.path().join("key"));
        let pem = std::fs::read_to_string(dir.path().join("key")).unwrap();
        let config = Arc::new(server::Config {
            keys: vec![PrivateKey::from_openssh(pem).unwrap()],
            methods: MethodSet::from(&[MethodKind::Password][..]),
            auth_rejection_time: Duration::from_millis(10),
            ..server::Config::default()
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (config, visit) = (Arc::clone(&config), Visit { accounts: accounts.clone(), ..Visit::default() });
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, visit).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { port, task }
    }
}

impl Drop for PasswordPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Visit {
    accounts: Vec<(String, String)>,
    user: String,
    line: Vec<u8>,
}

impl server::Handler for Visit {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        if self.accounts.iter().any(|(u, p)| u == user && p == password) {
            user.clone_into(&mut self.user);
            return Ok(Auth::Accept);
        }
        Ok(Auth::reject())
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        session.data(channel, format!("{}@peer$ ", self.user).into_bytes())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        let text = format!("{} ran {}\n", self.user, String::from_utf8_lossy(command));
        session.data(channel, text.into_bytes())?;
        session.exit_status_request(channel, 0)?;
        session.eof(channel)?;
        session.close(channel)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        for byte in data {
            if !matches!(byte, b'\r' | b'\n' | 4) {
                self.line.push(*byte);
                session.data(channel, vec![*byte])?;
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            if line == "exit" || *byte == 4 {
                session.exit_status_request(channel, 0)?;
                return session.close(channel);
            }
            let text = format!("\r\n{} heard {line}\r\n{0}@peer$ ", self.user);
            session.data(channel, text.into_bytes())?;
        }
        Ok(())
    }
}

/// The real inetutils telnetd behind a listener that plays inetd. `login` is a script in the place of `/bin/login`, because
/// the machine's accounts are not a test's to change: it knows one user and becomes an interactive bash.
pub struct Telnetd {
    pub port: u16,
    stop: Arc<std::sync::atomic::AtomicBool>,
    _dir: tempfile::TempDir,
}

impl Telnetd {
    pub fn start(user: &str, password: &str) -> Self {
        use std::os::fd::OwnedFd;
        let dir = tempfile::Builder::new().prefix("gh-telnetd-").tempdir().unwrap();
        let script = dir.path().join("login");
        write_script(
            &script,
            &format!(
                "#!/bin/bash\nfor try in 1 2; do\n  read -rp 'unit login: ' name\n  read -rsp 'Password: ' secret\n  echo\n  \
                 if [ \"$name:$secret\" = '{user}:{password}' ]; then\n    echo 'Last login: Monday'\n    \
                 export PS1='unit$ '; exec bash --norc --noprofile -i\n  fi\n  sleep 0.3\n  echo 'Login incorrect'\ndone\n"
            ),
        );
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let (input, output) = (OwnedFd::from(stream.try_clone().unwrap()), OwnedFd::from(stream));
                let mut child = Command::new("/usr/sbin/telnetd")
                    .arg(format!("--exec-login={}", script.display()))
                    .stdin(Stdio::from(input))
                    .stdout(Stdio::from(output))
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("telnetd is not installed: make test-deps");
                std::thread::spawn(move || child.wait());
            }
        });
        Self { port, stop, _dir: dir }
    }
}

impl Drop for Telnetd {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // Wakes the listener.
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
    }
}

pub fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
