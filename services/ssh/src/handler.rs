//! One user connection: the SSH library's events become a log-in, and channels become tasks. Nothing here waits for an
//! asset or a person: a handler that waits stops its connection. What must not be here: what the channels do.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use gatehouse_dial::flow::{self, Intake, Outlet, Valve};
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::auth::{Entered, Login};
use crate::direct;
use crate::forward::{self, Wish};
use crate::limits::Place;
use crate::scp::{self, ScpContext};
use crate::server::Grace;
use crate::sftp::{self, SftpContext};
use crate::tty::Term;
use crate::user::UserChannel;
use crate::visitor::Visitor;

/// Channels of one connection at the same time (OpenSSH: MaxSessions 10; VS Code opens one per tunnel).
const MAX_CHANNELS: usize = 64;
/// Environment variables that a client may set: how text looks, nothing that changes what runs.
const ENVIRONMENT: [&str; 3] = ["LANG", "LANGUAGE", "COLORTERM"];
/// How many of them one channel may set.
const MAX_ENVIRONMENT: usize = 20;
/// Columns and rows that a terminal may have.
const MAX_SIZE: u32 = 1_000;

/// A user's channel as the handler sees it.
struct Lane {
    intake: Intake,
    valve: Valve,
    /// Gone when nobody reads the channel any more.
    alive: Weak<()>,
    /// Tells the channel's task when the lane goes.
    _gone: DropGuard,
    /// Until something is started on it.
    waiting: Option<Waiting>,
}

struct Waiting {
    outlet: Outlet,
    half: ChannelWriteHalf<Msg>,
    held: Arc<()>,
    gone: CancellationToken,
    term: Option<Term>,
    env: Vec<(String, String)>,
}

/// A connection. Its panics and errors end it alone.
pub(crate) struct Connection {
    login: Login,
    core: gatehouse_session::Core,
    visitor: Option<Visitor>,
    lanes: HashMap<ChannelId, Lane>,
    place: Place,
    grace: Grace,
}

impl Connection {
    pub(crate) fn new(login: Login, core: gatehouse_session::Core, place: Place, grace: Grace) -> Self {
        Self { login, core, visitor: None, lanes: HashMap::new(), place, grace }
    }

    /// After every answer: whoever is in is in.
    fn entered(&mut self, auth: Auth) -> Auth {
        if auth != Auth::Accept {
            return auth;
        }
        let Some(Entered { proof, target, token }) = self.login.take() else {
            // Accepted without a proof cannot be; should it ever, nobody gets in.
            return Auth::reject();
        };
        let visitor = Visitor::new(self.core.clone(), Arc::clone(proof.user()), proof.ip(), target, token);
        self.visitor = Some(visitor);
        self.place.proven();
        self.grace.proven();
        auth
    }

    fn lane(&mut self, channel: Channel<Msg>) -> Option<ChannelId> {
        self.lanes.retain(|_, lane| lane.alive.strong_count() > 0);
        if self.visitor.is_none() || self.lanes.len() >= MAX_CHANNELS {
            return None;
        }
        let id = channel.id();
        // What the library would queue itself is dropped: its queue would stop the connection.
        let (_, half) = channel.split();
        let (intake, outlet, valve) = flow::backlog();
        let held = Arc::new(());
        let alive = Arc::downgrade(&held);
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let waiting = Some(Waiting { outlet, half, held, gone, term: None, env: Vec::new() });
        self.lanes.insert(id, Lane { intake, valve, alive, _gone, waiting });
        Some(id)
    }

    async fn push(&mut self, channel: ChannelId, message: ChannelMsg) {
        if let Some(lane) = self.lanes.get(&channel) {
            // Nobody reads it any more: dropped.
            let _ = lane.intake.push(message).await;
        }
    }

