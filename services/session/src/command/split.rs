//! Cutting a command line into the commands a shell would run one after the other or inside each other.
//!
//! What lives here: the scanner. What must not: matching; rules get every part and the whole line as well.

/// The deepest nesting of substitutions that is cut; what is deeper stays part of its surrounding text, which is in the
/// result too.
const MAX_DEPTH: usize = 32;

/// The parts of `line` that a shell runs as commands of their own, in the order of their beginnings, trimmed, without
/// empty ones.
///
/// Cuts at `;`, `&`, `|`, newlines, parentheses and braces outside quotes, and looks into `$(...)`, backticks, `<(...)`
/// and double quotes. Words that only introduce a command (`if`, `then`, `do`, `else`, `while`, `!`, `time`, ...) are taken
/// off its front. Unbalanced quotes end at the end of the line: everything is still covered by some part. The parts of one
/// here-document body are cut at newlines like commands, because a shell may be its reader.
pub fn split(line: &str) -> Vec<&str> {
    let mut scanner = Scanner { line, bytes: line.as_bytes(), at: 0, parts: Vec::new() };
    while scanner.at < scanner.bytes.len() {
        scanner.list(None, 0);
    }
    let mut parts = scanner.parts;
    parts.sort_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
    parts.dedup();
    parts
        .into_iter()
        .filter_map(|(start, end)| line.get(start..end))
        .map(bare)
        .filter(|part| !part.is_empty())
        .collect()
}

/// `part` without blanks and introducing words.
fn bare(part: &str) -> &str {
    let mut rest = part.trim();
    loop {
        let word = rest.split_whitespace().next().unwrap_or("");
        let introduces = matches!(
            word,
            "if" | "then" | "elif" | "else" | "do" | "while" | "until" | "!" | "time" | "{" | "coproc" | "in"
        );
        if !introduces {
            return rest;
        }
        rest = rest.get(word.len()..).unwrap_or("").trim_start();
    }
}

