//! What reaching an asset takes: the account's secret, the way through the zone's gateways, switching accounts. Secrets
//! leave the store here, live in zeroizing types, and go to the dialler only. What must not be here: sockets.

use std::sync::Arc;

use gatehouse_dial::su::Method;
use gatehouse_dial::{Auth, DialContext, Hop, HostKeys, Keepalive, Route, SshLogin, Timeouts};
use gatehouse_model::account::{Account, Secret, SecretType};
use gatehouse_model::asset::{Asset, Platform};
use gatehouse_model::builtin::gateway_platform_id;
use gatehouse_model::decide::AllowedAccount;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::admit::{Admission, Refusal};
use crate::core::Core;
use crate::hostkeys::{Pinned, Place};

/// What to log in with. Deliberately without `Debug`.
pub struct Unlocked {
    /// The user name to log in with (that of the account to switch from, when there is one).
    pub username: String,
    /// The password, when the secret is one.
    pub password: Option<Zeroizing<String>>,
    /// For SSH, in the order to try.
    pub auth: Vec<Auth>,
    /// Afterwards, inside the shell.
    pub su: Option<SuPlan>,
}

/// Switching to the real account once the shell is open (C18).
pub struct SuPlan {
    pub method: Method,
    /// The account to switch to.
    pub username: String,
    /// What to type when the asset asks for a password.
    pub secret: Option<Zeroizing<String>>,
}

impl Admission {
    /// Takes the secrets out of the store.
    ///
    /// # Errors
    /// [`Refusal`] when a secret is missing or cannot be read.
    pub fn unlock(&self) -> Result<Unlocked, Refusal> {
        match &self.allow.account {
            AllowedAccount::Stored { account, su_from: None } => match (&self.secret, account.has_secret) {
                (Some(typed), false) => Ok(with_password(account.username.clone(), typed.clone())),
                _ => login(&self.core, account),
            },
            AllowedAccount::Stored { account, su_from: Some(from) } => self.unlock_switching(account, from),
            AllowedAccount::SameName { username } | AllowedAccount::Manual { username } => {
                let secret = self.secret.clone().ok_or_else(|| {
                    Refusal::new("account_no_secret", format!("no secret is stored for {username}; it has to be typed"))
                })?;
                Ok(with_password(username.clone(), secret))
            }
            AllowedAccount::Anonymous => {
                Ok(Unlocked { username: String::new(), password: None, auth: Vec::new(), su: None })
            }
        }
    }

    fn unlock_switching(&self, account: &Account, from: &Account) -> Result<Unlocked, Refusal> {
        let platform = self.facts.platform.as_deref().filter(|p| p.su_enabled).and_then(|p| p.su_method);
        let method: Method = platform
            .ok_or_else(|| {
                Refusal::new("su_disabled", "the platform of this asset does not say how to switch accounts")
            })?
            .as_str()
            .parse()
            .map_err(|e: gatehouse_dial::su::SwitchError| Refusal::new("su_disabled", e.to_string()))?;
        let mut unlocked = login(&self.core, from)?;
        let secret = if method.wants_own_secret() {
            unlocked.password.clone()
        } else {
            login(&self.core, account).ok().and_then(|u| u.password)
        };
        unlocked.su = Some(SuPlan { method, username: account.username.clone(), secret });
        Ok(unlocked)
    }

    /// The SSH log-in of an unlocked account; old algorithms only where the platform says so.
    pub fn ssh_login(&self, unlocked: Unlocked) -> (SshLogin, Option<SuPlan>) {
        let legacy = self.protocol_settings().is_some_and(|p| p.setting_bool("old_ssh_version"));
        (SshLogin { username: unlocked.username, auth: unlocked.auth, legacy }, unlocked.su)
    }

    /// The way to the asset: direct, or through the gateways of its zone in the order of their names.
    ///
    /// # Errors
    /// [`Refusal`] when the asset lost the protocol, or no gateway of its zone has an account to log in with.
    pub fn route(&self) -> Result<Route, Refusal> {
        Ok(self.way()?.0)
    }

    /// What dialling needs besides the route: who remembers host keys, time limits, which gateways failed lately.
    ///
    /// # Errors
    /// As [`Admission::route`].
    pub fn dial_context(&self) -> Result<DialContext, Refusal> {
        Ok(DialContext {
            host_keys: self.host_keys()?,
            timeouts: Timeouts::default(),
            keepalive: Keepalive::default(),
            gateways: self.core.gateways().clone(),
        })
    }

