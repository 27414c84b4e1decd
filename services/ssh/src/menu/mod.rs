//! The menu (P03): what somebody sees who logs in without saying where to. It finds assets, lets an account be chosen, hands
//! over to a session, and is there again when that ends. What must not be here: sessions, and how lists are drawn (`draw`).

mod draw;

use std::sync::Arc;

use gatehouse_model::asset::Asset;
use gatehouse_model::directory::{AssetOrder, AssetQuery, Place, TreeNode, TreeNodeKind};
use gatehouse_model::settings::SortAssets;
use uuid::Uuid;

use crate::i18n::{Lang, Text};
use crate::shell::{self, Ended, What, patience};
use crate::tty::{Line, Tty};
use crate::user::Gone;
use crate::visitor::{Pick, Visitor};

const PROMPT: &str = "Opt> ";
/// Assets that a search in results looks at.
const MAX_RESULTS: usize = 100_000;

/// A list on the screen.
#[derive(Clone)]
struct List {
    query: AssetQuery,
    /// Further words that have to be found (`//text`), each in what the ones before left.
    within: Vec<String>,
    page: usize,
    total: usize,
    shown: Vec<Arc<Asset>>,
}

struct Menu<'a> {
    visitor: &'a Visitor,
    tty: &'a mut Tty,
    lang: Lang,
    list: Option<List>,
    nodes: Vec<(Uuid, TreeNode)>,
}

/// Why the menu ends.
enum Leave {
    /// The user left or was idle.
    Quit,
    Gone,
}

impl From<Gone> for Leave {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Shows the menu until the user leaves.
pub(crate) async fn run(visitor: &Visitor, tty: &mut Tty) {
    let lang = Lang::of(visitor.user());
    let mut menu = Menu { visitor, tty, lang, list: None, nodes: Vec::new() };
    if let Leave::Quit = menu.run().await {
        // The client may be gone already.
        let _ = menu.tty.writer.exit_status(0).await;
    }
    menu.tty.writer.close().await;
}

/// Lets the user choose one of several; `None` when they do not want to.
pub(crate) async fn choose(
    visitor: &Visitor,
    tty: &mut Tty,
    picks: &[Pick],
    question: Text,
    lang: Lang,
) -> Result<Option<Pick>, Gone> {
    loop {
        tty.print(&draw::picks(picks, lang, tty.term.cols)).await?;
        let prompt = format!("{}: ", lang.get(question));
        let Line::Text(answer) = tty.line(&prompt, false, patience(visitor)).await? else { return Ok(None) };
        let answer = answer.trim();
        if ["", "q", "exit", "quit"].contains(&answer) {
            return Ok(None);
        }
        match answer.parse::<usize>().ok().and_then(|n| picks.get(n.checked_sub(1)?)) {
            Some(pick) => return Ok(Some(pick.clone())),
            None => tty.print(&format!("{}\n", lang.with(Text::NoSuchNumber, &[answer]))).await?,
        }
    }
}

impl Menu<'_> {
    async fn run(&mut self) -> Leave {
        let welcome = self.welcome();
        if self.tty.print(&welcome).await.is_err() {
            return Leave::Gone;
        }
        loop {
            if let Err(leave) = self.turn().await {
                return leave;
            }
        }
    }

    fn welcome(&self) -> String {
        let settings = self.visitor.core().settings();
        let announcement = (settings.announcement_enabled && !settings.announcement.trim().is_empty())
            .then_some(settings.announcement.as_str());
        draw::banner(self.lang, &self.visitor.user().display(), announcement)
    }

    async fn turn(&mut self) -> Result<(), Leave> {
        let line = match self.tty.line(PROMPT, false, patience(self.visitor)).await? {
            Line::Text(line) => line,
            Line::Interrupt => return Ok(()),
            Line::End => return self.bye(Text::Bye).await,
            Line::Idle => return self.bye(Text::MenuIdle).await,
        };
        // A user who was disabled meanwhile is shown nothing any more: everything below asks the read model.
        let line = line.trim();
        match line {
            "q" | "exit" | "quit" => self.bye(Text::Bye).await,
            "h" | "?" => {
                let help = draw::hints(self.lang);
                Ok(self.tty.print(&help).await?)
            }
            "" | "n" => self.turn_page(1).await,
            "b" => self.turn_page(-1).await,
            "p" => self.search("", Place::Anywhere).await,
            "g" => self.tree().await,
            "d" => self.say(Text::NoDatabases).await,
            "k" => self.say(Text::NoKubernetes).await,
            "r" => {
                self.visitor.core().read().settled().await;
                (self.list, self.nodes) = (None, Vec::new());
                self.say(Text::Refreshed).await
            }
            "s" => self.language().await,
            _ => self.other(line).await,
        }
    }

