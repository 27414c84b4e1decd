//! One asset's SFTP server as the relay uses it: hand-shake, numbered requests, and questions of our own to it.
//! What must not be here: what users may do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatehouse_dial::{SshChannel, SshReader, SshWriter};
use gatehouse_model::grant::Actions;
use gatehouse_session::{FileDraft, SessionHandle};
use parking_lot::Mutex;
use russh::ChannelMsg;
use tokio::sync::oneshot;

use super::packet::{Fields, Framer, Packet, VERSION, kind, status};
use super::path::{Root, expand_home};

/// Longest wait for an answer to a question of our own.
const ANSWER: Duration = Duration::from_secs(30);
/// Requests without an answer that one asset may have; a client that sends more without reading is cut off.
const MAX_PENDING: usize = 16_384;

/// An opened SFTP session on an asset, as the gateway hands it over: admitted, recorded, the subsystem started.
pub(crate) struct Mounted {
    pub(crate) session: SessionHandle,
    pub(crate) channel: SshChannel,
    /// The platform's `sftp_home`, e.g. `/tmp`; may hold `${ACCOUNT}`, `${HOME}`, `${USER}`.
    pub(crate) home: String,
    /// The account's user name.
    pub(crate) account: String,
    /// The person's user name.
    pub(crate) user: String,
    /// What the grant allows.
    pub(crate) actions: Actions,
    /// Keep the contents of transferred files (U09).
    pub(crate) keep: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SftpError {
    #[error("the asset closed its SFTP session")]
    AssetClosed,
    #[error("the asset does not speak SFTP: {0}")]
    NotSftp(String),
    #[error("the asset did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("too many requests without an answer")]
    Flood,
}

/// Who waits for an answer of the asset.
pub(crate) enum Waiting {
    /// The gateway itself.
    Us(oneshot::Sender<(u8, Bytes)>),
    /// The user; passed on as it is.
    User {
        id: u32,
    },
    Open {
        id: u32,
        opened: Box<super::relay::Opening>,
    },
    Read {
        id: u32,
        handle: u32,
        offset: u64,
    },
    Write {
        id: u32,
        handle: u32,
    },
    Close {
        id: u32,
        handle: u32,
    },
    /// The path in the answer is shown from the user's root.
    Link {
        id: u32,
    },
    /// Audited when the outcome is known.
    Change {
        id: u32,
        draft: Box<FileDraft>,
    },
}

#[derive(Default)]
struct Pending {
    next: u32,
    waiting: HashMap<u32, Waiting>,
    closed: bool,
}

pub(crate) struct Mount {
    pub(crate) session: SessionHandle,
    pub(crate) root: Root,
    pub(crate) actions: Actions,
    pub(crate) keep: bool,
    /// Where the mount hangs in the user's tree; empty when it is all the user sees.
    pub(crate) prefix: Vec<u8>,
    extensions: HashSet<Vec<u8>>,
    writer: SshWriter,
    pending: Mutex<Pending>,
}

impl Mount {
    /// Speaks the hand-shake and finds the root.
    pub(crate) async fn start(mounted: Mounted, prefix: Vec<u8>) -> Result<(Arc<Self>, MountReader), SftpError> {
        let Mounted { session, channel, home, account, user, actions, keep } = mounted;
        let (reader, writer) = channel.split();
        let mut reader = MountReader { reader, framer: Framer::default() };
        let init = Bytes::from([[0, 0, 0, 5, kind::INIT].as_slice(), &VERSION.to_be_bytes()].concat());
        writer.data_bytes(init).await.map_err(|_| SftpError::AssetClosed)?;
        let extensions = read_version(reader.first().await?)?;
        // Before the relay runs there is exactly one request under way, so the next packet is its answer.
        let mut ask = async |path: &[u8]| -> Result<Option<Vec<u8>>, SftpError> {
            let packet = Packet::new(kind::REALPATH, 0).string(path).build();
            writer.data_bytes(packet).await.map_err(|_| SftpError::AssetClosed)?;
            let mut fields = Fields(reader.first().await?);
            let kind = fields.u8().map_err(broken)?;
            let _id = fields.u32().map_err(broken)?;
            read_name(kind, fields.rest())
        };
        let own = ask(b".").await?.unwrap_or_else(|| b"/".to_vec());
        let wanted = expand_home(&home, &account, &user, &own);
        // The root itself may be a link; what lies below is compared with where it really is.
        let real = ask(&wanted).await?.unwrap_or(wanted);
        let mount = Self {
            session,
            root: Root::new(&real),
            actions,
            keep,
            prefix,
            extensions,
            writer,
            pending: Mutex::new(Pending { next: 1, ..Pending::default() }),
        };
        Ok((Arc::new(mount), reader))
    }

    pub(crate) fn has_extension(&self, name: &[u8]) -> bool {
        self.extensions.contains(name)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.pending.lock().closed
    }

    /// Sends a request whose fields after the number are `fields`, and `data` after them without copying it.
    pub(crate) async fn send(&self, kind: u8, waiting: Waiting, fields: &[u8], data: Bytes) -> Result<(), SftpError> {
        let id = {
            let mut pending = self.pending.lock();
            if pending.closed {
                return Err(SftpError::AssetClosed);
            }
            if pending.waiting.len() >= MAX_PENDING {
                return Err(SftpError::Flood);
            }
            // Numbers wrap; one that is still waited for is passed over.
            while pending.waiting.contains_key(&pending.next) {
                pending.next = pending.next.wrapping_add(1);
            }
            let id = pending.next;
            pending.next = id.wrapping_add(1);
            pending.waiting.insert(id, waiting);
            id
        };
        let head = Packet::new(kind, id).raw(fields).build_before(data.len());
        self.writer.data_bytes(head).await.map_err(|_| SftpError::AssetClosed)?;
        if !data.is_empty() {
            self.writer.data_bytes(data).await.map_err(|_| SftpError::AssetClosed)?;
        }
        Ok(())
    }

