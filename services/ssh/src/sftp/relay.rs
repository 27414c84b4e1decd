//! The relay between a user's SFTP client and the assets behind it: requests are checked against the grant and the root,
//! passed on, and what they did is written down. Data is passed on without being copied; answers go through in the order
//! in which the asset gives them.
//!
//! Two kinds of tasks share a `Relay`: one takes the user's requests, and one per asset takes its answers. Neither waits
//! for the other's reader, so a slow side slows only its own sender.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::grant::Actions;
use gatehouse_model::session::FileOperation;
use gatehouse_session::{Control, FileDraft, SessionHandle, Stop};
use parking_lot::Mutex;

use super::mount::{Mount, SftpError, Waiting};
use super::packet::{
    Broken, Fields, Packet, VERSION, directory_attrs, empty_attrs, kind, name_packet, open, status, status_packet,
};
use super::path::{absolute, parent, shown};
use super::transfer::Transfer;
use super::view::{Place, View};
use crate::user::{Gone, UserWriter};

/// Files and folders one connection may have open.
const MAX_HANDLES: usize = 512;
/// Extensions that are passed on when the asset has them.
const EXTENSIONS: [(&[u8], &[u8]); 6] = [
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
];

/// Why a relay ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    User(#[from] Gone),
    #[error("{0}")]
    Client(#[from] Broken),
    #[error(transparent)]
    Asset(#[from] SftpError),
    #[error("{}", .0.reason)]
    Stopped(Stop),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// A file that is being opened.
pub(crate) struct Opening {
    path: Vec<u8>,
    flags: u32,
    began: DateTime<Utc>,
}

/// Something open under a handle.
enum Open {
    File(Arc<OpenFile>),
    Folder {
        mount: Arc<Mount>,
        theirs: Bytes,
    },
    /// A folder of the gateway's own: what is still to be listed.
    Listing(Vec<String>),
}

struct OpenFile {
    mount: Arc<Mount>,
    /// The asset's handle.
    theirs: Bytes,
    opening: Opening,
    up: tokio::sync::Mutex<Option<Transfer>>,
    down: tokio::sync::Mutex<Option<Transfer>>,
    /// The first error that the asset answered to a write.
    failed: Mutex<Option<String>>,
}

pub(crate) struct Relay {
    user: tokio::sync::Mutex<UserWriter>,
    pub(crate) view: View,
    open: Mutex<HashMap<u32, Open>>,
    next_handle: AtomicU32,
}

type Step = Result<(), End>;

impl Relay {
    pub(crate) fn new(user: UserWriter, view: View) -> Self {
        Self {
            user: tokio::sync::Mutex::new(user),
            view,
            open: Mutex::new(HashMap::new()),
            next_handle: AtomicU32::new(1),
        }
    }

    pub(crate) async fn hang_up(&self) {
        let user = self.user.lock().await;
        let _ = user.exit_status(0).await;
        let _ = user.eof().await;
        user.close().await;
    }

    async fn say(&self, packet: Bytes) -> Step {
        Ok(self.user.lock().await.data(packet).await?)
    }

    async fn say_status(&self, id: u32, code: u32, message: &str) -> Step {
        self.say(status_packet(id, code, message)).await
    }

    async fn denied(&self, id: u32, message: &str) -> Step {
        self.say_status(id, status::PERMISSION_DENIED, message).await
    }

    // ---- what the user asks ----

    /// One packet from the user.
    pub(crate) async fn request(&self, packet: Bytes) -> Step {
        let mut fields = Fields(packet);
        let kind = fields.u8()?;
        if kind == kind::INIT {
            return self.say(version()).await;
        }
        let id = fields.u32()?;
        match kind {
            kind::READ => self.read(id, fields).await,
            kind::WRITE => self.write(id, fields).await,
            kind::OPEN => self.open_file(id, fields).await,
            kind::CLOSE => self.close(id, fields).await,
            kind::FSTAT | kind::FSETSTAT => self.on_handle(kind, id, fields).await,
            kind::OPENDIR => self.open_folder(id, fields).await,
            kind::READDIR => self.read_folder(id, fields).await,
            kind::LSTAT | kind::STAT => self.stat(kind, id, fields).await,
            kind::REALPATH => self.real_path(id, fields).await,
            kind::READLINK => self.read_link(id, fields).await,
            kind::SETSTAT => self.set_stat(kind::SETSTAT, id, fields, b"").await,
            kind::REMOVE => self.change(id, kind, fields, FileOperation::Delete, Actions::DELETE).await,
            kind::RMDIR => self.change(id, kind, fields, FileOperation::Rmdir, Actions::DELETE).await,
            kind::MKDIR => self.change(id, kind, fields, FileOperation::Mkdir, Actions::UPLOAD).await,
            kind::RENAME => self.rename(id, fields, b"").await,
            kind::SYMLINK => self.symlink(id, fields).await,
            kind::EXTENDED => {
                let name = fields.string()?;
                match name.as_ref() {
                    b"posix-rename@openssh.com" => self.rename(id, fields, &name).await,
                    b"hardlink@openssh.com" => self.hard_link(id, fields, &name).await,
                    b"statvfs@openssh.com" => self.stat_vfs(id, fields, &name).await,
                    b"lsetstat@openssh.com" => self.set_stat(kind::EXTENDED, id, fields, &name).await,
                    b"fstatvfs@openssh.com" | b"fsync@openssh.com" => self.extended_on_handle(id, fields, &name).await,
                    b"limits@openssh.com" => {
                        let limits = Packet::new(kind::EXTENDED_REPLY, id)
                            .u64(262_144)
                            .u64(261_120)
                            .u64(261_120)
                            .u64(MAX_HANDLES as u64);
                        self.say(limits.build()).await
                    }
                    _ => self.say_status(id, status::UNSUPPORTED, "this extension is not offered").await,
                }
            }
            _ => self.say_status(id, status::UNSUPPORTED, "unknown request").await,
        }
    }

    /// The asset behind `seen`, when the operation may go there; otherwise the user is answered and `None` comes back.
    async fn place(&self, id: u32, seen: &[u8], follow: bool) -> Result<Option<(Arc<Mount>, Vec<u8>)>, End> {
        match self.view.locate(seen).await {
            Place::Asset(mount, path) => {
                running(&mount.session).await?;
                if mount.is_inside(&path, follow).await? {
                    return Ok(Some((mount, path)));
                }
                // Outside and not there look the same from here.
                self.say_status(id, status::NO_SUCH_FILE, "no such file").await?;
            }
            Place::Folder(_) => self.denied(id, "this folder belongs to the gateway and cannot be changed").await?,
            Place::Nowhere(why) => self.say_status(id, status::FAILURE, &why).await?,
        }
        Ok(None)
    }

    async fn open_file(&self, id: u32, mut fields: Fields) -> Step {
        let (seen, flags) = (fields.string()?, fields.u32()?);
        let attrs = fields.rest();
        let Some((mount, path)) = self.place(id, &seen, true).await? else { return Ok(()) };
        let opening = Opening { path, flags, began: Utc::now() };
        let changes = flags & open::CHANGES != 0;
        let needed = [(changes, Actions::UPLOAD), (flags & open::READ != 0, Actions::DOWNLOAD)];
        for (wanted, action) in needed {
            if wanted && !mount.actions.contains(action) {
                mount.session.file_row(opening.draft(changes).failed("the grant does not allow it")).await?;
                return self.denied(id, &not_granted(action)).await;
            }
        }
        if self.open.lock().len() >= MAX_HANDLES {
            return self.say_status(id, status::FAILURE, "too many open files").await;
        }
        let fields = [Packet::field(&opening.path), flags.to_be_bytes().to_vec(), attrs.to_vec()].concat();
        mount.send(kind::OPEN, Waiting::Open { id, opened: Box::new(opening) }, &fields, Bytes::new()).await?;
        Ok(())
    }

    fn file(&self, handle: &[u8]) -> Option<(u32, Arc<OpenFile>)> {
        let handle = number(handle)?;
        match self.open.lock().get(&handle)? {
            Open::File(file) => Some((handle, Arc::clone(file))),
            Open::Folder { .. } | Open::Listing(_) => None,
        }
    }

    async fn read(&self, id: u32, mut fields: Fields) -> Step {
        let (handle, offset, len) = (fields.string()?, fields.u64()?, fields.u32()?);
        let Some((handle, file)) = self.file(&handle) else { return self.bad_handle(id).await };
        running(&file.mount.session).await?;
        let fields = [Packet::field(&file.theirs), offset.to_be_bytes().to_vec(), len.to_be_bytes().to_vec()].concat();
        file.mount.send(kind::READ, Waiting::Read { id, handle, offset }, &fields, Bytes::new()).await?;
        Ok(())
    }

    async fn write(&self, id: u32, mut fields: Fields) -> Step {
        let (handle, offset, data) = (fields.string()?, fields.u64()?, fields.string()?);
        let Some((handle, file)) = self.file(&handle) else { return self.bad_handle(id).await };
        running(&file.mount.session).await?;
        file.mount.session.moved(data.len() as u64, 0);
        {
            let mut up = file.up.lock().await;
            transfer(&file, &mut up).await.passed(offset, data.clone()).await.map_err(keep_failed)?;
        }
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let fields = [Packet::field(&file.theirs), offset.to_be_bytes().to_vec(), len.to_be_bytes().to_vec()].concat();
        file.mount.send(kind::WRITE, Waiting::Write { id, handle }, &fields, data).await?;
        Ok(())
    }

    async fn close(&self, id: u32, mut fields: Fields) -> Step {
        let Some(handle) = number(&fields.string()?) else { return self.bad_handle(id).await };
        let found = self.open.lock().get(&handle).map(|what| match what {
            Open::File(file) => Some((Arc::clone(&file.mount), file.theirs.clone())),
            Open::Folder { mount, theirs } => Some((Arc::clone(mount), theirs.clone())),
            Open::Listing(_) => None,
        });
        let Some(found) = found else { return self.bad_handle(id).await };
        match found {
            Some((mount, theirs)) => {
                let waiting = Waiting::Close { id, handle };
                mount.send(kind::CLOSE, waiting, &Packet::field(&theirs), Bytes::new()).await?;
                Ok(())
            }
            None => {
                self.open.lock().remove(&handle);
                self.say_status(id, status::OK, "").await
            }
        }
    }

    /// FSTAT and FSETSTAT.
    async fn on_handle(&self, kind: u8, id: u32, mut fields: Fields) -> Step {
        let Some((_, file)) = self.file(&fields.string()?) else { return self.bad_handle(id).await };
        running(&file.mount.session).await?;
        if kind == kind::FSETSTAT && !file.mount.actions.contains(Actions::UPLOAD) {
            return self.denied(id, &not_granted(Actions::UPLOAD)).await;
        }
        let fields = [Packet::field(&file.theirs), fields.rest().to_vec()].concat();
        file.mount.send(kind, Waiting::User { id }, &fields, Bytes::new()).await?;
        Ok(())
    }

    async fn extended_on_handle(&self, id: u32, mut fields: Fields, name: &[u8]) -> Step {
        let Some((_, file)) = self.file(&fields.string()?) else { return self.bad_handle(id).await };
        if !file.mount.has_extension(name) {
            return self.say_status(id, status::UNSUPPORTED, "the asset does not offer this").await;
        }
        let fields = [Packet::field(name), Packet::field(&file.theirs)].concat();
        file.mount.send(kind::EXTENDED, Waiting::User { id }, &fields, Bytes::new()).await?;
        Ok(())
    }

    async fn open_folder(&self, id: u32, mut fields: Fields) -> Step {
        let seen = fields.string()?;
        if let Place::Folder(folder) = self.view.locate(&seen).await {
            let Some(mut names) = self.view.list(&folder).await else {
                return self.say_status(id, status::NO_SUCH_FILE, "no such folder").await;
            };
            names.reverse();
            let Some(handle) = self.keep(Open::Listing(names)) else {
                return self.say_status(id, status::FAILURE, "too many open files").await;
            };
            return self.say(Packet::new(kind::HANDLE, id).string(&handle.to_be_bytes()).build()).await;
        }
        let Some((mount, path)) = self.place(id, &seen, true).await? else { return Ok(()) };
        let opening = Opening { flags: FOLDER, began: Utc::now(), path };
        let fields = Packet::field(&opening.path);
        mount.send(kind::OPENDIR, Waiting::Open { id, opened: Box::new(opening) }, &fields, Bytes::new()).await?;
        Ok(())
    }

    async fn read_folder(&self, id: u32, mut fields: Fields) -> Step {
        let Some(handle) = number(&fields.string()?) else { return self.bad_handle(id).await };
        let theirs = {
            let mut open = self.open.lock();
            match open.get_mut(&handle) {
                Some(Open::Folder { mount, theirs }) => Ok((Arc::clone(mount), theirs.clone())),
                Some(Open::Listing(names)) => Err(Some(names.split_off(names.len().saturating_sub(LISTED)))),
                Some(Open::File(_)) | None => Err(None),
            }
        };
        match theirs {
            Ok((mount, theirs)) => {
                running(&mount.session).await?;
                mount.send(kind::READDIR, Waiting::User { id }, &Packet::field(&theirs), Bytes::new()).await?;
                Ok(())
            }
            Err(None) => self.bad_handle(id).await,
            Err(Some(names)) if names.is_empty() => self.say_status(id, status::EOF, "").await,
            Err(Some(names)) => {
                let attrs = directory_attrs(now());
                let rows: Vec<_> = names
                    .into_iter()
                    .rev()
                    .map(|name| {
                        let long = format!("drwxr-xr-x    1 gatehouse gatehouse        0 Jan  1 00:00 {name}");
                        (name.into_bytes(), long.into_bytes(), attrs.clone())
                    })
                    .collect();
                self.say(name_packet(id, &rows)).await
            }
        }
    }

    async fn stat(&self, kind: u8, id: u32, mut fields: Fields) -> Step {
        let seen = fields.string()?;
        if let Place::Folder(folder) = self.view.locate(&seen).await {
            return match self.view.list(&folder).await {
                Some(_) => self.say(Packet::new(kind::ATTRS, id).raw(&directory_attrs(now())).build()).await,
                None => self.say_status(id, status::NO_SUCH_FILE, "no such file").await,
            };
        }
        let Some((mount, path)) = self.place(id, &seen, kind == kind::STAT).await? else { return Ok(()) };
        mount.send(kind, Waiting::User { id }, &Packet::field(&path), Bytes::new()).await?;
        Ok(())
    }

    /// Answered here, from the text of the path: it is the same whether or not something is there, and the asset's
    /// folders above the root stay unknown.
    async fn real_path(&self, id: u32, mut fields: Fields) -> Step {
        let path = absolute(&fields.string()?);
        self.say(name_packet(id, &[(path.clone(), path, empty_attrs())])).await
    }

    async fn read_link(&self, id: u32, mut fields: Fields) -> Step {
        let seen = fields.string()?;
        let Some((mount, path)) = self.place(id, &seen, false).await? else { return Ok(()) };
        mount.send(kind::READLINK, Waiting::Link { id }, &Packet::field(&path), Bytes::new()).await?;
        Ok(())
    }

    async fn stat_vfs(&self, id: u32, mut fields: Fields, name: &[u8]) -> Step {
        let seen = fields.string()?;
        let Some((mount, path)) = self.place(id, &seen, true).await? else { return Ok(()) };
        if !mount.has_extension(name) {
            return self.say_status(id, status::UNSUPPORTED, "the asset does not offer this").await;
        }
        let fields = [Packet::field(name), Packet::field(&path)].concat();
        mount.send(kind::EXTENDED, Waiting::User { id }, &fields, Bytes::new()).await?;
        Ok(())
    }

    /// SETSTAT, and lsetstat@openssh.com (which does not follow links).
    async fn set_stat(&self, kind: u8, id: u32, mut fields: Fields, extension: &[u8]) -> Step {
        let seen = fields.string()?;
        let Some((mount, path)) = self.place(id, &seen, extension.is_empty()).await? else { return Ok(()) };
        let draft = FileDraft::new(FileOperation::Setstat, shown(&path), Utc::now());
        let mut request = if extension.is_empty() { Vec::new() } else { Packet::field(extension) };
        request.extend_from_slice(&Packet::field(&path));
        request.extend_from_slice(&fields.rest());
        self.audited(&mount, kind, id, draft, Actions::UPLOAD, &request).await
    }

    /// REMOVE, RMDIR, MKDIR: one path, then what the asset makes of the rest.
    async fn change(&self, id: u32, kind: u8, mut fields: Fields, operate: FileOperation, needed: Actions) -> Step {
        let seen = fields.string()?;
        let Some((mount, path)) = self.place(id, &seen, false).await? else { return Ok(()) };
        let draft = FileDraft::new(operate, shown(&path), Utc::now());
        let request = [Packet::field(&path), fields.rest().to_vec()].concat();
        self.audited(&mount, kind, id, draft, needed, &request).await
    }

    /// RENAME fails when the target exists; posix-rename@openssh.com replaces it, which takes the right to delete too.
    async fn rename(&self, id: u32, mut fields: Fields, extension: &[u8]) -> Step {
        let (from, to) = (fields.string()?, fields.string()?);
        let Some((mount, from)) = self.place(id, &from, false).await? else { return Ok(()) };
        let Some((other, to)) = self.place(id, &to, false).await? else { return Ok(()) };
        if !Arc::ptr_eq(&mount, &other) {
            return self.say_status(id, status::FAILURE, "a file cannot be moved from one account to another").await;
        }
        let replaces = !extension.is_empty();
        let needed = if replaces { Actions::UPLOAD.union(Actions::DELETE) } else { Actions::UPLOAD };
        let mut draft = FileDraft::new(FileOperation::Rename, shown(&from), Utc::now());
        draft.target = shown(&to);
        let (kind, mut request) =
            if replaces { (kind::EXTENDED, Packet::field(extension)) } else { (kind::RENAME, Vec::new()) };
        request.extend_from_slice(&Packet::field(&from));
        request.extend_from_slice(&Packet::field(&to));
        if replaces && !mount.has_extension(extension) {
            return self.say_status(id, status::UNSUPPORTED, "the asset does not offer this").await;
        }
        self.audited(&mount, kind, id, draft, needed, &request).await
    }

    /// OpenSSH's order of arguments (its PROTOCOL file, section 4.1): first what the link says, then where the link is.
    async fn symlink(&self, id: u32, mut fields: Fields) -> Step {
        let (says, at) = (fields.string()?, fields.string()?);
        let Some((mount, at)) = self.place(id, &at, false).await? else { return Ok(()) };
        let says = if says.first() == Some(&b'/') {
            match self.view.locate(&says).await {
                Place::Asset(other, path) if Arc::ptr_eq(&mount, &other) => path,
                _ => return self.denied(id, "a link may not lead out of the account's folder").await,
            }
        } else {
            // Where a relative link leads is seen from its own folder; it may not climb above the root.
            let depth = |p: &[u8]| p.split(|b| *b == b'/').filter(|p| !p.is_empty()).count();
            let base = depth(parent(&at)).saturating_sub(depth(mount.root.path()));
            if climbs(&says, base) && !mount.root.is_all() {
                return self.denied(id, "a link may not lead out of the account's folder").await;
            }
            says.to_vec()
        };
        let mut draft = FileDraft::new(FileOperation::Symlink, shown(&at), Utc::now());
        draft.target = shown(&says);
        let request = [Packet::field(&says), Packet::field(&at)].concat();
        self.audited(&mount, kind::SYMLINK, id, draft, Actions::UPLOAD, &request).await
    }

    async fn hard_link(&self, id: u32, mut fields: Fields, name: &[u8]) -> Step {
        let (from, to) = (fields.string()?, fields.string()?);
        let Some((mount, from)) = self.place(id, &from, true).await? else { return Ok(()) };
        let Some((other, to)) = self.place(id, &to, false).await? else { return Ok(()) };
        if !Arc::ptr_eq(&mount, &other) || !mount.has_extension(name) {
            return self.say_status(id, status::FAILURE, "this link cannot be made").await;
        }
        let mut draft = FileDraft::new(FileOperation::Symlink, shown(&to), Utc::now());
        draft.target = shown(&from);
        let request = [Packet::field(name), Packet::field(&from), Packet::field(&to)].concat();
        self.audited(&mount, kind::EXTENDED, id, draft, Actions::UPLOAD, &request).await
    }

    /// A request that changes something: refused and written down, or passed on and written down with its outcome.
    async fn audited(
        &self,
        mount: &Mount,
        kind: u8,
        id: u32,
        draft: FileDraft,
        needed: Actions,
        request: &[u8],
    ) -> Step {
        if !mount.actions.contains(needed) {
            mount.session.file_row(draft.failed("the grant does not allow it")).await?;
            return self.denied(id, &not_granted(needed)).await;
        }
        mount.send(kind, Waiting::Change { id, draft: Box::new(draft) }, request, Bytes::new()).await?;
        Ok(())
    }

    async fn bad_handle(&self, id: u32) -> Step {
        self.say_status(id, status::FAILURE, "this handle is not open").await
    }

    fn keep(&self, what: Open) -> Option<u32> {
        let mut open = self.open.lock();
        if open.len() >= MAX_HANDLES {
            return None;
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        open.insert(handle, what);
        Some(handle)
    }

    // ---- what an asset answers ----

    /// One packet from an asset.
    pub(crate) async fn answer(&self, mount: &Arc<Mount>, packet: Bytes) -> Step {
        let mut fields = Fields(packet);
        let (kind, theirs) = (fields.u8()?, fields.u32()?);
        // An answer to nothing that was asked is dropped.
        let Some(waiting) = mount.answered(theirs) else { return Ok(()) };
        let body = fields.rest();
        match waiting {
            Waiting::Us(tell) => {
                // Whoever asked may have given up.
                let _ = tell.send((kind, body));
                Ok(())
            }
            Waiting::User { id } => self.pass(kind, id, body).await,
            Waiting::Read { id, handle, offset } => {
                if kind == kind::DATA {
                    let data = Fields(body.clone()).string()?;
                    mount.session.moved(0, data.len() as u64);
                    let file = self.file(&handle.to_be_bytes());
                    if let Some((_, file)) = file {
                        let mut down = file.down.lock().await;
                        transfer(&file, &mut down).await.passed(offset, data).await.map_err(keep_failed)?;
                    }
                }
                self.pass(kind, id, body).await
            }
            Waiting::Write { id, handle } => {
                if let (Some(why), Some((_, file))) = (failure(kind, &body), self.file(&handle.to_be_bytes())) {
                    file.failed.lock().get_or_insert(why);
                }
                self.pass(kind, id, body).await
            }
            Waiting::Open { id, opened } => self.opened(mount, kind, id, body, *opened).await,
            Waiting::Close { id, handle } => {
                let closed = self.open.lock().remove(&handle);
                if let Some(Open::File(file)) = closed {
                    finish(&file, failure(kind, &body)).await?;
                }
                self.pass(kind, id, body).await
            }
            Waiting::Link { id } => self.link(mount, kind, id, body).await,
            Waiting::Change { id, draft } => {
                let draft = match failure(kind, &body) {
                    None => *draft,
                    Some(why) => draft.failed(why),
                };
                mount.session.file_row(draft).await?;
                self.pass(kind, id, body).await
            }
        }
    }

    /// The asset's answer under the user's number; its body is not copied.
    async fn pass(&self, kind: u8, id: u32, body: Bytes) -> Step {
        let head = Packet::new(kind, id).build_before(body.len());
        // One lock for both parts: nothing may come between them.
        let user = self.user.lock().await;
        user.data(head).await?;
        if !body.is_empty() {
            user.data(body).await?;
        }
        Ok(())
    }

    async fn opened(&self, mount: &Arc<Mount>, kind: u8, id: u32, body: Bytes, opening: Opening) -> Step {
        if kind != kind::HANDLE {
            if opening.flags != FOLDER {
                let why = failure(kind, &body).unwrap_or_else(|| "it could not be opened".into());
                let changes = opening.flags & open::CHANGES != 0;
                mount.session.file_row(opening.draft(changes).failed(why)).await?;
            }
            return self.pass(kind, id, body).await;
        }
        let theirs = Fields(body).string()?;
        let what = if opening.flags == FOLDER {
            Open::Folder { mount: Arc::clone(mount), theirs: theirs.clone() }
        } else {
            Open::File(Arc::new(OpenFile {
                mount: Arc::clone(mount),
                theirs: theirs.clone(),
                opening,
                up: tokio::sync::Mutex::new(None),
                down: tokio::sync::Mutex::new(None),
                failed: Mutex::new(None),
            }))
        };
        match self.keep(what) {
            Some(handle) => self.say(Packet::new(kind::HANDLE, id).string(&handle.to_be_bytes()).build()).await,
            None => self.say_status(id, status::FAILURE, "too many open files").await,
        }
    }

    /// READLINK: an absolute target is shown from the user's root, or not at all.
    async fn link(&self, mount: &Mount, kind: u8, id: u32, body: Bytes) -> Step {
        if kind != kind::NAME {
            return self.pass(kind, id, body).await;
        }
        let mut fields = Fields(body);
        let _count = fields.u32()?;
        let target = fields.string()?;
        let seen = if target.first() == Some(&b'/') { mount.to_user(&target) } else { Some(target.to_vec()) };
        match seen {
            Some(seen) => self.say(name_packet(id, &[(seen.clone(), seen, empty_attrs())])).await,
            None => self.denied(id, "the link leads out of the account's folder").await,
        }
    }

    /// The asset is gone: everybody who waits for it is told, and its open files are written down as cut off.
    pub(crate) async fn lost(&self, mount: &Arc<Mount>, why: &str) -> Step {
        for waiting in mount.close() {
            match waiting {
                Waiting::Us(_) => {}
                Waiting::Change { id, draft } => {
                    mount.session.file_row(draft.failed(why)).await?;
                    self.say_status(id, status::FAILURE, why).await?;
                }
                Waiting::User { id }
                | Waiting::Open { id, .. }
                | Waiting::Read { id, .. }
                | Waiting::Write { id, .. }
                | Waiting::Close { id, .. }
                | Waiting::Link { id } => self.say_status(id, status::FAILURE, why).await?,
            }
        }
        self.cut_off(mount, why).await;
        Ok(())
    }

    /// Files of `mount` that are still open when it ends.
    pub(crate) async fn cut_off(&self, mount: &Arc<Mount>, why: &str) {
        let mut files = Vec::new();
        self.open.lock().retain(|_, what| match what {
            Open::File(file) if Arc::ptr_eq(&file.mount, mount) => {
                files.push(Arc::clone(file));
                false
            }
            Open::Folder { mount: own, .. } => !Arc::ptr_eq(own, mount),
            Open::File(_) | Open::Listing(_) => true,
        });
        for file in files {
            // The session may be ending because rows cannot be written; then there is nothing left to do.
            if finish(&file, Some(why.to_owned())).await.is_err() {
                return;
            }
        }
    }
}

/// Marks an `Opening` of a folder among the flags of files, which use the lowest bits only.
const FOLDER: u32 = u32::MAX;
/// Names per READDIR answer of the gateway's own folders.
const LISTED: usize = 100;

impl Opening {
    fn draft(&self, changes: bool) -> FileDraft {
        let operate = if changes { FileOperation::Upload } else { FileOperation::Download };
        FileDraft::new(operate, shown(&self.path), self.began)
    }
}

/// The transfer of one direction, begun with its first byte.
async fn transfer<'a>(file: &OpenFile, slot: &'a mut Option<Transfer>) -> &'a mut Transfer {
    if slot.is_none() {
        *slot = Some(Transfer::begin(&file.mount.session, file.mount.keep).await);
    }
    slot.get_or_insert_with(Transfer::empty)
}

/// Rows of a file that was closed, one for each direction that was used.
async fn finish(file: &OpenFile, error: Option<String>) -> Result<(), Stop> {
    let error = file.failed.lock().take().or(error);
    let changes = file.opening.flags & open::CHANGES != 0;
    let (up, down) = (file.up.lock().await.take(), file.down.lock().await.take());
    // An opened file that nothing passed through counts as what it was opened for.
    let up = up.or_else(|| changes.then(Transfer::empty));
    let down = down.or_else(|| (!changes).then(Transfer::empty));
    for (transfer, changed) in [(up, true), (down, false)] {
        let Some(transfer) = transfer else { continue };
        let mut draft = transfer.finish(file.opening.draft(changed)).await;
        if let Some(why) = &error {
            draft = draft.failed(why.clone());
        }
        file.mount.session.file_row(draft).await?;
    }
    Ok(())
}

/// Waits while the session is paused; fails when it must end.
async fn running(session: &SessionHandle) -> Result<(), End> {
    if session.check().is_ok() && !session.is_paused() {
        return Ok(());
    }
    let mut control = session.control();
    let state = control.wait_for(|c| !matches!(c, Control::Paused { .. })).await;
    drop(state);
    Ok(session.check()?)
}

fn keep_failed(why: String) -> End {
    End::Stopped(Stop { reason: format!("the transferred content cannot be kept: {why}") })
}

/// The sentence of a STATUS that is not OK.
fn failure(kind: u8, body: &Bytes) -> Option<String> {
    if kind != kind::STATUS {
        return None;
    }
    let mut fields = Fields(body.clone());
    match fields.u32() {
        Ok(status::OK) => None,
        Ok(code) => {
            let said = fields.string().map(|s| shown(&s)).unwrap_or_default();
            Some(if said.is_empty() { format!("SFTP status {code}") } else { said })
        }
        Err(_) => Some("the asset's answer cannot be read".into()),
    }
}

fn number(handle: &[u8]) -> Option<u32> {
    handle.try_into().ok().map(u32::from_be_bytes)
}

fn not_granted(action: Actions) -> String {
    let names: Vec<&str> = action.names().map(|(name, _)| name).collect();
    format!("your grant does not allow {}", names.join(" and "))
}

/// Whether a relative path climbs above where it starts plus `base` levels.
fn climbs(path: &[u8], base: usize) -> bool {
    let mut level = base;
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if level == 0 => return true,
            b".." => level -= 1,
            _ => level += 1,
        }
    }
    false
}

fn now() -> u32 {
    u32::try_from(Utc::now().timestamp()).unwrap_or(u32::MAX)
}

fn version() -> Bytes {
    // VERSION has no number; the version stands in its place.
    let mut packet = Packet::new(kind::VERSION, VERSION);
    for (name, data) in EXTENSIONS {
        packet = packet.string(name).string(data);
    }
    packet.string(b"limits@openssh.com").string(b"1").build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_climb_out_are_seen() {
        assert!(climbs(b"../x", 0));
        assert!(!climbs(b"../x", 1));
        assert!(climbs(b"a/../../x", 0));
        assert!(!climbs(b"a/b/../../x", 0));
    }

    #[test]
    fn the_version_offers_nothing_that_would_pass_unseen() {
        let packet = version();
        let text = String::from_utf8_lossy(&packet);
        // copy-data and expand-path act on the asset without passing through here.
        assert!(!text.contains("copy-data") && !text.contains("expand-path"));
    }
}
