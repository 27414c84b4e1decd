//! The state machine that puts screen and keys together.
//!
//! What lives here: the two streams, when a line starts, when its Enter is held and may be judged. What must not: how the
//! screen is read (`extract`), what keys mean (`lineedit`), what prompts look like (`prompt`).

mod look;
mod running;
mod verdict;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use running::Running;
use verdict::{Verdict, fingerprint, same, tail};

use super::{
    Candidate, InputStep, Kind, Observed, Options,
    extract::{self, LineStart, Reading, Via},
    lineedit::{Effect, LineEdit},
    prompt,
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
const MAX_JUDGED: usize = 1024;
/// Bytes of a command's earlier lines that its further lines are judged with: pasting thousands of lines stays linear.
const MAX_EARLIER: usize = 16 << 10;
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
            self.note_unasked();
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
        if self.was_alternate && self.running.as_ref().is_some_and(|running| running.editor) && self.editor_settled() {
            return None;
        }
        let echo = self.echo_time.unwrap_or(self.options.max_settle);
        let since_key = self.last_input.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if !self.answered {
            // Nothing came back yet. At a prompt for a secret nothing will; elsewhere it is worth the whole wait.
            let longest = self.longest_wait();
            let secret = self.line.as_ref().is_some_and(|line| prompt::asks_secret(&line.prompt));
            let patience = if self.typed.is_exact() && secret {
                (echo * 3 + self.options.quiet * 2).min(longest)
            } else {
                longest
            };
            return patience.checked_sub(since_key).filter(|left| !left.is_zero());
        }
        // What recalls or completes may be answered in pieces, other output may come before its answer, and an echo that is not
        // complete is still coming.
        let quiet = (self.options.quiet * 4).max(echo.min(Duration::from_millis(200)));
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
        let judged = candidate.texts().map(fingerprint).collect();
        let line_at = match (&candidate.continues, &self.running) {
            (Some(_), Some(running)) => tail(&running.text, MAX_EARLIER).len() + 1,
            _ => 0,
        };
        let verdict = Verdict {
            line: candidate.text.get(line_at..).unwrap_or("").to_owned(),
            judged,
            confidence: candidate.confidence,
            kind: candidate.kind,
            prompt: candidate.prompt.clone(),
            continues: candidate.continues.is_some(),
            record: candidate.record,
            agreed,
            end_row,
            truncated: candidate.truncated,
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
            let state = self.terminal.state_mut();
            state.prompt_mark = None;
            state.open = None;
            state.screen.keep_from(None);
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
            Some(verdict) => (verdict.kind, verdict.prompt.as_str(), verdict.line.as_str()),
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
        self.refused = Zeroizing::new(text.to_owned());
        self.terminal.state_mut().open = None;
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
        self.terminal.state_mut().open = None;
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
        let known: Vec<String> = self.known.iter().cloned().collect();
        let state = self.terminal.state_mut();
        state.screen.keep_from(Some(here.place.row));
        if !here.early && state.paste_mode && !state.alternate() {
            state.open = Some(Capture { start: here.clone(), known, result: None, armed: true, end_row: u64::MAX });
        }
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
        let state = self.terminal.state_mut();
        state.open = None;
        state.screen.keep_from(None);
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

    /// Bytes held, for the memory test.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.terminal.state().screen.weight() + self.pending.capacity()
    }
}

fn side(length: u16) -> usize {
    usize::from(length.clamp(1, 1000))
}
