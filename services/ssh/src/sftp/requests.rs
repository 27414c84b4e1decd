//! What the user asks: each request is checked against the grant and the root before it is passed on.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use gatehouse_model::grant::Actions;
use gatehouse_model::session::FileOperation;
use gatehouse_session::{Control, FileDraft, SessionHandle};

use super::mount::{Mount, Waiting};
use super::packet::{Fields, Packet, VERSION, directory_attrs, empty_attrs, kind, name_packet, open, status};
use super::path::{absolute, parent, shown};
use super::relay::{End, FOLDER, MAX_HANDLES, Open, OpenFile, Opening, Relay, Step, keep_failed, number, transfer};
use super::view::Place;

/// Extensions that are passed on when the asset has them.
const EXTENSIONS: [(&[u8], &[u8]); 6] = [
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
];
/// Names per READDIR answer of the gateway's own folders.
const LISTED: usize = 100;

impl Relay {
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

    pub(super) fn file(&self, handle: &[u8]) -> Option<(u32, Arc<OpenFile>)> {
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
            transfer(&file, &mut up).await.passed(offset, data.clone()).await.map_err(|why| keep_failed(&why))?;
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
