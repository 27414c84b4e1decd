//! Tests: decoders get bytes that nobody authenticated here, and crafted files from somebody who has the key. They
//! may refuse; they may not panic, and not take memory beyond their bounds.

use crate::chain::{Chain, Scratch};
use crate::event::{Header, take_record};
use crate::format::{
    CHUNK_HEAD, CODEC_RAW, CODEC_ZSTD, ChunkHead, End, Fixed, FrameHead, Index, MAX_RAW, Private, Public,
};
use crate::scan::{Scanner, unpack};
use crate::{MasterKey, Reader, Reason, TrackKind, verify};
use bytes::Bytes;
use proptest::prelude::*;
use std::io::Write;
use uuid::Uuid;

fn decompressor() -> zstd::bulk::Decompressor<'static> {
    zstd::bulk::Decompressor::new().unwrap()
}

fn plain(codec: u8, raw_len: usize, body: &[u8]) -> Vec<u8> {
    let mut plain = vec![codec, 0, 0, 0];
    plain.extend_from_slice(&u32::try_from(raw_len).unwrap().to_le_bytes());
    plain.extend_from_slice(body);
    plain
}

proptest! {
    #[test]
    fn decoders_refuse_or_accept_any_bytes_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let shared = Bytes::from(bytes.clone());
        let _ = unpack(&bytes, &mut decompressor());
        let _ = Private::decode(&mut shared.clone());
        let _ = Public::decode(&mut shared.clone()).map(|public| public.started());
        let _ = Index::decode(&bytes);
        let _ = End::decode(&bytes);
        let _ = ChunkHead::take(&mut shared.clone());
        if let Some(head) = bytes.first_chunk() {
            let _ = FrameHead::decode(head);
        }
        if let Some(head) = bytes.first_chunk() {
            let _ = Fixed::decode(head);
        }
        let mut records = shared;
        let before = records.len();
        while let Some((_, event)) = take_record(&mut records) {
            prop_assert!(records.len() < before);
            drop(event);
        }
    }

    #[test]
    fn files_of_any_bytes_after_a_good_start_are_refused(tail in proptest::collection::vec(any::<u8>(), 1..200)) {
        let (_, mut bytes) = Chain::start(&MasterKey::new([1; 32]), &header()).unwrap();
        bytes.extend_from_slice(&tail);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        prop_assert!(verify(file.path(), &MasterKey::new([1; 32]), None).is_err());
        let mut reader = Reader::open_tolerant(file.path(), &MasterKey::new([1; 32])).unwrap();
        prop_assert_eq!(reader.events().count(), 0);
    }
}

fn header() -> Header {
    Header::term(Uuid::nil(), Uuid::nil(), 80, 24, "xterm")
}

#[test]
fn compression_bombs_stay_within_the_bound() {
    let bomb = zstd::bulk::compress(&vec![0; 256 * 1024 * 1024], 3).unwrap();
    assert!(bomb.len() < 64 * 1024);
    for declared in [CHUNK_HEAD, 1_000, MAX_RAW] {
        assert_eq!(unpack(&plain(CODEC_ZSTD, declared, &bomb), &mut decompressor()), Err(Reason::Compression));
    }
    for declared in [0, CHUNK_HEAD - 1, MAX_RAW + 1, u32::MAX as usize] {
        let result = unpack(&plain(CODEC_ZSTD, declared, &bomb), &mut decompressor());
        assert_eq!(result, Err(Reason::Frame("length of the chunk")));
    }
    let short = plain(CODEC_RAW, 100, &[0; 99]);
    assert_eq!(unpack(&short, &mut decompressor()), Err(Reason::Compression));
    assert!(matches!(unpack(&plain(9, 100, &[0; 100]), &mut decompressor()), Err(Reason::Frame(_))));
}

/// Somebody with the key seals chunks that no writer makes.
fn crafted(chunks: &[(ChunkHead, &[u8])]) -> tempfile::NamedTempFile {
    let mut scratch = Scratch::new(1).unwrap();
    let (mut chain, mut bytes) = Chain::start(&MasterKey::new([1; 32]), &header()).unwrap();
    for (head, records) in chunks {
        let raw = [&head.encode()[..], records].concat();
        bytes.extend_from_slice(chain.chunk(&raw, &mut scratch).unwrap());
    }
    bytes.extend_from_slice(&chain.finish(0, false).unwrap());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

fn head(track: TrackKind, records: u32, base_us: u64, first: u64) -> ChunkHead {
    ChunkHead { track, records, base_us, first }
}

#[test]
fn chunks_that_contradict_themselves_do_not_verify() {
    let pause: &[u8] = &[7, 0, 0];
    let key = MasterKey::new([1; 32]);
    let term = TrackKind::Term;
    assert!(verify(crafted(&[(head(term, 1, 0, 0), pause)]).path(), &key, None).is_ok(), "the honest one does");
    for chunks in [
        vec![(head(term, 2, 0, 0), pause)],
        vec![(head(term, 0, 0, 0), pause)],
        vec![(head(term, 1, 0, 5), pause)],
        vec![(head(term, u32::MAX, 0, 0), pause)],
        vec![(head(term, 1, 9, 0), pause), (head(term, 1, 3, 1), pause)],
        vec![(head(term, 1, u64::MAX, 0), &[7, 1, 0][..])],
        vec![(head(term, 1, 0, 0), &[1, 0, 200, 1][..])],
        // The end says that the last event was at 0.
        vec![(head(term, 1, 7, 0), pause)],
    ] {
        let file = crafted(&chunks);
        verify(file.path(), &key, None).unwrap_err();
        let mut reader = Reader::open_tolerant(file.path(), &key).unwrap();
        assert!(reader.events().count() <= 2);
    }
}

#[test]
fn tracks_and_events_of_later_versions_are_skipped() {
    let key = MasterKey::new([1; 32]);
    let file = crafted(&[
        (head(TrackKind::Term, 2, 0, 0), &[7, 0, 0, 250, 0, 3, 1, 2, 3][..]),
        (head(TrackKind::Gfx, 1, 0, 2), &[99, 0, 1, 42]),
        (head(TrackKind::Other(77), 1, 0, 3), &[1, 0, 1, 42]),
        (head(TrackKind::Term, 1, 0, 4), &[8, 0, 0]),
    ]);
    assert_eq!(verify(file.path(), &key, None).unwrap().events, 5);
    let mut reader = Reader::open(file.path(), &key).unwrap();
    let positions: Vec<u64> = reader.events().map(|entry| entry.unwrap().position).collect();
    assert_eq!(positions, [0, 4]);
}

#[test]
fn an_index_that_points_anywhere_leads_to_an_error_and_not_further() {
    let (_, bytes) = Chain::start(&MasterKey::new([1; 32]), &header()).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let file = std::fs::File::open(file.path()).unwrap();
    let (mut scanner, _) = Scanner::open(file, Some(&MasterKey::new([1; 32]))).unwrap();
    for offset in [0, 1, bytes.len() as u64 - 1, bytes.len() as u64 + 1, u64::MAX] {
        scanner.jump(offset).unwrap_err();
    }
}