    /// Who waits for the answer numbered `id`.
    pub(crate) fn answered(&self, id: u32) -> Option<Waiting> {
        self.pending.lock().waiting.remove(&id)
    }

    /// No answers will come any more; answers who still waited.
    pub(crate) fn close(&self) -> Vec<Waiting> {
        let mut pending = self.pending.lock();
        pending.closed = true;
        pending.waiting.drain().map(|(_, waiting)| waiting).collect()
    }

    /// Ends the channel; the asset closes its side.
    pub(crate) async fn hang_up(&self) {
        let _ = self.writer.eof().await;
        let _ = self.writer.close().await;
    }

    async fn ask(&self, kind: u8, path: &[u8]) -> Result<(u8, Bytes), SftpError> {
        let (tell, hear) = oneshot::channel();
        let fields = Packet::field(path);
        self.send(kind, Waiting::Us(tell), &fields, Bytes::new()).await?;
        match tokio::time::timeout(ANSWER, hear).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(SftpError::AssetClosed),
            Err(_) => Err(SftpError::Silent),
        }
    }

    /// Whether `path` (on the asset) lies below the root when links are followed: all of it, or up to its parent for
    /// operations on the link itself. The asset can be changed by others between this and the operation; what it holds
    /// against is a path or a link that leads outside.
    pub(crate) async fn is_inside(&self, path: &[u8], follow: bool) -> Result<bool, SftpError> {
        if self.root.is_all() || path == self.root.path() {
            return Ok(true);
        }
        let parent = super::path::parent(path);
        let asked = if follow { path } else { parent };
        let (kind, body) = self.ask(kind::REALPATH, asked).await?;
        if let Some(real) = read_name(kind, body)? {
            return Ok(self.root.to_user(&real).is_some());
        }
        if !follow {
            // No such folder: the operation fails by itself, and nothing outside is touched.
            return Ok(false);
        }
        // Nothing there yet: its folder must be inside, and it must not be a link to somewhere that does not exist yet.
        let (kind, body) = self.ask(kind::REALPATH, parent).await?;
        let Some(real) = read_name(kind, body)? else { return Ok(false) };
        if self.root.to_user(&real).is_none() {
            return Ok(false);
        }
        let (kind, body) = self.ask(kind::READLINK, path).await?;
        Ok(read_name(kind, body)?.is_none())
    }

    /// The asset's path as this user sees it.
    pub(crate) fn to_user(&self, path: &[u8]) -> Option<Vec<u8>> {
        let inside = self.root.to_user(path)?;
        if self.prefix.is_empty() {
            return Some(inside);
        }
        let mut seen = self.prefix.clone();
        if inside != b"/" {
            seen.extend_from_slice(&inside);
        }
        Some(seen)
    }
}

/// The asset's answers.
pub(crate) struct MountReader {
    reader: SshReader,
    framer: Framer,
}

impl MountReader {
    /// The next packet; `None` when the asset has closed.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SftpError> {
        loop {
            if let Some(packet) = self.framer.pop() {
                return Ok(Some(packet));
            }
            match self.reader.wait().await {
                Some(ChannelMsg::Data { data }) => self.framer.push(data).map_err(broken)?,
                Some(ChannelMsg::Close | ChannelMsg::Eof) | None => return Ok(None),
                // Standard error of the server, window news: nothing of SFTP.
                Some(_) => {}
            }
        }
    }

    async fn first(&mut self) -> Result<Bytes, SftpError> {
        match tokio::time::timeout(ANSWER, self.next()).await {
            Ok(Ok(Some(packet))) => Ok(packet),
            Ok(Ok(None)) => Err(SftpError::AssetClosed),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SftpError::Silent),
        }
    }
}

pub(crate) fn broken(error: super::packet::Broken) -> SftpError {
    SftpError::NotSftp(error.to_string())
}

fn read_version(packet: Bytes) -> Result<HashSet<Vec<u8>>, SftpError> {
    let mut fields = Fields(packet);
    let (kind, version) = (fields.u8().map_err(broken)?, fields.u32().map_err(broken)?);
    if kind != kind::VERSION {
        return Err(SftpError::NotSftp(format!("packet {kind} came instead of its version")));
    }
    if version < VERSION {
        return Err(SftpError::NotSftp(format!("version {version} is too old, 3 is needed")));
    }
    let mut extensions = HashSet::new();
    while let Ok(name) = fields.string() {
        let _data = fields.string();
        if extensions.len() < 64 {
            extensions.insert(name.to_vec());
        }
    }
    Ok(extensions)
}

/// The first name of a NAME answer; `None` for a status that says there is none.
fn read_name(kind: u8, body: Bytes) -> Result<Option<Vec<u8>>, SftpError> {
    let mut fields = Fields(body);
    match kind {
        kind::NAME => {
            let count = fields.u32().map_err(broken)?;
            if count == 0 {
                return Ok(None);
            }
            Ok(Some(fields.string().map_err(broken)?.to_vec()))
        }
        kind::STATUS => {
            let code = fields.u32().map_err(broken)?;
            if code == status::OK {
                Err(SftpError::NotSftp("a name was asked and it said OK".into()))
            } else {
                Ok(None)
            }
        }
        other => Err(SftpError::NotSftp(format!("packet {other} came instead of a name"))),
    }
}
