//! One-shot commands (`ssh host command`): judged before anything is opened at the asset, recorded in both directions, with
//! exit status, exit signal and standard error kept apart. What must not be here: terminals (see `shell`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gatehouse_model::grant::Actions;
use gatehouse_model::session::SessionType;
use gatehouse_session::{Admission, Ending, ExecRow, OpenSpec, SessionHandle, Stop};
use russh::Sig;
use tokio::time::{Instant, timeout_at};

use crate::asset::{self, AssetEvent, AssetReader, AssetWriter};
use crate::i18n::{Lang, Text};
use crate::user::{UserChannel, UserInput, UserReader, UserWriter};
use crate::visitor::{ConnectError, Pick, Visitor, charset};

/// Status when the gateway refuses or cannot connect; what `ssh` itself uses for its own errors.
const REFUSED: u32 = 255;

/// How something on the asset ended.
#[derive(Debug, Clone)]
pub(crate) enum Exit {
    Status(u32),
    Signal {
        signal: Sig,
        core_dumped: bool,
        message: String,
    },
    /// The asset did not say.
    Unknown,
}

impl Exit {
    /// Tells the user's client.
    pub(crate) async fn send(self, user: &UserWriter) {
        // The client may be gone already.
        let _ = match self {
            Self::Status(status) => user.exit_status(status).await,
            Self::Signal { signal, core_dumped, message } => user.exit_signal(signal, core_dumped, message).await,
            Self::Unknown => user.exit_status(REFUSED).await,
        };
    }
}

pub(crate) fn exit_of(event: AssetEvent, known: Exit) -> Exit {
    match event {
        AssetEvent::ExitStatus(status) => Exit::Status(status),
        AssetEvent::ExitSignal { signal, core_dumped, message } => Exit::Signal { signal, core_dumped, message },
        AssetEvent::Data(_) | AssetEvent::Extended(..) | AssetEvent::Eof => known,
    }
}

/// What runs without a terminal.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    Command(&'a [u8]),
    /// The log-in shell, which takes its input as a script: judged line by line.
    Shell,
}

/// How the row of a shell without a terminal names what ran.
const SHELL: &str = "(shell without a terminal)";

/// Runs something on the picked asset and closes the channel.
pub(crate) async fn run(visitor: &Visitor, channel: UserChannel, pick: &Pick, what: What<'_>, lang: Lang) {
    let env = channel.env.clone();
    let (mut reader, writer) = channel.split();
    let exit = match attempt(visitor, &mut reader, &writer, pick, what, &env, lang).await {
        Ok(exit) => exit,
        Err(error) => {
            // The client may be gone already.
            let _ = writer.stderr(format!("{}\n", lang.with(Text::ConnectFailed, &[&error.to_string()]))).await;
            Exit::Status(REFUSED)
        }
    };
    exit.send(&writer).await;
    let _ = writer.eof().await;
    writer.close().await;
}

async fn attempt(
    visitor: &Visitor,
    reader: &mut UserReader,
    writer: &UserWriter,
    pick: &Pick,
    what: What<'_>,
    env: &[(String, String)],
    lang: Lang,
) -> Result<Exit, ConnectError> {
    let admission = visitor.admit(pick, None, "ssh_client", SessionType::Command).await?;
    if admission.needs_secret() {
        return Err(ConnectError::Stopped(lang.get(Text::SecretNeedsTerminal).into_owned()));
    }
    let text = match what {
        What::Command(command) => String::from_utf8_lossy(command).into_owned(),
        What::Shell => SHELL.to_owned(),
    };
    let spec = OpenSpec::plain(text.chars().take(200).collect::<String>());
    if let Some(why) = refusal(&admission, &text, lang) {
        // Nothing is opened at the asset, but the attempt leaves its session and its row.
        let session = visitor.core().open(&admission, spec).await?;
        // A session that must end has been told already.
        let _ = session.exec_command(&text).await;
        let shown = Bytes::from(format!("{why}\n"));
        let _ = session.output(&shown).await;
        let _ = writer.stderr(shown).await;
        session.close(Ending::normal("the command was refused by a rule")).await;
        return Ok(Exit::Status(126));
    }
    let connected = Box::pin(visitor.connect(admission, spec)).await?;
    let session = connected.session.clone();
    if connected.su.is_some() {
        // Switching needs a shell with prompts; running the command as the wrong account would be worse than not at all.
        let why = lang.get(Text::SwitchNeedsTerminal).into_owned();
        session.close(Ending::connect_failed(why.clone())).await;
        return Err(ConnectError::Stopped(why));
    }
    let row = match session.exec_command(&text).await {
        Ok(row) => row,
        Err(stop) => return Ok(stopped(&session, writer, stop, lang).await),
    };
    if row.verdict.rule.is_some() {
        let _ = writer.stderr(super::shell::message(lang, &row.verdict)).await;
    }
    let channel = match what {
        What::Command(command) => connected.peer.exec(command, None, env).await,
        What::Shell => connected.peer.shell(None, env).await,
    };
    let channel = match channel {
        Ok(channel) => channel,
        Err(error) => {
            session.close(Ending::connect_failed(error.to_string())).await;
            return Err(error.into());
        }
    };
    let (from, to) = asset::ssh(channel, charset(&connected.admission));
    let lines = matches!(what, What::Shell).then(Vec::new);
    let exit = splice(&session, reader, writer, from, to, row, lines, lang).await;
    visitor.give_back(connected);
    Ok(exit)
}

