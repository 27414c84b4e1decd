//! The log-in driven by a real SSH handshake: russh's server in front of `Identity`, russh's client behind keys that the
//! test signs with, rightly and wrongly. What a proof of possession is, only the library can say; so it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use chrono::{DateTime, Utc};
use gatehouse_identity::{Attempt, BeginLogin, By, Door, HashCost, Identity, MfaAttempt, Options, Step};
use gatehouse_model::common::{Meta, far_future};
use gatehouse_model::notice::NullNotifier;
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::{MfaLevel, User, UserSource};
use gatehouse_store::Store;
use parking_lot::Mutex;
use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
use russh::keys::{Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::server::{Auth, PublicKeyOffer, VerifiedPublicKey};
use russh::{client, server};
use uuid::Uuid;

const PASSWORD: &str = "Correct-Horse-42";

/// What happened at the door, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

/// As the SSH gateway does it, without anything behind.
struct TestDoor {
    identity: Identity,
    attempt: Option<Attempt>,
    second: Option<MfaAttempt>,
    seen: Seen,
}

impl TestDoor {
    fn attempt(&mut self, user: &str) -> &mut Attempt {
        let identity = &self.identity;
        self.attempt.get_or_insert_with(|| {
            identity.begin(BeginLogin {
                username: user.to_owned(),
                ip: [192, 0, 2, 10].into(),
                door: Door::Ssh,
                user_agent: "SSH-2.0-test".into(),
            })
        })
    }

    fn answer(&mut self, step: Result<Step, gatehouse_identity::LoginError>) -> Auth {
        match step {
            Ok(Step::Done(proof)) => {
                self.seen.note(format!("done {:?} mfa={}", proof.method(), proof.mfa()));
                Auth::Accept
            }
            Ok(step) => {
                self.seen.note(step.name());
                if let Step::Mfa(second) = step {
                    self.second = Some(second);
                }
                Auth::Reject { proceed_with_methods: None, partial_success: true }
            }
            Err(told) => {
                self.seen.note(told.code.as_str());
                Auth::reject()
            }
        }
    }
}

impl server::Handler for TestDoor {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let wanted = self.attempt(user).key_offered(offer.public_key);
        Ok(if wanted { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.seen.note("proven");
        let step = self.attempt(user).key_proven(key).await;
        Ok(self.answer(step))
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        self.seen.note("certificate proven");
        let step = self.attempt(user).certificate_proven(certificate).await;
        Ok(self.answer(step))
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let step = self.attempt(user).password(password).await;
        Ok(self.answer(step))
    }
}

struct AnyHost;

impl client::Handler for AnyHost {
    type Error = russh::Error;
    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

struct World {
    store: Store,
    identity: Identity,
    user: User,
    seen: Seen,
}

fn now() -> DateTime<Utc> {
    Utc::now()
}

impl World {
    async fn new() -> Self {
        let store = Store::in_memory();
        let options = Options { hash_cost: HashCost::CHEAP_FOR_TESTS };
        let identity = Identity::with_options(store.clone(), Arc::new(NullNotifier), Arc::new(now), options).unwrap();
        let user = User {
            id: Uuid::now_v7(),
            username: "alice".into(),
            name: "Alice".into(),
            email: "alice@example.com".into(),
            phone: String::new(),
            wechat: String::new(),
            source: UserSource::Local,
            mfa_level: MfaLevel::Off,
            otp_enrolled: false,
            is_active: true,
            is_service_account: false,
            date_expired: far_future(now()),
            date_password_last_updated: None,
            need_update_password: false,
            is_first_login: false,
            last_login: None,
            lang: None,
            system_roles: Vec::new(),
            org_roles: Vec::new(),
            meta: Meta::new("test", now()),
        };
        let mut batch = store.batch();
        batch.insert(user.clone());
        store.commit(batch).await.unwrap();
        identity.reset_password(user.id, PASSWORD, false, &By::system()).await.unwrap();
        Self { store, identity, user, seen: Seen::default() }
    }

    async fn settings(&self, change: impl FnOnce(&mut Settings)) {
        let stored = self.store.system().get::<Settings>(SETTINGS_ID).unwrap();
        let mut settings = stored.map(|s| Settings::clone(&s)).unwrap_or_default();
        change(&mut settings);
        let mut batch = self.store.batch();
        batch.put(settings);
        self.store.commit(batch).await.unwrap();
    }

    async fn register(&self, key: &PublicKey) {
        let line = key.to_openssh().unwrap();
        self.identity.add_ssh_key(self.user.id, "key", &line, &By::system()).await.unwrap();
    }

    /// A client connected to a fresh door.
    async fn connect(&self) -> client::Handle<AnyHost> {
        let (near, far) = tokio::io::duplex(64 * 1_024);
        let config = server::Config {
            keys: vec![key(200)],
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..server::Config::default()
        };
        let door = TestDoor { identity: self.identity.clone(), attempt: None, second: None, seen: self.seen.clone() };
        tokio::spawn(async move {
            if let Ok(session) = server::run_stream(Arc::new(config), far, door).await {
                let _ = session.await;
            }
        });
        client::connect_stream(Arc::new(client::Config::default()), near, AnyHost).await.unwrap()
    }
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
}

async fn offer(client: &mut client::Handle<AnyHost>, key: PrivateKey) -> AuthResult {
    client.authenticate_publickey("alice", PrivateKeyWithHashAlg::new(Arc::new(key), None)).await.unwrap()
}

#[tokio::test]
async fn a_registered_key_lets_in_and_another_does_not() {
    let world = World::new().await;
    world.register(key(1).public_key()).await;
    let mut client = world.connect().await;
    assert!(!offer(&mut client, key(2)).await.success());
    assert_eq!(world.seen.all(), Vec::<String>::new(), "an unknown key is not even asked to sign");
    assert!(offer(&mut client, key(1)).await.success());
    assert_eq!(world.seen.all(), ["proven", "done SshKey mfa=false"]);
    let used = world.identity.ssh_keys(world.user.id).unwrap()[0].date_last_used;
    assert!(used.is_some());
}

/// Signs with another key than the one it names.
struct Liar;

#[derive(Debug)]
struct SignError;

impl From<russh::SendError> for SignError {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

fn with_signature(mut data: Vec<u8>, algorithm: &str, raw: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut signature = Vec::new();
    string(&mut signature, algorithm.as_bytes());
    string(&mut signature, raw);
    signature.extend_from_slice(trailer);
    string(&mut data, &signature);
    data
}

impl russh::Signer for Liar {
    type Error = SignError;
    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, data: Vec<u8>) -> Result<Vec<u8>, SignError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[99; 32]).unwrap();
        let raw = pair.sign(&data).as_ref().to_vec();
        Ok(with_signature(data, "ssh-ed25519", &raw, &[]))
    }
}

/// CVE-2023-42818: with key and second factor, possession of the private key was not verified. Here a wrong signature
/// never reaches the log-in (the argument of `key_proven` cannot be made without a right one), and a right key still
/// needs the code.
#[tokio::test]
async fn cve_2023_42818_a_public_key_without_its_private_key_proves_nothing_and_a_key_is_not_a_second_factor() {
    let world = World::new().await;
    world.register(key(1).public_key()).await;
    let enrolment = world.identity.start_enrolment(world.user.id).unwrap();
    let code = totp(&enrolment.secret, now());
    world.identity.confirm_enrolment(world.user.id, &code, &By::system()).await.unwrap();

    let mut client = world.connect().await;
    let public = key(1).public_key().clone();
    let lied = client.authenticate_publickey_with("alice", public, None, &mut Liar).await.unwrap();
    assert!(!lied.success());
    assert_eq!(world.seen.all(), Vec::<String>::new());

    let honest = offer(&mut client, key(1)).await;
    assert!(matches!(honest, AuthResult::Failure { partial_success: true, .. }), "{honest:?}");
    assert_eq!(world.seen.all(), ["proven", "mfa"]);
}

/// A FIDO key in software: signs what an authenticator would (PROTOCOL.u2f).
struct Authenticator {
    pair: Ed25519KeyPair,
    tamper: bool,
}

const APPLICATION: &str = "ssh:";

impl Authenticator {
    fn new(seed: u8) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(), tamper: false }
    }

    fn public(&self) -> PublicKey {
        let raw: [u8; 32] = self.pair.public_key().as_ref().try_into().unwrap();
        PublicKey::new(KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(raw), APPLICATION)), "")
    }
}

