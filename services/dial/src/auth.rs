//! Logging in: turning an account's secrets into proofs and presenting them with as few round trips as possible.
//!
//! There is no probing `none` request: the account says what it has, and each refusal says what the server would accept.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};
use russh::{MethodKind, MethodSet};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::error::{DialError, Proof, Stage, clean};
use crate::handshake::{Client, Facts};
use crate::route::{Auth, SshLogin};

/// Rounds of `keyboard-interactive` before we stop answering.
const MAX_ROUNDS: usize = 6;

/// A proof that is ready to be presented.
pub(crate) enum Ready {
    Password(Zeroizing<String>),
    Key(Arc<PrivateKey>),
    Certificate(Arc<PrivateKey>, Box<Certificate>),
}

impl Ready {
    fn kind(&self) -> Proof {
        match self {
            Self::Password(_) => Proof::Password,
            Self::Key(_) => Proof::Key,
            Self::Certificate(..) => Proof::Certificate,
        }
    }
}

/// Decodes keys before any connection is made, so that a broken key costs the asset nothing. Decrypting a key takes
/// tens of milliseconds of CPU on purpose and is done off the async threads.
pub(crate) async fn prepare(login: &SshLogin) -> Result<Vec<Ready>, DialError> {
    if login.auth.is_empty() {
        return Err(DialError::NoCredential { username: login.username.clone() });
    }
    let mut ready = Vec::with_capacity(login.auth.len());
    for auth in &login.auth {
        ready.push(match auth {
            Auth::Password(password) => Ready::Password(password.clone()),
            Auth::Key { pem, passphrase } => Ready::Key(decode(&login.username, pem, passphrase.as_ref()).await?),
            Auth::Certificate { pem, passphrase, certificate } => {
                let key = decode(&login.username, pem, passphrase.as_ref()).await?;
                let unusable = |reason: String| DialError::KeyUnusable { username: login.username.clone(), reason };
                let certificate = Certificate::from_openssh(certificate.trim())
                    .map_err(|_| unusable("its certificate cannot be read".to_owned()))?;
                if certificate.public_key() != key.public_key().key_data() {
                    return Err(unusable("its certificate belongs to another key".to_owned()));
                }
                Ready::Certificate(key, Box::new(certificate))
            }
        });
    }
    Ok(ready)
}

async fn decode(
    username: &str,
    pem: &Zeroizing<String>,
    passphrase: Option<&Zeroizing<String>>,
) -> Result<Arc<PrivateKey>, DialError> {
    let decoded = if let Some(passphrase) = passphrase.filter(|p| !p.is_empty()) {
        let (pem, passphrase) = (pem.clone(), passphrase.clone());
        tokio::task::spawn_blocking(move || decode_secret_key(&pem, Some(&passphrase))).await.ok()
    } else {
        Some(decode_secret_key(pem, None))
    };
    // The library's message may describe the key's content: say only which kind of thing is wrong.
    let reason = match decoded {
        Some(Ok(key)) if !key.is_encrypted() => return Ok(Arc::new(key)),
        Some(Ok(_) | Err(russh::keys::Error::KeyIsEncrypted)) => "it is encrypted and needs its passphrase",
        Some(Err(_)) if passphrase.is_some_and(|p| !p.is_empty()) => "it is damaged or the passphrase is wrong",
        Some(Err(_)) | None => "it is not a private key in a format that we can read",
    };
    Err(DialError::KeyUnusable { username: username.to_owned(), reason: reason.to_owned() })
}

/// What the server made of one proof.
enum Answer {
    In,
    Refused(MethodSet),
    /// Accepted, and the server wants another proof as well.
    More(MethodSet),
}

impl From<AuthResult> for Answer {
    fn from(result: AuthResult) -> Self {
        match result {
            AuthResult::Success => Self::In,
            AuthResult::Failure { remaining_methods, partial_success: true } => Self::More(remaining_methods),
            AuthResult::Failure { remaining_methods, partial_success: false } => Self::Refused(remaining_methods),
        }
    }
}