    async fn bye(&mut self, text: Text) -> Result<(), Leave> {
        self.say(text).await?;
        Err(Leave::Quit)
    }

    async fn say(&mut self, text: Text) -> Result<(), Leave> {
        let text = self.lang.get(text);
        Ok(self.tty.print(&format!("{text}\n")).await?)
    }

    async fn other(&mut self, line: &str) -> Result<(), Leave> {
        if let Some(text) = line.strip_prefix("//") {
            return self.search_within(text.trim()).await;
        }
        if let Some(text) = line.strip_prefix('/') {
            return self.search(text.trim(), Place::Anywhere).await;
        }
        if let Some(number) = line.strip_prefix('g').and_then(|n| n.trim().parse::<usize>().ok()) {
            return self.node(number).await;
        }
        if let (Ok(number), Some(list)) = (line.parse::<usize>(), &self.list)
            && let Some(asset) = number.checked_sub(1).and_then(|n| list.shown.get(n)).cloned()
        {
            return self.connect(asset).await;
        }
        self.search_and_log_in(line).await
    }

    fn page_size(&self) -> usize {
        let set = usize::from(self.visitor.core().settings().terminal_asset_list_page_size);
        // Above and below the rows: a heading, its line, the page line and the prompt.
        if set > 0 { set } else { usize::from(self.tty.term.rows).saturating_sub(5).max(1) }
    }

    fn query(&self, text: &str, place: Place) -> AssetQuery {
        let order = match self.visitor.core().settings().terminal_asset_list_sort_by {
            SortAssets::Name => AssetOrder::Name,
            SortAssets::Ip => AssetOrder::Address,
        };
        AssetQuery { text: text.to_owned(), place, order, ..AssetQuery::default() }
    }

    /// Reads a page of a list anew: what is shown is what may be reached now.
    fn load(&self, list: &mut List) {
        let size = self.page_size();
        let (core, user) = (self.visitor.core(), self.visitor.user().id);
        let directory = core.read().directory();
        if list.within.is_empty() {
            let query = AssetQuery { offset: list.page * size, limit: size, ..list.query.clone() };
            let page = directory.my_assets(user, None, &query, core.now());
            list.total = page.total;
            list.shown = page.items.into_iter().map(|l| l.asset).collect();
            return;
        }
        let query = AssetQuery { offset: 0, limit: MAX_RESULTS, ..list.query.clone() };
        let has = |asset: &Asset, word: &str| {
            [&asset.name, &asset.address, &asset.meta.comment].iter().any(|t| t.to_lowercase().contains(word))
        };
        let words: Vec<String> = list.within.iter().map(|w| w.to_lowercase()).collect();
        let found: Vec<Arc<Asset>> = directory
            .my_assets(user, None, &query, core.now())
            .items
            .into_iter()
            .map(|l| l.asset)
            .filter(|a| words.iter().all(|w| has(a, w)))
            .collect();
        list.total = found.len();
        list.shown = found.into_iter().skip(list.page * size).take(size).collect();
    }

    async fn show(&mut self, mut list: List) -> Result<(), Leave> {
        self.load(&mut list);
        if list.total == 0 {
            self.list = None;
            return self.say(Text::NothingFound).await;
        }
        let platforms = |id| self.visitor.core().read().platform(id).map(|p| p.name.clone()).unwrap_or_default();
        let pages = list.total.div_ceil(self.page_size());
        let text = draw::assets(&list.shown, platforms, self.lang, self.tty.term.cols, (list.page, pages, list.total));
        self.list = Some(list);
        Ok(self.tty.print(&text).await?)
    }

    async fn search(&mut self, text: &str, place: Place) -> Result<(), Leave> {
        let query = self.query(text, place);
        self.show(List { query, within: Vec::new(), page: 0, total: 0, shown: Vec::new() }).await
    }

    async fn search_within(&mut self, text: &str) -> Result<(), Leave> {
        let Some(mut list) = self.list.take() else { return self.search(text, Place::Anywhere).await };
        list.within.push(text.to_owned());
        list.page = 0;
        self.show(list).await
    }

    async fn search_and_log_in(&mut self, text: &str) -> Result<(), Leave> {
        let mut list =
            List { query: self.query(text, Place::Anywhere), within: Vec::new(), page: 0, total: 0, shown: Vec::new() };
        self.load(&mut list);
        let exact: Vec<Arc<Asset>> =
            list.shown.iter().filter(|a| a.name == text || a.address == text).cloned().collect();
        let only = match (list.total, exact.as_slice()) {
            (1, _) => list.shown.first().cloned(),
            // The name in full, though others contain it.
            (_, [one]) => Some(Arc::clone(one)),
            _ => None,
        };
        match only {
            Some(asset) => self.connect(asset).await,
            None => self.show(list).await,
        }
    }

