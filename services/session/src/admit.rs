//! Who may start a session: the question to the model's one decision, what is told of the answer, and what is noted of it.
//! What must not be here: the decision itself, and anything that touches the asset.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_model::account::Account;
use gatehouse_model::asset::{Asset, Platform, PlatformProtocol};
use gatehouse_model::decide::{self, Allow, AllowedAccount, Decision, Facts, Request, RuleNotice};
use gatehouse_model::grant::Actions;
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::notice::{Notice, NoticeKind};
use gatehouse_model::session::{LoginFrom, SessionType};
use gatehouse_model::user::User;
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::core::Core;

/// The account that a person chose, with what they typed for it. Deliberately without `Debug`.
pub enum AccountChoice {
    /// A stored account by id.
    Stored(Uuid),
    /// `@USER`: the account named like the person. The secret is used only when none is stored.
    SameName { secret: Option<Zeroizing<String>> },
    /// `@INPUT`: both typed; without a secret [`Admission::needs_secret`] asks for it.
    Manual { username: String, secret: Option<Zeroizing<String>> },
}

impl AccountChoice {
    fn split(self) -> (decide::AccountChoice, Option<Zeroizing<String>>) {
        match self {
            Self::Stored(id) => (decide::AccountChoice::Stored(id), None),
            Self::SameName { secret } => (decide::AccountChoice::SameName, secret),
            Self::Manual { username, secret } => (decide::AccountChoice::Manual { username }, secret),
        }
    }
}

/// A wish to connect, of somebody who has proven who they are.
pub struct AdmitRequest {
    /// From the proof of a log-in. What it says of the user is read anew; only the id is believed.
    pub user: Arc<User>,
    pub asset: Uuid,
    pub account: AccountChoice,
    /// `ssh`, `sftp`, `telnet`...
    pub protocol: String,
    /// `ssh_client`, `sftp_client`, `web_cli`...
    pub connect_method: String,
    pub login_from: LoginFrom,
    /// As the door saw it.
    pub remote_ip: IpAddr,
    pub r#type: SessionType,
}

/// Why a session does not start, for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable, JumpServer's where it has one: `perm_account_invalid`, `perm_expired`, `acl_reject`...
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Leave to start one session.
pub struct Admission {
    pub(crate) core: Core,
    pub(crate) facts: Facts,
    pub(crate) allow: Allow,
    pub(crate) request: Request,
    pub(crate) secret: Option<Zeroizing<String>>,
    pub(crate) login_from: LoginFrom,
    pub(crate) kind: SessionType,
}

impl Core {
    /// Asks the decision whether this session may start. A refusal is in the ledger; notices that rules ask for are sent.
    ///
    /// # Errors
    /// [`Refusal`], whose sentence may be shown as it is.
    pub async fn admit(&self, wish: AdmitRequest) -> Result<Admission, Refusal> {
        if self.is_draining() {
            return Err(Refusal::new(
                "draining",
                "gatehouse is stopping and starts no sessions; try again in a moment",
            ));
        }
        let AdmitRequest { user, asset, account, protocol, connect_method, login_from, remote_ip, r#type } = wish;
        let (account, secret) = account.split();
        let source = remote_ip.to_canonical();
        let request = Request { account, protocol, connect_method, source, moment: self.moment() };
        let Some(facts) = self.read().facts(user.id, asset) else {
            // The same words as without permission: whether an asset exists is nobody's business.
            return Err(Refusal::new("perm_account_invalid", "you have no permission for this account on this asset"));
        };
        match decide::decide(&request, &facts) {
            Decision::Allow(allow) => {
                let kind = r#type;
                let admission =
                    Admission { core: self.clone(), facts, allow: *allow, request, secret, login_from, kind };
                admission.send_notices();
                Ok(admission)
            }
            Decision::Deny { reason } => {
                let refusal = Refusal::new(reason.code(), reason.to_string());
                self.note_refusal(&facts, &request, login_from, &refusal).await;
                Err(refusal)
            }
        }
    }

    async fn note_refusal(&self, facts: &Facts, request: &Request, from: LoginFrom, refusal: &Refusal) {
        let now = self.now();
        let body = json!({
            "user": facts.user.display(),
            "action": "reject",
            "resource_type": "asset",
            "resource": asset_display(&facts.asset),
            "resource_id": facts.asset.id,
            "remote_addr": request.source.to_string(),
            "datetime": now,
            "diff": {
                "code": refusal.code,
                "reason": refusal.message,
                "protocol": request.protocol,
                "connect_method": request.connect_method,
                "login_from": from.as_str(),
            },
        });
        let entry = LedgerEntry::new(Uuid::now_v7(), now, facts.asset.org_id, LedgerKind::Operate, body)
            .actor(facts.user.id)
            .refs([facts.user.id, facts.asset.id]);
        if let Err(error) = self.store().append(entry).await {
            // It stays refused; the store's health tells the administrator.
            tracing::error!(%error, "a refused connection could not be noted in the ledger");
        }
    }
}

impl Admission {
    pub fn user(&self) -> &Arc<User> {
        &self.facts.user
    }