/// Presents the proofs in order until the server lets us in.
pub(crate) async fn log_in(
    handle: &mut Handle<Client>,
    target: &str,
    login: &SshLogin,
    proofs: Vec<Ready>,
    facts: &Facts,
    limit: Duration,
) -> Result<(), DialError> {
    let mut attempt = Attempt { handle, target, login, facts };
    match timeout(limit, attempt.all(proofs)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { target: target.to_owned(), stage: Stage::Auth, after: limit }),
    }
}

struct Attempt<'a> {
    handle: &'a mut Handle<Client>,
    target: &'a str,
    login: &'a SshLogin,
    facts: &'a Facts,
}

impl Attempt<'_> {
    async fn all(&mut self, proofs: Vec<Ready>) -> Result<(), DialError> {
        let mut tried = Vec::new();
        let mut offered: Option<MethodSet> = None;
        for proof in proofs {
            let kind = proof.kind();
            let answer = match proof {
                Ready::Password(password) => self.password(password, offered.as_ref()).await?,
                Ready::Key(key) => self.key(key).await?,
                Ready::Certificate(key, certificate) => {
                    let user = self.login.username.clone();
                    let result = self.handle.authenticate_openssh_cert(user, key, *certificate).await;
                    result.map_err(|e| self.broken(&e))?.into()
                }
            };
            match answer {
                Answer::In => return Ok(()),
                Answer::Refused(methods) => {
                    tried.push(kind);
                    offered = Some(methods);
                }
                Answer::More(methods) => offered = Some(methods),
            }
            if offered.as_ref().is_some_and(|m| m.is_empty()) {
                self.settle().await;
                break;
            }
        }
        let methods = offered.iter().flat_map(|set| set.iter()).map(String::from).collect::<Vec<_>>();
        if methods.is_empty() && self.handle.is_closed() && !self.library_gave_up() {
            return Err(self.closed());
        }
        let username = self.login.username.clone();
        Err(DialError::AuthRejected { target: self.target.to_owned(), username, tried, methods })
    }

    async fn password(
        &mut self,
        password: Zeroizing<String>,
        offered: Option<&MethodSet>,
    ) -> Result<Answer, DialError> {
        let only_interactive =
            |m: &MethodSet| !m.contains(&MethodKind::Password) && m.contains(&MethodKind::KeyboardInteractive);
        if offered.is_some_and(only_interactive) {
            return self.interactive(&password).await;
        }
        let user = self.login.username.clone();
        let answer: Answer =
            self.handle.authenticate_password(user, password.as_str()).await.map_err(|e| self.broken(&e))?.into();
        // Only when the server does not offer the method at all: presenting a wrong password twice counts twice
        // towards a lock-out on the asset. (A server that strikes a refused method off its list cannot be told apart.)
        match answer {
            Answer::Refused(methods) if only_interactive(&methods) => self.interactive(&password).await,
            answer => Ok(answer),
        }
    }

    /// RFC 4256. Answers one hidden prompt with the password, once; anything else is not ours to answer.
    async fn interactive(&mut self, password: &Zeroizing<String>) -> Result<Answer, DialError> {
        use KeyboardInteractiveAuthResponse as Reply;
        let user = self.login.username.clone();
        let started = self.handle.authenticate_keyboard_interactive_start(user, None::<String>).await;
        let mut reply = started.map_err(|e| self.broken(&e))?;
        let mut answered = false;
        for _ in 0..MAX_ROUNDS {
            let responses = match reply {
                Reply::Success => return Ok(Answer::In),
                Reply::Failure { remaining_methods, partial_success: true } => {
                    return Ok(Answer::More(remaining_methods));
                }
                Reply::Failure { remaining_methods, partial_success: false } => {
                    return Ok(Answer::Refused(remaining_methods));
                }
                Reply::InfoRequest { prompts, .. } => match prompts.as_slice() {
                    [] => Vec::new(),
                    [prompt] if !prompt.echo && !answered && !asks_for_code(&prompt.prompt) => {
                        answered = true;
                        vec![password.to_string()]
                    }
                    [prompt, ..] => {
                        return Err(DialError::PromptNotAnswerable {
                            target: self.target.to_owned(),
                            username: self.login.username.clone(),
                            prompt: clean(&prompt.prompt),
                        });
                    }
                },
            };
            let sent = self.handle.authenticate_keyboard_interactive_respond(responses).await;
            reply = sent.map_err(|e| self.broken(&e))?;
        }
        Err(DialError::Protocol { target: self.target.to_owned(), reason: "it never stops asking".to_owned() })
    }

    async fn key(&mut self, key: Arc<PrivateKey>) -> Result<Answer, DialError> {
        let mut answer = Answer::Refused(MethodSet::empty());
        for hash in self.signature_hashes(&key).await? {
            let proof = PrivateKeyWithHashAlg::new(Arc::clone(&key), hash);
            let user = self.login.username.clone();
            answer = self.handle.authenticate_publickey(user, proof).await.map_err(|e| self.broken(&e))?.into();
            match &answer {
                Answer::Refused(methods) if methods.contains(&MethodKind::PublicKey) => {}
                _ => break,
            }
        }
        Ok(answer)
    }

    /// Which hashes to sign with; only RSA has a choice (RFC 8332). A server that does not announce its signature
    /// algorithms is old: modern first, SHA-1 only when the platform allows it.
    async fn signature_hashes(&self, key: &PrivateKey) -> Result<Vec<Option<HashAlg>>, DialError> {
        if !key.algorithm().is_rsa() {
            return Ok(vec![None]);
        }
        let legacy = self.login.legacy;
        Ok(match self.handle.best_supported_rsa_hash().await.map_err(|e| self.broken(&e))? {
            // Announced is not accepted: some announce all that they know.
            Some(Some(hash)) if legacy => vec![Some(hash), None],
            Some(Some(hash)) => vec![Some(hash)],
            Some(None) | None if legacy => vec![None, Some(HashAlg::Sha256)],
            Some(None) | None => vec![Some(HashAlg::Sha256)],
        })
    }

    /// Gives the library's task a moment to say why the connection ended.
    async fn settle(&self) {
        for _ in 0..50 {
            if self.facts.ended().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The library itself hangs up when a refusal names no further method; that is a refusal, not a broken connection.
    fn library_gave_up(&self) -> bool {
        self.facts.ended().is_some_and(|why| why == russh::Error::NoAuthMethod.to_string())
    }

    fn closed(&self) -> DialError {
        let reason = self.facts.ended().filter(|why| *why != russh::Error::Disconnect.to_string());
        DialError::ClosedEarly { target: self.target.to_owned(), stage: Stage::Auth, reason }
    }

    fn broken(&self, error: &russh::Error) -> DialError {
        match error {
            russh::Error::SendError | russh::Error::RecvError | russh::Error::Disconnect => self.closed(),
            other => DialError::Protocol { target: self.target.to_owned(), reason: clean(&other.to_string()) },
        }
    }
}

/// A hidden prompt that wants a one-time code rather than the password.
fn asks_for_code(prompt: &str) -> bool {
    let prompt = prompt.to_lowercase();
    ["code", "token", "otp", "one-time", "one time", "verification", "duo", "pin", "new password", "验证码", "令牌"]
        .iter()
        .any(|word| prompt.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(auth: Vec<Auth>) -> SshLogin {
        SshLogin { username: "ann".into(), auth, legacy: false }
    }

    async fn error_of(auth: Vec<Auth>) -> DialError {
        match prepare(&login(auth)).await {
            Ok(_) => panic!("should not be usable"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn an_unusable_key_is_said_before_anything_is_dialled() {
        let error = error_of(vec![Auth::Key { pem: Zeroizing::new("not a key".into()), passphrase: None }]).await;
        assert_eq!(error.connectivity(), "openssh_key_err");
        assert_eq!(
            error.to_string(),
            "the ssh key of account ann cannot be used: it is not a private key in a format that we can read; store the \
             key again, with its passphrase"
        );
        assert!(matches!(error_of(vec![]).await, DialError::NoCredential { .. }));
    }

    #[test]
    fn a_stored_password_is_not_an_answer_to_a_code_prompt() {
        assert!(asks_for_code("Verification code: "));
        assert!(asks_for_code("请输入验证码"));
        assert!(!asks_for_code("(ann@host) Password: "));
        assert!(!asks_for_code("密码："));
    }
}
