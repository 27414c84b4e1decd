//! What can go wrong with seals, in words that a person at the console can act on. No key material ever appears here.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "{} is already set up ({found} exists): choose an empty data directory, or remove the files of a set-up that \
         did not finish if nothing was ever stored here", dir.display()
    )]
    AlreadyInitialised { dir: PathBuf, found: &'static str },
    #[error("{} is not set up: run `gatehouse setup` first", dir.display())]
    NotInitialised { dir: PathBuf },
    #[error("this box is sealed by {method:?}, which this program or machine does not offer: use the recovery key")]
    UnknownMethod { method: String },
    #[error(
        "{} is damaged ({what}): restore this file from a copy, or use the recovery key; nothing was changed",
        path.display()
    )]
    Damaged { path: PathBuf, what: &'static str },
    #[error("{} is missing: restore this file from a copy, or use the recovery key", path.display())]
    Missing { path: PathBuf },
    #[error("{} was written by a newer version of gatehouse (format {found}): update this program", path.display())]
    TooNew { path: PathBuf, found: u32 },
    #[error("{} is not protected: mode {mode:o} lets others read it; set it to 600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the root key does not open {}: it belongs to another box", path.display())]
    WrongKey { path: PathBuf },
    #[error("a recovery key has 24 words, {0} were given")]
    WordCount(usize),
    #[error("word {position} of the recovery key is not in the list{}", hint(suggestion))]
    UnknownWord { position: usize, suggestion: Option<&'static str> },
    #[error("the words are all known but do not belong together: a word is wrong or two are swapped; check them again")]
    WordChecksum,
    #[error("this recovery key is well formed but does not open this box: it belongs to another one")]
    NotThisBox,
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the operating system's randomness is not available")]
    Randomness,
    #[error("a cryptographic operation failed: {0}")]
    Crypto(&'static str),
}

fn hint(suggestion: &Option<&'static str>) -> String {
    suggestion.map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default()
}
