//! Switching accounts in a real bash behind real sshd. The machine's accounts are not ours to change, so `su` and `sudo` on
//! the PATH are scripts that behave like them: ask on the terminal without echo, then become an interactive shell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use gatehouse_dial::su::{Method, Step, Switch, SwitchError};
use gatehouse_dial::{PtySpec, SshChannel};
use russh::ChannelMsg;
use support::*;
use zeroize::Zeroizing;

const SU: &str = r#"#!/bin/bash
[ "$1" = - ] && shift
case "$1" in nobody-such) echo "su: user $1 does not exist"; exit 1;; esac
IFS= read -rsp 'Password: ' secret; echo
if [ "$secret" != "open sesame" ]; then sleep 0.3; echo "su: Authentication failure"; exit 1; fi
export WHO="$1" PS1="$1@unit:~# "; exec bash --norc --noprofile -i
"#;
const SUDO: &str = r#"#!/bin/bash
for try in 1 2 3; do
  IFS= read -rsp '[sudo] password for ann: ' secret; echo
  [ "$secret" = mine ] && break
  [ $try = 3 ] && { echo "sudo: 3 incorrect password attempts"; exit 1; }
  echo "Sorry, try again."
done
shift; [ "$1" = - ] && shift
export WHO="$1" PS1="$1@unit:~# "; exec bash --norc --noprofile -i
"#;

async fn shell(sshd: &Sshd, with_scripts: bool) -> SshChannel {
    let bin = sshd.path(if with_scripts { "bin" } else { "empty" });
    fs::create_dir_all(&bin).unwrap();
    if with_scripts {
        for (name, text) in [("su", SU), ("sudo", SUDO)] {
            fs::write(bin.join(name), text).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let rest = if with_scripts { ":$PATH" } else { "" };
    let command = format!("PATH={}{rest} PS1='ann@unit:~$ ' exec /bin/bash --norc --noprofile -i", bin.display());
    let pty = PtySpec::default();
    sshd.dial().await.exec(command.as_bytes(), Some(&pty), &[]).await.unwrap()
}

/// Drives the machine as a gateway does. Also returns all that was typed.
async fn switch(
    channel: &mut SshChannel,
    method: Method,
    user: &str,
    secret: &str,
) -> (Result<String, SwitchError>, Vec<String>) {
    let now = Instant::now();
    let secret = Some(Zeroizing::new(secret.to_owned()));
    let mut machine = Switch::new(method, user, secret, now, now + Duration::from_secs(10)).unwrap();
    let mut typed = Vec::new();
    loop {
        let step = tokio::select! {
            message = channel.wait() => match message {
                Some(ChannelMsg::Data { data }) => machine.feed(&data, Instant::now()),
                Some(_) => continue,
                None => return (Err(machine.closed()), typed),
            },
            () = tokio::time::sleep_until(machine.wake_at().into()) => machine.tick(Instant::now()),
        };
        match step {
            Step::Wait => {}
            Step::Type(bytes) => {
                typed.push(String::from_utf8(bytes.to_vec()).unwrap());
                channel.data_bytes(bytes.to_vec()).await.unwrap();
            }
            Step::Done => return (Ok(String::from_utf8_lossy(machine.prompt()).into_owned()), typed),
            Step::Failed(error) => return (Err(error), typed),
        }
    }
}

async fn who(channel: &mut SshChannel) -> String {
    channel.data_bytes(&b"echo \"<$WHO>\"\r"[..]).await.unwrap();
    let mut text = String::new();
    while !text.contains(">\r\n") {
        match tokio::time::timeout(Duration::from_secs(5), channel.wait()).await.unwrap() {
            Some(ChannelMsg::Data { data }) => text.push_str(&String::from_utf8_lossy(&data)),
            Some(_) => {}
            None => panic!("closed: {text}"),
        }
    }
    let at = text.rfind('<').unwrap();
    text[at..].trim_end().split('\r').next().unwrap().to_owned()
}

#[tokio::test]
async fn su_and_sudo_switch_and_the_shell_is_the_targets() {
    let sshd = Sshd::start();
    for (method, secret, command) in [
        (Method::Su, "open sesame", " exec su - deploy; exit\r"),
        (Method::OnlySu, "open sesame", " exec su deploy; exit\r"),
        (Method::Sudo, "mine", " exec sudo su - deploy; exit\r"),
        (Method::OnlySudo, "mine", " exec sudo su deploy; exit\r"),
    ] {
        let mut channel = shell(&sshd, true).await;
        let (result, typed) = switch(&mut channel, method, "deploy", secret).await;
        assert!(result.as_ref().is_ok_and(|p| p.contains("deploy@unit:~# ")), "{method:?}: {result:?}");
        assert_eq!(typed, [command.to_owned(), format!("{secret}\r")]);
        assert_eq!(who(&mut channel).await, "<deploy>");
    }
}

#[tokio::test]
async fn failures_never_leave_a_session_in_the_wrong_account() {
    let sshd = Sshd::start();
    let mut channel = shell(&sshd, true).await;
    let (result, typed) = switch(&mut channel, Method::Su, "deploy", "wrong").await;
    assert!(
        matches!(&result, Err(SwitchError::Refused { said, .. }) if said == "su: Authentication failure"),
        "{result:?}"
    );
    assert_eq!(typed.len(), 2);

    let mut channel = shell(&sshd, true).await;
    let (result, typed) = switch(&mut channel, Method::Sudo, "deploy", "wrong").await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(typed.len(), 2, "a refused password is not typed again");

    let mut channel = shell(&sshd, true).await;
    let (result, typed) = switch(&mut channel, Method::Su, "nobody-such", "open sesame").await;
    assert!(matches!(&result, Err(SwitchError::Refused { .. })), "{result:?}");
    assert_eq!(typed.len(), 1, "the password was typed without a prompt");

    // No such program: bash reports it and, thanks to `; exit`, ends.
    let mut channel = shell(&sshd, false).await;
    let (result, typed) = switch(&mut channel, Method::Sudo, "deploy", "mine").await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(typed.len(), 1);
    let end = async { while channel.wait().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("the first account's shell lives on");
}
