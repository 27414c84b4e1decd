//! The line as its keys make it, without looking at the screen.
//!
//! What lives here: the parser of the user's bytes (keys, pastes, answers of the user's terminal) and the editor that most
//! line readers share. What must not: the screen. Where editors differ or a key brings text from elsewhere (history,
//! completion), the text stops being [`LineEdit::exact`] until the line ends, and only the screen knows.

use zeroize::{Zeroize, Zeroizing};

/// Bytes of one control string (an answer of the user's terminal) that are looked at; the rest passes.
const MAX_PARAMS: usize = 64;

/// What a byte does, told before it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does not run anything.
    Edit,
    /// It runs the line.
    Enter,
    /// It runs the line and puts the next one of the history into the editor (Ctrl-O).
    Operate,
    /// A line end inside a bracketed paste: runs nothing if the asset keeps its promise.
    PastedLine,
    /// Ctrl-D behind text: a terminal in line mode hands the text over at once.
    HandOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parse {
    Ground,
    Escape,
    Csi,
    Ss3,
    /// OSC, DCS and the like, up to ST or BEL.
    Text,
    TextEscape,
    Quoted,
}

pub(super) struct LineEdit {
    parse: Parse,
    params: [u8; MAX_PARAMS],
    params_len: usize,
    utf8: [u8; 4],
    utf8_len: usize,
    pasting: bool,
    chars: Zeroizing<Vec<char>>,
    at: usize,
    killed: Zeroizing<Vec<char>>,
    limit: usize,
    /// The text is what the keys say.
    exact: bool,
    /// The line may not have been empty before the first key.
    doubted: bool,
    /// Some key touched the line.
    pub(super) touched: bool,
    /// A key that moves between lines or recalls one was used.
    pub(super) recalled: bool,
    /// The last key asked for completion.
    pub(super) completing: bool,
    /// Characters were dropped at the limit.
    pub(super) overflow: bool,
    /// The line was abandoned by Ctrl-C (or suspended) since asked.
    abandoned: bool,
}

