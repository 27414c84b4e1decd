//! Reading the edited line off the screen.
//!
//! What lives here: where the line starts (a mark, the place of the cursor before the first key, or the prompt's text found
//! again), where it ends, what in it is decoration (right prompts, suggestions). What must not: keys, decisions.

use unicode_width::UnicodeWidthStr;

use super::{
    screen::{GHOST, INVERSE, Place, Row},
    terminal::State,
};

/// How far above the cursor a prompt is looked for, in rows.
const SEARCH_ROWS: u64 = 4096;

/// Where a line began, noted before its first key.
#[derive(Debug, Clone)]
pub(super) struct LineStart {
    pub(super) place: Place,
    pub(super) alternate: bool,
    /// What stands in front of `place` in its row.
    pub(super) prompt: String,
    /// What stands at the right edge of that row: column and text.
    right: Option<(usize, String)>,
    /// The first key came before a prompt: the place says little.
    pub(super) early: bool,
}

/// How the start of the line was found, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Search,
    Mark,
    Prompt,
    Place,
    Guess,
}

/// A line as shown.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) text: String,
    /// With the rows below the cursor's line that may belong to it.
    pub(super) longer: Option<String>,
    pub(super) prompt: String,
    pub(super) via: Via,
    /// Its start is gone or it fills the screen: the text may have holes.
    pub(super) overflow: bool,
    pub(super) truncated: bool,
    /// Identity of the last row.
    pub(super) end_row: u64,
    /// Characters other than blanks before the cursor.
    pub(super) before_cursor: usize,
}

/// Note the start of a line at the cursor. `last` is the prompt of the line before: when the new one only starts with it, the
/// rest is text that the shell put into the editor (Ctrl-O, `print -z`).
pub(super) fn start(state: &State, last: Option<&str>, early: bool) -> LineStart {
    let mut place = state.screen.cursor();
    let empty = Row::default();
    let row = state.screen.row(place.row).unwrap_or(&empty);
    let (left, _) = pane(state, place.row, place.col);
    let mut prompt = padded(row, left, place.col);
    if let Some(last) = last
        && !last.trim().is_empty()
        && prompt.len() > last.len()
        && prompt.starts_with(last)
        // Prompts side by side, because Enter was not shown.
        && !prompt.ends_with(last)
        && super::prompt::takes_commands(last)
    {
        place.col = left + last.width();
        prompt = last.to_owned();
    }
    let right = right_text(row, place.col.max(state.screen.cursor().col));
    LineStart { place, alternate: state.alternate(), prompt, right, early }
}

/// A line whose start was missed: the row of the cursor, or the one below, from its left edge.
pub(super) fn unknown_start(state: &State, below: bool) -> LineStart {
    let cursor = state.screen.cursor();
    let lines = Lines { state, pane: pane(state, cursor.row, cursor.col) };
    let row = if below { cursor.row + 1 } else { lines.head(cursor.row) };
    let place = Place { row, col: lines.pane.0 };
    LineStart { place, alternate: state.alternate(), prompt: String::new(), right: None, early: true }
}

/// Text after a gap, at the right end of the row.
fn right_text(row: &Row, from: usize) -> Option<(usize, String)> {
    let first = row.cells.iter().enumerate().skip(from).find(|(_, cell)| !matches!(cell.ch, '\0' | ' '))?.0;
    (first > from).then(|| (first, row.text(first, row.filled())))
}

/// The text of a row's columns with blanks where nothing was written, to the full width.
fn padded(row: &Row, from: usize, to: usize) -> String {
    let mut text = row.text(from, to);
    let have = row.cells.len().clamp(from, to.max(from));
    text.extend(std::iter::repeat_n(' ', to.saturating_sub(have)));
    text
}

fn frames(row: Option<&Row>, col: usize) -> bool {
    row.and_then(|row| row.cells.get(col))
        .is_some_and(|cell| matches!(cell.ch, '│' | '┃' | '|' | '├' | '┤' | '┼' | '┬' | '┴'))
}

