//! The state machine that puts screen and keys together.
//!
//! What lives here: when a line starts, when its Enter is held and may be judged, when a command ends. What must not: how the
//! screen is read (`extract`), what keys mean (`lineedit`), what prompts look like (`prompt`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    Candidate, Confidence, Finished, InputStep, Kind, Observed, Options,
    extract::{self, LineStart, Reading, Via},
    lineedit::{Effect, LineEdit},
    prompt,
    screen::Place,
    terminal::{Capture, Terminal},
};

/// Bytes after the last key that are always shown in full; beyond, a flood is skimmed.
const CLOSE_LOOK: usize = 64 << 10;
/// Bytes after which output is skimmed even though its text is still wanted (it rewrites the same rows).
const PATIENCE: usize = 1 << 20;
/// The tail of a flood that is kept for a close look.
const TAIL: usize = 32 << 10;
/// Prompts remembered, and the longest that is.
const KNOWN_PROMPTS: usize = 8;
const MAX_PROMPT: usize = 512;
/// Texts remembered as judged for one command; more lines than this make it look unjudged, which is the safe side.
const MAX_JUDGED: usize = 64;
/// How long the asset is silent before a prompt is looked for.
const PROMPT_QUIET: Duration = Duration::from_millis(50);

/// See the module documentation of `command` for the calls in their order.
pub struct Tracker {
    options: Options,
    terminal: Terminal,
    typed: LineEdit,
    line: Option<LineStart>,
    gate: Option<Held>,
    running: Option<Running>,
    /// Newest first.
    known: VecDeque<String>,
    /// Commands entered on the alternate screen came from a multiplexer.
    multiplexer: bool,
    /// The last Enter was Ctrl-O: the editor is not empty.
    preloaded: bool,
    /// The asset was told to forget a line and has not shown it yet.
    rejected: bool,
    /// The row of the cursor at that time.
    rejected_row: u64,
    /// What was refused, while it may still stand in the line.
    refused: Zeroizing<String>,
    pending: Vec<u8>,
    since_input: usize,
    pos: u64,
    changes_at_commit: u64,
    changes_at_input: u64,
    last_input: Option<Instant>,
    last_output: Option<Instant>,
    /// Output came after the last key.
    answered: bool,
    /// Smoothed time from a key to the next output.
    echo_time: Option<Duration>,
    /// Output came since a prompt was last looked for.
    unchecked: bool,
    was_alternate: bool,
    events: Vec<Observed>,
}

/// An Enter that waits for its verdict.
struct Held {
    effect: Effect,
    since: Instant,
    settled: bool,
    verdict: Option<Verdict>,
}

/// What [`Tracker::commit`] needs of the candidate.
struct Verdict {
    text: String,
    judged: Vec<Zeroizing<String>>,
    confidence: Confidence,
    kind: Kind,
    prompt: String,
    continues: bool,
    record: bool,
    /// Screen and keys agree: nothing more to learn from the screen.
    agreed: bool,
    end_row: Option<u64>,
}

struct Running {
    id: Option<u64>,
    text: String,
    /// The text before its last line, when it has several.
    earlier: String,
    judged: Vec<Zeroizing<String>>,
    confidence: Confidence,
    kind: Kind,
    prompt: String,
    started_pos: u64,
    alternate: bool,
    /// It is, or was started from, a program that fills the screen with text.
    editor: bool,
    /// Where its line began.
    place: Option<Place>,
}

impl Tracker {
    /// A tracker of a terminal of `cols` x `rows` (both clamped to 1..=1000).
    pub fn new(cols: u16, rows: u16, options: Options) -> Self {
        let typed = LineEdit::new(options.max_command);
        let terminal = Terminal::new(side(cols), side(rows), options.max_command);
        Self {
            options,
            terminal,
            typed,
            line: None,
            gate: None,
            running: None,
            known: VecDeque::new(),
            multiplexer: false,
            preloaded: false,
            rejected: false,
            rejected_row: 0,
            refused: Zeroizing::default(),
            pending: Vec::new(),
            since_input: 0,
            pos: 0,
            changes_at_commit: 0,
            changes_at_input: 0,
            last_input: None,
            last_output: None,
            answered: true,
            echo_time: None,
            unchecked: false,
            was_alternate: false,
            events: Vec::new(),
        }
    }

    /// The user's terminal changed its size (clamped as in [`Tracker::new`]).
    pub fn resize(&mut self, cols: u16, rows: u16) {
        self.look();
        self.terminal.resize(side(cols), side(rows));
    }