impl russh::Signer for Authenticator {
    type Error = SignError;
    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, data: Vec<u8>) -> Result<Vec<u8>, SignError> {
        let trailer = [1, 0, 0, 0, 7];
        let mut signed = digest(&SHA256, APPLICATION.as_bytes()).as_ref().to_vec();
        signed.extend_from_slice(&trailer);
        signed.extend_from_slice(digest(&SHA256, &data).as_ref());
        let mut raw = self.pair.sign(&signed).as_ref().to_vec();
        if self.tamper {
            raw[10] ^= 1;
        }
        Ok(with_signature(data, "sk-ssh-ed25519@openssh.com", &raw, &trailer))
    }
}

#[tokio::test]
async fn a_fido_key_is_verified_by_the_server() {
    let world = World::new().await;
    let mut fido = Authenticator::new(5);
    let public = fido.public();
    world.register(&public).await;
    fido.tamper = true;
    let mut client = world.connect().await;
    assert!(!client.authenticate_publickey_with("alice", public.clone(), None, &mut fido).await.unwrap().success());
    assert_eq!(world.seen.all(), Vec::<String>::new());
    fido.tamper = false;
    assert!(client.authenticate_publickey_with("alice", public, None, &mut fido).await.unwrap().success());
    assert_eq!(world.seen.all(), ["proven", "done SshKey mfa=false"]);
}

