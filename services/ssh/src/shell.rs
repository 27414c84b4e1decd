//! An interactive session: the user's terminal and a shell (or a command with a terminal) on the asset, spliced. Every
//! byte passes the session's tap, every Enter its gate. What must not be here: choosing an asset.

use std::time::Duration;

use bytes::Bytes;
use gatehouse_dial::PtySpec;
use gatehouse_dial::telnet::{TelnetLogin, TelnetPrompts};
use gatehouse_model::session::SessionType;
use gatehouse_session::{
    Admission, Control, Ending, Gate, GateSink, GateStep, OpenSpec, Passed, SessionHandle, Stop, SuPlan, Verdict,
};
use zeroize::Zeroizing;

use crate::asset::{self, AssetEvent, AssetReader, AssetWriter};
use crate::exec::{Exit, exit_of};
use crate::i18n::{Lang, Text};
use crate::switch;
use crate::tty::{Line, Tty, crlf};
use crate::user::{UserInput, UserReader, UserWriter};
use crate::visitor::{ConnectError, Pick, PickedAccount, Visitor, charset, pair};

/// How a session at the terminal ended.
pub(crate) enum Ended {
    /// The asset ended it.
    Asset(Exit),
    /// It ended by rule or by an administrator, or never began; the user has been told.
    Told,
    /// The user is gone.
    Gone,
}

/// What runs on the asset.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    Shell,
    /// `ssh -t host command`.
    Command(&'a [u8]),
}

/// Asks for what is missing, connects and splices until one side ends.
pub(crate) async fn run(visitor: &Visitor, tty: &mut Tty, pick: &Pick, what: What<'_>, lang: Lang) -> Ended {
    let mut pick = pick.clone();
    let admission = match admit(visitor, tty, &mut pick, lang).await {
        Ok(Some(admission)) => admission,
        Ok(None) => return Ended::Told,
        Err(ended) => return ended,
    };
    for rule in admission.warnings() {
        if tty.print(&format!("\x1b[33m{}\x1b[0m\n", lang.with(Text::LoginWatched, &[rule]))).await.is_err() {
            return Ended::Gone;
        }
    }
    let result = match pick.protocol {
        "telnet" => telnet(visitor, tty, admission, lang).await,
        _ => ssh(visitor, tty, admission, what, lang).await,
    };
    match result {
        Ok(ended) => ended,
        Err(error) => tell_failed(tty, &error, lang).await,
    }
}

async fn tell_failed(tty: &Tty, error: &ConnectError, lang: Lang) -> Ended {
    let text = lang.with(Text::ConnectFailed, &[&error.to_string()]);
    match tty.print(&format!("\x1b[31m{text}\x1b[0m\n")).await {
        Ok(()) => Ended::Told,
        Err(_) => Ended::Gone,
    }
}

/// Leave for the session, with user name and secret asked for where they are not stored. `None`: the user has been told why
/// not.
async fn admit(visitor: &Visitor, tty: &mut Tty, pick: &mut Pick, lang: Lang) -> Result<Option<Admission>, Ended> {
    let patience = patience(visitor);
    if let PickedAccount::Manual { username: username @ None } = &mut pick.account {
        match ask(tty, &lang.get(Text::AskUsername), false, patience).await? {
            Some(name) if !name.trim().is_empty() => *username = Some(name.trim().to_owned()),
            _ => return Ok(None),
        }
    }
    let admission = match visitor.admit(pick, None, "ssh_client", SessionType::Normal).await {
        Ok(admission) => admission,
        Err(refusal) => {
            let text = format!("\x1b[31m{}\x1b[0m\n", lang.with(Text::Refused, &[&refusal.message]));
            return tty.print(&text).await.map(|()| None).map_err(|_| Ended::Gone);
        }
    };
    if !admission.needs_secret() {
        return Ok(Some(admission));
    }
    let prompt = lang.with(Text::AskPassword, &[admission.username()]);
    match ask(tty, &prompt, true, patience).await? {
        Some(secret) => Ok(Some(admission.with_secret(secret))),
        None => Ok(None),
    }
}

pub(crate) fn patience(visitor: &Visitor) -> Duration {
    Duration::from_secs(u64::from(visitor.core().settings().security_max_idle_time) * 60)
}