    /// Takes the channel to start something on it; once.
    fn start(&mut self, id: ChannelId, session: &Session) -> Option<(Visitor, UserChannel, Option<Term>)> {
        let visitor = self.visitor.clone()?;
        let Waiting { outlet, half, held, gone, term, env } = self.lanes.get_mut(&id)?.waiting.take()?;
        let channel = UserChannel { env, ..UserChannel::new(outlet, half, session.handle(), held, gone) };
        Some((visitor, channel, term))
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Reject { proceed_with_methods: Some(Login::methods()), partial_success: false })
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let auth = Box::pin(self.login.password(user, password)).await;
        Ok(self.entered(auth))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let known = self.login.key_offered(user, offer.public_key);
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let auth = Box::pin(self.login.key_proven(user, key)).await;
        Ok(self.entered(auth))
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        let auth = Box::pin(self.login.certificate_proven(user, certificate)).await;
        Ok(self.entered(auth))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let auth = Box::pin(self.login.interactive(user, response)).await;
        Ok(self.entered(auth))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.lane(channel) {
            Some(_) => reply.accept().await,
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Ok(port) = u16::try_from(port) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let Some(id) = self.lane(channel) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        match self.start(id, session) {
            Some((visitor, channel, _)) => {
                let wish = Wish { host: host.to_owned(), port };
                tokio::spawn(forward::run(visitor, channel, reply, wish));
            }
            None => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        // Its reader sees the end.
        self.lanes.remove(&channel);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.push(channel, ChannelMsg::Eof).await;
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        let Some(lane) = self.lanes.get(&channel) else { return Ok(()) };
        // Nobody reads it any more: dropped.
        let _ = lane.intake.push(ChannelMsg::Data { data: Bytes::copy_from_slice(data) }).await;
        lane.valve.pause().await;
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        // The library has one window for all channels of a connection.
        self.lanes.values().map(|lane| lane.valve.window()).min().unwrap_or(flow::FULL)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let size = |n: u32, default: u16| match u16::try_from(n.min(MAX_SIZE)) {
            Ok(0) | Err(_) => default,
            Ok(n) => n,
        };
        // It goes into the asset's environment.
        let plain = !term.is_empty() && term.len() <= 64 && term.chars().all(|c| c.is_ascii_graphic());
        let name = if plain { term } else { "xterm" }.to_owned();
        let term = Term { name, cols: size(cols, 80), rows: size(rows, 24), modes: modes.to_vec() };
        match self.lanes.get_mut(&channel).and_then(|l| l.waiting.as_mut()) {
            Some(waiting) => {
                waiting.term = Some(term);
                session.channel_success(channel)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let harmless = ENVIRONMENT.contains(&name) || name.starts_with("LC_");
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let plain = name.len() <= 64 && name.chars().all(word);
        let plain = plain && value.len() <= 128 && value.chars().all(|c| c.is_ascii_graphic());
        let waiting = self.lanes.get_mut(&channel).and_then(|l| l.waiting.as_mut());
        match waiting.filter(|w| harmless && plain && w.env.len() < MAX_ENVIRONMENT) {
            Some(waiting) => {
                waiting.env.push((name.to_owned(), value.to_owned()));
                session.channel_success(channel)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        match self.start(channel, session) {
            Some((visitor, user, term)) => {
                session.channel_success(channel)?;
                tokio::spawn(direct::shell(visitor, user, term));
                Ok(())
            }
            None => session.channel_failure(channel),
        }
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.start(channel, session) {
            Some((visitor, user, term)) => {
                session.channel_success(channel)?;
                let command = command.to_vec();
                if scp::is_scp(&command) {
                    tokio::spawn(async move { scp::serve(ScpContext { visitor }, &command, user).await });
                } else {
                    tokio::spawn(direct::exec(visitor, user, term, command));
                }
                Ok(())
            }
            None => session.channel_failure(channel),
        }
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != "sftp" {
            return session.channel_failure(channel);
        }
        match self.start(channel, session) {
            Some((visitor, user, _)) => {
                session.channel_success(channel)?;
                tokio::spawn(sftp::serve(SftpContext { visitor }, user));
                Ok(())
            }
            None => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        cols: u32,
        rows: u32,
        pix_width: u32,
        pix_height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (col_width, row_height) = (cols.clamp(1, MAX_SIZE), rows.clamp(1, MAX_SIZE));
        self.push(channel, ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height }).await;
        session.channel_success(channel)
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _session: &mut Session) -> Result<(), Self::Error> {
        self.push(channel, ChannelMsg::Signal { signal }).await;
        Ok(())
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
