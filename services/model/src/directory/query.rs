//! Lists of assets: by place in the tree, by text, in order, a page at a time.

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
    pub place: Place,
    pub category: Option<Category>,
    /// Assets that offer this protocol.
    pub protocol: Option<String>,
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
    finder: Option<Finder<'static>>,
    slots: Option<Slots>,
    org: Option<Uuid>,
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
        match query.place {
            Place::Ungrouped | Place::Favorite => Page { total: 0, items: Vec::new() },
            Place::Anywhere | Place::Node { .. } => self.list(query, None, (org != org_ids::ROOT).then_some(org)),
        }
    }

    fn slots_of(&self, assets: impl Iterator<Item = Uuid>) -> Slots {
        let mut slots = Slots::with_room(self.assets.slots());
        assets.filter_map(|id| self.assets.get(id)).for_each(|e| slots.insert(e.slot));
        slots
    }

    fn list(&self, query: &AssetQuery, mut slots: Option<Slots>, org: Option<Uuid>) -> Page {
        if let Place::Node { node, descendants } = query.place {
            let inside = self.nodes.get(node).map(|n| self.node_slots(n, descendants)).unwrap_or_default();
            match &mut slots {
                Some(slots) => slots.keep(&inside),
                None => slots = Some(inside),
            }
        }
        // Lines separate the fields of the searched text; a searched line end must not find the seam.
        let text = query.text.trim().to_lowercase().replace(['\n', '\r'], " ");
        let finder = (!text.is_empty()).then(|| Finder::new(text.as_bytes()).into_owned());
        let search = Search { query, finder, slots, org };
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
            search.finder.is_none() && query.category.is_none() && query.protocol.is_none() && search.org.is_none();
        let known = search.slots.as_ref().filter(|_| plain).map(Slots::len);
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
            && search.org.is_none_or(|org| asset.org_id == org)
            && search.finder.as_ref().is_none_or(|f| f.find(entry.folded.as_bytes()).is_some())
            && search.query.protocol.as_ref().is_none_or(|p| asset.protocol(p).is_some())
            && search
                .query
                .category
                .is_none_or(|c| self.platforms.get(&asset.platform).is_some_and(|p| p.category == c))
    }
}
