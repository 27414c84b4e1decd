//! SSH to real sshd: log-in, host keys, what can be opened, and how failures read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatehouse_dial::{Auth, DialError, Exit, Probe, Proof, PtySpec, Route, SshChannel, Stage};
use russh::ChannelMsg;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

async fn read_until(channel: &mut SshChannel, wanted: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(wanted) {
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => text.push_str(&String::from_utf8_lossy(&data)),
                Some(_) => {}
                None => panic!("closed before {wanted:?}: {text:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
    text
}

#[tokio::test]
async fn runs_a_command_and_reports_streams_and_exit_status() {
    let sshd = Sshd::start();
    let peer = sshd.dial().await;
    let out = peer.run(b"cat; echo err >&2; exit 7", b"in\xff", 1 << 20, Duration::from_secs(10)).await.unwrap();
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice(), out.exit),
        (&b"in\xff"[..], &b"err\n"[..], Exit::Status(7))
    );
    let out = peer.run(b"kill -TERM $$", b"", 1 << 20, Duration::from_secs(10)).await.unwrap();
    assert_eq!(out.exit, Exit::Signal("TERM".into()));
    let error = peer.run(b"head -c 100000 /dev/zero", b"", 1000, Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(error, DialError::TooMuchOutput { limit: 1000, .. }));
    peer.close().await;
    assert!(peer.is_closed());
    assert!(matches!(error_of(peer.session().await), DialError::Closed { .. }));
}

#[tokio::test]
async fn a_command_that_runs_too_long_is_ended_on_the_asset() {
    let sshd = Sshd::start();
    let peer = sshd.dial().await;
    let mark = sshd.path("alive");
    // The trap runs when sshd hangs up the session's processes after we closed the channel.
    let command = format!("echo $$ > {}; exec cat /dev/zero", mark.display());
    let error = peer.run(command.as_bytes(), b"", usize::MAX, Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { stage: Stage::Request, .. }));
    let pid = fs::read_to_string(mark).unwrap();
    let gone = async {
        while fs::metadata(format!("/proc/{}", pid.trim())).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the command still runs");
    // The connection serves on.
    assert_eq!(peer.run(b"echo ok", b"", 100, Duration::from_secs(10)).await.unwrap().stdout, b"ok\n");
}

#[tokio::test]
async fn shell_with_a_terminal_that_is_resized() {
    let sshd = Sshd::start();
    let peer = sshd.dial().await;
    let pty = PtySpec { cols: 101, rows: 33, term: "vt220".into(), ..PtySpec::default() };
    let mut shell = peer.shell(Some(&pty), &[]).await.unwrap();
    shell.data_bytes(&b"echo \"[$TERM $(stty size)]\"\n"[..]).await.unwrap();
    read_until(&mut shell, "[vt220 33 101]").await;
    shell.window_change(140, 50, 0, 0).await.unwrap();
    shell.data_bytes(&b"echo \"[$(stty size)]\"\n"[..]).await.unwrap();
    read_until(&mut shell, "[50 140]").await;
    shell.data_bytes(&b"exit 3\n"[..]).await.unwrap();
    let mut status = None;
    while let Some(message) = shell.wait().await {
        if let ChannelMsg::ExitStatus { exit_status } = message {
            status = Some(exit_status);
        }
    }
    assert_eq!(status, Some(3));
}

#[tokio::test]
async fn sftp_round_trip() {
    let sshd = Sshd::start();
    let sftp = sshd.dial().await.sftp().await.unwrap();
    let path = sshd.path("file").display().to_string();
    let content = noise(3 << 20);
    let mut file = sftp.create(path.clone()).await.unwrap();
    file.write_all(&content).await.unwrap();
    file.shutdown().await.unwrap();
    assert!(fs::read(&path).unwrap() == content);
    let mut back = Vec::new();
    sftp.open(path.clone()).await.unwrap().read_to_end(&mut back).await.unwrap();
    assert!(back == content);
    assert!(sftp.open("/nonexistent/x").await.is_err());
}

#[tokio::test]
async fn direct_tcpip_reaches_a_port_behind_the_asset() {
    let sshd = Sshd::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut s, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        s.read_to_end(&mut got).await.unwrap();
        s.write_all(&got).await.unwrap();
    });
    let peer = sshd.dial().await;
    let mut stream = peer.open_direct_tcpip("127.0.0.1", port, ("10.9.8.7", 4242)).await.unwrap().into_stream();
    stream.write_all(b"through").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"through");
    echo.await.unwrap();
    let refused = error_of(peer.open_direct_tcpip("127.0.0.1", free_port(), ("127.0.0.1", 1)).await);
    assert!(matches!(refused, DialError::ChannelRefused { .. }), "{refused}");
}

