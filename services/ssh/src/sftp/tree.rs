//! The folders that a user sees in SFTP without a direct log-in: organizations and nodes, in them assets, in those
//! accounts; an account's folder is the asset's own file system. Read from the read model at each look, so that a grant
//! given or withdrawn meanwhile shows.

use std::sync::Arc;

use async_trait::async_trait;
use gatehouse_model::asset::Asset;
use gatehouse_model::directory::{AssetQuery, Directory, Place, TreeNodeKind};
use gatehouse_model::session::SessionType;
use uuid::Uuid;

use super::mount::Mounted;
use super::open_mounted;
use super::view::Tree;
use crate::visitor::{Pick, PickedAccount, Visitor};

/// Assets listed in one folder.
const MAX_ASSETS: usize = 10_000;
const PROTOCOL: &str = "sftp";

pub(crate) struct GatewayTree {
    visitor: Visitor,
}

enum Found {
    Root,
    Node {
        org: Uuid,
        node: Uuid,
        key: String,
    },
    Asset(Arc<Asset>),
    /// And how many parts of the path led here.
    Account(Box<Pick>, usize),
}

/// A name as a folder: without the separator, and never one of the two that mean something else.
fn folder(name: &str) -> String {
    match name {
        "." | ".." => "_".to_owned(),
        name => name.replace(['/', '\0'], "_"),
    }
}

impl GatewayTree {
    pub(crate) fn new(visitor: Visitor) -> Self {
        Self { visitor }
    }

    fn nodes(&self, directory: &Directory, org: Uuid, parent: Option<&str>) -> Vec<(String, Uuid, String)> {
        let children = directory.tree_children(self.visitor.user().id, org, parent, self.visitor.core().now());
        let nodes = children.into_iter().filter(|n| n.kind == TreeNodeKind::Node);
        nodes.filter_map(|n| Some((folder(&n.name), n.id?, n.key))).collect()
    }

    /// Root nodes of all organizations in which the user reaches something.
    fn roots(&self, directory: &Directory) -> Vec<(Uuid, String, Uuid, String)> {
        let mut roots = Vec::new();
        for org in directory.organizations() {
            roots.extend(self.nodes(directory, org.id, None).into_iter().map(|(n, id, key)| (org.id, n, id, key)));
        }
        roots
    }

    fn assets(&self, directory: &Directory, org: Uuid, node: Uuid) -> Vec<Arc<Asset>> {
        let query = AssetQuery {
            place: Place::Node { node, descendants: false },
            protocol: Some(PROTOCOL.to_owned()),
            limit: MAX_ASSETS,
            ..AssetQuery::default()
        };
        let page = directory.my_assets(self.visitor.user().id, Some(org), &query, self.visitor.core().now());
        page.items.into_iter().map(|listed| listed.asset).collect()
    }

    /// Accounts with a stored secret; manual ones cannot be asked for here (as in koko).
    fn accounts(&self, asset: &Asset) -> Vec<PickedAccount> {
        let all = self.visitor.accounts(asset, PROTOCOL);
        all.into_iter().filter(|a| matches!(a, PickedAccount::Stored(_))).collect()
    }

    fn find(&self, path: &[String]) -> Option<Found> {
        let mut at = Found::Root;
        for (n, part) in path.iter().enumerate() {
            // Not kept across the look at the accounts, which takes the read model itself.
            at = match at {
                Found::Root => {
                    let directory = self.visitor.core().read().directory();
                    let (org, _, node, key) = self.roots(&directory).into_iter().find(|(_, name, ..)| name == part)?;
                    Found::Node { org, node, key }
                }
                Found::Node { org, node, key } => {
                    let directory = self.visitor.core().read().directory();
                    let child = self.nodes(&directory, org, Some(&key)).into_iter().find(|(name, ..)| name == part);
                    match child {
                        Some((_, node, key)) => Found::Node { org, node, key },
                        None => {
                            let mut assets = self.assets(&directory, org, node).into_iter();
                            Found::Asset(assets.find(|a| folder(&a.name) == *part)?)
                        }
                    }
                }
                Found::Asset(asset) => {
                    let account = self.accounts(&asset).into_iter().find(|a| account_folder(a) == *part)?;
                    Found::Account(Box::new(Pick { asset, account, protocol: PROTOCOL }), n + 1)
                }
                found @ Found::Account(..) => return Some(found),
            };
        }
        Some(at)
    }
}

fn account_folder(account: &PickedAccount) -> String {
    match account {
        PickedAccount::Stored(account) => folder(&account.name),
        other => folder(&other.display()),
    }
}

#[async_trait]
impl Tree for GatewayTree {
    async fn list(&self, path: &[String]) -> Option<Vec<String>> {
        let found = self.find(path)?;
        let directory = || self.visitor.core().read().directory();
        let mut names: Vec<String> = match found {
            Found::Root => self.roots(&directory()).into_iter().map(|(_, name, ..)| name).collect(),
            Found::Node { org, node, key } => {
                let directory = directory();
                let children = self.nodes(&directory, org, Some(&key)).into_iter().map(|(name, ..)| name);
                let assets = self.assets(&directory, org, node).into_iter().map(|a| folder(&a.name));
                children.chain(assets).collect()
            }
            Found::Asset(asset) => self.accounts(&asset).iter().map(account_folder).collect(),
            Found::Account(..) => return None,
        };
        names.dedup();
        Some(names)
    }

    async fn mount_depth(&self, path: &[String]) -> Option<usize> {
        match self.find(path)? {
            Found::Account(_, depth) => Some(depth),
            _ => None,
        }
    }

    async fn open(&self, path: &[String]) -> Result<Mounted, String> {
        match self.find(path) {
            Some(Found::Account(pick, _)) => open_mounted(&self.visitor, &pick, SessionType::Sftp).await,
            _ => Err("there is no such account, or you may not use it any more".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::folder;

    #[test]
    fn names_make_one_folder_each() {
        assert_eq!(folder("a/b"), "a_b");
        assert_eq!(folder(".."), "_");
        assert_eq!(folder("web 1"), "web 1");
    }
}
