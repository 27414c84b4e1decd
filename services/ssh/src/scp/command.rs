//! The command line of scp's far side, as clients send it in an exec request.

use chrono::Utc;
use gatehouse_model::grant::Actions;
use gatehouse_model::session::FileOperation;
use gatehouse_session::FileDraft;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `-t`: the user sends.
    Upload,
    /// `-f`: the user receives.
    Download,
}

/// An exec request that is nothing but scp's far side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scp {
    pub(super) direction: Direction,
    /// The path on the asset, as it was given; of several the first.
    pub(super) path: String,
}

impl Scp {
    /// What the grant must allow.
    pub(super) fn needed(&self) -> Actions {
        match self.direction {
            Direction::Upload => Actions::UPLOAD,
            Direction::Download => Actions::DOWNLOAD,
        }
    }

    pub(super) fn operation(&self) -> FileOperation {
        match self.direction {
            Direction::Upload => FileOperation::Upload,
            Direction::Download => FileOperation::Download,
        }
    }

    /// The row of a request that was refused.
    pub(super) fn refused(&self, why: &str) -> FileDraft {
        FileDraft::new(self.operation(), &self.path, Utc::now()).failed(why)
    }
}

/// Recognises `scp [-v -r -p -d -q] -t|-f [--] PATH...`. Anything with more in it is an ordinary command.
pub(super) fn recognise(command: &str) -> Option<Scp> {
    let mut words = split_words(command)?.into_iter();
    if words.next()?.rsplit('/').next()? != "scp" {
        return None;
    }
    let (mut direction, mut options, mut paths) = (None, true, Vec::new());
    for word in words {
        match word.strip_prefix('-') {
            Some("-") if options => options = false,
            Some(flags) if options && !flags.is_empty() => {
                for flag in flags.chars() {
                    match flag {
                        't' => direction = Some(Direction::Upload),
                        'f' => direction = Some(Direction::Download),
                        'v' | 'r' | 'p' | 'd' | 'q' => {}
                        _ => return None,
                    }
                }
            }
            _ => paths.push(word),
        }
    }
    let direction = direction?;
    // Only a download may name several files.
    if paths.len() > 1 && direction == Direction::Upload {
        return None;
    }
    Some(Scp { direction, path: paths.into_iter().next()? })
}

/// Words as a shell would cut them, without expansion; `None` when the shell would do anything else.
fn split_words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut any) = (Vec::new(), String::new(), false);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => {
                if std::mem::take(&mut any) {
                    words.push(std::mem::take(&mut word));
                }
            }
            '\'' => {
                any = true;
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                any = true;
                loop {
                    match chars.next()? {
                        '"' => break,
                        '$' | '`' => return None,
                        '\\' => word.push(chars.next()?),
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                any = true;
                word.push(chars.next()?);
            }
            ';' | '&' | '|' | '<' | '>' | '(' | ')' | '`' | '$' | '\n' | '\r' | '#' | '!' => return None,
            c => {
                any = true;
                word.push(c);
            }
        }
    }
    if any {
        words.push(word);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scps_far_side_is_recognised_and_nothing_else() {
        let up = |path: &str| Some(Scp { direction: Direction::Upload, path: path.into() });
        let down = |path: &str| Some(Scp { direction: Direction::Download, path: path.into() });
        assert_eq!(recognise("scp -t /tmp/x"), up("/tmp/x"));
        assert_eq!(recognise("scp -v -r -p -d -t -- '/tmp/a b'"), up("/tmp/a b"));
        assert_eq!(recognise("/usr/bin/scp -rpf -- \"/tmp/x\""), down("/tmp/x"));
        assert_eq!(recognise("scp -f /tmp/a /tmp/b"), down("/tmp/a"));
        for other in [
            "scp /tmp/x host:/y",
            "scp -t /tmp/x; rm -rf /",
            "scp -t /tmp/x && id",
            "scp -S /tmp/evil -t /tmp/x",
            "scp -t $(id)",
            "scp -t \"`id`\"",
            "scp -t /a /b",
            "scpx -t /tmp/x",
            "scp -t",
            "",
            "scp -t 'unclosed",
        ] {
            assert_eq!(recognise(other), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_command_line_never_panics(command: String) {
            let _ = recognise(&command);
        }
    }
}
