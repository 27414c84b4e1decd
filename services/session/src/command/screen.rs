//! The terminal model: a grid of cells that remembers what a command line needs and costs little when idle.
//!
//! What lives here: rows, cursor, scrolling, and the rows kept above the screen while a line is edited. What must not:
//! escape sequences (`terminal`), prompts, keys.
//!
//! Why not a ready-made emulator: their screens are dense (30 KiB for 80x24, before scrollback), drop combining characters,
//! and know neither which rows a caller still needs nor where a row went. Rows here are as long as they are filled
//! and have an identity that survives scrolling.

use std::collections::VecDeque;

use unicode_width::UnicodeWidthChar;

/// The cell looks like a suggestion: faint or grey.
pub(super) const GHOST: u8 = 1;
/// Reversed video.
pub(super) const INVERSE: u8 = 2;

/// Combining characters kept per row; more are dropped, as no language needs them and a stream could be all of them.
const MAX_MARKS: usize = 512;
/// Rows kept above the screen at most, whatever their length.
const MAX_KEPT_ROWS: usize = 32_768;

/// One column. `'\0'` was never written or is erased (or is the right half of a wide character, width 0).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) ch: char,
    pub(super) style: u8,
    pub(super) width: u8,
}

impl Cell {
    const BLANK: Self = Self { ch: '\0', style: 0, width: 1 };
}

/// Combining characters by column; boxed, because hardly any row has them.
type Marks = Vec<(u16, char)>;

#[derive(Default)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    /// The text goes on in the next row because it reached the right edge.
    pub(super) wrapped: bool,
    marks: Option<Box<Marks>>,
}

impl Row {
    /// The text of the columns `from..to`, erased cells as blanks.
    pub(super) fn text(&self, from: usize, to: usize) -> String {
        let mut out = String::new();
        for (col, cell) in self.cells.iter().enumerate().take(to).skip(from) {
            if cell.width == 0 {
                continue;
            }
            out.push(if cell.ch == '\0' { ' ' } else { cell.ch });
            if let Some(marks) = &self.marks {
                out.extend(marks.iter().filter(|mark| usize::from(mark.0) == col).map(|mark| mark.1));
            }
        }
        out
    }

    /// Columns up to the last one that was written.
    pub(super) fn filled(&self) -> usize {
        self.cells.iter().rposition(|cell| cell.ch != '\0' || cell.width == 0).map_or(0, |last| last + 1)
    }

    pub(super) fn is_blank(&self) -> bool {
        self.cells.iter().all(|cell| matches!(cell.ch, '\0' | ' '))
    }

    fn clear(&mut self, from: usize, to: usize) {
        // Half a wide character cannot stay.
        let from = if self.cells.get(from).is_some_and(|cell| cell.width == 0) { from.saturating_sub(1) } else { from };
        let to = if self.cells.get(to).is_some_and(|cell| cell.width == 0) { to + 1 } else { to };
        if to >= self.cells.len() {
            self.cells.truncate(from);
            self.wrapped = false;
        } else {
            for cell in self.cells.iter_mut().take(to).skip(from) {
                *cell = Cell::BLANK;
            }
        }
        if let Some(marks) = &mut self.marks {
            marks.retain(|mark| usize::from(mark.0) < from || usize::from(mark.0) >= to);
        }
    }

    fn grow(&mut self, len: usize) {
        if self.cells.len() < len {
            // Exact growth in steps: a prompt should not cost a screen's width.
            if self.cells.capacity() < len {
                self.cells.reserve_exact((len.next_multiple_of(16)) - self.cells.len());
            }
            self.cells.resize(len, Cell::BLANK);
        }
    }

    fn put(&mut self, col: usize, ch: char, width: usize, style: u8) {
        self.grow(col + width);
        // Overwriting a half of a wide character erases the other half.
        if self.cells.get(col).is_some_and(|cell| cell.width == 0)
            && let Some(head) = col.checked_sub(1).and_then(|head| self.cells.get_mut(head))
        {
            *head = Cell::BLANK;
        }
        if let Some(tail) = self.cells.get_mut(col + width).filter(|cell| cell.width == 0) {
            *tail = Cell::BLANK;
        }
        if let Some(cell) = self.cells.get_mut(col) {
            *cell = Cell { ch, style, width: if width == 2 { 2 } else { 1 } };
        }
        if width == 2
            && let Some(cell) = self.cells.get_mut(col + 1)
        {
            *cell = Cell { ch: '\0', style, width: 0 };
        }
        if let Some(marks) = &mut self.marks {
            marks.retain(|mark| usize::from(mark.0) < col || usize::from(mark.0) >= col + width);
        }
    }

