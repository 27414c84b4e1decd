//! Bad days: every flipped, missing or added byte is found and located; what a killed daemon leaves is readable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Fixture, all, header, key, ms, noise, out};
use gatehouse_record::{
    Entry, Event, Header, PoolOptions, ReadError, Reader, Reason, RecordError, Sealed, VerifyError, seal_interrupted,
    verify, verify_chain,
};
use std::path::Path;
use std::time::Duration;

/// A small file with one chunk per round, header facts, and all kinds of frames.
async fn small(fixture: &Fixture) -> (Sealed, Vec<u8>) {
    let mut facts: Header = header();
    facts.title = Some("t".into());
    let recorder = fixture.pool.start(facts).await.unwrap();
    for n in 0..4u64 {
        recorder.write(ms(n * 40), out(format!("line {n}\r\n"))).await.unwrap();
        recorder.write(ms(n * 40 + 1), Event::Command { index: n, text: "id".into(), risk: 0 }).await.unwrap();
        recorder.flush().await.unwrap();
    }
    let sealed = recorder.close().await.unwrap();
    let bytes = std::fs::read(fixture.path(&sealed)).unwrap();
    (sealed, bytes)
}

/// Chunks are closed by size or by `flush` only, so that a file has the chunks that a test wants.
fn calm() -> Fixture {
    Fixture::with(PoolOptions { flush_after: Duration::from_secs(3600), ..PoolOptions::default() })
}

/// Offsets at which header, frames and end start, from the lengths in the file itself.
fn parts(bytes: &[u8]) -> Vec<usize> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut starts = vec![0];
    let mut at = 20 + u32_at(12) + u32_at(16) + 32;
    while at < bytes.len() {
        starts.push(at);
        at += 16 + u32_at(at + 4) + 32;
    }
    assert_eq!(at, bytes.len());
    starts
}

fn part_of(starts: &[usize], at: usize) -> u64 {
    *starts.iter().rfind(|start| **start <= at).unwrap() as u64
}

fn check(path: &Path, bytes: &[u8]) -> (VerifyError, VerifyError) {
    std::fs::write(path, bytes).unwrap();
    (verify(path, &key(), None).unwrap_err(), verify_chain(path, None).unwrap_err())
}

#[tokio::test]
async fn every_flipped_byte_is_found_in_its_part() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    assert_eq!(sealed.chunks, 4);
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    for at in 0..good.len() {
        for bit in [0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            let (with_key, without_key) = check(&path, &bad);
            assert_eq!(with_key.offset, part_of(&starts, at), "byte {at}: {with_key}");
            assert_eq!(without_key.offset, part_of(&starts, at), "byte {at}: {without_key}");
        }
    }
    std::fs::write(&path, &good).unwrap();
    verify(&path, &key(), Some(sealed.digest)).unwrap();
}

#[tokio::test]
async fn every_missing_or_added_byte_is_found() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad.remove(at);
        let (with_key, without_key) = check(&path, &bad);
        assert!(with_key.offset <= at as u64 && with_key.offset >= part_of(&starts, at), "byte {at}: {with_key}");
        assert_eq!(with_key.offset, without_key.offset);
        for added in [0, 1, good[at]] {
            let mut bad = good.clone();
            bad.insert(at, added);
            // The same byte twice is the same file if the next byte is equal: it shows at the end of the run.
            let (with_key, without_key) = check(&path, &bad);
            assert!(with_key.offset <= bad.len() as u64, "byte {at}: {with_key}");
            assert_eq!(with_key.offset, without_key.offset);
        }
    }
    let mut bad = good.clone();
    bad.push(0);
    let (with_key, without_key) = check(&path, &bad);
    assert_eq!(with_key, VerifyError { offset: good.len() as u64, reason: Reason::TrailingBytes(1) });
    assert_eq!(with_key, without_key);
}

#[tokio::test]
async fn removed_swapped_and_repeated_chunks_are_found() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let part = |n: usize| &good[starts[n]..starts.get(n + 1).copied().unwrap_or(good.len())];
    let header = part(0);
    let join = |order: &[usize]| {
        let mut bytes = header.to_vec();
        order.iter().for_each(|n| bytes.extend_from_slice(part(*n)));
        bytes
    };
    let last = starts.len() - 1;
    let rest: Vec<usize> = (3..=last).collect();
    for (order, offset) in [
        ([&[2][..], &rest].concat(), starts[1]),
        ([&[2, 1][..], &rest].concat(), starts[1]),
        ([&[1, 1, 2][..], &rest].concat(), starts[2]),
        ([&[1, last][..]].concat(), starts[2]),
        (vec![1, 2], starts[3]),
        (vec![], starts[1]),
    ] {
        let (with_key, without_key) = check(&path, &join(&order));
        assert_eq!((with_key.offset, without_key.offset), (offset as u64, offset as u64), "{order:?}");
    }
}

