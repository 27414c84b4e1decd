//! What passes through one open file: counted, hashed in order, and its content kept for audit up to a limit (U09).
//! What must not be here: packets.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use gatehouse_record::KeptFile;
use gatehouse_session::{FileDraft, SessionHandle};
use uuid::Uuid;

/// Bytes of reads or writes that arrive ahead of their turn are held back up to this many; beyond, there is no digest.
const MAX_AHEAD: usize = 4 << 20;

enum Sink {
    /// Keeps the content, and hashes it.
    Kept(KeptFile),
    Hashed(Context),
}

/// The bytes of one direction of one open file.
pub(crate) struct Transfer {
    /// The id of the row to be, and of the kept content.
    id: Uuid,
    sink: Option<Sink>,
    /// Next offset expected.
    next: u64,
    ahead: BTreeMap<u64, Bytes>,
    ahead_bytes: usize,
    /// False once something passed that does not continue from the first byte.
    in_order: bool,
    bytes: u64,
    /// Why the content is not kept although it should be.
    unkept: Option<String>,
}

impl Transfer {
    /// The first byte is about to pass: begins to keep the content when `keep` says so.
    pub(crate) async fn begin(session: &SessionHandle, keep: bool) -> Self {
        let id = Uuid::now_v7();
        if !keep {
            return Self::unkept(id, None);
        }
        match session.files().start(id).await {
            Ok(file) => Self::kept(id, file),
            Err(error) => Self::unkept(id, Some(format!("the content could not be kept: {error}"))),
        }
    }

    /// Nothing passed and nothing will.
    pub(crate) fn empty() -> Self {
        Self::unkept(Uuid::now_v7(), None)
    }

    /// The content is kept under `id`.
    fn kept(id: Uuid, file: KeptFile) -> Self {
        Self::new(id, Sink::Kept(file), None)
    }

    /// Counted and hashed only; with the reason, when the content should have been kept.
    fn unkept(id: Uuid, why: Option<String>) -> Self {
        Self::new(id, Sink::Hashed(Context::new(&SHA256)), why)
    }

    fn new(id: Uuid, sink: Sink, unkept: Option<String>) -> Self {
        Self { id, unkept, sink: Some(sink), next: 0, ahead: BTreeMap::new(), ahead_bytes: 0, in_order: true, bytes: 0 }
    }

    /// Bytes that passed at `offset`. An error means that content which must be kept cannot be: the caller ends.
    pub(crate) async fn passed(&mut self, offset: u64, data: Bytes) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if !self.in_order || data.is_empty() {
            return Ok(());
        }
        if offset != self.next {
            let full = self.ahead_bytes.saturating_add(data.len()) > MAX_AHEAD;
            if offset < self.next || full || self.ahead.contains_key(&offset) {
                self.in_order = false;
                self.ahead.clear();
                self.ahead_bytes = 0;
            } else {
                self.ahead_bytes = self.ahead_bytes.saturating_add(data.len());
                self.ahead.insert(offset, data);
            }
            return Ok(());
        }
        self.append(&data).await?;
        while let Some(data) = self.ahead.remove(&self.next) {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(data.len());
            self.append(&data).await?;
        }
        Ok(())
    }

    async fn append(&mut self, data: &Bytes) -> Result<(), String> {
        self.next = self.next.saturating_add(data.len() as u64);
        match &mut self.sink {
            Some(Sink::Kept(file)) => file.write(data).await.map_err(|error| error.to_string())?,
            Some(Sink::Hashed(context)) => context.update(data),
            None => {}
        }
        Ok(())
    }

    /// The file is closed: its row, with what passed.
    pub(crate) async fn finish(mut self, mut draft: FileDraft) -> FileDraft {
        let in_order = self.in_order && self.ahead.is_empty();
        draft.id = self.id;
        draft.size = self.bytes;
        draft.reason = self.unkept.take().unwrap_or_default();
        match self.sink.take() {
            Some(Sink::Hashed(context)) if in_order => draft.sha256 = hex(context.finish().as_ref()),
            Some(Sink::Kept(file)) if in_order && self.bytes > 0 => match file.finish().await {
                Ok(kept) => {
                    draft.sha256 = hex(&kept.sha256);
                    draft.has_file = kept.kept > 0;
                    if kept.kept < kept.bytes {
                        draft.reason = format!("only the first {} bytes of the content are kept", kept.kept);
                    }
                }
                Err(error) => draft.reason = format!("the content could not be kept: {error}"),
            },
            Some(Sink::Kept(file)) => {
                if in_order {
                    draft.sha256 = hex(Context::new(&SHA256).finish().as_ref());
                }
                if let Err(error) = file.abort().await {
                    tracing::warn!(%error, "a kept file that is not wanted could not be removed");
                }
            }
            Some(Sink::Hashed(_)) | None => {}
        }
        if !in_order {
            draft.reason = "the bytes did not pass in order, so there is no digest".to_owned();
        }
        draft
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abcdef".
    const ABCDEF: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

    async fn run(parts: &[(u64, &'static str)]) -> FileDraft {
        let mut transfer = Transfer::unkept(Uuid::nil(), None);
        for (offset, data) in parts {
            transfer.passed(*offset, Bytes::from_static(data.as_bytes())).await.unwrap();
        }
        let at = chrono::Utc::now();
        transfer.finish(FileDraft::new(gatehouse_model::session::FileOperation::Upload, "f", at)).await
    }

    #[tokio::test]
    async fn parts_are_hashed_in_the_order_of_the_file() {
        for parts in [
            vec![(0, "abcdef")],
            vec![(0, "abc"), (3, "def")],
            vec![(3, "def"), (0, "abc")],
            vec![(4, "ef"), (2, "cd"), (0, "ab")],
        ] {
            let summary = run(&parts).await;
            assert_eq!((summary.sha256.as_str(), summary.size), (ABCDEF, 6), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn gaps_and_repeats_leave_no_digest() {
        for parts in [vec![(1, "bc")], vec![(0, "abc"), (4, "ef")], vec![(0, "abc"), (0, "abc")]] {
            let summary = run(&parts).await;
            assert!(summary.sha256.is_empty() && !summary.reason.is_empty(), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn what_is_held_back_is_bounded() {
        let mut transfer = Transfer::unkept(Uuid::nil(), None);
        let block = Bytes::from(vec![0; 256 << 10]);
        for n in 1..100_u64 {
            transfer.passed(n * block.len() as u64, block.clone()).await.unwrap();
            assert!(transfer.ahead_bytes <= MAX_AHEAD);
        }
        assert!(!transfer.in_order);
    }
}
