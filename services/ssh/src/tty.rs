//! The user's terminal, when the gateway itself talks to it: printing, and reading lines with editing. What must not be
//! here: what is printed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::Pty;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};
use zeroize::Zeroizing;

use crate::user::{Gone, UserChannel, UserInput, UserReader, UserWriter};

/// Characters of one typed line; more are ignored.
const MAX_LINE: usize = 1024;
/// Lines that the arrow keys bring back.
const HISTORY: usize = 50;

/// What kind of terminal it is.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    pub(crate) name: String,
    pub(crate) cols: u16,
    pub(crate) rows: u16,
    pub(crate) modes: Vec<(Pty, u32)>,
}

/// A line that was read.
pub(crate) enum Line {
    Text(Zeroizing<String>),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
    /// Nothing was typed for too long.
    Idle,
}

/// A terminal that the gateway talks to.
pub(crate) struct Tty {
    pub(crate) reader: UserReader,
    pub(crate) writer: UserWriter,
    pub(crate) term: Term,
    env: Vec<(String, String)>,
    /// Typed already, not read yet.
    ahead: BytesMut,
    history: Vec<String>,
}

impl Tty {
    pub(crate) fn new(channel: UserChannel, term: Term) -> Self {
        let env = channel.env.clone();
        let (reader, writer) = channel.split();
        Self { reader, writer, term, env, ahead: BytesMut::new(), history: Vec::new() }
    }

    /// What the client set, for what is started on the asset.
    pub(crate) fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// What was typed and not read as a line: belongs to whoever reads next.
    pub(crate) fn take_ahead(&mut self) -> Bytes {
        self.ahead.split().freeze()
    }

    /// Prints text; line feeds become what a terminal needs.
    pub(crate) async fn print(&self, text: &str) -> Result<(), Gone> {
        self.writer.data(crlf(text)).await
    }

    /// Reads a line. With `hide` nothing of it is shown nor remembered.
    pub(crate) async fn line(&mut self, prompt: &str, hide: bool, patience: Duration) -> Result<Line, Gone> {
        self.print(prompt).await?;
        let mut edit = Edit::new(hide);
        let mut recall = self.history.len();
        let deadline = tokio::time::Instant::now() + patience;
        let mut decode = Keys::default();
        loop {
            while !self.ahead.is_empty() {
                let byte = self.ahead.split_to(1).first().copied().unwrap_or_default();
                let Some(key) = decode.feed(byte) else { continue };
                match key {
                    Key::Enter => {
                        // A line feed that follows belongs to the same Enter.
                        if byte == b'\r' && self.ahead.first() == Some(&b'\n') {
                            let _ = self.ahead.split_to(1);
                        }
                        self.print("\n").await?;
                        let text = edit.text();
                        if !hide && !text.is_empty() && self.history.last().is_none_or(|l| *l != *text) {
                            self.history.push(text.to_string());
                            if self.history.len() > HISTORY {
                                self.history.remove(0);
                            }
                        }
                        return Ok(Line::Text(text));
                    }
                    Key::Interrupt => {
                        self.print("^C\n").await?;
                        return Ok(Line::Interrupt);
                    }
                    Key::End if edit.chars.is_empty() => {
                        self.print("\n").await?;
                        return Ok(Line::End);
                    }
                    Key::Up | Key::Down if !hide => {
                        recall = if matches!(key, Key::Up) {
                            recall.saturating_sub(1)
                        } else {
                            (recall + 1).min(self.history.len())
                        };
                        let line = self.history.get(recall).cloned().unwrap_or_default();
                        edit.chars = line.chars().collect();
                        edit.at = edit.chars.len();
                    }
                    other => edit.apply(&other),
                }
                if !hide {
                    self.redraw(prompt, &edit).await?;
                }
            }
            match tokio::time::timeout_at(deadline, self.reader.next()).await {
                Err(_) => return Ok(Line::Idle),
                Ok(None) => return Err(Gone),
                Ok(Some(UserInput::Data(data))) => self.ahead.extend_from_slice(&data),
                Ok(Some(UserInput::Eof)) => return Ok(Line::End),
                Ok(Some(UserInput::Resize(cols, rows))) => (self.term.cols, self.term.rows) = (cols, rows),
                Ok(Some(UserInput::Signal(_))) => {}
            }
        }
    }

    /// Draws the edited line anew: back to its start, the text, and the cursor to its place.
    async fn redraw(&self, prompt: &str, edit: &Edit) -> Result<(), Gone> {
        let last = prompt.rsplit('\n').next().unwrap_or(prompt);
        let text: String = edit.chars.iter().collect();
        let behind: usize = edit.chars.iter().skip(edit.at).map(|c| c.width().unwrap_or(0)).sum();
        let back = if behind > 0 { format!("\x1b[{behind}D") } else { String::new() };
        self.writer.data(format!("\r\x1b[K{last}{text}{back}")).await
    }
}

pub(crate) fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

/// `text` in exactly `width` columns: cut with a dot, or filled with blanks.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return format!("{text}{}", " ".repeat(width - text.width()));
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        out.push(c);
        used += w;
    }
    out.push('…');
    format!("{out}{}", " ".repeat(width.saturating_sub(used + 1)))
}

struct Edit {
    chars: Vec<char>,
    at: usize,
    hide: bool,
}

impl Drop for Edit {
    fn drop(&mut self) {
        if self.hide {
            self.chars.iter_mut().for_each(|c| *c = '\0');
        }
    }
}

