//! What the API answers when it cannot do what was asked.
//!
//! Field errors have JumpServer's form (`{"field": ["sentence"]}`); everything else is `{"code", "detail"}` where `code` is
//! stable. What must not be here: anything that tells a stranger whether an object exists.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gatehouse_identity::{AuthError, IdentityError, LoginCode, LoginError};
use gatehouse_model::common::Invalid;
use gatehouse_notify::NotifyError;
use gatehouse_store::StoreError;
use serde_json::{Map, Value, json};

/// Boxed: it travels through every `Result` of this crate.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Inner>);

impl std::ops::Deref for Problem {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl std::ops::DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.0
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    /// (field, sentences); when not empty this is the whole body.
    pub fields: Vec<(String, Vec<String>)>,
    /// One entry per element of a bulk request, `{}` where nothing is wrong.
    pub items: Vec<Value>,
    /// Further members of the body.
    pub extra: Map<String, Value>,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code, self.sentence())
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            status,
            code,
            detail: detail.into(),
            fields: Vec::new(),
            items: Vec::new(),
            extra: Map::new(),
            retry_after: None,
        }))
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn field(field: &str, why: impl Into<String>) -> Self {
        let mut problem = Self::bad_request("invalid", "the request has invalid fields");
        problem.fields.push((field.to_owned(), vec![why.into()]));
        problem
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authenticated", detail)
    }

    pub fn forbidden() -> Self {
        Self::denied("permission_denied", "you do not have permission to perform this action")
    }

    pub fn denied(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// The same answer for what does not exist and for what the caller may not see.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "not found")
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// The cause goes to the log, never to the caller.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "the request could not be carried out");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the request could not be carried out; the log of the appliance says why",
        )
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// Worth another try after so many seconds.
    #[must_use]
    pub fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The problems of a bulk request, element by element.
    pub fn bulk(items: Vec<Result<(), Self>>) -> Self {
        let mut problem = Self::bad_request("invalid", "some elements of the request are invalid");
        if let Some(Err(other)) = items.iter().find(|i| matches!(i, Err(p) if p.fields.is_empty())) {
            return other.clone();
        }
        problem.items = items
            .into_iter()
            .map(|item| match item {
                Ok(()) => json!({}),
                Err(p) => p.body(),
            })
            .collect();
        problem
    }

    /// One line for logs and for rows of an import report.
    pub fn sentence(&self) -> String {
        if self.fields.is_empty() {
            return self.detail.clone();
        }
        self.fields.iter().map(|(f, w)| format!("{f}: {}", w.join(" "))).collect::<Vec<_>>().join("; ")
    }

    pub fn body(&self) -> Value {
        if !self.items.is_empty() {
            return Value::Array(self.items.clone());
        }
        let mut body = Map::new();
        if self.fields.is_empty() {
            body.insert("code".into(), json!(self.code));
            body.insert("detail".into(), json!(self.detail));
        } else {
            for (field, whys) in &self.fields {
                body.insert(field.clone(), json!(whys));
            }
        }
        body.extend(self.extra.clone());
        Value::Object(body)
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"api\""));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let mut problem = Self::bad_request("invalid", "the request has invalid fields");
        for (field, why) in invalid.fields {
            match problem.fields.iter_mut().find(|(f, _)| *f == field) {
                Some((_, whys)) => whys.push(why),
                None => problem.fields.push((field, vec![why])),
            }
        }
        problem
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { index, .. } => Self::field(index, "this value is already in use; it must be unique"),
            StoreError::Stale { .. } => {
                Self::conflict("stale", "somebody else changed this at the same time; read it again and retry")
            }
            StoreError::NotFound { .. } => Self::not_found(),
            StoreError::TooLarge { ref what, limit } => {
                Self::bad_request("too_large", format!("{what} is larger than {limit} bytes"))
            }
            StoreError::DiskFull { .. } | StoreError::LedgerFailing(_) | StoreError::Failed(_) | StoreError::Closed => {
                tracing::error!(error = %error, "the store accepts no changes");
                Self::unavailable("nothing can be changed at the moment; the log of the appliance says why")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        let code = error.code();
        match error {
            IdentityError::NotFound(_) => Self::not_found(),
            IdentityError::Invalid(invalid) => invalid.into(),
            IdentityError::Refused { code, detail } => Self::bad_request(code, detail),
            IdentityError::Login(error) => error.into(),
            IdentityError::Busy => Self::unavailable(error.to_string()).after(1),
            IdentityError::Store(error) => error.into(),
            other => {
                let mut problem = Self::internal(&other);
                problem.code = code;
                problem
            }
        }
    }
}

impl From<NotifyError> for Problem {
    fn from(error: NotifyError) -> Self {
        match error {
            NotifyError::NotFound => Self::not_found(),
            NotifyError::Store(error) => error.into(),
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        if let AuthError::Store(error) = error {
            return error.into();
        }
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        let status = match error.code {
            LoginCode::Throttled => StatusCode::TOO_MANY_REQUESTS,
            LoginCode::ServerBusy | LoginCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            // JumpServer answers a refused log-in with 400.
            _ => StatusCode::BAD_REQUEST,
        };
        let mut problem = Self::new(status, error.code.as_str(), error.message.clone());
        // Under the names that JumpServer's clients read as well.
        problem.extra.insert("error".into(), json!(error.code.as_str()));
        problem.extra.insert("msg".into(), json!(error.message));
        if let Some(left) = error.tries_left {
            problem.extra.insert("tries_left".into(), json!(left));
        }
        problem
    }
}
