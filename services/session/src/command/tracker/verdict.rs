//! What a held Enter would run.
//!
//! What lives here: the choice between screen and keys, and how certain it is. What must not: waiting, what happens after the
//! verdict.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use zeroize::Zeroizing;

use super::{MAX_EARLIER, Tracker};
use crate::command::{
    Candidate, Confidence, Kind,
    extract::{self, Reading, Via},
    lineedit::Effect,
    prompt,
};

/// What [`Tracker::commit`] needs of the candidate.
pub(super) struct Verdict {
    /// The text of the line, without the lines before it.
    pub(super) line: String,
    pub(super) judged: Vec<u64>,
    pub(super) truncated: bool,
    pub(super) confidence: Confidence,
    pub(super) kind: Kind,
    pub(super) prompt: String,
    pub(super) continues: bool,
    pub(super) record: bool,
    /// Screen and keys agree: nothing more to learn from the screen.
    pub(super) agreed: bool,
    pub(super) end_row: Option<u64>,
}

impl Tracker {
    pub(super) fn judge(&self, effect: Effect, settled: bool) -> (Candidate, bool, Option<u64>) {
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
            let mut candidate = self.program(settled);
            if !self.running.as_ref().is_some_and(|running| running.editor) {
                // Anything can switch to the alternate screen, a shell as well: rules look at its lines too.
                candidate.alternatives.push(self.typed.text());
                candidate.alternatives.extend(self.reading().map(|reading| Zeroizing::new(reading.text)));
            }
            return (candidate, true, None);
        }
        self.shell_line(settled)
    }

    /// The alternate screen shows a shell where the cursor is.
    pub(super) fn shell_inside(&self) -> bool {
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
        !editor
            && self.line.as_ref().is_some_and(|line| self.knows(&line.prompt) || prompt::takes_commands(&line.prompt))
    }

    pub(super) fn program(&self, settled: bool) -> Candidate {
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

    pub(super) fn shell_line(&self, settled: bool) -> (Candidate, bool, Option<u64>) {
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
            let command_line = self.knows(&candidate.prompt)
                || prompt::takes_commands(&candidate.prompt)
                || prompt::continues(&candidate.prompt);
            if late_secret || prompt::asks_secret(&candidate.prompt) || !command_line || is_masked(shown) {
                candidate.kind = Kind::NoEcho;
                candidate.record = false;
                candidate.alternatives.push(typed);
                return (candidate, true, None);
            }
            candidate.text = typed.to_string();
            agreed = self.typed.is_exact();
            candidate.confidence = if agreed { Confidence::Typed } else { Confidence::Unknown };
        } else if exact && (early || same(shown, &typed)) {
            let seen = same(shown, &typed) || squeezed(shown).ends_with(&squeezed(&typed));
            candidate.text = typed.trim_end().to_owned();
            candidate.confidence = if seen { Confidence::Echoed } else { Confidence::Typed };
            if early {
                let line = shown.rsplit('\n').next().unwrap_or("");
                candidate.alternatives.push(Zeroizing::new(line.to_owned()));
            }
            agreed = true;
        } else if self.typed.overflow {
            candidate.text = typed.to_string();
            candidate.alternatives.push(Zeroizing::new(shown.to_owned()));
        } else if self.typed.is_exact() && self.typed.touched && self.screen_lags(reading.as_ref(), shown, &typed) {
            candidate.text = typed.trim_end().to_owned();
            candidate.confidence = Confidence::Typed;
            candidate.alternatives.push(Zeroizing::new(shown.to_owned()));
        } else {
            candidate.text = shown.to_owned();
            let found = reading.as_ref().is_some_and(|reading| match reading.via {
                Via::Search | Via::Mark | Via::Prompt => true,
                Via::Place => !early,
                Via::Guess => !early && self.typed.is_exact(),
            });
            let certain = settled && found;
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
            if running.text.len() + candidate.text.len() >= self.options.max_command {
                candidate.truncated = true;
                candidate.confidence = Confidence::Unknown;
            }
            candidate.alternatives.push(Zeroizing::new(candidate.text.clone()));
            candidate.text = format!("{}\n{}", tail(&running.text, MAX_EARLIER), candidate.text);
        }
        (candidate, agreed, reading.map(|reading| reading.end_row))
    }

    /// The keys cannot have opened a command line of a full-screen program, or it shows them all.
    pub(super) fn editor_settled(&self) -> bool {
        let typed = self.typed.text();
        let Some(at) = typed.find([':', '!', '|']) else { return !self.typed.is_empty() };
        let (line, _) = extract::bottom_line(self.terminal.state(), self.options.max_command);
        self.typed.is_exact() && squeezed(&line).ends_with(&squeezed(typed.get(at..).unwrap_or("")))
    }

    /// Keys were typed and nothing of them is shown.
    pub(super) fn hidden(&self, shown: &str, typed: &str) -> bool {
        if typed.trim().is_empty() {
            return false;
        }
        shown.trim().is_empty() || is_masked(shown) && squeezed(shown) != squeezed(typed)
    }

    /// The keys know more than the screen: the echo did not come in time, or the line does not fit on the screen.
    pub(super) fn screen_lags(&self, reading: Option<&Reading>, shown: &str, typed: &str) -> bool {
        let Some(reading) = reading else { return true };
        if reading.overflow {
            return true;
        }
        let (shown, typed) = (squeezed(shown), squeezed(typed));
        if typed.starts_with(&shown) {
            return true;
        }
        // Editors that scroll sideways show a piece with a mark at its edge.
        let piece = shown.trim_start_matches('<').trim_end_matches('>');
        piece.len() < shown.len() && piece.len() > 8 && typed.contains(piece)
    }
}

/// Text without blanks: how it is compared, because a screen cannot tell blanks, tabs and line ends apart.
pub(super) fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Stands for a judged text without keeping it: it may be a password.
pub(super) fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    squeezed(text).hash(&mut hasher);
    hasher.finish()
}

/// Whether the screen shows what was typed, blanks aside, and combining characters as zsh may write them: `<0301>`.
pub(super) fn same(shown: &str, typed: &str) -> bool {
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

pub(super) fn is_masked(shown: &str) -> bool {
    let shown = shown.trim();
    !shown.is_empty() && (shown.chars().all(|c| c == '*') || shown.chars().all(|c| matches!(c, '•' | '●')))
}

/// The last `length` bytes of `text`, from a line's start where there is one.
pub(super) fn tail(text: &str, length: usize) -> &str {
    let Some(at) = text.len().checked_sub(length).filter(|at| *at > 0) else { return text };
    let at = (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    let rest = text.get(at..).unwrap_or("");
    rest.split_once('\n').map_or(rest, |(_, rest)| rest)
}