impl Edit {
    fn new(hide: bool) -> Self {
        // Never grows, so no copy of a secret stays behind in freed memory.
        Self { chars: Vec::with_capacity(MAX_LINE), at: 0, hide }
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.chars.len() * 4));
        text.extend(self.chars.iter());
        text
    }

    fn apply(&mut self, key: &Key) {
        match key {
            Key::Char(c) if self.chars.len() < MAX_LINE => {
                self.chars.insert(self.at.min(self.chars.len()), *c);
                self.at += 1;
            }
            Key::Backspace if self.at > 0 => {
                self.at -= 1;
                self.chars.remove(self.at);
            }
            Key::Delete | Key::End if self.at < self.chars.len() => {
                self.chars.remove(self.at);
            }
            Key::Left => self.at = self.at.saturating_sub(1),
            Key::Right => self.at = (self.at + 1).min(self.chars.len()),
            Key::Home => self.at = 0,
            Key::ToEnd => self.at = self.chars.len(),
            Key::KillLine => {
                self.chars.drain(..self.at);
                self.at = 0;
            }
            Key::KillRest => self.chars.truncate(self.at),
            Key::KillWord => {
                let before = self.chars.get(..self.at).unwrap_or_default();
                let word = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |end| {
                    before.iter().take(end).rposition(|c| c.is_whitespace()).map_or(0, |blank| blank + 1)
                });
                self.chars.drain(word..self.at);
                self.at = word;
            }
            _ => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Key {
    Char(char),
    Enter,
    Interrupt,
    /// Ctrl-D.
    End,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    ToEnd,
    KillLine,
    KillRest,
    KillWord,
}

/// Bytes into keys: UTF-8 and the usual escape sequences. Anything else is dropped.
#[derive(Default)]
struct Keys {
    utf8: Vec<u8>,
    escape: Vec<u8>,
}

impl Keys {
    fn feed(&mut self, byte: u8) -> Option<Key> {
        if !self.escape.is_empty() {
            return self.escaped(byte);
        }
        if !self.utf8.is_empty() || byte >= 0x80 {
            return self.character(byte);
        }
        Some(match byte {
            b'\r' | b'\n' => Key::Enter,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::End,
            0x05 => Key::ToEnd,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            0x0b => Key::KillRest,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::KillLine,
            0x17 => Key::KillWord,
            0x1b => {
                self.escape.push(byte);
                return None;
            }
            0x20..=0x7e => Key::Char(char::from(byte)),
            _ => return None,
        })
    }

    fn character(&mut self, byte: u8) -> Option<Key> {
        self.utf8.push(byte);
        match std::str::from_utf8(&self.utf8) {
            Ok(text) => {
                let c = text.chars().next();
                self.utf8.clear();
                c.filter(|c| !c.is_control()).map(Key::Char)
            }
            Err(error) if error.error_len().is_some() || self.utf8.len() >= 4 => {
                self.utf8.clear();
                None
            }
            Err(_) => None,
        }
    }

    fn escaped(&mut self, byte: u8) -> Option<Key> {
        self.escape.push(byte);
        let more = match self.escape.as_slice() {
            [_, b'[' | b'O'] => true,
            [_, b'[', rest @ ..] => rest.last().is_some_and(|b| (0x20..=0x3f).contains(b)) && rest.len() < 16,
            _ => false,
        };
        if more {
            return None;
        }
        let key = match self.escape.as_slice() {
            [_, b'[' | b'O', b'A'] => Some(Key::Up),
            [_, b'[' | b'O', b'B'] => Some(Key::Down),
            [_, b'[' | b'O', b'C'] => Some(Key::Right),
            [_, b'[' | b'O', b'D'] => Some(Key::Left),
            [_, b'[' | b'O', b'H'] | [_, b'[', b'1' | b'7', b'~'] => Some(Key::Home),
            [_, b'[' | b'O', b'F'] | [_, b'[', b'4' | b'8', b'~'] => Some(Key::ToEnd),
            [_, b'[', b'3', b'~'] => Some(Key::Delete),
            _ => None,
        };
        self.escape.clear();
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(bytes: &[u8]) -> String {
        let (mut keys, mut edit) = (Keys::default(), Edit::new(false));
        for byte in bytes {
            if let Some(key) = keys.feed(*byte) {
                edit.apply(&key);
            }
        }
        edit.text().to_string()
    }

    #[test]
    fn lines_are_edited_as_people_are_used_to() {
        assert_eq!(typed(b"helo\x1b[Dl"), "hello");
        assert_eq!(typed(b"abc\x7f\x7fx"), "ax");
        assert_eq!(typed(b"one two  \x17three"), "one three");
        assert_eq!(typed(b"abc\x15x"), "x");
        assert_eq!(typed(b"abc\x01\x0bx"), "x");
        assert_eq!(typed(b"bc\x1b[Ha\x1b[Fd"), "abcd");
        assert_eq!(typed(b"abc\x01\x1b[3~"), "bc");
        assert_eq!(typed("数据库\x7f".as_bytes()), "数据");
        assert_eq!(typed(b"a\x1b[1;5Cb\x1b[200~c"), "abc");
    }

    #[test]
    fn columns_count_wide_characters_twice() {
        assert_eq!(fit("web1", 6), "web1  ");
        assert_eq!(fit("数据库服务器", 7), "数据库…");
        assert_eq!(fit("数据库服务器", 6), "数据… ");
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(typed(&bytes).chars().all(|c| !c.is_control()));
        }

        #[test]
        fn a_column_is_as_wide_as_asked(text in "\\PC{0,40}", width in 2usize..40) {
            prop_assert_eq!(fit(&text, width).width(), width);
        }
    }
}
