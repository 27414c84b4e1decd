//! What users write in the SSH user name: who they are, and perhaps where they want to go (JumpServer's forms).
//!
//! `user`, `user@account@asset`, `user@protocol@account@asset`, the same with `#`, and `JMS-<connection token id>`.
//! What lives here: parsing only. What must not: whether any of it exists.

/// Longer names are refused before anything looks at them (bytes).
const MAX: usize = 512;
/// Protocols that may stand in the second of four parts.
pub(crate) const PROTOCOLS: [&str; 3] = ["ssh", "sftp", "telnet"];

/// A parsed SSH user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// Only who: the menu, or the tree of SFTP.
    Plain { user: String },
    /// Who and where to.
    Direct { user: String, target: Target },
    /// A connection token; the password is its secret.
    Token { id: uuid::Uuid },
}

/// Where somebody wants to go, as written: nothing of it is known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None` when not written.
    pub(crate) protocol: Option<&'static str>,
    /// Account name or user name, or an alias such as `@USER`.
    pub(crate) account: String,
    /// Name, address or id.
    pub(crate) asset: String,
}

/// Parses a user name. `None` when it is empty, too long, or holds control characters.
///
/// Users of an outside directory may have `@` in their names (`kim@corp.example`). The parts are therefore read from the
/// right, and a part before the account counts as a protocol only when it is one: `kim@corp.example@root@web1` is the user
/// `kim@corp.example`, `kim@ssh@root@web1` the user `kim`. Account names with `@` in them need the form with `#`.
pub(crate) fn parse(name: &str) -> Option<Name> {
    if name.is_empty() || name.len() > MAX || name.chars().any(char::is_control) {
        return None;
    }
    if let Some(id) = name.strip_prefix("JMS-") {
        return uuid::Uuid::try_parse(id).ok().map(|id| Name::Token { id });
    }
    Some(direct(name, '@').or_else(|| direct(name, '#')).unwrap_or_else(|| Name::Plain { user: name.to_owned() }))
}

fn direct(name: &str, separator: char) -> Option<Name> {
    let (rest, asset) = name.rsplit_once(separator)?;
    let (rest, account) = rest.rsplit_once(separator)?;
    let (user, protocol) = match rest.rsplit_once(separator) {
        Some((user, word)) => match PROTOCOLS.iter().find(|p| p.eq_ignore_ascii_case(word)) {
            Some(protocol) => (user, Some(*protocol)),
            None => (rest, None),
        },
        None => (rest, None),
    };
    let whole = [user, account, asset].iter().all(|part| !part.is_empty());
    whole.then(|| Name::Direct {
        user: user.to_owned(),
        target: Target { protocol, account: account.to_owned(), asset: asset.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(user: &str, protocol: Option<&'static str>, account: &str, asset: &str) -> Option<Name> {
        let target = Target { protocol, account: account.into(), asset: asset.into() };
        Some(Name::Direct { user: user.into(), target })
    }

    fn plain(user: &str) -> Option<Name> {
        Some(Name::Plain { user: user.into() })
    }

    #[test]
    fn the_forms_of_jumpserver() {
        assert_eq!(parse("kim"), plain("kim"));
        assert_eq!(parse("kim@root@web1"), to("kim", None, "root", "web1"));
        assert_eq!(parse("kim#root#web1"), to("kim", None, "root", "web1"));
        assert_eq!(parse("kim@telnet@admin@10.0.0.1"), to("kim", Some("telnet"), "admin", "10.0.0.1"));
        assert_eq!(parse("kim#SSH#root#web1"), to("kim", Some("ssh"), "root", "web1"));
        let id = uuid::Uuid::from_u128(7);
        assert_eq!(parse(&format!("JMS-{id}")), Some(Name::Token { id }));
        assert_eq!(parse("JMS-nonsense"), None);
    }

    #[test]
    fn names_of_outside_directories_and_domain_accounts() {
        assert_eq!(parse("kim@corp.example"), plain("kim@corp.example"));
        assert_eq!(parse("kim@corp.example@root@web1"), to("kim@corp.example", None, "root", "web1"));
        assert_eq!(parse("kim@corp.example@sftp@root@web1"), to("kim@corp.example", Some("sftp"), "root", "web1"));
        assert_eq!(parse("kim#@USER#web1"), to("kim", None, "@USER", "web1"));
        assert_eq!(parse("kim#adm@corp#web1"), to("kim", None, "adm@corp", "web1"));
    }

    #[test]
    fn empty_parts_never_become_a_target() {
        for name in ["kim@@web1", "@root@web1", "kim@root@", "kim##web1"] {
            assert!(matches!(parse(name), Some(Name::Plain { .. })), "{name}");
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse("kim\nroot"), None);
        assert_eq!(parse(&"x".repeat(MAX + 1)), None);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics_and_every_part_was_written(name in ".{0,80}") {
            if let Some(Name::Direct { user, target }) = parse(&name) {
                for part in [&user, &target.account, &target.asset] {
                    prop_assert!(!part.is_empty() && name.contains(part.as_str()));
                }
            }
        }

        #[test]
        fn what_is_put_together_is_taken_apart(
            user in "[a-z.]{1,12}(@[a-z.]{2,12})?", account in "[a-z]{1,8}", asset in "[a-z0-9.-]{1,20}",
        ) {
            prop_assume!(!user.ends_with("@ssh") && !user.ends_with("@sftp") && !user.ends_with("@telnet"));
            prop_assert_eq!(parse(&format!("{user}@{account}@{asset}")), to(&user, None, &account, &asset));
            prop_assert_eq!(parse(&format!("{user}@ssh@{account}@{asset}")), to(&user, Some("ssh"), &account, &asset));
        }
    }
}