    fn mark(&mut self, col: usize, ch: char) {
        let marks = self.marks.get_or_insert_default();
        if marks.len() < MAX_MARKS
            && let Ok(col) = u16::try_from(col)
        {
            marks.push((col, ch));
        }
    }

    fn shift_marks(&mut self, from: usize, by: isize) {
        if let Some(marks) = &mut self.marks {
            marks.retain_mut(|mark| {
                if usize::from(mark.0) < from {
                    return true;
                }
                match usize::from(mark.0).checked_add_signed(by).and_then(|col| u16::try_from(col).ok()) {
                    Some(col) if usize::from(col) >= from => {
                        mark.0 = col;
                        true
                    }
                    _ => false,
                }
            });
        }
    }
}

/// A place in the text: the row's identity and the column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) row: u64,
    pub(super) col: usize,
}

/// The text a command prints, gathered from rows when they leave the screen.
#[derive(Default)]
pub(super) struct Collector {
    /// The first row that belongs to the output; `None` when nothing is gathered.
    pub(super) from: Option<u64>,
    pub(super) text: String,
    pub(super) cut: bool,
    pub(super) limit: usize,
}

impl Collector {
    pub(super) fn start(&mut self, from: u64) {
        self.from = Some(from);
        self.text = String::new();
        self.cut = false;
    }

    pub(super) fn stop(&mut self) -> (String, bool) {
        self.from = None;
        let text = std::mem::take(&mut self.text);
        (text.trim_end().to_owned(), std::mem::take(&mut self.cut))
    }

    /// Whether more text would still be kept.
    pub(super) fn wants(&self) -> bool {
        self.from.is_some() && !self.cut
    }

    pub(super) fn take(&mut self, id: u64, row: &Row) {
        if self.cut || self.from.is_none_or(|from| id < from) {
            return;
        }
        let mut text = row.text(0, row.filled());
        if !row.wrapped {
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        let room = self.limit.saturating_sub(self.text.len());
        if text.len() > room {
            text.truncate((0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0));
            self.cut = true;
        }
        self.text.push_str(&text);
    }
}

/// The grid. Rows `0..top` of `rows` are above the screen, the rest is the screen.
pub(super) struct Screen {
    rows: VecDeque<Row>,
    /// Identity of `rows[0]`.
    base: u64,
    top: usize,
    pub(super) cols: usize,
    pub(super) height: usize,
    pub(super) x: usize,
    pub(super) y: usize,
    /// The last column was written: the next character goes to the next row.
    pub(super) wrap_next: bool,
    pub(super) style: u8,
    saved: (usize, usize, u8),
    margin_top: usize,
    /// Last row of the scrolling region.
    margin_bottom: usize,
    /// Rows from here on stay when they leave the screen.
    keep: Option<u64>,
    kept_cells: usize,
    max_cells: usize,
    pub(super) collector: Collector,
    /// The alternate screen has no history.
    alternate: bool,
}

impl Screen {
    pub(super) fn new(cols: usize, height: usize, max_cells: usize, alternate: bool) -> Self {
        let mut rows = VecDeque::with_capacity(height + 1);
        rows.resize_with(height, Row::default);
        Self {
            rows,
            base: 0,
            top: 0,
            cols,
            height,
            x: 0,
            y: 0,
            wrap_next: false,
            style: 0,
            saved: (0, 0, 0),
            margin_top: 0,
            margin_bottom: height.saturating_sub(1),
            keep: None,
            kept_cells: 0,
            max_cells,
            collector: Collector::default(),
            alternate,
        }
    }

    pub(super) fn cursor(&self) -> Place {
        Place { row: self.id(self.y), col: self.x + usize::from(self.wrap_next) }
    }

    fn id(&self, y: usize) -> u64 {
        self.base + (self.top + y) as u64
    }

