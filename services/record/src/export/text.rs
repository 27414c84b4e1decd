//! Plain text: what the terminal showed, line by line, scrollback included.
//!
//! The output goes through a terminal model (`avt`); each line is written when it leaves the screen at the top, and what
//! is left on the screen at the end. Soft-wrapped rows are joined. Full-screen programs (the alternate screen) leave
//! no lines, as they leave none in a terminal's scrollback.

use super::asciicast::Utf8;
use super::{Exported, for_each};
use crate::error::ReadError;
use crate::event::Event;
use crate::reader::Reader;
use avt::parser::Function;
use avt::{Line, Observation, Observer, Operation, Terminal};
use std::io::Write;

/// A client chooses its size freely; the model's memory is proportional to it.
const MAX_COLS: u16 = 1000;
const MAX_ROWS: u16 = 500;

/// Writes the recording as text, lines ended by `\n`.
///
/// # Errors
/// If the recording cannot be read on or `out` cannot be written.
pub fn text(reader: &mut Reader, mut out: impl Write) -> Result<Exported, ReadError> {
    let (cols, rows) = bounded(reader.header().width, reader.header().height);
    let mut terminal =
        Terminal::new(cols, rows).map_err(|error| ReadError::Export(std::io::Error::other(error.to_string())))?;
    let mut utf8 = Utf8::default();
    let mut lines = Lines::default();
    let exported = for_each(reader, |entry| {
        match entry.event {
            Event::Output(bytes) => terminal.feed_with(utf8.feed(&bytes).text.as_str(), &mut lines),
            Event::Resize { cols, rows } => {
                let (cols, rows) = bounded(cols, rows);
                terminal.resize_with(cols, rows, &mut lines);
            }
            _ => {}
        }
        lines.write_to(&mut out)
    })?;
    terminal.feed_with(utf8.finish().text.as_str(), &mut lines);
    lines.screen(&terminal);
    lines.end_line();
    lines.write_to(&mut out).and_then(|()| out.flush()).map_err(ReadError::Export)?;
    Ok(exported)
}

fn bounded(cols: u16, rows: u16) -> (usize, usize) {
    (usize::from(cols.clamp(1, MAX_COLS)), usize::from(rows.clamp(1, MAX_ROWS)))
}

/// Text that is ready to be written. A logical line may be endless (soft wrap), so it is not collected first; only blanks
/// and empty lines are held back, until it is known that something follows them.
#[derive(Default)]
struct Lines {
    ready: String,
    blanks: usize,
    in_line: bool,
}

impl Lines {
    fn push(&mut self, line: &Line) {
        for ch in line.chars() {
            if ch == ' ' {
                self.blanks += 1;
            } else {
                self.ready.extend(std::iter::repeat_n(' ', std::mem::take(&mut self.blanks)));
                self.ready.push(ch);
            }
        }
        self.in_line = line.is_wrapped();
        if !self.in_line {
            self.blanks = 0;
            self.ready.push('\n');
        }
    }

    /// What is on the primary screen, without the empty lines below it.
    fn screen(&mut self, terminal: &Terminal) {
        let mut used = 0;
        for (row, line) in terminal.primary_screen().all_lines().enumerate() {
            if line.chars().any(|ch| ch != ' ') {
                used = row + 1;
            }
        }
        for line in terminal.primary_screen().all_lines().take(used) {
            self.push(line);
        }
    }

    fn end_line(&mut self) {
        if self.in_line {
            self.in_line = false;
            self.blanks = 0;
            self.ready.push('\n');
        }
    }

    fn write_to(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(self.ready.as_bytes())?;
        self.ready.clear();
        Ok(())
    }
}

impl Observer for Lines {
    type Output = ();

    fn before(&mut self, context: &mut Observation<'_>, operation: &Operation) {
        // A hard reset clears the screen without scrolling it out.
        if matches!(operation, Operation::Function(Function::Ris)) {
            self.screen(context.terminal());
            self.end_line();
        }
    }

    fn evicted(&mut self, _: &mut Observation<'_>, line: &Line) {
        self.push(line);
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}
