//! Escape sequences of the asset's output, applied to the [`Screen`].
//!
//! What lives here: the `vte` performer, modes, the alternate screen, shell-integration marks (OSC 133) and the capture of
//! the edited line at the moment the shell leaves it. What must not: keys, prompts, decisions.
//!
//! The parser is `vte` without `std`: its buffer for operating-system commands is then fixed, with `std` a stream could
//! grow it without end (`new_with_size` exists only without `std`, so that this cannot change unnoticed).

use vte::{Params, Parser, Perform};

use super::{
    extract::{self, LineStart, Reading},
    screen::{GHOST, INVERSE, Place, Screen},
};

/// Characters of a `ESC k title ESC \` that are swallowed at most.
const MAX_TITLE: usize = 256;

pub(super) struct Terminal {
    parser: Parser<256>,
    state: State,
    /// The parser stands inside a sequence while text is skipped.
    in_sequence: bool,
}

/// The line that is being left, to be read when the cursor goes below it.
pub(super) struct Capture {
    pub(super) start: LineStart,
    pub(super) known: Vec<String>,
    pub(super) result: Option<Reading>,
    pub(super) armed: bool,
    /// The last row of the line when its Enter was judged; text below it is output.
    pub(super) end_row: u64,
}

pub(super) struct State {
    pub(super) screen: Screen,
    /// The primary screen while the alternate one is shown.
    primary: Option<Box<Screen>>,
    /// DEC 2004: the asset wants pastes bracketed.
    pub(super) paste_mode: bool,
    /// Where the last prompt ended, by OSC 133 B.
    pub(super) prompt_mark: Option<Place>,
    /// The line that is being left.
    pub(super) capture: Option<Capture>,
    /// The line that is edited now, to be read when the shell leaves it unasked.
    pub(super) open: Option<Capture>,
    /// Where the cursor was when it last returned to the left edge: line ends come as CR LF.
    returned: Place,
    /// Visible changes so far.
    pub(super) changes: u64,
    autowrap: bool,
    insert: bool,
    drawing: [bool; 2],
    shift: usize,
    last: char,
    title: Option<usize>,
    stop: bool,
    max_cells: usize,
}

impl Terminal {
    pub(super) fn new(cols: usize, rows: usize, max_cells: usize) -> Self {
        Self {
            parser: Parser::new_with_size(),
            state: State {
                screen: Screen::new(cols, rows, max_cells, false),
                primary: None,
                paste_mode: false,
                prompt_mark: None,
                capture: None,
                open: None,
                returned: Place { row: 0, col: 0 },
                changes: 0,
                autowrap: true,
                insert: false,
                drawing: [false; 2],
                shift: 0,
                last: ' ',
                title: None,
                stop: false,
                max_cells,
            },
            in_sequence: false,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.parser.advance(&mut Full(&mut self.state), bytes);
        self.in_sequence = false;
    }

    /// Apply only the escape sequences of `bytes`; text between them is skipped. For floods.
    pub(super) fn skim(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            if !self.in_sequence {
                let Some(at) = memchr::memchr(0x1b, rest) else { return };
                rest = rest.get(at..).unwrap_or_default();
                if let Some(length) = decoration(rest) {
                    rest = rest.get(length..).unwrap_or_default();
                    continue;
                }
                self.in_sequence = true;
            }
            self.state.stop = false;
            let used = self.parser.advance_until_terminated(&mut Sequences(&mut self.state), rest);
            rest = rest.get(used..).unwrap_or_default();
            if !self.state.stop {
                return;
            }
            self.in_sequence = false;
        }
    }

