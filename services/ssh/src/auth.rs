//! Logging in over SSH: turns the client's methods (RFC 4252, RFC 4256) into steps of identity's log-in and its answers
//! into the client's prompts. What must not be here: what is right or wrong; only identity makes a proof.

use std::borrow::Cow;
use std::net::IpAddr;

use gatehouse_identity::{
    Attempt, BeginLogin, ChangePassword, Door, Identity, IdentityError, LoginError, MfaAttempt, PasswordPolicy, Proof,
    Redeemed, Step,
};
use russh::keys::{Certificate, PublicKey};
use russh::server::{Auth, Response, VerifiedPublicKey};
use russh::{MethodKind, MethodSet};
use zeroize::Zeroizing;

use crate::names::{self, Name, Target};

/// Prompts of one log-in by keyboard-interactive, wrong answers included.
const MAX_PROMPTS: usize = 12;

/// Who came in, and with what in mind.
pub(crate) struct Entered {
    pub(crate) proof: Proof,
    pub(crate) target: Option<Target>,
    /// Came with a connection token: it says where to.
    pub(crate) token: Option<Box<Redeemed>>,
}

/// The log-in of one connection.
pub(crate) struct Login {
    identity: Identity,
    ip: IpAddr,
    client: String,
    /// The user name that the client wrote; a change of it starts over.
    name: String,
    parsed: Option<Name>,
    state: State,
    prompts: usize,
    entered: Option<Entered>,
}

enum State {
    New,
    /// First factor under way (a key may have been proven already).
    First(Box<Attempt>),
    Mfa(Box<MfaAttempt>),
    Change {
        form: Box<ChangePassword>,
        first: Option<Zeroizing<String>>,
    },
    /// Nothing helps any more on this connection; the sentence is shown once.
    Closed(Option<String>),
}

/// What the client is asked.
struct Prompt {
    instructions: String,
    text: Cow<'static, str>,
    echo: bool,
}

impl Prompt {
    fn new(instructions: impl Into<String>, text: &'static str, echo: bool) -> Self {
        Self { instructions: instructions.into(), text: Cow::Borrowed(text), echo }
    }
}

impl Login {
    pub(crate) fn new(identity: Identity, ip: IpAddr) -> Self {
        Self {
            identity,
            ip,
            client: "SSH".to_owned(),
            name: String::new(),
            parsed: None,
            state: State::New,
            prompts: 0,
            entered: None,
        }
    }

    /// Who came in; once.
    pub(crate) fn take(&mut self) -> Option<Entered> {
        self.entered.take()
    }

    /// What a client may try at the start.
    pub(crate) fn methods() -> MethodSet {
        MethodSet::from(&[MethodKind::PublicKey, MethodKind::KeyboardInteractive, MethodKind::Password][..])
    }

    /// A client that changes its user name starts over; a proven first factor of another name counts for nothing.
    fn name(&mut self, name: &str) {
        if self.name != name || self.parsed.is_none() {
            name.clone_into(&mut self.name);
            self.parsed = names::parse(name);
            self.state = State::New;
        }
    }

    fn username(&self) -> Option<&str> {
        match self.parsed.as_ref()? {
            Name::Plain { user } | Name::Direct { user, .. } => Some(user),
            Name::Token { .. } => None,
        }
    }

    /// The attempt under way, or a new one; `None` for tokens and names that cannot be.
    fn attempt(&mut self) -> Option<&mut Attempt> {
        if matches!(self.state, State::New) {
            let begin = BeginLogin {
                username: self.username()?.to_owned(),
                ip: self.ip,
                door: Door::Ssh,
                user_agent: self.client.clone(),
            };
            self.state = State::First(Box::new(self.identity.begin(begin)));
        }
        match &mut self.state {
            State::First(attempt) => Some(attempt),
            _ => None,
        }
    }

    /// Whether a signature with this key is worth asking for. Proves nothing.
    pub(crate) fn key_offered(&mut self, name: &str, key: &PublicKey) -> bool {
        self.name(name);
        self.attempt().is_some_and(|a| a.key_offered(key))
    }

    pub(crate) async fn key_proven(&mut self, name: &str, key: VerifiedPublicKey<'_>) -> Auth {
        self.name(name);
        let Some(attempt) = self.attempt() else { return reject() };
        let step = attempt.key_proven(key).await;
        self.step(step)
    }

    pub(crate) async fn certificate_proven(&mut self, name: &str, certificate: &Certificate) -> Auth {
        self.name(name);
        let Some(attempt) = self.attempt() else { return reject() };
        let step = attempt.certificate_proven(certificate).await;
        self.step(step)
    }

    pub(crate) async fn password(&mut self, name: &str, password: &str) -> Auth {
        self.name(name);
        if let Some(Name::Token { id }) = self.parsed {
            return self.token(id, password).await;
        }
        let Some(attempt) = self.attempt() else { return reject() };
        let step = attempt.password(password).await;
        self.step(step)
    }

    async fn token(&mut self, id: uuid::Uuid, value: &str) -> Auth {
        match self.identity.redeem(id, value, self.ip, Door::Ssh, &self.client).await {
            Ok(redeemed) => {
                let proof = redeemed.proof.clone();
                self.entered = Some(Entered { proof, target: None, token: Some(Box::new(redeemed)) });
                Auth::Accept
            }
            Err(error) => self.refused(error),
        }
    }

    /// What a step of the log-in means to the client.
    fn step(&mut self, step: Result<Step, LoginError>) -> Auth {
        match step {
            Ok(step) => match self.advance(step) {
                None => Auth::Accept,
                Some(methods) => {
                    Auth::Reject { proceed_with_methods: Some(MethodSet::from(&methods[..])), partial_success: true }
                }
            },
            Err(error) => self.refused(error),
        }
    }

