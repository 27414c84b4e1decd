//! What can go wrong, in words for people and codes for programs. Log-in answers never say whether a user exists.

use gatehouse_model::choices;
use gatehouse_model::common::Invalid;
use gatehouse_store::StoreError;

choices! {
    /// JumpServer's codes for a failed log-in, and ours where it has none. `label` is the sentence of the audit row.
    pub enum LoginCode {
        PasswordFailed = "password_failed", "Username/password check failed";
        KeyFailed = "key_failed", "SSH key or certificate is not accepted";
        MfaFailed = "mfa_failed", "MFA code check failed";
        MfaUnset = "mfa_unset", "MFA is required and not set up";
        UserNotExist = "user_not_exist", "Username does not exist";
        PasswordExpired = "password_expired", "Password expired";
        NeedUpdatePassword = "need_update_password", "The password must be changed first";
        UserInactive = "user_inactive", "This account is inactive";
        UserExpired = "user_expired", "This account has expired";
        BackendNotMatch = "backend_not_match", "Auth backend does not match the user's source";
        AclNotAllow = "acl_not_allow", "A login rule or an address list does not allow it";
        AclReview = "acl_review", "A login rule asks for an approval, which this version does not have yet";
        BlockUserLogin = "block_user_login", "The user is locked after too many failures";
        BlockIpLogin = "block_ip_login", "The address is locked after too many failures";
        BlockMfa = "block_mfa", "The second factor is locked after too many failures";
        InvalidLogin = "invalid_login", "Username or credential is not correct";
        MethodDisabled = "method_disabled", "This way to log in is switched off";
        TokenInvalid = "token_invalid", "The connection token is not valid";
        Throttled = "throttled", "Too many attempts in a short time";
        ServerBusy = "server_busy", "Too many log-ins at the same time";
        Unavailable = "unavailable", "The attempt could not be checked";
        Finished = "finished", "The attempt has ended";
    }
}

/// A refused log-in, as it may be told to whoever tries. The full reason is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoginError {
    /// Never `user_not_exist`, `password_failed` or `backend_not_match`: those are `invalid_login` outside the ledger.
    pub code: LoginCode,
    pub message: String,
    /// Failures that are left before the lock.
    pub tries_left: Option<u32>,
    /// The same connection may try again at once.
    pub may_retry: bool,
}

impl LoginError {
    pub(crate) fn new(code: LoginCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), tries_left: None, may_retry: false }
    }

    pub(crate) fn retry(mut self) -> Self {
        self.may_retry = true;
        self
    }

    /// JumpServer's sentence for every wrong credential, whether or not the user exists.
    pub(crate) fn invalid(tries_left: u32, lock_minutes: u32) -> Self {
        Self {
            code: LoginCode::InvalidLogin,
            message: format!(
                "the username or the credential is not correct; {tries_left} tries are left before a lock of \
                 {lock_minutes} minutes"
            ),
            tries_left: Some(tries_left),
            may_retry: true,
        }
    }

    pub(crate) fn user_blocked(minutes: u32) -> Self {
        Self::new(
            LoginCode::BlockUserLogin,
            format!("the account is locked; try again after {minutes} minutes or ask an administrator to unlock it"),
        )
    }

    pub(crate) fn ip_blocked(minutes: u32) -> Self {
        Self::new(
            LoginCode::BlockIpLogin,
            format!("this address is locked; try again after {minutes} minutes or ask an administrator to unlock it"),
        )
    }

    pub(crate) fn mfa_blocked(minutes: u32) -> Self {
        Self::new(
            LoginCode::BlockMfa,
            format!(
                "the second factor is locked; try again after {minutes} minutes or ask an administrator to unlock it"
            ),
        )
    }

    pub(crate) fn throttled() -> Self {
        Self::new(LoginCode::Throttled, "too many attempts from this address; wait a minute and try again")
    }

    pub(crate) fn busy() -> Self {
        Self::new(LoginCode::ServerBusy, "too many log-ins at the same time; try again in a moment").retry()
    }

    pub(crate) fn finished() -> Self {
        Self::new(LoginCode::Finished, "this log-in has ended; start again")
    }
}

impl From<IdentityError> for LoginError {
    /// The cause is for the log, not for whoever stands outside.
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Login(e) => e,
            IdentityError::Busy => Self::busy(),
            other => {
                tracing::error!(error = %other, "a log-in could not be checked");
                Self::new(LoginCode::Unavailable, "log-in is not possible at the moment; try again later")
            }
        }
    }
}

impl From<StoreError> for LoginError {
    fn from(error: StoreError) -> Self {
        IdentityError::Store(error).into()
    }
}

/// What can go wrong when users, keys and tokens are managed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such object, or not one of this user.
    #[error("{0} was not found")]
    NotFound(&'static str),
    /// Field by field, as the API shows it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A setting or a state forbids it; `code` is stable.
    #[error("{detail}")]
    Refused { code: &'static str, detail: String },
    /// A credential that was asked for once more (old password, second factor) is wrong, or locked.
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("too many passwords are being checked at the same time; try again in a moment")]
    Busy,
    #[error("the operating system gave no random numbers")]
    Random,
    #[error("a stored credential cannot be read: {0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IdentityError {
    pub(crate) fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into() }
    }

    /// Stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Invalid(_) => "invalid",
            Self::Refused { code, .. } => code,
            Self::Login(e) => e.code.as_str(),
            Self::Busy => "server_busy",
            Self::Random | Self::Damaged(_) | Self::Store(_) => "unavailable",
        }
    }

    pub(crate) fn field(field: &str, why: impl Into<String>) -> Self {
        let mut invalid = Invalid::default();
        invalid.add(field, why);
        Self::Invalid(invalid)
    }
}
