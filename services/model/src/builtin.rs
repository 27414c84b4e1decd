//! What every installation starts with: roles, protocols, platforms, the default organization and its root node.
//!
//! Pure data with fixed identifiers, so that an upgrade recognises what it shipped before. Nothing here is editable by
//! users; they clone platforms and make roles of their own.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::account::SecretType;
use crate::asset::{Category, Charset, Node, Platform, PlatformProtocol, PlatformType, SuMethod};
use crate::common::{Meta, org_ids};
use crate::org::{Organization, Role, RoleScope};
use crate::permission::{self, EVERYTHING};

pub const SYSTEM_ADMIN: Uuid = Uuid::from_u128(1);
pub const SYSTEM_AUDITOR: Uuid = Uuid::from_u128(2);
pub const SYSTEM_USER: Uuid = Uuid::from_u128(3);
pub const SYSTEM_COMPONENT: Uuid = Uuid::from_u128(4);
pub const ORG_ADMIN: Uuid = Uuid::from_u128(5);
pub const ORG_AUDITOR: Uuid = Uuid::from_u128(6);
pub const ORG_USER: Uuid = Uuid::from_u128(7);

/// Namespace of identifiers that are derived from names. Never changes.
const NAMESPACE: Uuid = Uuid::from_u128(0x6a17_e4f0_3b5c_5d6e_8f90_6761_7465_6873);

/// The author of built-in records.
const SYSTEM: &str = "System";

fn meta() -> Meta {
    Meta::new(SYSTEM, DateTime::<Utc>::UNIX_EPOCH)
}

/// What every person has for themselves.
const USER_POINTS: &[&str] = &[
    "rbac.view_workbench",
    "rbac.view_webterminal",
    "rbac.view_filemanager",
    "perms.view_myassets",
    "perms.connect_myassets",
];

/// Applications and models of which a role has every point that its scope can carry: `app.*` or `app.model`.
fn points(scope: RoleScope, single: &[&str], whole: &[(&str, &str)]) -> Vec<String> {
    let mut points: Vec<String> = single.iter().map(|p| (*p).to_owned()).collect();
    for resource in permission::RESOURCES {
        let chosen =
            whole.iter().any(|(app, model)| *app == resource.app && (*model == resource.model || *model == "*"));
        if chosen && (scope == RoleScope::System || !resource.system) {
            points.extend(resource.points());
        }
    }
    points.sort();
    points.dedup();
    points
}

const OWN_THINGS: &[(&str, &str)] = &[
    ("ops", "*"),
    ("authentication", "accesskey"),
    ("authentication", "privatetoken"),
    ("authentication", "temptoken"),
    ("authentication", "connectiontoken"),
    ("authentication", "sshkey"),
    ("authentication", "passkey"),
    ("assets", "favoriteasset"),
    ("notifications", "usermsgsubscription"),
    ("notifications", "sitemessage"),
];

const AUDITED_THINGS: &[(&str, &str)] = &[("audits", "*"), ("terminal", "session"), ("terminal", "command")];

const AUDIT_POINTS: &[&str] =
    &["rbac.view_audit", "terminal.view_sessionreplay", "terminal.download_sessionreplay", "reports.view_report"];

fn user_points(scope: RoleScope) -> Vec<String> {
    points(scope, USER_POINTS, OWN_THINGS)
}

fn auditor_points(scope: RoleScope) -> Vec<String> {
    let single: Vec<&str> = USER_POINTS.iter().chain(AUDIT_POINTS).copied().collect();
    let whole: Vec<(&str, &str)> = OWN_THINGS.iter().chain(AUDITED_THINGS).copied().collect();
    let mut points = points(scope, &single, &whole);
    if scope == RoleScope::System {
        points.extend(["orgs.view_organization", "orgs.view_rootorg", "gatehouse.view_ledger"].map(str::to_owned));
        points.extend(["gatehouse.verify_ledger", "gatehouse.export_ledger"].map(str::to_owned));
    }
    points
}

fn component_points() -> Vec<String> {
    permission::RESOURCES
        .iter()
        .filter(|r| r.app != "orgs" && r.app != "rbac")
        .flat_map(permission::Resource::points)
        .filter(|p| p != "users.add_user" && p != "users.delete_user")
        .collect()
}

