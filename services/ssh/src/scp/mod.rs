//! SCP (the old protocol: `scp -t`, `scp -f` as a command) towards users. The bytes pass between the user's scp and the
//! asset's; they are followed on the way, so that every file is written down with size, SHA-256 and, up to a limit, its
//! content. Clients since OpenSSH 9 use SFTP instead.
//!
//! The gateway calls [`serve`] when a client runs such a command.

mod command;
mod follow;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use gatehouse_dial::{SshReader, SshWriter};
use gatehouse_model::session::SessionType;
use gatehouse_session::{Control, Ending, OpenSpec, SessionHandle, Stop};
use russh::ChannelMsg;
use tokio::sync::Mutex;

use crate::sftp::{refuse, several};
use crate::user::{UserChannel, UserInput, UserReader, UserWriter};
use crate::visitor::{Connected, Found, Visitor};
use command::{Direction, Scp, recognise};
use follow::Follow;

/// What a file service knows of its user.
pub struct ScpContext {
    pub visitor: Visitor,
}

/// Most of a refusal's or an error's text that is kept in the command's row.
const KEPT_ERRORS: usize = 4096;

/// Whether a command is the server side of `scp` and nothing else.
pub fn is_scp(command: &[u8]) -> bool {
    std::str::from_utf8(command).is_ok_and(|text| recognise(text).is_some())
}

/// Serves one transfer; sends the exit status and closes the channel itself.
pub async fn serve(ctx: ScpContext, command: &[u8], channel: UserChannel) {
    let (reader, writer) = channel.split();
    let opened = match std::str::from_utf8(command).ok().and_then(|text| Some((text, recognise(text)?))) {
        Some((text, scp)) => open(&ctx.visitor, text, scp).await,
        None => Err("this is not the far side of scp".to_owned()),
    };
    match opened {
        Ok(opened) => run(ctx.visitor, opened, reader, writer).await,
        Err(why) => refuse(&writer, &why).await,
    }
}

struct Opened {
    connected: Connected,
    scp: Scp,
    asset: (SshReader, SshWriter),
    row: gatehouse_session::ExecRow,
}

/// Admits, judges the command as any exec, checks what the grant allows, and starts scp on the asset.
async fn open(visitor: &Visitor, text: &str, scp: Scp) -> Result<Opened, String> {
    let pick = match visitor.find("ssh") {
        Found::One(pick) => pick,
        Found::Several(picks) => return Err(several(&picks)),
        Found::Nothing => {
            return Err(format!("{} is not an account and asset that you may reach", visitor.target_text()));
        }
    };
    if pick.protocol != "ssh" {
        return Err("this asset is not reached over SSH, so files cannot be copied".to_owned());
    }
    let admission = visitor.admit(&pick, None, "sftp_client", SessionType::Sftp).await.map_err(|e| e.to_string())?;
    if admission.needs_secret() {
        return Err("the password of this account must be typed, and scp has no place to ask for it".to_owned());
    }
    let allowed = admission.actions().contains(scp.needed());
    let connected = visitor.connect(admission, OpenSpec::plain(text)).await.map_err(|e| e.to_string())?;
    let session = connected.session.clone();
    let started = async {
        let row = session.exec_command(text).await.map_err(|stop| stop.reason)?;
        if let Some(rule) = row.verdict.rule.as_ref().filter(|_| row.verdict.is_refused()) {
            return Err(format!("command `{text}` is forbidden by the rule \"{}\"", rule.filter_name));
        }
        if !allowed {
            let why = "the grant does not allow it";
            session.file_row(scp.refused(why)).await.map_err(|stop| stop.reason)?;
            return Err(format!("your grant does not allow to {} files", scp.operation()));
        }
        if connected.su.is_some() {
            return Err("this account is reached by switching from another one, which scp cannot do".to_owned());
        }
        let channel = connected.peer.exec(text.as_bytes(), None, &[]).await.map_err(|e| e.to_string())?;
        Ok((row, channel))
    };
    match started.await {
        Ok((row, channel)) => Ok(Opened { connected, scp, asset: channel.split(), row }),
        Err(why) => {
            session.close(Ending::normal(why.clone())).await;
            Err(why)
        }
    }
}

