//! One letter to one address over SMTP. TLS certificates are always verified: there is no switch that turns it off
//! (CVE-2026-31798). What must not be here: queues and retries (`outgoing`).

use std::time::Duration;

use gatehouse_model::settings::{MailSecret, Settings};
use gatehouse_store::StoreError;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use zeroize::Zeroizing;

use crate::inbox::{lines, one_line};

/// For one answer of the server, and for the whole letter.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
const LETTER_TIMEOUT: Duration = Duration::from_secs(60);

/// How the connection is protected (`EMAIL_SECURITY_PROTOCOL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// No protection: the administrator's choice, for a server on the same host or network.
    None,
    /// STARTTLS, and nothing is sent when the server does not offer it.
    StartTls,
    Tls,
}

/// A mail server and who sends.
#[derive(Clone)]
pub struct MailConfig {
    pub host: String,
    pub port: u16,
    pub security: MailSecurity,
    /// Empty: no log-in.
    pub user: String,
    pub password: Zeroizing<String>,
    /// Empty: the user name.
    pub from: String,
}

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("no mail server is configured: set EMAIL_HOST first")]
    NotConfigured,
    #[error("\"{0}\" is not a mail address")]
    Address(String),
    #[error("the letter cannot be built: {0}")]
    Build(String),
    #[error("the mail server {server} did not finish within {} seconds", LETTER_TIMEOUT.as_secs())]
    Timeout { server: String },
    /// Trying again later may help: no connection, or a 4xx answer.
    #[error("the mail server {server} cannot be used now: {why}")]
    Transient { server: String, why: String },
    /// Trying again is of no use: 5xx, no TLS, wrong password.
    #[error("the mail server {server} refuses: {why}")]
    Permanent { server: String, why: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MailError {
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Transient { .. })
    }
}

impl MailConfig {
    pub(crate) fn of(settings: &Settings, secret: Option<&MailSecret>) -> Option<Self> {
        if settings.email_host.trim().is_empty() {
            return None;
        }
        Some(Self {
            host: settings.email_host.trim().to_owned(),
            port: settings.email_port,
            // What is not known is protected.
            security: match settings.email_security_protocol.as_str() {
                "none" => MailSecurity::None,
                "tls" => MailSecurity::Tls,
                _ => MailSecurity::StartTls,
            },
            user: settings.email_host_user.clone(),
            password: Zeroizing::new(secret.map(|s| s.password.clone()).unwrap_or_default()),
            from: settings.email_from.clone(),
        })
    }

    fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
        let tls = || {
            TlsParameters::new_rustls(self.host.clone())
                .map_err(|e| MailError::Permanent { server: self.server(), why: e.to_string() })
        };
        let tls = match self.security {
            MailSecurity::None => Tls::None,
            MailSecurity::StartTls => Tls::Required(tls()?),
            MailSecurity::Tls => Tls::Wrapper(tls()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .timeout(Some(STEP_TIMEOUT))
            .tls(tls);
        if !self.user.is_empty() {
            builder = builder.credentials(Credentials::new(self.user.clone(), self.password.to_string()));
        }
        Ok(builder.build())
    }

    /// Sends a plain-text letter and waits for the server's answer.
    pub async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), MailError> {
        let mailbox = |text: &str| text.trim().parse::<Mailbox>().map_err(|_| MailError::Address(one_line(text)));
        let from = mailbox(if self.from.trim().is_empty() { &self.user } else { &self.from })?;
        let builder: MessageBuilder = Message::builder().from(from).to(mailbox(to)?);
        let message = builder
            .subject(one_line(subject))
            .date_now()
            .message_id(None)
            .header(ContentType::TEXT_PLAIN)
            .body(lines(text))
            .map_err(|e| MailError::Build(e.to_string()))?;
        let transport = self.transport()?;
        match tokio::time::timeout(LETTER_TIMEOUT, transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let (server, why) = (self.server(), full(&error));
                // A server that offers no TLS, or whose certificate is wrong, does not get better by asking again.
                if error.is_permanent() || error.is_tls() || error.is_client() {
                    Err(MailError::Permanent { server, why })
                } else {
                    Err(MailError::Transient { server, why })
                }
            }
            Err(_) => Err(MailError::Timeout { server: self.server() }),
        }
    }
}

/// An error with its causes: "connection refused" is in the last one.
fn full(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = error.source();
    }
    one_line(&out)
}
