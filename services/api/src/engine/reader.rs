//! Reading the store inside one organization, or across them for those who may.
//!
//! Every read of the API goes through a `Reader`, which is made from the request's checked scope: an object of another
//! organization cannot be reached by its id, in a list or through a relation.

use std::any::Any;
use std::sync::Arc;

use gatehouse_model::account::{Account, AccountTemplate, Secret};
use gatehouse_model::asset::{Asset, FavoriteAsset, Node, PinnedHostKey, Platform, Zone};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::org::{Label, Organization, Role};
use gatehouse_model::record::Record;
use gatehouse_model::rules::{AssetLoginRule, CommandFilter, CommandGroup, ConnectMethodRule, LoginRule};
use gatehouse_model::session::{ConnectionToken, Session};
use gatehouse_model::settings::{MailSecret, Settings};
use gatehouse_model::user::{
    AccessKey, ApiToken, LoginFailures, SshKey, TempPassword, TrustedUserCa, User, UserGroup, UserSecret,
};
use gatehouse_store::{AllOrgs, Batch, Store, StoreError};
use uuid::Uuid;

/// Which organizations a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Org(Uuid),
    /// The global organization: sees all others. Given only to those whose system roles allow the action.
    Global,
}

impl Scope {
    /// The id that rows and the ledger show for this scope.
    pub fn id(self) -> Uuid {
        match self {
            Self::Org(id) => id,
            Self::Global => gatehouse_model::common::org_ids::ROOT,
        }
    }

    pub fn contains(self, org: Uuid) -> bool {
        match self {
            Self::Org(id) => id == org,
            Self::Global => true,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Reader {
    pub store: Store,
    pub scope: Scope,
}

impl Reader {
    pub fn new(store: &Store, scope: Scope) -> Self {
        Self { store: store.clone(), scope }
    }

    /// The same store without the walls between organizations, for what is not of an organization or has been checked
    /// in another way (a user's own things, the relations of a record already in hand).
    pub fn global(&self) -> Self {
        Self { store: self.store.clone(), scope: Scope::Global }
    }

    pub fn get<T: Kept>(&self, id: Uuid) -> Result<Option<Arc<T>>, StoreError> {
        Ok(T::versioned(self, id)?.map(|(record, _)| record))
    }

    pub fn versioned<T: Kept>(&self, id: Uuid) -> Result<Option<(Arc<T>, u64)>, StoreError> {
        T::versioned(self, id)
    }

    pub fn list<T: Kept>(&self) -> Result<Vec<Arc<T>>, StoreError> {
        T::list(self)
    }

    pub fn find<T: Kept>(&self, index: &'static str, key: &[u8]) -> Result<Vec<Arc<T>>, StoreError> {
        T::find(self, index, key)
    }

    pub fn settings(&self) -> Result<Arc<Settings>, StoreError> {
        let found = self.get::<Settings>(gatehouse_model::settings::SETTINGS_ID)?;
        Ok(found.unwrap_or_default())
    }
}

/// A record type that the API keeps, whichever side of the organization wall it lives on.
pub(crate) trait Kept: Record + Any {
    fn versioned(reader: &Reader, id: Uuid) -> Result<Option<(Arc<Self>, u64)>, StoreError>;
    fn list(reader: &Reader) -> Result<Vec<Arc<Self>>, StoreError>;
    fn find(reader: &Reader, index: &'static str, key: &[u8]) -> Result<Vec<Arc<Self>>, StoreError>;
    fn stage(self, batch: &mut Batch, version: Option<u64>);
    fn unstage(batch: &mut Batch, id: Uuid);
}

macro_rules! stages {
    () => {
        fn stage(self, batch: &mut Batch, version: Option<u64>) {
            match version {
                Some(version) => batch.update(self, version),
                None => batch.insert(self),
            };
        }
        fn unstage(batch: &mut Batch, id: Uuid) {
            batch.delete::<Self>(id);
        }
    };
}

macro_rules! kept_in_org {
    ($($t:ty),+ $(,)?) => { $(
        impl Kept for $t {
            fn versioned(reader: &Reader, id: Uuid) -> Result<Option<(Arc<Self>, u64)>, StoreError> {
                match reader.scope {
                    Scope::Org(org) => reader.store.in_org(org).versioned::<Self>(id),
                    Scope::Global => reader.store.all_orgs(AllOrgs::crossing_organizations()).versioned::<Self>(id),
                }
            }
            fn list(reader: &Reader) -> Result<Vec<Arc<Self>>, StoreError> {
                match reader.scope {
                    Scope::Org(org) => reader.store.in_org(org).list::<Self>(),
                    Scope::Global => reader.store.all_orgs(AllOrgs::crossing_organizations()).list::<Self>(),
                }
            }
            fn find(reader: &Reader, index: &'static str, key: &[u8]) -> Result<Vec<Arc<Self>>, StoreError> {
                match reader.scope {
                    Scope::Org(org) => reader.store.in_org(org).find::<Self>(index, key),
                    Scope::Global => reader.store.all_orgs(AllOrgs::crossing_organizations()).find::<Self>(index, key),
                }
            }
            stages!();
        }
    )+ };
}

macro_rules! kept_in_system {
    ($($t:ty),+ $(,)?) => { $(
        impl Kept for $t {
            fn versioned(reader: &Reader, id: Uuid) -> Result<Option<(Arc<Self>, u64)>, StoreError> {
                reader.store.system().versioned::<Self>(id)
            }
            fn list(reader: &Reader) -> Result<Vec<Arc<Self>>, StoreError> {
                reader.store.system().list::<Self>()
            }
            fn find(reader: &Reader, index: &'static str, key: &[u8]) -> Result<Vec<Arc<Self>>, StoreError> {
                reader.store.system().find::<Self>(index, key)
            }
            stages!();
        }
    )+ };
}

kept_in_org!(
    Account,
    AccountTemplate,
    Asset,
    AssetLoginRule,
    AssetPermission,
    CommandFilter,
    CommandGroup,
    ConnectionToken,
    FavoriteAsset,
    Label,
    Node,
    PinnedHostKey,
    Secret,
    Session,
    UserGroup,
    Zone,
);
kept_in_system!(
    AccessKey,
    ApiToken,
    ConnectMethodRule,
    LoginFailures,
    LoginRule,
    MailSecret,
    Organization,
    Platform,
    Role,
    Settings,
    SshKey,
    TempPassword,
    TrustedUserCa,
    User,
    UserSecret,
);
