//! Login rules and address lists (A35, A40, Z20): gathers the facts for `model::decide_login` and sends its notices.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Local, Offset as _, TimeZone as _, Utc};
use gatehouse_model::decide::{DenyReason, LoginDecision, LoginFacts, RuleNotice, check_source, decide_login};
use gatehouse_model::notice::{Notice, NoticeKind};
use gatehouse_model::rules::LoginRule;
use gatehouse_model::settings::Settings;
use gatehouse_model::time_period::Moment;
use gatehouse_model::user::{User, UserGroup};
use gatehouse_store::AllOrgs;
use uuid::Uuid;

use crate::Identity;
use crate::error::{IdentityError, LoginCode};

/// The address lists, which are asked before anything is known of the user.
pub(super) fn source_allowed(settings: &Settings, ip: IpAddr) -> Result<(), (LoginCode, String)> {
    check_source(ip, &settings.security_login_ip_white_list, &settings.security_login_ip_black_list)
        .map_err(|reason| told(&reason))
}

/// The decision for a known user, with whom to tell once the log-in is through. The inner error carries the code and
/// what may be told.
pub(super) fn check(
    identity: &Identity,
    user: &Arc<User>,
    ip: IpAddr,
    now: DateTime<Utc>,
) -> Result<Result<Vec<RuleNotice>, (LoginCode, String)>, IdentityError> {
    let settings = identity.settings()?;
    let rules = identity.store().system().list::<LoginRule>()?;
    // Groups are needed by rules only, and there can be many.
    let groups: Vec<Arc<UserGroup>> = if rules.iter().any(|r| r.is_active) {
        let everywhere = identity.store().all_orgs(AllOrgs::crossing_organizations());
        everywhere.list::<UserGroup>()?.into_iter().filter(|g| g.users.contains(&user.id)).collect()
    } else {
        Vec::new()
    };
    let facts = LoginFacts {
        user: Arc::clone(user),
        groups,
        rules,
        white_list: settings.security_login_ip_white_list.clone(),
        black_list: settings.security_login_ip_black_list.clone(),
    };
    let offset = Local.offset_from_utc_datetime(&now.naive_utc()).fix().local_minus_utc();
    Ok(match decide_login(&facts, ip, Moment::new(now, offset)) {
        LoginDecision::Allow { notices } => Ok(notices),
        LoginDecision::Deny { reason } => Err(told(&reason)),
    })
}

fn told(reason: &DenyReason) -> (LoginCode, String) {
    let code = match reason {
        DenyReason::UserInactive => LoginCode::UserInactive,
        DenyReason::UserExpired => LoginCode::UserExpired,
        DenyReason::IpBlocked => LoginCode::BlockIpLogin,
        DenyReason::AclReview { .. } => LoginCode::AclReview,
        _ => LoginCode::AclNotAllow,
    };
    (code, reason.to_string())
}

/// Tells the reviewers of rules that matched; once, when the log-in is through.
pub(super) fn send(identity: &Identity, user: &User, ip: IpAddr, notices: Vec<RuleNotice>) {
    for notice in notices {
        send_one(identity, user, ip, notice);
    }
}

fn send_one(identity: &Identity, user: &User, ip: IpAddr, notice: RuleNotice) {
    let text = format!("{} logs in from {ip}; the rule \"{}\" asked to tell you.", user.display(), notice.name);
    let mut recipients = notice.recipients;
    if notice.warn_user && !recipients.contains(&user.id) {
        recipients.push(user.id);
    }
    identity.notify(Notice {
        kind: NoticeKind::LoginRule,
        org: Uuid::nil(),
        recipients,
        subject: format!("Login of {}", user.display()),
        text,
        resource: Some(notice.rule),
    });
}
