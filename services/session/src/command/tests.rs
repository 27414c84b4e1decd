//! Byte transcripts, limits, and what must hold for any bytes at all. Real shells are in `tests/command_corpus.rs`.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Plays both sides with a clock of its own.
struct Play {
    tracker: Tracker,
    now: Instant,
    finished: Vec<Finished>,
    full_screen: Vec<bool>,
}

impl Play {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        Self {
            tracker: Tracker::new(80, 24, options),
            now: Instant::now(),
            finished: Vec::new(),
            full_screen: Vec::new(),
        }
    }

    fn note(&mut self, events: Vec<Observed>) {
        for event in events {
            match event {
                Observed::Finished(finished) => self.finished.push(finished),
                Observed::FullScreen(on) => self.full_screen.push(on),
            }
        }
    }

    fn shows(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.now += Duration::from_millis(2);
        let events = self.tracker.output(bytes.as_ref(), self.now);
        self.note(events);
        self
    }

    fn quiet(&mut self) -> &mut Self {
        self.now += Duration::from_millis(200);
        let events = self.tracker.poll(self.now);
        self.note(events);
        self
    }

    /// Keys without an Enter.
    fn types(&mut self, keys: impl AsRef<[u8]>) -> &mut Self {
        self.now += Duration::from_millis(2);
        let keys = keys.as_ref();
        assert_eq!(self.tracker.input(keys, self.now), InputStep { forward: keys.len(), gate: None });
        self
    }

    /// Keys with their echo.
    fn edits(&mut self, text: &str) -> &mut Self {
        self.types(text).shows(text)
    }

    fn hold(&mut self, enter: u8) -> Option<Duration> {
        self.now += Duration::from_millis(1);
        assert_eq!(self.tracker.input(&[enter, b'z'], self.now), InputStep { forward: 0, gate: Some(1) });
        self.tracker.needs_settle(self.now)
    }

    /// Enter, waited for, not yet judged.
    fn enter(&mut self) -> Candidate {
        let mut wait = self.hold(b'\r');
        while let Some(time) = wait {
            self.now += time;
            wait = self.tracker.needs_settle(self.now);
        }
        self.tracker.candidate().unwrap()
    }

    fn accept(&mut self, id: u64) -> Option<u64> {
        let (id, events) = self.tracker.commit(id, self.now);
        self.note(events);
        id
    }
}

#[test]
fn a_command_with_its_output() {
    let mut play = Play::new();
    play.shows("host$ ").quiet().edits("ls -l");
    assert_eq!(play.hold(b'\r'), None, "the screen shows what was typed: no wait");
    let candidate = play.tracker.candidate().unwrap();
    assert_eq!((candidate.text.as_str(), candidate.prompt.as_str()), ("ls -l", "host$ "));
    assert_eq!((candidate.confidence, candidate.kind), (Confidence::Echoed, Kind::Shell));
    assert!(candidate.record && candidate.alternatives.is_empty() && candidate.continues.is_none());
    assert_eq!(play.accept(7), Some(7));
    play.shows("\r\n\x1b[31mone\x1b[0m\r\ntwo\r\nhost$ ").quiet();
    assert_eq!(play.finished.len(), 1);
    let done = &play.finished[0];
    assert_eq!((done.id, done.text.as_str(), done.output.as_str()), (Some(7), "ls -l", "one\ntwo"));
    assert_eq!(done.started_pos, 11);
    assert!(!done.output_cut && !done.unjudged);
    assert!(play.tracker.close().is_empty());
}

#[test]
fn the_wait_for_an_echo_is_bounded() {
    let mut play = Play::new();
    play.shows("$ ").quiet().types("\x1b[A");
    let mut wait = play.hold(b'\r').expect("nothing was shown yet");
    let start = play.now;
    while let Some(next) = play.tracker.needs_settle(play.now) {
        wait = next;
        play.now += wait;
    }
    assert!(!wait.is_zero() && play.now - start <= Options::default().max_settle);
    let candidate = play.tracker.candidate().unwrap();
    assert_eq!(candidate.confidence, Confidence::Unknown, "history that was not shown");
}

