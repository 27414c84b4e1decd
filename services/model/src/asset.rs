//! What people reach: nodes, platforms, zones, assets.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::choices;
use crate::common::{Invalid, Meta, Validate, check_name};
use crate::record::{Index, org_record, system_record};

/// A place in the organization's asset tree. `key` is the path (`1:2:7`): the root's key has one part, a child's key is
/// its parent's plus the next number of the parent (`child_mark`). Keys never repeat, so a moved asset never reappears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: Uuid,
    pub org_id: Uuid,
    pub key: String,
    /// The node's own name; the root's is the name of the organization.
    pub value: String,
    /// Names from the root, `/Default/web/eu`.
    pub full_value: String,
    #[serde(default)]
    pub child_mark: u32,
    #[serde(flatten)]
    pub meta: Meta,
}

impl Node {
    pub fn parent_key(&self) -> Option<&str> {
        self.key.rsplit_once(':').map(|(parent, _)| parent)
    }

    pub fn is_root(&self) -> bool {
        !self.key.contains(':')
    }

    /// `self` is `other` or lies above it.
    pub fn contains(&self, other_key: &str) -> bool {
        key_contains(&self.key, other_key)
    }
}

/// `ancestor` is `key` itself or a prefix of it at a `:` boundary.
pub fn key_contains(ancestor: &str, key: &str) -> bool {
    key.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

org_record!(Node, "node", |record| {
    let key = Index::compound(&[record.org_id.as_bytes(), record.key.as_bytes()]);
    let parent = record.parent_key().unwrap_or("");
    let name = Index::compound(&[record.org_id.as_bytes(), parent.as_bytes(), record.value.as_bytes()]);
    vec![Index::unique("key", key), Index::unique("sibling", name)]
});

impl Validate for Node {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "value", &self.value);
        invalid.check(!self.value.contains('/'), "value", "a slash separates nodes in a path and is not allowed");
        invalid.into_result()
    }
}

choices! {
    pub enum Category {
        Host = "host", "Host";
        Device = "device", "Network device";
        Database = "database", "Database";
        Cloud = "cloud", "Cloud service";
        Web = "web", "Web";
        Gpt = "gpt", "GPT";
        Ds = "ds", "Directory service";
        Custom = "custom", "Custom type";
    }
}

choices! {
    pub enum PlatformType {
        Linux = "linux", "Linux";
        Windows = "windows", "Windows";
        Unix = "unix", "Unix";
        Macos = "macos", "macOS";
        Other = "other", "Other";
        General = "general", "General";
        Switch = "switch", "Switch";
        Router = "router", "Router";
        Firewall = "firewall", "Firewall";
        Cisco = "cisco", "Cisco";
        Huawei = "huawei", "Huawei";
        H3c = "h3c", "H3C";
        Juniper = "juniper", "Juniper";
        TpLink = "tp_link", "TP-Link";
        Mysql = "mysql", "MySQL";
        Mariadb = "mariadb", "MariaDB";
        Postgresql = "postgresql", "PostgreSQL";
        Oracle = "oracle", "Oracle";
        Sqlserver = "sqlserver", "SQLServer";
        Db2 = "db2", "DB2";
        Dameng = "dameng", "Dameng";
        Clickhouse = "clickhouse", "ClickHouse";
        Mongodb = "mongodb", "MongoDB";
        Redis = "redis", "Redis";
        Public = "public", "Public cloud";
        Private = "private", "Private cloud";
        K8s = "k8s", "Kubernetes";
        Website = "website", "Website";
        Chatgpt = "chatgpt", "ChatGPT";
        WindowsAd = "windows_ad", "Windows Active Directory";
        CustomType = "custom", "Custom";
    }
}

choices! {
    pub enum Charset {
        Utf8 = "utf-8", "UTF-8";
        Gbk = "gbk", "GBK";
    }
}

choices! {
    /// How a session that logged in with one account becomes another (C18).
    pub enum SuMethod {
        Sudo = "sudo", "sudo su -";
        Su = "su", "su -";
        OnlySudo = "only_sudo", "sudo su";
        OnlySu = "only_su", "su";
        Enable = "enable", "enable";
        Super = "super", "super 15";
        SuperLevel = "super_level", "super level 15";
    }
}

/// A protocol that a platform's assets can speak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlatformProtocol {
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub primary: bool,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub default: bool,
    #[serde(default = "yes")]
    pub public: bool,
    /// Settings of the protocol, e.g. ssh `old_ssh_version`, sftp `sftp_home`, telnet `username_prompt`.
    #[serde(default)]
    pub setting: Map<String, Value>,
}

pub(crate) fn yes() -> bool {
    true
}

impl PlatformProtocol {
    pub fn setting_str(&self, key: &str) -> Option<&str> {
        self.setting.get(key).and_then(Value::as_str)
    }

    pub fn setting_bool(&self, key: &str) -> bool {
        self.setting.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
}

/// A kind of asset: its protocols and their settings, charset, account switching, automation methods (S16).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    pub id: Uuid,
    pub name: String,
    pub category: Category,
    pub r#type: PlatformType,
    /// Built in: can be cloned, not changed.
    #[serde(default)]
    pub internal: bool,
    pub charset: Charset,
    #[serde(default = "yes")]
    pub gateway_enabled: bool,
    #[serde(default)]
    pub ds_enabled: bool,
    #[serde(default)]
    pub su_enabled: bool,
    #[serde(default)]
    pub su_method: Option<SuMethod>,
    #[serde(default)]
    pub custom_fields: Vec<Value>,
    pub protocols: Vec<PlatformProtocol>,
    /// `{ansible_enabled, ansible_config, ping_enabled, ping_method, ping_params, ...}` as JumpServer names them.
    #[serde(default)]
    pub automation: Map<String, Value>,
    #[serde(flatten)]
    pub meta: Meta,
}

