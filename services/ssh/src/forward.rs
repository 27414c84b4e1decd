//! Local port forwarding (`ssh -L`, VS Code Remote): a tunnel through the asset's own SSH server, to the asset itself only,
//! behind a setting, and a session of its own. What must not be here: forwarding to anywhere else, or back.

use gatehouse_dial::SshWriter;
use gatehouse_model::asset::Asset;
use gatehouse_model::session::SessionType;
use gatehouse_session::{Ending, OpenSpec, SessionHandle};
use russh::server::ChannelOpenHandle;
use russh::{ChannelMsg, ChannelOpenFailure};

use crate::user::{UserChannel, UserInput, UserReader};
use crate::visitor::{ConnectError, Connected, Found, Visitor};

/// Where a tunnel is to lead, as the client asks.
pub(crate) struct Wish {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Opens a tunnel or refuses it, and moves bytes until one side ends.
pub(crate) async fn run(visitor: Visitor, channel: UserChannel, reply: ChannelOpenHandle, wish: Wish) {
    match open(&visitor, &wish).await {
        Ok((connected, tunnel)) => {
            reply.accept().await;
            let session = connected.session.clone();
            let reason = splice(&session, channel, tunnel).await;
            session.close(Ending::normal(reason)).await;
            visitor.give_back(connected);
        }
        Err(error) => {
            tracing::info!(user = %visitor.user().id, error = %error, "a tunnel was refused");
            let failure = match error {
                ConnectError::Dial(_) => ChannelOpenFailure::ConnectFailed,
                _ => ChannelOpenFailure::AdministrativelyProhibited,
            };
            reply.reject(failure).await;
        }
    }
}

async fn open(visitor: &Visitor, wish: &Wish) -> Result<(Connected, gatehouse_dial::SshChannel), ConnectError> {
    let prohibited = |why: &str| ConnectError::Stopped(why.to_owned());
    if !visitor.core().settings().enable_local_port_forward {
        return Err(prohibited("port forwarding is switched off"));
    }
    let Found::One(pick) = visitor.find("ssh") else {
        return Err(prohibited("a tunnel needs a direct log-in to exactly one asset and account"));
    };
    if pick.protocol != "ssh" || !leads_to(&pick.asset, &wish.host) {
        return Err(prohibited("a tunnel leads to the asset itself only"));
    }
    let admission = visitor.admit(&pick, None, "ssh_client", SessionType::Tunnel).await?;
    if admission.needs_secret() {
        return Err(prohibited("the secret of this account has to be typed, which a tunnel cannot ask for"));
    }
    let spec = OpenSpec::plain(format!("tunnel to {}:{}", wish.host, wish.port));
    let connected = Box::pin(visitor.connect(admission, spec)).await?;
    if connected.session.marker(format!("tunnel to {}:{}", wish.host, wish.port)).await.is_err() {
        return Err(prohibited("the session ended while it was being opened"));
    }
    // The asset need not know the name that it has here.
    let by_name = wish.host.eq_ignore_ascii_case(&pick.asset.name);
    let host = if by_name { pick.asset.address.as_str() } else { wish.host.as_str() };
    match connected.peer.open_direct_tcpip(host, wish.port, ("127.0.0.1", 0)).await {
        Ok(tunnel) => Ok((connected, tunnel)),
        Err(error) => {
            connected.session.close(Ending::connect_failed(error.to_string())).await;
            Err(error.into())
        }
    }
}

/// The asset's own address or name, or loopback as seen from the asset.
fn leads_to(asset: &Asset, host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    loopback || bare.eq_ignore_ascii_case(&asset.address) || bare.eq_ignore_ascii_case(&asset.name)
}

async fn splice(session: &SessionHandle, channel: UserChannel, tunnel: gatehouse_dial::SshChannel) -> String {
    let (mut reader, writer) = channel.split();
    let (mut from, to) = tunnel.split();
    let reason = {
        let down = async {
            while let Some(message) = from.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        session.moved(0, data.len() as u64);
                        if writer.data(data).await.is_err() {
                            return "the user closed the tunnel".to_owned();
                        }
                    }
                    ChannelMsg::Eof if writer.eof().await.is_err() => {
                        return "the user closed the tunnel".to_owned();
                    }
                    ChannelMsg::Close => break,
                    _ => {}
                }
            }
            "the asset closed the tunnel".to_owned()
        };
        let up = up(session, &mut reader, &to);
        tokio::pin!(down);
        tokio::pin!(up);
        tokio::select! {
            reason = &mut down => reason,
            reason = &mut up => reason,
            stop = session.killed() => stop.reason,
            () = writer.gone() => "the user closed the tunnel".to_owned(),
        }
    };
    // Closed already is as good.
    let _ = to.close().await;
    writer.close().await;
    reason
}

async fn up(session: &SessionHandle, reader: &mut UserReader, to: &SshWriter) -> String {
    let mut control = session.control();
    while let Some(input) = reader.next().await {
        let sent = match input {
            UserInput::Data(data) => {
                while session.is_paused() {
                    if control.changed().await.is_err() {
                        break;
                    }
                }
                session.moved(data.len() as u64, 0);
                to.data_bytes(data).await
            }
            UserInput::Eof => to.eof().await,
            UserInput::Resize(..) | UserInput::Signal(_) => Ok(()),
        };
        if sent.is_err() {
            // How the asset ended comes the other way.
            return std::future::pending().await;
        }
    }
    "the user closed the tunnel".to_owned()
}
