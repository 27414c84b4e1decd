//! A running Gatehouse with an administrator, and short ways to put users, assets and grants into it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, id};
use crate::peers::Sshd;
use crate::{free_port, gatehouse_binary, run_limited, wait_for};

pub const ADMIN: &str = "admin";
pub const ADMIN_PASSWORD: &str = "Correct-Horse-42-Battery";
pub const USER_PASSWORD: &str = "Brave-Otter-77-Climbs";

/// Options that make OpenSSH's clients independent of the machine's configuration and quiet about new host keys.
pub const SSH_OPTIONS: [&str; 12] = [
    "-F",
    "none",
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
    "-o",
    "NumberOfPasswordPrompts=1",
    "-o",
    "ConnectTimeout=20",
];

pub struct World {
    pub dir: tempfile::TempDir,
    pub data: PathBuf,
    pub recovery: PathBuf,
    pub https: u16,
    pub ssh: u16,
    pub admin: Api,
    child: Child,
}

impl World {
    /// Set-up by the contract (`gatehouse setup`, `gatehouse run`), then wait for the health route.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("gh-world-").tempdir().unwrap();
        let data = dir.path().join("data");
        let recovery = dir.path().join("recovery.txt");
        let (https, ssh) = (free_port(), free_port());
        let answers = format!(
            "[seal]\nmethod = \"file\"\n[admin]\nusername = \"{ADMIN}\"\nname = \"Administrator\"\n\
             email = \"admin@example.com\"\npassword = \"{ADMIN_PASSWORD}\"\n[site]\nurl = \"https://127.0.0.1:{https}\"\n\
             [recovery]\nwrite_to = \"{}\"\n",
            recovery.display()
        );
        std::fs::write(dir.path().join("answers.toml"), answers).unwrap();
        let config = format!(
            "data = \"{}\"\n[listen]\nhttps = \"127.0.0.1:{https}\"\nhttp = \"\"\nssh = \"127.0.0.1:{ssh}\"\n",
            data.display()
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut setup = Command::new(gatehouse_binary());
        setup.arg("setup").arg("--data").arg(&data).arg("--answers").arg(dir.path().join("answers.toml"));
        run_limited(&mut setup, b"", Duration::from_secs(60)).ok();
        let child = spawn(dir.path());
        let base = format!("https://127.0.0.1:{https}");
        wait_ready(&base).await;
        let admin = Api::login(&base, ADMIN, ADMIN_PASSWORD).await;
        Self { dir, data, recovery, https, ssh, admin, child }
    }

    pub fn base(&self) -> String {
        format!("https://127.0.0.1:{}", self.https)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM: drains and closes.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        wait_for("gatehouse to stop", Duration::from_secs(30), || self.child.try_wait().unwrap());
    }

    pub async fn restart(&mut self) {
        self.child = spawn(self.dir.path());
        wait_ready(&self.base()).await;
        self.admin = Api::login(&self.base(), ADMIN, ADMIN_PASSWORD).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gatehouse.log")).unwrap_or_default()
    }

    /// A member of the default organization with `USER_PASSWORD`.
    pub async fn add_user(&self, username: &str) -> String {
        let user = json!({
            "name": format!("{username} the tester"), "username": username, "email": format!("{username}@example.com"),
            "password_strategy": "custom", "password": USER_PASSWORD, "need_update_password": false,
            "org_roles": ["00000000-0000-0000-0000-000000000007"],
        });
        id(&self.admin.post("users/users/", user).await)
    }

    /// A host with one key account for the sshd's user; answers (asset id, account id).
    pub async fn add_host(&self, name: &str, sshd: &Sshd) -> (String, String) {
        let asset = self.add_bare_host(name, "127.0.0.1", sshd.port).await;
        let account = self.add_key_account(&asset, &sshd.user, &sshd.private_key).await;
        (asset, account)
    }

    pub async fn add_bare_host(&self, name: &str, address: &str, port: u16) -> String {
        let platforms = self.admin.list("assets/platforms/?name=Linux").await;
        let linux = platforms.iter().find(|p| p["name"] == "Linux").expect("built-in platform Linux");
        let asset = json!({
            "name": name, "address": address, "platform": id(linux),
            "protocols": [{"name": "ssh", "port": port}, {"name": "sftp", "port": port}],
        });
        id(&self.admin.post("assets/hosts/", asset).await)
    }

    pub async fn add_key_account(&self, asset: &str, username: &str, pem: &str) -> String {
        let account = json!({
            "asset": asset, "name": username, "username": username, "secret_type": "ssh_key", "secret": pem,
        });
        let made = self.admin.post("accounts/accounts/", account).await;
        id(made.as_array().and_then(|a| a.first()).unwrap_or(&made))
    }

    pub async fn grant(&self, user: &str, asset: &str) -> String {
        self.grant_with(user, asset, json!({})).await
    }

    /// A grant of all accounts, protocols and actions, changed by `with`.
    pub async fn grant_with(&self, user: &str, asset: &str, with: Value) -> String {
        let mut grant = json!({
            "name": format!("grant {user} {asset} {}", free_port()), "users": [user], "assets": [asset],
            "accounts": ["@ALL"], "protocols": ["all"],
            "actions": ["connect", "upload", "download", "copy", "paste", "delete", "share"],
        });
        for (key, value) in with.as_object().unwrap() {
            grant[key] = value.clone();
        }
        id(&self.admin.post("perms/asset-permissions/", grant).await)
    }

    /// An OpenSSH client program (`ssh`, `scp`, `sftp`) with the user's password, up to but not including the target.
    pub fn client(&self, program: &str) -> Command {
        let port_flag = if program == "ssh" { "-p" } else { "-P" };
        let mut command = Command::new("sshpass");
        command
            .args(["-p", USER_PASSWORD, program])
            .args(SSH_OPTIONS)
            .args(["-o", "PreferredAuthentications=password,keyboard-interactive"])
            .args([port_flag, &self.ssh.to_string()]);
        command
    }

    /// `ssh LOGIN@gateway ARGS`.
    pub fn ssh(&self, login: &str, args: &[&str]) -> Command {
        let mut command = self.client("ssh");
        command.args(["-l", login, "127.0.0.1"]).args(args);
        command
    }

    /// `sftp LOGIN@gateway` that reads a script and stops at its first failure, with that exit code.
    pub fn sftp(&self, login: &str) -> Command {
        let mut command = self.client("sftp");
        // `-b` switches passwords off; what stands before it wins.
        command.args(["-o", "BatchMode=no", "-b", "-", "-o", &format!("User={login}"), "127.0.0.1"]);
        command
    }

    /// `gatehouse ARGS --data DIR`.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(gatehouse_binary());
        command.args(args).arg("--data").arg(&self.data);
        command
    }

    /// Sessions of an asset, newest first, once `count` of them have ended.
    pub async fn ended_sessions(&self, asset: &str, count: usize) -> Vec<Value> {
        let end = std::time::Instant::now() + Duration::from_secs(15);
        loop {
            let path = format!("terminal/sessions/?asset_id={asset}&is_finished=1&order=-date_start&limit=100");
            let rows = self.admin.list(&path).await;
            if rows.len() >= count {
                return rows;
            }
            assert!(std::time::Instant::now() < end, "{} of {count} sessions ended: {rows:?}", rows.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the last lines of gatehouse's log ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("gatehouse.log")).unwrap();
    Command::new(gatehouse_binary())
        .args(["run", "--config"])
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

async fn wait_ready(base: &str) {
    let api = Api::anonymous(base);
    for _ in 0..1200 {
        if api.is_healthy().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("gatehouse was not ready after 60 s");
}
