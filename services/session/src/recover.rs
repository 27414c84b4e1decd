//! What a crash left open is closed at the next start: recordings are sealed as far as they were written, rows and ledger
//! say that the end is missing. What must not be here: anything about running sessions.

use gatehouse_model::session::{Replay, Session};
use gatehouse_record::{MasterKey, library, seal_interrupted};
use gatehouse_store::AllOrgs;

use crate::core::{Core, SessionError};
use crate::handle::{hex, write_end};

/// Closes every session row that is still open. Called before any session may start.
pub(crate) async fn close_interrupted(core: &Core, key: &MasterKey) -> Result<(), SessionError> {
    let open = core.store().all_orgs(AllOrgs::crossing_organizations()).find::<Session>("open", b"1")?;
    for row in open {
        let sealed = seal(core, key, &row).await;
        let replay = sealed.unwrap_or_else(|why| {
            tracing::warn!(session = %row.id, why, "the recording of an interrupted session cannot be sealed");
            None
        });
        let ended = replay
            .as_ref()
            .and_then(|r| i64::try_from(r.duration_ms).ok())
            .map_or_else(|| core.now(), |ms| row.date_start + chrono::TimeDelta::milliseconds(ms));
        let row = Session {
            is_finished: true,
            has_replay: replay.is_some(),
            date_end: Some(ended),
            end_reason: "gatehouse stopped while the session ran; its recording is kept as far as it was written"
                .to_owned(),
            replay,
            ..Session::clone(&row)
        };
        tracing::info!(session = %row.id, "a session that was left open is closed");
        write_end(core, row).await;
    }
    Ok(())
}

/// The recording as it is, `complete: false`; `None` when there is none.
async fn seal(core: &Core, key: &MasterKey, row: &Session) -> Result<Option<Replay>, String> {
    let (pool, key, id) = (core.recorders().clone(), key.clone(), row.id);
    let work = move || -> Result<Option<Replay>, String> {
        let Some(path) = library::locate(pool.dir(), id).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let file = path.strip_prefix(pool.dir()).unwrap_or(&path).display().to_string();
        let sealed = seal_interrupted(&path, &key).map_err(|e| e.to_string())?;
        Ok(Some(Replay {
            file,
            digest: hex(&sealed.digest),
            size: sealed.bytes,
            duration_ms: u64::try_from(sealed.duration.as_millis()).unwrap_or(u64::MAX),
            complete: false,
        }))
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}