async fn ask(tty: &mut Tty, prompt: &str, hide: bool, patience: Duration) -> Result<Option<Zeroizing<String>>, Ended> {
    match tty.line(prompt, hide, patience).await {
        Ok(Line::Text(text)) => Ok(Some(text)),
        Ok(Line::Interrupt | Line::End | Line::Idle) => Ok(None),
        Err(_) => Err(Ended::Gone),
    }
}

async fn ssh(
    visitor: &Visitor,
    tty: &mut Tty,
    admission: Admission,
    what: What<'_>,
    lang: Lang,
) -> Result<Ended, ConnectError> {
    let spec = OpenSpec::terminal((tty.term.cols, tty.term.rows), tty.term.name.clone());
    let charset = charset(&admission);
    let mut refused = None;
    if let What::Command(command) = what {
        refused = Some(admission.judge(&String::from_utf8_lossy(command))).filter(Verdict::is_refused);
    }
    if let (Some(verdict), What::Command(command)) = (refused, what) {
        // Nothing is opened at the asset, but the attempt is recorded like any other.
        let session = visitor.core().open(&admission, spec).await?;
        let text = message(lang, &verdict);
        let told = session.output(&Bytes::from(text.clone())).await.is_ok() && tty.writer.data(text).await.is_ok();
        // A session that must end has been told already.
        let _ = session.exec_command(&String::from_utf8_lossy(command)).await;
        session.close(Ending::normal("the command was refused by a rule")).await;
        return Ok(if told { Ended::Told } else { Ended::Gone });
    }
    let connected = Box::pin(visitor.connect(admission, spec)).await?;
    let session = connected.session.clone();
    let pty = PtySpec {
        term: tty.term.name.clone(),
        cols: u32::from(tty.term.cols),
        rows: u32::from(tty.term.rows),
        width: 0,
        height: 0,
        modes: tty.term.modes.clone(),
    };
    let channel = match what {
        What::Shell => connected.peer.shell(Some(&pty), tty.env()).await,
        What::Command(command) => connected.peer.exec(command, Some(&pty), tty.env()).await,
    };
    let channel = match channel {
        Ok(channel) => channel,
        Err(error) => {
            session.close(Ending::connect_failed(error.to_string())).await;
            return Err(error.into());
        }
    };
    let (reader, writer) = asset::ssh(channel, charset);
    if let What::Command(command) = what
        && let Ok(row) = session.exec_command(&String::from_utf8_lossy(command)).await
    {
        // Its output is that of the session.
        let _ = session.exec_done(row, String::new(), false).await;
    }
    let mut connected = connected;
    let su = connected.su.take();
    let ended = splice(tty, &session, reader, writer, su, lang).await;
    visitor.give_back(connected);
    Ok(ended)
}

async fn telnet(visitor: &Visitor, tty: &mut Tty, admission: Admission, lang: Lang) -> Result<Ended, ConnectError> {
    let spec = OpenSpec::terminal((tty.term.cols, tty.term.rows), tty.term.name.clone());
    let login = telnet_login(&admission, tty);
    let dial = async {
        let (login, su) = login?;
        let (route, ctx) = (admission.route()?, admission.dial_context()?);
        Ok::<_, ConnectError>((gatehouse_dial::telnet::connect(&route, &login, &ctx).await?, su))
    };
    let (session, peer) = tokio::join!(Box::pin(visitor.core().open(&admission, spec)), Box::pin(dial));
    let (session, (peer, su)) = pair(session, peer).await?;
    let (reader, writer) = asset::telnet(peer, charset(&admission));
    Ok(splice(tty, &session, reader, writer, su, lang).await)
}

fn telnet_login(admission: &Admission, tty: &Tty) -> Result<(TelnetLogin, Option<SuPlan>), ConnectError> {
    let unlocked = admission.unlock()?;
    let setting = |key: &str, default: &'static str| {
        let set = admission.protocol_settings().and_then(|p| p.setting_str(key)).filter(|s| !s.is_empty());
        set.map_or_else(|| default.to_owned(), str::to_owned)
    };
    let prompts = TelnetPrompts::new(
        &setting("username_prompt", "username:|login:"),
        &setting("password_prompt", "password:"),
        &setting("success_prompt", r"success|成功|#|>|\$"),
    )?;
    let login = TelnetLogin {
        username: unlocked.username,
        password: unlocked.password.unwrap_or_default(),
        prompts,
        term: tty.term.name.clone(),
        cols: tty.term.cols,
        rows: tty.term.rows,
    };
    Ok((login, unlocked.su))
}

