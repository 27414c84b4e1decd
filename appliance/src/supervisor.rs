//! Services as task trees: one that fails is started again with back-off and shown as degraded; the others go on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    /// Failed and waiting to be started again.
    Degraded {
        reason: String,
        restarts: u32,
    },
    Stopped,
}

/// What each service is doing, for `gatehouse status`.
#[derive(Debug, Clone, Default)]
pub(crate) struct States(Arc<Mutex<BTreeMap<&'static str, State>>>);

impl States {
    fn set(&self, name: &'static str, state: State) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state);
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Supervisor {
    tasks: JoinSet<()>,
    pub states: States,
    pub shutdown: CancellationToken,
}

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// A service that has run this long starts over with the first delay.
const HEALTHY: Duration = Duration::from_secs(60);

impl Supervisor {
    pub(crate) fn new() -> Self {
        Self { tasks: JoinSet::new(), states: States::default(), shutdown: CancellationToken::new() }
    }

    /// Runs `make()` for as long as the daemon lives. It is made anew after each failure or panic; a return without an
    /// error is an end only when shutdown was asked for.
    pub(crate) fn start<F, Fut>(&mut self, name: &'static str, make: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (states, shutdown) = (self.states.clone(), self.shutdown.clone());
        states.set(name, State::Running);
        self.tasks.spawn(async move {
            let mut delay = FIRST_DELAY;
            let mut restarts = 0;
            loop {
                let began = Instant::now();
                // A task of its own, so that a panic is an error here and not the end of the supervisor.
                let ended = tokio::spawn(make(shutdown.clone())).await;
                if shutdown.is_cancelled() {
                    states.set(name, State::Stopped);
                    return;
                }
                let reason = match ended {
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(panic) => format!("it panicked: {panic}"),
                };
                if began.elapsed() > HEALTHY {
                    delay = FIRST_DELAY;
                }
                restarts += 1;
                tracing::error!(
                    service = name,
                    error = reason,
                    restarts,
                    "service failed, starting it again in {delay:?}"
                );
                states.set(name, State::Degraded { reason, restarts });
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = shutdown.cancelled() => { states.set(name, State::Stopped); return; }
                }
                delay = (delay * 2).min(LAST_DELAY);
                states.set(name, State::Running);
            }
        });
    }

    /// Asks everything to stop and waits, at most `limit`.
    pub(crate) async fn stop(mut self, limit: Duration) {
        self.shutdown.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, drain).await.is_err() {
            tracing::warn!("some services did not stop within {limit:?} and are cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_failing_service_is_started_again_and_others_go_on() {
        let mut supervisor = Supervisor::new();
        let tries = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&tries);
        supervisor.start("broken", move |shutdown| {
            let counter = Arc::clone(&counter);
            async move {
                match counter.fetch_add(1, Ordering::SeqCst) {
                    0 => anyhow::bail!("first time"),
                    1 => panic!("second time"),
                    _ => {
                        shutdown.cancelled().await;
                        Ok(())
                    }
                }
            }
        });
        supervisor.start("steady", |shutdown| async move {
            shutdown.cancelled().await;
            Ok(())
        });
        let states = supervisor.states.clone();
        for _ in 0..200 {
            if tries.load(Ordering::SeqCst) == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        assert_eq!(states.snapshot()["steady"], State::Running);
        supervisor.stop(Duration::from_secs(5)).await;
        assert_eq!(states.snapshot()["broken"], State::Stopped);
    }
}