#[test]
fn recalled_history_is_settled_by_silence() {
    let mut play = Play::new();
    play.shows("$ ").quiet().types("\x1b[A").shows("rm -rf /");
    assert!(play.hold(b'\r').is_some_and(|wait| wait <= Duration::from_millis(100)));
    play.now += Duration::from_millis(101);
    assert_eq!(play.tracker.needs_settle(play.now), None);
    let candidate = play.tracker.candidate().unwrap();
    assert_eq!((candidate.text.as_str(), candidate.confidence), ("rm -rf /", Confidence::Echoed));
}

#[test]
fn a_refused_line_is_read_again_while_it_stands() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("rm -rf /");
    assert_eq!(play.enter().text, "rm -rf /");
    assert_eq!(play.tracker.reject(play.now), b"\x03");
    // The asset ignores Ctrl-C.
    let candidate = play.enter();
    assert!(candidate.texts().any(|text| text == "rm -rf /"));
    play.tracker.reject(play.now);
    play.edits("tmp");
    let candidate = play.enter();
    assert!(candidate.texts().any(|text| text == "rm -rf /tmp"));
    assert!(candidate.texts().any(|text| text == "rm -rf /"), "what was refused is still in the line");
    play.tracker.reject(play.now);
    play.shows("^C\r\n$ ").quiet().edits("ls");
    let candidate = play.enter();
    assert_eq!((candidate.text.as_str(), candidate.alternatives.len()), ("ls", 0));
}

#[test]
fn what_clears_a_line_depends_on_who_reads_it() {
    for (prompt, clear) in [
        ("u@h:~$ ", &b"\x03"[..]),
        ("h% ", b"\x03"),
        ("mysql> ", b"\x05\x15"),
        ("sqlite> ", b"\x05\x15"),
        (">>> ", b"\x03"),
        ("dquote> ", b"\x03"),
        ("Really? [y/N] ", b"\x15"),
    ] {
        let mut play = Play::new();
        play.shows(prompt).quiet().edits("x");
        play.enter();
        assert_eq!(play.tracker.reject(play.now), clear, "{prompt}");
    }
}

#[test]
fn passwords_leave_no_text() {
    for prompt in ["Password: ", "[sudo] password for eve: ", "Value? ", "密码："] {
        let mut play = Play::new();
        play.shows("$ ").quiet().edits("sudo ls");
        play.enter();
        play.accept(1);
        play.shows(format!("\r\n{prompt}")).quiet().types("s3cret");
        let candidate = play.enter();
        assert_eq!((candidate.kind, candidate.text.as_str(), candidate.record), (Kind::NoEcho, "", false));
        assert!(candidate.texts().any(|text| text == "s3cret"), "rules see it");
        assert_eq!(play.accept(2), None);
        play.shows("\r\nfile\r\n$ ").quiet();
        assert_eq!(play.finished.len(), 1);
        assert!(play.finished[0].output.contains("file"));
        assert!(!format!("{:?}", play.finished).contains("s3cret"));
    }
}

#[test]
fn masked_passwords_leave_no_text() {
    let mut play = Play::new();
    play.shows("[sudo] password for eve: ").quiet().types("s3cret").shows("******");
    let candidate = play.enter();
    assert_eq!((candidate.kind, candidate.text.as_str()), (Kind::NoEcho, ""));
}

#[test]
fn a_prompt_without_echo_still_has_commands() {
    let mut play = Play::new();
    play.shows("$ ").quiet().types("rm -rf /");
    let candidate = play.enter();
    assert_eq!((candidate.text.as_str(), candidate.confidence), ("rm -rf /", Confidence::Typed));
    assert_eq!(candidate.kind, Kind::Shell);
}

