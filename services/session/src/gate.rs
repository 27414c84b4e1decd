//! The command gate: what a user types is judged by the session's command filters before its Enter reaches the asset,
//! and every command leaves a row. The same judgement for one-shot commands (`exec`), before anything is opened at the
//! asset. What must not be here: reading commands off a terminal (`command`) and matching (the model's `CommandMatcher`).
//!
//! What it can and cannot do: it sees what the shell is about to run as the terminal shows it. It does not see into
//! scripts, aliases or programs that are started; a person who may run a shell can always write a script. It prevents
//! mistakes and makes intent visible, and the row tells how sure the text is.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::command::{CommandMatcher, Hit};
use gatehouse_model::notice::{Notice, NoticeKind};
use gatehouse_model::rules::RuleAction;
use gatehouse_model::session::{CommandConfidence, RiskLevel};
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::admit::Admission;
use crate::command::{Confidence, Finished, Kind, Observed, Options, Tracker};
use crate::handle::{SessionHandle, Stop};
use crate::paste::{PASTE_END, PasteTail};
use crate::rows::CommandDraft;

/// Commands whose end has not been seen yet, beyond which the oldest row is written without output.
const MAX_RUNNING: usize = 64;

/// What the filters say to a command.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub risk: RiskLevel,
    /// The command as the user is told of it.
    pub command: String,
    /// The rule that acted.
    pub rule: Option<Rule>,
}

/// A filter that matched.
#[derive(Debug, Clone)]
pub struct Rule {
    pub filter: Uuid,
    pub filter_name: String,
    pub group: Uuid,
    pub group_name: String,
    pub action: RuleAction,
    reviewers: Vec<Uuid>,
}

impl From<&Hit> for Rule {
    fn from(hit: &Hit) -> Self {
        Self {
            filter: hit.filter.id,
            filter_name: hit.filter.name.clone(),
            group: hit.group.id,
            group_name: hit.group.name.clone(),
            action: hit.action(),
            reviewers: hit.filter.reviewers.clone(),
        }
    }
}

impl Verdict {
    fn accept(command: &str) -> Self {
        Self { risk: RiskLevel::Accept, command: command.to_owned(), rule: None }
    }

    /// The command must not reach the asset.
    pub fn is_refused(&self) -> bool {
        self.risk == RiskLevel::Reject || self.risk == RiskLevel::ReviewReject
    }
}

/// What a gate wants its door to do.
pub enum GateStep {
    /// Send these bytes to the asset.
    Forward(Bytes),
    /// Tell the user that a command was refused or warned about.
    Tell(Verdict),
}

/// What became of a slice of the user's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Sent on, as far as it was not refused earlier.
    Through,
    /// A command in it was refused, and what followed it was dropped. Keys that were typed or pasted before the user could
    /// see that are to be given to [`Gate::drop_ahead`] instead of [`Gate::input`]: they count on the refused line.
    Refused,
}

/// Where a gate's steps go. One call at a time, in order.
pub trait GateSink {
    fn step(&mut self, step: GateStep) -> impl Future<Output = Result<(), Stop>> + Send;
}

struct Running {
    input: String,
    verdict: Verdict,
    confidence: CommandConfidence,
    at: DateTime<Utc>,
    offset: Duration,
    position: u64,
}

struct State {
    tracker: Tracker,
    running: HashMap<u64, Running>,
    next: u64,
    last_output: Option<Instant>,
    /// What is left of a paste of which a line was refused.
    paste: Option<PasteTail>,
}

/// The gate of one interactive session. Cheap to clone: one task feeds what the asset shows, another what the user types.
#[derive(Clone)]
pub struct Gate {
    session: SessionHandle,
    state: Arc<Mutex<State>>,
    /// Output came: an Enter that waits for its echo looks again.
    echoed: Arc<Notify>,
    /// How long the asset has to be silent before it is told to forget a line, and the longest wait for that.
    quiet: (Duration, Duration),
}

impl Gate {
    pub fn new(session: SessionHandle) -> Self {
        let (cols, rows) = session.shared().size();
        let options = Options { max_output: session.output_limit(), ..Options::default() };
        let quiet = (options.quiet, options.max_settle);
        let tracker = Tracker::new(cols, rows, options);
        let state = State { tracker, running: HashMap::new(), next: 1, last_output: None, paste: None };
        Self { session, state: Arc::new(Mutex::new(state)), echoed: Arc::default(), quiet }
    }