/// Why a command may not run, if so: a command filter, or a file transfer that the grant does not include.
fn refusal(admission: &Admission, command: &str, lang: Lang) -> Option<String> {
    let verdict = admission.judge(command);
    if verdict.is_refused() {
        return Some(super::shell::message(lang, &verdict).trim().to_owned());
    }
    let needed = rsync(command)?;
    let (name, _) = needed.names().next()?;
    (!admission.actions().contains(needed)).then(|| lang.with(Text::ActionMissing, &[name]))
}

/// What the server side of `rsync` needs: it is a file transfer however it is started.
fn rsync(command: &str) -> Option<Actions> {
    let mut words = command.split_ascii_whitespace();
    let program = words.next()?;
    let server = (program == "rsync" || program.ends_with("/rsync")) && words.next() == Some("--server");
    server.then(|| if words.next() == Some("--sender") { Actions::DOWNLOAD } else { Actions::UPLOAD })
}

async fn stopped(session: &SessionHandle, user: &UserWriter, stop: Stop, lang: Lang) -> Exit {
    let text = format!("{}\n", lang.with(Text::SessionEnded, &[&stop.reason]));
    // At once: a user who does not read is not waited for.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), user.stderr(text)).await;
    session.close(Ending::normal(stop.reason)).await;
    Exit::Status(REFUSED)
}

enum Side {
    Asset(Exit),
    User,
    Stopped(Stop),
}

/// The beginning of a command's output, for its row.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Kept {
    fn add(&mut self, data: &[u8]) {
        let room = self.limit.saturating_sub(self.bytes.len());
        self.cut |= data.len() > room;
        self.bytes.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
    }
}

#[expect(clippy::too_many_arguments, reason = "a splice touches both ends, the tap and the row")]
async fn splice(
    session: &SessionHandle,
    reader: &mut UserReader,
    writer: &UserWriter,
    mut from: AssetReader,
    to: AssetWriter,
    row: ExecRow,
    lines: Option<Vec<u8>>,
    lang: Lang,
) -> Exit {
    let mut kept = Kept { bytes: Vec::new(), limit: session.output_limit(), cut: false };
    let side = {
        let ended = AtomicBool::new(false);
        let down = down(session, &mut from, writer, &mut kept, &ended);
        let up = up(session, reader, writer, &to, lines, &ended, lang);
        tokio::pin!(down);
        tokio::pin!(up);
        tokio::select! {
            side = &mut down => side,
            side = &mut up => side,
            stop = session.killed() => Side::Stopped(stop),
            () = writer.gone() => Side::User,
        }
    };
    let output = String::from_utf8_lossy(&kept.bytes).into_owned();
    // A session that must end has been told already.
    let _ = session.exec_done(row, output, kept.cut).await;
    to.close().await;
    match side {
        Side::Asset(exit) => {
            session.close(Ending::normal("the command ended")).await;
            exit
        }
        Side::User => {
            session.close(Ending::normal("the user closed the connection")).await;
            Exit::Unknown
        }
        Side::Stopped(stop) => stopped(session, writer, stop, lang).await,
    }
}

/// How long the end of the output waits for the exit status while the user could still send something.
const EOF_WAITS: Duration = Duration::from_secs(1);

/// The end of the output is passed on with the exit status, which usually follows at once: a client that has sent all it
/// had closes the channel as soon as it sees that end, and the status would be lost. `ended` says that the user sent all.
async fn down(
    session: &SessionHandle,
    from: &mut AssetReader,
    user: &UserWriter,
    kept: &mut Kept,
    ended: &AtomicBool,
) -> Side {
    let mut exit = Exit::Unknown;
    let mut held: Option<Instant> = None;
    loop {
        let event = match held {
            Some(until) if !ended.load(Ordering::Relaxed) => match timeout_at(until, from.next()).await {
                Ok(event) => event,
                Err(_) if ended.load(Ordering::Relaxed) => continue,
                Err(_) => {
                    held = None;
                    if user.eof().await.is_err() {
                        return Side::User;
                    }
                    continue;
                }
            },
            _ => from.next().await,
        };
        let (code, data) = match event {
            Some(AssetEvent::Data(data)) => (None, data),
            Some(AssetEvent::Extended(code, data)) => (Some(code), data),
            Some(AssetEvent::Eof) => {
                held = Some(Instant::now() + EOF_WAITS);
                continue;
            }
            Some(other) => {
                exit = exit_of(other, exit);
                continue;
            }
            // Without a word how it ended: broken, or closed by an asset that says nothing, as many devices do.
            None if matches!(exit, Exit::Unknown) => return from.lost().map_or(Side::Asset(exit), Side::Stopped),
            None => return Side::Asset(exit),
        };
        kept.add(&data);
        if let Err(stop) = session.output(&data).await {
            return Side::Stopped(stop);
        }
        let sent = match code {
            None => user.data(data).await,
            Some(code) => user.extended(code, data).await,
        };
        if sent.is_err() {
            return Side::User;
        }
    }
}

