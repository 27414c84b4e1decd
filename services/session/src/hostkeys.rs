//! Host keys of assets and gateways: the first one seen is pinned, another one later is refused until an administrator
//! deletes the pin. Both are in the ledger. What must not be here: sockets.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use gatehouse_dial::{HostKey, HostKeyVerdict, HostKeys};
use gatehouse_model::asset::{Asset, PinnedHostKey};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::record::Index;
use gatehouse_store::StoreError;
use serde_json::json;
use uuid::Uuid;

use crate::admit::asset_display;
use crate::core::Core;

/// An asset on the way, as the dialler names it.
pub(crate) struct Place {
    address: String,
    port: u16,
    asset: Uuid,
    org: Uuid,
    display: String,
}

impl Place {
    pub(crate) fn new(asset: &Asset, port: u16) -> Self {
        let (address, display) = (asset.address.clone(), asset_display(asset));
        Self { address, port, asset: asset.id, org: asset.org_id, display }
    }
}

pub(crate) struct Pinned {
    core: Core,
    user: Uuid,
    source: IpAddr,
    places: Vec<Place>,
}

impl Pinned {
    pub(crate) fn new(core: Core, user: Uuid, source: IpAddr, places: Vec<Place>) -> Self {
        Self { core, user, source, places }
    }

    fn place(&self, host: &str, port: u16) -> Option<&Place> {
        self.places.iter().find(|p| p.port == port && p.address == host)
    }

    fn pinned(&self, place: &Place) -> Result<Option<Arc<PinnedHostKey>>, StoreError> {
        let key = Index::compound(&[place.asset.as_bytes(), &place.port.to_be_bytes()]);
        Ok(self.core.store().in_org(place.org).find::<PinnedHostKey>("place", &key)?.into_iter().next())
    }

    fn entry(&self, place: &Place, action: &str, id: Uuid, key: &HostKey, pinned: Option<&str>) -> LedgerEntry {
        let now = self.core.now();
        let body = json!({
            "user": self.core.read().user(self.user).map(|u| u.display()).unwrap_or_default(),
            "action": action,
            "resource_type": "host_key",
            "resource": format!("{}:{}", place.display, place.port),
            "resource_id": id,
            "remote_addr": self.source.to_string(),
            "datetime": now,
            "diff": { "algorithm": key.algorithm, "fingerprint": key.sha256, "pinned": pinned },
        });
        LedgerEntry::new(Uuid::now_v7(), now, place.org, LedgerKind::Operate, body).actor(self.user).refs([
            place.asset,
            self.user,
            id,
        ])
    }

    async fn judge(&self, place: &Place, key: &HostKey) -> Result<HostKeyVerdict, StoreError> {
        if let Some(pin) = self.pinned(place)? {
            return self.compare(place, &pin, key).await;
        }
        let pin = PinnedHostKey {
            id: Uuid::now_v7(),
            org_id: place.org,
            asset: place.asset,
            port: place.port,
            algorithm: key.algorithm.clone(),
            fingerprint: key.sha256.clone(),
            public_key: key.openssh.clone(),
            date_pinned: self.core.now(),
        };
        let mut batch = self.core.store().batch();
        batch.audit(self.entry(place, "create", pin.id, key, None)).insert(pin);
        match self.core.store().commit(batch).await {
            Ok(()) => Ok(HostKeyVerdict::PinnedNow),
            // Another session pinned at the same time: what it saw counts.
            Err(StoreError::Conflict { .. } | StoreError::Exists { .. }) => match self.pinned(place)? {
                Some(pin) => self.compare(place, &pin, key).await,
                None => Ok(HostKeyVerdict::Refused { reason: "its record is being changed; try again".to_owned() }),
            },
            Err(other) => Err(other),
        }
    }

    async fn compare(&self, place: &Place, pin: &PinnedHostKey, key: &HostKey) -> Result<HostKeyVerdict, StoreError> {
        if pin.fingerprint == key.sha256 {
            return Ok(HostKeyVerdict::Known);
        }
        tracing::warn!(asset = %place.asset, port = place.port, "the host key of an asset changed");
        self.core.store().append(self.entry(place, "reject", pin.id, key, Some(&pin.fingerprint))).await?;
        Ok(HostKeyVerdict::Changed { expected: pin.fingerprint.clone() })
    }
}

#[async_trait]
impl HostKeys for Pinned {
    async fn check(&self, host: &str, port: u16, key: &HostKey) -> HostKeyVerdict {
        let Some(place) = self.place(host, port) else {
            return HostKeyVerdict::Refused { reason: "it is not on the way to this asset".to_owned() };
        };
        self.judge(place, key).await.unwrap_or_else(|error| {
            tracing::error!(asset = %place.asset, %error, "a host key cannot be checked");
            HostKeyVerdict::Refused { reason: "the store does not answer".to_owned() }
        })
    }

    async fn pinned_algorithms(&self, host: &str, port: u16) -> Vec<String> {
        let pin = self.place(host, port).and_then(|place| self.pinned(place).ok().flatten());
        pin.map(|p| p.algorithm.clone()).into_iter().collect()
    }
}
