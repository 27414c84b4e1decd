//! Shared by the integration tests: a pool in a temporary directory and short ways to write and read.
#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(unreachable_pub, reason = "the module is compiled into test binaries, which have no outside")]

use bytes::Bytes;
use gatehouse_record::{Entry, Event, Header, MasterKey, PoolOptions, Reader, RecorderPool, Sealed};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

pub fn key() -> MasterKey {
    MasterKey::new([7; 32])
}

pub fn other_key() -> MasterKey {
    MasterKey::new([8; 32])
}

pub fn header() -> Header {
    Header::term(Uuid::now_v7(), Uuid::now_v7(), 80, 24, "xterm-256color")
}

pub fn out(bytes: impl AsRef<[u8]>) -> Event {
    Event::Output(Bytes::copy_from_slice(bytes.as_ref()))
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub struct Fixture {
    pub dir: TempDir,
    pub pool: RecorderPool,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(PoolOptions::default())
    }

    pub fn with(options: PoolOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pool = RecorderPool::new(dir.path().join("recordings"), key(), options).unwrap();
        Self { dir, pool }
    }

    pub fn path(&self, sealed: &Sealed) -> PathBuf {
        self.pool.dir().join(&sealed.file)
    }

    /// Records all events and closes.
    pub async fn record(&self, header: Header, events: Vec<(Duration, Event)>) -> Sealed {
        let recorder = self.pool.start(header).await.unwrap();
        for (at, event) in events {
            recorder.write(at, event).await.unwrap();
        }
        recorder.close().await.unwrap()
    }

    pub fn reader(&self, sealed: &Sealed) -> Reader {
        Reader::open(self.path(sealed), &key()).unwrap()
    }
}

pub fn all(reader: &mut Reader) -> Vec<Entry> {
    reader.events().map(Result::unwrap).collect()
}

/// Pseudo-random bytes that compress badly and are the same in every run.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// Joins neighbouring pieces of one stream with one time, which is what a writer may split.
pub fn joined(events: impl IntoIterator<Item = (Duration, Event)>) -> Vec<(Duration, Event)> {
    let mut joined: Vec<(Duration, Event)> = Vec::new();
    for (at, event) in events {
        match (joined.last_mut(), &event) {
            (Some((last, Event::Output(before))), Event::Output(more)) if *last == at => {
                *before = [before.as_ref(), more].concat().into();
            }
            (Some((last, Event::Input(before))), Event::Input(more)) if *last == at => {
                *before = [before.as_ref(), more].concat().into();
            }
            _ => joined.push((at, event)),
        }
    }
    joined
}
