//! The inbox of each user (JumpServer: site messages): writing, listing, marking as read. Only the user's own messages
//! are ever touched; the user is part of every call.

use std::collections::HashMap;
use std::sync::Arc;

use gatehouse_model::notice::{Notice, SiteMessage};
use gatehouse_model::user::User;
use gatehouse_store::{Batch, StoreError};
use uuid::Uuid;

use crate::Notify;

/// Messages that a user keeps; beyond it the oldest go, read ones first.
const MAX_MESSAGES: usize = 1_000;
/// New messages of a user between two looks at how many there are.
const TRIM_EVERY: u32 = 100;
/// Records in one batch.
const BATCH: usize = 256;
/// Longest subject and text that are kept (characters).
const MAX_SUBJECT: usize = 256;
const MAX_TEXT: usize = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("the message was not found")]
    NotFound,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Part of an inbox, newest first.
#[derive(Debug, Clone, Default)]
pub struct MessagePage {
    pub messages: Vec<Arc<SiteMessage>>,
    /// Messages that match, on all pages.
    pub total: usize,
}

/// How many messages each user got since the last look.
#[derive(Default)]
pub(crate) struct Trim {
    since: HashMap<Uuid, u32>,
}

impl Trim {
    fn is_due(&mut self, user: Uuid) -> bool {
        let since = self.since.entry(user).or_default();
        *since += 1;
        if *since < TRIM_EVERY {
            return false;
        }
        self.since.remove(&user);
        true
    }
}

/// Fit to be shown: bounded; line ends stay only where text has lines.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().take(MAX_SUBJECT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn lines(text: &str) -> String {
    text.chars().take(MAX_TEXT).filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

impl Notify {
    pub(crate) async fn put(&self, notice: &Notice, users: &[Arc<User>], trim: &mut Trim) -> Result<(), StoreError> {
        let now = (self.inner.clock)();
        let (subject, message) = (one_line(&notice.subject), lines(&notice.text));
        for some in users.chunks(BATCH) {
            let mut batch = self.inner.store.batch();
            for user in some {
                batch.insert(SiteMessage {
                    id: Uuid::now_v7(),
                    user: user.id,
                    kind: notice.kind,
                    org: notice.org,
                    subject: subject.clone(),
                    message: message.clone(),
                    resource: notice.resource,
                    has_read: false,
                    read_at: None,
                    date_created: now,
                });
                if trim.is_due(user.id) {
                    self.trim(user.id, &mut batch)?;
                }
            }
            self.inner.store.commit(batch).await?;
        }
        Ok(())
    }

    fn trim(&self, user: Uuid, batch: &mut Batch) -> Result<(), StoreError> {
        let mut all = self.all(user)?;
        let surplus = all.len().saturating_sub(MAX_MESSAGES);
        all.sort_by_key(|m| (!m.has_read, m.id));
        for message in all.into_iter().take(surplus) {
            batch.delete::<SiteMessage>(message.id);
        }
        Ok(())
    }

    fn all(&self, user: Uuid) -> Result<Vec<Arc<SiteMessage>>, StoreError> {
        self.inner.store.system().find::<SiteMessage>("user", user.as_bytes())
    }

    /// Messages of a user, newest first. `has_read`: only such; `None` is both.
    pub fn messages(
        &self,
        user: Uuid,
        has_read: Option<bool>,
        offset: usize,
        limit: usize,
    ) -> Result<MessagePage, NotifyError> {
        let mut messages = match has_read {
            Some(false) => self.inner.store.system().find::<SiteMessage>("unread", user.as_bytes())?,
            _ => self.all(user)?,
        };
        messages.retain(|m| has_read.is_none_or(|wanted| m.has_read == wanted));
        messages.sort_by_key(|m| std::cmp::Reverse((m.date_created, m.id)));
        let total = messages.len();
        Ok(MessagePage { messages: messages.into_iter().skip(offset).take(limit).collect(), total })
    }

    pub fn message(&self, user: Uuid, id: Uuid) -> Result<Arc<SiteMessage>, NotifyError> {
        let found = self.inner.store.system().get::<SiteMessage>(id)?;
        found.filter(|m| m.user == user).ok_or(NotifyError::NotFound)
    }

    /// For the badge.
    pub fn unread(&self, user: Uuid) -> Result<usize, NotifyError> {
        Ok(self.inner.store.system().find::<SiteMessage>("unread", user.as_bytes())?.len())
    }

    /// Marks some of a user's messages as read; ids of others are passed over. Gives how many changed.
    pub async fn mark_read(&self, user: Uuid, ids: &[Uuid]) -> Result<usize, NotifyError> {
        let mut unread = Vec::new();
        for id in ids {
            let found = self.inner.store.system().get::<SiteMessage>(*id)?;
            unread.extend(found.filter(|m| m.user == user && !m.has_read));
        }
        self.mark(unread).await
    }

    pub async fn mark_all_read(&self, user: Uuid) -> Result<usize, NotifyError> {
        let unread = self.inner.store.system().find::<SiteMessage>("unread", user.as_bytes())?;
        self.mark(unread).await
    }

    async fn mark(&self, unread: Vec<Arc<SiteMessage>>) -> Result<usize, NotifyError> {
        let now = (self.inner.clock)();
        for some in unread.chunks(BATCH) {
            let mut batch = self.inner.store.batch();
            for message in some {
                batch.put(SiteMessage { has_read: true, read_at: Some(now), ..SiteMessage::clone(message) });
            }
            self.inner.store.commit(batch).await?;
        }
        Ok(unread.len())
    }

    pub async fn delete_message(&self, user: Uuid, id: Uuid) -> Result<(), NotifyError> {
        self.message(user, id)?;
        let mut batch = self.inner.store.batch();
        batch.delete::<SiteMessage>(id);
        self.inner.store.commit(batch).await?;
        Ok(())
    }
}