/// What the user is told of a command that a rule refused or warned about.
pub(crate) fn message(lang: Lang, verdict: &Verdict) -> String {
    let Some(rule) = &verdict.rule else { return String::new() };
    let text = if verdict.is_refused() { Text::CommandRefused } else { Text::CommandWarned };
    // What somebody typed must not drive their terminal when it is shown to them again.
    let command: String = verdict.command.chars().filter(|c| !c.is_control()).take(200).collect();
    let colour = if verdict.is_refused() { "\x1b[31m" } else { "\x1b[33m" };
    let line = lang.with(text, &[&command, &rule.filter_name]);
    crlf(&format!("\n{colour}{line}\x1b[0m\n"))
}

/// Where the gate's steps go.
struct Sink<'a> {
    session: &'a SessionHandle,
    asset: &'a AssetWriter,
    user: &'a UserWriter,
    lang: Lang,
}

impl GateSink for Sink<'_> {
    async fn step(&mut self, step: GateStep) -> Result<(), Stop> {
        match step {
            GateStep::Forward(bytes) => self.asset.data(bytes).await.map_err(|gone| Stop { reason: gone.to_string() }),
            GateStep::Tell(verdict) => tell(self.session, self.user, &message(self.lang, &verdict)).await,
        }
    }
}

/// Our own words on the user's screen; they are in the recording too.
async fn tell(session: &SessionHandle, user: &UserWriter, text: &str) -> Result<(), Stop> {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    session.output(&bytes).await?;
    // A user who is gone is noticed by whoever reads from them.
    let _ = user.data(bytes).await;
    Ok(())
}

/// How one direction ended.
enum Side {
    Asset(Exit),
    User,
    Stopped(Stop),
}

async fn splice(
    tty: &mut Tty,
    session: &SessionHandle,
    mut reader: AssetReader,
    writer: AssetWriter,
    su: Option<SuPlan>,
    lang: Lang,
) -> Ended {
    let first = match su {
        None => Bytes::new(),
        Some(plan) => match Box::pin(switch::switch(plan, &mut reader, &writer)).await {
            Ok(first) => first,
            Err(error) => {
                let ended = tell_failed(tty, &ConnectError::Stopped(error.to_string()), lang).await;
                session.close(Ending::connect_failed(error.to_string())).await;
                writer.close().await;
                return ended;
            }
        },
    };
    let gate = Gate::new(session.clone());
    let ahead = tty.take_ahead();
    let (user_reader, user_writer) = (&mut tty.reader, &tty.writer);
    let mut size = (tty.term.cols, tty.term.rows);
    let side = {
        let down = down(session, &gate, &mut reader, user_writer, first);
        let up = up(session, &gate, user_reader, user_writer, &writer, ahead, lang, &mut size);
        tokio::pin!(down);
        tokio::pin!(up);
        tokio::select! {
            side = &mut down => side,
            side = &mut up => side,
            stop = session.killed() => Side::Stopped(stop),
            () = user_writer.gone() => Side::User,
            stop = watch_pause(session, user_writer, lang) => Side::Stopped(stop),
        }
    };
    (tty.term.cols, tty.term.rows) = size;
    gate.close().await;
    let (ended, reason) = match side {
        Side::Asset(exit) => (Ended::Asset(exit), "the asset closed the session".to_owned()),
        Side::User => (Ended::Gone, "the user closed the connection".to_owned()),
        Side::Stopped(stop) => {
            let text = format!("\r\n\x1b[31m{}\x1b[0m\r\n", lang.with(Text::SessionEnded, &[&stop.reason]));
            // At once: a user who does not read is not waited for.
            let told = tokio::time::timeout(Duration::from_secs(1), tty.writer.data(text)).await;
            (if matches!(told, Ok(Ok(()))) { Ended::Told } else { Ended::Gone }, stop.reason)
        }
    };
    writer.close().await;
    session.close(Ending::normal(reason)).await;
    ended
}

