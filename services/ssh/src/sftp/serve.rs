//! The tasks of one SFTP channel: one takes the user's requests, one per asset takes its answers.

use std::collections::HashMap;
use std::sync::Arc;

use gatehouse_session::Ending;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::mount::{Mount, MountReader, Mounted, SftpError};
use super::packet::Framer;
use super::relay::{End, Relay};
use super::view::{Tree, View};
use crate::user::{UserChannel, UserInput, UserReader};

/// `sftp user@account@asset@gateway`: the user sees the asset's root. Ends with the connection, the asset or the session;
/// closes the session.
pub(super) async fn one(user: UserChannel, mounted: Mounted) {
    let (reader, writer) = user.split();
    let session = mounted.session.clone();
    let (mount, answers) = match Mount::start(mounted, Vec::new()).await {
        Ok(started) => started,
        Err(error) => {
            super::refuse(&writer, &error.to_string()).await;
            session.close(Ending::connect_failed(error.to_string())).await;
            return;
        }
    };
    let relay = Arc::new(Relay::new(writer, View::One(Arc::clone(&mount))));
    let mut requests = tokio::spawn(take_requests(Arc::clone(&relay), reader));
    let mut answering = tokio::spawn(take_answers(Arc::clone(&relay), Arc::clone(&mount), answers));
    let end = tokio::select! {
        end = &mut requests => joined(end),
        end = &mut answering => joined(end),
        stop = session.killed() => Err(End::Stopped(stop)),
    };
    requests.abort();
    answering.abort();
    let why = reason(&end);
    relay.cut_off(&mount, &why).await;
    mount.hang_up().await;
    relay.hang_up().await;
    session.close(Ending::normal(why)).await;
}

/// `sftp user@gateway`: the user sees nodes, assets and accounts as folders; an account's folder is opened, with a session
/// of its own, when it is first looked into.
pub(super) async fn tree(user: UserChannel, tree: Arc<dyn Tree>) {
    let (reader, writer) = user.split();
    let (tell, mut opened) = mpsc::unbounded_channel();
    let view = View::Tree { tree, mounts: tokio::sync::Mutex::new(HashMap::new()), opened: tell };
    let relay = Arc::new(Relay::new(writer, view));
    let mut requests = tokio::spawn(take_requests(Arc::clone(&relay), reader));
    let mut answering = JoinSet::new();
    let end = loop {
        tokio::select! {
            end = &mut requests => break joined(end),
            Some((mount, answers)) = opened.recv() => {
                let relay = Arc::clone(&relay);
                answering.spawn(async move { serve_mount(&relay, mount, answers).await });
            }
            // A mount that ended is written down already.
            Some(_) = answering.join_next(), if !answering.is_empty() => {}
        }
    };
    requests.abort();
    answering.shutdown().await;
    let why = reason(&end);
    for mount in relay.view.mounts().await {
        relay.cut_off(&mount, &why).await;
        mount.hang_up().await;
        mount.session.close(Ending::normal(why.clone())).await;
    }
    relay.hang_up().await;
}

/// One account's folder of a tree, to its end. The connection goes on without it.
async fn serve_mount(relay: &Arc<Relay>, mount: Arc<Mount>, answers: MountReader) {
    let end = tokio::select! {
        end = take_answers(Arc::clone(relay), Arc::clone(&mount), answers) => end,
        stop = mount.session.killed() => Err(End::Stopped(stop)),
    };
    let why = reason(&end);
    // The user may be gone; what was open is written down either way.
    if relay.lost(&mount, &why).await.is_err() {
        relay.cut_off(&mount, &why).await;
    }
    mount.hang_up().await;
    mount.session.close(Ending::normal(why)).await;
}

async fn take_requests(relay: Arc<Relay>, mut reader: UserReader) -> Result<(), End> {
    let mut framer = Framer::default();
    loop {
        match reader.next().await {
            Some(UserInput::Data(data)) => framer.push(data)?,
            Some(UserInput::Eof) | None => return Ok(()),
            Some(UserInput::Resize(..) | UserInput::Signal(_)) => {}
        }
        while let Some(packet) = framer.pop() {
            relay.request(packet).await?;
        }
    }
}

async fn take_answers(relay: Arc<Relay>, mount: Arc<Mount>, mut answers: MountReader) -> Result<(), End> {
    while let Some(packet) = answers.next().await? {
        relay.answer(&mount, packet).await?;
    }
    Err(SftpError::AssetClosed.into())
}

fn joined(end: Result<Result<(), End>, tokio::task::JoinError>) -> Result<(), End> {
    match end {
        Ok(end) => end,
        Err(error) => {
            tracing::error!(%error, "the SFTP relay failed");
            Err(End::Asset(SftpError::AssetClosed))
        }
    }
}

fn reason(end: &Result<(), End>) -> String {
    match end {
        Ok(()) => "the user closed the connection".to_owned(),
        Err(error) => error.to_string(),
    }
}