#[test]
fn suggestions_and_right_prompts_are_not_the_command() {
    let mut play = Play::new();
    play.shows("$ \x1b[s\x1b[70G[12:00:00]\x1b[u").quiet();
    play.types("\x1b[A").shows("git st\x1b[90matus --long\x1b[39m\x1b[11D");
    assert_eq!(play.enter().text, "git st");
    // Everything grey is what was typed, not a suggestion.
    let mut play = Play::new();
    play.shows("\x1b[90m$ ").quiet().types("\x1b[A").shows("rm -rf /\r\x1b[2C");
    assert_eq!(play.enter().text, "rm -rf /");
}

#[test]
fn lines_of_one_command_are_one_record() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("cat <<E");
    play.enter();
    assert_eq!(play.accept(1), Some(1));
    play.shows("\r\n> ").quiet().edits("$ text; more");
    let candidate = play.enter();
    assert_eq!((candidate.text.as_str(), candidate.continues), ("cat <<E\n$ text; more", Some(1)));
    assert!(candidate.texts().any(|text| text == "$ text; more"));
    assert_eq!(play.accept(2), Some(1));
    play.shows("\r\n> ").quiet().edits("E");
    play.enter();
    assert_eq!(play.accept(3), Some(1));
    play.shows("\r\n$ text; more\r\n$ ").quiet();
    assert_eq!(play.finished.len(), 1);
    assert_eq!(play.finished[0].text, "cat <<E\n$ text; more\nE");
    assert_eq!(play.finished[0].output, "$ text; more");
}

#[test]
fn a_prompt_that_looks_like_a_continuation_after_output_is_a_prompt() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("node");
    play.enter();
    play.accept(1);
    play.shows("\r\nWelcome\r\n> ").quiet().edits("1");
    assert_eq!(play.enter().continues, None);
}

#[test]
fn ctrl_o_puts_the_next_line_into_the_editor() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("one");
    play.hold(0x0f);
    assert_eq!(play.tracker.candidate().unwrap().text, "one");
    play.accept(1);
    play.shows("\r\n$ rm -rf /").quiet();
    assert_eq!(play.enter().text, "rm -rf /");
}

#[test]
fn what_a_key_binding_changed_is_told() {
    let mut play = Play::new();
    play.shows("$ ").quiet().types("\x1b[A").shows("ls");
    assert_eq!(play.enter().text, "ls");
    play.accept(1);
    play.shows("\r$ rm -rf /\r\n$ ").quiet();
    assert_eq!(play.finished[0].text, "rm -rf /");
    assert!(play.finished[0].unjudged);
}

#[test]
fn a_line_that_a_key_binding_ran_is_told_at_once() {
    let mut play = Play::new();
    play.shows("\x1b[?2004h$ ").quiet().edits("rm -rf /").types("\x14").shows("\r\n\x1b[?2004l\r");
    assert_eq!(play.finished.len(), 1);
    assert_eq!((play.finished[0].id, play.finished[0].text.as_str()), (None, "rm -rf /"));
    assert!(play.finished[0].unjudged);
    // Ctrl-C leaves a line too, and runs nothing.
    play.shows("\x1b[?2004h$ ").quiet().edits("rm x").types("\x03").shows("^C\r\n\x1b[?2004l\r\x1b[?2004h$ ").quiet();
    assert_eq!(play.finished.len(), 1);
}

#[test]
fn a_shell_on_the_alternate_screen_is_judged() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("tput smcup; PS1='x '");
    play.enter();
    play.accept(1);
    play.shows("\r\n\x1b[?1049hx ").quiet().edits("rm -rf /");
    assert!(play.enter().texts().any(|text| text == "rm -rf /"));
}

#[test]
fn many_lines_of_one_command_stay_linear() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("cat <<E");
    play.enter();
    play.accept(1);
    for _ in 0..2000 {
        play.shows("\r\n> ").edits("a line of a long here-document, sixty characters or so");
        let candidate = play.enter();
        assert!(candidate.text.len() < 20 << 10);
        assert_eq!(play.accept(2), Some(1));
    }
    play.shows("\r\n$ ").quiet();
    assert_eq!(play.finished[0].text.lines().count(), 2001);
}

