//! What must happen without anybody asking: built-in records of a new version, expiry of log-ins, tokens and users,
//! retention of the ledger and of recordings (Y40).

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Days, Utc};
use gatehouse_identity::Identity;
use gatehouse_model::asset::Platform;
use gatehouse_model::builtin;
use gatehouse_model::org::Role;
use gatehouse_session::Core;
use gatehouse_store::Store;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(60);
/// Retention looks once an hour: it removes days.
const ROUNDS_PER_RETENTION: u32 = 60;

/// Built-in roles and platforms are what this version says they are.
pub(crate) async fn bring_builtins_forward(store: &Store) -> anyhow::Result<()> {
    let mut batch = store.batch();
    for role in builtin::roles() {
        let known = store.system().get::<Role>(role.id)?;
        if known.is_none_or(|known| known.permissions != role.permissions) {
            batch.put(role);
        }
    }
    for platform in builtin::platforms() {
        let known = store.system().get::<Platform>(platform.id)?;
        let same = |k: &Platform| {
            (&k.protocols, &k.automation, k.su_method)
                == (&platform.protocols, &platform.automation, platform.su_method)
        };
        if known.is_none_or(|known| !same(&known)) {
            batch.put(platform);
        }
    }
    if !batch.is_empty() {
        store.commit(batch).await.context("built-in roles and platforms could not be brought forward")?;
    }
    Ok(())
}

pub(crate) async fn run(core: Core, identity: Identity, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(EVERY);
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        identity.sweep().await.context("expired tokens and users could not be swept")?;
        if round.is_multiple_of(ROUNDS_PER_RETENTION) {
            retention(&core).await?;
        }
        round = round.wrapping_add(1);
    }
}

/// The ledger drops whole segments once everything in them is older than the longest retention of its kinds: a segment holds
/// all kinds, and nothing may go before its time. Recordings and kept files have their own.
async fn retention(core: &Core) -> anyhow::Result<()> {
    let settings = core.settings();
    let now = core.now();
    let kept = [
        settings.login_log_keep_days,
        settings.operate_log_keep_days,
        settings.ftp_log_keep_days,
        settings.terminal_session_keep_duration,
        settings.password_change_log_keep_days,
    ];
    // 0 keeps for ever.
    if let Some(longest) = kept.iter().copied().max().filter(|_| !kept.contains(&0))
        && let Some(expired) = core.store().ledger().expire(before(now, longest)).await?
    {
        tracing::info!(?expired, "old ledger segments were removed; a signed tombstone stands for them");
    }
    if settings.terminal_session_keep_duration > 0 {
        remove_recordings(core, before(now, settings.terminal_session_keep_duration)).await?;
    }
    Ok(())
}

fn before(now: DateTime<Utc>, days: u32) -> DateTime<Utc> {
    now.checked_sub_days(Days::new(u64::from(days))).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

async fn remove_recordings(core: &Core, limit: DateTime<Utc>) -> anyhow::Result<()> {
    let pool = core.recorders().clone();
    let removed = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut removed = 0;
        for found in gatehouse_record::library::list(pool.dir())? {
            if !pool.is_open(found.session) && DateTime::<Utc>::from(found.modified) < limit {
                pool.remove(found.session)?;
                removed += 1;
            }
        }
        Ok(removed)
    })
    .await??;
    if removed > 0 {
        tracing::info!(removed, "recordings past their retention were removed");
    }
    Ok(())
}