/// The seven built-in roles (O10).
pub fn roles() -> Vec<Role> {
    let role = |id, name: &str, scope, permissions| Role {
        id,
        name: name.to_owned(),
        scope,
        builtin: true,
        permissions,
        meta: meta(),
    };
    use RoleScope::{Org, System};
    vec![
        role(SYSTEM_ADMIN, "SystemAdmin", System, vec![EVERYTHING.to_owned()]),
        role(SYSTEM_AUDITOR, "SystemAuditor", System, auditor_points(System)),
        role(SYSTEM_USER, "User", System, user_points(System)),
        role(SYSTEM_COMPONENT, "SystemComponent", System, component_points()),
        role(ORG_ADMIN, "OrgAdmin", Org, vec![EVERYTHING.to_owned()]),
        role(ORG_AUDITOR, "OrgAuditor", Org, auditor_points(Org)),
        role(ORG_USER, "OrgUser", Org, user_points(Org)),
    ]
}

/// The organization that an installation starts with.
pub fn default_organization() -> Organization {
    Organization { id: org_ids::DEFAULT, name: "Default".into(), builtin: true, meta: meta() }
}

/// The identifier of an organization's root node.
pub fn root_node_id(org: Uuid) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("root-node:{org}").as_bytes())
}

/// The root of an organization's asset tree. It carries the organization's name and cannot be renamed by itself (S05).
pub fn root_node(org: &Organization) -> Node {
    Node {
        id: root_node_id(org.id),
        org_id: org.id,
        key: "1".into(),
        value: org.name.clone(),
        full_value: format!("/{}", org.name),
        child_mark: 0,
        meta: meta(),
    }
}

/// A protocol of the field: its usual port, what an account of it can hold, and its settings with their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolInfo {
    pub name: &'static str,
    pub port: u16,
    pub secret_types: &'static [SecretType],
    pub setting: Map<String, Value>,
}

pub const PROTOCOL_NAMES: &[&str] = &[
    "ssh",
    "sftp",
    "rdp",
    "vnc",
    "telnet",
    "winrm",
    "mysql",
    "mariadb",
    "postgresql",
    "oracle",
    "sqlserver",
    "db2",
    "dameng",
    "clickhouse",
    "mongodb",
    "redis",
    "k8s",
    "http",
    "chatgpt",
];

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The protocol of that name, if there is one.
pub fn protocol(name: &str) -> Option<ProtocolInfo> {
    use SecretType::{ApiKey, Password, SshKey, Token};
    const PASSWORD: &[SecretType] = &[Password];
    const PASSWORD_OR_KEY: &[SecretType] = &[Password, SshKey];
    let name = *PROTOCOL_NAMES.iter().find(|n| **n == name)?;
    let (port, secret_types, setting) = match name {
        "ssh" => (22, PASSWORD_OR_KEY, json!({"old_ssh_version": false, "nc": false})),
        "sftp" => (22, PASSWORD_OR_KEY, json!({"sftp_home": "/tmp"})),
        "rdp" => (3389, PASSWORD, json!({"console": false, "security": "any", "ad_domain": ""})),
        "vnc" => (5900, PASSWORD, json!({})),
        "telnet" => (
            23,
            PASSWORD,
            json!({
                "username_prompt": "username:|login:",
                "password_prompt": "password:",
                "success_prompt": "success|成功|#|>|\\$",
            }),
        ),
        "winrm" => (5985, PASSWORD, json!({"use_ssl": false})),
        "mysql" | "mariadb" => (3306, PASSWORD, json!({})),
        "postgresql" => (5432, PASSWORD, json!({})),
        "oracle" => (1521, PASSWORD, json!({"sysdba": false})),
        "sqlserver" => (1433, PASSWORD, json!({"version": ">=2014", "encrypt": true})),
        "db2" => (5000, PASSWORD, json!({})),
        "dameng" => (5236, PASSWORD, json!({})),
        "clickhouse" => (9000, PASSWORD, json!({})),
        "mongodb" => (27017, PASSWORD, json!({"auth_source": "admin", "connection_options": ""})),
        "redis" => (6379, PASSWORD, json!({"auth_username": false, "enable_cluster_mode": false})),
        "k8s" => (443, &[Token] as &[SecretType], json!({"namespace": ""})),
        "http" => (
            80,
            PASSWORD,
            json!({
                "safe_mode": false,
                "autofill": "basic",
                "username_selector": "name=username",
                "password_selector": "name=password",
                "submit_selector": "type=submit",
                "script": [],
            }),
        ),
        "chatgpt" => (443, &[ApiKey] as &[SecretType], json!({"api_mode": "gpt-4o-mini"})),
        _ => return None,
    };
    Some(ProtocolInfo { name, port, secret_types, setting: object(setting) })
}

