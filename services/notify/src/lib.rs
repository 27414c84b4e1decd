//! Telling people things: the inbox of every user, and mail.
//!
//! What lives here: the bounded queue behind `model::notice::Notifier`, the inbox that the API shows (site messages), and
//! mail over SMTP. What must not: deciding what is worth telling, and the words; whoever sends a notice brings both.
//!
//! A notice never holds its sender up. It is queued, and when the queue is full that is logged and counted. Inbox and
//! mail have queues of their own: a mail server that does not answer delays mail and nothing else.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod counts;
mod inbox;
mod mail;
mod outgoing;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gatehouse_model::notice::{Notice, NoticeKind, Notifier, SiteMessage};
use gatehouse_model::settings::{MailSecret, SETTINGS_ID, Settings};
use gatehouse_model::user::User;
use gatehouse_store::{Registry, Store, StoreError};
use tokio::sync::mpsc;
use uuid::Uuid;

pub use counts::Counts;
pub use inbox::{MessagePage, NotifyError};
pub use mail::{MailConfig, MailError, MailSecurity};

use counts::Counters;
use inbox::Trim;
use outgoing::{Letter, Outgoing};

/// Notices that wait to be put into inboxes.
const QUEUE: usize = 1_024;
/// Letters that wait for the mail server.
const LETTERS: usize = 1_024;
/// How long a shutdown waits for what is queued.
const DRAIN: Duration = Duration::from_secs(5);

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The id under which the password of the mail account is kept (`MailSecret`).
pub const MAIL_SECRET_ID: Uuid = SETTINGS_ID;

/// Adds the kinds of record that this service writes, for `Store::open`.
pub fn kinds(registry: Registry) -> Registry {
    registry.with::<SiteMessage>().with::<MailSecret>()
}

/// The service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Notify {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    queue: mpsc::Sender<Notice>,
    pub(crate) counters: Counters,
}

/// The other end of the queue; run it once, beside everything else.
pub struct Worker {
    notify: Notify,
    queue: mpsc::Receiver<Notice>,
}

impl Notifier for Notify {
    fn notify(&self, notice: Notice) {
        let (kind, recipients) = (notice.kind, notice.recipients.len());
        match self.inner.queue.try_send(notice) {
            Ok(()) => self.inner.counters.queued(),
            Err(_) => {
                if let Some(lost) = self.inner.counters.dropped() {
                    tracing::error!(%kind, recipients, lost, "notices are lost: the queue is full or the notifier has ended");
                }
            }
        }
    }
}

impl Notify {
    pub fn new(store: Store, clock: Clock) -> (Self, Worker) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inner = Inner { store, clock, queue: sender, counters: Counters::default() };
        let notify = Self { inner: Arc::new(inner) };
        (notify.clone(), Worker { notify, queue: receiver })
    }

    /// What was sent and lost since the start, for metrics and the status page.
    pub fn counts(&self) -> Counts {
        self.inner.counters.read()
    }

    /// The mail server of the settings; `None`: no mail is sent.
    pub fn mail_config(&self) -> Result<Option<MailConfig>, StoreError> {
        let system = self.inner.store.system();
        let settings = system.get::<Settings>(SETTINGS_ID)?.unwrap_or_default();
        let secret = system.get::<MailSecret>(MAIL_SECRET_ID)?;
        Ok(MailConfig::of(&settings, secret.as_deref()))
    }

    /// Sends a letter now and says what happened, for the "test" button of the mail settings.
    pub async fn send_test(&self, to: &str) -> Result<(), MailError> {
        let config = self.mail_config()?.ok_or(MailError::NotConfigured)?;
        config.send(to, "Gatehouse test mail", "This mail shows that the mail settings of Gatehouse work.\n").await
    }

    /// The same with settings that are not saved yet.
    pub async fn send_test_with(&self, config: &MailConfig, to: &str) -> Result<(), MailError> {
        config.send(to, "Gatehouse test mail", "This mail shows that the mail settings of Gatehouse work.\n").await
    }
}

impl Worker {
    /// Works until `shutdown` is ready, then finishes what is queued, at most 5 seconds.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let (letters, outgoing) = mpsc::channel(LETTERS);
        let mail = tokio::spawn(Outgoing::new(self.notify.clone(), outgoing).run());
        let mut trim = Trim::default();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                notice = self.queue.recv() => match notice {
                    Some(notice) => self.notify.deliver(notice, &letters, &mut trim).await,
                    None => break,
                },
            }
        }
        // Whoever still sends is told that the notifier has ended.
        self.queue.close();
        let drain = async {
            while let Some(notice) = self.queue.recv().await {
                self.notify.deliver(notice, &letters, &mut trim).await;
            }
            drop(letters);
        };
        let ended = tokio::time::timeout(DRAIN, drain).await.is_ok();
        let stop = mail.abort_handle();
        if !ended || tokio::time::timeout(DRAIN, mail).await.is_err() {
            tracing::warn!("notices or mails were left undelivered at shutdown");
            stop.abort();
        }
    }
}

impl Notify {
    async fn deliver(&self, notice: Notice, letters: &mpsc::Sender<Letter>, trim: &mut Trim) {
        let users = match self.recipients(&notice) {
            Ok(users) => users,
            Err(error) => {
                self.inner.counters.failed();
                tracing::error!(%error, kind = %notice.kind, "a notice could not be delivered");
                return;
            }
        };
        // A one-time code has no business in an inbox: it would outlive its use there.
        if notice.kind != NoticeKind::Credential {
            match self.put(&notice, &users, trim).await {
                Ok(()) => self.inner.counters.delivered(users.len() as u64),
                Err(error) => {
                    self.inner.counters.failed();
                    tracing::error!(%error, kind = %notice.kind, "a notice could not be put into inboxes");
                }
            }
        }
        match self.mail_config() {
            Ok(Some(_)) => {}
            Ok(None) => {
                if notice.kind == NoticeKind::Credential {
                    self.inner.counters.failed();
                    tracing::warn!("a one-time code could not be mailed: no mail server is configured");
                }
                return;
            }
            Err(error) => {
                self.inner.counters.failed();
                tracing::error!(%error, "the mail settings could not be read");
                return;
            }
        }
        for user in users {
            let letter = Letter::new(&user.email, &notice, (self.inner.clock)());
            if letters.try_send(letter).is_err()
                && let Some(lost) = self.inner.counters.mail_dropped()
            {
                tracing::error!(lost, "mails are lost: too many wait for the mail server");
            }
        }
    }

    /// The users that still exist, each once.
    fn recipients(&self, notice: &Notice) -> Result<Vec<Arc<User>>, StoreError> {
        let mut users = HashMap::new();
        for id in &notice.recipients {
            if let Some(user) = self.inner.store.system().get::<User>(*id)? {
                users.insert(*id, user);
            }
        }
        Ok(users.into_values().collect())
    }
}
