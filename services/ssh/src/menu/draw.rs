//! How the menu's lists look: plain text for any terminal, columns by the width that characters really take. What must not
//! be here: where the lists come from.

use std::sync::Arc;

use gatehouse_model::asset::Asset;
use gatehouse_model::directory::{TreeNode, TreeNodeKind};
use unicode_width::UnicodeWidthStr as _;
use uuid::Uuid;

use crate::i18n::{Lang, Text};
use crate::tty::fit;
use crate::visitor::Pick;

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// Who came in, the announcement as plain text, and the hints.
pub(super) fn banner(lang: Lang, user: &str, announcement: Option<&str>) -> String {
    let mut out = format!("\n{BOLD}{}{PLAIN}\n\n", lang.with(Text::Welcome, &[user]));
    if let Some(text) = announcement {
        // Markdown is not rendered, and nothing in it may drive the terminal.
        let plain: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        out.push_str(&format!("{BOLD}{}{PLAIN}\n{}\n\n", lang.get(Text::Announcement), plain.trim()));
    }
    out + &hints(lang)
}

/// The ten numbered hints.
pub(super) fn hints(lang: Lang) -> String {
    let hints = [
        Text::Hint1,
        Text::Hint2,
        Text::Hint3,
        Text::Hint4,
        Text::Hint5,
        Text::Hint6,
        Text::Hint7,
        Text::Hint8,
        Text::Hint9,
        Text::Hint10,
    ];
    let line = |(n, hint)| format!("  {n:>2}) {}\n", lang.with(hint, &[GREEN, PLAIN]));
    (1..).zip(hints).map(line).collect::<String>() + "\n"
}

/// A page of assets with the line below that says what may be typed.
pub(super) fn assets(
    list: &[Arc<Asset>],
    platform: impl Fn(Uuid) -> String,
    lang: Lang,
    cols: u16,
    (page, pages, total): (usize, usize, usize),
) -> String {
    let rows: Vec<[String; 4]> = list
        .iter()
        .map(|a| [a.name.clone(), a.address.clone(), platform(a.platform), one_line(&a.meta.comment)])
        .collect();
    let head = [Text::ColumnName, Text::ColumnAddress, Text::ColumnPlatform, Text::ColumnComment];
    let mut out = table(&head.map(|t| lang.get(t).into_owned()), &rows, cols);
    let numbers = [page + 1, pages, total].map(|n| n.to_string());
    let [page, pages, total] = &numbers;
    out.push_str(&format!("{}\n", lang.with(Text::PageLine, &[page, pages, total])));
    out
}

/// Assets with accounts, to choose from.
pub(super) fn picks(list: &[Pick], lang: Lang, cols: u16) -> String {
    let rows: Vec<[String; 3]> =
        list.iter().map(|p| [p.asset.name.clone(), p.asset.address.clone(), p.account.display()]).collect();
    let head = [Text::ColumnName, Text::ColumnAddress, Text::ColumnAccount];
    table(&head.map(|t| lang.get(t).into_owned()), &rows, cols)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Numbered rows. Columns are as wide as their content while there is room; then the widest give way first.
fn table<const N: usize>(head: &[String; N], rows: &[[String; N]], cols: u16) -> String {
    let number = rows.len().to_string().len().max(2);
    let mut widths: [usize; N] = std::array::from_fn(|i| {
        let cells = rows.iter().filter_map(|r| r.get(i));
        cells.chain(head.get(i)).map(|c| c.width()).max().unwrap_or(0)
    });
    let room = usize::from(cols.max(20)).saturating_sub(number + 2 + 2 * N);
    while widths.iter().sum::<usize>() > room {
        let Some(widest) = widths.iter_mut().max() else { break };
        if *widest <= 3 {
            break;
        }
        *widest -= 1;
    }
    let line = |first: &str, cells: &[String; N]| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(c, w)| fit(c, w)).collect();
        format!("{first:>number$}  {}", cells.join("  ")).trim_end().to_owned()
    };
    let mut out = format!("{BOLD}{}{PLAIN}\n", line("#", head));
    for (n, row) in (1..).zip(rows) {
        out.push_str(&line(&n.to_string(), row));
        out.push('\n');
    }
    out
}

/// Parents before their children, and children right after their parent.
pub(super) fn in_tree_order(tree: &mut [TreeNode]) {
    let names: std::collections::HashMap<String, String> =
        tree.iter().map(|n| (n.key.clone(), n.name.to_lowercase())).collect();
    tree.sort_by_cached_key(|node| {
        let mut path = Vec::new();
        let mut at = 0;
        for part in node.key.split(':') {
            at += part.len();
            let key = node.key.get(..at).unwrap_or_default();
            path.push((names.get(key).cloned().unwrap_or_default(), key.to_owned()));
            at += 1;
        }
        (node.kind != TreeNodeKind::Node, path)
    });
}

/// The node tree, numbered for `g<N>`.
pub(super) fn tree<'a>(nodes: impl Iterator<Item = &'a TreeNode>, several: bool, lang: Lang) -> String {
    let mut out = String::new();
    for (n, node) in (1..).zip(nodes) {
        let depth = node.key.matches(':').count();
        if several && depth == 0 && node.kind == TreeNodeKind::Node && n > 1 {
            out.push('\n');
        }
        out.push_str(&format!("{n:>4}  {}{} ({})\n", "  ".repeat(depth), node.name, node.assets));
    }
    out + &format!("{}\n", lang.get(Text::TreeLine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, name: &str) -> TreeNode {
        TreeNode {
            kind: TreeNodeKind::Node,
            id: Some(Uuid::nil()),
            key: key.into(),
            parent_key: None,
            name: name.into(),
            assets: 1,
            has_children: false,
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let head = ["Name", "Address", "Comment"].map(String::from);
        let rows = vec![
            ["数据库服务器-北京-生产-01".to_owned(), "2001:db8:85a3::8a2e:370:7334".to_owned(), "x".repeat(300)],
            ["web1".to_owned(), "10.0.0.1".to_owned(), String::new()],
        ];
        for cols in [40, 80, 200] {
            for line in table(&head, &rows, cols).lines() {
                let shown = line.replace(BOLD, "").replace(PLAIN, "");
                assert!(shown.width() <= usize::from(cols), "{cols}: {shown}");
            }
        }
    }

    #[test]
    fn children_follow_their_parent() {
        let mut tree = [node("1", "Default"), node("1:2", "web"), node("1:1", "db"), node("1:2:5", "eu")];
        in_tree_order(&mut tree);
        assert_eq!(tree.each_ref().map(|n| n.name.as_str()), ["Default", "db", "web", "eu"]);
    }

    #[test]
    fn an_announcement_cannot_drive_the_terminal() {
        let shown = banner(Lang::En, "Kim(kim)", Some("# Hello\n\x1b[2Jworld\x07"));
        assert!(shown.contains("# Hello\n[2Jworld"), "{shown:?}");
    }

    #[test]
    fn the_menu_has_its_ten_hints_in_every_language() {
        for (lang, _) in Lang::ALL {
            let shown = hints(lang);
            assert_eq!(shown.lines().filter(|l| !l.is_empty()).count(), 10);
            assert!(shown.contains(" 10) "));
        }
    }
}