    /// Who remembers the host keys of the asset and of the gateways on the way.
    ///
    /// # Errors
    /// As [`Admission::route`].
    pub fn host_keys(&self) -> Result<Arc<dyn HostKeys>, Refusal> {
        let places = self.way()?.1;
        Ok(Arc::new(Pinned::new(self.core.clone(), self.facts.user.id, self.request.source, places)))
    }

    fn way(&self) -> Result<(Route, Vec<Place>), Refusal> {
        way(&self.core, &self.facts.asset, self.facts.platform.as_deref(), &self.request.protocol)
    }
}

/// The way to a protocol of an asset, and the places on it whose host keys are checked.
pub(crate) fn way(
    core: &Core,
    asset: &Asset,
    platform: Option<&Platform>,
    protocol: &str,
) -> Result<(Route, Vec<Place>), Refusal> {
    let port = asset.protocol(protocol).map(|p| p.port).ok_or_else(|| {
        Refusal::new("asset_protocol_invalid", format!("this asset does not offer the protocol {protocol}"))
    })?;
    let mut route = Route::direct(asset.address.clone(), port);
    let mut places = vec![Place::new(asset, port)];
    let through = platform.is_none_or(|p| p.gateway_enabled);
    let is_gateway = asset.platform == gateway_platform_id();
    let Some(zone) = asset.zone.filter(|_| through && !is_gateway) else { return Ok((route, places)) };
    let gateways = core.read().gateways(asset.org_id, zone);
    let mut broken = None;
    for gateway in &gateways {
        match hop(core, gateway) {
            Ok((hop, place)) => {
                route.gateways.push(Arc::new(hop));
                places.push(place);
            }
            Err(refusal) => broken = Some(refusal),
        }
    }
    if route.gateways.is_empty() {
        // Never around the zone: the same address may be another machine here, which would get the secret.
        return Err(broken.unwrap_or_else(|| {
            let why = "the zone of this asset has no gateway in use; ask an administrator to add or enable one";
            Refusal::new("gateway_invalid", why)
        }));
    }
    Ok((route, places))
}

fn hop(core: &Core, gateway: &Asset) -> Result<(Hop, Place), Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            "gateway_invalid",
            format!("gateway {} of the zone has no {what}; ask an administrator", gateway.name),
        )
    };
    let port = gateway.protocol("ssh").map(|p| p.port).ok_or_else(|| missing("ssh port"))?;
    let account = core.read().gateway_account(gateway.id).ok_or_else(|| missing("account with a stored secret"))?;
    let unlocked = login(core, &account)?;
    let legacy = core
        .read()
        .platform(gateway.platform)
        .is_some_and(|p| p.protocol("ssh").is_some_and(|p| p.setting_bool("old_ssh_version")));
    let login = SshLogin { username: unlocked.username, auth: unlocked.auth, legacy };
    let hop = Hop { name: gateway.name.clone(), address: gateway.address.clone(), port, login };
    Ok((hop, Place::new(gateway, port)))
}

/// The stored secret of an account, as a log-in.
pub(crate) fn login(core: &Core, account: &Account) -> Result<Unlocked, Refusal> {
    let missing = || {
        let name = &account.username;
        Refusal::new("account_no_secret", format!("account {name} has no stored secret; ask an administrator"))
    };
    let secret = read_secret(core, account.org_id, account.id)?.ok_or_else(missing)?;
    let text = Zeroizing::new(secret.secret.clone());
    let username = account.username.clone();
    match account.secret_type {
        SecretType::Password => Ok(with_password(username, text)),
        SecretType::SshKey => {
            let passphrase = secret.passphrase.clone().map(Zeroizing::new);
            let auth = vec![Auth::Key { pem: text, passphrase }];
            Ok(Unlocked { username, password: None, auth, su: None })
        }
        SecretType::AccessKey | SecretType::Token | SecretType::ApiKey => {
            let kind = account.secret_type.label();
            Err(Refusal::new("account_secret_type", format!("a secret of type {kind} cannot log in to a terminal")))
        }
    }
}

fn with_password(username: String, password: Zeroizing<String>) -> Unlocked {
    Unlocked { username, auth: vec![Auth::Password(password.clone())], password: Some(password), su: None }
}

fn read_secret(core: &Core, org: Uuid, id: Uuid) -> Result<Option<Arc<Secret>>, Refusal> {
    core.store().in_org(org).get::<Secret>(id).map_err(|error| {
        tracing::error!(account = %id, %error, "a secret cannot be read");
        Refusal::new("account_no_secret", "the account's secret cannot be read at the moment; ask an administrator")
    })
}
