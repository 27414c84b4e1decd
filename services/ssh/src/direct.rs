//! What a channel is for: the menu, a shell or a command on the asset that the user name named. Asks back when the name
//! fits several. What must not be here: the session itself.

use gatehouse_session::Refusal;

use crate::exec::{self, Exit};
use crate::i18n::{Lang, Text};
use crate::menu;
use crate::shell::{self, Ended, What};
use crate::tty::{Term, Tty};
use crate::user::{UserChannel, UserWriter};
use crate::visitor::{Found, Pick, Visitor};

/// Status when there is nothing to run.
const FAILED: u32 = 255;

/// `ssh user@gatehouse`, `ssh user@account@asset@gatehouse`.
pub(crate) async fn shell(visitor: Visitor, channel: UserChannel, term: Option<Term>) {
    let lang = Lang::of(visitor.user());
    match (visitor.is_direct(), term) {
        (false, Some(term)) => Box::pin(menu::run(&visitor, &mut Tty::new(channel, term))).await,
        (false, None) => fail(&channel.writer, &lang.get(Text::MenuNeedsTerminal)).await,
        (true, Some(term)) => Box::pin(on_terminal(&visitor, Tty::new(channel, term), What::Shell, lang)).await,
        (true, None) => without_terminal(&visitor, channel, exec::What::Shell, lang).await,
    }
}

/// `ssh user@account@asset@gatehouse command`.
pub(crate) async fn exec(visitor: Visitor, channel: UserChannel, term: Option<Term>, command: Vec<u8>) {
    let lang = Lang::of(visitor.user());
    if !visitor.is_direct() {
        return fail(&channel.writer, &lang.get(Text::ExecNeedsTarget)).await;
    }
    match term {
        Some(term) => {
            Box::pin(on_terminal(&visitor, Tty::new(channel, term), What::Command(&command), lang)).await;
        }
        None => without_terminal(&visitor, channel, exec::What::Command(&command), lang).await,
    }
}

async fn on_terminal(visitor: &Visitor, mut tty: Tty, what: What<'_>, lang: Lang) {
    let pick = match visitor.find("ssh") {
        Found::One(pick) => *pick,
        Found::Several(picks) => match menu::choose(visitor, &mut tty, &picks, Text::ChooseAsset, lang).await {
            Ok(Some(pick)) => pick,
            Ok(None) => return end(&tty.writer, Exit::Status(FAILED)).await,
            Err(_) => return tty.writer.close().await,
        },
        Found::Nothing => return fail(&tty.writer, &not_found(visitor, lang).message).await,
    };
    let exit = match shell::run(visitor, &mut tty, &pick, what, lang).await {
        Ended::Asset(exit) => exit,
        Ended::Told => Exit::Status(FAILED),
        Ended::Gone => return tty.writer.close().await,
    };
    end(&tty.writer, exit).await;
}

async fn without_terminal(visitor: &Visitor, channel: UserChannel, what: exec::What<'_>, lang: Lang) {
    match visitor.find("ssh") {
        Found::One(pick) if pick.protocol == "ssh" => {
            Box::pin(exec::run(visitor, channel, &pick, what, lang)).await;
        }
        Found::One(pick) => {
            let text = lang.with(Text::NotByTerminal, &[&pick.asset.name]);
            fail(&channel.writer, &text).await;
        }
        Found::Several(picks) => {
            let list: String = picks.iter().map(|p| format!("  {}\n", written(p))).collect();
            fail(&channel.writer, &format!("{}\n{list}", lang.get(Text::AmbiguousExec))).await;
        }
        Found::Nothing => fail(&channel.writer, &not_found(visitor, lang).message).await,
    }
}

/// How a pick is written so that it is the only one.
fn written(pick: &Pick) -> String {
    format!(
        "{} {} ({}): user@{}@{}",
        pick.asset.name,
        pick.asset.address,
        pick.account.display(),
        pick.account.key(),
        pick.asset.id
    )
}

fn not_found(visitor: &Visitor, lang: Lang) -> Refusal {
    let message = lang.with(Text::NotFound, &[&visitor.target_text()]);
    Refusal { code: "perm_account_invalid", message }
}

async fn fail(writer: &UserWriter, text: &str) {
    // The client may be gone already.
    let _ = writer.stderr(format!("{}\r\n", text.trim_end().replace('\n', "\r\n"))).await;
    end(writer, Exit::Status(FAILED)).await;
}

async fn end(writer: &UserWriter, exit: Exit) {
    exit.send(writer).await;
    let _ = writer.eof().await;
    writer.close().await;
}
