//! Offline verification and export: any change to any byte is found, and where.

use std::{
    cell::RefCell,
    fs::{self, OpenOptions},
    io::BufReader,
    path::Path,
};

use chrono::Utc;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_store::{
    CheckpointSigner, Store,
    ledger::{Report, VerifyOptions, export, verify, verify_export},
};
use uuid::Uuid;

use crate::common::{ROOT, append, entry, entry_at, signer, small_segments};

fn check(dir: &Path) -> Report {
    verify(dir, &ROOT, &VerifyOptions::default()).unwrap()
}

/// Three segments, several checkpoints, closed cleanly.
fn small_ledger(dir: &Path) -> std::sync::Arc<gatehouse_store::MemorySigner> {
    let signer = signer();
    for round in 0..4 {
        let store = Store::open(dir, &ROOT, small_segments(&signer, 900)).unwrap();
        append(&store, [entry(round * 2), entry(round * 2 + 1)]);
    }
    signer
}

#[test]
fn every_flipped_byte_is_found_and_located() {
    let tmp = tempfile::tempdir().unwrap();
    small_ledger(tmp.path());
    let clean = check(tmp.path());
    assert!(clean.is_ok() && clean.segments >= 2 && clean.checkpoints == 4 && clean.entries == 8, "{clean:?}");
    assert_eq!((clean.signed_through, clean.unsettled_bytes), (8, 0));
    let mut flipped = 0;
    for file in crate::common::files(&tmp.path().join("ledger")) {
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        let head = file.ends_with("head");
        for at in 0..good.len() {
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, &bad).unwrap();
            let report = check(tmp.path());
            let problem = report.problem.unwrap_or_else(|| panic!("{} byte {at} went unnoticed", file.display()));
            assert_eq!(problem.file, file, "byte {at}: {}", problem.what);
            // The frame or line in which it is begins at most one frame earlier.
            let offset = usize::try_from(problem.offset).unwrap();
            assert!(head || (offset <= at && at - offset < 700), "{} byte {at} located at {offset}", file.display());
            bad[at] = good[at];
            flipped += 1;
        }
        fs::write(&file, &good).unwrap();
    }
    assert!(flipped > 3000);
    assert_eq!(check(tmp.path()), clean);
}

#[test]
fn every_cut_is_found() {
    let tmp = tempfile::tempdir().unwrap();
    small_ledger(tmp.path());
    for file in crate::common::files(&tmp.path().join("ledger")) {
        let good = fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(7) {
            OpenOptions::new().write(true).open(&file).unwrap().set_len(at as u64).unwrap();
            assert_eq!(check(tmp.path()).problem.unwrap().file, file, "cut at {at}");
            fs::write(&file, &good).unwrap();
        }
    }
    for file in crate::common::files(&tmp.path().join("ledger")) {
        let good = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(check(tmp.path()).problem.is_some(), "{} is gone", file.display());
        fs::write(&file, &good).unwrap();
    }
    assert!(check(tmp.path()).is_ok());
}

#[test]
fn frames_that_are_swapped_between_places_are_found() {
    let tmp = tempfile::tempdir().unwrap();
    small_ledger(tmp.path());
    let first = tmp.path().join("ledger/segment-0000000001");
    let bytes = fs::read(&first).unwrap();
    let length = |at: usize| 4 + u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (a, b) = (98, 98 + length(98));
    let end = b + length(b);
    let swapped = [&bytes[..a], &bytes[b..end], &bytes[a..b], &bytes[end..]].concat();
    let repeated = [&bytes[..b], &bytes[a..b], &bytes[end..]].concat();
    for bad in [swapped, repeated] {
        fs::write(&first, bad).unwrap();
        let problem = check(tmp.path()).problem.unwrap();
        assert!(problem.file == first && problem.offset <= b as u64, "{problem:?}");
    }
}

