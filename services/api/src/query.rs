//! The query string of a request, in order, with repeated keys.

#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// More than any form sends; the rest is ignored.
const MAX_PAIRS: usize = 256;

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .take(MAX_PAIRS)
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// As `get`, without blank values (forms send those for what is not set).
    pub fn filled(&self, key: &str) -> Option<&str> {
        self.get(key).map(str::trim).filter(|v| !v.is_empty())
    }

    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| matches!(v, "1" | "true" | "True" | "yes" | "on"))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The same query with some keys changed, as a query string.
    pub fn with(&self, changes: &[(&str, String)]) -> String {
        let kept = self.iter().filter(|(k, _)| !changes.iter().any(|(c, _)| c == k)).map(|(k, v)| (k, v.to_owned()));
        kept.chain(changes.iter().map(|(k, v)| (*k, v.clone())))
            .map(|(k, v)| format!("{}={}", encode(k), encode(&v)))
            .collect::<Vec<_>>()
            .join("&")
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let mut two = rest.take(2);
                let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                match (hex(two.next()), hex(two.next())) {
                    (Some(high), Some(low)) => {
                        out.push(high * 16 + low);
                        bytes.next();
                        bytes.next();
                    }
                    _ => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_encodes_and_survives_nonsense() {
        let query = Query::parse("search=a%20b+c&x=%zz&y=%4&limit=15&limit=16&&=");
        assert_eq!(query.get("search"), Some("a b c"));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("y"), Some("%4"));
        assert_eq!(query.get("limit"), Some("15"));
        assert_eq!(Query::parse("a=1&b=2").with(&[("b", "ü/".into())]), "a=1&b=%C3%BC%2F");
    }
}