    /// What the asset showed, in the order in which the user sees it.
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn output(&self, data: &[u8]) -> Result<(), Stop> {
        let seen = {
            let (mut state, now) = (self.state.lock(), Instant::now());
            state.last_output = Some(now);
            state.tracker.output(data, now)
        };
        self.echoed.notify_one();
        self.observe(seen).await
    }

    /// What the user typed. Everything that runs nothing is forwarded at once; an Enter is forwarded when its command is
    /// accepted.
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn input(&self, data: Bytes, sink: &mut impl GateSink) -> Result<Passed, Stop> {
        let mut rest = self.after_paste(data);
        while !rest.is_empty() {
            let step = self.state.lock().tracker.input(&rest, Instant::now());
            let forward = step.forward.min(rest.len());
            if forward > 0 {
                sink.step(GateStep::Forward(rest.split_to(forward))).await?;
            }
            match step.gate {
                Some(held) => {
                    let held = rest.split_to(held.min(rest.len()));
                    if self.enter(held, sink).await? == Passed::Refused {
                        self.drop_ahead(rest);
                        return Ok(Passed::Refused);
                    }
                }
                // A tracker that takes nothing and holds nothing would never end.
                None if forward == 0 => sink.step(GateStep::Forward(std::mem::take(&mut rest))).await?,
                None => {}
            }
        }
        Ok(Passed::Through)
    }

    /// Drops keys that follow a refused command (see [`Passed::Refused`]).
    pub fn drop_ahead(&self, data: Bytes) {
        // What comes after the end of a paste was typed before its refusal could be seen, too.
        self.after_paste(data);
    }

    /// What of `data` does not belong to a refused paste.
    fn after_paste(&self, mut data: Bytes) -> Bytes {
        let mut state = self.state.lock();
        let Some(paste) = &mut state.paste else { return data };
        match paste.end(&data, Instant::now()) {
            None => Bytes::new(),
            Some(at) => {
                state.paste = None;
                data.split_off(at)
            }
        }
    }

    /// Waits until the asset has been silent for a moment, not for ever: a line editor that is told to forget its line
    /// while it draws swallows the next key.
    async fn silence(&self) {
        let (quiet, longest) = self.quiet;
        let begin = Instant::now();
        loop {
            let silent = self.state.lock().last_output.map_or(quiet, |at| at.elapsed());
            let Some(wait) = quiet.checked_sub(silent).filter(|w| !w.is_zero()) else { return };
            let Some(left) = longest.checked_sub(begin.elapsed()).filter(|w| !w.is_zero()) else { return };
            tokio::time::sleep(wait.min(left)).await;
        }
    }

    /// Waits for the echo, judges, and lets the Enter through or not.
    async fn enter(&self, held: Bytes, sink: &mut impl GateSink) -> Result<Passed, Stop> {
        loop {
            let wait = self.state.lock().tracker.needs_settle(Instant::now());
            let Some(wait) = wait else { break };
            // Whichever comes first; both lead to another look.
            let _ = tokio::time::timeout(wait, self.echoed.notified()).await;
        }
        let Some(candidate) = self.state.lock().tracker.candidate() else {
            sink.step(GateStep::Forward(held)).await?;
            return Ok(Passed::Through);
        };
        let hidden = candidate.kind == Kind::NoEcho;
        // A password that happens to look like a command must not be told, logged or noticed: only refused.
        let verdict = self.judge(candidate.texts(), if hidden { "" } else { &candidate.text });
        let confidence = confidence(candidate.confidence);
        if verdict.is_refused() {
            self.silence().await;
            let bytes = {
                let mut state = self.state.lock();
                let bytes = state.tracker.reject(Instant::now());
                if bytes.starts_with(PASTE_END) {
                    state.paste = Some(PasteTail::new(Instant::now()));
                }
                bytes
            };
            let now = self.running(&candidate.text, &verdict, confidence);
            self.notice(&verdict);
            sink.step(GateStep::Forward(Bytes::from_static(bytes))).await?;
            sink.step(GateStep::Tell(verdict.clone())).await?;
            self.session.mark_command(&now.input, risk_number(verdict.risk)).await?;
            self.row(now, String::new(), false).await?;
            return Ok(Passed::Refused);
        }
        let (id, seen) = {
            let mut state = self.state.lock();
            let next = state.next;
            state.next += 1;
            let (id, seen) = state.tracker.commit(next, Instant::now());
            if let Some(id) = id {
                let entry = self.running(&candidate.text, &verdict, confidence);
                match state.running.get_mut(&id) {
                    // A further line of a command that is known: the worst verdict counts.
                    Some(known) => {
                        known.input = entry.input;
                        if entry.verdict.rule.is_some() {
                            known.verdict = entry.verdict;
                        }
                    }
                    None => {
                        state.running.insert(id, entry);
                    }
                }
            }
            (id, seen)
        };
        self.observe(seen).await?;
        if verdict.rule.is_some() && verdict.risk == RiskLevel::Warning {
            self.notice(&verdict);
            sink.step(GateStep::Tell(verdict.clone())).await?;
        }
        if id.is_some() && candidate.continues.is_none() {
            self.session.mark_command(&candidate.text, risk_number(verdict.risk)).await?;
        }
        self.evict().await?;
        sink.step(GateStep::Forward(held)).await?;
        Ok(Passed::Through)
    }

