//! Who asks, from where, about which organization, and whether that is allowed.
//!
//! One policy function (`check`) decides for every route; handlers only ever ask for more, never for less.

use std::net::IpAddr;

use axum::http::request::Parts;
use gatehouse_identity::{Authenticated, RequestParts};
use gatehouse_model::common::org_ids;
use gatehouse_model::net::{IpGroup, canonical};
use gatehouse_model::org::{Organization, Role};
use gatehouse_model::permission;
use gatehouse_model::user::User;
use uuid::Uuid;

use crate::app::App;
use crate::engine::reader::{Reader, Scope};
use crate::guard::{Call, Need, OriginalTarget, PeerAddr, Stranger};
use crate::problem::Problem;

/// The address that counts for locks, rules and logs: the peer's, unless the peer is a proxy that the administrator named
/// as trusted. A forged `X-Forwarded-For` from anybody else changes nothing (CVE-2023-46123).
pub(crate) fn client_ip(app: &App, parts: &Parts) -> Result<IpAddr, Problem> {
    let Some(PeerAddr(peer)) = parts.extensions.get::<PeerAddr>() else {
        return Err(Problem::internal(&"a request came without the address of its peer"));
    };
    let settings = Reader::new(app.store(), Scope::Global).settings()?;
    let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    let hops: Vec<&str> = forwarded.flat_map(|v| v.split(',')).collect();
    Ok(behind_proxies(canonical(*peer), &hops, &settings.trusted_proxies))
}

/// Walks from the peer towards the client for as long as the hop is trusted; what is not an address ends the walk.
fn behind_proxies(peer: IpAddr, hops: &[&str], trusted: &IpGroup) -> IpAddr {
    let mut at = peer;
    for hop in hops.iter().rev() {
        if !trusted.contains(at) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(ip) => at = canonical(ip),
            Err(_) => break,
        }
    }
    at
}

pub(crate) fn authenticate(stranger: &Stranger) -> Result<Authenticated, Problem> {
    let target = match stranger.extensions.get::<OriginalTarget>() {
        Some(OriginalTarget(target)) => target.clone(),
        None => stranger.uri.path_and_query().map_or_else(String::new, ToString::to_string),
    };
    let parts = RequestParts {
        method: stranger.method.as_str(),
        path_and_query: &target,
        headers: &stranger.headers,
        remote_ip: stranger.ip,
    };
    stranger.app.identity().authenticate_http(&parts).map_err(Problem::from)
}

pub(crate) fn roles(app: &App) -> Result<Vec<std::sync::Arc<Role>>, Problem> {
    Ok(Reader::new(app.store(), Scope::Global).list::<Role>()?)
}

pub(crate) fn allowed(app: &App, user: &User, org: Uuid, point: &str) -> Result<bool, Problem> {
    Ok(permission::allowed(user, &roles(app)?, org, point))
}

pub(crate) fn require_system(call: &Call, point: &str) -> Result<(), Problem> {
    if allowed(&call.app, &call.user, org_ids::ROOT, point)? { Ok(()) } else { Err(Problem::forbidden()) }
}

/// The organization that the request names: header, cookie or query, in JumpServer's order.
fn requested_org(stranger: &Stranger) -> Result<Option<Uuid>, Problem> {
    let header = stranger.headers.get("x-jms-org").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let cookie = || {
        let cookies = stranger.headers.get_all("cookie").iter().filter_map(|v| v.to_str().ok());
        cookies
            .flat_map(|c| c.split(';'))
            .find_map(|pair| pair.trim().strip_prefix("X-JMS-ORG=").map(|v| v.trim_matches('"').to_owned()))
    };
    let named = header.or_else(|| stranger.query.filled("oid").map(str::to_owned)).or_else(cookie);
    match named.as_deref().map(str::trim).filter(|n| !n.is_empty()) {
        None => Ok(None),
        Some("ROOT" | "root") => Ok(Some(org_ids::ROOT)),
        Some("DEFAULT" | "default") => Ok(Some(org_ids::DEFAULT)),
        // A name that is not an id is as unknown as an id that is not there.
        Some(text) => text.parse().map(Some).map_err(|_| Problem::forbidden()),
    }
}

