//! Paths as the user sees them and as the asset has them: the platform's SFTP root is the user's `/`.
//!
//! Paths are bytes (SFTP version 3 says nothing of their encoding). What must not be here: asking the asset; following
//! symbolic links is checked with its help in `relay`.

/// The part of an asset's file system that a user may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(Vec<u8>);

impl Root {
    /// `path` must be absolute; `/` is the whole file system.
    pub(crate) fn new(path: &[u8]) -> Self {
        let mut root = absolute(path);
        if root == b"/" {
            root.clear();
        }
        Self(root)
    }

    /// The whole file system: nothing can lie outside.
    pub(crate) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The user's path on the asset. `..` cannot climb above the root.
    pub(crate) fn to_asset(&self, seen: &[u8]) -> Vec<u8> {
        let path = absolute(seen);
        if self.is_all() {
            return path;
        }
        let mut full = self.0.clone();
        if path != b"/" {
            full.extend_from_slice(&path);
        }
        full
    }

    /// The asset's absolute path as the user sees it; `None` outside of the root.
    pub(crate) fn to_user(&self, path: &[u8]) -> Option<Vec<u8>> {
        if self.is_all() {
            return Some(path.to_vec());
        }
        let rest = path.strip_prefix(self.0.as_slice())?;
        match rest.first() {
            None => Some(b"/".to_vec()),
            Some(b'/') => Some(rest.to_vec()),
            Some(_) => None,
        }
    }

    /// The root itself on the asset.
    pub(crate) fn path(&self) -> &[u8] {
        if self.is_all() { b"/" } else { &self.0 }
    }
}

/// The path from `/`, without `.`, `..` and empty parts. A relative path starts at `/`.
pub(crate) fn absolute(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// The directory a path lies in; `/` for `/`.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|b| *b == b'/') {
        None | Some(0) => b"/",
        Some(at) => path.get(..at).unwrap_or(b"/"),
    }
}

/// For rows and messages.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// JumpServer's `sftp_home` with its variables. `HOME` is what the asset answers for `.`; a root that is not absolute
/// after that is taken from there.
pub(crate) fn expand_home(setting: &str, account: &str, user: &str, home: &[u8]) -> Vec<u8> {
    // A user name is not a path: it must not add a level or climb.
    let plain =
        |name: &str| if name.contains('/') || name == ".." || name == "." { "_".to_owned() } else { name.to_owned() };
    let text = setting.replace("${ACCOUNT}", &plain(account)).replace("${USER}", &plain(user));
    let mut out = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("${HOME}") {
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(home);
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    if out.first() == Some(&b'~') {
        out.splice(..1, home.iter().copied());
    }
    if out.first() != Some(&b'/') {
        let mut from_home = home.to_vec();
        from_home.push(b'/');
        from_home.extend_from_slice(&out);
        out = from_home;
    }
    absolute(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_the_root() {
        let root = Root::new(b"/tmp");
        for (seen, full) in [
            ("/", "/tmp"),
            ("", "/tmp"),
            (".", "/tmp"),
            ("a", "/tmp/a"),
            ("/a/b", "/tmp/a/b"),
            ("../etc/passwd", "/tmp/etc/passwd"),
            ("/../../etc", "/tmp/etc"),
            ("a/../../../etc", "/tmp/etc"),
            ("//a//./b/", "/tmp/a/b"),
        ] {
            assert_eq!(root.to_asset(seen.as_bytes()), full.as_bytes(), "{seen}");
        }
        assert_eq!(Root::new(b"/").to_asset(b"../etc"), b"/etc");
    }

    #[test]
    fn what_the_asset_answers_is_shown_from_the_root_or_not_at_all() {
        let root = Root::new(b"/tmp/");
        assert_eq!(root.to_user(b"/tmp").as_deref(), Some(b"/".as_slice()));
        assert_eq!(root.to_user(b"/tmp/a").as_deref(), Some(b"/a".as_slice()));
        assert_eq!(root.to_user(b"/tmpfile"), None);
        assert_eq!(root.to_user(b"/etc"), None);
        assert_eq!(Root::new(b"/").to_user(b"/etc").as_deref(), Some(b"/etc".as_slice()));
    }

    #[test]
    fn homes_are_expanded_and_stay_paths() {
        assert_eq!(expand_home("/tmp", "root", "alice", b"/root"), b"/tmp");
        assert_eq!(expand_home("${HOME}", "root", "alice", b"/root"), b"/root");
        assert_eq!(expand_home("/data/${USER}/${ACCOUNT}", "root", "alice", b"/root"), b"/data/alice/root");
        assert_eq!(expand_home("/data/${USER}", "root", "../../etc", b"/root"), b"/data/_");
        assert_eq!(expand_home("~/files", "root", "a", b"/home/r"), b"/home/r/files");
        assert_eq!(expand_home("files", "root", "a", b"/home/r"), b"/home/r/files");
    }

    #[test]
    fn parents() {
        assert_eq!(parent(b"/a/b"), b"/a");
        assert_eq!(parent(b"/a"), b"/");
        assert_eq!(parent(b"/"), b"/");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_stay_inside(seen: Vec<u8>) {
            let root = Root::new(b"/srv/files");
            let full = root.to_asset(&seen);
            proptest::prop_assert!(root.to_user(&full).is_some());
            proptest::prop_assert!(!full.split(|b| *b == b'/').any(|p| p == b".." || p == b"."));
        }
    }
}