/// The columns of the pane around `col`: a multiplexer frames its panes with vertical lines.
fn pane(state: &State, row: u64, col: usize) -> (usize, usize) {
    let screen = &state.screen;
    if !state.alternate() {
        return (0, usize::MAX);
    }
    let border = |col: usize| {
        let line = screen.row(row).and_then(|row| row.cells.get(col)).is_some_and(|cell| matches!(cell.ch, '│' | '┃'));
        line && (frames(screen.row(row + 1), col) || row.checked_sub(1).is_some_and(|row| frames(screen.row(row), col)))
    };
    let left = (0..col.min(screen.cols)).rev().find(|&col| border(col)).map_or(0, |col| col + 1);
    let right = (col..screen.cols).find(|&col| border(col)).unwrap_or(usize::MAX);
    (left, right)
}

/// The line around the cursor. `known` are prompts seen before, newest first.
pub(super) fn read(state: &State, start: &LineStart, known: &[String], limit: usize) -> Option<Reading> {
    read_at(state, start, known, limit, state.screen.cursor())
}

/// As [`read`], with the cursor where it was when the line was complete.
pub(super) fn read_at(
    state: &State,
    start: &LineStart,
    known: &[String],
    limit: usize,
    cursor: Place,
) -> Option<Reading> {
    if start.alternate != state.alternate() {
        return None;
    }
    let lines = Lines { state, pane: pane(state, cursor.row, cursor.col) };
    let head = lines.head(cursor.row);
    if let Some((text, end_row)) = lines.search(head, limit) {
        let prompt = start.prompt.clone();
        return Some(Reading {
            text,
            longer: None,
            prompt,
            via: Via::Search,
            overflow: false,
            truncated: false,
            end_row,
            before_cursor: 0,
        });
    }
    let (from, prompt, via) = lines.locate(cursor, start, known)?;
    let right = start.right.as_ref().filter(|_| via != Via::Guess);
    let end = lines.tail(cursor.row);
    let mut text = lines.text(from, end, right, cursor, limit);
    let truncated = text.1;
    let below = (end + 1..=state.screen.last_row())
        .take_while(|&id| state.screen.row(id).is_some_and(|row| !row.is_blank()))
        .last();
    let longer = below.map(|below| lines.text(from, below, right, cursor, limit).0);
    if prompt.trim() == ">>>" {
        // Python repeats its continuation prompt inside one edited block.
        text.0 = text.0.replace("\n... ", "\n").replace("\n...", "\n");
    }
    let overflow = from.row < state.screen.first_visible() || from.row <= state.screen.first_row() && via == Via::Guess;
    let before_cursor = (from.row..=cursor.row)
        .filter_map(|id| Some((id, state.screen.row(id)?)))
        .map(|(id, row)| {
            let begin = if id == from.row { from.col } else { lines.pane.0 };
            let stop = if id == cursor.row { cursor.col } else { lines.pane.1.min(row.filled()) };
            row.text(begin, stop).chars().filter(|c| !c.is_whitespace()).count()
        })
        .sum();
    Some(Reading { text: text.0, longer, prompt, via, overflow, truncated, end_row: end, before_cursor })
}

/// The line of the cursor from the left edge of its pane, for full-screen programs: text, and whether it ends in the last
/// row that a program has (nothing below it, or only a status line).
pub(super) fn bottom_line(state: &State, limit: usize) -> (String, bool) {
    let cursor = state.screen.cursor();
    let lines = Lines { state, pane: pane(state, cursor.row, cursor.col) };
    let end = lines.tail(cursor.row);
    let mut head = lines.head(cursor.row);
    // A command line of several rows is drawn row by row, without wrapping marks.
    while head > state.screen.first_visible() && lines.full(head - 1) && !lines.row_text(head).starts_with([':', '!']) {
        head -= 1;
    }
    let text = lines.text(Place { row: head, col: lines.pane.0 }, end, None, cursor, limit).0;
    let below: Vec<&Row> = (end + 1..=state.screen.last_row()).filter_map(|id| state.screen.row(id)).collect();
    let bottom = match below.as_slice() {
        [] => true,
        rows if rows.iter().all(|row| row.is_blank()) => true,
        [next, ..] => {
            let (left, right) = lines.pane;
            let edge = next.cells.iter().skip(left).take(right.saturating_sub(left).min(20));
            let framed =
                next.text(left, right.min(next.filled())).trim_start().starts_with(['─', '┌', '├', '└', '━', '┴']);
            framed
                || (below.len() == 1 && status_line(next))
                || (below.len() == 1 && edge.clone().any(|cell| cell.style & INVERSE != 0))
        }
    };
    (text, bottom)
}