struct Scanner<'a> {
    line: &'a str,
    bytes: &'a [u8],
    at: usize,
    parts: Vec<(usize, usize)>,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn part(&mut self, start: usize, end: usize) {
        if self.line.get(start..end).is_some_and(|text| !text.trim().is_empty()) {
            self.parts.push((start, end));
        }
    }

    /// Commands up to `close` (consumed) or the end.
    fn list(&mut self, close: Option<u8>, depth: usize) {
        let mut start = self.at;
        let mut word_start = true;
        while let Some(byte) = self.peek(0) {
            if Some(byte) == close {
                self.part(start, self.at);
                self.at += 1;
                return;
            }
            match byte {
                b'\\' => {
                    self.at += 2;
                    word_start = false;
                    continue;
                }
                b'\'' => self.single(),
                b'"' => self.double(depth),
                b'`' if close != Some(b'`') => self.nested(1, b'`', depth),
                b'$' if self.peek(1) == Some(b'\'') => self.ansi_c(),
                b'$' | b'<' | b'>' if self.peek(1) == Some(b'(') => self.nested(2, b')', depth),
                b'(' if depth < MAX_DEPTH => {
                    self.part(start, self.at);
                    self.at += 1;
                    self.list(Some(b')'), depth + 1);
                    start = self.at;
                    word_start = true;
                    continue;
                }
                // `2>&1` and `&>file` redirect, they do not separate.
                b'&' if self.redirects() => self.at += 1,
                // `>|` overwrites, it does not pipe.
                b'|' if self.at > 0 && self.bytes.get(self.at - 1) == Some(&b'>') => self.at += 1,
                b';' | b'&' | b'|' | b'\n' | b'\r' | b')' => {
                    self.part(start, self.at);
                    self.at += 1;
                    start = self.at;
                    word_start = true;
                    continue;
                }
                b'{' | b'}' if word_start && self.blank_after() => {
                    self.part(start, self.at);
                    self.at += 1;
                    start = self.at;
                    word_start = true;
                    continue;
                }
                // A comment runs nothing; but a shell may have comments off, so it stays a part of its own.
                b'#' if word_start => {
                    self.part(start, self.at);
                    start = self.at;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            word_start = byte == b' ' || byte == b'\t';
        }
        self.at = self.bytes.len();
        self.part(start, self.at);
    }

    fn blank_after(&self) -> bool {
        matches!(self.peek(1), None | Some(b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b')'))
    }

    fn redirects(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.bytes.get(at));
        matches!(before, Some(b'>' | b'<')) || self.peek(1) == Some(b'>')
    }

    fn nested(&mut self, opening: usize, close: u8, depth: usize) {
        self.at += opening;
        if depth < MAX_DEPTH {
            self.list(Some(close), depth + 1);
        }
    }

    fn single(&mut self) {
        self.at += 1;
        self.at = match self.bytes.get(self.at..).and_then(|rest| memchr::memchr(b'\'', rest)) {
            Some(length) => self.at + length + 1,
            None => self.bytes.len(),
        };
    }

    fn ansi_c(&mut self) {
        self.at += 2;
        while let Some(byte) = self.peek(0) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'\'' {
                return;
            }
        }
    }

    fn double(&mut self, depth: usize) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return;
                }
                b'`' => self.nested(1, b'`', depth),
                b'$' if self.peek(1) == Some(b'(') => self.nested(2, b')', depth),
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn separators_outside_quotes_cut() {
        assert_eq!(split("a; b && c | d"), ["a", "b", "c", "d"]);
        assert_eq!(split("a & b || c\nd"), ["a", "b", "c", "d"]);
        assert_eq!(split("echo 'a;b' \"c|d\" e\\;f"), ["echo 'a;b' \"c|d\" e\\;f"]);
        assert_eq!(split(""), Vec::<&str>::new());
        assert_eq!(split(" ;; "), Vec::<&str>::new());
    }

    #[test]
    fn redirections_do_not_cut() {
        assert_eq!(split("make 2>&1 | tee log"), ["make 2>&1", "tee log"]);
        assert_eq!(split("a &> f; b >| g; c <&3"), ["a &> f", "b >| g", "c <&3"]);
    }

    #[test]
    fn substitutions_are_parts_of_their_own() {
        assert_eq!(split("echo $(rm -rf / ; true)"), ["echo $(rm -rf / ; true)", "rm -rf /", "true"]);
        assert_eq!(split("echo \"x `rm -rf /` y\""), ["echo \"x `rm -rf /` y\"", "rm -rf /"]);
        assert_eq!(split("diff <(a) <(b)"), ["diff <(a) <(b)", "a", "b"]);
        assert_eq!(split("(cd / && rm x)"), ["cd /", "rm x"]);
        assert_eq!(split("echo '$(rm)'"), ["echo '$(rm)'"]);
        assert_eq!(split("echo $'a\\'b' ; c"), ["echo $'a\\'b'", "c"]);
    }

    #[test]
    fn introducing_words_come_off() {
        assert_eq!(split("if true; then rm -rf /; fi"), ["true", "rm -rf /", "fi"]);
        assert_eq!(split("for i in 1 2\ndo\nrm $i\ndone"), ["for i in 1 2", "rm $i", "done"]);
        assert_eq!(split("{ rm a; } ; ! time rm b"), ["rm a", "rm b"]);
    }

    #[test]
    fn unbalanced_text_is_covered() {
        assert_eq!(split("echo 'rm; x"), ["echo 'rm; x"]);
        assert_eq!(split("a ) b"), ["a", "b"]);
        assert_eq!(split("echo $(rm"), ["echo $(rm", "rm"]);
        assert_eq!(split("a\\"), ["a\\"]);
    }

    #[test]
    fn deep_nesting_ends() {
        let deep = "$(".repeat(100_000);
        assert!(!split(&deep).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_word_is_in_some_part(words in proptest::collection::vec("[a-hj-z]{1,5}[ ;|&()`'\"$\\\\{}é\n]{0,3}", 0..20)) {
            let line = words.concat();
            let parts = split(&line);
            for word in line.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty()) {
                let introduces = ["do", "then", "else", "time"].contains(&word);
                proptest::prop_assert!(introduces || parts.iter().any(|part| part.contains(word)), "{word:?} of {line:?} in {parts:?}");
            }
        }
    }
}
