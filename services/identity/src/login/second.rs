//! What comes between the first factor and the proof: the code of a second factor, setting one up, a new password.

use zeroize::Zeroizing;

use super::finish::Pending;
use super::{ChangeReason, Step};
use crate::error::{IdentityError, LoginCode, LoginError};
use crate::failures::Subject;
use crate::mfa::Enrolment;
use crate::policy::PasswordPolicy;
use crate::{By, totp};

/// The first factor was right; a code is wanted.
pub struct MfaAttempt {
    pending: Option<Pending>,
}

impl MfaAttempt {
    pub(super) fn new(pending: Pending) -> Self {
        Self { pending: Some(pending) }
    }

    /// Checks a code. After a wrong one the same attempt may be asked again until the lock (`block_mfa`).
    pub async fn verify(&mut self, code: &str) -> Result<Step, LoginError> {
        let pending = self.pending.as_ref().ok_or_else(LoginError::finished)?;
        let login = &pending.login;
        let identity = &login.identity;
        if !identity.inner.limit.take(login.ip, identity.now()) {
            return Err(login.refuse(LoginError::throttled(), LoginCode::Throttled, "OTP", "").await);
        }
        login.gate(Some(&pending.user), "OTP").await?;
        let turn = identity.inner.failures.turn(&login.username, login.ip).await;
        let blocked = identity.inner.failures.blocked(&Subject::Mfa(login.username.to_lowercase()), identity.now())?;
        if let Some(minutes) = blocked {
            return Err(login.refuse(LoginError::mfa_blocked(minutes), LoginCode::BlockMfa, "OTP", "").await);
        }
        if !identity.accept_code(pending.user.id, code).await? {
            // Counted in the same turn: codes tried at the same time are tried one after the other.
            return Err(login.wrong_in(turn, Some(&pending.user), LoginCode::MfaFailed, "OTP").await);
        }
        drop(turn);
        identity.inner.limit.give_back(login.ip);
        let mut pending = self.pending.take().ok_or_else(LoginError::finished)?;
        pending.mfa = true;
        pending.next().await
    }
}

/// A second factor is required and none is set up.
pub struct EnrolMfa {
    pending: Option<Pending>,
    secret: Option<Zeroizing<String>>,
}

impl EnrolMfa {
    pub(super) fn new(pending: Pending) -> Self {
        Self { pending: Some(pending), secret: None }
    }

    /// The secret to put into an authenticator app. Asked again, it is the same one.
    pub fn start(&mut self) -> Result<Enrolment, LoginError> {
        let pending = self.pending.as_ref().ok_or_else(LoginError::finished)?;
        let secret = match &self.secret {
            Some(secret) => secret.clone(),
            None => crate::random::totp_secret()?,
        };
        let settings = pending.login.identity.settings()?;
        let uri = totp::uri(&settings.otp_issuer_name, &pending.user.username, &secret);
        self.secret = Some(secret.clone());
        Ok(Enrolment { secret, uri })
    }

    /// A code made with the secret proves that the app has it; from now on it is the user's second factor.
    pub async fn confirm(&mut self, code: &str) -> Result<Step, LoginError> {
        let pending = self.pending.as_ref().ok_or_else(LoginError::finished)?;
        let login = &pending.login;
        let identity = &login.identity;
        let Some(secret) = &self.secret else {
            return Err(LoginError::new(LoginCode::MfaUnset, "ask for the secret first, then confirm it with a code"));
        };
        if !identity.inner.limit.take(login.ip, identity.now()) {
            return Err(login.refuse(LoginError::throttled(), LoginCode::Throttled, "OTP", "").await);
        }
        if !identity.enrol(pending.user.id, secret, code, &By::user(&pending.user, login.ip)).await? {
            return Err(login.wrong(Some(&pending.user), LoginCode::MfaFailed, "OTP").await);
        }
        let mut pending = self.pending.take().ok_or_else(LoginError::finished)?;
        pending.mfa = true;
        pending.next().await
    }
}

/// Everything was right, and the password has to be changed before the log-in ends.
pub struct ChangePassword {
    pending: Option<Pending>,
    reason: ChangeReason,
}

impl ChangePassword {
    pub(super) fn new(pending: Pending) -> Self {
        let reason = pending.change.unwrap_or(ChangeReason::Required);
        Self { pending: Some(pending), reason }
    }

    pub fn reason(&self) -> ChangeReason {
        self.reason
    }

    /// What the new password must be like, to show beside the field.
    pub fn policy(&self) -> Result<PasswordPolicy, IdentityError> {
        let pending = self.pending.as_ref().ok_or_else(LoginError::finished)?;
        pending.login.identity.password_policy(&pending.user)
    }

    /// Sets the new password. One that the policy refuses is an `IdentityError::Invalid` and may be tried again.
    pub async fn submit(&mut self, new: &str) -> Result<Step, IdentityError> {
        let pending = self.pending.as_ref().ok_or_else(LoginError::finished)?;
        let by = By::user(&pending.user, pending.login.ip);
        pending.login.identity.set_own_password(pending.user.id, new, &by).await?;
        let mut pending = self.pending.take().ok_or_else(LoginError::finished)?;
        pending.change = None;
        Ok(pending.next().await?)
    }
}