#[test]
fn only_the_keys_of_the_box_may_have_signed() {
    let tmp = tempfile::tempdir().unwrap();
    let own = small_ledger(tmp.path());
    let with = |key: Vec<u8>, former_keys| VerifyOptions { public_key: Some(key), former_keys, replay: None };
    let stranger = signer().public_key();
    assert!(verify(tmp.path(), &ROOT, &with(own.public_key(), vec![])).unwrap().is_ok());
    assert!(verify(tmp.path(), &ROOT, &with(stranger.clone(), vec![own.public_key()])).unwrap().is_ok());
    let problem = verify(tmp.path(), &ROOT, &with(stranger, vec![])).unwrap().problem.unwrap();
    assert!(problem.what.contains("not one of the box"), "{}", problem.what);
    assert!(matches!(
        verify(tmp.path(), &[1; 32], &VerifyOptions::default()),
        Err(gatehouse_store::StoreError::WrongKey)
    ));
}

#[test]
fn recordings_are_checked_through_the_hook() {
    let tmp = tempfile::tempdir().unwrap();
    let store = Store::open(tmp.path(), &ROOT, small_segments(&signer(), 1 << 20)).unwrap();
    let mut end = entry_at(1, Utc::now(), Uuid::nil(), LedgerKind::SessionEnd);
    end.body["replay"] = serde_json::json!({ "file": "2026/a.ghr", "sha256": "00", "size": 7 });
    let mut unrecorded = entry_at(2, Utc::now(), Uuid::nil(), LedgerKind::SessionEnd);
    unrecorded.body["replay"] = serde_json::Value::Null;
    append(&store, [entry(0), end, unrecorded]);
    drop(store);
    let asked = RefCell::new(Vec::new());
    let hook = |_: &gatehouse_model::ledger::LedgerEntry, replay: &serde_json::Value| {
        asked.borrow_mut().push(replay["file"].as_str().unwrap().to_owned());
        Err("its digest differs".to_owned())
    };
    let report = verify(tmp.path(), &ROOT, &VerifyOptions { replay: Some(&hook), ..VerifyOptions::default() }).unwrap();
    assert_eq!(*asked.borrow(), ["2026/a.ghr"]);
    assert!(!report.is_ok() && report.problem.is_none());
    assert_eq!((report.replay_problems[0].seq, report.replays_failed), (2, 1));
}

#[test]
fn an_export_is_verifiable_with_the_public_key_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = small_ledger(tmp.path());
    let key = signer.public_key();
    let mut text = Vec::new();
    assert_eq!(export(tmp.path(), &ROOT, None, &mut text).unwrap(), 8);
    let verify = |bytes: &[u8]| verify_export(&mut BufReader::new(bytes), &key);
    let report = verify(&text).unwrap();
    assert_eq!((report.entries, report.signed_through), (8, 8));
    assert!(std::str::from_utf8(&text).unwrap().lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()));
    assert_eq!(verify_export(&mut BufReader::new(text.as_slice()), &[1; 32]).unwrap().signed_through, 0);
    let mut signed = Vec::new();
    export(tmp.path(), &ROOT, Some(&*signer), &mut signed).unwrap();
    assert_eq!(verify(&signed).unwrap().signed_through, 8);
    let lines: Vec<&[u8]> = signed.split_inclusive(|b| *b == b'\n').collect();
    for skip in 0..lines.len() {
        let without: Vec<u8> =
            lines.iter().enumerate().filter(|(n, _)| *n != skip).flat_map(|(_, l)| l.iter().copied()).collect();
        // Without a checkpoint the later ones still vouch for every entry.
        let checkpoint = lines[skip].starts_with(b"{\"type\":\"checkpoint\"");
        match verify(&without) {
            Ok(report) => assert!(checkpoint && (report.entries, report.signed_through) == (8, 8), "line {skip}"),
            Err(e) => assert!(e.starts_with("line ") || e.contains("cut off"), "{e}"),
        }
    }
    // Content of entries and hashes, changed one byte at a time.
    let line = signed.windows(14).position(|w| w == b"\"type\":\"entry\"").unwrap();
    for at in line..line + 300 {
        let mut bad = signed.clone();
        bad[at] ^= 2;
        assert!(verify(&bad).is_err(), "byte {at}");
    }
}
