//! What is done now and then: forgetting what is over, and reminding people of passwords that end soon (A39).

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use gatehouse_model::account::Secret;
use gatehouse_model::notice::{Notice, NoticeKind};
use gatehouse_model::session::ConnectionToken;
use gatehouse_model::user::{ApiToken, TempPassword, User};
use gatehouse_store::AllOrgs;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::Identity;
use crate::error::IdentityError;
use crate::policy;

/// How long ended connection tokens and temporary passwords stay visible to their users.
const KEEP_ENDED: TimeDelta = TimeDelta::days(1);
/// Days before the end of a password on which its user is reminded.
const REMIND_DAYS: i64 = 5;

/// Users that were reminded, and when: once a day.
#[derive(Default)]
pub(crate) struct Reminders {
    last: Mutex<HashMap<Uuid, NaiveDate>>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub tokens: usize,
    pub temp_passwords: usize,
    pub connection_tokens: usize,
    pub failures: usize,
    pub reminders: usize,
}

impl Identity {
    /// Call it every minute or so. Nothing depends on it for being secure: what is over is refused whether or not it
    /// is still there.
    pub async fn sweep(&self) -> Result<Swept, IdentityError> {
        let now = self.now();
        let settings = self.settings()?;
        self.inner.parked.sweep(now);
        let mut swept = Swept::default();
        let mut batch = self.store().batch();
        let system = self.store().system();
        for token in system.list::<ApiToken>()? {
            // Tokens of a user that expired or was disabled do not come back to life with it.
            if token.date_expired.is_some_and(|end| end <= now) || !self.is_valid(token.user, now)? {
                batch.delete::<ApiToken>(token.id);
                swept.tokens += 1;
            }
        }
        for temporary in system.list::<TempPassword>()? {
            if temporary.date_expired + KEEP_ENDED <= now {
                batch.delete::<TempPassword>(temporary.id);
                swept.temp_passwords += 1;
            }
        }
        let everywhere = self.store().all_orgs(AllOrgs::crossing_organizations());
        for token in everywhere.list::<ConnectionToken>()? {
            if token.date_expired + KEEP_ENDED <= now {
                batch.delete::<ConnectionToken>(token.id);
                batch.delete::<Secret>(token.id);
                swept.connection_tokens += 1;
            } else if token.is_active && !self.is_valid(token.user, now)? {
                batch.put(ConnectionToken { is_active: false, ..ConnectionToken::clone(&token) });
            }
        }
        swept.failures = self.inner.failures.sweep(now, &settings, &mut batch)?;
        if !batch.is_empty() {
            self.store().commit(batch).await?;
        }
        swept.reminders = self.remind(now)?;
        Ok(swept)
    }

    fn is_valid(&self, user: Uuid, now: DateTime<Utc>) -> Result<bool, IdentityError> {
        Ok(self.store().system().get::<User>(user)?.is_some_and(|u| u.is_valid(now)))
    }

    fn remind(&self, now: DateTime<Utc>) -> Result<usize, IdentityError> {
        let settings = self.settings()?;
        let mut last = self.inner.reminders.last.lock();
        if settings.security_password_expiration_time == 0 {
            last.clear();
            return Ok(0);
        }
        let today = now.date_naive();
        // Only today's are needed to know who was reminded today.
        last.retain(|_, day| *day == today);
        let mut sent = 0;
        for user in self.store().system().list::<User>()? {
            let Some(end) = policy::expires(&user, &settings).filter(|_| user.is_valid(now)) else { continue };
            let left = end - now;
            if left <= TimeDelta::zero() || left > TimeDelta::days(REMIND_DAYS) || last.contains_key(&user.id) {
                continue;
            }
            last.insert(user.id, today);
            sent += 1;
            self.notify(Notice {
                kind: NoticeKind::PasswordExpiring,
                org: Uuid::nil(),
                recipients: vec![user.id],
                subject: "Your password expires soon".to_owned(),
                text: format!(
                    "The password of {} expires on {}. Change it at {} before that.",
                    user.username,
                    end.format("%Y-%m-%d %H:%M UTC"),
                    settings.site_url
                ),
                resource: Some(user.id),
            });
        }
        Ok(sent)
    }
}
