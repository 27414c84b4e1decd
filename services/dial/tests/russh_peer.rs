//! What sshd cannot be made to do without touching the machine's accounts or breaking itself: password log-in, questions
//! after the password, and a hostile asset. The peer is the server side of the russh library; a signal goes to it as well
//! because sshd refuses signals for root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use gatehouse_dial::{DialError, Probe, Proof, Route};
use russh::keys::PrivateKey;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Response, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Sig};
use support::*;
use tokio::sync::mpsc;

#[derive(Clone, Default)]
struct Asset {
    /// Accept no `password` method, and ask these hidden questions after one another instead.
    questions: Vec<(&'static str, &'static str)>,
    asked: usize,
    /// How often a password was presented.
    presented: Arc<std::sync::atomic::AtomicUsize>,
    signals: Option<mpsc::UnboundedSender<Sig>>,
    /// Open channels towards us and report how that went.
    opens: Option<mpsc::UnboundedSender<bool>>,
}

impl Asset {
    fn ask(&self) -> Auth {
        let prompts = vec![(self.questions[self.asked].0.into(), false)];
        Auth::Partial { name: "".into(), instructions: "".into(), prompts: prompts.into() }
    }
}

/// Like sshd, and unlike the library's default, goes on offering what was refused.
fn refused(methods: &[MethodKind]) -> Auth {
    Auth::Reject { proceed_with_methods: Some(MethodSet::from(methods)), partial_success: false }
}

impl server::Handler for Asset {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        if !self.questions.is_empty() {
            return Ok(refused(&[MethodKind::KeyboardInteractive]));
        }
        self.presented.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let methods = &[MethodKind::Password, MethodKind::KeyboardInteractive];
        Ok(if user == "ann" && password == "right" { Auth::Accept } else { refused(methods) })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        if self.questions.is_empty() {
            self.presented.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Ok(Auth::reject());
        }
        if let Some(mut response) = response {
            let answer = response.next().unwrap_or_default();
            if answer != self.questions[self.asked].1.as_bytes() {
                return Ok(Auth::reject());
            }
            self.asked += 1;
            if self.asked == self.questions.len() {
                return Ok(Auth::Accept);
            }
        }
        Ok(self.ask())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        if let Some(report) = self.opens.clone() {
            let handle = session.handle();
            tokio::spawn(async move {
                let _ = report.send(handle.channel_open_forwarded_tcpip("h", 1, "h", 2).await.is_ok());
                let _ = report.send(handle.channel_open_agent().await.is_ok());
                let _ = report.send(handle.channel_open_x11("h", 1).await.is_ok());
                let _ = report.send(handle.channel_open_session().await.is_ok());
                let _ = report.send(handle.channel_open_direct_tcpip("h", 1, "h", 2).await.is_ok());
                drop(channel);
            });
        }
        Ok(())
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn signal(&mut self, _: ChannelId, signal: Sig, _: &mut Session) -> Result<(), russh::Error> {
        if let Some(report) = &self.signals {
            let _ = report.send(signal);
        }
        Ok(())
    }
}

async fn serve(asset: Asset) -> Route {
    let methods: &[MethodKind] = if asset.questions.is_empty() {
        &[MethodKind::Password, MethodKind::KeyboardInteractive]
    } else {
        &[MethodKind::KeyboardInteractive]
    };
    let dir = tempfile::tempdir().unwrap();
    keygen(&dir.path().join("k"), &["-t", "ed25519", "-N", ""]);
    let key = PrivateKey::from_openssh(std::fs::read_to_string(dir.path().join("k")).unwrap()).unwrap();
    let config = Arc::new(server::Config {
        keys: vec![key],
        methods: MethodSet::from(methods),
        auth_rejection_time: Duration::from_millis(10),
        ..server::Config::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, asset) = (Arc::clone(&config), asset.clone());
            tokio::spawn(async move {
                if let Ok(session) = server::run_stream(config, stream, asset).await {
                    let _ = session.await;
                }
            });
        }
    });
    route
}

