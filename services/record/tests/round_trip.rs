//! What is written is what is read: all kinds of events, any sizes, seeking, positions, facts, and nothing in clear.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use bytes::Bytes;
use common::{Fixture, all, header, joined, key, ms, noise, other_key, out};
use gatehouse_record::library;
use gatehouse_record::{
    Entry, Event, MAX_TEXT, PoolOptions, ReadError, Reader, Reason, RecordError, TrackKind, verify, verify_chain,
};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use uuid::Uuid;

fn event() -> impl Strategy<Value = Event> {
    let bytes = || {
        prop_oneof![
            8 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => (0usize..200_000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        ]
        .prop_map(Bytes::from)
    };
    let text = || "\\PC{0,40}";
    prop_oneof![
        6 => bytes().prop_map(Event::Output),
        3 => bytes().prop_map(Event::Input),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(cols, rows)| Event::Resize { cols, rows }),
        1 => (any::<u64>(), text(), any::<u8>()).prop_map(|(index, text, risk)| Event::Command { index, text, risk }),
        1 => text().prop_map(Event::Marker),
        1 => (any::<u128>(), text(), text())
            .prop_map(|(id, op, path)| Event::File { id: Uuid::from_u128(id), op, path }),
        1 => Just(Event::Pause),
        1 => Just(Event::Resume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_events_comes_back(
        steps in proptest::collection::vec((0u64..3_000_000, event()), 0..60),
        title in proptest::option::of("\\PC{0,60}"),
        shell in proptest::option::of("/bin/[a-z]{1,8}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            let fixture = Fixture::new();
            let mut facts = header();
            (facts.title, facts.shell) = (title, shell);
            let mut at = Duration::ZERO;
            let events: Vec<(Duration, Event)> = steps
                .into_iter()
                .map(|(step, event)| {
                    at += Duration::from_micros(step);
                    (at, event)
                })
                .collect();
            let sealed = fixture.record(facts.clone(), events.clone()).await;
            let mut reader = fixture.reader(&sealed);
            // The file keeps microseconds.
            facts.started = chrono::DateTime::from_timestamp_micros(facts.started.timestamp_micros()).unwrap();
            assert_eq!(reader.header(), &facts);
            assert!(reader.complete());
            assert_eq!(reader.duration(), Some(events.last().map_or(Duration::ZERO, |last| last.0)));
            let entries = all(&mut reader);
            assert_eq!(reader.event_count(), Some(entries.len() as u64));
            assert!(entries.iter().enumerate().all(|(n, entry)| entry.position == n as u64));
            assert_eq!(joined(entries.into_iter().map(|entry| (entry.at, entry.event))), joined(events));
            let report = verify(fixture.path(&sealed), &key(), Some(sealed.digest)).unwrap();
            assert_eq!((report.chunks, report.events, report.bytes), (sealed.chunks, sealed.events, sealed.bytes));
            assert_eq!((report.duration, report.digest, report.interrupted), (sealed.duration, sealed.digest, false));
            let chain = verify_chain(fixture.path(&sealed), Some(sealed.digest)).unwrap();
            assert_eq!((chain.frames, chain.bytes, chain.session), (sealed.chunks + 2, sealed.bytes, facts.session));
        });
    }
}

#[tokio::test]
async fn seeking_lands_on_the_same_events_as_reading_from_the_start() {
    let fixture = Fixture::new();
    // Enough chunks that the index thins out: 1,500 chunks, several events of equal time across chunk borders.
    let mut events = Vec::new();
    for n in 0..3_000u64 {
        events.push((ms(n / 3 * 10), out(noise(33_000, n))));
    }
    let sealed = fixture.record(header(), events).await;
    assert!(sealed.chunks > 1_024, "the index must have thinned out, {} chunks", sealed.chunks);
    let mut reader = fixture.reader(&sealed);
    let facts: Vec<(u64, Duration)> = all(&mut reader).iter().map(|entry| (entry.position, entry.at)).collect();
    let end = facts.last().unwrap().1;
    for at in [ms(0), ms(1), ms(10), ms(4_999), ms(5_000), ms(9_989), end] {
        reader.seek(at).unwrap();
        let first = reader.events().next().unwrap().unwrap();
        let expected = facts.iter().find(|fact| fact.1 >= at).unwrap();
        assert_eq!((first.position, first.at), *expected, "seek to {at:?}");
    }
    reader.seek(end + ms(1)).unwrap();
    assert!(reader.events().next().is_none());
    for position in [0, 1, 17, 2_000, facts.len() as u64 - 1] {
        reader.seek_position(position).unwrap();
        let rest: Vec<Entry> = reader.events().take(3).map(Result::unwrap).collect();
        assert_eq!(rest[0].position, position);
        assert_eq!(rest[0].at, facts[usize::try_from(position).unwrap()].1);
        assert!(rest.windows(2).all(|pair| pair[1].position == pair[0].position + 1));
    }
    reader.seek_position(facts.len() as u64).unwrap();
    assert!(reader.events().next().is_none());
}

#[tokio::test]
async fn a_position_points_at_the_next_event() {
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    recorder.write(ms(1), out(noise(150_000, 1))).await.unwrap();
    let position = recorder.position();
    recorder.write(ms(2), Event::Command { index: 0, text: "ls".into(), risk: 0 }).await.unwrap();
    recorder.write(ms(3), out(noise(150_000, 2))).await.unwrap();
    let sealed = recorder.close().await.unwrap();
    let mut reader = fixture.reader(&sealed);
    reader.seek_position(position).unwrap();
    let entry = reader.events().next().unwrap().unwrap();
    assert_eq!(entry.event, Event::Command { index: 0, text: "ls".into(), risk: 0 });
}

#[tokio::test]
async fn time_never_runs_back() {
    let fixture = Fixture::new();
    let sealed = fixture.record(header(), vec![(ms(50), out("a")), (ms(20), out("b")), (ms(60), out("c"))]).await;
    let times: Vec<Duration> = all(&mut fixture.reader(&sealed)).iter().map(|entry| entry.at).collect();
    assert_eq!(times, [ms(50), ms(50), ms(60)]);
}

#[tokio::test]
async fn large_text_is_kept_whole_and_too_large_text_is_refused_without_harm() {
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    let large = Event::Marker("x".repeat(MAX_TEXT));
    recorder.write(ms(1), out("before")).await.unwrap();
    recorder.write(ms(1), large.clone()).await.unwrap();
    let refused = recorder.write(ms(2), Event::Marker("x".repeat(MAX_TEXT + 1))).await;
    assert_eq!(refused, Err(RecordError::EventTooLarge { size: MAX_TEXT + 1, limit: MAX_TEXT }));
    recorder.write(ms(3), out("after")).await.unwrap();
    let sealed = recorder.close().await.unwrap();
    let events: Vec<Event> = all(&mut fixture.reader(&sealed)).into_iter().map(|entry| entry.event).collect();
    assert_eq!(events, [out("before"), large, out("after")]);
    verify(fixture.path(&sealed), &key(), Some(sealed.digest)).unwrap();
}

#[tokio::test]
async fn what_was_written_is_on_the_disk_within_a_second_without_closing() {
    let fixture = Fixture::new();
    let facts = header();
    let path = fixture.pool.dir().join(format!("{}/{}.ghr", facts.started.format("%Y-%m-%d"), facts.session));
    let recorder = fixture.pool.start(facts).await.unwrap();
    let mut reader = Reader::open(&path, &key()).unwrap();
    assert!(all(&mut reader).is_empty() && !reader.complete());
    recorder.write(ms(0), out("one keystroke")).await.unwrap();
    // Generous against a busy machine; a writer that waited for a full chunk would never come here.
    for _ in 0..100 {
        tokio::time::sleep(ms(100)).await;
        let mut reader = Reader::open(&path, &key()).unwrap();
        let entries = all(&mut reader);
        if let [entry] = entries.as_slice() {
            assert_eq!(entry.event, out("one keystroke"));
            assert!(!reader.complete());
            return;
        }
    }
    panic!("the open chunk was never written");
}

#[tokio::test]
async fn nothing_readable_reaches_the_disk() {
    let fixture = Fixture::new();
    let mut facts = header();
    facts.title = Some("SECRET-title root@SECRET-host".into());
    facts.shell = Some("/bin/SECRET-shell".into());
    facts.term = "SECRET-term".into();
    // Short ones would not be compressed, long ones would; both must be encrypted.
    let sealed = fixture
        .record(
            facts,
            vec![
                (ms(0), out("SECRET-output")),
                (ms(1), Event::Input(Bytes::from_static(b"SECRET-password"))),
                (ms(2), Event::Command { index: 1, text: "rm SECRET-file".into(), risk: 4 }),
                (ms(3), Event::File { id: Uuid::nil(), op: "SECRET-op".into(), path: "/SECRET-path".into() }),
                (ms(4), out("SECRET ".repeat(20_000))),
            ],
        )
        .await;
    let raw = std::fs::read(fixture.path(&sealed)).unwrap();
    assert!(!raw.windows(6).any(|window| window == b"SECRET"));
    let path = fixture.path(&sealed);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(raw.len() < 4_000, "repetition is compressed, {} bytes", raw.len());
}

#[tokio::test]
async fn another_key_opens_nothing() {
    let fixture = Fixture::new();
    let sealed = fixture.record(header(), vec![(ms(0), out("hello"))]).await;
    let path = fixture.path(&sealed);
    assert!(matches!(
        Reader::open(&path, &other_key()),
        Err(ReadError::Damaged { offset: 0, reason: Reason::Decrypt })
    ));
    let error = verify(&path, &other_key(), None).unwrap_err();
    assert_eq!((error.offset, error.reason), (0, Reason::Decrypt));
    verify_chain(&path, Some(sealed.digest)).unwrap();
}

#[tokio::test]
async fn a_recording_is_never_overwritten() {
    let fixture = Fixture::new();
    let facts = header();
    let recorder = fixture.pool.start(facts.clone()).await.unwrap();
    assert!(fixture.pool.is_open(facts.session));
    assert_eq!(fixture.pool.start(facts.clone()).await.err(), Some(RecordError::Exists(facts.session)));
    recorder.write(ms(0), out("first")).await.unwrap();
    let sealed = recorder.close().await.unwrap();
    assert_eq!(fixture.pool.start(facts.clone()).await.err(), Some(RecordError::Exists(facts.session)));
    assert_eq!(all(&mut fixture.reader(&sealed))[0].event, out("first"));
    assert!(!fixture.pool.is_open(facts.session));
}

#[tokio::test]
async fn a_closed_recording_takes_nothing_more() {
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    let other = recorder.clone();
    recorder.close().await.unwrap();
    assert_eq!(other.write(ms(0), out("late")).await, Err(RecordError::Closed));
    assert_eq!(other.close().await, Err(RecordError::Closed));
}

#[tokio::test]
async fn two_tasks_may_write_one_recording_and_each_keeps_its_order() {
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    let writer = |input: bool| {
        let recorder = recorder.clone();
        tokio::spawn(async move {
            for n in 0..5_000u32 {
                let bytes = Bytes::copy_from_slice(&n.to_le_bytes());
                let event = if input { Event::Input(bytes) } else { Event::Output(bytes) };
                recorder.write(ms(u64::from(n)), event).await.unwrap();
            }
        })
    };
    let (a, b) = (writer(false), writer(true));
    a.await.unwrap();
    b.await.unwrap();
    let sealed = recorder.close().await.unwrap();
    let (mut outputs, mut inputs) = (Vec::new(), Vec::new());
    for entry in all(&mut fixture.reader(&sealed)) {
        match entry.event {
            Event::Output(bytes) => outputs.extend_from_slice(&bytes),
            Event::Input(bytes) => inputs.extend_from_slice(&bytes),
            other => panic!("unexpected {other:?}"),
        }
    }
    let expected: Vec<u8> = (0..5_000u32).flat_map(u32::to_le_bytes).collect();
    assert!(outputs == expected && inputs == expected);
}

#[tokio::test]
async fn the_quota_refuses_new_recordings_first_and_removing_helps() {
    let fixture = Fixture::with(PoolOptions { quota_bytes: Some(400_000), ..PoolOptions::default() });
    let first = header();
    let recorder = fixture.pool.start(first.clone()).await.unwrap();
    assert!(matches!(fixture.pool.remove(first.session), Err(RecordError::Exists(_))), "it is being written");
    let running = fixture.pool.start(header()).await.unwrap();
    recorder.write(ms(0), out(noise(420_000, 3))).await.unwrap();
    let sealed = recorder.close().await.unwrap();
    assert!(matches!(fixture.pool.start(header()).await, Err(RecordError::QuotaExceeded { quota: 400_000, .. })));
    running.write(ms(0), out("still goes on")).await.unwrap();
    running.close().await.unwrap();
    let used = library::usage(fixture.pool.dir()).unwrap();
    assert_eq!((used.files, used.bytes), (2, fixture.pool.used_bytes()));
    assert_eq!(fixture.pool.remove(first.session).unwrap(), sealed.bytes);
    assert_eq!(fixture.pool.remove(first.session).unwrap(), 0);
    fixture.pool.start(header()).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_recording_that_outgrows_the_quota_by_far_fails() {
    let fixture = Fixture::with(PoolOptions { quota_bytes: Some(200_000), ..PoolOptions::default() });
    let recorder = fixture.pool.start(header()).await.unwrap();
    let mut result = Ok(());
    for n in 0..100 {
        result = recorder.write(ms(n), out(noise(60_000, n))).await;
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(RecordError::QuotaExceeded { .. })), "{result:?}");
    assert!(matches!(recorder.failed().await, RecordError::QuotaExceeded { .. }));
}

#[tokio::test]
async fn the_library_counts_what_was_there_before_and_ignores_strangers() {
    let fixture = Fixture::new();
    let sealed = fixture.record(header(), vec![(ms(0), out(noise(10_000, 1)))]).await;
    let session = Reader::open(fixture.path(&sealed), &key()).unwrap().header().session;
    std::fs::write(fixture.pool.dir().join("notes.txt"), "mine").unwrap();
    std::fs::write(fixture.path(&sealed).with_extension("bak"), "mine").unwrap();
    let found = library::list(fixture.pool.dir()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].session, &found[0].file, found[0].bytes), (session, &sealed.file, sealed.bytes));
    assert_eq!(library::locate(fixture.pool.dir(), session).unwrap(), Some(fixture.path(&sealed)));
    assert_eq!(library::locate(fixture.pool.dir(), Uuid::nil()).unwrap(), None);
    tokio::time::sleep(ms(50)).await;
    let again = gatehouse_record::RecorderPool::new(fixture.pool.dir().into(), key(), PoolOptions::default()).unwrap();
    for _ in 0..200 {
        if again.used_bytes() == sealed.bytes {
            break;
        }
        tokio::time::sleep(ms(10)).await;
    }
    assert_eq!(again.used_bytes(), sealed.bytes);
    assert_eq!(library::remove(fixture.pool.dir(), session).unwrap(), sealed.bytes);
    assert_eq!(library::usage(&fixture.pool.dir().join("nowhere")).unwrap(), library::Usage::default());
}

#[test]
fn track_kinds_keep_their_codes() {
    for code in 0..=255u8 {
        assert_eq!(TrackKind::from_code(code).code(), code);
    }
}