async fn up(
    session: &SessionHandle,
    reader: &mut UserReader,
    user: &UserWriter,
    to: &AssetWriter,
    mut lines: Option<Vec<u8>>,
    ended: &AtomicBool,
    lang: Lang,
) -> Side {
    let mut control = session.control();
    loop {
        let Some(input) = reader.next().await else { return Side::User };
        let sent = match input {
            UserInput::Data(data) => {
                // Data is held while the session is paused, not dropped: it would be damaged.
                while session.is_paused() {
                    if control.changed().await.is_err() {
                        break;
                    }
                }
                if let Err(stop) = session.input(&data).await {
                    return Side::Stopped(stop);
                }
                let data = match &mut lines {
                    None => data,
                    Some(held) => match script(session, user, held, &data, lang).await {
                        Ok(data) if data.is_empty() => continue,
                        Ok(data) => data,
                        Err(stop) => return Side::Stopped(stop),
                    },
                };
                to.data(data).await
            }
            UserInput::Eof => {
                ended.store(true, Ordering::Relaxed);
                // A last line without its end.
                let rest = match &mut lines {
                    Some(held) if !held.is_empty() => script(session, user, held, b"\n", lang).await,
                    _ => Ok(Bytes::new()),
                };
                match rest {
                    Ok(rest) if rest.is_empty() => to.eof().await,
                    Ok(rest) => match to.data(rest).await {
                        Ok(()) => to.eof().await,
                        gone => gone,
                    },
                    Err(stop) => return Side::Stopped(stop),
                }
            }
            UserInput::Signal(signal) => to.signal(signal).await,
            UserInput::Resize(..) => Ok(()),
        };
        if sent.is_err() {
            // A command that does not read its input: how it ended comes the other way. What still comes is thrown away,
            // so that the user's client is not held.
            while reader.next().await.is_some() {}
            return Side::User;
        }
    }
}

/// Longest line of a script that is judged as one; longer ones are judged in pieces.
const MAX_LINE: usize = 64 * 1024;

/// Takes input of a shell and returns the whole lines of it that may run. Each leaves its row; what a rule refuses is
/// left out, and the user is told.
async fn script(
    session: &SessionHandle,
    user: &UserWriter,
    held: &mut Vec<u8>,
    data: &[u8],
    lang: Lang,
) -> Result<Bytes, Stop> {
    let mut pass = Vec::with_capacity(data.len());
    for piece in data.split_inclusive(|b| *b == b'\n') {
        held.extend_from_slice(piece);
        if held.last() != Some(&b'\n') && held.len() < MAX_LINE {
            continue;
        }
        let text = String::from_utf8_lossy(held).trim().to_owned();
        if !text.is_empty() {
            let row = session.exec_command(&text).await?;
            if row.verdict.rule.is_some() {
                // A user who is gone is noticed by whoever reads from them.
                let _ = user.stderr(super::shell::message(lang, &row.verdict)).await;
            }
            if row.verdict.is_refused() {
                held.clear();
                continue;
            }
            session.exec_done(row, String::new(), false).await?;
        }
        pass.append(held);
    }
    Ok(Bytes::from(pass))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rsync_is_a_file_transfer_in_its_direction() {
        assert_eq!(rsync("rsync --server -logDtpre.iLsfxC . /tmp"), Some(Actions::UPLOAD));
        assert_eq!(rsync("/usr/bin/rsync --server --sender -vlogDtpre. . /etc"), Some(Actions::DOWNLOAD));
        assert_eq!(rsync("rsync a b"), None);
        assert_eq!(rsync("echo rsync --server"), None);
    }

    #[test]
    fn the_row_keeps_the_beginning_and_says_when_it_is_cut() {
        let mut kept = Kept { bytes: Vec::new(), limit: 5, cut: false };
        kept.add(b"abc");
        kept.add(b"de");
        assert!(!kept.cut);
        kept.add(b"f");
        assert!(kept.cut && kept.bytes == b"abcde");
    }
}