    async fn turn_page(&mut self, by: isize) -> Result<(), Leave> {
        let Some(mut list) = self.list.take() else { return Ok(()) };
        let last = list.total.div_ceil(self.page_size()).saturating_sub(1);
        list.page = list.page.saturating_add_signed(by).min(last);
        self.show(list).await
    }

    async fn tree(&mut self) -> Result<(), Leave> {
        let (core, user) = (self.visitor.core(), self.visitor.user());
        let (nodes, several) = {
            let directory = core.read().directory();
            let orgs = directory.user(user.id).map(|u| u.orgs()).unwrap_or_default();
            let mut nodes: Vec<(Uuid, TreeNode)> = Vec::new();
            for org in &orgs {
                let mut tree = directory.tree(user.id, *org, core.now());
                draw::in_tree_order(&mut tree);
                nodes.extend(tree.into_iter().map(|node| (*org, node)));
            }
            (nodes, orgs.len() > 1)
        };
        if nodes.is_empty() {
            return self.say(Text::NothingFound).await;
        }
        let text = draw::tree(nodes.iter().map(|(_, n)| n), several, self.lang);
        self.nodes = nodes;
        Ok(self.tty.print(&text).await?)
    }

    async fn node(&mut self, number: usize) -> Result<(), Leave> {
        if self.nodes.is_empty() {
            self.tree().await?;
        }
        let place = number.checked_sub(1).and_then(|n| self.nodes.get(n)).map(|(_, node)| match (node.kind, node.id) {
            (TreeNodeKind::Ungrouped, _) => Place::Ungrouped,
            (TreeNodeKind::Favorite, _) => Place::Favorite,
            (TreeNodeKind::Node, Some(node)) => Place::Node { node, descendants: true },
            (TreeNodeKind::Node, None) => Place::Anywhere,
        });
        match place {
            Some(place) => self.search("", place).await,
            None => {
                let text = self.lang.with(Text::NoSuchNumber, &[&number.to_string()]);
                Ok(self.tty.print(&format!("{text}\n")).await?)
            }
        }
    }

    async fn language(&mut self) -> Result<(), Leave> {
        let list: String = (1..).zip(Lang::ALL).map(|(n, (_, name))| format!("  {n}  {name}\n")).collect();
        self.tty.print(&list).await?;
        let prompt = format!("{}: ", self.lang.get(Text::ChooseLanguage));
        if let Line::Text(answer) = self.tty.line(&prompt, false, patience(self.visitor)).await?
            && let Some((lang, _)) = answer.trim().parse::<usize>().ok().and_then(|n| Lang::ALL.get(n.checked_sub(1)?))
        {
            self.lang = *lang;
            let help = draw::hints(self.lang);
            self.tty.print(&help).await?;
        }
        Ok(())
    }

    async fn connect(&mut self, asset: Arc<Asset>) -> Result<(), Leave> {
        let offers = |p: &str| asset.protocol(p).is_some();
        let protocol = match (offers("ssh"), offers("telnet")) {
            (true, _) => "ssh",
            (false, true) => "telnet",
            (false, false) => {
                let text = self.lang.with(Text::NotByTerminal, &[&asset.name]);
                return Ok(self.tty.print(&format!("{text}\n")).await?);
            }
        };
        let accounts = self.visitor.accounts(&asset, protocol);
        let mut picks: Vec<Pick> =
            accounts.into_iter().map(|account| Pick { asset: Arc::clone(&asset), account, protocol }).collect();
        let pick = match picks.len() {
            0 => {
                let text = self.lang.with(Text::NoAccount, &[&asset.name]);
                return Ok(self.tty.print(&format!("{text}\n")).await?);
            }
            1 => picks.pop(),
            _ => choose(self.visitor, self.tty, &picks, Text::ChooseAccount, self.lang).await?,
        };
        let Some(pick) = pick else { return Ok(()) };
        let text = self.lang.with(Text::Connecting, &[&asset.name, &pick.account.display()]);
        self.tty.print(&format!("{text}\n")).await?;
        let ended = Box::pin(shell::run(self.visitor, self.tty, &pick, What::Shell, self.lang)).await;
        match ended {
            Ended::Gone => Err(Leave::Gone),
            Ended::Asset(_) | Ended::Told => {
                let text = self.lang.get(Text::SessionOver);
                Ok(self.tty.print(&format!("\n{text}\n")).await?)
            }
        }
    }
}
