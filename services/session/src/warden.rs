//! Keeps running sessions within their rules: idle and maximum time, and the decision itself, asked again whenever users,
//! grants, rules or assets change and when its answer runs out. One task for all sessions, no timer per session. What must
//! not be here: the rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use gatehouse_model::command::CommandMatcher;
use gatehouse_model::decide::{Allow, Decision, Limits, Request, decide};
use gatehouse_model::grant::Actions;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::admit::Admission;
use crate::core::{Core, WeakCore};
use crate::handle::{SessionHandle, Shared};

/// How often times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Changes that come together are judged together: an import of 10,000 records is not 10,000 rounds.
const TOGETHER: Duration = Duration::from_millis(100);
/// Sessions judged in a row before others get a turn.
const AT_ONCE: usize = 64;

/// What a session is judged by.
pub(crate) struct Watched {
    request: Request,
    user: Uuid,
    asset: Uuid,
    answer: Mutex<Answer>,
    actions: AtomicU16,
}

struct Answer {
    until: DateTime<Utc>,
    rules: Arc<CommandMatcher>,
}

impl Watched {
    pub(crate) fn new(admission: &Admission) -> Self {
        let allow = &admission.allow;
        Self {
            request: admission.request.clone(),
            user: admission.user().id,
            asset: admission.asset().id,
            answer: Mutex::new(Answer {
                until: allow.until,
                rules: Arc::new(CommandMatcher::new(allow.filters.clone())),
            }),
            actions: AtomicU16::new(allow.actions.bits()),
        }
    }

    /// The command filters as they are now.
    pub(crate) fn rules(&self) -> Arc<CommandMatcher> {
        Arc::clone(&self.answer.lock().rules)
    }

    pub(crate) fn actions(&self) -> Actions {
        Actions::from_bits(self.actions.load(Ordering::Relaxed))
    }

    fn renew(&self, allow: &Allow) {
        self.actions.store(allow.actions.bits(), Ordering::Relaxed);
        let mut answer = self.answer.lock();
        answer.until = allow.until;
        answer.rules = Arc::new(CommandMatcher::new(allow.filters.clone()));
    }
}

impl SessionHandle {
    /// What may be done now; follows changes of grants while the session runs.
    pub fn actions(&self) -> Actions {
        self.shared().watched.actions()
    }
}

pub(crate) fn start(core: &Core) {
    tokio::spawn(watch(core.downgrade(), core.read().changes()));
}

async fn watch(core: WeakCore, mut changes: tokio::sync::broadcast::Receiver<()>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let Some(core) = core.upgrade() else { return };
                look_at_times(&core);
            }
            change = changes.recv() => {
                if matches!(change, Err(RecvError::Closed)) {
                    return;
                }
                tokio::time::sleep(TOGETHER).await;
                // Whatever came meanwhile is judged with it.
                changes = changes.resubscribe();
                let Some(core) = core.upgrade() else { return };
                for (n, session) in core.live().all().into_iter().enumerate() {
                    judge(&core, &session);
                    if n % AT_ONCE == AT_ONCE - 1 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

fn look_at_times(core: &Core) {
    let limits = Limits::of(&core.settings());
    let now = core.now();
    for session in core.live().all() {
        session.refresh_watchers();
        if session.idle() >= limits.idle {
            let minutes = limits.idle.as_secs() / 60;
            session.kill(None, &format!("nothing was typed for {minutes} minutes, the session is closed"));
        } else if session.elapsed() >= limits.max {
            let hours = limits.max.as_secs() / 3600;
            session.kill(None, &format!("the session reached its maximum time of {hours} hours"));
        } else if session.watched.answer.lock().until <= now {
            judge(core, &session);
        }
    }
}

/// Asks the decision again; a session that would not be let in now ends.
pub(crate) fn judge(core: &Core, session: &Shared) {
    let watched = &session.watched;
    let Some(facts) = core.read().facts(watched.user, watched.asset) else {
        session.kill(None, "the user or the asset does not exist any more");
        return;
    };
    let request = Request { moment: core.moment(), ..watched.request.clone() };
    match decide(&request, &facts) {
        Decision::Allow(allow) => watched.renew(&allow),
        Decision::Deny { reason } => session.kill(None, &reason.to_string()),
    }
}