/// How a protocol stands in a platform: `primary` and `required` for the first, `default` for those a new asset gets,
/// `private` for those that only automation uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Primary,
    Default,
    Offered,
    Private,
}

use Rank::{Default as Given, Offered, Primary, Private};

type Protocols = &'static [(&'static str, Rank)];

const SHELL: Protocols = &[("ssh", Primary), ("sftp", Given), ("telnet", Offered), ("vnc", Offered), ("rdp", Offered)];
const WINDOWS: Protocols =
    &[("rdp", Primary), ("ssh", Offered), ("sftp", Offered), ("vnc", Offered), ("winrm", Private)];
const DEVICE: Protocols = &[("ssh", Primary), ("sftp", Offered), ("telnet", Offered)];
const GATEWAY: Protocols = &[("ssh", Primary)];

/// Which automation a kind of platform has: the ending of its methods' names.
#[derive(Clone, Copy)]
enum Automation {
    Posix,
    Windows,
    /// Only connection tests and changes of secrets over SSH.
    Device,
    Database(&'static str),
    None,
}

fn automation(kind: Automation) -> Map<String, Value> {
    let whole = [
        "ping",
        "gather_facts",
        "change_secret",
        "push_account",
        "verify_account",
        "gather_accounts",
        "remove_account",
    ];
    let (enabled, config): (&[&str], Value) = match kind {
        Automation::Posix => (&whole, json!({"ansible_connection": "smart"})),
        Automation::Windows => (&whole, json!({"ansible_shell_type": "cmd", "ansible_connection": "ssh"})),
        Automation::Device => (&["ping", "change_secret", "verify_account"], json!({"ansible_connection": "paramiko"})),
        Automation::Database(_) => (&whole, json!({"ansible_connection": "local"})),
        Automation::None => (&[], json!({})),
    };
    let mut map = Map::new();
    map.insert("ansible_enabled".into(), json!(!enabled.is_empty()));
    map.insert("ansible_config".into(), config);
    for task in whole {
        let on = enabled.contains(&task);
        let method = match kind {
            _ if !on => String::new(),
            Automation::Posix if task == "ping" => "posix_ping".into(),
            Automation::Windows if task == "ping" => "win_ping".into(),
            Automation::Posix => format!("{task}_posix"),
            Automation::Windows => format!("{task}_windows"),
            Automation::Device => format!("{task}_by_ssh"),
            Automation::Database(db) if task == "ping" => format!("{db}_ping"),
            Automation::Database(db) => format!("{task}_{db}"),
            Automation::None => String::new(),
        };
        map.insert(format!("{task}_enabled"), json!(on));
        map.insert(format!("{task}_method"), json!(method));
        map.insert(format!("{task}_params"), json!({}));
    }
    map
}

struct Kind {
    name: &'static str,
    category: Category,
    r#type: PlatformType,
    protocols: Protocols,
    su: Option<SuMethod>,
    automation: Automation,
    /// Settings that differ from the protocol's defaults: protocol, key, value.
    settings: &'static [(&'static str, &'static str, Setting)],
}

#[derive(Clone, Copy)]
enum Setting {
    Text(&'static str),
    Flag(bool),
}

fn kinds() -> Vec<Kind> {
    use Category::{Cloud, Database, Device, Ds, Gpt, Host, Web};
    use PlatformType as T;
    let kind = |name, category, r#type, protocols, su, automation| Kind {
        name,
        category,
        r#type,
        protocols,
        su,
        automation,
        settings: &[],
    };
    let sudo = Some(SuMethod::Sudo);
    let database = |name, r#type, protocols, method| kind(name, Database, r#type, protocols, None, method);
    vec![
        kind("Linux", Host, T::Linux, SHELL, sudo, Automation::Posix),
        kind("Gateway", Host, T::Linux, GATEWAY, None, Automation::Posix),
        kind("Unix", Host, T::Unix, SHELL, sudo, Automation::Posix),
        kind("macOS", Host, T::Macos, SHELL, sudo, Automation::Posix),
        kind("BSD", Host, T::Unix, SHELL, sudo, Automation::Posix),
        kind("AIX", Host, T::Unix, SHELL, sudo, Automation::Posix),
        kind("Windows", Host, T::Windows, WINDOWS, None, Automation::Windows),
        Kind {
            settings: &[("rdp", "security", Setting::Text("tls"))],
            ..kind("Windows-TLS", Host, T::Windows, WINDOWS, None, Automation::Windows)
        },
        Kind {
            settings: &[("rdp", "security", Setting::Text("rdp"))],
            ..kind("Windows-RDP", Host, T::Windows, WINDOWS, None, Automation::Windows)
        },
        Kind {
            settings: &[("rdp", "console", Setting::Flag(false)), ("rdp", "security", Setting::Text("nla"))],
            ..kind("RemoteAppHost", Host, T::Windows, WINDOWS, None, Automation::Windows)
        },
        kind("General", Device, T::General, DEVICE, None, Automation::Device),
        kind("Cisco", Device, T::Cisco, DEVICE, Some(SuMethod::Enable), Automation::Device),
        kind("Huawei", Device, T::Huawei, DEVICE, Some(SuMethod::Super), Automation::Device),
        kind("H3C", Device, T::H3c, DEVICE, Some(SuMethod::SuperLevel), Automation::Device),
        database("MySQL", T::Mysql, &[("mysql", Primary)], Automation::Database("mysql")),
        database("MariaDB", T::Mariadb, &[("mariadb", Primary)], Automation::Database("mysql")),
        database("PostgreSQL", T::Postgresql, &[("postgresql", Primary)], Automation::Database("postgresql")),
        database("Oracle", T::Oracle, &[("oracle", Primary)], Automation::Database("oracle")),
        database("SQLServer", T::Sqlserver, &[("sqlserver", Primary)], Automation::Database("sqlserver")),
        database("DB2", T::Db2, &[("db2", Primary)], Automation::None),
        database("Dameng", T::Dameng, &[("dameng", Primary)], Automation::None),
        database("ClickHouse", T::Clickhouse, &[("clickhouse", Primary)], Automation::None),
        database("MongoDB", T::Mongodb, &[("mongodb", Primary)], Automation::Database("mongodb")),
        database("Redis", T::Redis, &[("redis", Primary)], Automation::None),
        Kind {
            settings: &[("redis", "auth_username", Setting::Flag(true))],
            ..database("Redis6+", T::Redis, &[("redis", Primary)], Automation::None)
        },
        kind("Vmware-vSphere", Cloud, T::Private, &[("http", Primary)], None, Automation::None),
        kind("Kubernetes", Cloud, T::K8s, &[("k8s", Primary)], None, Automation::None),
        kind("Website", Web, T::Website, &[("http", Primary)], None, Automation::None),
        kind("ChatGPT", Gpt, T::Chatgpt, &[("chatgpt", Primary)], None, Automation::None),
        Kind {
            settings: &[("rdp", "security", Setting::Text("any"))],
            ..kind("Windows Active Directory", Ds, T::WindowsAd, WINDOWS, None, Automation::Windows)
        },
    ]
}

/// The identifier of a built-in platform.
pub fn platform_id(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("platform:{name}").as_bytes())
}

