//! SFTP towards users (P05, P06): a relay that checks each request against the grant and the platform's root, passes data
//! on without re-serving it, and writes down every file operation with size, SHA-256 and, up to a limit, its content.
//!
//! The gateway calls [`serve`] when a client asks for the subsystem `sftp`. What must not be here: log-in, admission and
//! dialling themselves ([`Visitor`] does them).

mod answers;
mod mount;
mod packet;
mod path;
mod relay;
mod requests;
mod serve;
pub(crate) mod transfer;
mod tree;
mod view;

use std::sync::Arc;

use gatehouse_model::session::SessionType;
use gatehouse_session::{Ending, OpenSpec};

use crate::user::{UserChannel, UserWriter};
use crate::visitor::{Found, Pick, Visitor};
use mount::Mounted;
use tree::GatewayTree;

/// What a file service knows of its user.
pub struct SftpContext {
    /// Who it is, what they may reach, and the way to assets ([`Visitor::admit`], [`Visitor::connect`]). A direct log-in
    /// ([`Visitor::is_direct`]) shows one asset ([`Visitor::find`] with `"sftp"`), otherwise there is the tree.
    pub visitor: Visitor,
}

/// How the door is called in connect-method rules.
const METHOD: &str = "sftp_client";

/// Serves SFTP on a channel until the client closes it; sends the exit status and closes the channel itself.
pub async fn serve(ctx: SftpContext, channel: UserChannel) {
    let visitor = ctx.visitor;
    if !visitor.is_direct() {
        return serve::tree(channel, Arc::new(GatewayTree::new(visitor))).await;
    }
    let opened = match visitor.find("sftp") {
        Found::One(pick) => open_mounted(&visitor, &pick, SessionType::Sftp).await,
        Found::Several(picks) => Err(several(&picks)),
        Found::Nothing => {
            Err(format!("{} is not an account and asset that you may reach with sftp", visitor.target_text()))
        }
    };
    match opened {
        Ok(mounted) => serve::one(channel, mounted).await,
        Err(why) => refuse(&channel.split().1, &why).await,
    }
}

/// Admits, opens the session, connects, and starts the asset's SFTP server.
async fn open_mounted(visitor: &Visitor, pick: &Pick, r#type: SessionType) -> Result<Mounted, String> {
    let admission = visitor.admit(pick, None, METHOD, r#type).await.map_err(|e| e.to_string())?;
    if admission.needs_secret() {
        return Err("the password of this account must be typed, and sftp has no place to ask for it; \
                    use an account with a stored secret or a connection token"
            .to_owned());
    }
    let home = admission
        .platform()
        .and_then(|p| p.protocol("sftp"))
        .and_then(|p| p.setting_str("sftp_home"))
        .unwrap_or("/tmp")
        .to_owned();
    let actions = admission.actions();
    let account = admission.username().to_owned();
    let keep = visitor.core().settings().ftp_file_max_store > 0;
    let connected = visitor.connect(admission, OpenSpec::plain("")).await.map_err(|e| e.to_string())?;
    if connected.su.is_some() {
        let why = "this account is reached by switching from another one, which sftp cannot do";
        connected.session.close(Ending::connect_failed(why)).await;
        return Err(why.to_owned());
    }
    match connected.peer.subsystem("sftp").await {
        Ok(channel) => {
            let user = visitor.user().username.clone();
            Ok(Mounted { session: connected.session, channel, home, account, user, actions, keep })
        }
        Err(error) => {
            let why = format!("the asset does not offer sftp: {error}");
            connected.session.close(Ending::connect_failed(why.clone())).await;
            Err(why)
        }
    }
}

/// What a client without a terminal is told when its log-in fits several places.
pub(crate) fn several(picks: &[Pick]) -> String {
    let mut why = "several accounts or assets fit; write one of them in full:".to_owned();
    for pick in picks.iter().take(20) {
        why.push_str(&format!("\r\n  {} at {} ({})", pick.account.display(), pick.asset.name, pick.asset.id));
    }
    why
}

/// A sentence on standard error, which clients show, and the end.
pub(crate) async fn refuse(writer: &UserWriter, why: &str) {
    // The client may be gone already.
    let _ = writer.stderr(format!("gatehouse: {why}\r\n")).await;
    let _ = writer.exit_status(1).await;
    writer.close().await;
}
