//! The SSH door against OpenSSH: direct, and through another sshd as ProxyJump.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatehouse_tests::peers::{Sshd, ssh_keygen};
use gatehouse_tests::world::{SSH_OPTIONS, USER_PASSWORD, World};
use russh::client;
use serde_json::json;

use crate::figures::{Better, Report, cpu_seconds, median, quantile, rss_kib};

const MIB: usize = 1 << 20;
const BULK: usize = 512 * MIB;

pub(crate) struct Stage {
    world: World,
    target: Sshd,
    jump: Sshd,
    /// The user's own key, registered at the gateway.
    key: PathBuf,
    /// Text that compresses like a busy terminal, not like zeroes.
    bulk: PathBuf,
    dir: tempfile::TempDir,
    login: String,
}

struct Accept;

impl client::Handler for Accept {
    type Error = russh::Error;
    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let world = World::start().await;
        let limits = "MaxStartups 3000\nMaxSessions 3000\nAllowTcpForwarding yes\n";
        let (target, jump) = (Sshd::start_with(limits), Sshd::start_with(limits));
        let (asset, _) = world.add_host("web1", &target).await;
        let user = world.add_user("alice").await;
        world.grant(&user, &asset).await;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("id");
        ssh_keygen("ed25519", &key);
        let public = std::fs::read_to_string(dir.path().join("id.pub")).unwrap();
        let alice = gatehouse_tests::api::Api::login(&world.base(), "alice", USER_PASSWORD).await;
        alice.post("authentication/ssh-key/", json!({"name": "bench", "public_key": public.trim()})).await;
        let bulk = dir.path().join("bulk");
        write_bulk(&bulk);
        let login = format!("alice@{}@web1", target.user);
        Self { world, target, jump, key, bulk, dir, login }
    }

    fn direct(&self, extra: &[&str]) -> Command {
        let mut ssh = self.target.direct();
        ssh.args(extra);
        ssh
    }

    fn jumped(&self) -> Command {
        let proxy = format!(
            "ssh {} -o IdentitiesOnly=yes -i {} -p {} -W %h:%p {}@127.0.0.1",
            SSH_OPTIONS.join(" "),
            self.jump.private_key_file.display(),
            self.jump.port,
            self.jump.user
        );
        let mut ssh = Command::new("ssh");
        ssh.args(SSH_OPTIONS)
            .args(["-o", &format!("ProxyCommand={proxy}"), "-o", "IdentitiesOnly=yes", "-i"])
            .arg(&self.target.private_key_file)
            .args(["-p", &self.target.port.to_string(), &format!("{}@127.0.0.1", self.target.user)]);
        ssh
    }

    pub(crate) fn pid(&self) -> u32 {
        self.world.pid()
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn bulk(&self) -> PathBuf {
        self.bulk.clone()
    }

    /// `sftp` that reads its script from standard input.
    pub(crate) fn gateway_sftp(&self) -> Command {
        let mut sftp = Command::new("sftp");
        sftp.args(SSH_OPTIONS).args(["-o", "IdentitiesOnly=yes", "-i"]).arg(&self.key);
        sftp.args(["-P", &self.world.ssh.to_string(), "-b", "-", "-o", &format!("User={}", self.login), "127.0.0.1"]);
        sftp
    }

    pub(crate) fn gateway(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(SSH_OPTIONS).args(["-o", "IdentitiesOnly=yes", "-i"]).arg(&self.key).args([
            "-p",
            &self.world.ssh.to_string(),
            "-l",
            &self.login,
            "127.0.0.1",
        ]);
        ssh
    }

    /// Seconds to push (`up`) or pull the bulk file.
    fn transfer(&self, mut ssh: Command, up: bool) -> f64 {
        let begin = Instant::now();
        let status = if up {
            ssh.arg("cat >/dev/null").stdin(File::open(&self.bulk).unwrap()).stdout(Stdio::null()).status()
        } else {
            ssh.arg(format!("cat {}", self.bulk.display())).stdin(Stdio::null()).stdout(Stdio::null()).status()
        };
        assert!(status.unwrap().success());
        begin.elapsed().as_secs_f64()
    }

    pub(crate) fn throughput(&self, report: &mut Report) {
        for (up, name) in [(false, "down"), (true, "up")] {
            let (mut gateway, mut jump, mut speed) = (Vec::new(), Vec::new(), Vec::new());
            let cpu = cpu_seconds(self.world.pid());
            for round in 0..6 {
                let direct = self.transfer(self.direct(&[]), up);
                let through = self.transfer(self.gateway(), up);
                let jumped = self.transfer(self.jumped(), up);
                if round > 0 {
                    gateway.push(direct / through);
                    jump.push(direct / jumped);
                    speed.push(BULK as f64 / MIB as f64 / direct);
                }
            }
            let cpu = (cpu_seconds(self.world.pid()) - cpu) / 6.0 * 2.0;
            report.judge(
                &format!("throughput {name}, recorded: gateway / direct"),
                median(&mut gateway),
                "x",
                0.9,
                Better::Higher,
            );
            report.note(&format!("throughput {name}: ProxyJump / direct"), median(&mut jump), "x");
            report.note(&format!("throughput {name}: direct"), median(&mut speed), "MiB/s");
            report.judge(&format!("CPU of the gateway per GiB recorded, {name}"), cpu, "s", 2.0, Better::Lower);
        }
    }

    fn login_time(&self, mut ssh: Command) -> f64 {
        let begin = Instant::now();
        assert!(ssh.arg("true").stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());
        begin.elapsed().as_secs_f64()
    }

    pub(crate) fn connect(&self, report: &mut Report) {
        let kex = ["-o", "KexAlgorithms=curve25519-sha256", "-o", "Ciphers=aes256-gcm@openssh.com"];
        let (mut default, mut same, mut jump) = (Vec::new(), Vec::new(), Vec::new());
        let cpu = cpu_seconds(self.world.pid());
        for round in 0..31 {
            let direct = self.login_time(self.direct(&[]));
            let direct_same = self.login_time(self.direct(&kex));
            let through = self.login_time(self.gateway());
            let through_same = {
                let mut ssh = Command::new("ssh");
                ssh.args(kex).args(self.gateway().get_args());
                self.login_time(ssh)
            };
            let jumped = self.login_time(self.jumped());
            if round > 0 {
                default.push(through / direct);
                same.push(through_same / direct_same);
                jump.push(jumped / direct);
            }
        }
        let cpu = (cpu_seconds(self.world.pid()) - cpu) / 62.0 * 1000.0;
        report.judge(
            "connect + auth + true: gateway / direct, defaults",
            median(&mut default),
            "x",
            0.75,
            Better::Lower,
        );
        report.judge("connect + auth + true: gateway / direct, same kex", median(&mut same), "x", 0.95, Better::Lower);
        report.note("connect + auth + true: ProxyJump / direct", median(&mut jump), "x");
        report.judge("CPU per login", cpu, "ms", 10.0, Better::Lower);
    }

    /// Milliseconds from a key to its echo, 400 times, through a terminal running `cat`.
    fn echo_times(&self, mut ssh: Command) -> Vec<f64> {
        let mut child = ssh
            .args(["-tt", "stty -icanon; printf ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        while !seen.windows(5).any(|w| w == b"ready") {
            let n = stdout.read(&mut buffer).unwrap();
            assert!(n > 0, "the terminal closed early");
            seen.extend_from_slice(&buffer[..n]);
        }
        std::thread::sleep(Duration::from_millis(300));
        let mut times = Vec::new();
        for n in 0..450 {
            let begin = Instant::now();
            stdin.write_all(b"x").unwrap();
            // The terminal echoes it and cat repeats it: wait for the first of the two.
            let _ = stdout.read(&mut buffer).unwrap();
            if n >= 50 {
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            std::thread::sleep(Duration::from_millis(8));
            if n == 0 {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        times
    }

    pub(crate) async fn echo(&self, report: &mut Report) {
        let (mut p50, mut p99, mut jump50) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            let (mut direct, mut through, mut jumped) =
                (self.echo_times(self.direct(&[])), self.echo_times(self.gateway()), self.echo_times(self.jumped()));
            p50.push(median(&mut through) / median(&mut direct));
            p99.push(quantile(&mut through, 0.99) / quantile(&mut direct, 0.99));
            jump50.push(median(&mut jumped) / median(&mut direct));
        }
        report.judge("keystroke echo p50, recorded: gateway / direct", median(&mut p50), "x", 1.6, Better::Lower);
        report.judge("keystroke echo p99, recorded: gateway / direct", median(&mut p99), "x", 1.8, Better::Lower);
        report.note("keystroke echo p50: ProxyJump / direct", median(&mut jump50), "x");
    }

    pub(crate) fn sftp(&self, report: &mut Report) {
        let remote = tempfile::Builder::new().prefix("gh-bench-").tempdir_in("/tmp").unwrap();
        let name = remote.path().file_name().unwrap().to_str().unwrap().to_owned();
        std::fs::copy(&self.bulk, remote.path().join("big")).unwrap();
        let run = |mut sftp: Command, script: String| {
            let begin = Instant::now();
            let mut child = sftp.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
            begin.elapsed().as_secs_f64()
        };
        let local = self.dir.path().join("copy");
        for up in [false, true] {
            let mut ratios = Vec::new();
            for round in 0..4 {
                let script = |root: &str| {
                    if up {
                        format!("put {} {root}{name}/up\n", self.bulk.display())
                    } else {
                        format!("get {root}{name}/big {}\n", local.display())
                    }
                };
                let mut direct = Command::new("sftp");
                direct.args(SSH_OPTIONS).args(["-o", "IdentitiesOnly=yes", "-i"]).arg(&self.target.private_key_file);
                direct.args([
                    "-P",
                    &self.target.port.to_string(),
                    "-b",
                    "-",
                    &format!("{}@127.0.0.1", self.target.user),
                ]);
                let (direct, through) = (run(direct, script("/tmp/")), run(self.gateway_sftp(), script("/")));
                if round > 0 {
                    ratios.push(direct / through);
                }
            }
            let what = if up { "put" } else { "get" };
            report.judge(
                &format!("SFTP {what}, audited with SHA-256: gateway / direct"),
                median(&mut ratios),
                "x",
                0.8,
                Better::Higher,
            );
        }
    }

    /// Memory that a receiver which never reads costs, in each direction.
    pub(crate) fn stall(&self, report: &mut Report) {
        for (up, name) in
            [(true, "towards a target that does not read"), (false, "towards a client that does not read")]
        {
            let before = rss_kib(self.world.pid());
            let mut ssh = self.gateway();
            let mut child = if up {
                ssh.arg("exec sleep 30").stdin(File::open(&self.bulk).unwrap()).stdout(Stdio::null()).spawn().unwrap()
            } else {
                ssh.arg(format!("cat {}", self.bulk.display()))
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            };
            let mut peak: f64 = 0.0;
            for _ in 0..80 {
                std::thread::sleep(Duration::from_millis(100));
                peak = peak.max(rss_kib(self.world.pid()));
            }
            let _ = child.kill();
            let _ = child.wait();
            report.judge(&format!("memory, 512 MiB {name}"), (peak - before) / 1024.0, "MiB", 4.0, Better::Lower);
        }
    }

    /// Memory and CPU of sessions in which nothing happens, each a terminal of its own connection.
    pub(crate) async fn idle(&self, report: &mut Report) {
        let config = Arc::new(client::Config { nodelay: true, inactivity_timeout: None, ..Default::default() });
        let key = russh::keys::load_secret_key(&self.key, None).unwrap();
        let key = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(key), None);
        let mut open = Vec::new();
        let first = self.idle_session(&config, &key).await;
        open.push(first);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let base = rss_kib(self.world.pid());
        for goal in [100_usize, 300, 1000] {
            while open.len() < goal + 1 {
                open.push(self.idle_session(&config, &key).await);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            let per_session = (rss_kib(self.world.pid()) - base) / goal as f64;
            report.judge(
                &format!("memory per idle recorded session, {goal} sessions"),
                per_session,
                "KiB",
                96.0,
                Better::Lower,
            );
            if goal == 300 {
                let (cpu, begin) = (cpu_seconds(self.world.pid()), Instant::now());
                tokio::time::sleep(Duration::from_secs(20)).await;
                let share = (cpu_seconds(self.world.pid()) - cpu) / begin.elapsed().as_secs_f64() * 100.0;
                report.judge("CPU with 300 idle sessions", share, "% core", 0.3, Better::Lower);
            }
        }
    }

    async fn idle_session(
        &self,
        config: &Arc<client::Config>,
        key: &russh::keys::PrivateKeyWithHashAlg,
    ) -> (client::Handle<Accept>, russh::Channel<client::Msg>) {
        let mut handle = client::connect(Arc::clone(config), ("127.0.0.1", self.world.ssh), Accept).await.unwrap();
        assert!(handle.authenticate_publickey(self.login.clone(), key.clone()).await.unwrap().success());
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
        channel.request_shell(true).await.unwrap();
        // Until the prompt: the session is really there.
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while let Some(message) = channel.wait().await {
                if matches!(message, russh::ChannelMsg::Data { .. }) {
                    return;
                }
            }
            panic!("the session ended at once");
        });
        waited.await.expect("no prompt within 30 s");
        (handle, channel)
    }
}

fn write_bulk(path: &PathBuf) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut written = 0;
    while written < BULK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let line = format!(
            "{state:016x} GET /static/app.{:x}.js 200 {} ms 192.0.2.{}\n",
            state & 0xffff,
            state % 997,
            state % 251
        );
        file.write_all(line.as_bytes()).unwrap();
        written += line.len();
    }
}
