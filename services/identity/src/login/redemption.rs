//! A connection token in place of a log-in: the same locks, rules and log, one step.

use std::sync::Arc;

use gatehouse_model::decide::RuleNotice;
use gatehouse_model::ledger::LedgerEntry;
use gatehouse_model::user::User;

use super::finish::Login;
use super::{BeginLogin, LoginRow, Method, Proof, rules};
use crate::Identity;
use crate::error::{IdentityError, LoginCode, LoginError};

pub(crate) struct Redemption {
    login: Login,
}

impl Redemption {
    pub(crate) fn new(identity: Identity, begin: &BeginLogin) -> Self {
        Self { login: Login::new(identity, begin) }
    }

    /// The log shows the token's user, once the value proved that it is meant.
    pub(crate) fn is_for(&mut self, user: &User) {
        self.login.username.clone_from(&user.username);
    }

    pub(crate) async fn gate(&self) -> Result<(), LoginError> {
        let identity = &self.login.identity;
        if !identity.inner.limit.take(self.login.ip, identity.now()) {
            return Err(self.refuse(LoginError::throttled(), "").await);
        }
        self.login.gate(None, Method::ConnectionToken.label()).await
    }

    /// Counted for the address. The token's id is a name of nobody: a lock on it locks nobody out.
    pub(crate) async fn wrong(&self) -> LoginError {
        let mut told = self.login.wrong(None, LoginCode::TokenInvalid, Method::ConnectionToken.label()).await;
        if told.code == LoginCode::InvalidLogin {
            told.code = LoginCode::TokenInvalid;
            "the connection token is not valid or its value is wrong".clone_into(&mut told.message);
        }
        told
    }

    pub(crate) async fn refuse(&self, told: LoginError, detail: &str) -> LoginError {
        let code = told.code;
        self.login.refuse(told, code, Method::ConnectionToken.label(), detail).await
    }

    pub(crate) async fn admit(&self, user: &Arc<User>) -> Result<Vec<RuleNotice>, LoginError> {
        self.login.admit(user, Method::ConnectionToken).await
    }

    /// After the token's use was committed.
    pub(crate) fn tell(&self, user: &User, notices: Vec<RuleNotice>) {
        rules::send(&self.login.identity, user, self.login.ip, notices);
    }

    /// The entry that must be committed together with the token's use, and the proof for after that.
    pub(crate) fn success(&self, user: &Arc<User>, method: Method) -> Result<(LedgerEntry, Proof), IdentityError> {
        let login = &self.login;
        let at = login.identity.now();
        let row = LoginRow {
            username: &user.username,
            user: Some(user),
            door: login.door,
            ip: login.ip,
            user_agent: &login.user_agent,
            mfa: None,
            backend: method.label(),
            code: None,
            detail: "",
        };
        let entry = row.entry(at)?;
        login.identity.inner.limit.give_back(login.ip);
        let proof = Proof { user: Arc::clone(user), method, mfa: false, door: login.door, at, ip: login.ip, key: None };
        Ok((entry, proof))
    }
}
