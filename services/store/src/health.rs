//! Whether the store accepts changes, for the supervisor, the status page and metrics.

use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// No change is accepted for now; it is tried again with every commit (a full disk, an unwritable ledger).
    Failing(String),
    /// No change will be accepted before a restart.
    Failed(String),
}

impl Health {
    pub fn is_healthy(&self) -> bool {
        *self == Self::Healthy
    }
}

/// The committer's side. Changes are logged once, when they happen.
pub(crate) struct HealthReporter(watch::Sender<Health>);

impl HealthReporter {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Health::Healthy))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }

    pub(crate) fn get(&self) -> Health {
        self.0.borrow().clone()
    }

    pub(crate) fn set(&self, health: Health) {
        self.0.send_if_modified(|now| {
            // A failure that needs a restart is not forgotten.
            if *now == health || matches!(now, Health::Failed(_)) {
                return false;
            }
            match &health {
                Health::Healthy => tracing::info!("the store accepts changes again"),
                Health::Failing(why) | Health::Failed(why) => {
                    tracing::error!(%why, "the store does not accept changes");
                }
            }
            *now = health;
            true
        });
    }
}
