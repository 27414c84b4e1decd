//! Sessions from admission to their record, without any gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{FileOperation, Session, SessionError as RowError};
use gatehouse_model::user::User;
use gatehouse_record::PoolOptions;
use gatehouse_session::{Ending, FileDraft, OpenSpec, SessionError};
use support::{ORG, World, core};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_leaves_its_row_its_recording_and_two_ledger_entries() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let admission = world.admit("ssh").await.unwrap();
    assert!(admission.needs_secret());
    let session = world.core.open(&admission, OpenSpec::terminal((80, 24), "xterm")).await.unwrap();
    assert_eq!(world.entries(LedgerKind::SessionStart).len(), 1);
    assert!(!world.row(session.id()).is_finished);
    session.output(&Bytes::from_static(b"hello\r\n")).await.unwrap();
    session.typed(3);
    for n in 0..5_000 {
        let draft = FileDraft::new(FileOperation::Mkdir, format!("/tmp/{n}"), Utc::now());
        session.file_row(draft).await.unwrap();
    }
    session.close(Ending::normal("done")).await;
    session.close(Ending::normal("a second time")).await;
    let row = world.row(session.id());
    assert!(row.is_finished && row.is_success && row.has_replay && row.end_reason == "done");
    assert_eq!((row.bytes_in, row.bytes_out), (3, 7));
    let ends = world.entries(LedgerKind::SessionEnd);
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].entry.body["replay"]["digest"], row.replay.unwrap().digest.as_str());
    assert_eq!(world.entries(LedgerKind::FileTransfer).len(), 5_000, "a burst is there to the last row");
    assert_eq!(world.core.live().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let refusal = world.admit("telnet").await.err().unwrap();
    assert_eq!(refusal.code, "asset_protocol_invalid");
    let entries = world.entries(LedgerKind::Operate);
    assert_eq!(entries[0].entry.body["action"], "reject");
    assert_eq!(entries[0].entry.actor, Some(world.user.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_recording_there_is_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions { quota_bytes: Some(0), ..PoolOptions::default() }).await;
    let admission = world.admit("ssh").await.unwrap();
    let error = world.core.open(&admission, OpenSpec::plain("")).await.err().unwrap();
    assert!(matches!(error, SessionError::Unrecordable(_)), "{error}");
    let rows = world.store.in_org(ORG).page::<Session>(None, 9, false).unwrap();
    assert!(rows[0].is_finished && !rows[0].is_success);
    assert_eq!(rows[0].error_reason, Some(RowError::ReplayCreateFailed));
    assert_eq!(world.core.live().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_user_and_a_withdrawn_grant_end_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let admission = world.admit("ssh").await.unwrap();
    let spec = || OpenSpec::terminal((80, 24), "xterm");
    let first = world.core.open(&admission, spec()).await.unwrap();
    let mut user = User::clone(&world.user);
    user.is_active = false;
    let mut batch = world.store.batch();
    batch.put(user.clone());
    world.store.commit(batch).await.unwrap();
    let stop = timeout(Duration::from_secs(5), first.killed()).await.expect("still running");
    assert!(stop.reason.contains("disabled"), "{stop}");
    assert!(first.output(&Bytes::from_static(b"x")).await.is_err());
    user.is_active = true;
    let mut batch = world.store.batch();
    batch.put(user);
    world.store.commit(batch).await.unwrap();
    world.core.read().settled().await;

    let second = world.core.open(&admission, spec()).await.unwrap();
    let mut batch = world.store.batch();
    batch.delete::<AssetPermission>(world.grant);
    world.store.commit(batch).await.unwrap();
    timeout(Duration::from_secs(5), second.killed()).await.expect("still running");
    // Leave that was given before does not outlive the grant.
    world.core.read().settled().await;
    let late = world.core.open(&admission, spec()).await.unwrap();
    assert!(late.check().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_session_is_closed_and_draining_ends_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let admission = world.admit("ssh").await.unwrap();
    let lost = world.core.open(&admission, OpenSpec::plain("")).await.unwrap();
    let id = lost.id();
    drop(lost);
    for _ in 0..100 {
        if world.row(id).is_finished {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.row(id).end_reason, "the connection ended unexpectedly");

    let session = world.core.open(&admission, OpenSpec::plain("")).await.unwrap();
    let door = tokio::spawn(async move {
        let stop = session.killed().await;
        session.close(Ending::normal(stop.reason)).await;
    });
    assert_eq!(world.core.drain(Duration::from_secs(5)).await, 0);
    door.await.unwrap();
    assert_eq!(world.admit("ssh").await.err().unwrap().code, "draining");
    assert!(matches!(world.core.open(&admission, OpenSpec::plain("")).await, Err(SessionError::Draining)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_open_is_closed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let admission = world.admit("ssh").await.unwrap();
    let session = world.core.open(&admission, OpenSpec::terminal((80, 24), "xterm")).await.unwrap();
    session.output(&Bytes::from_static(b"before the crash\r\n")).await.unwrap();
    // Longer than a chunk waits; the "crash" is a second service on the same data while the first is never told.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let again = core(&world.store, dir.path(), PoolOptions::default()).await;
    let row = world.row(session.id());
    let replay = row.replay.expect("the recording is kept");
    assert!(row.is_finished && !replay.complete && replay.size > 0, "{replay:?}");
    assert_eq!(again.live().count(), 0);
    assert_eq!(world.entries(LedgerKind::SessionEnd).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_tells_when_it_was_last_used_and_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), PoolOptions::default()).await;
    let admission = world.admit("ssh").await.unwrap();
    for _ in 0..3 {
        let session = world.core.open(&admission, OpenSpec::plain("")).await.unwrap();
        session.close(Ending::normal("done")).await;
    }
    let last = world.core.open(&admission, OpenSpec::plain("")).await.unwrap();
    let mut account = world.account();
    for _ in 0..200 {
        if account.date_last_login == Some(last.facts().date_start) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        account = world.account();
    }
    assert_eq!(account.date_last_login, Some(last.facts().date_start));
    assert_eq!(account.login_by.as_deref(), Some("Kim(kim)"));
    assert_eq!(account.username, "root");
}