    pub fn asset(&self) -> &Arc<Asset> {
        &self.facts.asset
    }

    pub fn platform(&self) -> Option<&Arc<Platform>> {
        self.facts.platform.as_ref()
    }

    /// The platform's settings of the protocol that is used.
    pub fn protocol_settings(&self) -> Option<&PlatformProtocol> {
        self.facts.platform.as_ref().and_then(|p| p.protocol(&self.request.protocol))
    }

    pub fn protocol(&self) -> &str {
        &self.request.protocol
    }

    /// What may be done at the start; [`crate::SessionHandle::actions`] follows changes.
    pub fn actions(&self) -> Actions {
        self.allow.actions
    }

    /// The user name on the asset (after switching, if the account is switched to).
    pub fn username(&self) -> &str {
        self.allow.account.username()
    }

    /// The stored account, if it is one.
    pub fn account(&self) -> Option<&Arc<Account>> {
        match &self.allow.account {
            AllowedAccount::Stored { account, .. } => Some(account),
            _ => None,
        }
    }

    /// Rules that want the person warned that this log-in is watched for.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.allow.notices.iter().filter(|n| n.warn_user).map(|n| n.name.as_str())
    }

    /// The secret is not stored and has to be typed: ask for it, then [`Admission::with_secret`].
    pub fn needs_secret(&self) -> bool {
        self.secret.is_none()
            && match &self.allow.account {
                AllowedAccount::Stored { account, su_from } => su_from.is_none() && !account.has_secret,
                AllowedAccount::SameName { .. } | AllowedAccount::Manual { .. } => true,
                AllowedAccount::Anonymous => false,
            }
    }

    /// The secret that was typed for an account whose secret is not stored.
    #[must_use]
    pub fn with_secret(mut self, secret: Zeroizing<String>) -> Self {
        self.secret = Some(secret);
        self
    }

    /// `name(username)`, as the session's row shows the account.
    pub fn account_display(&self) -> String {
        match &self.allow.account {
            AllowedAccount::Stored { account, .. } => format!("{}({})", account.name, account.username),
            AllowedAccount::SameName { username } => format!("@USER({username})"),
            AllowedAccount::Manual { username } => format!("@INPUT({username})"),
            AllowedAccount::Anonymous => "@ANON".to_owned(),
        }
    }

    fn send_notices(&self) {
        for RuleNotice { rule, name, recipients, .. } in &self.allow.notices {
            if recipients.is_empty() {
                continue;
            }
            self.core.notifier().notify(Notice {
                kind: NoticeKind::AssetLogin,
                org: self.facts.asset.org_id,
                recipients: recipients.clone(),
                subject: format!("{} connects to {}", self.facts.user.display(), asset_display(&self.facts.asset)),
                text: format!(
                    "User: {}\nAsset: {}\nAccount: {}\nProtocol: {}\nFrom: {}\nRule: {name}",
                    self.facts.user.display(),
                    asset_display(&self.facts.asset),
                    self.account_display(),
                    self.request.protocol,
                    self.request.source,
                ),
                resource: Some(*rule),
            });
        }
    }
}

/// `name(address)`, as rows show an asset.
pub(crate) fn asset_display(asset: &Asset) -> String {
    format!("{}({})", asset.name, asset.address)
}
