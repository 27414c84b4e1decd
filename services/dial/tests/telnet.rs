//! Telnet: log-in to the real inetutils telnetd (behind a tiny inetd), and to a small in-test server for the dialogues
//! that a Linux machine does not have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use gatehouse_dial::telnet::{TelnetLogin, TelnetPeer, TelnetPrompts, connect};
use gatehouse_dial::{DialError, Probe, Proof, Route};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

fn ann(secret: &str) -> TelnetLogin {
    TelnetLogin {
        username: "ann".into(),
        password: Zeroizing::new(secret.into()),
        prompts: TelnetPrompts::standard().unwrap(),
        term: "xterm".into(),
        cols: 101,
        rows: 33,
    }
}

async fn read_until(peer: &mut TelnetPeer, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let data = tokio::time::timeout(Duration::from_secs(10), peer.read())
            .await
            .unwrap_or_else(|_| panic!("no {wanted:?} in {text:?}"))
            .unwrap();
        assert!(!data.is_empty(), "closed before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&data));
    }
    text
}

/// Real telnetd; `login` is a shell script that plays /bin/login, because the machine's accounts are not ours to change.
async fn telnetd(dir: &tempfile::TempDir) -> Route {
    use std::os::unix::fs::PermissionsExt;
    let script = dir.path().join("login");
    std::fs::write(
        &script,
        "#!/bin/bash\nfor try in 1 2; do\n  read -rp 'unit login: ' name\n  read -rsp 'Password: ' secret\n  echo\n  \
         if [ \"$name:$secret\" = ann:right ]; then\n    echo 'Last login: Monday'\n    \
         export PS1='unit$ '; exec bash --norc --noprofile -i\n  fi\n  sleep 0.3\n  echo 'Login incorrect'\ndone\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let (input, output) = (OwnedFd::from(stream.try_clone().unwrap()), OwnedFd::from(stream));
            let mut child = Command::new("/usr/sbin/telnetd")
                .arg(format!("--exec-login={}", script.display()))
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::spawn(move || child.wait());
        }
    });
    Route::direct("127.0.0.1", port)
}

#[tokio::test]
async fn logs_in_to_telnetd_runs_a_command_and_resizes() {
    let dir = tempfile::tempdir().unwrap();
    let route = telnetd(&dir).await;
    let mut peer = connect(&route, &ann("right"), &context()).await.unwrap();
    let greeting = read_until(&mut peer, "unit$ ").await;
    assert!(greeting.contains("Last login: Monday") && !greeting.contains("right"), "{greeting:?}");
    peer.write(b"stty size\r").await.unwrap();
    read_until(&mut peer, "33 101").await;
    peer.resize(140, 50).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    peer.write(b"stty size\r").await.unwrap();
    read_until(&mut peer, "50 140").await;
    // Every byte value but those that a terminal line eats, there and back.
    peer.write(b"printf '\\377\\377x\\r\\0y' | od -An -tx1\r").await.unwrap();
    read_until(&mut peer, "ff ff 78 0d 00 79").await;
    peer.write(b"exit\r").await.unwrap();
    let end = async { while !peer.read().await.is_ok_and(|data| data.is_empty()) {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("no end");
}

#[tokio::test]
async fn a_wrong_password_at_telnetd_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let route = telnetd(&dir).await;
    let error = error_of(connect(&route, &ann("wrong"), &context()).await);
    assert!(matches!(&error, DialError::AuthRejected { tried, .. } if tried == &[Proof::Password]), "{error}");
    let result = gatehouse_dial::test(&route, Probe::Telnet(&ann("wrong")), &context()).await;
    assert_eq!(result.unwrap_err().connectivity(), "password_err");
    gatehouse_dial::test(&route, Probe::Telnet(&ann("right")), &context()).await.unwrap();
}

/// A server that plays a script: sends a text, expects a line.
async fn scripted(
    script: &'static [(&'static str, &'static str)],
    end: &'static str,
) -> (Route, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct("127.0.0.1", listener.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        let (mut s, _) = listener.accept().await.unwrap();
        let mut lines = Vec::new();
        for (say, _) in script {
            s.write_all(say.as_bytes()).await.unwrap();
            match line(&mut s).await {
                Some(text) => lines.push(text),
                None => return lines,
            }
        }
        s.write_all(end.as_bytes()).await.unwrap();
        while let Some(text) = line(&mut s).await {
            lines.push(text);
        }
        lines
    });
    (route, task)
}