/// The answer is the same for an organization that does not exist and for one that the caller has no part in.
pub(crate) fn resolve_scope(stranger: &Stranger, user: &User, need: Need) -> Result<Scope, Problem> {
    let app = &stranger.app;
    let reader = Reader::new(app.store(), Scope::Global);
    let Some(org) = requested_org(stranger)? else { return Ok(home(app, user)) };
    if org == org_ids::ROOT {
        let point = match need {
            Need::Point(point) | Need::System(point) => point,
            Need::Me => "orgs.view_rootorg",
        };
        return if allowed(app, user, org_ids::ROOT, point)? { Ok(Scope::Global) } else { Err(Problem::forbidden()) };
    }
    if reader.get::<Organization>(org)?.is_none() {
        return Err(Problem::forbidden());
    }
    let enters = user.is_member_of(org)
        || match need {
            // Without a membership only a system role leads here.
            Need::Point(point) | Need::System(point) => allowed(app, user, org_ids::ROOT, point)?,
            Need::Me => allowed(app, user, org_ids::ROOT, "orgs.view_rootorg")?,
        };
    if enters { Ok(Scope::Org(org)) } else { Err(Problem::forbidden()) }
}

/// Where a user is when the request names no organization.
pub(crate) fn home(app: &App, user: &User) -> Scope {
    if user.is_member_of(org_ids::DEFAULT) {
        return Scope::Org(org_ids::DEFAULT);
    }
    match user.org_roles.first() {
        Some(role) => Scope::Org(role.org),
        None if allowed(app, user, org_ids::ROOT, "orgs.view_rootorg").unwrap_or(false) => Scope::Org(org_ids::DEFAULT),
        // The system's organization owns nothing.
        None => Scope::Org(org_ids::SYSTEM),
    }
}

pub(crate) fn check(app: &App, user: &User, scope: Scope, need: Need) -> Result<(), Problem> {
    let may = match need {
        Need::Me => true,
        Need::Point(point) => allowed(app, user, scope.id(), point)?,
        Need::System(point) => allowed(app, user, org_ids::ROOT, point)?,
    };
    if may { Ok(()) } else { Err(Problem::forbidden()) }
}

/// That a second factor was verified lately, when the settings ask for it before secrets are shown (A27, A28).
pub(crate) fn require_fresh_mfa(call: &Call) -> Result<(), Problem> {
    let settings = call.reader().settings()?;
    if !settings.security_view_auth_need_mfa {
        return Ok(());
    }
    if call.who.mfa_until.is_some_and(|until| until > call.app.now()) {
        return Ok(());
    }
    let mut problem = Problem::new(
        axum::http::StatusCode::PRECONDITION_FAILED,
        "user_confirm_required",
        "verify your second factor first: POST /api/v1/authentication/confirm/",
    );
    problem.extra.insert("type".into(), serde_json::json!("mfa"));
    Err(problem)
}

/// The same for what makes new credentials, as far as the user has a second factor to prove.
pub(crate) fn require_second_factor_if_any(call: &Call) -> Result<(), Problem> {
    if call.user.otp_enrolled { require_fresh_mfa(call) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// CVE-2023-46123: brute-force protection bypassed by a forged client address.
    #[test]
    fn cve_2023_46123_forged_forwarded_addresses_have_no_influence() {
        let none = IpGroup::default();
        assert_eq!(behind_proxies(ip("203.0.113.9"), &["10.0.0.1"], &none), ip("203.0.113.9"));
        let proxy: IpGroup = vec!["192.0.2.1".to_owned()].try_into().unwrap();
        // The client wrote the left part, the proxy added what it saw.
        assert_eq!(behind_proxies(ip("192.0.2.1"), &["1.1.1.1", " 198.51.100.7"], &proxy), ip("198.51.100.7"));
        assert_eq!(behind_proxies(ip("198.51.100.7"), &["1.1.1.1"], &proxy), ip("198.51.100.7"));
        assert_eq!(behind_proxies(ip("192.0.2.1"), &["garbage"], &proxy), ip("192.0.2.1"));
    }
}
