//! Kept files: content comes back, the limit holds, changes are found, nothing is in clear.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{key, noise, other_key};
use gatehouse_record::{FileKeeper, KeeperOptions, Kept, ReadError, Reason, RecordError};
use std::io::Read;
use uuid::Uuid;

fn keeper(limit_bytes: u64) -> (tempfile::TempDir, FileKeeper) {
    let dir = tempfile::tempdir().unwrap();
    let keeper =
        FileKeeper::new(dir.path().join("files"), key(), KeeperOptions { limit_bytes, ..KeeperOptions::default() })
            .unwrap();
    (dir, keeper)
}

async fn keep(keeper: &FileKeeper, id: Uuid, content: &[u8]) -> Kept {
    let mut file = keeper.start(id).await.unwrap();
    for piece in content.chunks(30_000) {
        file.write(piece).await.unwrap();
    }
    file.finish().await.unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

fn content(keeper: &FileKeeper, id: Uuid) -> Vec<u8> {
    let mut bytes = Vec::new();
    keeper.open(id).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn content_comes_back_identical() {
    let (_dir, keeper) = keeper(u64::MAX);
    for size in [0, 1, 65_535, 65_536, 1_000_003] {
        let id = Uuid::now_v7();
        let expected = noise(size, size as u64);
        let kept = keep(&keeper, id, &expected).await;
        assert_eq!((kept.bytes, kept.kept), (size as u64, size as u64));
        assert_eq!(kept.sha256.to_vec(), sha256(&expected));
        assert!(content(&keeper, id) == expected, "size {size}");
        let pieces: Vec<u8> = keeper.open(id).unwrap().flat_map(|piece| piece.unwrap().to_vec()).collect();
        assert!(pieces == expected);
        assert!(keeper.open(id).unwrap().complete());
        keeper.verify(id, Some(kept.digest)).unwrap();
        assert_eq!(keeper.verify(id, Some([0; 32])).unwrap_err().reason, Reason::Digest);
    }
}

#[tokio::test]
async fn beyond_the_limit_content_is_hashed_but_not_kept() {
    let (_dir, keeper) = keeper(100_000);
    let id = Uuid::now_v7();
    let whole = noise(250_000, 5);
    let kept = keep(&keeper, id, &whole).await;
    assert_eq!((kept.bytes, kept.kept), (250_000, 100_000));
    assert_eq!(kept.sha256.to_vec(), sha256(&whole));
    assert!(content(&keeper, id) == whole[..100_000]);
}

#[tokio::test]
async fn an_aborted_file_is_gone_and_its_room_free() {
    let (_dir, keeper) = keeper(u64::MAX);
    let id = Uuid::now_v7();
    let mut file = keeper.start(id).await.unwrap();
    file.write(&noise(300_000, 1)).await.unwrap();
    assert!(matches!(keeper.remove(id), Err(RecordError::Exists(_))), "it is being written");
    file.abort().await.unwrap();
    assert!(matches!(keeper.open(id), Err(ReadError::Io { .. })));
    assert_eq!(keeper.used_bytes(), 0);
    keep(&keeper, id, b"again").await;
    assert_eq!(content(&keeper, id), b"again");
    assert!(keeper.remove(id).unwrap() > 0);
    assert!(matches!(keeper.verify(id, None).unwrap_err().reason, Reason::Io(_)));
}

#[tokio::test]
async fn changes_are_found_and_content_is_not_in_clear() {
    let (_dir, keeper) = keeper(u64::MAX);
    let id = Uuid::now_v7();
    let kept = keep(&keeper, id, b"CONFIDENTIAL contract, page 1").await;
    let path = _dir.path().join("files").join(&kept.file);
    let good = std::fs::read(&path).unwrap();
    assert!(!good.windows(12).any(|window| window == b"CONFIDENTIAL"));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        keeper.verify(id, None).unwrap_err();
    }
    std::fs::write(&path, &good).unwrap();
    keeper.verify(id, Some(kept.digest)).unwrap();
    let other = FileKeeper::new(_dir.path().join("files"), other_key(), KeeperOptions::default()).unwrap();
    assert!(matches!(other.open(id), Err(ReadError::Damaged { reason: Reason::Decrypt, .. })));
    // Somebody renames one kept file to another's id.
    let stranger = Uuid::now_v7();
    std::fs::copy(&path, path.with_file_name(format!("{stranger}.ghf"))).unwrap();
    assert!(matches!(keeper.open(stranger), Err(ReadError::Damaged { .. })));
}