    pub(super) fn resize(&mut self, cols: usize, rows: usize) {
        self.state.screen.resize(cols, rows);
        if let Some(primary) = &mut self.state.primary {
            primary.resize(cols, rows);
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl State {
    pub(super) fn alternate(&self) -> bool {
        self.primary.is_some()
    }

    /// The screen with history, whichever is shown.
    pub(super) fn primary(&mut self) -> &mut Screen {
        match &mut self.primary {
            Some(primary) => primary,
            None => &mut self.screen,
        }
    }

    fn switch(&mut self, to_alternate: bool) {
        if to_alternate && self.primary.is_none() {
            let mut other = Screen::new(self.screen.cols, self.screen.height, self.max_cells, true);
            other.move_to(self.screen.x, self.screen.y);
            self.primary = Some(Box::new(std::mem::replace(&mut self.screen, other)));
        } else if !to_alternate && let Some(primary) = self.primary.take() {
            self.screen = *primary;
        }
    }

    fn reset(&mut self) {
        self.switch(false);
        self.screen.move_to(0, 0);
        self.screen.erase_display(2);
        self.screen.style = 0;
        self.screen.margins(0, usize::MAX);
        (self.paste_mode, self.autowrap, self.insert) = (false, true, false);
        (self.drawing, self.shift) = ([false; 2], 0);
    }

    /// Read the edited line just before the cursor goes below it, because then the shell has drawn its final form.
    fn before_line_feed(&mut self) {
        let Some(mut capture) = self.capture.take() else { return };
        if capture.armed {
            let below = self.screen.row(self.screen.cursor().row + 1).is_none_or(super::screen::Row::is_blank);
            if below {
                capture.armed = false;
                let cursor = self.screen.cursor();
                let cursor = if cursor.col == 0 && self.returned.row == cursor.row { self.returned } else { cursor };
                capture.result = extract::read_at(self, &capture.start, &capture.known, self.max_cells, cursor);
                let next = self.screen.cursor().row + 1;
                let collector = &mut self.primary().collector;
                if collector.from.is_some() {
                    collector.from = Some(next);
                }
            }
        }
        self.capture = Some(capture);
    }

    fn read_open(&mut self) {
        if let Some(mut open) = self.open.take().filter(|open| open.armed) {
            open.armed = false;
            open.result = extract::read(self, &open.start, &open.known, self.max_cells);
            self.open = Some(open);
        }
    }

    fn mode(&mut self, params: &Params, on: bool) {
        for param in params.iter().filter_map(|param| param.first()) {
            match param {
                7 => self.autowrap = on,
                47 | 1047 => self.switch(on),
                1048 if on => self.screen.save(),
                1048 => self.screen.restore(),
                1049 => {
                    if on && self.primary.is_none() {
                        self.screen.save();
                        self.switch(true);
                    } else if !on && self.primary.is_some() {
                        self.switch(false);
                        self.screen.restore();
                    }
                }
                2004 => {
                    if self.paste_mode && !on {
                        // Shells do this just before they run a line.
                        self.read_open();
                    }
                    self.paste_mode = on;
                }
                _ => {}
            }
        }
    }

    fn rendition(&mut self, params: &Params) {
        let mut iter = params.iter();
        let mut style = self.screen.style;
        let mut any = false;
        while let Some(param) = iter.next() {
            any = true;
            match param.first().copied().unwrap_or(0) {
                0 => style = 0,
                2 | 90 => style |= GHOST,
                7 => style |= INVERSE,
                22 | 30..=37 | 39 | 91..=97 => style &= !GHOST,
                27 => style &= !INVERSE,
                code @ (38 | 48) => {
                    // `38:5:n` comes as one parameter, `38;5;n` as several.
                    let mut next = || iter.next().and_then(|param| param.first().copied()).unwrap_or(0);
                    let grey = match param.get(1).copied() {
                        Some(5) => grey_index(param.get(2).copied().unwrap_or(0)),
                        Some(2) => {
                            let rgb = param.get(param.len().saturating_sub(3)..).unwrap_or_default();
                            grey_rgb(rgb)
                        }
                        Some(_) => false,
                        None => match next() {
                            5 => grey_index(next()),
                            2 => grey_rgb(&[next(), next(), next()]),
                            _ => false,
                        },
                    };
                    if code == 38 {
                        style = if grey { style | GHOST } else { style & !GHOST };
                    }
                }
                _ => {}
            }
        }
        self.screen.style = if any { style } else { 0 };
    }
}

/// The length of the colour or erase-line sequence that `bytes` start with: most of a coloured flood, and without
/// meaning when the text around it is skipped.
fn decoration(bytes: &[u8]) -> Option<usize> {
    let params = bytes.strip_prefix(b"\x1b[")?;
    let length = params.iter().take(32).position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'))?;
    matches!(params.get(length), Some(b'm' | b'K')).then_some(length + 3)
}

/// Greys of the 256-colour palette that are used for suggestions.
fn grey_index(index: u16) -> bool {
    matches!(index, 8 | 236..=247)
}

fn grey_rgb(rgb: &[u16]) -> bool {
    let (low, high) = (rgb.iter().min().copied().unwrap_or(0), rgb.iter().max().copied().unwrap_or(0));
    high - low <= 24 && (0x40..=0xb0).contains(&high)
}

/// The performer that shows everything.
struct Full<'a>(&'a mut State);
/// The performer of [`Terminal::skim`]: stops after each sequence.
struct Sequences<'a>(&'a mut State);

impl Perform for Sequences<'_> {
    fn print(&mut self, _c: char) {
        self.0.stop = true;
    }
    fn execute(&mut self, _byte: u8) {
        self.0.stop = true;
    }
    fn osc_dispatch(&mut self, params: &[&[u8]], bell_terminated: bool) {
        // Ended by ESC: the backslash that follows is dispatched as a sequence of its own.
        self.0.stop = bell_terminated;
        Full(self.0).osc_dispatch(params, bell_terminated);
    }
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.0.stop = true;
        Full(self.0).csi_dispatch(params, intermediates, ignore, action);
    }
    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.0.stop = true;
        Full(self.0).esc_dispatch(intermediates, ignore, byte);
        self.0.title = None;
    }
    fn terminated(&self) -> bool {
        self.0.stop
    }
}