#[tokio::test]
async fn a_file_cut_anywhere_reads_to_its_last_whole_chunk() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let entries = all(&mut fixture.reader(&sealed));
    let mut lengths = Vec::new();
    for cut in 0..good.len() {
        let (with_key, _) = check(&path, &good[..cut]);
        assert_eq!(
            with_key.offset,
            if starts.contains(&cut) { cut as u64 } else { part_of(&starts, cut) },
            "cut {cut}"
        );
        if cut < starts[1] {
            assert!(Reader::open(&path, &key()).is_err());
            assert!(Reader::open_tolerant(&path, &key()).is_err());
            continue;
        }
        for open in [Reader::open, Reader::open_tolerant] {
            let mut reader = open(&path, &key()).unwrap();
            assert!(!reader.complete());
            let read: Vec<Entry> = all(&mut reader);
            assert_eq!(read, entries[..read.len()]);
            // The index and the end are not events; before them, every whole chunk counts.
            let chunks = starts[1..].iter().filter(|start| **start <= cut).count() - 1;
            assert_eq!(read.len(), entries.len().min(chunks * 2), "cut {cut}");
            lengths.push(read.len());
        }
    }
    lengths.dedup();
    assert!(lengths.len() >= 4, "{lengths:?}");
}

#[tokio::test]
async fn a_changed_chunk_stops_a_strict_reader_and_a_tolerant_one_says_where() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let entries = all(&mut fixture.reader(&sealed));
    let mut bad = good;
    bad[starts[3] + 20] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let mut reader = Reader::open(&path, &key()).unwrap();
    let read: Vec<Result<Entry, ReadError>> = reader.events().collect();
    let (last, good_ones) = read.split_last().unwrap();
    assert!(matches!(last, Err(ReadError::Damaged { offset, .. }) if *offset == starts[3] as u64));
    assert_eq!(good_ones.len(), 4);
    let mut reader = Reader::open_tolerant(&path, &key()).unwrap();
    assert_eq!(all(&mut reader), entries[..4]);
    assert_eq!(reader.damage().unwrap().offset, starts[3] as u64);
}

#[tokio::test]
async fn another_recording_in_its_place_is_found_by_the_digest() {
    let fixture = calm();
    let (sealed, _) = small(&fixture).await;
    let (other, bytes) = small(&fixture).await;
    let path = fixture.path(&sealed);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(verify(&path, &key(), None).unwrap().digest, other.digest);
    for error in
        [verify(&path, &key(), Some(sealed.digest)).unwrap_err(), verify_chain(&path, Some(sealed.digest)).unwrap_err()]
    {
        assert_eq!(error.reason, Reason::Digest);
    }
}

#[tokio::test]
async fn somebody_without_the_key_cannot_mend_the_chain() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let mut bad = good;
    bad[starts[2] + 20] ^= 1;
    // What an attacker can compute: all links anew.
    let mut previous: [u8; 32] = bad[starts[1] - 32..starts[1]].try_into().unwrap();
    for n in 1..starts.len() {
        let end = starts.get(n + 1).copied().unwrap_or(bad.len());
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&previous);
        context.update(&bad[starts[n]..end - 32]);
        previous = context.finish().as_ref().try_into().unwrap();
        bad[end - 32..end].copy_from_slice(&previous);
    }
    std::fs::write(&path, &bad).unwrap();
    verify_chain(&path, None).unwrap();
    assert_eq!(verify_chain(&path, Some(sealed.digest)).unwrap_err().reason, Reason::Digest);
    assert_eq!(
        verify(&path, &key(), None).unwrap_err(),
        VerifyError { offset: starts[2] as u64, reason: Reason::Decrypt }
    );
}

