//! The command gate between a user's keys and an asset, both played here byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::rules::{CommandFilter, CommandGroup, CommandGroupType, ManyFilter, RuleAction};
use gatehouse_record::PoolOptions;
use gatehouse_session::{Ending, Gate, GateSink, GateStep, OpenSpec, Passed, SessionHandle, Stop};
use support::{ORG, World, meta};
use uuid::Uuid;

/// What reached the asset, with when, and how often the user was told something.
#[derive(Default)]
struct Asset {
    got: Vec<(Instant, Bytes)>,
    told: usize,
}

impl Asset {
    fn bytes(&self) -> Vec<u8> {
        self.got.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }
}

impl GateSink for Asset {
    async fn step(&mut self, step: GateStep) -> Result<(), Stop> {
        match step {
            GateStep::Forward(bytes) => self.got.push((Instant::now(), bytes)),
            GateStep::Tell(_) => self.told += 1,
        }
        Ok(())
    }
}

struct Stage {
    world: World,
    session: SessionHandle,
    gate: Gate,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// A session at a shell's prompt in which `rm` is forbidden.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path(), PoolOptions::default()).await;
        let group = CommandGroup {
            id: Uuid::now_v7(),
            org_id: ORG,
            name: "deleting".into(),
            r#type: CommandGroupType::Command,
            content: "rm".into(),
            ignore_case: true,
            meta: meta(),
        };
        let filter = CommandFilter {
            id: Uuid::now_v7(),
            org_id: ORG,
            name: "no deleting".into(),
            priority: 1,
            users: ManyFilter::All,
            assets: ManyFilter::All,
            accounts: vec!["@ALL".into()],
            command_groups: vec![group.id],
            action: RuleAction::Reject,
            reviewers: Vec::new(),
            is_active: true,
            meta: meta(),
        };
        let mut batch = world.store.batch();
        batch.put(group).put(filter);
        world.store.commit(batch).await.unwrap();
        world.core.read().settled().await;
        let admission = world.admit("ssh").await.unwrap();
        let session = world.core.open(&admission, OpenSpec::terminal((80, 24), "xterm")).await.unwrap();
        let gate = Gate::new(session.clone());
        gate.output(b"\x1b[?2004hhost$ ").await.unwrap();
        Self { world, session, gate, _dir: dir }
    }

    async fn keys(&self, asset: &mut Asset, keys: &'static [u8]) -> Passed {
        self.gate.input(Bytes::from_static(keys), asset).await.unwrap()
    }

    async fn rows(self) -> Vec<(String, u64)> {
        self.gate.close().await;
        self.session.close(Ending::normal("done")).await;
        let entries = self.world.entries(LedgerKind::Command);
        let row = |body: &serde_json::Value| (body["input"].as_str().unwrap().to_owned(), body["risk_level"].as_u64());
        entries.iter().map(|e| row(&e.entry.body)).map(|(text, risk)| (text, risk.unwrap_or_default())).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_line_is_cleared_when_the_asset_is_silent() {
    let stage = Stage::new().await;
    let mut asset = Asset::default();
    assert_eq!(stage.keys(&mut asset, b"rm -rf /").await, Passed::Through);
    stage.gate.output(b"rm -rf /").await.unwrap();
    // The asset draws on for a while, as a prompt with a clock does, each time before the silence is long enough.
    let drawing = {
        let gate = stage.gate.clone();
        tokio::spawn(async move {
            let mut last = Instant::now();
            for _ in 0..10 {
                gate.output(b"\x1b[s\x1b[70G12:00\x1b[u").await.unwrap();
                last = Instant::now();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            last
        })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(stage.keys(&mut asset, b"\r").await, Passed::Refused);
    let last = drawing.await.unwrap();
    assert_eq!(asset.bytes(), b"rm -rf /\x03");
    let cleared = asset.got.last().unwrap().0;
    assert!(cleared >= last + Duration::from_millis(20), "sent while the asset was drawing");
    assert_eq!(asset.told, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asset_that_is_never_silent_is_not_waited_for_for_ever() {
    let stage = Stage::new().await;
    let mut asset = Asset::default();
    stage.keys(&mut asset, b"rm x").await;
    stage.gate.output(b"rm x").await.unwrap();
    let chatter = {
        let gate = stage.gate.clone();
        tokio::spawn(async move {
            loop {
                gate.output(b"\x07").await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), stage.keys(&mut asset, b"\r")).await;
    chatter.abort();
    assert_eq!(refused.expect("waits for ever"), Passed::Refused);
    assert_eq!(asset.bytes(), b"rm x\x03");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_refused_line_in_the_same_slice_does_not_run() {
    let stage = Stage::new().await;
    let mut asset = Asset::default();
    assert_eq!(stage.keys(&mut asset, b"rm -rf /\rtouch /tmp/done\r").await, Passed::Refused);
    assert_eq!(asset.bytes(), b"rm -rf /\x03");
    // The next line, typed after the refusal was shown, runs.
    stage.gate.output(b"rm -rf /^C\r\nhost$ ").await.unwrap();
    assert_eq!(stage.keys(&mut asset, b"ls").await, Passed::Through);
    stage.gate.output(b"ls").await.unwrap();
    assert_eq!(stage.keys(&mut asset, b"\r").await, Passed::Through);
    assert_eq!(asset.bytes(), b"rm -rf /\x03ls\r");
    let rows = stage.rows().await;
    let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
    assert!(texts.contains(&"rm -rf /") && texts.contains(&"ls"), "{rows:?}");
    assert!(!texts.iter().any(|t| t.contains("touch")), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_refused_paste_is_dropped_in_as_many_slices_as_it_comes() {
    let stage = Stage::new().await;
    let mut asset = Asset::default();
    assert_eq!(stage.keys(&mut asset, b"\x1b[200~rm -rf /\rtouch a\r").await, Passed::Refused);
    assert_eq!(asset.bytes(), b"\x1b[200~rm -rf /\x1b[201~\x03");
    for slice in [&b"touch b\rtouch c"[..], b"\x1b[31m\r\x1b[20", b"1~"] {
        assert_eq!(stage.keys(&mut asset, slice).await, Passed::Through);
    }
    assert_eq!(asset.bytes(), b"\x1b[200~rm -rf /\x1b[201~\x03", "nothing of the paste came through");
    stage.gate.output(b"^C\r\nhost$ ").await.unwrap();
    stage.keys(&mut asset, b"ls").await;
    assert!(asset.bytes().ends_with(b"\x03ls"), "what is typed after the paste comes through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paste_whose_end_is_lost_does_not_lock_the_keyboard() {
    let stage = Stage::new().await;
    let mut asset = Asset::default();
    assert_eq!(stage.keys(&mut asset, b"\x1b[200~rm -rf /\r").await, Passed::Refused);
    stage.gate.drop_ahead(Bytes::from_static(b"touch a\r"));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    stage.keys(&mut asset, b"ls").await;
    assert!(asset.bytes().ends_with(b"\x03ls"));
}
