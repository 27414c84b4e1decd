//! What the gateway says to people, in English, Chinese and Japanese. One table: a text that lacks a language does not
//! compile. `{0}`, `{1}` stand for values. What must not be here: when it is said.

use std::borrow::Cow;

use gatehouse_model::user::{Lang as UserLang, User};

/// Languages of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Lang {
    #[default]
    En,
    Zh,
    Ja,
}

impl Lang {
    pub(crate) fn of(user: &User) -> Self {
        match user.lang {
            Some(UserLang::ZhHans) => Self::Zh,
            Some(UserLang::Ja) => Self::Ja,
            Some(UserLang::En) | None => Self::En,
        }
    }

    /// The languages by the number in the language menu.
    pub(crate) const ALL: [(Self, &'static str); 3] = [(Self::En, "English"), (Self::Zh, "中文"), (Self::Ja, "日本語")];

    pub(crate) fn get(self, text: Text) -> Cow<'static, str> {
        let [en, zh, ja] = text.table();
        Cow::Borrowed(match self {
            Self::En => en,
            Self::Zh => zh,
            Self::Ja => ja,
        })
    }

    /// With values put in.
    pub(crate) fn with(self, text: Text, values: &[&str]) -> String {
        let mut out = String::new();
        let pattern = self.get(text);
        let mut rest = pattern.as_ref();
        // One pass: a value that looks like a place holder stays as it is.
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let filled =
                after.split_once('}').and_then(|(n, tail)| Some((values.get(n.parse::<usize>().ok()?)?, tail)));
            match filled {
                Some((value, tail)) => {
                    out.push_str(value);
                    rest = tail;
                }
                None => {
                    out.push('{');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        out
    }
}

macro_rules! texts {
    ($($name:ident: $en:literal, $zh:literal, $ja:literal;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Text { $($name,)+ }

        impl Text {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name,)+];

            const fn table(self) -> [&'static str; 3] {
                match self { $(Self::$name => [$en, $zh, $ja],)+ }
            }
        }
    };
}

texts! {
    Welcome: "{0}, welcome to Gatehouse", "{0}，欢迎使用 Gatehouse", "{0} さん、Gatehouse へようこそ";
    Announcement: "Announcement", "公告", "お知らせ";
    Hint1: "Enter {0}part of IP, host name or comment{1} to search; log in if it is the only one.",
        "输入 {0}部分IP，主机名，备注{1} 进行搜索登录（如果唯一）。",
        "{0}IP、ホスト名、コメントの一部{1} を入力して検索（一件ならログイン）。";
    Hint2: "Enter {0}/ + IP, host name or comment{1} to search, e.g. /192.168; {0}//{1} searches in the results.",
        "输入 {0}/ + IP，主机名，备注{1} 进行搜索，如：/192.168；{0}//{1} 在结果中搜索。",
        "{0}/ + IP、ホスト名、コメント{1} で検索（例：/192.168）。{0}//{1} は結果内検索。";
    Hint3: "Enter {0}p{1} to show the assets you may reach.", "输入 {0}p{1} 进行显示您有权限的资产。",
        "{0}p{1} で権限のある資産を表示。";
    Hint4: "Enter {0}g{1} to show the node tree, {0}g<N>{1} for the assets of node N.",
        "输入 {0}g{1} 进行显示您有权限的节点，{0}g<N>{1} 显示节点 N 的资产。",
        "{0}g{1} でノードツリー、{0}g<N>{1} でノード N の資産を表示。";
    Hint5: "Enter {0}d{1} to show databases.", "输入 {0}d{1} 进行显示您有权限的数据库。",
        "{0}d{1} でデータベースを表示。";
    Hint6: "Enter {0}k{1} to show Kubernetes clusters.", "输入 {0}k{1} 进行显示您有权限的 Kubernetes。",
        "{0}k{1} で Kubernetes を表示。";
    Hint7: "Enter {0}r{1} to refresh assets and nodes.", "输入 {0}r{1} 进行刷新最新的机器和节点信息。",
        "{0}r{1} で資産とノードを更新。";
    Hint8: "Enter {0}s{1} to switch the language.", "输入 {0}s{1} 进行中英日语言切换。",
        "{0}s{1} で言語を切り替え。";
    Hint9: "Enter {0}h{1} (or ?) for this help.", "输入 {0}h{1}（或 ?）进行显示帮助。", "{0}h{1}（または ?）でヘルプ。";
    Hint10: "Enter {0}q{1} to leave.", "输入 {0}q{1} 进行退出。", "{0}q{1} で終了。";
    ColumnName: "Name", "名称", "名前";
    ColumnAddress: "Address", "地址", "アドレス";
    ColumnPlatform: "Platform", "平台", "プラットフォーム";
    ColumnComment: "Comment", "备注", "コメント";
    ColumnAccount: "Account", "账号", "アカウント";
    PageLine: "Page {0} of {1}, {2} assets. Number: log in; n or Enter: next; b: previous; //text: search in these.",
        "第 {0} 页，共 {1} 页，{2} 个资产。序号：登录；n 或回车：下一页；b：上一页；//文字：在结果中搜索。",
        "{0}/{1} ページ、資産 {2} 件。番号：ログイン、n か Enter：次、b：前、//文字：結果内検索。";
    NothingFound: "No assets.", "没有资产。", "資産がありません。";
    NoDatabases: "No databases can be reached from here; this version of Gatehouse connects to hosts and network devices.",
        "此处没有可连接的数据库；当前版本的 Gatehouse 支持主机和网络设备。",
        "ここから接続できるデータベースはありません。この版の Gatehouse はホストとネットワーク機器に対応します。";
    NoKubernetes: "No Kubernetes clusters can be reached from here; this version of Gatehouse connects to hosts and network devices.",
        "此处没有可连接的 Kubernetes；当前版本的 Gatehouse 支持主机和网络设备。",
        "ここから接続できる Kubernetes はありません。この版の Gatehouse はホストとネットワーク機器に対応します。";
    NotByTerminal: "{0} cannot be opened in a terminal: it offers neither ssh nor telnet.",
        "{0} 无法在终端中打开：它不提供 ssh 或 telnet。", "{0} は ssh も telnet も提供しないため、端末で開けません。";
    NoAccount: "You may not log in to {0} with any account.", "您没有可登录 {0} 的账号。",
        "{0} にログインできるアカウントがありません。";
    ChooseAccount: "Several accounts; enter the number (q: back)", "有多个账号，请输入序号（q：返回）",
        "アカウントが複数あります。番号を入力（q：戻る）";
    ChooseAsset: "Several assets or accounts fit; enter the number (q: quit)", "有多个匹配的资产或账号，请输入序号（q：退出）",
        "該当する資産またはアカウントが複数あります。番号を入力（q：終了）";
    ChooseLanguage: "Language", "语言", "言語";
    TreeLine: "Enter g and the number to list the assets of a node.", "输入 g 加序号显示节点的资产。",
        "g と番号でノードの資産を表示。";
    NoSuchNumber: "There is no number {0} here.", "没有序号 {0}。", "番号 {0} はありません。";
    Refreshed: "Assets and nodes are as new as the system knows them.", "资产和节点已是最新。",
        "資産とノードは最新です。";
    AmbiguousExec: "the name fits several assets or accounts; name one of these:", "名称匹配多个资产或账号，请指定其中之一：",
        "名前が複数の資産またはアカウントに一致します。次のいずれかを指定してください：";
    NotFound: "no asset and account that you may use is called {0}", "没有您可以使用的资产和账号：{0}",
        "{0} という利用可能な資産とアカウントはありません";
    ExecNeedsTarget: "a command needs a direct log-in, e.g. ssh user@account@asset@gatehouse command",
        "执行命令需要直接登录，例如 ssh user@account@asset@gatehouse command",
        "コマンドの実行には直接ログインが必要です。例：ssh user@account@asset@gatehouse command";
    MenuNeedsTerminal: "the menu needs a terminal; use ssh -t, or log in directly: ssh user@account@asset@gatehouse",
        "菜单需要终端；请使用 ssh -t，或直接登录：ssh user@account@asset@gatehouse",
        "メニューには端末が必要です。ssh -t を使うか、直接ログインしてください：ssh user@account@asset@gatehouse";
    SecretNeedsTerminal: "the secret of this account has to be typed, which needs a terminal (ssh -t)",
        "此账号的密码需要手动输入，需要终端（ssh -t）",
        "このアカウントの秘密は入力が必要です。端末（ssh -t）を使ってください";
    SwitchNeedsTerminal: "this account is reached by switching from another one, which needs a terminal (ssh -t)",
        "此账号需要从其他账号切换，需要终端（ssh -t）",
        "このアカウントは別のアカウントからの切り替えが必要です。端末（ssh -t）を使ってください";
    AskUsername: "Username: ", "用户名：", "ユーザー名：";
    AskPassword: "Password of {0}: ", "{0} 的密码：", "{0} のパスワード：";
    LoginWatched: "This log-in is reported by the rule \"{0}\".", "规则“{0}”已上报此次登录。",
        "このログインはルール「{0}」により通知されます。";
    Connecting: "Connecting to {0} as {1} ...", "正在以 {1} 连接 {0} ...", "{1} として {0} に接続中 ...";
    ConnectFailed: "Cannot connect: {0}", "连接失败：{0}", "接続できません：{0}";
    Refused: "Refused: {0}", "已拒绝：{0}", "拒否されました：{0}";
    CommandRefused: "Command \"{0}\" is forbidden by the rule \"{1}\"; it was not run.",
        "命令“{0}”被规则“{1}”禁止，未执行。", "コマンド「{0}」はルール「{1}」により禁止され、実行されませんでした。";
    CommandWarned: "Command \"{0}\" is reported by the rule \"{1}\".", "命令“{0}”已由规则“{1}”上报。",
        "コマンド「{0}」はルール「{1}」により通知されました。";
    ActionMissing: "your permission does not include \"{0}\"", "您的权限不包含“{0}”", "権限に「{0}」が含まれていません";
    Paused: "The session was paused by {0}; what you type is not passed on.", "会话已被 {0} 暂停，您的输入不会生效。",
        "セッションは {0} により一時停止されました。入力は送られません。";
    Resumed: "The session goes on.", "会话已恢复。", "セッションを再開しました。";
    SessionEnded: "The session was ended: {0}", "会话已结束：{0}", "セッションは終了しました：{0}";
    SessionOver: "Back in the menu.", "已返回菜单。", "メニューに戻りました。";
    MenuIdle: "Nothing was typed for too long; good-bye.", "长时间未操作，连接已关闭。", "操作がなかったため終了します。";
    Bye: "Good-bye.", "再见。", "さようなら。";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_names_the_same_values() {
        for text in Text::ALL {
            let [en, zh, ja] = text.table();
            for n in 0..4 {
                let place = format!("{{{n}}}");
                let has = [en, zh, ja].map(|t| t.contains(&place));
                assert!(has.iter().all(|h| *h == has[0]), "{text:?} {place}");
            }
        }
    }

    #[test]
    fn values_are_not_read_as_places() {
        assert_eq!(Lang::En.with(Text::ConnectFailed, &["{0} {1} {"]), "Cannot connect: {0} {1} {");
        assert_eq!(Lang::Zh.with(Text::PageLine, &["1", "2", "3"]).matches(['1', '2', '3']).count(), 3);
    }
}