#[tokio::test]
async fn what_a_killed_daemon_left_can_be_sealed_and_then_verifies() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let entries = all(&mut fixture.reader(&sealed));
    for cut in starts[1]..good.len() {
        std::fs::write(&path, &good[..cut]).unwrap();
        let mended = seal_interrupted(&path, &key()).unwrap();
        assert_eq!(mended.file, sealed.file);
        let report = verify(&path, &key(), Some(mended.digest)).unwrap();
        assert!(report.interrupted);
        assert_eq!((report.events, report.bytes), (mended.events, mended.bytes));
        let mut reader = Reader::open(&path, &key()).unwrap();
        assert!(reader.interrupted() && !reader.complete());
        let read = all(&mut reader);
        assert_eq!(read, entries[..read.len()]);
        assert_eq!(read.len() as u64, mended.events);
        assert_eq!(seal_interrupted(&path, &key()).unwrap(), mended, "sealing again changes nothing");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(seal_interrupted(&path, &key()).unwrap(), sealed);
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[tokio::test]
async fn changed_files_are_not_sealed_over() {
    let fixture = calm();
    let (sealed, good) = small(&fixture).await;
    let starts = parts(&good);
    let path = fixture.path(&sealed);
    let unsealed = starts[starts.len() - 2];
    for at in [starts[1] + 30, starts[2] + 1, starts[3] - 1] {
        let mut bad = good[..unsealed].to_vec();
        bad[at] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(seal_interrupted(&path, &key()), Err(ReadError::Damaged { .. })), "byte {at}");
        assert_eq!(std::fs::read(&path).unwrap(), bad, "evidence stays as it is");
    }
}

#[tokio::test]
async fn a_recorder_that_is_dropped_leaves_a_readable_unsealed_file() {
    let fixture = Fixture::new();
    let facts = header();
    let recorder = fixture.pool.start(facts.clone()).await.unwrap();
    let path = fixture.pool.dir().join(recorder.file());
    recorder.write(ms(5), out("last words")).await.unwrap();
    drop(recorder);
    for _ in 0..500 {
        let mut reader = Reader::open(&path, &key()).unwrap();
        let entries = all(&mut reader);
        if let [entry] = entries.as_slice() {
            assert_eq!(entry.event, out("last words"));
            assert!(!reader.complete());
            assert_eq!(verify(&path, &key(), None).unwrap_err().reason, Reason::NotSealed);
            assert_eq!(fixture.pool.start(facts.clone()).await.err(), Some(RecordError::Exists(facts.session)));
            return;
        }
        tokio::time::sleep(ms(10)).await;
    }
    panic!("what waited in memory was lost");
}

#[tokio::test]
async fn the_last_pool_and_recorder_going_still_writes_what_waits() {
    let fixture = Fixture::with(PoolOptions { flush_after: Duration::from_secs(60), ..PoolOptions::default() });
    let recorder = fixture.pool.start(header()).await.unwrap();
    let path = fixture.pool.dir().join(recorder.file());
    recorder.write(ms(5), out(noise(200_000, 9))).await.unwrap();
    let Fixture { dir, pool } = fixture;
    drop(pool);
    drop(recorder);
    for _ in 0..500 {
        let bytes: usize = all(&mut Reader::open(&path, &key()).unwrap())
            .into_iter()
            .map(|entry| match entry.event {
                Event::Output(bytes) => bytes.len(),
                _ => 0,
            })
            .sum();
        if bytes == 200_000 {
            drop(dir);
            return;
        }
        tokio::time::sleep(ms(10)).await;
    }
    panic!("the threads ended before their work was done");
}

#[tokio::test]
async fn files_that_are_no_recordings_are_refused_whatever_they_hold() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("x.ghr");
    let (_, good) = {
        let calm = calm();
        small(&calm).await
    };
    let mut newer = good.clone();
    newer[8] = 2;
    let mut huge = good;
    huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, reason) in [
        (Vec::new(), Reason::Truncated("header")),
        (vec![0; 100], Reason::NotAContainer),
        (noise(5_000, 4), Reason::NotAContainer),
        (newer, Reason::Version(2)),
        (huge, Reason::Header("length")),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(verify(&path, &key(), None).unwrap_err(), VerifyError { offset: 0, reason });
        assert!(Reader::open_tolerant(&path, &key()).is_err());
    }
    assert!(matches!(Reader::open(fixture.dir.path().join("none"), &key()), Err(ReadError::Io { .. })));
    assert!(matches!(verify(fixture.dir.path().join("none"), &key(), None).unwrap_err().reason, Reason::Io(_)));
}