impl Perform for Full<'_> {
    fn print(&mut self, c: char) {
        let state = &mut *self.0;
        if let Some(left) = state.title {
            state.title = left.checked_sub(1);
            return;
        }
        let c = if state.drawing.get(state.shift) == Some(&true) { line_drawing(c) } else { c };
        state.changes += 1;
        state.last = c;
        state.screen.print(c, state.autowrap, state.insert);
        if let Some(capture) = &mut state.capture
            && capture.armed
        {
            capture.armed = state.screen.cursor().row <= capture.end_row;
        }
    }

    fn execute(&mut self, byte: u8) {
        let state = &mut *self.0;
        match byte {
            0x08 => {
                // Out of the deferred wrap a backspace goes to the column before the last, as terminals do.
                let x = state.screen.x.saturating_sub(1);
                let y = state.screen.y;
                state.screen.move_to(x, y);
            }
            b'\t' => {
                let x = (state.screen.x / 8 + 1) * 8;
                let y = state.screen.y;
                state.screen.move_to(x, y);
            }
            b'\n' | 0x0b | 0x0c => {
                state.changes += 1;
                state.before_line_feed();
                state.screen.line_feed();
            }
            b'\r' => {
                if state.screen.x > 0 {
                    state.returned = state.screen.cursor();
                }
                let y = state.screen.y;
                state.screen.move_to(0, y);
            }
            0x0e => state.shift = 1,
            0x0f => state.shift = 0,
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell_terminated: bool) {
        // Shell integration: A prompt starts, B prompt ends, C output starts, D command ended.
        if params.first() == Some(&&b"133"[..]) {
            match params.get(1).and_then(|kind| kind.first()) {
                Some(b'B') => self.0.prompt_mark = Some(self.0.screen.cursor()),
                Some(b'C' | b'D') => self.0.prompt_mark = None,
                _ => {}
            }
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        let state = &mut *self.0;
        if ignore {
            return;
        }
        match (intermediates, action) {
            (b"?", 'h' | 'l') => return state.mode(params, action == 'h'),
            (b"!", 'p') => return state.screen.margins(0, usize::MAX),
            ([], _) => {}
            _ => return,
        }
        let raw = |index: usize| params.iter().nth(index).and_then(|param| param.first().copied()).unwrap_or(0);
        let count = usize::from(raw(0).max(1));
        let screen = &mut state.screen;
        let (x, y) = (screen.x, screen.y);
        match action {
            'A' => screen.move_to(x, y.saturating_sub(count)),
            'B' | 'e' => screen.move_to(x, y + count),
            'C' | 'a' => screen.move_to(x + count, y),
            'D' => screen.move_to(x.saturating_sub(count), y),
            'E' => screen.move_to(0, y + count),
            'F' => screen.move_to(0, y.saturating_sub(count)),
            'G' | '`' => screen.move_to(count - 1, y),
            'H' | 'f' => screen.move_to(usize::from(raw(1).max(1)) - 1, count - 1),
            'd' => screen.move_to(x, count - 1),
            'J' => {
                state.changes += 1;
                screen.erase_display(raw(0));
            }
            'K' => screen.erase_line(raw(0)),
            'L' => screen.insert_lines(count),
            'M' => screen.delete_lines(count),
            'P' => screen.delete_chars(count),
            'X' => screen.erase_chars(count),
            '@' => screen.insert_blank(count),
            'S' => screen.scroll_up(count),
            'T' => screen.scroll_down(0, count),
            'I' => screen.move_to((x / 8 + count) * 8, y),
            'Z' => screen.move_to((x.div_ceil(8)).saturating_sub(count) * 8, y),
            'b' => {
                let last = state.last;
                for _ in 0..count.min(state.screen.cols * state.screen.height) {
                    state.screen.print(last, state.autowrap, state.insert);
                }
            }
            'm' => state.rendition(params),
            'r' => {
                let bottom = if raw(1) == 0 { usize::MAX } else { usize::from(raw(1)) - 1 };
                screen.margins(count - 1, bottom);
                screen.move_to(0, 0);
            }
            's' => screen.save(),
            'u' => screen.restore(),
            'h' | 'l' if raw(0) == 4 => state.insert = action == 'h',
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        let state = &mut *self.0;
        // Any sequence ends a title of the `ESC k` form.
        state.title = None;
        match (intermediates, byte) {
            ([], b'7') => state.screen.save(),
            ([], b'8') => state.screen.restore(),
            ([], b'D') => state.screen.line_feed(),
            ([], b'E') => {
                state.before_line_feed();
                let y = state.screen.y;
                state.screen.move_to(0, y);
                state.screen.line_feed();
            }
            ([], b'M') => state.screen.reverse_line_feed(),
            ([], b'c') => state.reset(),
            ([], b'k') => state.title = Some(MAX_TITLE),
            (b"(", charset) => state.drawing[0] = charset == b'0',
            (b")", charset) => state.drawing[1] = charset == b'0',
            _ => {}
        }
    }
}

/// The characters of the DEC line-drawing set that frame panes.
fn line_drawing(c: char) -> char {
    match c {
        'q' => '─',
        'x' => '│',
        'l' => '┌',
        'k' => '┐',
        'm' => '└',
        'j' => '┘',
        'n' => '┼',
        't' => '├',
        'u' => '┤',
        'v' => '┴',
        'w' => '┬',
        other => other,
    }
}
