//! Commands as the shell runs them, read from a terminal model of the session.
//!
//! What lives here: the [`Tracker`], an IO-free and clock-free state machine fed with the bytes of both directions of an
//! interactive session (SSH shell, Telnet, later `kubectl exec`); it says where an Enter is, what that Enter would run
//! ([`Candidate`]), and afterwards what ran and what it printed ([`Finished`]). [`split`] cuts a command line at the shell's
//! separators, so that rules see every part. What must not: rules, records, the ledger, sockets, timers.
//!
//! How a gateway uses it:
//!
//! 1. Bytes from the asset: [`Tracker::output`] in the order in which the user sees them.
//! 2. Bytes from the user: [`Tracker::input`] until nothing is left. Forward [`InputStep::forward`] bytes at once. When there
//!    is a [`InputStep::gate`], hold these bytes back, keep feeding output and
//!    wait while [`Tracker::needs_settle`] returns a duration; then ask [`Tracker::candidate`] and judge every text of
//!    [`Candidate::texts`].
//! 3. Accepted: [`Tracker::commit`] and forward the held bytes, then go on with the rest of the input. Refused: wait until the
//!    asset is silent, [`Tracker::reject`], send what it returns instead of the held bytes, and drop the rest of the input.
//! 4. Call [`Tracker::poll`] when [`Tracker::deadline`] has passed, and [`Tracker::close`] at the end.
//!
//! What a filter on top of it cannot do: see into scripts, aliases and key bindings of the asset. A shell may bind any
//! key to "run this line"; only CR, LF and Ctrl-O are held back. [`Finished::unjudged`] tells afterwards when what ran
//! is not what was judged.
//!
//! Memory: a few KiB when idle (rows are stored as long as they are filled). At most, and only while it lasts:
//! [`Options::max_command`] characters of typed text (4 bytes each) and cells of an edited line (8 bytes each), two copies of
//! the command, [`Options::max_output`] bytes of output, 64 KiB of output not looked at yet.

mod extract;
mod lineedit;
mod prompt;
mod screen;
mod split;
mod terminal;
#[cfg(test)]
mod tests;
mod tracker;

use std::time::Duration;

use zeroize::Zeroizing;

pub use split::split;
pub use tracker::Tracker;

/// Limits and times of a [`Tracker`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Characters of one command kept, default 1 MiB; longer ones are [`Confidence::Unknown`] and [`Candidate::truncated`].
    pub max_command: usize,
    /// Bytes of output text kept per command, default 64 KiB; the recording holds everything.
    pub max_output: usize,
    /// The grain of waiting, default 25 ms: an edited line that does not show what was typed (yet) has settled after four
    /// times that without output. A line that shows what was typed needs no silence.
    pub quiet: Duration,
    /// The longest wait for the echo before an Enter is judged anyway, default 400 ms.
    pub max_settle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_command: 1 << 20,
            max_output: 64 << 10,
            quiet: Duration::from_millis(25),
            max_settle: Duration::from_millis(400),
        }
    }
}

/// How far a slice of user input may go to the asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputStep {
    /// Leading bytes that may be forwarded at once.
    pub forward: usize,
    /// Bytes right after them that would run a command: hold them until the candidate is judged. The rest of the slice is not
    /// looked at yet; give it to [`Tracker::input`] after [`Tracker::commit`] or [`Tracker::reject`].
    pub gate: Option<usize>,
}

/// How well the text of a command is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// Read from what the asset showed.
    Echoed,
    /// Known from the keys only: the asset did not show it (yet).
    Typed,
    /// Neither is certain: history or completion keys whose result was not shown in time, or a text over the limit. Where
    /// rules must hold, refuse these.
    Unknown,
}

/// Where an Enter was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A line of a shell, a prompt or a program that reads lines, also inside a terminal multiplexer.
    Shell,
    /// A full-screen program (alternate screen). Text is there only for commands it hands to a shell (`:!cmd`).
    Program,
    /// The asset does not show what is typed: a password. Never write its text anywhere.
    NoEcho,
}

/// What an Enter would run.
pub struct Candidate {
    /// The command: with the earlier lines (their last 16 KiB) when it continues over several. Empty for an empty line and for
    /// [`Kind::NoEcho`].
    pub text: String,
    /// Other readings that rules must judge too (typed keys against shown text, the current line alone). For [`Kind::NoEcho`]
    /// one may be a password: judge it, never store or show it.
    pub alternatives: Vec<Zeroizing<String>>,
    /// How well the text is known.
    pub confidence: Confidence,
    /// Where it was typed.
    pub kind: Kind,
    /// The prompt in front of the line, as shown.
    pub prompt: String,
    /// The text was longer than [`Options::max_command`] and is cut there.
    pub truncated: bool,
    /// The command whose next line this is, under the id given to [`Tracker::commit`] for its first line.
    pub continues: Option<u64>,
    /// Whether committing it makes a command record; false for empty lines, passwords, keys of full-screen programs and lines
    /// inside a bracketed paste (their Enter runs nothing yet).
    pub record: bool,
}

impl Candidate {
    /// Every text that rules must judge, each to be passed through [`split`] as well.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str())
            .chain(self.alternatives.iter().map(|text| text.as_str()))
            .filter(|text| !text.trim().is_empty())
    }
}

/// A command that ran, with what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The id given to [`Tracker::commit`]; `None` when it ran without a judged Enter.
    pub id: Option<u64>,
    /// The command as the shell took it, lines separated by `\n`.
    pub text: String,
    /// What the terminal showed between Enter and the next prompt, plain text, lines separated by `\n`.
    pub output: String,
    /// The output was longer than [`Options::max_output`].
    pub output_cut: bool,
    /// Bytes of the asset's output before the Enter.
    pub started_pos: u64,
    /// Bytes of the asset's output before the next prompt's line was seen complete.
    pub ended_pos: u64,
    /// How well the text is known.
    pub confidence: Confidence,
    /// Where it was typed.
    pub kind: Kind,
    /// The prompt in front of its first line.
    pub prompt: String,
    /// What the shell took is not among the texts that were judged (a key binding ran it, or it changed after the verdict):
    /// judge `text` now and act on the session.
    pub unjudged: bool,
}

/// What the tracker saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// A command ended: its prompt is back, the next one starts, or the session closes.
    Finished(Finished),
    /// A full-screen program took (`true`) or left (`false`) the screen.
    FullScreen(bool),
}