async fn line(s: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        match s.read_u8().await {
            Ok(b'\r') => return Some(String::from_utf8_lossy(&text).into_owned()),
            Ok(0) => {}
            Ok(byte) => text.push(byte),
            Err(_) => return None,
        }
    }
}

#[tokio::test]
async fn dialogues_of_a_scripted_server() {
    let ctx = context();
    // A console that asks only for a password.
    let (route, typed) = scripted(&[("\r\nUser Access Verification\r\n\r\nPassword: ", "")], "\r\nRouter>").await;
    let mut peer = connect(&route, &ann("right"), &ctx).await.unwrap();
    assert_eq!(peer.read().await.unwrap(), "\r\nRouter>");
    drop(peer);
    assert_eq!(typed.await.unwrap(), ["right"]);

    // One that shows nothing until Enter is pressed, and echoes the password.
    let (route, typed) =
        scripted(&[("", ""), ("\r\nUsername: ", ""), ("Password:", "")], "right\r\nlogin success\r\n").await;
    let mut peer = connect(&route, &ann("right"), &ctx).await.unwrap();
    assert_eq!(peer.read().await.unwrap(), "\r\nlogin success\r\n", "the password is not shown to the user");
    drop(peer);
    assert_eq!(typed.await.unwrap(), ["", "ann", "right"]);

    // "Last login:" is not a question, and a refusal that contains a prompt character is not a success.
    let (route, _typed) =
        scripted(&[("login: ", ""), ("Password: ", "")], "\r\nLast login: Sat on pts/0\r\nWelcome\r\nhost$ ").await;
    connect(&route, &ann("right"), &ctx).await.unwrap();
    let (route, typed) =
        scripted(&[("login: ", ""), ("Password: ", "")], "\r\n% Login invalid (#3)\r\n\r\nlogin: ").await;
    let error = error_of(connect(&route, &ann("wrong"), &ctx).await);
    assert_eq!(error.connectivity(), "password_err", "{error}");
    assert_eq!(typed.await.unwrap(), ["ann", "wrong"], "nothing is typed after a refusal");
}

#[tokio::test]
async fn the_password_is_not_typed_where_a_scripted_server_does_not_ask_for_it() {
    let mut ctx = context();
    ctx.timeouts.auth = Duration::from_millis(900);
    let (route, typed) = scripted(
        &[("login: ", "")],
        "your password: has expired\r\nchange the password with passwd\r\nPassword: rules apply\r\nmenu choice ",
    )
    .await;
    let error = error_of(connect(&route, &ann("s3cret"), &ctx).await);
    assert!(matches!(error, DialError::NoPrompt { which: "password prompt", .. }), "{error}");
    assert_eq!(typed.await.unwrap(), ["ann"]);
}

#[tokio::test]
async fn servers_that_stay_silent_hang_up_or_flood() {
    let mut ctx = context();
    ctx.timeouts.auth = Duration::from_millis(900);
    let (route, _typed) = scripted(&[("hello\r\n", "")], "").await;
    let error = error_of(connect(&route, &ann("x"), &ctx).await);
    assert!(matches!(error, DialError::NoPrompt { .. }), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        drop(listener.accept().await);
        let (mut s, _) = listener.accept().await.unwrap();
        // Negotiates and babbles for ever, and never reads.
        let flood = [&[255, 251, 1, 255, 252, 1, 255, 253, 24, 255, 254, 24][..], &noise(4096)].concat();
        while s.write_all(&flood).await.is_ok() {}
    });
    let error = error_of(connect(&route, &ann("x"), &ctx).await);
    assert!(matches!(error, DialError::ClosedEarly { .. }), "{error}");
    let began = std::time::Instant::now();
    let before = resident();
    let error = error_of(connect(&route, &ann("x"), &ctx).await);
    assert!(matches!(error, DialError::NoPrompt { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(resident().saturating_sub(before) < 8 << 20, "memory grew with the flood");
}

#[test]
fn a_platform_with_a_broken_pattern_is_told_so() {
    let error = TelnetPrompts::new("login:", "pass(word", "#").err().unwrap();
    assert!(error.to_string().contains("password prompt of the platform"), "{error}");
}
