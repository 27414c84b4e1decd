//! Somebody who has logged in over SSH, and their ways to assets: what they may reach under which name, leave for a
//! session, and the connection to the asset. Used by the menu, direct log-ins, tunnels, SFTP and SCP alike.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_dial::{DialError, SshPeer};
use gatehouse_identity::Redeemed;
use gatehouse_model::account::Account;
use gatehouse_model::asset::{Asset, Charset};
use gatehouse_model::grant::alias;
use gatehouse_model::session::{LoginFrom, SessionType};
use gatehouse_model::user::User;
use gatehouse_session::{
    AccountChoice, Admission, AdmitRequest, Core, Ending, OpenSpec, Refusal, SessionError, SessionHandle, SuPlan,
};
use parking_lot::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::names::Target;

/// Logged-in connections to assets that nobody uses at the moment, kept for the next channel of the same user
/// connection.
const IDLE_PEERS: usize = 4;

/// Why a connection does not come about; the sentence is for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Session(#[from] SessionError),
    /// Ended while it was being opened.
    #[error("{0}")]
    Stopped(String),
}

/// An asset and how it may be logged in to, chosen but not decided.
#[derive(Clone)]
pub struct Pick {
    pub asset: Arc<Asset>,
    pub account: PickedAccount,
    /// `ssh`, `telnet`, `sftp`.
    pub protocol: &'static str,
}

/// An account that the user may choose. Whether it may be used is decided when it is.
#[derive(Clone, Debug, PartialEq)]
pub enum PickedAccount {
    Stored(Arc<Account>),
    /// `@USER`.
    SameName,
    /// `@INPUT`, with the user name if it is known already.
    Manual {
        username: Option<String>,
    },
}

/// What a written target stands for.
pub enum Found {
    One(Box<Pick>),
    /// Several assets or accounts fit: the user chooses.
    Several(Vec<Pick>),
    /// Nothing that the user may reach.
    Nothing,
}

/// Somebody who has proven who they are. Cheap to clone.
#[derive(Clone)]
pub struct Visitor {
    inner: Arc<Inner>,
}

struct Inner {
    core: Core,
    user: Arc<User>,
    ip: IpAddr,
    target: Option<Target>,
    token: Option<Mutex<Token>>,
    idle: Mutex<Vec<(PeerKey, SshPeer)>>,
}

/// What a connection token allows: exactly one asset, account and protocol. The typed secret stays with the connection,
/// which may open several channels.
struct Token {
    asset: Uuid,
    account: String,
    protocol: String,
    connect_method: String,
    input_username: String,
    input_secret: Option<Zeroizing<String>>,
}

#[derive(Clone, PartialEq, Eq)]
struct PeerKey {
    asset: Uuid,
    account: Uuid,
    version: u32,
    port: u16,
}

/// A session whose asset is connected over SSH.
pub struct Connected {
    pub session: SessionHandle,
    pub peer: SshPeer,
    pub admission: Admission,
    /// The shell has to switch accounts first.
    pub(crate) su: Option<SuPlan>,
    key: Option<PeerKey>,
}

impl PickedAccount {
    /// What stands for it in a user name.
    pub fn key(&self) -> String {
        match self {
            Self::Stored(account) => account.id.to_string(),
            Self::SameName => alias::USER.to_owned(),
            Self::Manual { username } => username.clone().unwrap_or_else(|| alias::INPUT.to_owned()),
        }
    }

    /// For lists and messages.
    pub fn display(&self) -> String {
        match self {
            Self::Stored(account) => format!("{}({})", account.name, account.username),
            Self::SameName => alias::USER.to_owned(),
            Self::Manual { username: None } => alias::INPUT.to_owned(),
            Self::Manual { username: Some(name) } => format!("{}({name})", alias::INPUT),
        }
    }
}

impl Visitor {
    pub(crate) fn new(
        core: Core,
        user: Arc<User>,
        ip: IpAddr,
        target: Option<Target>,
        token: Option<Box<Redeemed>>,
    ) -> Self {
        let token = token.map(|redeemed| {
            let Redeemed { token, input_secret, .. } = *redeemed;
            Mutex::new(Token {
                asset: token.asset,
                account: token.account,
                protocol: token.protocol,
                connect_method: token.connect_method,
                input_username: token.input_username,
                input_secret,
            })
        });
        Self { inner: Arc::new(Inner { core, user, ip, target, token, idle: Mutex::default() }) }
    }

    pub fn core(&self) -> &Core {
        &self.inner.core
    }

    /// As proven at log-in; decisions read the record anew.
    pub fn user(&self) -> &Arc<User> {
        &self.inner.user
    }