    /// Takes a step; `None` when the user is in, else how to go on.
    fn advance(&mut self, step: Step) -> Option<Vec<MethodKind>> {
        match step {
            Step::Done(proof) => {
                let target = match self.parsed.take() {
                    Some(Name::Direct { target, .. }) => Some(target),
                    _ => None,
                };
                self.entered = Some(Entered { proof, target, token: None });
                None
            }
            Step::Password => Some(vec![MethodKind::KeyboardInteractive, MethodKind::Password]),
            Step::Mfa(mfa) => {
                self.state = State::Mfa(Box::new(mfa));
                Some(vec![MethodKind::KeyboardInteractive])
            }
            Step::ChangePassword(form) => {
                self.state = State::Change { form: Box::new(form), first: None };
                Some(vec![MethodKind::KeyboardInteractive])
            }
            // Identity does not offer it at this door; should it ever, nobody gets in without it.
            Step::EnrolMfa(_) => {
                self.state =
                    State::Closed(Some("a second factor is required: set one up in the web interface".to_owned()));
                Some(vec![MethodKind::KeyboardInteractive])
            }
        }
    }

    fn refused(&mut self, error: LoginError) -> Auth {
        if !error.may_retry {
            // Keyboard-interactive is the only method that can show a person why.
            self.state = State::Closed(Some(error.message));
            let methods = MethodSet::from(&[MethodKind::KeyboardInteractive][..]);
            return Auth::Reject { proceed_with_methods: Some(methods), partial_success: false };
        }
        reject()
    }

    pub(crate) async fn interactive(&mut self, name: &str, response: Option<Response<'_>>) -> Auth {
        self.name(name);
        let Some(response) = response else { return self.ask(String::new()) };
        // An answer that is not text is wrong like any other.
        let answer = response.into_iter().next().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let answer = Zeroizing::new(answer.unwrap_or_default());
        self.answer(&answer).await
    }

    /// The next prompt.
    fn ask(&mut self, note: String) -> Auth {
        self.prompts += 1;
        if self.prompts > MAX_PROMPTS {
            return Auth::Reject { proceed_with_methods: Some(MethodSet::empty()), partial_success: false };
        }
        let prompt = match &mut self.state {
            State::Closed(why) => match why.take() {
                Some(why) => {
                    let nothing: &'static [(Cow<'static, str>, bool)] = &[];
                    return Auth::Partial {
                        name: Cow::Borrowed(""),
                        instructions: Cow::Owned(why),
                        prompts: Cow::Borrowed(nothing),
                    };
                }
                None => return Auth::Reject { proceed_with_methods: Some(MethodSet::empty()), partial_success: false },
            },
            State::Mfa(_) => Prompt::new(note, "MFA code: ", false),
            State::Change { form, first: None } => {
                let rules = form.policy().map(|p| rules(&p)).unwrap_or_default();
                let why = if note.is_empty() { "Your password has to be changed." } else { note.as_str() };
                Prompt::new(format!("{why} {rules}"), "New password: ", false)
            }
            State::Change { first: Some(_), .. } => Prompt::new(note, "New password again: ", false),
            State::New | State::First(_) => Prompt::new(note, "Password: ", false),
        };
        Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Owned(prompt.instructions),
            prompts: Cow::Owned(vec![(prompt.text, prompt.echo)]),
        }
    }

    async fn answer(&mut self, answer: &str) -> Auth {
        let step = match &mut self.state {
            State::Closed(_) => {
                return Auth::Reject { proceed_with_methods: Some(MethodSet::empty()), partial_success: false };
            }
            State::New | State::First(_) => {
                if let Some(Name::Token { id }) = self.parsed {
                    return self.token(id, answer).await;
                }
                let Some(attempt) = self.attempt() else { return reject() };
                attempt.password(answer).await
            }
            State::Mfa(mfa) => mfa.verify(answer.trim()).await,
            State::Change { form, first } => match first.take() {
                None => {
                    *first = Some(Zeroizing::new(answer.to_owned()));
                    return self.ask(String::new());
                }
                Some(new) if *new != answer => return self.ask("The two passwords differ.".to_owned()),
                Some(new) => match form.submit(&new).await {
                    Ok(step) => Ok(step),
                    Err(IdentityError::Invalid(why)) => {
                        let why: Vec<String> = why.fields.into_iter().map(|(_, text)| text).collect();
                        return self.ask(format!("That password cannot be used: {}.", why.join("; ")));
                    }
                    Err(other) => Err(LoginError::from(other)),
                },
            },
        };
        match step {
            Ok(step) => match self.advance(step) {
                None => Auth::Accept,
                // Next prompt within the same exchange: the client need not start another method.
                Some(_) => self.ask(String::new()),
            },
            Err(error) if error.may_retry => {
                if matches!(self.state, State::Mfa(_)) {
                    return self.ask(error.message);
                }
                reject()
            }
            Err(error) => {
                self.state = State::Closed(Some(error.message));
                self.ask(String::new())
            }
        }
    }
}

/// Refused; what may be tried stays as it was.
fn reject() -> Auth {
    Auth::Reject { proceed_with_methods: Some(Login::methods()), partial_success: false }
}

/// What a new password must be like, in one sentence.
fn rules(policy: &PasswordPolicy) -> String {
    let wanted = [
        (policy.upper_case, "an upper-case letter"),
        (policy.lower_case, "a lower-case letter"),
        (policy.number, "a digit"),
        (policy.special_char, "a special character"),
    ];
    let wanted: Vec<&str> = wanted.into_iter().filter(|(on, _)| *on).map(|(_, what)| what).collect();
    let with = if wanted.is_empty() { String::new() } else { format!(", with {}", wanted.join(", ")) };
    format!("At least {} characters{with}.", policy.min_length)
}