#[test]
fn pasted_lines_are_judged_one_by_one_and_recorded_once() {
    let mut play = Play::new();
    play.shows("\x1b[?2004h$ ").quiet().types("\x1b[200~echo a");
    play.hold(b'\n');
    let candidate = play.tracker.candidate().unwrap();
    assert_eq!((candidate.text.as_str(), candidate.record), ("echo a", false));
    assert_eq!(play.accept(1), None);
    play.types("echo b\x1b[201~").shows("echo a\r\n\recho b");
    let candidate = play.enter();
    assert_eq!((candidate.text.as_str(), candidate.confidence), ("echo a\necho b", Confidence::Echoed));
}

#[test]
fn full_screen_programs_are_told_apart() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("vim x");
    play.enter();
    play.accept(1);
    play.shows("\r\n\x1b[?1049h\x1b[2J\x1b[2;1H~\x1b[3;1H~\x1b[1;1H").quiet();
    play.types("irm -rf /").shows("rm -rf /");
    let candidate = play.enter();
    assert_eq!((candidate.kind, candidate.text.as_str(), candidate.record), (Kind::Program, "", false));
    assert_eq!(play.accept(2), None);
    play.types("\x1b:!make").shows("\x1b[24;1H:!make");
    let candidate = play.enter();
    assert_eq!((candidate.kind, candidate.text.as_str(), candidate.record), (Kind::Program, "make", true));
    assert_eq!(play.accept(3), Some(3));
    play.shows("\x1b[?1049l\r\n$ ").quiet();
    assert_eq!(play.full_screen, [true, false]);
    assert_eq!(play.tracker.close().len(), 1);
}

#[test]
fn encoded_enters_are_held_at_their_last_byte() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("ls");
    let step = play.tracker.input(b"\x1b[13u", play.now);
    assert_eq!(step, InputStep { forward: 4, gate: Some(1) });
    // Asked again before the verdict: still held.
    assert_eq!(play.tracker.input(b"u", play.now), InputStep { forward: 0, gate: Some(1) });
}

#[test]
fn a_long_command_is_whole() {
    let mut play = Play::new();
    let command = format!("echo {}", "0123456789".repeat(2000));
    play.shows("$ ").quiet().edits(&command);
    assert_eq!(play.enter().text, command);
    // The same from the screen alone.
    let mut play = Play::new();
    play.shows("$ ").quiet().types("\x1b[A").shows(&command);
    assert_eq!(play.enter().text, command);
}

#[test]
fn a_command_over_the_limit_is_flagged() {
    let mut play = Play::with(Options { max_command: 1000, ..Options::default() });
    play.shows("$ ").quiet().edits(&"x".repeat(3000));
    let candidate = play.enter();
    assert!(candidate.truncated && candidate.confidence == Confidence::Unknown);
    assert!(candidate.text.len() <= 1000 && candidate.text.len() >= 900);
}

#[test]
fn output_over_the_limit_is_cut_and_the_flood_is_skimmed() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("yes");
    play.enter();
    play.accept(1);
    play.shows("\r\n");
    for _ in 0..200 {
        play.shows("y\r\n".repeat(4000));
    }
    play.shows("\x1b[?2004hother$ ").quiet().edits("ls");
    assert_eq!(play.enter().prompt, "other$ ");
    let done = &play.finished[0];
    assert!(done.output_cut && done.output.starts_with("y\ny\n"));
    assert!(done.output.len() <= 64 << 10 && done.output.len() > 60 << 10);
    assert_eq!(play.accept(2), Some(2));
}

#[test]
fn modes_survive_a_flood() {
    let mut play = Play::new();
    play.shows("$ ").quiet().edits("x");
    play.enter();
    play.accept(1);
    let filler = "text ".repeat(1 << 18);
    play.shows(&filler).shows("\x1b[?10").shows("49h").shows(&filler).shows(&filler);
    play.quiet();
    assert_eq!(play.full_screen, [true]);
}

