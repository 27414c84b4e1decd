use std::collections::BTreeSet;

use gatehouse_model::common::Meta;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::net::IpGroup;
use gatehouse_model::rules::{LoginRule, ManyFilter, RuleAction, RuleConditions};
use gatehouse_model::settings::MfaPolicy;
use gatehouse_model::user::{MfaLevel, UserSource};
use uuid::Uuid;

use super::*;
use crate::testing::{IP, PASSWORD, World, ip};
use crate::{By, LoginCode, LoginError};

const NEW_PASSWORD: &str = "Another-Horse-43";

fn done(step: Step) -> Proof {
    match step {
        Step::Done(proof) => proof,
        other => panic!("expected a proof, got {other:?}"),
    }
}

fn mfa(step: Step) -> MfaAttempt {
    match step {
        Step::Mfa(attempt) => attempt,
        other => panic!("expected the second factor, got {other:?}"),
    }
}

async fn wrong(world: &World, name: &str) -> LoginError {
    world.begin(name, Door::Web).password("wrong").await.unwrap_err()
}

#[tokio::test]
async fn the_right_password_gives_a_proof_and_a_row_in_the_log() {
    let world = World::new();
    let user = world.add("alice").await;
    let proof = done(world.begin("ALICE", Door::Web).password(PASSWORD).await.unwrap());
    assert_eq!(proof.user().id, user.id);
    assert_eq!((proof.method(), proof.mfa(), proof.door()), (Method::Password, false, Door::Web));
    assert_eq!(proof.ip(), ip(IP));
    assert_eq!(proof.user().last_login, Some(world.now()));

    let rows = world.ledger(LedgerKind::Login);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].actor, Some(user.id));
    assert_eq!(rows[0].refs, [user.id]);
    let body = &rows[0].body;
    for (field, value) in [
        ("username", "ALICE"),
        ("type", "W"),
        ("ip", IP),
        ("city", ""),
        ("user_agent", "test"),
        ("reason", ""),
        ("reason_code", ""),
        ("backend", "Password"),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    assert_eq!(body["status"], true);
    assert_eq!(body["mfa"], 0);
}

#[tokio::test]
async fn a_finished_attempt_is_of_no_more_use() {
    let world = World::new();
    world.add("alice").await;
    let mut attempt = world.begin("alice", Door::Api);
    done(attempt.password(PASSWORD).await.unwrap());
    assert_eq!(attempt.password(PASSWORD).await.unwrap_err().code, LoginCode::Finished);
}

/// Same words, same work, same lock, whether or not the user exists, has a password, or belongs to another system.
#[tokio::test]
async fn nothing_outside_the_ledger_tells_who_exists() {
    let world = World::new();
    world.add("alice").await;
    world.add_with("ldapuser", |u| u.source = UserSource::Ldap).await;
    let mut bare = crate::testing::user("bare");
    bare.email = "bare@example.com".into();
    // One with codes that are open, so that there is something to find.
    let carol = world.add("carol").await;
    world.settings(|s| s.auth_temp_token = true).await;
    world.identity.create_temp_password(carol.id, &By::system()).await.unwrap();
    world.identity.create_set_up_code(carol.id, &By::system()).await.unwrap();
    let mut batch = world.store.batch();
    batch.insert(bare);
    world.store.commit(batch).await.unwrap();

    let mut answers = BTreeSet::new();
    for name in ["alice", "nobody", "ldapuser", "bare", "carol", &"x".repeat(5_000), "a\u{0}b"] {
        for typed in ["wrong", "tmp-wrong", "setup-wrong"] {
            let before = world.identity.inner.hasher.checks();
            let told = world.begin(name, Door::Web).password(typed).await.unwrap_err();
            let work = world.identity.inner.hasher.checks() - before;
            answers.insert((typed, told.code, told.message, told.may_retry, work, told.tries_left));
        }
    }
    // Three kinds of input, three tries each: nothing differs between the names.
    assert_eq!(answers.len(), 3, "{answers:#?}");
    let codes: BTreeSet<String> = world.logins().into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, BTreeSet::from(["backend_not_match", "password_failed", "user_not_exist"].map(String::from)));

    for name in ["alice", "nobody"] {
        let mut last = None;
        for _ in 0..5 {
            last = Some(wrong(&world, name).await);
        }
        assert_eq!(last.unwrap().code, LoginCode::BlockUserLogin, "{name}");
    }
}