impl LineEdit {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            parse: Parse::Ground,
            params: [0; MAX_PARAMS],
            params_len: 0,
            utf8: [0; 4],
            utf8_len: 0,
            pasting: false,
            chars: Zeroizing::new(Vec::new()),
            at: 0,
            killed: Zeroizing::new(Vec::new()),
            limit,
            exact: true,
            doubted: false,
            touched: false,
            recalled: false,
            completing: false,
            overflow: false,
            abandoned: false,
        }
    }

    /// The typed text.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.chars.iter().map(|c| c.len_utf8()).sum()));
        text.extend(self.chars.iter());
        text
    }

    /// The text is what the keys say.
    pub(super) fn is_exact(&self) -> bool {
        self.exact && !self.doubted
    }

    /// As [`LineEdit::is_exact`], if the line was empty before.
    pub(super) fn keys_known(&self) -> bool {
        self.exact
    }

    pub(super) fn end_paste(&mut self) {
        self.pasting = false;
    }

    /// The keys alone no longer tell the line, until it ends.
    pub(super) fn lose(&mut self) {
        self.exact = false;
    }

    /// Whether the line may hold more than what was typed since.
    pub(super) fn doubt(&mut self, doubted: bool) {
        self.doubted = doubted;
    }

    /// Characters other than blanks before the cursor.
    pub(super) fn before_cursor(&self) -> usize {
        self.chars.iter().take(self.at).filter(|c| !c.is_whitespace()).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chars.is_empty()
    }

    /// The last line of a paste.
    pub(super) fn last_line(&self) -> Zeroizing<String> {
        let start = self.chars.iter().rposition(|&c| c == '\n').map_or(0, |at| at + 1);
        let line = self.chars.get(start..).unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(line.iter().map(|c| c.len_utf8()).sum()));
        text.extend(line);
        text
    }

    /// A new, empty line. The parser stays where it is: a paste may go on.
    pub(super) fn reset(&mut self) {
        self.chars.zeroize();
        if self.chars.capacity() > 256 {
            self.chars = Zeroizing::new(Vec::new());
        }
        self.at = 0;
        (self.exact, self.doubted, self.touched) = (true, false, false);
        (self.recalled, self.completing, self.overflow) = (false, false, false);
    }

    pub(super) fn take_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.abandoned)
    }

    /// What `byte` would do now.
    pub(super) fn effect(&self, byte: u8) -> Effect {
        match byte {
            b'\r' | b'\n' if self.pasting => Effect::PastedLine,
            b'\r' | b'\n' => Effect::Enter,
            0x0f if self.parse == Parse::Ground && !self.pasting => Effect::Operate,
            0x04 if self.parse == Parse::Ground && !self.pasting && (!self.chars.is_empty() || !self.exact) => {
                Effect::HandOver
            }
            // Enter in other encodings: keypad in application mode, kitty and xterm's extended keys.
            b'M' if self.parse == Parse::Ss3 => Effect::Enter,
            b'u' | b'~' if self.parse == Parse::Csi && self.is_encoded_enter(byte) => Effect::Enter,
            _ => Effect::Edit,
        }
    }

    fn is_encoded_enter(&self, last: u8) -> bool {
        let params = self.params.get(..self.params_len).unwrap_or_default();
        let Ok(params) = std::str::from_utf8(params) else { return false };
        let mut fields = params.split(';').map(|field| field.split(':').next().unwrap_or(""));
        match last {
            b'u' => matches!(fields.next(), Some("13" | "10" | "57414")),
            _ => fields.next() == Some("27") && fields.nth(1).is_some_and(|key| matches!(key, "13" | "10")),
        }
    }

    /// Take a byte that runs nothing. True when it was (part of) a key, false when an answer of the terminal.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        match self.parse {
            Parse::Ground => self.ground(byte),
            Parse::Quoted => {
                self.parse = Parse::Ground;
                self.unknown();
                true
            }
            Parse::Escape => self.escape(byte),
            Parse::Csi => self.csi(byte),
            Parse::Ss3 => {
                self.parse = Parse::Ground;
                self.arrow(byte);
                true
            }
            Parse::Text => {
                match byte {
                    0x07 | 0x18 | 0x1a => self.parse = Parse::Ground,
                    0x1b => self.parse = Parse::TextEscape,
                    // Control keys cannot be in there: it was no answer.
                    0x03 | 0x04 | 0x15 => {
                        self.parse = Parse::Ground;
                        self.unknown();
                    }
                    _ => {}
                }
                false
            }
            Parse::TextEscape => {
                self.parse = if byte == b'\\' { Parse::Ground } else { Parse::Text };
                false
            }
        }
    }

    /// The held byte was forwarded.
    pub(super) fn entered(&mut self, effect: Effect) {
        match effect {
            Effect::PastedLine => {
                self.touched = true;
                self.insert('\n');
            }
            Effect::HandOver => {
                // Readers differ: delete to the right, list completions, or take the line.
                self.unknown();
            }
            Effect::Enter | Effect::Operate => {
                self.parse = Parse::Ground;
                self.utf8_len = 0;
                self.reset();
            }
            Effect::Edit => {}
        }
    }

    fn unknown(&mut self) {
        self.touched = true;
        self.exact = false;
    }

    fn insert(&mut self, c: char) {
        if self.chars.len() >= self.limit {
            self.overflow = true;
            self.exact = false;
            return;
        }
        if self.chars.len() == self.chars.capacity() {
            // Growing in place would leave a copy behind; it may be a password.
            let mut grown = Zeroizing::new(Vec::with_capacity((self.chars.len() * 2).max(32)));
            grown.extend_from_slice(&self.chars);
            self.chars = grown;
        }
        let at = self.at.min(self.chars.len());
        self.chars.insert(at, c);
        self.at += 1;
    }

    fn ground(&mut self, byte: u8) -> bool {
        if byte == 0x1b {
            self.parse = Parse::Escape;
            return false;
        }
        self.touched = true;
        let completing = std::mem::replace(&mut self.completing, false);
        if byte >= 0x80 {
            self.utf8(byte);
            return true;
        }
        if self.utf8_len > 0 {
            self.utf8_len = 0;
            self.exact = false;
        }
        if self.pasting && byte < 0x20 {
            if byte == b'\t' {
                self.insert('\t');
            } else {
                self.exact = false;
            }
            return true;
        }
        match byte {
            0x20..=0x7e => self.insert(char::from(byte)),
            0x7f | 0x08 => {
                if self.at > 0 {
                    self.at -= 1;
                    self.chars.remove(self.at);
                }
            }
            0x01 => self.at = 0,
            0x05 => self.rightwards(self.chars.len()),
            0x02 => self.at = self.at.saturating_sub(1),
            0x06 => self.rightwards(self.at + 1),
            0x0b => {
                let at = self.at;
                let end = self.chars.len();
                self.kill(at, end);
            }
            0x15 => {
                // To the start, or the whole line: the same only at the end.
                self.exact &= self.at == self.chars.len();
                let at = self.at;
                self.kill(0, at);
            }
            0x17 => {
                let end = self.at;
                let before = self.chars.get(..end).unwrap_or_default();
                let word = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| {
                    before
                        .get(..last)
                        .unwrap_or_default()
                        .iter()
                        .rposition(|c| c.is_whitespace())
                        .map_or(0, |at| at + 1)
                });
                // Words end at blanks here, at punctuation elsewhere.
                self.exact &=
                    before.get(word..).unwrap_or_default().iter().all(|c| c.is_alphanumeric() || c.is_whitespace());
                self.kill(word, end);
            }
            0x19 => {
                let killed = std::mem::take(&mut self.killed);
                self.exact &= !killed.is_empty();
                for &c in killed.iter() {
                    self.insert(c);
                }
                self.killed = killed;
            }
            0x0c => {}
            // Ctrl-C, Ctrl-\ and Ctrl-Z give the line up, wherever a line is read.
            0x03 | 0x1c | 0x1a => {
                self.reset();
                self.abandoned = true;
            }
            0x16 => {
                self.parse = Parse::Quoted;
                self.exact = false;
            }
            b'\t' => {
                self.completing = true;
                self.exact = false;
            }
            0x10 | 0x0e | 0x12 | 0x13 => {
                self.recalled = true;
                self.exact = false;
            }
            // Ctrl-D in an empty line ends the input, it does not edit.
            0x04 => self.completing = completing,
            _ => self.exact = false,
        }
        true
    }

    /// Beyond the end these keys take a suggestion, where there is one.
    fn rightwards(&mut self, to: usize) {
        self.exact &= self.at < self.chars.len();
        self.at = to.min(self.chars.len());
    }

    fn kill(&mut self, from: usize, to: usize) {
        if from < to && to <= self.chars.len() {
            let mut killed = Zeroizing::new(Vec::with_capacity(to - from));
            killed.extend(self.chars.drain(from..to));
            self.killed = killed;
            self.at = from;
        }
    }

    fn utf8(&mut self, byte: u8) {
        if let Some(slot) = self.utf8.get_mut(self.utf8_len) {
            *slot = byte;
            self.utf8_len += 1;
        }
        match std::str::from_utf8(self.utf8.get(..self.utf8_len).unwrap_or_default()) {
            Ok(text) => {
                let c = text.chars().next();
                self.utf8_len = 0;
                if let Some(c) = c {
                    self.insert(c);
                }
            }
            Err(error) if error.error_len().is_none() && self.utf8_len < 4 => {}
            Err(_) => {
                self.utf8_len = 0;
                self.exact = false;
            }
        }
    }

    fn escape(&mut self, byte: u8) -> bool {
        self.params_len = 0;
        self.parse = Parse::Ground;
        match byte {
            b'[' => self.parse = Parse::Csi,
            b'O' => self.parse = Parse::Ss3,
            b']' | b'P' | b'_' | b'^' if !self.pasting => self.parse = Parse::Text,
            0x1b => self.parse = Parse::Escape,
            _ => {
                // Meta keys: words, case, arguments of earlier lines. Editors differ in all of them.
                self.unknown();
                self.recalled = true;
                return true;
            }
        }
        false
    }

    fn csi(&mut self, byte: u8) -> bool {
        match byte {
            0x40..=0x7e => {
                self.parse = Parse::Ground;
                self.csi_end(byte)
            }
            0x20..=0x3f => {
                if let Some(slot) = self.params.get_mut(self.params_len) {
                    *slot = byte;
                    self.params_len += 1;
                }
                false
            }
            0x1b => {
                self.parse = Parse::Escape;
                self.unknown();
                false
            }
            _ => {
                self.parse = Parse::Ground;
                self.unknown();
                true
            }
        }
    }

    fn csi_end(&mut self, last: u8) -> bool {
        let params = self.params.get(..self.params_len).unwrap_or_default();
        match (params, last) {
            (b"200", b'~') => self.pasting = true,
            (b"201", b'~') => self.pasting = false,
            // Answers and reports: device attributes, cursor position, modes, colours, focus, mouse.
            (_, b'c' | b'R' | b'n' | b'y' | b't' | b'x' | b'I' | b'O') => return false,
            ([b'<', ..], b'M' | b'm') | ([], b'M') => return false,
            ([b'?', ..], b'u') => return false,
            (b"", b'A' | b'B' | b'C' | b'D' | b'H' | b'F') => self.arrow(last),
            (b"1" | b"7", b'~') => self.arrow(b'H'),
            (b"4" | b"8", b'~') => self.arrow(b'F'),
            (b"3", b'~') => {
                self.touched = true;
                if self.at < self.chars.len() {
                    self.chars.remove(self.at);
                }
            }
            _ => {
                self.unknown();
                self.recalled = true;
            }
        }
        true
    }

    fn arrow(&mut self, last: u8) {
        self.touched = true;
        match last {
            b'C' => self.rightwards(self.at + 1),
            b'D' => self.at = self.at.saturating_sub(1),
            b'H' => self.at = 0,
            b'F' => self.rightwards(self.chars.len()),
            _ => {
                self.recalled = true;
                self.exact = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> LineEdit {
        let mut edit = LineEdit::new(1000);
        for &byte in bytes {
            assert_eq!(edit.effect(byte), Effect::Edit, "{byte:#x}");
            edit.take(byte);
        }
        edit
    }

    fn exact(bytes: &[u8]) -> String {
        let edit = typed(bytes);
        assert!(edit.is_exact());
        edit.text().to_string()
    }

    #[test]
    fn editing_keys() {
        assert_eq!(exact(b"lx\x7fs -l"), "ls -l");
        assert_eq!(exact(b"s\x01l\x05 x"), "ls x");
        assert_eq!(exact(b"lss\x1b[D\x1b[D\x1b[3~"), "ls");
        assert_eq!(exact(b"abc def\x17ghi"), "abc ghi");
        assert_eq!(exact(b"ls\x15pwd\x19"), "pwdls");
        assert_eq!(exact(b"abc\x02\x0b\x19\x19"), "abcc");
        assert_eq!(exact("日本é".as_bytes()), "日本é");
        assert_eq!(exact(b"abc\x03ls"), "ls");
        assert_eq!(exact(b"ab\x1bOD\x1b[24;80R\x1b[?1;2cx\x1b]11;rgb:0/0/0\x1b\\y"), "axyb");
        assert_eq!(exact(b"\x1b[200~a\tb\x1b[201~"), "a\tb");
    }

    #[test]
    fn keys_that_only_the_screen_knows() {
        for keys in [
            &b"\x1b[A"[..],
            b"\x12ls",
            b"l\t",
            b"\x1b.",
            b"a b\x02\x15",
            b"x\xffy",
            b"\x16\x01",
            b"a/b\x17",
            b"ab\x05",
            b"ab\x1b[C",
        ] {
            assert!(!typed(keys).is_exact(), "{keys:?}");
        }
    }

    #[test]
    fn enters_in_every_encoding() {
        let mut edit = typed(b"ls");
        for enter in *b"\r\n" {
            assert_eq!(edit.effect(enter), Effect::Enter);
        }
        assert_eq!(edit.effect(0x0f), Effect::Operate);
        assert_eq!(edit.effect(0x04), Effect::HandOver);
        assert_eq!(typed(b"").effect(0x04), Effect::Edit);
        assert_eq!(typed(b"\x1bO").effect(b'M'), Effect::Enter);
        assert_eq!(typed(b"\x1b[13").effect(b'u'), Effect::Enter);
        assert_eq!(typed(b"\x1b[13;1:1").effect(b'u'), Effect::Enter);
        assert_eq!(typed(b"\x1b[27;5;13").effect(b'~'), Effect::Enter);
        assert_eq!(typed(b"\x1b[15").effect(b'~'), Effect::Edit);
        assert_eq!(typed(b"\x1b]0;x").effect(b'\r'), Effect::Enter);
        for &byte in b"\x1b[200~x" {
            edit.take(byte);
        }
        assert_eq!(edit.effect(b'\r'), Effect::PastedLine);
    }

    #[test]
    fn length_is_bounded() {
        let mut edit = LineEdit::new(10);
        for _ in 0..100 {
            edit.take(b'x');
        }
        assert_eq!(edit.text().len(), 10);
        assert!(edit.overflow && !edit.is_exact());
    }
}