#[tokio::test]
async fn a_host_key_is_pinned_known_and_refused_when_it_changes() {
    let sshd = Sshd::start();
    let pins = Arc::new(Pins::default());
    let ctx = with_pins(Arc::clone(&pins));
    let first = gatehouse_dial::ssh(&sshd.route(), &sshd.login(), &ctx).await.unwrap();
    let ours = sshd.fingerprint("host_ed25519");
    assert_eq!(first.host_key().unwrap().sha256, ours);
    gatehouse_dial::ssh(&sshd.route(), &sshd.login(), &ctx).await.unwrap();

    pins.0.lock().unwrap()[0].2.sha256 = "SHA256:another".into();
    let error = error_of(gatehouse_dial::ssh(&sshd.route(), &sshd.login(), &ctx).await);
    let DialError::HostKeyChanged { expected, got, .. } = &error else { panic!("{error}") };
    assert_eq!((expected.as_str(), got), ("SHA256:another", &ours));
    assert!(error.to_string().contains("administrator"), "{error}");
    assert_eq!(error.connectivity(), "err");
}

#[tokio::test]
async fn a_host_with_several_keys_shows_the_pinned_one() {
    let sshd = Sshd::start();
    let pins = Arc::new(Pins::default());
    let line = fs::read_to_string(sshd.path("host_rsa.pub")).unwrap();
    let openssh = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let sha256 = sshd.fingerprint("host_rsa");
    let rsa = gatehouse_dial::HostKey { algorithm: "ssh-rsa".into(), openssh, sha256 };
    pins.0.lock().unwrap().push(("127.0.0.1".into(), sshd.port, rsa.clone()));
    let peer = gatehouse_dial::ssh(&sshd.route(), &sshd.login(), &with_pins(pins)).await.unwrap();
    assert_eq!(peer.host_key(), Some(&rsa));
}