/// The platform whose assets are the gateways of zones (S15).
pub fn gateway_platform_id() -> Uuid {
    platform_id("Gateway")
}

/// All built-in platforms (S16).
pub fn platforms() -> Vec<Platform> {
    kinds().iter().map(platform).collect()
}

fn platform(kind: &Kind) -> Platform {
    let protocols = kind.protocols.iter().filter_map(|(name, rank)| {
        let mut info = protocol(name)?;
        for (_, key, value) in kind.settings.iter().filter(|(p, _, _)| p == name) {
            let value = match value {
                Setting::Text(text) => json!(text),
                Setting::Flag(flag) => json!(flag),
            };
            info.setting.insert((*key).to_owned(), value);
        }
        Some(PlatformProtocol {
            name: info.name.to_owned(),
            port: info.port,
            primary: *rank == Primary,
            required: *rank == Primary,
            default: matches!(rank, Primary | Given),
            public: *rank != Private,
            setting: info.setting,
        })
    });
    Platform {
        id: platform_id(kind.name),
        name: kind.name.to_owned(),
        category: kind.category,
        r#type: kind.r#type,
        internal: true,
        charset: Charset::Utf8,
        // A gateway is reached directly: gateways behind gateways have no end.
        gateway_enabled: kind.name != "Gateway",
        ds_enabled: matches!(kind.automation, Automation::Windows),
        su_enabled: kind.su.is_some(),
        su_method: kind.su,
        custom_fields: Vec::new(),
        protocols: protocols.collect(),
        automation: automation(kind.automation),
        meta: meta(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::common::Validate;

    #[test]
    fn roles_have_jumpservers_identifiers() {
        let ids: Vec<String> = roles().iter().map(|r| r.id.to_string()).collect();
        let expected: Vec<String> = (1..=7).map(|n| format!("00000000-0000-0000-0000-00000000000{n}")).collect();
        assert_eq!(ids, expected);
        assert!(roles().iter().all(|r| r.builtin));
    }

    #[test]
    fn points_of_built_in_roles_exist_and_fit_their_scope() {
        for role in roles() {
            for point in role.permissions.iter().filter(|p| *p != EVERYTHING) {
                assert!(permission::fits_scope(point, role.scope), "{}: {point}", role.name);
            }
            let distinct: BTreeSet<_> = role.permissions.iter().collect();
            assert_eq!(distinct.len(), role.permissions.len(), "{}", role.name);
        }
    }

    #[test]
    fn components_cannot_make_users_or_touch_roles_and_organizations() {
        let roles = roles();
        let component = roles.iter().find(|r| r.id == SYSTEM_COMPONENT).unwrap();
        let has = |p: &str| component.permissions.iter().any(|q| q == p);
        assert!(has("users.view_user") && has("terminal.terminate_session"));
        assert!(!has("users.add_user") && !has("users.delete_user"));
        assert!(!component.permissions.iter().any(|p| p.starts_with("rbac.") || p.starts_with("orgs.")));
    }

    #[test]
    fn platforms_are_whole() {
        let platforms = platforms();
        let names: BTreeSet<_> = platforms.iter().map(|p| p.name.to_lowercase()).collect();
        let ids: BTreeSet<_> = platforms.iter().map(|p| p.id).collect();
        assert_eq!((names.len(), ids.len()), (platforms.len(), platforms.len()));
        for p in &platforms {
            assert!(p.validate().is_ok(), "{}", p.name);
            assert_eq!(p.protocols.iter().filter(|q| q.primary).count(), 1, "{}", p.name);
            assert_eq!(p.protocols.len(), p.protocols.iter().map(|q| &q.name).collect::<BTreeSet<_>>().len());
            assert_eq!(p.su_enabled, p.su_method.is_some());
        }
        for name in PROTOCOL_NAMES {
            assert!(protocol(name).is_some_and(|p| p.port != 0 && !p.secret_types.is_empty()), "{name}");
            assert!(platforms.iter().any(|p| p.protocol(name).is_some()), "{name}");
        }
        assert!(protocol("gopher").is_none());
    }

    #[test]
    fn settings_of_variants_differ_as_their_names_say() {
        let platforms = platforms();
        let get = |name: &str| platforms.iter().find(|p| p.name == name).unwrap();
        assert_eq!(get("Windows-TLS").protocol("rdp").unwrap().setting_str("security"), Some("tls"));
        assert_eq!(get("Windows-RDP").protocol("rdp").unwrap().setting_str("security"), Some("rdp"));
        assert!(get("Redis6+").protocol("redis").unwrap().setting_bool("auth_username"));
        assert!(!get("Redis").protocol("redis").unwrap().setting_bool("auth_username"));
        assert!(!get("Windows").protocol("winrm").unwrap().public);
        assert_eq!(get("Gateway").id, gateway_platform_id());
    }

    #[test]
    fn the_default_organization_has_its_root() {
        let org = default_organization();
        let root = root_node(&org);
        assert_eq!((root.org_id, root.value.as_str(), root.full_value.as_str()), (org.id, "Default", "/Default"));
        assert!(root.is_root() && root.validate().is_ok());
        assert_ne!(root_node_id(Uuid::from_u128(9)), root.id);
    }
}