    /// The user's terminal has a new size.
    pub fn resize(&self, cols: u16, rows: u16) {
        self.state.lock().tracker.resize(cols, rows);
    }

    /// When [`Gate::poll`] wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.state.lock().tracker.deadline()
    }

    /// Time passed: a prompt may be back.
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn poll(&self) -> Result<(), Stop> {
        let seen = self.state.lock().tracker.poll(Instant::now());
        self.observe(seen).await
    }

    /// The session ends: rows of commands that still run are written with what they showed so far.
    pub async fn close(&self) {
        let seen = self.state.lock().tracker.close();
        // A session that must end has been told already.
        let _ = self.observe(seen).await;
        let left: Vec<Running> = {
            let mut state = self.state.lock();
            let mut left: Vec<(u64, Running)> = state.running.drain().collect();
            left.sort_by_key(|(id, _)| *id);
            left.into_iter().map(|(_, r)| r).collect()
        };
        for running in left {
            let _ = self.row(running, String::new(), false).await;
        }
    }

    fn judge<'a>(&self, texts: impl Iterator<Item = &'a str>, shown: &str) -> Verdict {
        let rules = self.session.shared().watched.rules();
        verdict(&rules, texts, shown)
    }

    fn running(&self, input: &str, verdict: &Verdict, confidence: CommandConfidence) -> Running {
        Running {
            input: input.to_owned(),
            verdict: verdict.clone(),
            confidence,
            at: self.session.core().now(),
            offset: self.session.elapsed(),
            position: self.session.position(),
        }
    }

    async fn evict(&self) -> Result<(), Stop> {
        let oldest = {
            let mut state = self.state.lock();
            let oldest = if state.running.len() > MAX_RUNNING { state.running.keys().min().copied() } else { None };
            oldest.and_then(|id| state.running.remove(&id))
        };
        match oldest {
            Some(running) => self.row(running, String::new(), false).await,
            None => Ok(()),
        }
    }

    async fn observe(&self, seen: Vec<Observed>) -> Result<(), Stop> {
        for event in seen {
            if let Observed::Finished(finished) = event {
                self.finished(finished).await?;
            }
        }
        Ok(())
    }

    async fn finished(&self, done: Finished) -> Result<(), Stop> {
        if done.kind == Kind::NoEcho {
            return Ok(());
        }
        let known = done.id.and_then(|id| self.state.lock().running.remove(&id));
        let mut running = match known {
            Some(known) => known,
            // It ran without an Enter that we judged.
            None => {
                let verdict = self.judge(std::iter::once(done.text.as_str()), &done.text);
                let running = self.running(&done.text, &verdict, confidence(done.confidence));
                self.session.mark_command(&done.text, risk_number(verdict.risk)).await?;
                running
            }
        };
        if !done.text.is_empty() {
            running.input.clone_from(&done.text);
        }
        let mut ended = None;
        if done.unjudged {
            let verdict = self.judge(std::iter::once(done.text.as_str()), &done.text);
            if verdict.is_refused() {
                // Too late to hold it back; the session does not go on.
                let rule = verdict.rule.as_ref().map(|r| r.filter_name.clone()).unwrap_or_default();
                ended = Some(format!("a command that rule \"{rule}\" forbids was run by a key of the shell"));
                self.notice(&verdict);
            }
            running.verdict = verdict;
        }
        self.row(running, done.output, done.output_cut).await?;
        match ended {
            Some(reason) => {
                self.session.shared().kill(None, &reason);
                self.session.check()
            }
            None => Ok(()),
        }
    }

    async fn row(&self, running: Running, output: String, output_cut: bool) -> Result<(), Stop> {
        let rule = running.verdict.rule.as_ref();
        let draft = CommandDraft {
            input: running.input,
            output,
            output_cut,
            risk: running.verdict.risk,
            confidence: running.confidence,
            filter: rule.map(|r| r.filter),
            group: rule.map(|r| r.group),
            at: running.at,
            offset_ms: u64::try_from(running.offset.as_millis()).unwrap_or(u64::MAX),
            position: running.position,
        };
        self.session.command_row(draft).await
    }

    fn notice(&self, verdict: &Verdict) {
        notice(&self.session, verdict);
    }
}