/// A multiplexer's status line: tmux's `[session] 0:window*`.
pub(super) fn status_line(row: &Row) -> bool {
    let text = row.text(0, row.filled());
    let text = text.trim_start();
    let Some(rest) = text.strip_prefix('[') else { return false };
    let Some((name, rest)) = rest.split_once(']') else { return false };
    let rest = rest.trim_start();
    !name.is_empty() && rest.chars().next().is_some_and(|c| c.is_ascii_digit()) && rest.contains(':')
}

struct Lines<'a> {
    state: &'a State,
    pane: (usize, usize),
}

impl Lines<'_> {
    fn row(&self, id: u64) -> Option<&Row> {
        self.state.screen.row(id)
    }

    fn row_text(&self, id: u64) -> String {
        self.row(id).map(|row| row.text(self.pane.0, self.pane.1.min(row.filled()))).unwrap_or_default()
    }

    /// The row reaches its right edge and the next one has text: editors that draw row by row leave no other sign.
    fn full(&self, id: u64) -> bool {
        let edge = self.pane.1.min(self.state.screen.cols).saturating_sub(1);
        self.row(id).is_some_and(|row| {
            row.cells.get(edge).is_some_and(|cell| !matches!(cell.ch, '\0' | ' ') || cell.width == 0)
        }) && self.row(id + 1).is_some_and(|row| !row.is_blank())
    }

    fn goes_on(&self, id: u64) -> bool {
        self.row(id).is_some_and(|row| row.wrapped) || self.full(id)
    }

    /// First row of the logical line of `row`, by the terminal's own wrapping.
    fn head(&self, mut row: u64) -> u64 {
        while row > self.state.screen.first_row() && self.row(row - 1).is_some_and(|row| row.wrapped) {
            row -= 1;
        }
        row
    }

    /// Last row of the logical line of `row`.
    fn tail(&self, mut row: u64) -> u64 {
        while row < self.state.screen.last_row() && self.goes_on(row) {
            row += 1;
        }
        row
    }

    /// Readline's incremental search: "(reverse-i-search)`pattern': command".
    fn search(&self, head: u64, limit: usize) -> Option<(String, u64)> {
        let first = self.row_text(head);
        let opening = first.strip_prefix('(')?;
        if !opening.split(')').next()?.ends_with("i-search") {
            return None;
        }
        let end = self.tail(head);
        let (text, _) =
            self.text(Place { row: head, col: self.pane.0 }, end, None, Place { row: u64::MAX, col: 0 }, limit);
        let (_, found) = text.split_once("': ")?;
        Some((found.trim_end().to_owned(), end))
    }

    fn locate(&self, cursor: Place, start: &LineStart, known: &[String]) -> Option<(Place, String, Via)> {
        let left = self.pane.0;
        let matches = |id: u64, prompt: &str| {
            let width = prompt.width();
            self.row(id).is_some_and(|row| padded(row, left, left + width) == prompt)
        };
        if let Some(mark) = self.state.prompt_mark
            && mark <= cursor
            && self.row(mark.row).is_some()
        {
            let prompt = self.row(mark.row).map(|row| row.text(left, mark.col)).unwrap_or_default();
            return Some((mark, prompt, Via::Mark));
        }
        let lowest = cursor.row.saturating_sub(SEARCH_ROWS).max(self.state.screen.first_row());
        let head = self.head(cursor.row);
        if start.early
            && let Some(prompt) = known.iter().find(|prompt| !prompt.trim().is_empty() && matches(head, prompt))
        {
            let place = Place { row: head, col: left + prompt.width() };
            return Some((place, prompt.clone(), Via::Prompt));
        }
        if !start.prompt.trim().is_empty() {
            // From the cursor up: after a redraw the nearest copy of the prompt is the living one.
            let stop = start.place.row.max(lowest).min(cursor.row);
            let found = (stop..=cursor.row).rev().find(|&id| matches(id, &start.prompt));
            if let Some(row) = found {
                let via = if row == start.place.row { Via::Place } else { Via::Prompt };
                let place = Place { row, col: left + start.prompt.width() };
                if place <= cursor {
                    return Some((place, start.prompt.clone(), via));
                }
            }
        } else if start.place <= cursor && self.row(start.place.row).is_some() {
            return Some((start.place, start.prompt.clone(), Via::Place));
        }
        if let Some(prompt) = known.iter().find(|prompt| !prompt.trim().is_empty() && matches(head, prompt)) {
            let place = Place { row: head, col: left + prompt.width() };
            if place <= cursor {
                return Some((place, prompt.clone(), Via::Prompt));
            }
        }
        if start.place <= cursor && self.row(start.place.row).is_some() && !self.state.alternate() {
            return Some((start.place, start.prompt.clone(), Via::Guess));
        }
        // The prompt is unknown and what was known is gone: its sign, if the line has one.
        let line = self.row_text(head);
        let sign = line.char_indices().find(|&(at, c)| {
            matches!(c, '$' | '#' | '%' | '>' | '❯' | '»')
                && line.get(at + c.len_utf8()..).is_some_and(|rest| rest.starts_with(' '))
        });
        let (at, c) = sign?;
        let prompt = line.get(..at + c.len_utf8() + 1)?.to_owned();
        let place = Place { row: head, col: left + prompt.width() };
        (place <= cursor).then_some((place, prompt, Via::Guess))
    }

    /// Text from `from` to the end of row `end`; true when it was cut at `limit` characters.
    fn text(
        &self,
        from: Place,
        end: u64,
        right: Option<&(usize, String)>,
        cursor: Place,
        limit: usize,
    ) -> (String, bool) {
        let mut out = String::new();
        let mut left = limit;
        for id in from.row..=end {
            let Some(row) = self.row(id) else { continue };
            let begin = if id == from.row { from.col } else { self.pane.0 };
            let mut stop = row.filled().min(self.pane.1);
            if id == from.row
                && let Some((col, text)) = right
                && *col >= begin
                && row.text(*col, stop) == *text
            {
                stop = *col;
            }
            let goes_on = id < end && self.goes_on(id);
            if !goes_on && id >= cursor.row {
                stop = self.without_suggestion(row, id, begin, stop, from, cursor);
            }
            let text = row.text(begin, stop);
            for c in text.chars() {
                let Some(rest) = left.checked_sub(1) else { return (out, true) };
                left = rest;
                out.push(c);
            }
            if !goes_on && id < end {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
            }
        }
        out.truncate(out.trim_end().len());
        (out, false)
    }

    /// Grey text behind the cursor up to the end is a suggestion that Enter does not take, when the text before the cursor
    /// is not grey.
    fn without_suggestion(&self, row: &Row, id: u64, begin: usize, stop: usize, from: Place, cursor: Place) -> usize {
        if id != cursor.row || cursor.col >= stop {
            return stop;
        }
        let before_grey = if cursor.col > begin {
            row.cells.get(cursor.col - 1).is_none_or(|cell| cell.style & GHOST != 0)
        } else {
            id == from.row
        };
        let after = row.cells.get(cursor.col..stop).unwrap_or_default();
        let grey = after.iter().all(|cell| cell.style & GHOST != 0 || matches!(cell.ch, '\0' | ' '));
        if grey && !before_grey { cursor.col } else { stop }
    }
}
