//! asciicast v2 (<https://docs.asciinema.org/manual/asciicast/v2/>): a JSON header line, then one JSON line per event.
//!
//! An asciicast is JSON and thus text, a terminal gets bytes. How arbitrary bytes are carried without loss:
//! * A character whose bytes were split over events is written whole, with the event that completes it.
//! * Bytes that are no UTF-8 become U+FFFD, as a terminal shows them; the line is then followed by
//!   `[time, "b", "BASE64"]` with the exact bytes that the line before stands for. Players ignore event codes that
//!   they do not know, as the format demands. So the exact stream is: of each `"o"` line the UTF-8 bytes of its text,
//!   or, if a `"b"` line follows, the bytes of that one. The same goes for `"i"`.

use super::{Exported, for_each};
use crate::error::ReadError;
use crate::event::{Entry, Event};
use crate::reader::Reader;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// What goes into an asciicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CastOptions {
    /// Also what the user typed (`"i"` events), passwords included. Off by default.
    pub input: bool,
    /// `"b"` events for bytes that are no UTF-8 (see the module's comment). On by default.
    pub exact_bytes: bool,
}

impl Default for CastOptions {
    fn default() -> Self {
        Self { input: false, exact_bytes: true }
    }
}

/// Writes the recording as asciicast v2: output, sizes (`"r"`), and commands and marks (`"m"`).
///
/// # Errors
/// If the recording cannot be read on or `out` cannot be written.
pub fn asciicast(reader: &mut Reader, out: impl Write) -> Result<Exported, ReadError> {
    asciicast_with(reader, out, CastOptions::default())
}

/// [`asciicast`] with options.
///
/// # Errors
/// As [`asciicast`].
pub fn asciicast_with(reader: &mut Reader, mut out: impl Write, options: CastOptions) -> Result<Exported, ReadError> {
    write_header(reader, &mut out).map_err(ReadError::Export)?;
    let mut cast = Cast { out, options, output: Utf8::default(), input: Utf8::default(), last: Duration::ZERO };
    let exported = for_each(reader, |entry| cast.entry(&entry))?;
    cast.finish().map_err(ReadError::Export)?;
    Ok(exported)
}

fn write_header(reader: &Reader, out: &mut impl Write) -> io::Result<()> {
    let header = reader.header();
    let mut fields = Map::new();
    fields.insert("version".into(), json!(2));
    fields.insert("width".into(), json!(header.width));
    fields.insert("height".into(), json!(header.height));
    fields.insert("timestamp".into(), json!(header.started.timestamp()));
    if let Some(title) = &header.title {
        fields.insert("title".into(), json!(title));
    }
    let mut env = Map::new();
    env.insert("TERM".into(), json!(header.term));
    if let Some(shell) = &header.shell {
        env.insert("SHELL".into(), json!(shell));
    }
    fields.insert("env".into(), Value::Object(env));
    serde_json::to_writer(&mut *out, &fields)?;
    out.write_all(b"\n")
}

struct Cast<W> {
    out: W,
    options: CastOptions,
    output: Utf8,
    input: Utf8,
    last: Duration,
}

impl<W: Write> Cast<W> {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.last = entry.at;
        match &entry.event {
            Event::Output(bytes) => {
                let piece = self.output.feed(bytes);
                self.stream("o", &piece)
            }
            Event::Input(bytes) if self.options.input => {
                let piece = self.input.feed(bytes);
                self.stream("i", &piece)
            }
            Event::Resize { cols, rows } => self.line("r", &format!("{cols}x{rows}")),
            Event::Command { text, .. } | Event::Marker(text) => self.line("m", text),
            Event::File { op, path, .. } => self.line("m", &format!("{op} {path}")),
            Event::Pause => self.line("m", "session paused"),
            Event::Resume => self.line("m", "session resumed"),
            Event::Input(_) => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let (output, input) = (self.output.finish(), self.input.finish());
        self.stream("o", &output)?;
        self.stream("i", &input)?;
        self.out.flush()
    }

    fn stream(&mut self, code: &str, piece: &Piece) -> io::Result<()> {
        if !piece.text.is_empty() {
            self.line(code, &piece.text)?;
        }
        match &piece.exact {
            Some(bytes) if self.options.exact_bytes => self.line("b", &STANDARD.encode(bytes)),
            _ => Ok(()),
        }
    }

    fn line(&mut self, code: &str, data: &str) -> io::Result<()> {
        write!(self.out, "[{}.{:06},\"{code}\",", self.last.as_secs(), self.last.subsec_micros())?;
        serde_json::to_writer(&mut self.out, data)?;
        self.out.write_all(b"]\n")
    }
}

/// Text of a piece of a stream, and its exact bytes if the text does not stand for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) exact: Option<Vec<u8>>,
}

/// Decodes a stream of bytes that may cut characters anywhere.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character, at most three bytes.
    carry: Vec<u8>,
}

impl Utf8 {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Piece {
        let joined;
        let mut rest = if self.carry.is_empty() {
            bytes
        } else {
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(bytes);
            joined = carry;
            &joined
        };
        if let Some(start) = unfinished(rest)
            && let Some((whole, carry)) = rest.split_at_checked(start)
        {
            rest = whole;
            self.carry = carry.to_vec();
        }
        decode(rest)
    }

    /// What is left at the end of the stream: the beginning of a character that never came.
    pub(super) fn finish(&mut self) -> Piece {
        decode(&std::mem::take(&mut self.carry))
    }
}

fn decode(bytes: &[u8]) -> Piece {
    match std::str::from_utf8(bytes) {
        Ok(text) => Piece { text: text.to_owned(), exact: None },
        Err(_) => Piece { text: String::from_utf8_lossy(bytes).into_owned(), exact: Some(bytes.to_vec()) },
    }
}

/// Where a character starts that the bytes do not finish, if they end in one.
fn unfinished(bytes: &[u8]) -> Option<usize> {
    let last = bytes.utf8_chunks().last()?;
    let tail = last.invalid();
    match std::str::from_utf8(tail) {
        // No length: the bytes are the proper beginning of a character.
        Err(error) if error.error_len().is_none() => bytes.len().checked_sub(tail.len()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_split_anywhere_come_out_whole() {
        let text = "a\u{e9}\u{4e2d}\u{1f600}z";
        for size in 1..=text.len() {
            let mut utf8 = Utf8::default();
            let pieces: Vec<Piece> = text.as_bytes().chunks(size).map(|chunk| utf8.feed(chunk)).collect();
            assert_eq!(utf8.finish(), Piece::default());
            assert!(pieces.iter().all(|piece| piece.exact.is_none()), "size {size}");
            assert_eq!(pieces.into_iter().map(|piece| piece.text).collect::<String>(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_beside_it() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.feed(b"a\xff"), Piece { text: "a\u{fffd}".into(), exact: Some(b"a\xff".to_vec()) });
        assert_eq!(utf8.feed(b"\xe4\xb8"), Piece::default(), "may still become a character");
        assert_eq!(utf8.feed(b"x"), Piece { text: "\u{fffd}x".into(), exact: Some(b"\xe4\xb8x".to_vec()) });
        assert_eq!(utf8.feed(b"\xf0\x9f"), Piece::default());
        assert_eq!(utf8.finish(), Piece { text: "\u{fffd}".into(), exact: Some(b"\xf0\x9f".to_vec()) });
    }
}