    /// Bytes from the asset, in the order in which the user sees them.
    pub fn output(&mut self, bytes: &[u8], now: Instant) -> Vec<Observed> {
        if bytes.is_empty() {
            return std::mem::take(&mut self.events);
        }
        self.pos += bytes.len() as u64;
        self.since_input = self.since_input.saturating_add(bytes.len());
        if !self.answered {
            self.answered = true;
            if let Some(sent) = self.last_input {
                let took = now.saturating_duration_since(sent).min(self.options.max_settle);
                self.echo_time = Some(self.echo_time.map_or(took, |mean| (mean * 3 + took) / 4));
            }
        }
        self.last_output = Some(now);
        self.unchecked = true;
        if self.may_skim() {
            self.skim(bytes);
        } else {
            self.look();
            self.terminal.feed(bytes);
            self.note_full_screen();
        }
        std::mem::take(&mut self.events)
    }

    /// Bytes from the user, see [`InputStep`].
    pub fn input(&mut self, bytes: &[u8], now: Instant) -> InputStep {
        if self.gate.is_some() {
            // The caller asks again before it judged: the same byte is still held.
            return InputStep { forward: 0, gate: Some(bytes.len().min(1)) };
        }
        if bytes.is_empty() {
            return InputStep { forward: 0, gate: None };
        }
        self.look();
        self.since_input = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            let effect = self.typed.effect(byte);
            if effect != Effect::Edit {
                self.begin_line(now);
                if index > 0 {
                    self.sent(now);
                }
                self.gate = Some(Held { effect, since: now, settled: false, verdict: None });
                return InputStep { forward: index, gate: Some(1) };
            }
            if self.typed.take(byte) {
                self.begin_line(now);
                if self.was_alternate && byte < 0x20 && byte != 0x08 {
                    // A multiplexer's prefix, a program's command: not what a line editor makes of it.
                    self.typed.lose();
                }
            }
            if self.typed.take_abandoned() {
                self.forget_line();
            }
        }
        self.sent(now);
        InputStep { forward: bytes.len(), gate: None }
    }

    /// How long to wait (for output or time) before the held Enter can be judged; `None`: judge now. Never longer in total
    /// than [`Options::max_settle`] from the Enter, four times that for assets whose echo is known to take long.
    pub fn needs_settle(&mut self, now: Instant) -> Option<Duration> {
        self.look();
        let held = self.gate.as_ref()?;
        if held.settled || held.effect == Effect::PastedLine {
            return None;
        }
        let waited = now.saturating_duration_since(held.since);
        let longest = self.longest_wait();
        let wait = longest.checked_sub(waited).filter(|left| !left.is_zero());
        let wait = wait.and_then(|left| self.unsettled(now).map(|wait| wait.min(left)));
        if wait.is_none() {
            // Silence after a key whose effect only the asset knows is no answer.
            let in_time = waited < longest && (self.answered || self.typed.is_exact() || !self.typed.touched);
            if let Some(held) = &mut self.gate {
                held.settled = in_time;
            }
        }
        wait
    }

    /// The limit of all waiting for one Enter: assets that are known to be far get longer.
    fn longest_wait(&self) -> Duration {
        let far = self.echo_time.map_or(Duration::ZERO, |echo| echo * 4);
        far.clamp(self.options.max_settle, self.options.max_settle * 4)
    }

    /// The wait that the state of the echo calls for, `None` when it shows the line.
    fn unsettled(&self, now: Instant) -> Option<Duration> {
        if !self.typed.touched && !self.preloaded && !self.rejected {
            return None;
        }
        if self.typed.is_exact()
            && let Some(reading) = self.reading()
            && same(&reading.text, &self.typed.text())
            && (reading.before_cursor == self.typed.before_cursor() || reading.via == Via::Search)
        {
            return None;
        }
        let echo = self.echo_time.unwrap_or(self.options.max_settle);
        let since_key = self.last_input.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if !self.answered {
            // Nothing came back yet. Keys whose effect only the asset knows are worth the whole wait; for others an echo would
            // have come by now, so there is none.
            let longest = self.longest_wait();
            let patience =
                if self.typed.is_exact() { (echo * 3 + self.options.quiet * 2).min(longest) } else { longest };
            return patience.checked_sub(since_key).filter(|left| !left.is_zero());
        }
        let quiet = self.options.quiet.max(echo.min(Duration::from_millis(100)));
        let silent = self.last_output.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        quiet.checked_sub(silent.min(since_key)).filter(|left| !left.is_zero())
    }

    /// What the held Enter would run; `None` when nothing is held.
    pub fn candidate(&mut self) -> Option<Candidate> {
        self.look();
        self.after_rejection();
        let held = self.gate.as_ref()?;
        let (effect, settled) = (held.effect, held.settled);
        let (mut candidate, agreed, end_row) = self.judge(effect, settled);
        if matches!(effect, Effect::PastedLine | Effect::HandOver) {
            candidate.record = false;
        }
        candidate.alternatives.retain(|text| text.as_str() != candidate.text);
        let mut judged: Vec<Zeroizing<String>> = candidate.texts().map(|text| Zeroizing::new(squeezed(text))).collect();
        judged.truncate(MAX_JUDGED);
        let verdict = Verdict {
            text: candidate.text.clone(),
            judged,
            confidence: candidate.confidence,
            kind: candidate.kind,
            prompt: candidate.prompt.clone(),
            continues: candidate.continues.is_some(),
            record: candidate.record,
            agreed,
            end_row,
        };
        if let Some(held) = &mut self.gate {
            held.verdict = Some(verdict);
        }
        Some(candidate)
    }

    /// The Enter is forwarded. Returns the id under which its command is tracked (that of its first line when it continues
    /// one), `None` when it makes no record, and what ended by it.
    pub fn commit(&mut self, id: u64, now: Instant) -> (Option<u64>, Vec<Observed>) {
        if self.gate.as_ref().is_some_and(|held| held.verdict.is_none()) {
            self.candidate();
        }
        let Some(held) = self.gate.take() else { return (None, std::mem::take(&mut self.events)) };
        let tracked = match held.verdict {
            Some(verdict) if matches!(held.effect, Effect::Enter | Effect::Operate) => self.start_command(verdict, id),
            _ => None,
        };
        self.typed.entered(held.effect);
        self.sent(now);
        if matches!(held.effect, Effect::Enter | Effect::Operate) {
            self.line = None;
            self.rejected = false;
            self.preloaded = held.effect == Effect::Operate;
            self.changes_at_commit = self.terminal.state().changes;
            self.terminal.state_mut().prompt_mark = None;
            self.terminal.state_mut().screen.keep_from(None);
        }
        (tracked, std::mem::take(&mut self.events))
    }

    /// The Enter is dropped. Returns the bytes to send to the asset so that it forgets the line. Send them when the asset has
    /// been silent for [`Options::quiet`]: readline that is interrupted while it draws swallows the next key.
    ///
    /// Ctrl-C at the prompt of a shell: it abandons the line in every editing mode, with all its rows and the lines before it.
    /// Ctrl-E Ctrl-U at prompts of database clients and the like, some of which Ctrl-C would end. Ctrl-U where no prompt is
    /// known: Ctrl-C might kill the program that runs. A line that is still there afterwards is read again at the next
    /// Enter, with what was refused among its readings, so that it is refused again.
    ///
    /// Drop the rest of the user's slice too: what follows in a paste counts on the refused line.
    pub fn reject(&mut self, now: Instant) -> &'static [u8] {
        let Some(held) = self.gate.take() else { return b"" };
        let (kind, prompt, text) = match &held.verdict {
            Some(verdict) => (verdict.kind, verdict.prompt.as_str(), verdict.text.as_str()),
            None => (Kind::Shell, "", ""),
        };
        let early = self.line.as_ref().is_some_and(|line| line.early);
        let shell = !early && (self.knows(prompt) || prompt::takes_commands(prompt) || prompt::continues(prompt));
        let clear: &'static [u8] = match kind {
            // The paste is ended first: a shell takes Ctrl-C inside it as text.
            _ if held.effect == Effect::PastedLine => b"\x1b[201~\x03",
            Kind::Program => b"\x03",
            Kind::Shell if shell && prompt::dislikes_interrupt(prompt) => b"\x05\x15",
            Kind::Shell if shell => b"\x03",
            Kind::Shell | Kind::NoEcho => b"\x15",
        };
        let text = text.rsplit('\n').next().unwrap_or("");
        self.refused = Zeroizing::new(text.to_owned());
        self.typed.reset();
        self.typed.end_paste();
        // Until the asset shows an empty line, only the screen tells what is in it.
        self.typed.doubt(true);
        self.rejected = true;
        self.rejected_row = self.terminal.state().screen.cursor().row;
        if let Some(line) = &mut self.line {
            line.early = true;
        }
        self.sent(now);
        clear
    }

    /// When [`Tracker::poll`] wants to be called next, `None` when time alone changes nothing.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.unchecked && self.line.is_none() && (self.running.is_some() || !self.pending.is_empty());
        let quiet = self.last_output.filter(|_| waiting).map(|at| at + PROMPT_QUIET);
        if self.events.is_empty() { quiet } else { self.last_output.or(self.last_input) }
    }

    /// Time passed: notices that a prompt is back.
    pub fn poll(&mut self, now: Instant) -> Vec<Observed> {
        let silent = self.last_output.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if self.unchecked && silent >= PROMPT_QUIET {
            self.look();
            self.unchecked = false;
            if self.line.is_none() && self.running.is_some() {
                let here = extract::start(self.terminal.state(), None, false);
                if self.at_prompt(&here) && !self.goes_on(&here.prompt) && self.same_screen() {
                    self.finish(here.place.row, &here.prompt);
                }
            }
        }
        std::mem::take(&mut self.events)
    }

    /// The session ends.
    pub fn close(&mut self) -> Vec<Observed> {
        self.look();
        let end = self.terminal.state().screen.cursor().row + 1;
        self.finish(end, "");
        std::mem::take(&mut self.events)
    }

    fn sent(&mut self, now: Instant) {
        self.last_input = Some(now);
        self.answered = false;
        self.changes_at_input = self.terminal.state().changes;
    }

    // Looking at output

    fn may_skim(&mut self) -> bool {
        if self.line.is_some() || self.gate.is_some() || self.since_input <= CLOSE_LOOK {
            return false;
        }
        let state = self.terminal.state_mut();
        state.capture = state.capture.take().filter(|capture| !capture.armed);
        let collector = &mut state.primary().collector;
        if collector.wants() && self.since_input <= PATIENCE {
            return false;
        }
        if collector.wants() {
            collector.cut = true;
        }
        true
    }

    fn skim(&mut self, bytes: &[u8]) {
        if bytes.len() >= TAIL {
            let pending = std::mem::take(&mut self.pending);
            self.terminal.skim(&pending);
            self.pending = pending;
            self.pending.clear();
            let (head, tail) = bytes.split_at(bytes.len() - TAIL);
            self.terminal.skim(head);
            self.pending.extend_from_slice(tail);
        } else {
            if self.pending.len() + bytes.len() > 2 * TAIL {
                let head = self.pending.len().saturating_sub(TAIL);
                self.terminal.skim(self.pending.get(..head).unwrap_or_default());
                self.pending.drain(..head);
            }
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Show what was put off.
    fn look(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        self.terminal.feed(&pending);
        self.note_full_screen();
    }

    fn note_full_screen(&mut self) {
        let alternate = self.terminal.state().alternate();
        if alternate != self.was_alternate {
            self.was_alternate = alternate;
            self.multiplexer =
                alternate && self.running.as_ref().is_some_and(|running| prompt::multiplexes(&running.text));
            // A line cannot go on from one screen to the other.
            self.line = None;
            self.events.push(Observed::FullScreen(alternate));
        }
    }

    // Lines

    fn begin_line(&mut self, now: Instant) {
        if self.rejected && self.line.is_some() && self.line_is_gone() {
            self.line = None;
            self.rejected = false;
            self.typed.doubt(false);
        }
        if self.line.is_some() {
            return;
        }
        if self.running.is_some() && self.terminal.state().changes == self.changes_at_commit {
            // The asset has not even left the line before.
            self.line = Some(extract::unknown_start(self.terminal.state(), true));
            return;
        }
        let last = self.known.front().map(String::as_str);
        let mut here = extract::start(self.terminal.state(), last, false);
        let quiet = self.last_output.is_none_or(|at| now.saturating_duration_since(at) >= PROMPT_QUIET);
        let ready = self.at_prompt(&here);
        if self.running.is_some() {
            if ready && self.same_screen() && !self.goes_on(&here.prompt) && !self.same_line(&here) {
                self.finish(here.place.row, &here.prompt);
            }
            // Without a prompt in sight the keys may be meant for what runs, or for the shell after it.
            here.early = !ready && (!quiet || here.prompt.trim().is_empty());
        } else {
            here.early = here.prompt.trim().is_empty() && !quiet;
        }
        self.terminal.state_mut().screen.keep_from(Some(here.place.row));
        self.line = Some(here);
    }

    /// After a rejection: the asset shows an empty line or a prompt further down.
    fn line_is_gone(&self) -> bool {
        let here = extract::start(self.terminal.state(), None, false);
        let moved = here.place.row > self.rejected_row;
        moved && self.knows(&here.prompt) || self.reading().is_none_or(|reading| reading.text.trim().is_empty())
    }

    /// Keys came before the asset showed that it gave the refused line up, and now it did: what is on the new row is theirs.
    fn after_rejection(&mut self) {
        let row = self.terminal.state().screen.cursor().row;
        if self.rejected && row > self.rejected_row && self.line.is_some() {
            self.rejected = false;
            self.typed.doubt(false);
            self.line = Some(extract::unknown_start(self.terminal.state(), false));
        }
    }

    fn forget_line(&mut self) {
        self.line = None;
        self.rejected = false;
        self.preloaded = false;
        self.terminal.state_mut().screen.keep_from(None);
    }

    fn knows(&self, prompt: &str) -> bool {
        let prompt = self.own_part(prompt);
        !prompt.trim().is_empty() && self.known.iter().any(|known| known == prompt)
    }

    /// The prompt without what stands before it in its row: output without a line end, prompts whose Enter was not shown.
    fn own_part<'a>(&self, prompt: &'a str) -> &'a str {
        let Some(last) = self.known.front().filter(|last| prompt::takes_commands(last)) else { return prompt };
        prompt
            .len()
            .checked_sub(last.len())
            .and_then(|at| prompt.get(at..))
            .filter(|end| *end == last)
            .unwrap_or(prompt)
    }

    /// Something that takes commands waits at the cursor.
    fn at_prompt(&self, here: &LineStart) -> bool {
        let state = self.terminal.state();
        let moved = state.changes != self.changes_at_commit;
        moved
            && (state.prompt_mark.is_some()
                || self.knows(&here.prompt)
                || prompt::takes_commands(&here.prompt)
                || prompt::continues(&here.prompt))
    }

    fn same_screen(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.alternate == self.terminal.state().alternate())
    }

    /// `prompt` asks for a further line of the running command.
    fn goes_on(&self, prompt: &str) -> bool {
        let Some(running) = &self.running else { return false };
        if running.kind != Kind::Shell || !prompt::continues(prompt) || prompt == running.prompt {
            return false;
        }
        // Nothing was printed in between.
        let state = self.terminal.state();
        let row = state.screen.cursor().row;
        let from = state.screen.collector.from.unwrap_or(row);
        state.alternate() || row <= from
    }

    fn reading(&self) -> Option<Reading> {
        let known: Vec<String> = self.known.iter().cloned().collect();
        extract::read(self.terminal.state(), self.line.as_ref()?, &known, self.options.max_command)
    }

    fn remember(&mut self, prompt: &str) {
        let prompt = self.own_part(prompt);
        if prompt.trim().is_empty() || prompt.len() > MAX_PROMPT {
            return;
        }
        let prompt = prompt.to_owned();
        self.known.retain(|known| *known != prompt);
        self.known.push_front(prompt);
        self.known.truncate(KNOWN_PROMPTS);
    }

    // Verdicts

    fn judge(&self, effect: Effect, settled: bool) -> (Candidate, bool, Option<u64>) {
        if effect == Effect::PastedLine {
            let candidate = Candidate {
                text: self.typed.last_line().to_string(),
                alternatives: vec![self.typed.text()],
                confidence: if self.typed.overflow { Confidence::Unknown } else { Confidence::Typed },
                kind: Kind::Shell,
                prompt: self.line.as_ref().map(|line| line.prompt.clone()).unwrap_or_default(),
                truncated: self.typed.overflow,
                continues: None,
                record: false,
            };
            return (candidate, true, None);
        }
        if self.terminal.state().alternate() && !self.shell_inside() {
            return (self.program(settled), true, None);
        }
        self.shell_line(settled)
    }

    /// The alternate screen shows a shell where the cursor is.
    fn shell_inside(&self) -> bool {
        let state = self.terminal.state();
        let editor = self.running.as_ref().is_some_and(|running| running.editor);
        if editor && (self.multiplexer || self.running.as_ref().is_some_and(|running| running.alternate)) {
            return false;
        }
        if self.multiplexer {
            return true;
        }
        let edges = [state.screen.first_visible(), state.screen.last_row()];
        if edges.iter().any(|&id| state.screen.row(id).is_some_and(extract::status_line)) {
            return true;
        }
        !editor && self.line.as_ref().is_some_and(|line| self.knows(&line.prompt))
    }

    fn program(&self, settled: bool) -> Candidate {
        let (line, bottom) = extract::bottom_line(self.terminal.state(), self.options.max_command);
        let command = if bottom { prompt::program_command(&line).unwrap_or("") } else { "" };
        let prompt = line.strip_suffix(command).filter(|_| !command.is_empty()).unwrap_or("").to_owned();
        let typed = self.typed.text();
        let (command, confidence) = if command.is_empty() && !settled {
            // The program did not show the line in time: what the keys would be, from the last colon or exclamation mark on.
            let at = typed.rfind(":").or_else(|| typed.find('!')).unwrap_or(0);
            (typed.get(at..).and_then(prompt::program_command).unwrap_or(""), Confidence::Typed)
        } else {
            (command, Confidence::Echoed)
        };
        Candidate {
            text: command.to_owned(),
            alternatives: Vec::new(),
            confidence,
            kind: Kind::Program,
            prompt,
            truncated: false,
            continues: None,
            record: !command.is_empty(),
        }
    }

    fn shell_line(&self, settled: bool) -> (Candidate, bool, Option<u64>) {
        let reading = self.reading();
        let typed = self.typed.text();
        let early = self.line.as_ref().is_some_and(|line| line.early);
        let prompt = reading.as_ref().map(|reading| reading.prompt.clone());
        let prompt = prompt.or_else(|| self.line.as_ref().map(|line| line.prompt.clone())).unwrap_or_default();
        let shown = reading.as_ref().map(|reading| reading.text.trim_end()).unwrap_or("");
        let truncated = self.typed.overflow || reading.as_ref().is_some_and(|reading| reading.truncated);
        let mut candidate = Candidate {
            text: String::new(),
            alternatives: Vec::new(),
            confidence: Confidence::Echoed,
            kind: Kind::Shell,
            prompt,
            truncated,
            continues: None,
            record: true,
        };
        let mut agreed = false;
        let refused = squeezed(&self.refused);
        let still_there = self.rejected && !refused.is_empty() && squeezed(shown).contains(&refused);
        // After a refusal the keys count again when what was refused is gone, even if the row is a mess.
        let exact = self.typed.is_exact() || self.rejected && early && !still_there && self.typed.keys_known();
        // The prompt for a secret came after its first key.
        let late_secret = early && !squeezed(shown).contains(&squeezed(&typed)) && prompt::asks_secret(shown);
        let hidden = reading.is_some() && self.hidden(shown, &typed);
        if hidden || late_secret {
            let command_line = self.knows(&candidate.prompt) || prompt::takes_commands(&candidate.prompt);
            if late_secret
                || prompt::asks_secret(&candidate.prompt)
                || !command_line
                || !self.typed.is_exact()
                || is_masked(shown)
            {
                candidate.kind = Kind::NoEcho;
                candidate.record = false;
                candidate.alternatives.push(typed);
                return (candidate, true, None);
            }
            candidate.text = typed.to_string();
            candidate.confidence = Confidence::Typed;
            agreed = true;
        } else if exact && (early || same(shown, &typed)) {
            let seen = same(shown, &typed) || squeezed(shown).ends_with(&squeezed(&typed));
            candidate.text = typed.trim_end().to_owned();
            candidate.confidence = if seen { Confidence::Echoed } else { Confidence::Typed };
            if early {
                candidate.alternatives.push(Zeroizing::new(shown.to_owned()));
            }
            agreed = true;
        } else if self.typed.overflow {
            candidate.text = typed.to_string();
            candidate.alternatives.push(Zeroizing::new(shown.to_owned()));
        } else if self.typed.is_exact()
            && self.typed.touched
            && self.screen_lags(reading.as_ref(), shown, &typed, settled)
        {
            candidate.text = typed.trim_end().to_owned();
            candidate.confidence = Confidence::Typed;
            candidate.alternatives.push(Zeroizing::new(shown.to_owned()));
        } else {
            candidate.text = shown.to_owned();
            let certain = settled
                && reading.as_ref().is_some_and(|reading| reading.via != Via::Guess || self.typed.is_exact())
                && !early;
            candidate.confidence =
                if certain || !self.typed.touched { Confidence::Echoed } else { Confidence::Unknown };
            if !self.typed.is_empty() && self.typed.is_exact() {
                candidate.alternatives.push(typed);
            }
            if self.typed.recalled
                && !self.typed.completing
                && let Some(longer) = reading.as_ref().and_then(|reading| reading.longer.clone())
            {
                candidate.alternatives.push(Zeroizing::new(longer));
            }
        }
        if still_there {
            candidate.alternatives.push(self.refused.clone());
        }
        if truncated {
            candidate.confidence = Confidence::Unknown;
        }
        candidate.record = !candidate.text.trim().is_empty();
        if let Some(running) = &self.running
            && (self.goes_on(&candidate.prompt) || self.goes_on(self.line.as_ref().map_or("", |line| &line.prompt)))
        {
            candidate.continues = running.id;
            candidate.record = true;
            candidate.alternatives.push(Zeroizing::new(candidate.text.clone()));
            let room = self.options.max_command.saturating_sub(running.text.len() + 1);
            if candidate.text.len() > room {
                candidate.truncated = true;
                candidate.confidence = Confidence::Unknown;
                let end = (0..=room).rev().find(|&at| candidate.text.is_char_boundary(at)).unwrap_or(0);
                candidate.text.truncate(end);
            }
            candidate.text = format!("{}\n{}", running.text, candidate.text);
        }
        (candidate, agreed, reading.map(|reading| reading.end_row))
    }

    /// Keys were typed and nothing of them is shown.
    fn hidden(&self, shown: &str, typed: &str) -> bool {
        if typed.trim().is_empty() {
            return false;
        }
        shown.trim().is_empty() || is_masked(shown) && squeezed(shown) != squeezed(typed)
    }

    /// The keys know more than the screen: the echo did not come in time, or the line does not fit on the screen.
    fn screen_lags(&self, reading: Option<&Reading>, shown: &str, typed: &str, settled: bool) -> bool {
        let Some(reading) = reading else { return true };
        if reading.overflow {
            return true;
        }
        let (shown, typed) = (squeezed(shown), squeezed(typed));
        if !settled && typed.starts_with(&shown) {
            return true;
        }
        // Editors that scroll sideways show a piece with a mark at its edge.
        let piece = shown.trim_start_matches('<').trim_end_matches('>');
        piece.len() < shown.len() && piece.len() > 8 && typed.contains(piece)
    }

    // Commands

    fn start_command(&mut self, verdict: Verdict, id: u64) -> Option<u64> {
        if !verdict.record {
            let at_prompt =
                verdict.kind == Kind::Shell && (self.knows(&verdict.prompt) || prompt::takes_commands(&verdict.prompt));
            if at_prompt && self.same_screen() {
                let (row, prompt) = self.line_head(0);
                self.finish(row, &prompt);
            }
            return None;
        }
        let alternate = self.terminal.state().alternate();
        let editor = prompt::edits(&verdict.text)
            || verdict.kind == Kind::Program && self.running.as_ref().is_some_and(|running| running.editor);
        let next_row = verdict.end_row.unwrap_or_else(|| self.terminal.state().screen.cursor().row) + 1;
        if verdict.continues && self.running.is_some() {
            self.watch(&verdict, next_row);
            let running = self.running.as_mut()?;
            running.earlier = std::mem::replace(&mut running.text, verdict.text);
            running.confidence = weaker(running.confidence, verdict.confidence);
            running.judged.extend(verdict.judged);
            running.judged.truncate(MAX_JUDGED);
            return running.id;
        }
        if verdict.kind == Kind::Shell {
            let (row, prompt) = self.line_head(next_row);
            if self
                .running
                .as_ref()
                .is_some_and(|running| running.place.is_some() && running.place == self.line_place())
            {
                // The Enter before this one did not run the line (it chose from a menu): it is still the same line.
                self.running = None;
            }
            self.finish(row, &prompt);
            self.remember(&verdict.prompt);
        } else {
            self.finish(next_row, "");
        }
        self.watch(&verdict, next_row);
        self.running = Some(Running {
            id: Some(id),
            text: verdict.text,
            earlier: String::new(),
            judged: verdict.judged,
            confidence: verdict.confidence,
            kind: verdict.kind,
            prompt: verdict.prompt,
            started_pos: self.pos,
            alternate,
            editor,
            place: self.line_place(),
        });
        Some(id)
    }

    /// Gather output from `next_row` on, and look once more at the line when the shell leaves it.
    fn watch(&mut self, verdict: &Verdict, next_row: u64) {
        let known: Vec<String> = self.known.iter().cloned().collect();
        let (limit, line) = (self.options.max_output, self.line.clone());
        let state = self.terminal.state_mut();
        if !state.alternate() {
            let collector = &mut state.primary().collector;
            collector.limit = limit;
            collector.start(next_row);
        }
        state.capture = line
            .filter(|line| !verdict.agreed && !line.early && verdict.kind == Kind::Shell)
            .map(|start| Capture { start, known, result: None, armed: true, end_row: next_row - 1 });
    }

    /// The line stands where that of the running command stood.
    fn same_line(&self, line: &LineStart) -> bool {
        !line.early && self.running.as_ref().is_some_and(|running| running.place == Some(line.place))
    }

    fn line_place(&self) -> Option<Place> {
        self.line.as_ref().map(|line| line.place)
    }

    /// First row of the line, and its prompt.
    fn line_head(&self, otherwise: u64) -> (u64, String) {
        self.line.as_ref().map_or((otherwise, String::new()), |line| (line.place.row, line.prompt.clone()))
    }

    /// The running command ended; its output ends before row `end_row`, which starts with `prompt`.
    fn finish(&mut self, end_row: u64, prompt: &str) {
        let Some(mut running) = self.running.take() else { return };
        // What was printed without a line end stands before the prompt.
        let own = self.own_part(prompt);
        let lead = prompt.get(..prompt.len() - own.len()).unwrap_or("").replace(own, "");
        let state = self.terminal.state_mut();
        if running.alternate == state.alternate() && !running.alternate {
            state.primary().collect_until(end_row);
        }
        let (mut output, output_cut) =
            if running.alternate { (String::new(), false) } else { state.primary().collector.stop() };
        if !lead.is_empty() && !running.alternate && !output_cut {
            if !output.is_empty() {
                output.push('\n');
            }
            output.push_str(&lead);
        }
        let mut unjudged = false;
        if let Some(reading) = state.capture.take().and_then(|capture| capture.result)
            && reading.via != Via::Guess
            && !reading.text.trim().is_empty()
            && !reading.overflow
        {
            let last = reading.text.trim_end();
            let text =
                if running.earlier.is_empty() { last.to_owned() } else { format!("{}\n{last}", running.earlier) };
            if squeezed(&text) != squeezed(&running.text) {
                let judged = |text: &str| running.judged.iter().any(|judged| judged.as_str() == squeezed(text));
                unjudged = !judged(last) && !judged(&text);
                running.text = text;
            }
        }
        self.events.push(Observed::Finished(Finished {
            id: running.id,
            text: running.text,
            output,
            output_cut,
            started_pos: running.started_pos,
            ended_pos: self.pos,
            confidence: running.confidence,
            kind: running.kind,
            prompt: running.prompt,
            unjudged,
        }));
    }

    /// Bytes held, for the memory test.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.terminal.state().screen.weight() + self.pending.capacity()
    }
}

