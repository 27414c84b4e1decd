//! Mail and inboxes end to end. The mail server is a small one inside the test (no SMTP server is installed where these
//! tests run): it speaks as much of RFC 5321 as a client needs, over a real TCP socket, and misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::Utc;
use gatehouse_model::common::{Meta, far_future};
use gatehouse_model::notice::{Notice, NoticeKind, Notifier as _};
use gatehouse_model::settings::{MailSecret, SETTINGS_ID, Settings};
use gatehouse_model::user::{MfaLevel, User, UserSource};
use gatehouse_notify::{MAIL_SECRET_ID, MailConfig, MailError, MailSecurity, Notify, Worker};
use gatehouse_store::Store;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use uuid::Uuid;
use zeroize::Zeroizing;

/// What the server does with the next letters.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    /// 4xx to each recipient.
    Later,
    /// 5xx to each recipient.
    Never,
    /// Accepts the connection and says nothing.
    Silent,
}

struct SmtpServer {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    mood: Arc<Mutex<Mood>>,
    connections: Arc<AtomicUsize>,
}

impl SmtpServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            lines: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Good)),
            connections: Arc::default(),
        };
        let (lines, mood, connections) =
            (Arc::clone(&server.lines), Arc::clone(&server.mood), Arc::clone(&server.connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let mood = *mood.lock();
                tokio::spawn(serve(stream, mood, Arc::clone(&lines)));
            }
        });
        server
    }

    fn config(&self) -> MailConfig {
        MailConfig {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            security: MailSecurity::None,
            user: "gatehouse@example.com".into(),
            password: Zeroizing::new("mail-password".into()),
            from: String::new(),
        }
    }

    fn seen(&self) -> String {
        self.lines.lock().join("\n")
    }
}

