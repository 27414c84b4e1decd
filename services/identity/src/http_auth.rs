//! Who sends an HTTP request: HTTP Signature, private token, bearer token, browser session. One scheme per request, and
//! the first that is present decides: a wrong one is never followed by a try of the next (peers' CVEs came from
//! permissions that were or-ed). What must not be here: what the sender may do.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::user::{AccessKey, ApiToken, ApiTokenKind, User};
use gatehouse_store::StoreError;
use http::{HeaderMap, header};
use uuid::Uuid;

use crate::http_signature::{Signature, SignatureError};
use crate::token::{CSRF_HEADER, hash};
use crate::{Identity, Proof};

/// Longer secrets are nobody's (bytes).
const MAX_SECRET: usize = 256;
/// The cookie of a browser session (JumpServer's name).
pub const SESSION_COOKIE: &str = "jms_sessionid";

/// The parts of a request that say who sends it.
pub struct RequestParts<'a> {
    /// Upper or lower case.
    pub method: &'a str,
    /// As the client sent it, with the query.
    pub path_and_query: &'a str,
    pub headers: &'a HeaderMap,
    /// The client's address as the door knows it: the peer, or what a trusted proxy says. Headers are not asked here.
    pub remote_ip: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HowAuthenticated {
    /// HTTP Signature with an access key.
    AccessKey,
    PrivateToken,
    Bearer,
    /// Browser session; CSRF was checked for methods that change things.
    Cookie,
}

impl HowAuthenticated {
    pub fn is_access_key(self) -> bool {
        self == Self::AccessKey
    }
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub user: Arc<User>,
    pub how: HowAuthenticated,
    /// The token, browser session or access key.
    pub token_id: Uuid,
    /// Until when the second factor counts as proven lately (A27).
    pub mfa_until: Option<DateTime<Utc>>,
}

/// Why a request is nobody's. Each is a 401, except `Csrf` and `Address` (403) and `Store` (503).
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    #[error("authentication credentials were not provided")]
    Missing,
    #[error("the scheme of the Authorization header is not known; use Signature, Token or Bearer")]
    Scheme,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the access key is unknown or switched off")]
    AccessKey,
    #[error("the access key may not be used from this address")]
    Address,
    #[error("the token is unknown or has expired; log in again")]
    Token,
    #[error("the session has ended; log in again")]
    Session,
    #[error("the user is disabled or has expired")]
    User,
    #[error("CSRF check failed: repeat the CSRF cookie in the X-CSRFToken header")]
    Csrf,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuthError {
    /// Stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "not_authenticated",
            Self::User => "user_inactive",
            Self::Csrf => "csrf_failed",
            Self::Address => "address_not_allowed",
            Self::Store(_) => "unavailable",
            Self::Scheme | Self::Signature(_) | Self::AccessKey | Self::Token | Self::Session => {
                "authentication_failed"
            }
        }
    }

    /// HTTP status that fits.
    pub fn status(&self) -> u16 {
        match self {
            Self::Csrf | Self::Address => 403,
            Self::Store(_) => 503,
            _ => 401,
        }
    }
}