#[tokio::test]
async fn a_user_is_locked_after_too_many_failures_and_the_lock_survives_a_restart() {
    let world = World::new();
    let user = world.add("alice").await;
    for left in (1..7).rev() {
        let told = wrong(&world, "alice").await;
        assert_eq!((told.code, told.tries_left), (LoginCode::InvalidLogin, Some(left)));
        assert!(told.message.contains("30 minutes"), "{told}");
    }
    assert_eq!(wrong(&world, "alice").await.code, LoginCode::BlockUserLogin);
    // The right password does not help, from no address, and neither does a restart.
    let told = world.begin_from("Alice", Door::Web, "198.51.100.7").password(PASSWORD).await.unwrap_err();
    assert_eq!(told.code, LoginCode::BlockUserLogin);
    let restarted = world.restarted();
    let begin =
        BeginLogin { username: "alice".into(), ip: ip("198.51.100.7"), door: Door::Ssh, user_agent: String::new() };
    assert_eq!(restarted.begin(begin).password(PASSWORD).await.unwrap_err().code, LoginCode::BlockUserLogin);
    assert!(world.identity.is_user_locked(&user).unwrap());
    assert_eq!(world.inbox.0.lock().iter().filter(|n| n.subject.contains("locked")).count(), 1, "told once");

    world.wait(29 * 60);
    assert_eq!(wrong(&world, "alice").await.code, LoginCode::BlockUserLogin);
    world.wait(61);
    done(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
}

#[tokio::test]
async fn an_administrator_lifts_a_lock() {
    let world = World::new();
    let user = world.add("alice").await;
    for _ in 0..7 {
        wrong(&world, "alice").await;
    }
    let locked = world.identity.locked().unwrap();
    assert_eq!(locked.len(), 1);
    assert_eq!(locked[0].subject, crate::LockedSubject::User("alice".into()));
    assert!(world.identity.unlock_user(user.id, &By::system()).await.unwrap());
    assert!(!world.identity.unlock_user(user.id, &By::system()).await.unwrap());
    done(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
}

#[tokio::test]
async fn success_forgets_the_failures_of_the_user() {
    let world = World::new();
    world.add("alice").await;
    for _ in 0..3 {
        for _ in 0..6 {
            wrong(&world, "alice").await;
        }
        done(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
    }
    assert!(world.identity.locked().unwrap().is_empty());
}

#[tokio::test]
async fn an_address_is_locked_listed_and_unlocked_and_the_allow_list_exempts() {
    let world = World::new();
    world.add("alice").await;
    world.settings(|s| s.security_login_ip_limit_count = 5).await;
    for i in 0..5 {
        wrong(&world, &format!("guess{i}")).await;
    }
    assert_eq!(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err().code, LoginCode::BlockIpLogin);
    done(world.begin_from("alice", Door::Ssh, "198.51.100.1").password(PASSWORD).await.unwrap());
    let locked = world.identity.locked().unwrap();
    assert_eq!(locked[0].subject, crate::LockedSubject::Ip(ip(IP)));
    assert!(world.identity.unlock_ip(ip(IP), &By::system()).await.unwrap());
    done(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap());

    world.identity.lock_ip(ip(IP), &By::system()).await.unwrap();
    assert!(world.begin("alice", Door::Ssh).password(PASSWORD).await.is_err());
    world.settings(|s| s.security_login_ip_white_list = IpGroup::try_from(vec!["192.0.2.0/24".into()]).unwrap()).await;
    done(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap());
}

#[tokio::test]
async fn a_denied_address_is_turned_away_before_any_password_is_checked() {
    let world = World::new();
    world.add("alice").await;
    world.settings(|s| s.security_login_ip_black_list = IpGroup::try_from(vec!["192.0.2.0/24".into()]).unwrap()).await;
    let before = world.identity.inner.hasher.checks();
    // Also when it comes as an IPv4 address in an IPv6 one.
    for from in [IP, "::ffff:192.0.2.10"] {
        let told = world.begin_from("alice", Door::Web, from).password(PASSWORD).await.unwrap_err();
        assert_eq!(told.code, LoginCode::BlockIpLogin);
    }
    assert_eq!(world.identity.inner.hasher.checks(), before);
    done(world.begin_from("alice", Door::Web, "198.51.100.1").password(PASSWORD).await.unwrap());
}

/// CVE-2023-46123: the lock was keyed by an address that the client could choose. Ours counts per user as well, and the
/// only address it knows is the door's.
#[tokio::test]
async fn cve_2023_46123_changing_the_address_does_not_give_more_tries() {
    let world = World::new();
    world.add("alice").await;
    let mut codes = Vec::new();
    for i in 0..20 {
        let from = format!("198.51.100.{i}");
        codes.push(world.begin_from("alice", Door::Web, &from).password("wrong").await.unwrap_err().code);
    }
    assert_eq!(codes.iter().filter(|c| **c == LoginCode::InvalidLogin).count(), 6);
    assert!(codes[6..].iter().all(|c| *c == LoginCode::BlockUserLogin));
}

#[tokio::test]
async fn guesses_made_at_the_same_time_get_no_more_answers_than_one_after_the_other() {
    let world = World::new();
    world.add("alice").await;
    let mut tasks = Vec::new();
    for i in 0..40 {
        let mut attempt = world.begin_from("alice", Door::Web, &format!("198.51.100.{i}"));
        tasks.push(tokio::spawn(async move { attempt.password("wrong").await.unwrap_err().code }));
    }
    let mut answered = 0;
    for task in tasks {
        answered += usize::from(task.await.unwrap() == LoginCode::InvalidLogin);
    }
    assert_eq!(answered, 6, "the seventh failure locks");
    let checked = world.logins().iter().filter(|(code, _)| code == "password_failed").count();
    assert_eq!(checked, 7, "the others were turned away by the lock");
    assert_eq!(world.logins().len(), 40, "and every one is in the log");
}

#[tokio::test]
async fn a_disabled_or_expired_user_is_told_so_only_with_the_right_password() {
    let world = World::new();
    let user = world.add("alice").await;
    world.change(user.id, |u| u.is_active = false).await;
    assert_eq!(wrong(&world, "alice").await.code, LoginCode::InvalidLogin);
    assert_eq!(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err().code, LoginCode::UserInactive);
    world
        .change(user.id, |u| {
            u.is_active = true;
            u.date_expired = world.now();
        })
        .await;
    assert_eq!(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err().code, LoginCode::UserExpired);
    let codes: Vec<String> = world.logins().into_iter().map(|(c, _)| c).collect();
    assert_eq!(codes, ["password_failed", "user_inactive", "user_expired"]);
}

#[tokio::test]
async fn a_user_disabled_between_the_factors_does_not_get_in() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let mut second = mfa(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
    world.change(user.id, |u| u.is_active = false).await;
    assert_eq!(second.verify(&world.code(&secret)).await.unwrap_err().code, LoginCode::UserInactive);
    assert!(world.logins().iter().all(|(_, success)| !success));
}

#[tokio::test]
async fn login_rules_reject_review_and_tell() {
    let world = World::new();
    let user = world.add("alice").await;
    let rule = |name: &str, action, from: &str| LoginRule {
        id: Uuid::now_v7(),
        name: name.into(),
        priority: 50,
        users: ManyFilter::Ids { ids: vec![user.id] },
        rules: RuleConditions { ip_group: IpGroup::try_from(vec![from.into()]).unwrap(), time_period: Vec::new() },
        action,
        reviewers: vec![user.id],
        is_active: true,
        meta: Meta::new("test", world.now()),
    };
    let mut batch = world.store.batch();
    batch.insert(rule("no", RuleAction::Reject, "192.0.2.1"));
    batch.insert(rule("ask", RuleAction::Review, "192.0.2.2"));
    batch.insert(rule("tell", RuleAction::Notice, "192.0.2.3"));
    world.store.commit(batch).await.unwrap();
    let mut codes = Vec::new();
    for last in 1..=2 {
        let told =
            world.begin_from("alice", Door::Web, &format!("192.0.2.{last}")).password(PASSWORD).await.unwrap_err();
        codes.push(told.code);
    }
    assert_eq!(codes, [LoginCode::AclNotAllow, LoginCode::AclReview]);
    done(world.begin_from("alice", Door::Web, "192.0.2.3").password(PASSWORD).await.unwrap());
    let notices = world.inbox.0.lock();
    let told = notices.iter().filter(|n| n.kind == gatehouse_model::notice::NoticeKind::LoginRule).count();
    assert_eq!(told, 1, "once for a log-in that went through: {notices:?}");
}

#[tokio::test]
async fn doors_can_be_closed_to_passwords() {
    let world = World::new();
    world.add("alice").await;
    world.settings(|s| s.terminal_password_auth = false).await;
    assert_eq!(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err().code, LoginCode::MethodDisabled);
    done(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
    world.settings(|s| s.terminal_force_multi_auth = true).await;
    assert_eq!(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err().code, LoginCode::MethodDisabled);
}

#[tokio::test]
async fn service_accounts_do_not_log_in() {
    let world = World::new();
    world.add_with("robot", |u| u.is_service_account = true).await;
    assert_eq!(world.begin("robot", Door::Web).password(PASSWORD).await.unwrap_err().code, LoginCode::AclNotAllow);
}

#[tokio::test]
async fn the_second_factor_is_asked_when_the_policy_or_the_user_says_so() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    for (policy, level, admin, asked) in [
        (MfaPolicy::Off, MfaLevel::Off, false, false),
        (MfaPolicy::Off, MfaLevel::On, false, true),
        (MfaPolicy::Off, MfaLevel::Forced, false, true),
        (MfaPolicy::All, MfaLevel::Off, false, true),
        (MfaPolicy::Admins, MfaLevel::Off, false, false),
        (MfaPolicy::Admins, MfaLevel::Off, true, true),
    ] {
        world.settings(|s| s.security_mfa_auth = policy).await;
        world
            .change(user.id, |u| {
                u.mfa_level = level;
                u.system_roles = if admin { vec![Uuid::from_u128(1)] } else { Vec::new() };
            })
            .await;
        for door in [Door::Ssh, Door::Web, Door::Api] {
            let step = world.begin("alice", door).password(PASSWORD).await.unwrap();
            assert_eq!(matches!(step, Step::Mfa(_)), asked, "{policy} {level} {admin} {door:?}: {step:?}");
            if let Step::Mfa(mut second) = step {
                world.wait(30);
                assert!(done(second.verify(&world.code(&secret)).await.unwrap()).mfa());
                assert_eq!(second.verify("000000").await.unwrap_err().code, LoginCode::Finished);
            }
        }
    }
}

#[tokio::test]
async fn a_code_works_once_also_in_two_log_ins_at_the_same_time() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let code = world.code(&secret);
    let mut tasks = Vec::new();
    for i in 0..6 {
        let mut second =
            mfa(world.begin_from("alice", Door::Web, &format!("192.0.2.{i}")).password(PASSWORD).await.unwrap());
        let code = code.clone();
        tasks.push(tokio::spawn(async move { second.verify(&code).await.is_ok() }));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += usize::from(task.await.unwrap());
    }
    assert_eq!(accepted, 1);
    let mut again = mfa(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
    assert_eq!(again.verify(&code).await.unwrap_err().code, LoginCode::MfaFailed);
}

#[tokio::test]
async fn wrong_codes_lock_the_second_factor_and_the_right_password_does_not_lift_it() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        // A new log-in each time, with the right password.
        let mut second = mfa(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
        codes.push(second.verify("000000").await.unwrap_err().code);
    }
    assert_eq!(codes[..6], [LoginCode::MfaFailed; 6]);
    assert_eq!(codes[6..], [LoginCode::BlockMfa; 2]);
    let mut second = mfa(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap());
    assert_eq!(second.verify(&world.code(&secret)).await.unwrap_err().code, LoginCode::BlockMfa);
    assert!(world.identity.is_user_locked(&user).unwrap());
    assert!(world.identity.unlock_user(user.id, &By::system()).await.unwrap());
    done(second.verify(&world.code(&secret)).await.unwrap());
}

#[tokio::test]
async fn a_required_factor_that_is_missing_is_set_up_on_the_web_and_said_at_the_ssh_door() {
    let world = World::new();
    world.add("alice").await;
    world
        .settings(|s| {
            s.security_mfa_auth = MfaPolicy::All;
            s.site_url = "https://gate.example.com".into();
        })
        .await;
    let told = world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap_err();
    assert_eq!(told.code, LoginCode::MfaUnset);
    assert!(told.message.contains("https://gate.example.com"), "{told}");

    let Step::EnrolMfa(mut enrol) = world.begin("alice", Door::Web).password(PASSWORD).await.unwrap() else {
        panic!("enrolment is offered")
    };
    assert_eq!(enrol.confirm("000000").await.unwrap_err().code, LoginCode::MfaUnset, "the secret comes first");
    let first = enrol.start().unwrap();
    assert!(first.uri.contains(first.secret.as_str()) && first.uri.starts_with("otpauth://totp/Gatehouse:alice?"));
    assert_eq!(*enrol.start().unwrap().secret, *first.secret, "asked again, it is the same");
    assert_eq!(enrol.confirm("000000").await.unwrap_err().code, LoginCode::MfaFailed);
    let code = world.code(&first.secret);
    assert!(done(enrol.confirm(&code).await.unwrap()).mfa());
    // The confirming code is used up, and from now on one is asked for at every door.
    let mut second = mfa(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap());
    assert_eq!(second.verify(&code).await.unwrap_err().code, LoginCode::MfaFailed);
    world.wait(30);
    done(second.verify(&world.code(&first.secret)).await.unwrap());
}

#[tokio::test]
async fn an_outdated_password_is_changed_before_the_log_in_ends() {
    let world = World::new();
    let user = world.add_with("alice", |u| u.need_update_password = true).await;
    let step = world.begin("alice", Door::Web).password(PASSWORD).await.unwrap();
    let Step::ChangePassword(mut change) = step else { panic!("got {step:?}") };
    assert_eq!(change.reason(), ChangeReason::Required);
    assert_eq!(change.policy().unwrap().min_length, 12);
    assert!(change.submit("short").await.unwrap_err().to_string().contains("12 characters"));
    assert!(change.submit(PASSWORD).await.unwrap_err().to_string().contains("may not be used again"));
    done(change.submit(NEW_PASSWORD).await.unwrap());
    done(world.begin("alice", Door::Web).password(NEW_PASSWORD).await.unwrap());
    assert_eq!(wrong(&world, "alice").await.code, LoginCode::InvalidLogin);

    world.settings(|s| s.security_password_expiration_time = 30).await;
    world.wait(31 * 86_400);
    let step = world.begin("alice", Door::Ssh).password(NEW_PASSWORD).await.unwrap();
    let Step::ChangePassword(change) = step else { panic!("got {step:?}") };
    assert_eq!(change.reason(), ChangeReason::Expired);
    let changes = world.ledger(LedgerKind::PasswordChange);
    assert_eq!(changes.len(), 2, "set-up and the change");
    assert_eq!(changes[1].body["user"], "alice(alice)");
    assert_eq!(changes[1].body["change_by"], "alice(alice)");
    assert_eq!(changes[1].body["remote_addr"], IP);
    assert_eq!(changes[1].actor, Some(user.id));
}

#[tokio::test]
async fn a_parked_log_in_goes_on_with_its_ticket_once_and_not_for_long() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let step = world.begin("alice", Door::Api).password(PASSWORD).await.unwrap();
    let ticket = world.identity.park(step).unwrap();
    assert!(world.identity.resume("guess").is_none());
    let mut second = mfa(world.identity.resume(&ticket).unwrap());
    assert!(world.identity.resume(&ticket).is_none(), "once");
    assert!(second.verify("000000").await.is_err());
    let ticket = world.identity.park(Step::Mfa(second)).unwrap();
    let mut second = mfa(world.identity.resume(&ticket).unwrap());
    done(second.verify(&world.code(&secret)).await.unwrap());

    let step = world.begin("alice", Door::Api).password(PASSWORD).await.unwrap();
    let ticket = world.identity.park(step).unwrap();
    world.wait(5 * 60);
    assert!(world.identity.resume(&ticket).is_none());
}

/// CVE-2023-46138: a new installation had a known administrator with a known mail domain. Ours has nobody.
#[tokio::test]
async fn cve_2023_46138_a_new_box_has_no_default_user_or_password() {
    let world = World::new();
    assert_eq!(world.store.system().count::<User>().unwrap(), 0);
    for (name, password) in [("admin", "ChangeMe"), ("admin", "admin"), ("root", ""), ("", "")] {
        assert_eq!(world.begin(name, Door::Web).password(password).await.unwrap_err().code, LoginCode::InvalidLogin);
    }
}

#[tokio::test]
async fn the_first_administrator_comes_in_with_a_set_up_code_once_and_sets_a_password() {
    let world = World::new();
    let admin = crate::testing::user("root");
    let mut batch = world.store.batch();
    batch.insert(admin.clone());
    world.store.commit(batch).await.unwrap();
    let old = world.identity.create_set_up_code(admin.id, &By::system()).await.unwrap();
    let code = world.identity.create_set_up_code(admin.id, &By::system()).await.unwrap();
    assert!(world.begin("root", Door::Web).password(&old).await.is_err(), "a new code replaces the old one");
    let step = world.begin("root", Door::Web).password(&code).await.unwrap();
    let Step::ChangePassword(mut change) = step else { panic!("got {step:?}") };
    assert!(world.begin("root", Door::Web).password(&code).await.is_err(), "once");
    assert_eq!(done(change.submit(PASSWORD).await.unwrap()).method(), Method::SetUpCode);
    done(world.begin("root", Door::Web).password(PASSWORD).await.unwrap());

    let late = world.identity.create_set_up_code(admin.id, &By::system()).await.unwrap();
    world.wait(24 * 3_600);
    assert!(world.begin("root", Door::Web).password(&late).await.is_err(), "a day");
}

/// CVE-2023-43650: a six-digit reset code could be guessed without limit. Ours have 143 random bits, and guesses count.
#[tokio::test]
async fn cve_2023_43650_guessing_one_time_codes_locks() {
    let world = World::new();
    let user = world.add("alice").await;
    let code = world.identity.create_set_up_code(user.id, &By::system()).await.unwrap();
    assert!(code.len() >= "setup-".len() + 24);
    for _ in 0..7 {
        world.begin("alice", Door::Web).password("setup-000000").await.unwrap_err();
    }
    assert_eq!(world.begin("alice", Door::Web).password(&code).await.unwrap_err().code, LoginCode::BlockUserLogin);
}

#[tokio::test]
async fn a_temporary_password_works_once_while_it_lives() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    assert_eq!(world.identity.create_temp_password(user.id, &by).await.err().unwrap().code(), "temp_password_disabled");
    world.settings(|s| s.auth_temp_token = true).await;
    let (record, secret) = world.identity.create_temp_password(user.id, &by).await.unwrap();
    assert!(record.hash.is_empty(), "the hash is shown to nobody");
    let mut tasks = Vec::new();
    for i in 0..6 {
        let mut attempt = world.begin_from("alice", Door::Ssh, &format!("192.0.2.{i}"));
        let secret = secret.clone();
        tasks.push(tokio::spawn(async move { attempt.password(&secret).await.map(done).is_ok() }));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += usize::from(task.await.unwrap());
    }
    assert_eq!(accepted, 1, "two at the same time: one wins");
    assert!(world.identity.temp_passwords(user.id).unwrap()[0].verified);

    world.identity.unlock_user(user.id, &By::system()).await.unwrap();
    let (_, secret) = world.identity.create_temp_password(user.id, &by).await.unwrap();
    world.settings(|s| s.auth_temp_token = false).await;
    assert!(world.begin("alice", Door::Ssh).password(&secret).await.is_err(), "switched off");
    world.settings(|s| s.auth_temp_token = true).await;
    world.wait(300);
    assert!(world.begin("alice", Door::Ssh).password(&secret).await.is_err(), "too old");
    let (record, secret) = world.identity.create_temp_password(user.id, &by).await.unwrap();
    let stranger = world.add("bob").await;
    assert!(world.identity.expire_temp_password(stranger.id, record.id, &by).await.is_err());
    world.identity.expire_temp_password(user.id, record.id, &by).await.unwrap();
    assert!(world.begin("alice", Door::Ssh).password(&secret).await.is_err(), "expired by hand");
}