async fn run(visitor: Visitor, opened: Opened, reader: UserReader, writer: UserWriter) {
    let Opened { connected, scp, asset: (from_asset, to_asset), row } = opened;
    let session = connected.session.clone();
    let keep = visitor.core().settings().ftp_file_max_store > 0;
    let direction = scp.direction;
    let follow = Arc::new(Mutex::new(Follow::new(scp, session.clone(), keep)));
    let writer = Arc::new(writer);
    let up_follow = (direction == Direction::Upload).then(|| Arc::clone(&follow));
    let up = tokio::spawn(send_up(session.clone(), reader, to_asset, up_follow));
    let down_follow = (direction == Direction::Download).then(|| Arc::clone(&follow));
    let down = send_down(&session, from_asset, &writer, down_follow);
    let (end, errors) = tokio::select! {
        end = down => end,
        stop = session.killed() => (Err(stop), String::new()),
    };
    up.abort();
    // After an abort nobody holds the lock for long; the row of a file cut in the middle is written here.
    let _ = up.await;
    let follow = match Arc::try_unwrap(follow) {
        Ok(follow) => follow.into_inner().finish().await,
        Err(_) => Ok(()),
    };
    let cut = errors.len() > KEPT_ERRORS;
    let why = match (&end, &follow) {
        (Ok(()), Ok(())) => "the transfer ended".to_owned(),
        (Err(stop), _) | (Ok(()), Err(stop)) => {
            let _ = writer.stderr(format!("gatehouse: {}\r\n", stop.reason)).await;
            let _ = writer.exit_status(1).await;
            stop.reason.clone()
        }
    };
    // A session that ends because rows cannot be written ends either way.
    let _ = session.exec_done(row, errors, cut).await;
    session.close(Ending::normal(why)).await;
    writer.close().await;
    if end.is_ok() {
        visitor.give_back(connected);
    }
}

async fn running(session: &SessionHandle) -> Result<(), Stop> {
    if session.is_paused() {
        let mut control = session.control();
        // An error means that the session is gone, which `check` says.
        let _ = control.wait_for(|c| !matches!(c, Control::Paused { .. })).await;
    }
    session.check()
}

async fn send_up(
    session: SessionHandle,
    mut reader: UserReader,
    to_asset: SshWriter,
    follow: Option<Arc<Mutex<Follow>>>,
) -> Result<(), Stop> {
    loop {
        match reader.next().await {
            Some(UserInput::Data(data)) => {
                running(&session).await?;
                session.moved(data.len() as u64, 0);
                if let Some(follow) = &follow {
                    let followed = follow.lock().await.data(&data).await;
                    if let Err(stop) = followed {
                        // The asset's side sees the end of its input and says so.
                        let _ = to_asset.eof().await;
                        return Err(stop);
                    }
                }
                if to_asset.data_bytes(data).await.is_err() {
                    return Ok(());
                }
            }
            Some(UserInput::Eof) | None => {
                let _ = to_asset.eof().await;
                return Ok(());
            }
            Some(UserInput::Resize(..) | UserInput::Signal(_)) => {}
        }
    }
}

/// To the end of the asset's scp. Its errors come back for the command's row.
async fn send_down(
    session: &SessionHandle,
    mut from_asset: SshReader,
    writer: &UserWriter,
    follow: Option<Arc<Mutex<Follow>>>,
) -> (Result<(), Stop>, String) {
    let mut errors = String::new();
    let moved = |data: &Bytes| session.moved(0, data.len() as u64);
    while let Some(message) = from_asset.wait().await {
        let sent = match message {
            ChannelMsg::Data { data } => {
                moved(&data);
                if let Some(follow) = &follow {
                    let followed = follow.lock().await.data(&data).await;
                    if let Err(stop) = followed {
                        return (Err(stop), errors);
                    }
                }
                writer.data(data).await
            }
            ChannelMsg::ExtendedData { data, ext } => {
                if errors.len() <= KEPT_ERRORS {
                    errors.push_str(&String::from_utf8_lossy(&data));
                }
                writer.extended(ext, data).await
            }
            ChannelMsg::ExitStatus { exit_status } => writer.exit_status(exit_status).await,
            ChannelMsg::Eof => writer.eof().await,
            ChannelMsg::Close => break,
            _ => Ok(()),
        };
        if sent.is_err() {
            break;
        }
    }
    (session.check(), errors)
}