/// Tells the user that their session was paused and goes on again. Never ends by itself.
async fn watch_pause(session: &SessionHandle, user: &UserWriter, lang: Lang) -> Stop {
    let mut control = session.control();
    let mut paused = false;
    loop {
        let now = control.borrow_and_update().clone();
        let text = match now {
            Control::Paused { by } if !paused => {
                paused = true;
                Some(lang.with(Text::Paused, &[&by]))
            }
            Control::Running if paused => {
                paused = false;
                Some(lang.get(Text::Resumed).into_owned())
            }
            _ => None,
        };
        if let Some(text) = text
            && let Err(stop) = tell(session, user, &format!("\r\n\x1b[33m{text}\x1b[0m\r\n")).await
        {
            return stop;
        }
        if control.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// From the asset to the user.
async fn down(session: &SessionHandle, gate: &Gate, reader: &mut AssetReader, user: &UserWriter, first: Bytes) -> Side {
    let mut exit = Exit::Unknown;
    if !first.is_empty()
        && let Err(side) = show(session, gate, user, first).await
    {
        return side;
    }
    loop {
        let event = match gate.deadline() {
            None => reader.next().await,
            Some(at) => match tokio::time::timeout_at(at.into(), reader.next()).await {
                Ok(event) => event,
                Err(_) => {
                    if let Err(stop) = gate.poll().await {
                        return Side::Stopped(stop);
                    }
                    continue;
                }
            },
        };
        match event {
            Some(AssetEvent::Data(data)) => {
                if let Err(side) = show(session, gate, user, data).await {
                    return side;
                }
            }
            Some(AssetEvent::Extended(code, data)) => {
                if let Err(stop) = session.output(&data).await {
                    return Side::Stopped(stop);
                }
                if user.extended(code, data).await.is_err() {
                    return Side::User;
                }
            }
            Some(other) => exit = exit_of(other, exit),
            // Without a word how it ended: broken, or closed by an asset that says nothing, as many devices do.
            None if matches!(exit, Exit::Unknown) => return reader.lost().map_or(Side::Asset(exit), Side::Stopped),
            None => return Side::Asset(exit),
        }
    }
}

/// Recorded first, then judged as echo, then shown.
async fn show(session: &SessionHandle, gate: &Gate, user: &UserWriter, data: Bytes) -> Result<(), Side> {
    session.output(&data).await.map_err(Side::Stopped)?;
    gate.output(&data).await.map_err(Side::Stopped)?;
    user.data(data).await.map_err(|_| Side::User)
}

/// From the user to the asset.
#[expect(clippy::too_many_arguments, reason = "one direction of a splice touches both of its ends")]
async fn up(
    session: &SessionHandle,
    gate: &Gate,
    reader: &mut UserReader,
    user: &UserWriter,
    asset: &AssetWriter,
    ahead: Bytes,
    lang: Lang,
    size: &mut (u16, u16),
) -> Side {
    let mut sink = Sink { session, asset, user, lang };
    let mut next = (!ahead.is_empty()).then_some(UserInput::Data(ahead));
    loop {
        let input = match next.take() {
            Some(input) => Some(input),
            None => reader.next().await,
        };
        let result = match input {
            None => return Side::User,
            Some(UserInput::Data(data)) => {
                if session.is_paused() {
                    // Typed into a paused session: dropped, so that nothing runs in a burst when it goes on.
                    continue;
                }
                session.typed(data.len());
                let passed = gate.input(data, &mut sink).await;
                if passed == Ok(Passed::Refused) {
                    reader.take_waiting().into_iter().for_each(|ahead| gate.drop_ahead(ahead));
                }
                passed.map(drop)
            }
            Some(UserInput::Resize(cols, rows)) => {
                *size = (cols, rows);
                gate.resize(cols, rows);
                match asset.resize(cols, rows).await {
                    Ok(()) => session.resize(cols, rows).await,
                    // The other direction sees how the asset ended.
                    Err(_) => return std::future::pending().await,
                }
            }
            Some(UserInput::Signal(signal)) => {
                // As above when it fails.
                let _ = asset.signal(signal).await;
                Ok(())
            }
            Some(UserInput::Eof) => {
                let _ = asset.eof().await;
                Ok(())
            }
        };
        if let Err(stop) = result {
            match session.check() {
                Err(stop) => return Side::Stopped(stop),
                // The asset does not take it any more: what it still says and how it ended comes the other way.
                Ok(()) if session.is_paused() => return Side::Stopped(stop),
                Ok(()) => return std::future::pending().await,
            }
        }
    }
}