#[tokio::test]
async fn key_and_then_password_when_the_setting_wants_both() {
    let world = World::new().await;
    world.register(key(1).public_key()).await;
    world.settings(|s| s.terminal_force_multi_auth = true).await;
    let mut client = world.connect().await;
    assert!(!client.authenticate_password("alice", PASSWORD).await.unwrap().success());
    assert!(matches!(offer(&mut client, key(1)).await, AuthResult::Failure { partial_success: true, .. }));
    assert!(!client.authenticate_password("alice", "wrong").await.unwrap().success());
    assert!(client.authenticate_password("alice", PASSWORD).await.unwrap().success());
    let seen = world.seen.all();
    assert_eq!(seen, ["method_disabled", "proven", "password", "invalid_login", "done KeyAndPassword mfa=false"]);
}

#[tokio::test]
async fn keys_are_not_asked_for_when_the_door_is_closed_to_them_or_the_user_is_disabled() {
    let world = World::new().await;
    world.register(key(1).public_key()).await;
    let mut batch = world.store.batch();
    batch.put(User { is_active: false, ..world.user.clone() });
    world.store.commit(batch).await.unwrap();
    assert!(!offer(&mut world.connect().await, key(1)).await.success());
    assert_eq!(world.seen.all(), ["proven", "user_inactive"], "told to who owns the key");
    world.settings(|s| s.terminal_public_key_auth = false).await;
    assert!(!offer(&mut world.connect().await, key(1)).await.success());
    assert_eq!(world.seen.all().len(), 2);
}

fn certificate(subject: &PrivateKey, authority: &PrivateKey, principal: &str) -> Certificate {
    let at = u64::try_from(now().timestamp()).unwrap();
    let data = subject.public_key().key_data().clone();
    let mut builder = Builder::new([7; 16], data, at - 60, at + 600).unwrap();
    builder.cert_type(CertType::User).unwrap();
    builder.key_id("test").unwrap();
    builder.valid_principal(principal).unwrap();
    builder.sign(authority).unwrap()
}

#[tokio::test]
async fn certificates_of_a_trusted_authority_let_in_whom_they_name() {
    let world = World::new().await;
    let (authority, stranger) = (key(9), key(8));
    let mine = |ca: &PrivateKey, principal: &str| certificate(&key(3), ca, principal);
    let ask = async |cert: Certificate| {
        let mut client = world.connect().await;
        client.authenticate_openssh_cert("alice", Arc::new(key(3)), cert).await.unwrap().success()
    };
    assert!(!ask(mine(&authority, "alice")).await, "nobody is trusted yet");
    let line = authority.public_key().to_openssh().unwrap();
    let ca = world.identity.add_user_ca("ops", &line, &By::system()).await.unwrap();
    assert!(ask(mine(&authority, "alice")).await);
    assert!(!ask(mine(&authority, "bob")).await);
    assert!(!ask(mine(&stranger, "alice")).await);
    assert_eq!(
        world.seen.all(),
        [
            "certificate proven",
            "done Certificate mfa=false",
            "certificate proven",
            "key_failed",
            "certificate proven",
            "key_failed"
        ]
    );
    world.identity.remove_user_ca(ca.id, &By::system()).await.unwrap();
    assert!(!ask(mine(&authority, "alice")).await);
}

/// RFC 6238 again, by another hand than the one under test.
fn totp(secret: &str, at: DateTime<Utc>) -> String {
    use aws_lc_rs::hmac;
    let raw = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &raw);
    let step = u64::try_from(at.timestamp()).unwrap() / 30;
    let tag = hmac::sign(&key, &step.to_be_bytes()).as_ref().to_vec();
    let at = usize::from(tag[19] & 15);
    let number = u32::from_be_bytes([tag[at] & 127, tag[at + 1], tag[at + 2], tag[at + 3]]) % 1_000_000;
    format!("{number:06}")
}
