//! How closely output is looked at: shown to the terminal in full near the user's keys, skimmed in a flood; and what a look
//! tells at once. What must not be here: what an Enter would run.

use super::{CLOSE_LOOK, PATIENCE, TAIL, Tracker};
use crate::command::extract::Via;
use crate::command::{Confidence, Finished, Kind, Observed, prompt};

impl Tracker {
    pub(super) fn may_skim(&mut self) -> bool {
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

    pub(super) fn skim(&mut self, bytes: &[u8]) {
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
    pub(super) fn look(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        self.terminal.feed(&pending);
        self.note_full_screen();
    }

    pub(super) fn note_full_screen(&mut self) {
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

    /// The shell left the line that is edited, and no Enter was let through.
    pub(super) fn note_unasked(&mut self) {
        let state = self.terminal.state_mut();
        if state.open.as_ref().is_none_or(|open| open.armed) {
            return;
        }
        let Some(reading) = state.open.take().and_then(|open| open.result) else { return };
        let text = reading.text.trim_end();
        if self.gate.is_some() || self.line.is_none() || text.trim().is_empty() || reading.via == Via::Guess {
            return;
        }
        let (row, prompt) = self.line_head(0);
        self.finish(row, &prompt);
        self.events.push(Observed::Finished(Finished {
            id: None,
            text: text.to_owned(),
            output: String::new(),
            output_cut: false,
            started_pos: self.pos,
            ended_pos: self.pos,
            confidence: Confidence::Echoed,
            kind: Kind::Shell,
            prompt: reading.prompt,
            unjudged: true,
        }));
        self.typed.reset();
        self.forget_line();
    }
}