#[tokio::test]
async fn keys_of_all_kinds_log_in() {
    let sshd = Sshd::with("TrustedUserCAKeys /nonexistent");
    let ctx = context();
    for name in ["user", "user_rsa"] {
        let login = login(vec![key(&sshd.path(name))]);
        gatehouse_dial::ssh(&sshd.route(), &login, &ctx).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    keygen(&sshd.path("locked"), &["-t", "ecdsa", "-N", "open sesame"]);
    let public = fs::read_to_string(sshd.path("locked.pub")).unwrap();
    let keys = fs::read_to_string(sshd.path("authorized_keys")).unwrap() + &public;
    fs::write(sshd.path("authorized_keys"), keys).unwrap();
    let pem = Zeroizing::new(fs::read_to_string(sshd.path("locked")).unwrap());
    let with = |phrase: Option<&str>| {
        login(vec![Auth::Key { pem: pem.clone(), passphrase: phrase.map(|p| Zeroizing::new(p.to_owned())) }])
    };
    gatehouse_dial::ssh(&sshd.route(), &with(Some("open sesame")), &ctx).await.unwrap();
    for wrong in [None, Some("shut")] {
        let error = error_of(gatehouse_dial::ssh(&sshd.route(), &with(wrong), &ctx).await);
        assert_eq!(error.connectivity(), "openssh_key_err", "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_logs_in() {
    let ca = tempfile::tempdir().unwrap();
    keygen(&ca.path().join("ca"), &["-t", "ed25519", "-N", ""]);
    let sshd = Sshd::with(&format!("TrustedUserCAKeys {}/ca.pub\n", ca.path().display()));
    keygen(&sshd.path("fresh"), &["-t", "ed25519", "-N", ""]);
    let signed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-s", &ca.path().join("ca").display().to_string(), "-I", "test", "-n", &me(), "-V", "+5m"])
        .arg(sshd.path("fresh.pub"))
        .status()
        .unwrap();
    assert!(signed.success());
    let pem = Zeroizing::new(fs::read_to_string(sshd.path("fresh")).unwrap());
    let certificate = fs::read_to_string(sshd.path("fresh-cert.pub")).unwrap();
    let good = login(vec![Auth::Certificate { pem, passphrase: None, certificate: certificate.clone() }]);
    gatehouse_dial::ssh(&sshd.route(), &good, &context()).await.unwrap();
    // The bare key is not authorised, so it was the certificate that let us in.
    let bare = login(vec![key(&sshd.path("fresh"))]);
    let error = error_of(gatehouse_dial::ssh(&sshd.route(), &bare, &context()).await);
    assert!(matches!(&error, DialError::AuthRejected { tried, .. } if tried == &[Proof::Key]), "{error}");
    let pem = Zeroizing::new(fs::read_to_string(sshd.path("user")).unwrap());
    let mismatched = login(vec![Auth::Certificate { pem, passphrase: None, certificate }]);
    let error = error_of(gatehouse_dial::ssh(&sshd.route(), &mismatched, &context()).await);
    assert!(matches!(error, DialError::KeyUnusable { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_key_and_a_password_where_none_is_accepted_are_refused_with_the_accepted_methods() {
    let sshd = Sshd::start();
    keygen(&sshd.path("stranger"), &["-t", "ed25519", "-N", ""]);
    let error =
        error_of(gatehouse_dial::ssh(&sshd.route(), &login(vec![key(&sshd.path("stranger"))]), &context()).await);
    assert_eq!(
        error.to_string(),
        format!(
            "127.0.0.1:{} refused account {} with its ssh key; check the account's secret (the asset accepts publickey)",
            sshd.port,
            me()
        )
    );
    assert_eq!(error.connectivity(), "auth_err");
    let both = login(vec![password("nonsense"), key(&sshd.path("user"))]);
    gatehouse_dial::ssh(&sshd.route(), &both, &context()).await.expect("the second proof is good");
    let error = error_of(gatehouse_dial::ssh(&sshd.route(), &login(vec![password("x")]), &context()).await);
    assert_eq!(error.connectivity(), "password_err");
}

#[tokio::test]
async fn the_banner_is_kept_without_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("banner"), "Authorised use only\n\x1b[31mred\n").unwrap();
    let sshd = Sshd::with(&format!("Banner {}/banner", dir.path().display()));
    let peer = sshd.dial().await;
    let banner = peer.banner().unwrap();
    assert!(banner.starts_with("Authorised use only\n") && !banner.contains('\x1b'), "{banner:?}");
}

#[tokio::test]
async fn old_algorithms_only_when_the_platform_says_so() {
    let old = "KexAlgorithms diffie-hellman-group14-sha1\nCiphers aes128-cbc,3des-cbc\nMACs hmac-sha1\n\
               HostKeyAlgorithms ssh-rsa\nPubkeyAcceptedAlgorithms ssh-rsa,ssh-ed25519\n";
    let sshd = Sshd::with(old);
    let rsa = |legacy| gatehouse_dial::SshLogin { legacy, ..login(vec![key(&sshd.path("user_rsa"))]) };
    let error = error_of(gatehouse_dial::ssh(&sshd.route(), &rsa(false), &context()).await);
    assert!(error.to_string().contains("switch on old ssh versions for its platform"), "{error}");
    assert!(
        matches!(&error, DialError::NoCommonAlgorithm { theirs, .. } if theirs[0] == "diffie-hellman-group14-sha1")
    );
    let peer = gatehouse_dial::ssh(&sshd.route(), &rsa(true), &context()).await.unwrap();
    assert_eq!(peer.run(b"echo ok", b"", 100, Duration::from_secs(10)).await.unwrap().stdout, b"ok\n");

    let sshd = Sshd::with("Ciphers 3des-cbc\nKexAlgorithms diffie-hellman-group1-sha1\n");
    let login = gatehouse_dial::SshLogin { legacy: true, ..sshd.login() };
    let peer = gatehouse_dial::ssh(&sshd.route(), &login, &context()).await.unwrap();
    assert_eq!(peer.run(b"echo ok", b"", 100, Duration::from_secs(10)).await.unwrap().stdout, b"ok\n");
}

/// Accepts connections and does `act` with each.
async fn impostor<F, R>(act: F) -> Route
where
    F: Fn(tokio::net::TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    route
}

async fn dial_error(route: &Route) -> DialError {
    let mut ctx = context();
    ctx.timeouts.handshake = Duration::from_millis(400);
    error_of(gatehouse_dial::ssh(route, &login(vec![password("x")]), &ctx).await)
}

#[tokio::test]
async fn assets_that_never_speak_close_early_or_speak_something_else() {
    let (ended, mut end) = tokio::sync::mpsc::channel(1);
    let silent = impostor(move |mut s| {
        let ended = ended.clone();
        async move {
            // Ends when the other side closes: proof that nothing is left behind after the time-out.
            let mut sink = Vec::new();
            let _ = s.read_to_end(&mut sink).await;
            let _ = ended.send(()).await;
        }
    })
    .await;
    let began = Instant::now();
    let error = dial_error(&silent).await;
    assert!(matches!(error, DialError::Timeout { stage: Stage::Handshake, .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    tokio::time::timeout(Duration::from_secs(5), end.recv()).await.expect("the socket was left open").unwrap();

    // Speaks SSH's first line, then stalls inside the key exchange: the library's own task is running by then.
    let (ended, mut end) = tokio::sync::mpsc::channel(1);
    let stalls = impostor(move |mut s| {
        let ended = ended.clone();
        async move {
            s.write_all(b"SSH-2.0-Slow\r\n").await.unwrap();
            let mut sink = Vec::new();
            let _ = s.read_to_end(&mut sink).await;
            let _ = ended.send(()).await;
        }
    })
    .await;
    let error = dial_error(&stalls).await;
    assert!(matches!(error, DialError::Timeout { stage: Stage::Handshake, .. }), "{error}");
    tokio::time::timeout(Duration::from_secs(5), end.recv()).await.expect("the socket was left open").unwrap();

    let closes = impostor(|s| async move { drop(s) }).await;
    let error = dial_error(&closes).await;
    assert!(matches!(error, DialError::ClosedEarly { stage: Stage::Handshake, .. }), "{error}");

    let web = impostor(|mut s| async move {
        s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    let error = dial_error(&web).await;
    assert!(matches!(&error, DialError::NotSsh { said, .. } if said.starts_with("HTTP/1.1 400")), "{error}");

    let garbage = impostor(|mut s| async move {
        let _ = s.write_all(&noise(1 << 20)).await;
    })
    .await;
    let error = dial_error(&garbage).await;
    assert!(matches!(error, DialError::NotSsh { .. }), "{error}");
    assert!(!error.to_string().chars().any(char::is_control));

    let after = impostor(|mut s| async move {
        let _ = s.write_all(b"SSH-2.0-x\r\n").await;
        let _ = s.write_all(&noise(1 << 16)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await;
    let error = dial_error(&after).await;
    assert!(matches!(error, DialError::Protocol { .. } | DialError::ClosedEarly { .. }), "{error}");

    let nobody = Route::direct("127.0.0.1", free_port());
    let error = dial_error(&nobody).await;
    assert!(error.to_string().contains("nothing listens on that port"), "{error}");
    let error = dial_error(&Route::direct("no-such-host.invalid", 22)).await;
    assert!(error.to_string().contains("does not resolve"), "{error}");
}

#[tokio::test]
async fn an_asset_that_dies_is_noticed_and_says_so() {
    let sshd = Sshd::start();
    let peer = sshd.dial().await;
    let mut channel = peer.exec(b"kill -9 $PPID; sleep 1", None, &[]).await.unwrap();
    while channel.wait().await.is_some() {}
    assert!(peer.is_closed());
    assert!(peer.end_reason().is_some());
}

#[tokio::test]
async fn connection_test_tells_the_kinds_of_failure_apart() {
    let sshd = Sshd::start();
    let ctx = context();
    gatehouse_dial::test(&sshd.route(), Probe::Tcp, &ctx).await.unwrap();
    gatehouse_dial::test(&sshd.route(), Probe::Ssh(&sshd.login()), &ctx).await.unwrap();
    let value = |result: Result<(), DialError>| result.unwrap_err().connectivity();
    let bad = login(vec![password("x")]);
    assert_eq!(value(gatehouse_dial::test(&sshd.route(), Probe::Ssh(&bad), &ctx).await), "password_err");
    let none = login(vec![]);
    assert_eq!(value(gatehouse_dial::test(&sshd.route(), Probe::Ssh(&none), &ctx).await), "auth_err");
    let nobody = Route::direct("127.0.0.1", free_port());
    assert_eq!(value(gatehouse_dial::test(&nobody, Probe::Tcp, &ctx).await), "err");
}