    /// The row with this identity, if it still exists.
    pub(super) fn row(&self, id: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(id.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn first_row(&self) -> u64 {
        self.base
    }

    pub(super) fn first_visible(&self) -> u64 {
        self.id(0)
    }

    pub(super) fn last_row(&self) -> u64 {
        self.base + (self.rows.len().saturating_sub(1)) as u64
    }

    /// Keep rows from `id` on when they scroll away; `None` lets them go.
    pub(super) fn keep_from(&mut self, id: Option<u64>) {
        self.keep = id;
        self.trim();
        if id.is_none() && self.rows.capacity() > 4 * (self.height + 1) {
            self.rows.shrink_to(self.height + 1);
        }
    }

    fn trim(&mut self) {
        while self.top > 0
            && (self.keep.is_none_or(|keep| self.base < keep)
                || self.kept_cells > self.max_cells
                || self.top > MAX_KEPT_ROWS)
        {
            let Some(row) = self.rows.pop_front() else { return };
            self.kept_cells = self.kept_cells.saturating_sub(row.cells.len());
            if !self.alternate {
                self.collector.take(self.base, &row);
            }
            self.base += 1;
            self.top -= 1;
        }
    }

    /// Give the output on the screen up to row `end` (exclusive) to the collector.
    pub(super) fn collect_until(&mut self, end: u64) {
        let from = self.collector.from.unwrap_or(u64::MAX).max(self.base);
        let mut collector = std::mem::take(&mut self.collector);
        for id in from..end.min(self.last_row() + 1) {
            if let Some(row) = self.row(id) {
                collector.take(id, row);
            }
        }
        self.collector = collector;
    }

    fn line(&mut self, y: usize) -> Option<&mut Row> {
        self.rows.get_mut(self.top + y)
    }

    pub(super) fn resize(&mut self, cols: usize, height: usize) {
        self.cols = cols;
        while self.height > height {
            if self.y + 1 < self.height {
                self.rows.pop_back();
            } else {
                self.kept_cells += self.rows.get(self.top).map_or(0, |row| row.cells.len());
                self.top += 1;
                self.y = self.y.saturating_sub(1);
            }
            self.height -= 1;
        }
        while self.height < height {
            self.rows.push_back(Row::default());
            self.height += 1;
        }
        self.x = self.x.min(cols.saturating_sub(1));
        self.wrap_next = false;
        self.margins(0, height.saturating_sub(1));
        self.trim();
    }

    pub(super) fn margins(&mut self, top: usize, bottom: usize) {
        let bottom = bottom.min(self.height.saturating_sub(1));
        (self.margin_top, self.margin_bottom) =
            if top < bottom { (top, bottom) } else { (0, self.height.saturating_sub(1)) };
    }

    pub(super) fn print(&mut self, ch: char, autowrap: bool, insert: bool) {
        let Some(width) = ch.width() else { return };
        if width == 0 {
            let col = if self.wrap_next { self.x } else { self.x.saturating_sub(1) };
            let y = self.y;
            if let Some(row) = self.line(y) {
                let head =
                    if row.cells.get(col).is_some_and(|cell| cell.width == 0) { col.saturating_sub(1) } else { col };
                row.mark(head, ch);
            }
            return;
        }
        if (self.wrap_next || self.x + width > self.cols) && autowrap {
            let y = self.y;
            if let Some(row) = self.line(y) {
                row.wrapped = true;
            }
            self.x = 0;
            self.wrap_next = false;
            self.line_feed();
        }
        let x = self.x.min(self.cols.saturating_sub(width));
        if insert {
            self.insert_blank(width);
        }
        let (style, y) = (self.style, self.y);
        if let Some(row) = self.line(y) {
            row.put(x, ch, width, style);
        }
        self.x = x + width;
        if self.x >= self.cols {
            self.x = self.cols.saturating_sub(1);
            self.wrap_next = true;
        } else {
            self.wrap_next = false;
        }
    }

    pub(super) fn line_feed(&mut self) {
        self.wrap_next = false;
        if self.y == self.margin_bottom {
            self.scroll_up(1);
        } else if self.y + 1 < self.height {
            self.y += 1;
        }
    }

    pub(super) fn reverse_line_feed(&mut self) {
        self.wrap_next = false;
        if self.y == self.margin_top {
            self.scroll_down(self.margin_top, 1);
        } else {
            self.y = self.y.saturating_sub(1);
        }
    }

    pub(super) fn scroll_up(&mut self, count: usize) {
        let region = self.margin_bottom + 1 - self.margin_top;
        for _ in 0..count.min(region) {
            if self.margin_top == 0 {
                self.kept_cells += self.rows.get(self.top).map_or(0, |row| row.cells.len());
                self.top += 1;
                self.rows.insert(self.top + self.margin_bottom, Row::default());
            } else {
                self.rows.remove(self.top + self.margin_top);
                self.rows.insert(self.top + self.margin_bottom, Row::default());
            }
        }
        self.trim();
    }

    /// Rows from `from` to the bottom margin move down by `count`.
    pub(super) fn scroll_down(&mut self, from: usize, count: usize) {
        if from > self.margin_bottom {
            return;
        }
        for _ in 0..count.min(self.margin_bottom + 1 - from) {
            self.rows.remove(self.top + self.margin_bottom);
            self.rows.insert(self.top + from, Row::default());
        }
    }

    pub(super) fn insert_lines(&mut self, count: usize) {
        if (self.margin_top..=self.margin_bottom).contains(&self.y) {
            self.scroll_down(self.y, count);
            self.x = 0;
            self.wrap_next = false;
        }
    }

    pub(super) fn delete_lines(&mut self, count: usize) {
        if (self.margin_top..=self.margin_bottom).contains(&self.y) {
            for _ in 0..count.min(self.margin_bottom + 1 - self.y) {
                self.rows.remove(self.top + self.y);
                self.rows.insert(self.top + self.margin_bottom, Row::default());
            }
            self.x = 0;
            self.wrap_next = false;
        }
    }

    pub(super) fn insert_blank(&mut self, count: usize) {
        let (x, y, cols) = (self.x, self.y, self.cols);
        let count = count.min(cols.saturating_sub(x));
        if let Some(row) = self.line(y)
            && x < row.cells.len()
        {
            row.cells.splice(x..x, std::iter::repeat_n(Cell::BLANK, count));
            row.cells.truncate(cols);
            row.shift_marks(x, count.cast_signed());
        }
        self.wrap_next = false;
    }

    pub(super) fn delete_chars(&mut self, count: usize) {
        let (x, y) = (self.x, self.y);
        if let Some(row) = self.line(y)
            && x < row.cells.len()
        {
            let count = count.min(row.cells.len() - x);
            row.cells.drain(x..x + count);
            row.shift_marks(x, -count.cast_signed());
            row.wrapped = false;
        }
        self.wrap_next = false;
    }

    pub(super) fn erase_chars(&mut self, count: usize) {
        let (x, y, cols) = (self.x, self.y, self.cols);
        if let Some(row) = self.line(y) {
            row.clear(x, x.saturating_add(count).min(cols));
        }
        self.wrap_next = false;
    }

    /// ED: 0 to the end, 1 to the cursor, 2 and 3 everything.
    pub(super) fn erase_display(&mut self, mode: u16) {
        let (x, y) = (self.x, self.y);
        self.wrap_next = false;
        match mode {
            // A cleared page goes up instead of away: what a command printed before `clear` is still its output, and rows
            // below keep growing identities.
            2 => self.new_page(),
            0 if x == 0 && y == 0 => self.new_page(),
            0 => {
                if let Some(row) = self.line(y) {
                    row.clear(x, usize::MAX - 1);
                }
                for y in y + 1..self.height {
                    if let Some(row) = self.line(y) {
                        *row = Row::default();
                    }
                }
            }
            1 => {
                for y in 0..y {
                    if let Some(row) = self.line(y) {
                        *row = Row::default();
                    }
                }
                if let Some(row) = self.line(y) {
                    row.clear(0, x + 1);
                }
            }
            _ => {}
        }
    }

    fn new_page(&mut self) {
        if self.alternate || self.rows.iter().skip(self.top).all(|row| row.cells.is_empty()) {
            for row in self.rows.iter_mut().skip(self.top) {
                *row = Row::default();
            }
            return;
        }
        self.kept_cells += self.rows.iter().skip(self.top).map(|row| row.cells.len()).sum::<usize>();
        self.top += self.height;
        self.rows.extend(std::iter::repeat_with(Row::default).take(self.height));
        self.trim();
    }

    pub(super) fn erase_line(&mut self, mode: u16) {
        let (x, y) = (self.x, self.y);
        self.wrap_next = false;
        if let Some(row) = self.line(y) {
            match mode {
                0 => row.clear(x, usize::MAX - 1),
                1 => row.clear(0, x + 1),
                2 => row.clear(0, usize::MAX - 1),
                _ => {}
            }
        }
    }

    pub(super) fn move_to(&mut self, x: usize, y: usize) {
        self.x = x.min(self.cols.saturating_sub(1));
        self.y = y.min(self.height.saturating_sub(1));
        self.wrap_next = false;
    }

    pub(super) fn save(&mut self) {
        self.saved = (self.x, self.y, self.style);
    }

    pub(super) fn restore(&mut self) {
        let (x, y, style) = self.saved;
        self.move_to(x, y);
        self.style = style;
    }

    /// Bytes held by rows, for the memory test.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
            + self.rows.iter().map(|row| row.cells.capacity() * size_of::<Cell>()).sum::<usize>()
            + self.collector.text.capacity()
    }
}