#[test]
fn an_idle_tracker_is_small() {
    let mut play = Play::new();
    play.shows("Welcome to the host, this is a banner line of usual length.\r\n".repeat(10))
        .shows("user@host:~$ ")
        .quiet();
    assert!(play.tracker.weight() < 24 << 10, "{}", play.tracker.weight());
    // And again after a flood, a long line and a wide screen of text.
    play.edits(&"x".repeat(100_000));
    play.enter();
    play.accept(1);
    for _ in 0..100 {
        play.shows("some output of a command\r\n".repeat(1000));
    }
    play.shows("user@host:~$ ").quiet().edits("ls");
    play.enter();
    play.accept(2);
    play.shows("\r\nuser@host:~$ ").quiet();
    assert!(play.tracker.weight() < 24 << 10, "{}", play.tracker.weight());
}

#[derive(Debug, Clone)]
enum Any {
    Output(Vec<u8>),
    Input(Vec<u8>),
    Resize(u16, u16),
    Wait(u64),
    Accept,
    Reject,
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        "[ -~]{0,12}".prop_map(String::into_bytes),
        "\x1b\\[[?<]?[0-9]{0,5}(;[0-9]{0,5}){0,2}[@-~]".prop_map(String::into_bytes),
        "\x1b\\](133;[ABCD]|0;t)(\x07|\x1b\\\\)".prop_map(String::into_bytes),
        "(日|é|e\u{301}|\r|\n|\t|\x08|\\$ |> |\x1b\\[\\?1049[hl]|\x1b\\[20[01]~)".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn any_step() -> impl Strategy<Value = Any> {
    prop_oneof![
        4 => any_bytes().prop_map(Any::Output),
        3 => any_bytes().prop_map(Any::Input),
        1 => (0u16..200, 0u16..80).prop_map(|(cols, rows)| Any::Resize(cols, rows)),
        1 => (0u64..600).prop_map(Any::Wait),
        2 => Just(Any::Accept),
        1 => Just(Any::Reject),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_bytes_are_safe_and_bounded(steps in proptest::collection::vec(any_step(), 0..60)) {
        let options = Options { max_command: 2000, max_output: 1000, ..Options::default() };
        let mut tracker = Tracker::new(20, 5, options);
        let mut now = Instant::now();
        let mut held = false;
        for step in steps {
            match step {
                Any::Output(bytes) => drop(tracker.output(&bytes, now)),
                Any::Resize(cols, rows) => tracker.resize(cols, rows),
                Any::Wait(time) => {
                    now += Duration::from_millis(time);
                    tracker.poll(now);
                }
                Any::Input(bytes) => {
                    let step = tracker.input(&bytes, now);
                    prop_assert!(step.forward + step.gate.unwrap_or(0) <= bytes.len());
                    let sent = bytes.get(..step.forward).unwrap_or_default();
                    prop_assert!(!sent.contains(&b'\r') && !sent.contains(&b'\n'), "an Enter was not held");
                    prop_assert!(step.gate.is_some() || step.forward == bytes.len());
                    held = step.gate.is_some() || held;
                }
                Any::Accept | Any::Reject => {
                    let wait = tracker.needs_settle(now);
                    prop_assert!(wait.is_none_or(|wait| wait <= Options::default().max_settle * 4));
                    let candidate = tracker.candidate();
                    prop_assert_eq!(candidate.is_some(), held);
                    if let Some(candidate) = candidate {
                        prop_assert!(candidate.text.len() <= 4 * 2000 * 2);
                        prop_assert!(candidate.kind != Kind::NoEcho || candidate.text.is_empty());
                    }
                    if matches!(step, Any::Accept) { drop(tracker.commit(1, now)) } else { tracker.reject(now); }
                    held = false;
                }
            }
            prop_assert!(tracker.weight() < 1 << 20);
        }
        for event in tracker.close() {
            if let Observed::Finished(finished) = event {
                prop_assert!(finished.output.len() <= 1200);
            }
        }
    }
}