fn ann(secret: &str) -> gatehouse_dial::SshLogin {
    gatehouse_dial::SshLogin { username: "ann".into(), ..login(vec![password(secret)]) }
}

#[tokio::test]
async fn password_to_a_russh_server() {
    let asset = Asset::default();
    let presented = Arc::clone(&asset.presented);
    let route = serve(asset).await;
    gatehouse_dial::ssh(&route, &ann("right"), &context()).await.unwrap();
    gatehouse_dial::test(&route, Probe::Ssh(&ann("right")), &context()).await.unwrap();
    let before = presented.load(std::sync::atomic::Ordering::Relaxed);
    let error = error_of(gatehouse_dial::ssh(&route, &ann("wrong"), &context()).await);
    assert!(matches!(&error, DialError::AuthRejected { tried, .. } if tried == &[Proof::Password]), "{error}");
    assert_eq!(error.connectivity(), "password_err");
    assert!(!error.to_string().contains("wrong"), "the secret is in the message");
    assert_eq!(presented.load(std::sync::atomic::Ordering::Relaxed) - before, 1, "a wrong password counts once");
}

#[tokio::test]
async fn keyboard_interactive_to_a_russh_server_answers_the_password_question_only() {
    let route = serve(Asset { questions: vec![("Password: ", "right")], ..Asset::default() }).await;
    gatehouse_dial::ssh(&route, &ann("right"), &context()).await.unwrap();
    let error = error_of(gatehouse_dial::ssh(&route, &ann("wrong"), &context()).await);
    assert_eq!(error.connectivity(), "password_err", "{error}");

    let questions = vec![("Password: ", "right"), ("Verification code: ", "123456")];
    let route = serve(Asset { questions, ..Asset::default() }).await;
    let error = error_of(gatehouse_dial::ssh(&route, &ann("right"), &context()).await);
    assert!(
        matches!(&error, DialError::PromptNotAnswerable { prompt, .. } if prompt == "Verification code:"),
        "{error}"
    );
    // A second hidden question is not answered with the password again, whatever it says.
    let questions = vec![("Password: ", "right"), ("Password: ", "right")];
    let route = serve(Asset { questions, ..Asset::default() }).await;
    let error = error_of(gatehouse_dial::ssh(&route, &ann("right"), &context()).await);
    assert!(matches!(error, DialError::PromptNotAnswerable { .. }), "{error}");
}

#[tokio::test]
async fn a_signal_reaches_a_russh_server() {
    let (sender, mut signals) = mpsc::unbounded_channel();
    let route = serve(Asset { signals: Some(sender), ..Asset::default() }).await;
    let peer = gatehouse_dial::ssh(&route, &ann("right"), &context()).await.unwrap();
    let channel = peer.exec(b"sleep", None, &[]).await.unwrap();
    channel.signal(Sig::INT).await.unwrap();
    let got = tokio::time::timeout(Duration::from_secs(5), signals.recv()).await.unwrap().unwrap();
    assert!(matches!(got, Sig::INT), "{got:?}");
}

#[tokio::test]
async fn channels_that_a_hostile_russh_server_opens_are_refused() {
    let (sender, mut opened) = mpsc::unbounded_channel();
    let route = serve(Asset { opens: Some(sender), ..Asset::default() }).await;
    let peer = gatehouse_dial::ssh(&route, &ann("right"), &context()).await.unwrap();
    let _channel = peer.session().await.unwrap();
    for kind in ["forwarded-tcpip", "agent", "x11", "session", "direct-tcpip"] {
        let accepted = tokio::time::timeout(Duration::from_secs(5), opened.recv()).await.unwrap().unwrap();
        assert!(!accepted, "{kind} was accepted");
    }
    assert!(!peer.is_closed());
}