async fn serve(stream: TcpStream, mood: Mood, seen: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    if mood == Mood::Silent {
        tokio::time::sleep(Duration::from_secs(600)).await;
        return;
    }
    let mut data = false;
    let _ = stream.write_all(b"220 test ESMTP\r\n").await;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let text = line.trim_end().to_owned();
        seen.lock().push(text.clone());
        let verb = text.to_ascii_uppercase();
        let answer = if data {
            if text != "." {
                continue;
            }
            data = false;
            "250 taken\r\n"
        } else if verb.starts_with("EHLO") {
            "250-test\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n"
        } else if verb.starts_with("AUTH") {
            "235 welcome\r\n"
        } else if verb.starts_with("RCPT") {
            match mood {
                Mood::Later => "451 not now\r\n",
                Mood::Never => "550 no such user\r\n",
                Mood::Good | Mood::Silent => "250 ok\r\n",
            }
        } else if verb.starts_with("DATA") {
            data = true;
            "354 go on\r\n"
        } else if verb.starts_with("QUIT") {
            let _ = stream.write_all(b"221 bye\r\n").await;
            return;
        } else {
            "250 ok\r\n"
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn user(name: &str) -> User {
    User {
        id: Uuid::now_v7(),
        username: name.into(),
        name: name.into(),
        email: format!("{name}@example.com"),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(Utc::now()),
        date_password_last_updated: None,
        need_update_password: false,
        is_first_login: false,
        last_login: None,
        lang: None,
        system_roles: Vec::new(),
        org_roles: Vec::new(),
        meta: Meta::new("test", Utc::now()),
    }
}

struct World {
    store: Store,
    notify: Notify,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let (store, notify, worker) = Self::parts();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(worker.run(async move {
            let _ = stopped.await;
        }));
        Self { store, notify, stop: Some(stop), running }
    }

    fn parts() -> (Store, Notify, Worker) {
        let store = Store::in_memory();
        let (notify, worker) = Notify::new(store.clone(), Arc::new(Utc::now));
        (store, notify, worker)
    }

    async fn add(&self, name: &str) -> Uuid {
        let user = user(name);
        let id = user.id;
        let mut batch = self.store.batch();
        batch.insert(user);
        self.store.commit(batch).await.unwrap();
        id
    }

    async fn mail_to(&self, server: &SmtpServer) {
        let mut batch = self.store.batch();
        batch.put(Settings {
            email_host: server.address.ip().to_string(),
            email_port: server.address.port(),
            email_security_protocol: "none".into(),
            email_host_user: "gatehouse@example.com".into(),
            ..Settings::default()
        });
        batch.put(MailSecret { id: MAIL_SECRET_ID, password: "mail-password".into() });
        self.store.commit(batch).await.unwrap();
        assert!(self.store.system().get::<Settings>(SETTINGS_ID).unwrap().is_some());
    }

    async fn stop(mut self) -> Notify {
        self.stop.take().unwrap().send(()).unwrap();
        self.running.await.unwrap();
        self.notify
    }
}

fn notice(kind: NoticeKind, recipients: &[Uuid]) -> Notice {
    Notice {
        kind,
        org: Uuid::nil(),
        recipients: recipients.to_vec(),
        subject: "Subject\r\nBcc: everybody@example.com".into(),
        text: "first line\nsecond \u{1b}[31mline".into(),
        resource: None,
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came true: {what}");
}

#[tokio::test]
async fn a_notice_lands_in_the_inbox_of_each_recipient_and_of_nobody_else() {
    let world = World::new();
    let (alice, bob, eve) = (world.add("alice").await, world.add("bob").await, world.add("eve").await);
    world.notify.notify(notice(NoticeKind::System, &[alice, bob, alice, Uuid::now_v7()]));
    until("delivered", || world.notify.counts().delivered == 2).await;
    let page = world.notify.messages(alice, None, 0, 10).unwrap();
    assert_eq!(page.total, 1);
    let message = &page.messages[0];
    assert_eq!(message.subject, "Subject  Bcc: everybody@example.com", "one line");
    assert_eq!(message.message, "first line\nsecond [31mline", "text without control characters");
    assert_eq!(world.notify.unread(bob).unwrap(), 1);
    assert_eq!(world.notify.unread(eve).unwrap(), 0);

    // Eve can neither see nor change it.
    assert!(world.notify.message(eve, message.id).is_err());
    assert!(world.notify.delete_message(eve, message.id).await.is_err());
    assert_eq!(world.notify.mark_read(eve, &[message.id]).await.unwrap(), 0);
    assert_eq!(world.notify.unread(alice).unwrap(), 1);

    assert_eq!(world.notify.mark_read(alice, &[message.id]).await.unwrap(), 1);
    assert_eq!(world.notify.mark_read(alice, &[message.id]).await.unwrap(), 0);
    assert_eq!(world.notify.unread(alice).unwrap(), 0);
    assert!(world.notify.message(alice, message.id).unwrap().read_at.is_some());
    assert_eq!(world.notify.messages(alice, Some(false), 0, 10).unwrap().total, 0);
    assert_eq!(world.notify.messages(alice, Some(true), 0, 10).unwrap().total, 1);
    assert_eq!(world.notify.mark_all_read(bob).await.unwrap(), 1);
    world.notify.delete_message(alice, message.id).await.unwrap();
    assert_eq!(world.notify.messages(alice, None, 0, 10).unwrap().total, 0);
}

#[tokio::test]
async fn inboxes_are_paged_newest_first_and_bounded() {
    let world = World::new();
    let alice = world.add("alice").await;
    for i in 0..1_250 {
        let mut one = notice(NoticeKind::System, &[alice]);
        one.subject = format!("number {i}");
        while world.notify.counts().queued - world.notify.counts().delivered > 500 {
            tokio::task::yield_now().await;
        }
        world.notify.notify(one);
    }
    until("delivered", || world.notify.counts().delivered == 1_250).await;
    let page = world.notify.messages(alice, None, 0, 2).unwrap();
    assert!((1_000..1_100).contains(&page.total), "{}", page.total);
    assert_eq!(page.messages[0].subject, "number 1249");
    let next = world.notify.messages(alice, None, 2, 2).unwrap();
    assert_eq!(next.messages[0].subject, "number 1247");
}

#[tokio::test]
async fn a_full_queue_holds_nobody_up_and_every_loss_is_counted() {
    let (_store, notify, worker) = World::parts();
    for _ in 0..5_000 {
        notify.notify(notice(NoticeKind::System, &[]));
    }
    let counts = notify.counts();
    assert_eq!(counts.queued + counts.dropped, 5_000);
    assert!(counts.dropped >= 3_900);
    drop(worker);
    notify.notify(notice(NoticeKind::System, &[]));
    assert_eq!(notify.counts().dropped, counts.dropped + 1, "also when the worker has ended");
}

#[tokio::test]
async fn mail_goes_to_each_recipient_apart_and_headers_cannot_be_injected() {
    let world = World::new();
    let server = SmtpServer::start().await;
    world.mail_to(&server).await;
    let (alice, bob) = (world.add("alice").await, world.add("bob").await);
    world.notify.notify(notice(NoticeKind::System, &[alice, bob]));
    until("sent", || world.notify.counts().mail_sent == 2).await;
    let seen = server.seen();
    assert!(seen.contains("RCPT TO:<alice@example.com>") && seen.contains("RCPT TO:<bob@example.com>"), "{seen}");
    assert!(seen.contains("MAIL FROM:<gatehouse@example.com>"), "{seen}");
    assert!(seen.contains("AUTH PLAIN "), "{seen}");
    assert!(seen.contains("first line"), "{seen}");
    assert!(!seen.lines().any(|l| l.starts_with("Bcc:")), "{seen}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_one_time_code_is_mailed_and_kept_in_no_inbox() {
    let world = World::new();
    let alice = world.add("alice").await;
    world.notify.notify(notice(NoticeKind::Credential, &[alice]));
    until("counted as lost without a mail server", || world.notify.counts().failed == 1).await;
    let server = SmtpServer::start().await;
    world.mail_to(&server).await;
    world.notify.notify(notice(NoticeKind::Credential, &[alice]));
    until("sent", || world.notify.counts().mail_sent == 1).await;
    assert_eq!(world.notify.messages(alice, None, 0, 10).unwrap().total, 0);
}

#[tokio::test]
async fn a_letter_that_is_refused_for_good_does_not_hold_up_the_next() {
    let world = World::new();
    let server = SmtpServer::start().await;
    world.mail_to(&server).await;
    let alice = world.add("alice").await;
    *server.mood.lock() = Mood::Never;
    world.notify.notify(notice(NoticeKind::System, &[alice]));
    until("given up", || world.notify.counts().mail_failed == 1).await;
    *server.mood.lock() = Mood::Good;
    world.notify.notify(notice(NoticeKind::System, &[alice]));
    until("sent", || world.notify.counts().mail_sent == 1).await;
}

#[tokio::test]
async fn a_letter_waits_for_a_server_that_is_busy_and_inboxes_do_not_wait_with_it() {
    let world = World::new();
    let server = SmtpServer::start().await;
    world.mail_to(&server).await;
    let alice = world.add("alice").await;
    *server.mood.lock() = Mood::Later;
    world.notify.notify(notice(NoticeKind::System, &[alice]));
    until("tried", || server.seen().contains("RCPT")).await;
    for _ in 0..10 {
        world.notify.notify(notice(NoticeKind::System, &[alice]));
    }
    until("delivered", || world.notify.counts().delivered == 11).await;
    assert_eq!((world.notify.counts().mail_sent, world.notify.counts().mail_failed), (0, 0));
    *server.mood.lock() = Mood::Good;
    until("sent after the pause", || world.notify.counts().mail_sent == 11).await;
}

#[tokio::test]
async fn what_is_queued_is_delivered_at_shutdown() {
    let world = World::new();
    let server = SmtpServer::start().await;
    world.mail_to(&server).await;
    let alice = world.add("alice").await;
    for _ in 0..20 {
        world.notify.notify(notice(NoticeKind::System, &[alice]));
    }
    let notify = world.stop().await;
    let counts = notify.counts();
    assert_eq!((counts.delivered, counts.mail_sent, counts.dropped), (20, 20, 0));
}

#[tokio::test]
async fn the_test_button_says_what_is_wrong() {
    let (store, notify, _worker) = World::parts();
    assert!(matches!(notify.send_test("a@example.com").await, Err(MailError::NotConfigured)));
    let server = SmtpServer::start().await;
    let config = server.config();
    notify.send_test_with(&config, "a@example.com").await.unwrap();
    assert!(server.seen().contains("test mail"));
    assert!(matches!(notify.send_test_with(&config, "nonsense").await, Err(MailError::Address(_))));
    *server.mood.lock() = Mood::Never;
    let error = notify.send_test_with(&config, "a@example.com").await.unwrap_err();
    assert!(matches!(error, MailError::Permanent { .. }) && error.to_string().contains("no such user"), "{error}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = MailConfig { port: closed.port(), ..config };
    let error = notify.send_test_with(&nobody, "a@example.com").await.unwrap_err();
    assert!(matches!(error, MailError::Transient { .. }), "{error}");
    assert!(!error.to_string().contains("mail-password"));
    drop(store);
}

/// CVE-2026-31798 is about a gateway without TLS validation. Ours has no switch for that, and with STARTTLS asked for
/// nothing is sent, the password least of all, when the server does not offer it or has a wrong certificate.
#[tokio::test]
async fn cve_2026_31798_mail_without_the_tls_that_was_asked_for_is_not_sent() {
    let (_store, notify, _worker) = World::parts();
    let server = SmtpServer::start().await;
    for security in [MailSecurity::StartTls, MailSecurity::Tls] {
        let config = MailConfig { security, ..server.config() };
        let error = tokio::time::timeout(Duration::from_secs(30), notify.send_test_with(&config, "a@example.com"));
        assert!(error.await.unwrap().is_err());
    }
    let seen = server.seen();
    assert!(!seen.contains("AUTH") && !seen.contains("MAIL FROM"), "{seen}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_after_a_while() {
    let (_store, notify, _worker) = World::parts();
    let server = SmtpServer::start().await;
    *server.mood.lock() = Mood::Silent;
    tokio::time::pause();
    let error = notify.send_test_with(&server.config(), "a@example.com").await.unwrap_err();
    assert!(matches!(error, MailError::Transient { .. } | MailError::Timeout { .. }), "{error}");
}
