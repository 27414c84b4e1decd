//! Opening the box: root key, signing key, store. Shared by the daemon and by the offline commands.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use gatehouse_model::account::{Account, AccountTemplate};
use gatehouse_model::asset::{Asset, FavoriteAsset, Node, PinnedHostKey, Platform, Zone};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::org::{Label, Organization, Role};
use gatehouse_model::rules::{AssetLoginRule, CommandFilter, CommandGroup, ConnectMethodRule, LoginRule};
use gatehouse_model::session::Session;
use gatehouse_model::settings::Settings;
use gatehouse_model::user::{User, UserGroup};
use gatehouse_seal::{FileSigner, RootKey};
use gatehouse_store::{CheckpointSigner, Options, Registry, Store, StoreError};

/// The seal's signing key as the ledger wants it.
pub(crate) struct Signer(pub FileSigner);

impl Signer {
    fn failed(error: &gatehouse_seal::SealError) -> StoreError {
        StoreError::Signer(error.to_string())
    }
}

impl CheckpointSigner for Signer {
    fn key_id(&self) -> String {
        self.0.key_id()
    }

    fn public_key(&self) -> Vec<u8> {
        self.0.public_key()
    }

    fn counter(&self) -> Result<u64, StoreError> {
        Ok(self.0.counter())
    }

    fn next_counter(&self) -> Result<u64, StoreError> {
        self.0.next_counter().map_err(|e| Self::failed(&e))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self.0.sign(message))
    }
}

pub(crate) fn root_key(data: &Path) -> anyhow::Result<RootKey> {
    gatehouse_seal::open(data).with_context(|| format!("cannot open the seal of {}", data.display()))
}

/// Every kind of record that some crate keeps.
fn registry() -> Registry {
    let registry = Registry::new()
        .with::<Organization>()
        .with::<Role>()
        .with::<Label>()
        .with::<User>()
        .with::<UserGroup>()
        .with::<Node>()
        .with::<Platform>()
        .with::<Zone>()
        .with::<Asset>()
        .with::<PinnedHostKey>()
        .with::<FavoriteAsset>()
        .with::<Account>()
        .with::<AccountTemplate>()
        .with::<AssetPermission>()
        .with::<LoginRule>()
        .with::<AssetLoginRule>()
        .with::<CommandFilter>()
        .with::<CommandGroup>()
        .with::<ConnectMethodRule>()
        .with::<Session>()
        .with::<Settings>()
        .with::<gatehouse_ssh::GatewayHostKey>();
    gatehouse_api::kinds(gatehouse_notify::kinds(gatehouse_identity::kinds(registry)))
}

pub(crate) fn store(data: &Path, root: &RootKey) -> anyhow::Result<Store> {
    let signer = FileSigner::open_or_create(data, root).context("cannot open the key that signs the ledger")?;
    let mut options = Options::new(Arc::new(Signer(signer)));
    options.registry = registry();
    Store::open(data, root.as_bytes(), options).with_context(|| format!("cannot open the store in {}", data.display()))
}

/// Where recordings and kept files lie, below the data directory.
pub(crate) const RECORDINGS: &str = "recordings";
pub(crate) const KEPT_FILES: &str = "files";
/// Purposes of keys derived from the root key; part of what is on disk, so they never change.
pub(crate) const RECORDINGS_KEY: &str = "recordings";
