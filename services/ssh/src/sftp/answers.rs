//! What an asset answers: passed on under the user's number, and written down where the request was one to audit.

use std::sync::Arc;

use bytes::Bytes;
use gatehouse_session::Stop;
use parking_lot::Mutex;

use super::mount::{Mount, Waiting};
use super::packet::{Fields, Packet, empty_attrs, kind, name_packet, open, status};
use super::path::shown;
use super::relay::{FOLDER, Open, OpenFile, Opening, Relay, Step, keep_failed, transfer};
use super::transfer::Transfer;

impl Relay {
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
                        transfer(&file, &mut down).await.passed(offset, data).await.map_err(|why| keep_failed(&why))?;
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
