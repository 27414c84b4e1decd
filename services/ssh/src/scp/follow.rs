//! Follows the files of a transfer while its bytes pass, and writes their rows. What must not be here: moving the bytes.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::session::FileOperation;
use gatehouse_session::{FileDraft, SessionHandle, Stop};

use super::command::{Direction, Scp};
use super::stream::{Event, Stream};
use crate::sftp::transfer::Transfer;

struct Current {
    path: String,
    began: DateTime<Utc>,
    transfer: Transfer,
    offset: u64,
    size: u64,
}

/// Fed with the side of the connection that carries the files.
pub(super) struct Follow {
    scp: Scp,
    session: SessionHandle,
    keep: bool,
    stream: Stream,
    folders: Vec<String>,
    current: Option<Current>,
}

impl Follow {
    pub(super) fn new(scp: Scp, session: SessionHandle, keep: bool) -> Self {
        Self { scp, session, keep, stream: Stream::default(), folders: Vec::new(), current: None }
    }

    /// The next bytes of the files' side. An error ends the transfer.
    pub(super) async fn data(&mut self, data: &Bytes) -> Result<(), Stop> {
        let mut rest = data.clone();
        while let Some(event) = self.stream.next(&mut rest) {
            match event {
                Event::File { name, size } => {
                    let transfer = Transfer::begin(&self.session, self.keep).await;
                    let path = self.path(&name);
                    self.current = Some(Current { path, began: Utc::now(), transfer, offset: 0, size });
                }
                Event::Data(data) => {
                    if let Some(current) = &mut self.current {
                        let len = data.len() as u64;
                        let passed = current.transfer.passed(current.offset, data).await;
                        passed.map_err(|why| Stop { reason: format!("the content cannot be kept: {why}") })?;
                        current.offset = current.offset.saturating_add(len);
                    }
                }
                Event::FileEnd => self.end_file(None).await?,
                Event::Folder { name } => {
                    if self.scp.direction == Direction::Upload {
                        let path = self.path(&name);
                        self.session.file_row(FileDraft::new(FileOperation::Mkdir, path, Utc::now())).await?;
                    }
                    self.folders.push(name);
                }
                Event::FolderEnd => {
                    self.folders.pop();
                }
                Event::Unknown => {
                    let why = "this is not the scp protocol";
                    self.end_file(Some(why)).await?;
                    return Err(Stop { reason: why.to_owned() });
                }
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        let mut path = self.scp.path.clone();
        // `scp file host:/dir/file` names the file twice: in the command and in the stream.
        if self.folders.is_empty() && path.rsplit('/').next() == Some(name) {
            return path;
        }
        for part in self.folders.iter().map(String::as_str).chain([name]) {
            if !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(part);
        }
        path
    }

    async fn end_file(&mut self, why: Option<&str>) -> Result<(), Stop> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let complete = current.offset == current.size;
        let draft = FileDraft::new(self.scp.operation(), current.path, current.began);
        let mut draft = current.transfer.finish(draft).await;
        match why {
            Some(why) => draft = draft.failed(why),
            None if !complete => draft = draft.failed("the file did not pass in full"),
            None => {}
        }
        self.session.file_row(draft).await
    }

    /// The connection ended.
    pub(super) async fn finish(mut self) -> Result<(), Stop> {
        self.end_file(Some("the connection ended in the middle of the file")).await
    }
}