    pub fn ip(&self) -> IpAddr {
        self.inner.ip
    }

    /// The user name or token said where to: `false` leads to the menu, or to the tree of SFTP.
    pub fn is_direct(&self) -> bool {
        self.inner.target.is_some() || self.inner.token.is_some()
    }

    /// What the user name said, for messages.
    pub fn target_text(&self) -> String {
        self.inner.target.as_ref().map(|t| format!("{}@{}", t.account, t.asset)).unwrap_or_default()
    }

    /// What the direct log-in or the token stands for, with the protocol that the channel wants when none was written
    /// (`ssh` also finds a telnet asset).
    pub fn find(&self, wanted: &'static str) -> Found {
        if let Some(token) = &self.inner.token {
            return self.find_token(&token.lock(), wanted);
        }
        let Some(target) = &self.inner.target else { return Found::Nothing };
        let mut picks = Vec::new();
        for asset in self.inner.core.read().find_reachable(self.user().id, &target.asset, self.core().now()) {
            let Some(protocol) = protocol_of(&asset, target.protocol, wanted) else { continue };
            for account in self.accounts_named(&asset, protocol, &target.account) {
                picks.push(Pick { asset: Arc::clone(&asset), account, protocol });
            }
        }
        match picks.len() {
            0 => Found::Nothing,
            1 => picks.pop().map_or(Found::Nothing, |pick| Found::One(Box::new(pick))),
            _ => Found::Several(picks),
        }
    }

    fn find_token(&self, token: &Token, wanted: &'static str) -> Found {
        let Some(asset) = self.core().read().asset(token.asset) else { return Found::Nothing };
        let protocol = match (token.protocol.as_str(), wanted) {
            ("sftp", "sftp") | ("ssh", "sftp") => "sftp",
            ("ssh", _) => "ssh",
            ("telnet", _) => "telnet",
            _ => return Found::Nothing,
        };
        let account = match token.account.as_str() {
            alias::INPUT => PickedAccount::Manual { username: Some(token.input_username.clone()) },
            alias::USER => PickedAccount::SameName,
            name => match self.accounts_named(&asset, protocol, name).into_iter().next() {
                Some(account) => account,
                None => return Found::Nothing,
            },
        };
        Found::One(Box::new(Pick { asset, account, protocol }))
    }

    /// The accounts with which the user may log in to an asset over a protocol.
    pub fn accounts(&self, asset: &Asset, protocol: &str) -> Vec<PickedAccount> {
        let granted = self.core().read().granted_accounts(self.user().id, asset.id, self.core().now());
        granted
            .into_iter()
            .filter(|g| g.protocols.iter().any(|p| p == "all" || p == protocol))
            .filter_map(|g| match (&g.account, g.alias.as_str()) {
                (Some(account), _) => Some(PickedAccount::Stored(Arc::clone(account))),
                (None, alias::USER) => Some(PickedAccount::SameName),
                (None, alias::INPUT) => Some(PickedAccount::Manual { username: None }),
                _ => None,
            })
            .collect()
    }

    /// The accounts that somebody may mean by a written name. A name that no account has is a manual log-in under that name,
    /// where the user may do such.
    fn accounts_named(&self, asset: &Asset, protocol: &str, written: &str) -> Vec<PickedAccount> {
        let all = self.accounts(asset, protocol);
        let named: Vec<PickedAccount> = all.iter().filter(|a| fits(a, written)).cloned().collect();
        if !named.is_empty() {
            return named;
        }
        if written == self.user().username && all.contains(&PickedAccount::SameName) {
            return vec![PickedAccount::SameName];
        }
        let manual = !written.starts_with('@') && all.contains(&PickedAccount::Manual { username: None });
        manual.then(|| PickedAccount::Manual { username: Some(written.to_owned()) }).into_iter().collect()
    }

