//! Lists of assets: by place in the tree, by text, in order, a page at a time.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use memchr::memmem::Finder;
use uuid::Uuid;

use super::assets::{Entry, Slots};
use super::{Directory, Reach};
use crate::asset::{Asset, Category};
use crate::common::org_ids;
use crate::grant::Actions;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssetOrder {
    #[default]
    Name,
    NameDown,
    /// Addresses by number, then host names.
    Address,
    AddressDown,
}

/// Where in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    #[default]
    Anywhere,
    Node {
        node: Uuid,
        descendants: bool,
    },
    /// Only in lists of a user.
    Ungrouped,
    /// Only in lists of a user.
    Favorite,
}

#[derive(Debug, Clone, Default)]
pub struct AssetQuery {
    /// Found in name, address or comment, without regard to case; empty is everything.
    pub text: String,
    /// Further texts; each must be found as well.
    pub words: Vec<String>,
    pub place: Place,
    pub category: Option<Category>,
    /// Assets that offer this protocol.
    pub protocol: Option<String>,
    /// Assets of one of these platforms.
    pub platforms: Option<Vec<Uuid>>,
    pub order: AssetOrder,
    pub offset: usize,
    /// How many at most; 0 counts only.
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub asset: Arc<Asset>,
    /// In lists of a user what they may do; in lists of all assets `Actions::NONE`.
    pub actions: Actions,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Matches in all.
    pub total: usize,
    pub items: Vec<Listed>,
}

/// The conditions of one list, prepared.
struct Search<'q> {
    query: &'q AssetQuery,
    finders: Vec<Finder<'static>>,
    slots: Option<Slots>,
    keep: Option<&'q dyn Fn(&Asset) -> bool>,
}

impl Directory {
    /// Assets that the user reaches, in one organization or (`None`) in all that they are a member of.
    pub fn my_assets(&self, user: Uuid, org: Option<Uuid>, query: &AssetQuery, now: DateTime<Utc>) -> Page {
        let orgs: Vec<Uuid> = match (org, self.users.get(&user)) {
            (Some(org), _) => vec![org],
            (None, Some(user)) => user.orgs().into_iter().collect(),
            (None, None) => Vec::new(),
        };
        let reaches: Vec<Arc<Reach>> = orgs.into_iter().map(|org| self.reach(user, org, now)).collect();
        let mut slots = Slots::with_room(self.assets.slots());
        reaches.iter().for_each(|reach| slots.add(&reach.slots));
        match query.place {
            Place::Ungrouped => {
                let single = reaches.iter().flat_map(|r| r.iter()).filter(|r| !r.by_node);
                slots.keep(&self.slots_of(single.map(|r| r.asset)));
            }
            Place::Favorite => slots.keep(&self.slots_of(self.favorites(user))),
            Place::Anywhere | Place::Node { .. } => {}
        }
        let mut page = self.list(query, Some(slots), None);
        for item in &mut page.items {
            let reach = reaches.iter().find(|r| r.org == item.asset.org_id);
            item.actions = reach.and_then(|r| r.get(item.asset.id)).map_or(Actions::NONE, |r| r.actions);
        }
        page
    }

    /// Assets of an organization, reached by somebody or not; of all organizations in the global one.
    pub fn all_assets(&self, org: Uuid, query: &AssetQuery) -> Page {
        self.assets_where(org, query, None)
    }

    /// As [`Directory::all_assets`], of those for which `keep` holds; it is asked last.
    pub fn assets_where(&self, org: Uuid, query: &AssetQuery, keep: Option<&dyn Fn(&Asset) -> bool>) -> Page {
        match query.place {
            Place::Ungrouped | Place::Favorite => Page { total: 0, items: Vec::new() },
            Place::Anywhere | Place::Node { .. } => {
                self.list(query, (org != org_ids::ROOT).then(|| self.assets.of_org(org)), keep)
            }
        }
    }