impl Admission {
    /// What the command filters say to a one-shot command, before anything is opened.
    pub fn judge(&self, command: &str) -> Verdict {
        verdict(&CommandMatcher::new(self.allow.filters.clone()), std::iter::once(command), command)
    }
}

impl SessionHandle {
    /// Judges a one-shot command (SSH `exec`), whole and in parts, before anything is opened at the asset, and writes its
    /// row: refused ones at once, others by [`SessionHandle::exec_done`].
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn exec_command(&self, command: &str) -> Result<ExecRow, Stop> {
        let rules = self.shared().watched.rules();
        let verdict = verdict(&rules, std::iter::once(command), command);
        let row = ExecRow {
            verdict,
            input: command.to_owned(),
            at: self.core().now(),
            offset: self.elapsed(),
            position: self.position(),
        };
        self.mark_command(command, risk_number(row.verdict.risk)).await?;
        if row.verdict.rule.is_some() {
            notice(self, &row.verdict);
        }
        if row.verdict.is_refused() {
            self.exec_done(row.clone(), String::new(), false).await?;
        }
        Ok(row)
    }

    /// The row of a one-shot command, with what it printed as far as it is kept.
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn exec_done(&self, row: ExecRow, output: String, output_cut: bool) -> Result<(), Stop> {
        let rule = row.verdict.rule.as_ref();
        let draft = CommandDraft {
            output,
            output_cut,
            risk: row.verdict.risk,
            confidence: CommandConfidence::Exec,
            filter: rule.map(|r| r.filter),
            group: rule.map(|r| r.group),
            at: row.at,
            offset_ms: u64::try_from(row.offset.as_millis()).unwrap_or(u64::MAX),
            position: row.position,
            input: row.input,
        };
        self.command_row(draft).await
    }
}

/// A one-shot command that was judged.
#[derive(Debug, Clone)]
pub struct ExecRow {
    pub verdict: Verdict,
    input: String,
    at: DateTime<Utc>,
    offset: Duration,
    position: u64,
}

/// The strictest of what the filters say to each reading of the command. The matcher looks at the parts of each by itself.
fn verdict<'a>(rules: &CommandMatcher, texts: impl Iterator<Item = &'a str>, shown: &str) -> Verdict {
    let worst = texts.filter_map(|text| rules.check(text)).max_by_key(|hit| risk(hit.action()));
    match worst {
        Some(hit) => Verdict { risk: risk(hit.action()), command: shown.to_owned(), rule: Some(Rule::from(&hit)) },
        None => Verdict::accept(shown),
    }
}

fn risk(action: RuleAction) -> RiskLevel {
    match action {
        RuleAction::Accept => RiskLevel::Accept,
        RuleAction::Warning | RuleAction::Notice | RuleAction::NotifyAndWarn => RiskLevel::Warning,
        // Reviews need approvals, which do not exist yet, and faces likewise: what asks for one must not let a command
        // through.
        RuleAction::Reject | RuleAction::Review | RuleAction::FaceVerify | RuleAction::FaceOnline => RiskLevel::Reject,
    }
}

fn notice(session: &SessionHandle, verdict: &Verdict) {
    let Some(rule) = &verdict.rule else { return };
    if rule.reviewers.is_empty() || rule.action == RuleAction::Accept {
        return;
    }
    let facts = session.facts();
    let what = if verdict.is_refused() { "refused" } else { "warned about" };
    session.core().notifier().notify(Notice {
        kind: NoticeKind::CommandAlert,
        org: facts.org_id,
        recipients: rule.reviewers.clone(),
        subject: format!("A command was {what} on {}", facts.asset),
        text: format!(
            "User: {}\nAsset: {}\nAccount: {}\nFrom: {}\nRule: {}\nCommand group: {}\nCommand: {}\nSession: {}",
            facts.user,
            facts.asset,
            facts.account,
            facts.remote_addr,
            rule.filter_name,
            rule.group_name,
            verdict.command,
            facts.id
        ),
        resource: Some(facts.id),
    });
}

fn confidence(c: Confidence) -> CommandConfidence {
    match c {
        Confidence::Echoed => CommandConfidence::Echoed,
        Confidence::Typed => CommandConfidence::Typed,
        Confidence::Unknown => CommandConfidence::Unknown,
    }
}

fn risk_number(risk: RiskLevel) -> u8 {
    risk.as_str().parse().unwrap_or(u8::MAX)
}