    /// Asks the decision. `typed` is the secret of a manual or same-name account, if it was asked for already; when
    /// [`Admission::needs_secret`] then, ask for it and add it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(
        &self,
        pick: &Pick,
        typed: Option<Zeroizing<String>>,
        method: &str,
        r#type: SessionType,
    ) -> Result<Admission, Refusal> {
        let (secret, method) = match &self.inner.token {
            Some(token) => {
                let token = token.lock();
                let method = if token.connect_method.is_empty() { method } else { &token.connect_method };
                (token.input_secret.clone(), method.to_owned())
            }
            None => (None, method.to_owned()),
        };
        let secret = typed.or(secret);
        let account = match &pick.account {
            PickedAccount::Stored(account) => AccountChoice::Stored(account.id),
            PickedAccount::SameName => AccountChoice::SameName { secret },
            PickedAccount::Manual { username } => {
                AccountChoice::Manual { username: username.clone().unwrap_or_default(), secret }
            }
        };
        let wish = AdmitRequest {
            user: Arc::clone(self.user()),
            asset: pick.asset.id,
            account,
            protocol: pick.protocol.to_owned(),
            connect_method: method,
            login_from: LoginFrom::Ssh,
            remote_ip: self.inner.ip,
            r#type,
        };
        self.core().admit(wish).await
    }

    /// Opens the session and, at the same time, the connection to the asset (or takes an idle one of the same user
    /// connection). A failure to connect is in the session's row.
    ///
    /// # Errors
    /// [`ConnectError`], whose sentence may be shown as it is.
    pub async fn connect(&self, admission: Admission, spec: OpenSpec) -> Result<Connected, ConnectError> {
        let unlocked = admission.unlock()?;
        let (login, su) = admission.ssh_login(unlocked);
        let key = peer_key(&admission).filter(|_| su.is_none());
        let idle = key.as_ref().and_then(|key| self.take_idle(key));
        let dial = async {
            match idle {
                Some(peer) => Ok(peer),
                None => {
                    let (route, ctx) = (admission.route()?, admission.dial_context()?);
                    Ok::<SshPeer, ConnectError>(gatehouse_dial::ssh(&route, &login, &ctx).await?)
                }
            }
        };
        let (session, peer) = tokio::join!(Box::pin(self.core().open(&admission, spec)), Box::pin(dial));
        let (session, peer) = pair(session, peer).await?;
        Ok(Connected { session, peer, admission, su, key })
    }

    fn take_idle(&self, key: &PeerKey) -> Option<SshPeer> {
        let mut idle = self.inner.idle.lock();
        idle.retain(|(_, peer)| !peer.is_closed());
        let at = idle.iter().position(|(k, _)| k == key)?;
        Some(idle.swap_remove(at).1)
    }

    /// Keeps a connection for the next channel; call it when its channel has ended in good order.
    pub fn give_back(&self, connected: Connected) {
        let Some(key) = connected.key else { return };
        let mut idle = self.inner.idle.lock();
        if !connected.peer.is_closed() && idle.len() < IDLE_PEERS {
            idle.push((key, connected.peer));
        }
    }
}

/// Both or none: what was opened is closed again when the other failed.
pub(crate) async fn pair<P>(
    session: Result<SessionHandle, SessionError>,
    peer: Result<P, ConnectError>,
) -> Result<(SessionHandle, P), ConnectError> {
    let session = session?;
    match peer {
        Ok(peer) => match session.check() {
            Ok(()) => Ok((session, peer)),
            Err(stop) => {
                session.close(Ending::normal(stop.reason.clone())).await;
                Err(ConnectError::Stopped(stop.reason))
            }
        },
        Err(error) => {
            session.close(Ending::connect_failed(error.to_string())).await;
            Err(error)
        }
    }
}

/// Only connections with a stored secret are shared between channels: a typed one belongs to the channel that asked.
fn peer_key(admission: &Admission) -> Option<PeerKey> {
    let account = admission.account().filter(|a| a.has_secret)?;
    let port = admission.asset().protocol(admission.protocol())?.port;
    Some(PeerKey { asset: admission.asset().id, account: account.id, version: account.version, port })
}

/// The protocol to use with an asset: as written, else what the channel wants; a shell also goes over telnet.
fn protocol_of(asset: &Asset, written: Option<&'static str>, wanted: &'static str) -> Option<&'static str> {
    let offers = |p: &str| asset.protocol(p).is_some();
    match (written, wanted) {
        // `user@sftp@...` names the file service, whatever channel asks; `ssh` covers the file service as well.
        (Some("ssh"), "sftp") | (None, "sftp") | (Some("sftp"), "sftp") => offers("sftp").then_some("sftp"),
        (Some(written), _) => offers(written).then_some(written),
        (None, _) if offers("ssh") => Some("ssh"),
        (None, _) => offers("telnet").then_some("telnet"),
    }
}

/// Whether an account is the one that was written: by user name, by name, by id or by alias.
fn fits(account: &PickedAccount, written: &str) -> bool {
    match account {
        PickedAccount::Stored(a) => a.name == written || a.username == written || a.id.to_string() == written,
        PickedAccount::SameName => written == alias::USER,
        PickedAccount::Manual { .. } => written == alias::INPUT,
    }
}

/// The character set of an asset.
pub(crate) fn charset(admission: &Admission) -> Charset {
    admission.platform().map_or(Charset::Utf8, |p| p.charset)
}
