//! Commands from their Enter to the next prompt.
//!
//! What lives here: starting, continuing and ending the one command that runs, its output, and the second look at its text
//! when the shell leaves the line. What must not: how a prompt is noticed.

use super::{
    MAX_JUDGED, Tracker,
    verdict::{Verdict, fingerprint, squeezed},
};
use crate::command::{
    Confidence, Finished, Kind, Observed,
    extract::{LineStart, Via},
    prompt,
    screen::Place,
    terminal::Capture,
};

/// The command that runs.
pub(super) struct Running {
    pub(super) id: Option<u64>,
    pub(super) text: String,
    /// Where its last line begins in `text`.
    pub(super) last_line: usize,
    pub(super) judged: Vec<u64>,
    pub(super) confidence: Confidence,
    pub(super) kind: Kind,
    pub(super) prompt: String,
    pub(super) started_pos: u64,
    pub(super) alternate: bool,
    /// It is, or was started from, a program that fills the screen with text.
    pub(super) editor: bool,
    /// Where its line began.
    pub(super) place: Option<Place>,
}

impl Tracker {
    pub(super) fn start_command(&mut self, verdict: Verdict, id: u64) -> Option<u64> {
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
        let editor = prompt::edits(&verdict.line)
            || verdict.kind == Kind::Program && self.running.as_ref().is_some_and(|running| running.editor);
        let next_row = verdict.end_row.unwrap_or_else(|| self.terminal.state().screen.cursor().row) + 1;
        if verdict.continues && self.running.is_some() {
            self.watch(&verdict, next_row);
            let running = self.running.as_mut()?;
            let room = self.options.max_command.saturating_sub(running.text.len() + 1);
            let end =
                (0..=room.min(verdict.line.len())).rev().find(|&at| verdict.line.is_char_boundary(at)).unwrap_or(0);
            if room > 0 {
                running.text.push('\n');
                running.last_line = running.text.len();
                running.text.push_str(verdict.line.get(..end).unwrap_or(""));
            }
            running.confidence = weaker(running.confidence, verdict.confidence);
            if verdict.truncated {
                running.confidence = Confidence::Unknown;
            }
            running.judged.extend(verdict.judged);
            running.judged.truncate(MAX_JUDGED);
            return running.id;
        }
        if verdict.kind == Kind::Shell {
            let (row, prompt) = self.line_head(next_row);
            let again = self.line.as_ref().is_some_and(|line| self.same_line(line));
            if again && self.running.as_ref().is_some_and(|running| running.text == verdict.line) {
                // The Enter before did not run the line (it chose from a menu): this is still the same one.
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
            text: verdict.line,
            last_line: 0,
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
    pub(super) fn watch(&mut self, verdict: &Verdict, next_row: u64) {
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
    pub(super) fn same_line(&self, line: &LineStart) -> bool {
        !line.early && self.running.as_ref().is_some_and(|running| running.place == Some(line.place))
    }

    pub(super) fn line_place(&self) -> Option<Place> {
        self.line.as_ref().map(|line| line.place)
    }

    /// First row of the line, and its prompt.
    pub(super) fn line_head(&self, otherwise: u64) -> (u64, String) {
        self.line.as_ref().map_or((otherwise, String::new()), |line| (line.place.row, line.prompt.clone()))
    }

    /// The running command ended; its output ends before row `end_row`, which starts with `prompt`.
    pub(super) fn finish(&mut self, end_row: u64, prompt: &str) {
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
            let earlier = running.text.get(..running.last_line).unwrap_or("");
            let text = format!("{earlier}{last}");
            if squeezed(&text) != squeezed(&running.text) {
                let judged = |text: &str| running.judged.contains(&fingerprint(text));
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
}

fn weaker(a: Confidence, b: Confidence) -> Confidence {
    match (a, b) {
        (Confidence::Unknown, _) | (_, Confidence::Unknown) => Confidence::Unknown,
        (Confidence::Typed, _) | (_, Confidence::Typed) => Confidence::Typed,
        _ => Confidence::Echoed,
    }
}