    /// How many assets of the organization (of all in the global one) each platform has; platforms without are left out.
    pub fn platform_counts(&self, org: Uuid) -> HashMap<Uuid, usize> {
        let own = (org != org_ids::ROOT).then(|| self.assets.of_org(org));
        let counted =
            self.assets.platforms().map(|(id, slots)| (id, own.as_ref().map_or(slots.len(), |o| o.common(slots))));
        counted.filter(|(_, n)| *n > 0).collect()
    }

    fn slots_of(&self, assets: impl Iterator<Item = Uuid>) -> Slots {
        let mut slots = Slots::with_room(self.assets.slots());
        assets.filter_map(|id| self.assets.get(id)).for_each(|e| slots.insert(e.slot));
        slots
    }

    fn list(&self, query: &AssetQuery, mut slots: Option<Slots>, keep: Option<&dyn Fn(&Asset) -> bool>) -> Page {
        let mut within = |set: Slots| match &mut slots {
            Some(slots) => slots.keep(&set),
            None => slots = Some(set),
        };
        if let Place::Node { node, descendants } = query.place {
            within(self.nodes.get(node).map(|n| self.node_slots(n, descendants)).unwrap_or_default());
        }
        if let Some(platforms) = &query.platforms {
            let mut of_these = Slots::default();
            platforms.iter().filter_map(|p| self.assets.of_platform(*p)).for_each(|set| of_these.add(set));
            within(of_these);
        }
        // Lines separate the fields of the searched text; a searched line end must not find the seam.
        let folded = |text: &String| text.trim().to_lowercase().replace(['\n', '\r'], " ");
        let texts = std::iter::once(&query.text).chain(&query.words).map(folded).filter(|t| !t.is_empty());
        let finders = texts.map(|t| Finder::new(t.as_bytes()).into_owned()).collect();
        let search = Search { query, finders, slots, keep };
        let names = &self.assets.by_name;
        let addresses = &self.assets.by_address;
        match query.order {
            AssetOrder::Name => self.page(&search, names.iter().map(|e| &*e.0)),
            AssetOrder::NameDown => self.page(&search, names.iter().rev().map(|e| &*e.0)),
            AssetOrder::Address => self.page(&search, addresses.iter().map(|e| &*e.0)),
            AssetOrder::AddressDown => self.page(&search, addresses.iter().rev().map(|e| &*e.0)),
        }
    }

    fn page<'a>(&self, search: &Search<'_>, entries: impl Iterator<Item = &'a Entry>) -> Page {
        let query = search.query;
        let end = query.offset.saturating_add(query.limit);
        // Without further conditions the size of the set is the total, and the walk ends with the page.
        let plain =
            search.finders.is_empty() && query.category.is_none() && query.protocol.is_none() && search.keep.is_none();
        let known = search.slots.as_ref().map_or_else(|| self.assets.len(), Slots::len);
        let known = plain.then_some(known);
        let mut page = Page { total: 0, items: Vec::new() };
        for entry in entries.filter(|e| self.fits(search, e)) {
            if (query.offset..end).contains(&page.total) {
                page.items.push(Listed { asset: Arc::clone(&entry.asset), actions: Actions::NONE });
            }
            page.total += 1;
            if let Some(total) = known.filter(|_| page.total >= end) {
                page.total = total;
                break;
            }
        }
        page
    }

    fn fits(&self, search: &Search<'_>, entry: &Entry) -> bool {
        let asset = &entry.asset;
        search.slots.as_ref().is_none_or(|slots| slots.contains(entry.slot))
            && search.finders.iter().all(|f| f.find(entry.folded.as_bytes()).is_some())
            && search.query.protocol.as_ref().is_none_or(|p| asset.protocol(p).is_some())
            && search
                .query
                .category
                .is_none_or(|c| self.platforms.get(&asset.platform).is_some_and(|p| p.category == c))
            && search.keep.is_none_or(|keep| keep(asset))
    }
}
