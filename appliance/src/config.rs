//! What must be known before the store opens: one TOML file, each value with a default. Everything else is a setting in
//! the store. Unknown keys are errors: a misspelt `lsten` must not silently listen everywhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub data: PathBuf,
    pub listen: Listen,
    pub log: Log,
}

/// Addresses of the doors; `""` switches one off. The defaults are those of a development instance: loopback only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    #[serde(deserialize_with = "address")]
    pub https: Option<SocketAddr>,
    /// Redirects to HTTPS.
    #[serde(deserialize_with = "address")]
    pub http: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    pub ssh: Option<SocketAddr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// A `tracing` filter, e.g. `info` or `warn,gatehouse_ssh=debug`.
    pub level: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { data: PathBuf::from(".dev"), listen: Listen::default(), log: Log::default() }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        Self { https: loopback(8443), http: None, ssh: loopback(2222) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

fn address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| serde::de::Error::custom(format!("\"{text}\" is not ADDRESS:PORT, or \"\" for off")))
}

impl Config {
    /// The file if one is named, the defaults otherwise; `data` given on the command line wins.
    pub(crate) fn load(file: Option<&Path>, data: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut config = match file {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))?
            }
        };
        if let Some(data) = data {
            config.data = data;
        }
        if config.listen.https.is_none() && config.listen.ssh.is_none() {
            bail!("every door is switched off: give listen.https or listen.ssh an address");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn an_empty_file_is_a_development_instance_on_loopback() {
        let config = parse("").unwrap();
        assert!(config.listen.https.unwrap().ip().is_loopback());
        assert!(config.listen.ssh.unwrap().ip().is_loopback());
        assert!(config.listen.http.is_none());
    }

    #[test]
    fn doors_can_be_moved_and_switched_off() {
        let config = parse("data = \"/x\"\n[listen]\nhttps = \"0.0.0.0:443\"\nhttp = \"\"\nssh = \"\"").unwrap();
        assert_eq!(config.listen.https.unwrap().port(), 443);
        assert!(config.listen.ssh.is_none());
    }

    #[test]
    fn unknown_keys_and_bad_addresses_are_errors() {
        for text in ["dta = \"/x\"", "[listen]\nhtps = \"\"", "[listen]\nssh = \"2222\"", "[log]\nlevl = \"x\""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