impl Identity {
    /// Says who sends a request. Asks for no password, so it costs little and needs no lock.
    pub fn authenticate_http(&self, request: &RequestParts<'_>) -> Result<Authenticated, AuthError> {
        let mut authorization = request.headers.get_all(header::AUTHORIZATION).iter();
        if let Some(value) = authorization.next() {
            let value = value.to_str().map_err(|_| AuthError::Scheme)?;
            // Two answers to "who are you" are none.
            if authorization.next().is_some() {
                return Err(AuthError::Scheme);
            }
            let (scheme, rest) = value.trim().split_once(' ').ok_or(AuthError::Scheme)?;
            return match scheme.to_ascii_lowercase().as_str() {
                "signature" => self.by_signature(request, rest),
                "token" => self.by_token(rest.trim(), ApiTokenKind::Private),
                "bearer" => self.by_token(rest.trim(), ApiTokenKind::Bearer),
                _ => Err(AuthError::Scheme),
            };
        }
        let cookie = session_cookie(request.headers).ok_or(AuthError::Missing)?;
        let authenticated = self.by_token(cookie, ApiTokenKind::Cookie).map_err(|e| match e {
            AuthError::Token => AuthError::Session,
            other => other,
        })?;
        let safe = ["GET", "HEAD", "OPTIONS", "TRACE"].iter().any(|m| request.method.eq_ignore_ascii_case(m));
        if !safe {
            let given = request.headers.get(CSRF_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
            if !self.csrf_matches(authenticated.token_id, given) {
                return Err(AuthError::Csrf);
            }
        }
        Ok(authenticated)
    }

    fn by_signature(&self, request: &RequestParts<'_>, parameters: &str) -> Result<Authenticated, AuthError> {
        let signature = Signature::parse(parameters)?;
        let now = self.now();
        let key = self.store().system().get::<AccessKey>(signature.key_id)?;
        // An unknown key is checked as well, so that the answer's time does not tell which ids exist.
        let secret = key.as_ref().map_or("", |k| k.secret.as_str());
        let verified = signature.verify(secret, request.method, request.path_and_query, request.headers, now);
        let key = key.filter(|k| k.is_active).ok_or(AuthError::AccessKey)?;
        verified?;
        if !key.ip_group.contains(request.remote_ip) {
            return Err(AuthError::Address);
        }
        let user = self.valid_user(key.user)?;
        self.access_key_used(&key);
        let mfa_until = self.inner.windows.get(key.id, now);
        Ok(Authenticated { user, how: HowAuthenticated::AccessKey, token_id: key.id, mfa_until })
    }

    fn by_token(&self, secret: &str, kind: ApiTokenKind) -> Result<Authenticated, AuthError> {
        if secret.is_empty() || secret.len() > MAX_SECRET {
            return Err(AuthError::Token);
        }
        let now = self.now();
        // Found by the blinded hash of the secret: nothing of the secret is compared byte by byte.
        let found = self.store().system().find::<ApiToken>("hash", &hash(secret))?;
        let token = found.into_iter().find(|t| t.kind == kind).ok_or(AuthError::Token)?;
        if token.date_expired.is_some_and(|end| end <= now) {
            return Err(AuthError::Token);
        }
        let user = self.valid_user(token.user)?;
        let how = match kind {
            ApiTokenKind::Private => HowAuthenticated::PrivateToken,
            ApiTokenKind::Bearer => HowAuthenticated::Bearer,
            ApiTokenKind::Cookie => HowAuthenticated::Cookie,
        };
        let mfa_until = token.mfa_until.filter(|until| *until > now);
        Ok(Authenticated { user, how, token_id: token.id, mfa_until })
    }

    /// A disabled or expired user is nobody from that moment on (JumpServer: access keys outlived their users).
    fn valid_user(&self, id: Uuid) -> Result<Arc<User>, AuthError> {
        let user = self.store().system().get::<User>(id)?.ok_or(AuthError::User)?;
        if user.is_valid(self.now()) { Ok(user) } else { Err(AuthError::User) }
    }

    /// The same for something that is long open (a WebSocket, a watch): whether it still holds.
    pub fn still_valid(&self, authenticated: &Authenticated) -> bool {
        let now = self.now();
        let exists = match authenticated.how {
            HowAuthenticated::AccessKey => {
                self.store().system().get::<AccessKey>(authenticated.token_id).map(|k| k.is_some_and(|k| k.is_active))
            }
            _ => self
                .store()
                .system()
                .get::<ApiToken>(authenticated.token_id)
                .map(|t| t.is_some_and(|t| t.date_expired.is_none_or(|end| end > now))),
        };
        exists.unwrap_or(false) && self.valid_user(authenticated.user.id).is_ok()
    }

    /// For a proof that outlives the log-in (an SSH connection): whether the user may still act.
    pub fn proof_holds(&self, proof: &Proof) -> bool {
        self.valid_user(proof.user().id).is_ok()
    }
}

/// The value of the session cookie, if it is there exactly once.
fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        for pair in value.to_str().ok()?.split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            if name.trim() == SESSION_COOKIE {
                if found.is_some() {
                    return None;
                }
                found = Some(value.trim().trim_matches('"'));
            }
        }
    }
    found
}
