//! When an account was last used and by whom, written behind the session's back: starting a session must not wait for
//! it, and a burst of sessions is one change per account. What must not be here: anything a decision depends on.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use gatehouse_model::account::Account;
use gatehouse_store::Store;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Marks that may wait. Behind them sessions wait.
const QUEUE: usize = 4096;
/// Marks that come together are written together. What is not written when the daemon stops is lost; the sessions
/// themselves tell the same.
const TOGETHER: Duration = Duration::from_secs(1);
/// Changes in flight, so that they share a flush to the disk.
const AT_ONCE: usize = 32;
/// Attempts when somebody else changes the account at the same time.
const ATTEMPTS: usize = 3;

/// One use of an account.
pub(crate) struct Mark {
    pub(crate) org: Uuid,
    pub(crate) account: Uuid,
    pub(crate) at: DateTime<Utc>,
    /// The user, as rows show them.
    pub(crate) by: String,
}

/// Takes marks of sessions that started.
#[derive(Clone)]
pub(crate) struct LastLogins {
    queue: mpsc::Sender<Mark>,
}

impl LastLogins {
    pub(crate) fn start(store: Store) -> Self {
        let (queue, marks) = mpsc::channel(QUEUE);
        tokio::spawn(write(store, marks));
        Self { queue }
    }

    pub(crate) async fn note(&self, mark: Mark) {
        // The task ends with the daemon only; nobody asks then.
        let _ = self.queue.send(mark).await;
    }
}

async fn write(store: Store, mut marks: mpsc::Receiver<Mark>) {
    while let Some(first) = marks.recv().await {
        tokio::time::sleep(TOGETHER).await;
        let mut latest = HashMap::from([(first.account, first)]);
        while let Ok(mark) = marks.try_recv() {
            latest.insert(mark.account, mark);
        }
        futures::stream::iter(latest.into_values()).for_each_concurrent(AT_ONCE, |mark| put(&store, mark)).await;
    }
}

async fn put(store: &Store, mark: Mark) {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let (account, version) = match store.in_org(mark.org).versioned::<Account>(mark.account) {
            Ok(Some(found)) => found,
            // Deleted meanwhile.
            Ok(None) => return,
            Err(error) => {
                last = Some(error);
                break;
            }
        };
        if account.date_last_login.is_some_and(|at| at > mark.at) {
            return;
        }
        let account =
            Account { date_last_login: Some(mark.at), login_by: Some(mark.by.clone()), ..Account::clone(&account) };
        let mut batch = store.batch();
        batch.update(account, version);
        match store.commit(batch).await {
            Ok(()) => return,
            // Somebody else was faster, or the disk says no: another look tells.
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        tracing::warn!(account = %mark.account, %error, "the last use of an account could not be noted");
    }
}

/// Whether two states of an account differ in nothing but their last use.
pub(crate) fn only_used(before: &Account, after: &Account) -> bool {
    let used = before.date_last_login != after.date_last_login || before.login_by != after.login_by;
    used && *after
        == Account {
            date_last_login: after.date_last_login,
            login_by: after.login_by.clone(),
            ..Account::clone(before)
        }
}