#[tokio::test]
async fn a_password_that_looks_like_a_one_time_code_still_works() {
    let world = World::new();
    let user = world.add("alice").await;
    let odd = "tmp-My-Own-Password-1";
    world.identity.reset_password(user.id, odd, false, &By::system()).await.unwrap();
    assert_eq!(done(world.begin("alice", Door::Web).password(odd).await.unwrap()).method(), Method::Password);
}

#[tokio::test]
async fn strange_names_and_agents_are_logged_bounded_and_without_control_characters() {
    let world = World::new();
    let name = format!("evil\u{1b}[2J\n{}", "x".repeat(100_000));
    let mut attempt = world.identity.begin(BeginLogin {
        username: name,
        ip: ip(IP),
        door: Door::Ssh,
        user_agent: "y\u{0}".repeat(100_000),
    });
    attempt.password(&"p".repeat(1_000_000)).await.unwrap_err();
    let rows = world.ledger(LedgerKind::Login);
    let body = &rows[0].body;
    for field in ["username", "user_agent"] {
        let text = body[field].as_str().unwrap();
        assert!(text.chars().count() <= 255 && !text.chars().any(char::is_control), "{field}: {text}");
    }
    assert_eq!(rows[0].actor, None);
}

/// Ten thousand attempts from one address: cut before they cost anything, all in the log, nobody else suffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_attempts_starve_nobody_and_are_all_in_the_log() {
    let world = std::sync::Arc::new(World::new());
    world.add("alice").await;
    let before = world.identity.inner.hasher.checks();
    let logged = world.ledger(LedgerKind::Login).len();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..10_000 {
        let mut attempt = world.begin_from(&format!("user{}", i % 997), Door::Ssh, "203.0.113.66");
        tasks.spawn(async move { attempt.password("guess").await.unwrap_err().code });
    }
    let honest = done(world.begin("alice", Door::Ssh).password(PASSWORD).await.unwrap());
    assert_eq!(honest.user().username, "alice");
    let mut throttled = 0;
    while let Some(code) = tasks.join_next().await {
        throttled += usize::from(code.unwrap() == LoginCode::Throttled);
    }
    assert!(throttled >= 9_799, "{throttled}");
    assert!(world.identity.inner.hasher.checks() - before <= 201, "cheap for us");
    assert_eq!(world.ledger(LedgerKind::Login).len() - logged, 10_001);
}