impl Platform {
    pub fn protocol(&self, name: &str) -> Option<&PlatformProtocol> {
        self.protocols.iter().find(|p| p.name == name)
    }
}

system_record!(Platform, "platform", |record| vec![Index::unique("name", record.name.to_lowercase())]);

impl Validate for Platform {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        invalid.check(!self.protocols.is_empty(), "protocols", "at least one protocol is required");
        invalid.check(self.protocols.iter().all(|p| p.port != 0), "protocols", "a port is between 1 and 65535");
        invalid.check(
            self.protocols.iter().filter(|p| p.primary).count() <= 1,
            "protocols",
            "one protocol can be primary",
        );
        for (i, p) in self.protocols.iter().enumerate() {
            let again = self.protocols.iter().skip(i + 1).any(|q| q.name == p.name);
            invalid.check(!again, "protocols", format!("protocol {} is given twice", p.name));
            let known = self.category == Category::Custom || crate::builtin::protocol(&p.name).is_some();
            invalid.check(known, "protocols", format!("there is no protocol {}", p.name));
        }
        invalid.check(!self.su_enabled || self.su_method.is_some(), "su_method", "choose how accounts are switched");
        invalid.into_result()
    }
}

/// A network reached through SSH gateways (JumpServer's "domain" or "zone"). Its gateways are the assets of the
/// `Gateway` platform that are in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(Zone, "zone", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for Zone {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        invalid.into_result()
    }
}

choices! {
    /// What the last connection test of an asset or account found.
    pub enum Connectivity {
        Unknown = "-", "Unknown";
        Ok = "ok", "OK";
        Err = "err", "Error";
        Na = "na", "N/A";
        RdpErr = "rdp_err", "RDP error";
        AuthErr = "auth_err", "Authentication error";
        PasswordErr = "password_err", "Invalid password error";
        OpensshKeyErr = "openssh_key_err", "OpenSSH key error";
        NtlmErr = "ntlm_err", "NTLM credentials rejected error";
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetProtocol {
    pub name: String,
    pub port: u16,
}

/// A server, device, database...: where sessions go. The platform says what it is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asset {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    /// IP address or host name; may repeat between assets.
    pub address: String,
    pub platform: Uuid,
    #[serde(default)]
    pub zone: Option<Uuid>,
    /// Nodes the asset is in; several are allowed, at least one (the root) is kept.
    pub nodes: Vec<Uuid>,
    pub protocols: Vec<AssetProtocol>,
    pub is_active: bool,
    #[serde(default = "unknown_connectivity")]
    pub connectivity: Connectivity,
    #[serde(default)]
    pub date_verified: Option<DateTime<Utc>>,
    /// Hardware facts gathered by automation.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub gathered_info: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub custom_info: Map<String, Value>,
    /// Fields of the category: `db_name`, `use_ssl`, selectors of a web asset...
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub spec_info: Map<String, Value>,
    #[serde(flatten)]
    pub meta: Meta,
}

pub(crate) fn unknown_connectivity() -> Connectivity {
    Connectivity::Unknown
}

impl Asset {
    pub fn protocol(&self, name: &str) -> Option<&AssetProtocol> {
        self.protocols.iter().find(|p| p.name == name)
    }
}

org_record!(Asset, "asset", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for Asset {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        check_address(&mut invalid, "address", &self.address);
        invalid.check(!self.protocols.is_empty(), "protocols", "at least one protocol is required");
        invalid.check(self.protocols.iter().all(|p| p.port != 0), "protocols", "a port is between 1 and 65535");
        for (i, p) in self.protocols.iter().enumerate() {
            let again = self.protocols.iter().skip(i + 1).any(|q| q.name == p.name);
            invalid.check(!again, "protocols", format!("protocol {} is given twice", p.name));
        }
        invalid.into_result()
    }
}

/// An address is an IP or a host name; nothing else ever reaches a dialler or a template (CVE-2026-44845).
pub fn check_address(invalid: &mut Invalid, field: &str, address: &str) {
    let host = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://")).unwrap_or(address);
    let ok = !host.is_empty()
        && host.len() <= 255
        && !host.starts_with('-')
        && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '[' | ']' | '%'));
    invalid.check(ok, field, "enter an IP address or a host name");
}

/// An asset that a user keeps at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FavoriteAsset {
    pub id: Uuid,
    pub org_id: Uuid,
    pub user: Uuid,
    pub asset: Uuid,
    pub date_created: DateTime<Utc>,
}

org_record!(FavoriteAsset, "favorite_asset", |record| {
    let pair = Index::compound(&[record.user.as_bytes(), record.asset.as_bytes()]);
    vec![Index::unique("pair", pair), Index::many("user", *record.user.as_bytes())]
});

/// The host key that an asset showed first. A different one is refused until an administrator deletes this record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinnedHostKey {
    pub id: Uuid,
    pub org_id: Uuid,
    pub asset: Uuid,
    pub port: u16,
    pub algorithm: String,
    /// `SHA256:…`
    pub fingerprint: String,
    pub public_key: String,
    pub date_pinned: DateTime<Utc>,
}

org_record!(PinnedHostKey, "pinned_host_key", |record| {
    let place = Index::compound(&[record.asset.as_bytes(), &record.port.to_be_bytes()]);
    vec![Index::unique("place", place), Index::many("asset", *record.asset.as_bytes())]
});
