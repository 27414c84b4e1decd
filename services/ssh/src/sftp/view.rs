//! What an SFTP user sees: one asset's root, or a tree of folders (nodes, assets, accounts) under which assets hang.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::mount::{Mount, MountReader, Mounted};
use super::path::absolute;

/// Folders that exist only in the gateway (P06). Implemented over the read model.
#[async_trait]
pub(crate) trait Tree: Send + Sync {
    /// Names in the folder `path`; `None` when there is no such folder.
    async fn list(&self, path: &[String]) -> Option<Vec<String>>;

    /// How many leading parts of `path` name the folder of an account, below which the asset's own files lie.
    async fn mount_depth(&self, path: &[String]) -> Option<usize>;

    /// Opens the account's folder: admits, logs in, records.
    ///
    /// # Errors
    /// A sentence for the user.
    async fn open(&self, path: &[String]) -> Result<Mounted, String>;
}

/// Where a path leads.
pub(crate) enum Place {
    /// A folder of the gateway's own.
    Folder(Vec<String>),
    /// The asset's path.
    Asset(Arc<Mount>, Vec<u8>),
    /// Nowhere, with a sentence.
    Nowhere(String),
}

/// Assets opened by one user connection.
const MAX_MOUNTS: usize = 32;

pub(crate) enum View {
    One(Arc<Mount>),
    Tree {
        tree: Arc<dyn Tree>,
        mounts: Mutex<HashMap<Vec<String>, Arc<Mount>>>,
        opened: UnboundedSender<(Arc<Mount>, MountReader)>,
    },
}

impl View {
    pub(crate) async fn locate(&self, seen: &[u8]) -> Place {
        let (tree, mounts, opened) = match self {
            Self::One(mount) => return Place::Asset(Arc::clone(mount), mount.root.to_asset(seen)),
            Self::Tree { tree, mounts, opened } => (tree, mounts, opened),
        };
        let path = absolute(seen);
        let mut parts = Vec::new();
        let raw: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        for part in &raw {
            // The gateway's own folders have readable names; what is not readable can only lie below an asset.
            parts.push(String::from_utf8_lossy(part).into_owned());
        }
        let mut mounts = mounts.lock().await;
        mounts.retain(|_, mount| !mount.is_closed());
        // What is open already need not be looked up in the tree at each request.
        let known = (1..=parts.len()).find(|n| parts.get(..*n).is_some_and(|key| mounts.contains_key(key)));
        let depth = match known {
            Some(depth) => depth,
            None => match tree.mount_depth(&parts).await {
                Some(depth) => depth,
                None => return Place::Folder(parts),
            },
        };
        let key: Vec<String> = parts.iter().take(depth).cloned().collect();
        let mount = match mounts.get(&key) {
            Some(mount) => Arc::clone(mount),
            None if mounts.len() >= MAX_MOUNTS => {
                return Place::Nowhere(format!("at most {MAX_MOUNTS} accounts can be open in one connection"));
            }
            None => match self.open(tree.as_ref(), &key, opened).await {
                Ok(mount) => {
                    mounts.insert(key, Arc::clone(&mount));
                    mount
                }
                Err(why) => return Place::Nowhere(why),
            },
        };
        let mut below = Vec::new();
        for part in raw.iter().skip(depth) {
            below.push(b'/');
            below.extend_from_slice(part);
        }
        let full = mount.root.to_asset(&below);
        Place::Asset(mount, full)
    }

    async fn open(
        &self,
        tree: &dyn Tree,
        key: &[String],
        opened: &UnboundedSender<(Arc<Mount>, MountReader)>,
    ) -> Result<Arc<Mount>, String> {
        let mounted = tree.open(key).await?;
        let session = mounted.session.clone();
        let prefix = format!("/{}", key.join("/")).into_bytes();
        match Mount::start(mounted, prefix).await {
            Ok((mount, reader)) => {
                opened.send((Arc::clone(&mount), reader)).map_err(|_| "the connection is ending".to_owned())?;
                Ok(mount)
            }
            Err(error) => {
                session.close(gatehouse_session::Ending::connect_failed(error.to_string())).await;
                Err(error.to_string())
            }
        }
    }

    /// Names in a folder of the gateway's own.
    pub(crate) async fn list(&self, folder: &[String]) -> Option<Vec<String>> {
        match self {
            Self::One(_) => None,
            Self::Tree { tree, .. } => tree.list(folder).await,
        }
    }

    pub(crate) async fn mounts(&self) -> Vec<Arc<Mount>> {
        match self {
            Self::One(mount) => vec![Arc::clone(mount)],
            Self::Tree { mounts, .. } => mounts.lock().await.values().cloned().collect(),
        }
    }
}