/// Text without blanks: how it is compared, because a screen cannot tell blanks, tabs and line ends apart.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Whether the screen shows what was typed, blanks aside, and combining characters as zsh may write them: `<0301>`.
fn same(shown: &str, typed: &str) -> bool {
    use std::fmt::Write as _;
    use unicode_width::UnicodeWidthChar;

    let (shown, typed) = (squeezed(shown), squeezed(typed));
    if shown == typed {
        return true;
    }
    let mut spelled = String::with_capacity(typed.len());
    for c in typed.chars() {
        if c.width() == Some(0) {
            // Writing to a string cannot fail.
            let _ = write!(spelled, "<{:04x}>", u32::from(c));
        } else {
            spelled.push(c);
        }
    }
    shown == spelled
}

fn is_masked(shown: &str) -> bool {
    let shown = shown.trim();
    !shown.is_empty() && (shown.chars().all(|c| c == '*') || shown.chars().all(|c| matches!(c, '•' | '●')))
}

fn weaker(a: Confidence, b: Confidence) -> Confidence {
    match (a, b) {
        (Confidence::Unknown, _) | (_, Confidence::Unknown) => Confidence::Unknown,
        (Confidence::Typed, _) | (_, Confidence::Typed) => Confidence::Typed,
        _ => Confidence::Echoed,
    }
}

fn side(length: u16) -> usize {
    usize::from(length.clamp(1, 1000))
}
