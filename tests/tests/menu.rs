//! The menu that `ssh -t user@gateway` shows, with OpenSSH's client: every key of its help, the choice of an account,
//! sessions from it, and what it no longer shows once a grant is gone (issue "First light", P03).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::run_limited;
use gatehouse_tests::world::World;
use serde_json::json;

/// Written at the start of a line only when the menu waits for input: the echo of keys repaints the line after `\r`.
const READY: &str = "\r\nOpt> ";

struct Menu(Interactive);

impl Menu {
    /// Logs in; answers the menu and all that it greeted with.
    fn open(world: &World, user: &str) -> (Self, String) {
        let mut ssh = Interactive::start(world.client("ssh").args(["-tt", "-l", user, "127.0.0.1"]));
        let greeting = ssh.expect(READY);
        (Self(ssh), greeting)
    }

    /// Types a line and answers what came before the next prompt.
    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.0.send(format!("{line}\r"));
        self.0.expect(READY)
    }

    #[track_caller]
    fn leave(mut self) {
        self.0.send("q\r");
        assert_eq!(self.0.wait_end(Duration::from_secs(10)), Some(0));
    }
}

#[track_caller]
fn shows(screen: &str, wanted: &[&str], unwanted: &[&str]) {
    for text in wanted {
        assert!(screen.contains(text), "{text:?} is missing in {screen}");
    }
    for text in unwanted {
        assert!(!screen.contains(text), "{text:?} should not be in {screen}");
    }
}

async fn comment(world: &World, asset: &str, text: &str) {
    world.admin.patch(&format!("assets/hosts/{asset}/"), json!({"comment": text})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_help_does_what_it_says() {
    let world = World::start().await;
    let user = world.add_user("alice").await;
    world
        .admin
        .patch(
            "settings/setting/",
            json!({"TERMINAL_ASSET_LIST_PAGE_SIZE": 3, "ANNOUNCEMENT_ENABLED": true,
                "ANNOUNCEMENT": "Maintenance on *Sunday*\n\u{1b}[2Jsecond line"}),
        )
        .await;
    let root = world.admin.list("assets/nodes/").await;
    let root = root.iter().find(|n| n["key"] == "1").map(id).unwrap_or_else(|| panic!("no root node"));
    let eu = id(&world.admin.post("assets/nodes/", json!({"value": "Europe", "parent": root})).await);
    let mut assets = Vec::new();
    for n in 1..=7 {
        let asset = world.add_bare_host(&format!("web-{n}"), &format!("192.0.2.{n}"), 22).await;
        world.grant(&user, &asset).await;
        assets.push(asset);
    }
    comment(&world, &assets[1], "payroll of the head office").await;
    comment(&world, &assets[4], "payroll archive").await;
    world.admin.patch(&format!("assets/hosts/{}/", assets[6]), json!({"nodes": [eu]})).await;
    world.add_bare_host("not-granted", "192.0.2.99", 22).await;

    let (mut menu, greeting) = Menu::open(&world, "alice");
    shows(
        &greeting,
        &["alice the tester(alice), welcome to Gatehouse", "Maintenance on *Sunday*", "[2Jsecond"],
        &["\u{1b}[2J"],
    );
    for n in 1..=10 {
        shows(&greeting, &[&format!("{n:>2}) ")], &[]);
    }

    // p, n, Enter and b turn pages of the list; nobody sees what they were not granted.
    let page = menu.ask("p");
    shows(&page, &["web-1", "web-3", "192.0.2.3", "Linux", "Page 1 of 3, 7 assets"], &["web-4", "not-granted"]);
    shows(&menu.ask("n"), &["web-4", "web-6", "Page 2 of 3"], &["web-3", "web-7"]);
    shows(&menu.ask(""), &["web-7", "Page 3 of 3"], &["web-6"]);
    shows(&menu.ask("n"), &["web-7", "Page 3 of 3"], &[]);
    shows(&menu.ask("b"), &["web-4", "Page 2 of 3"], &["web-7"]);

    // Search by address, name and comment; in the results; and nothing found.
    shows(&menu.ask("/payroll"), &["web-2", "web-5", "2 assets"], &["web-1"]);
    shows(&menu.ask("//archive"), &["web-5", "1 assets"], &["web-2"]);
    shows(&menu.ask("/192.0.2.4"), &["web-4", "1 assets"], &["web-1"]);
    shows(&menu.ask("/not-granted"), &["No assets."], &["192.0.2.99"]);
    // A text that fits several searches, and one that fits none finds nothing.
    shows(&menu.ask("payroll"), &["web-2", "web-5"], &[]);
    shows(&menu.ask("99"), &["No assets."], &["Connecting"]);

    // The tree, and the assets of one node of it.
    let tree = menu.ask("g");
    shows(&tree, &["Europe (1)", "(7)"], &[]);
    let number = tree.lines().find(|l| l.contains("Europe")).unwrap().split_whitespace().next().unwrap().to_owned();
    shows(&menu.ask(&format!("g{number}")), &["web-7", "1 assets"], &["web-1"]);
    shows(&menu.ask("g99"), &["There is no number 99"], &[]);

    shows(&menu.ask("d"), &["No databases"], &[]);
    shows(&menu.ask("k"), &["No Kubernetes"], &[]);
    for help in ["h", "?"] {
        shows(&menu.ask(help), &["10) ", "searches in the results", "node tree"], &[]);
    }

    // r: what was granted meanwhile is there, what was withdrawn is not.
    let late = world.add_bare_host("late-host", "192.0.2.50", 22).await;
    let grant = world.grant(&user, &late).await;
    shows(&menu.ask("r"), &["as new as"], &[]);
    shows(&menu.ask("/late"), &["late-host"], &[]);
    world.admin.delete(&format!("perms/asset-permissions/{grant}/")).await;
    menu.ask("r");
    shows(&menu.ask("/late-h"), &["No assets."], &[]);

    // s: the languages, by number.
    for (number, wanted) in [("2", "进行搜索登录"), ("3", "で検索"), ("1", "to search")] {
        menu.0.send("s\r");
        menu.0.expect("日本語");
        let screen = menu.ask(number);
        shows(&screen, &[wanted], &[]);
    }
    // Keys of a line editor: a word taken back, a line recalled.
    shows(&menu.ask("/late wrong\x17\x17/payroll"), &["web-2", "web-5"], &[]);
    shows(&menu.ask("\x1b[A"), &["web-2", "web-5"], &[]);
    // Ctrl-C drops the line and stays.
    menu.0.send("junk\x03");
    menu.0.expect(READY);
    menu.leave();

    // Ctrl-D on an empty line leaves as well.
    let (mut menu, _) = Menu::open(&world, "alice");
    menu.0.send("\x04");
    menu.0.expect("Good-bye");
    assert_eq!(menu.0.wait_end(Duration::from_secs(10)), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_start_from_the_menu_are_recorded_and_lead_back_to_it() {
    let world = World::start().await;
    let sshd = Sshd::start();
    let user = world.add_user("alice").await;
    let (asset, _) = world.add_host("web-alpha", &sshd).await;
    let two = world.add_bare_host("db-beta", "127.0.0.1", sshd.port).await;
    for (name, username) in [("first", "nobody-of-this-name"), ("second", sshd.user.as_str())] {
        let account = json!({"asset": two, "name": name, "username": username, "secret_type": "ssh_key",
            "secret": sshd.private_key});
        world.admin.post("accounts/accounts/", account).await;
    }
    world.grant(&user, &asset).await;
    world.grant(&user, &two).await;

    let (mut menu, _) = Menu::open(&world, "alice");
    // A part of the name that fits one asset connects at once.
    menu.0.send("alph\r");
    menu.0.expect("Connecting to web-alpha");
    menu.0.send("PS1='re''ady> '; stty -echoctl\r");
    menu.0.expect("ready> ");
    menu.0.send("echo from-$((40+2))\r");
    menu.0.expect("from-42");
    menu.0.send("exit\r");
    menu.0.expect("Back in the menu.");
    menu.0.expect(READY);

    // The number of a list, then the choice of an account; a wrong number asks again, q goes back.
    let list = menu.ask("p");
    let number = list.lines().find(|l| l.contains("db-beta")).unwrap().split_whitespace().next().unwrap().to_owned();
    menu.0.send(format!("{number}\r"));
    let choice = menu.0.expect("(q: back): ");
    shows(&choice, &["first(", "second("], &[]);
    menu.0.send("7\r");
    menu.0.expect("There is no number 7");
    menu.0.send("q\r");
    menu.0.expect(READY);
    menu.0.send("db-beta\r");
    let choice = menu.0.expect("(q: back): ");
    let second = choice.lines().find(|l| l.contains("second(")).unwrap().split_whitespace().next().unwrap().to_owned();
    menu.0.send(format!("{second}\r"));
    menu.0.expect("Connecting to db-beta");
    menu.0.send("PS1='be''ta> '\r");
    menu.0.expect("beta> ");
    menu.0.send("echo on-$((1+1))-beta\r");
    menu.0.expect("on-2-beta");
    // Only at its prompt does the shell take Ctrl-D for its end.
    menu.0.expect("beta> ");
    menu.0.send("\x04");
    menu.0.expect("Back in the menu.");
    menu.0.expect(READY);
    menu.leave();

    let sessions = world.ended_sessions(&asset, 1).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["is_success"], true);
    let commands = world.admin.list(&format!("terminal/commands/?session={}", id(&sessions[0]))).await;
    assert!(commands.iter().any(|c| c["input"] == "echo from-$((40+2))"), "{commands:#?}");
    let path = format!("terminal/sessions/{}/replay/download/?type=raw", id(&sessions[0]));
    let (status, bytes) = world.admin.raw(reqwest::Method::GET, &path, None).await;
    let replay = String::from_utf8_lossy(&bytes);
    assert!(status == 200 && replay.contains("from-42"), "{status} {replay}");
    // The recording is of the session, not of the menu around it.
    shows(&replay, &[], &["Opt>", "welcome to Gatehouse"]);
    let sessions = world.ended_sessions(&two, 1).await;
    assert_eq!(sessions.len(), 1);
    assert!(sessions[0]["account"].as_str().unwrap().starts_with("second("), "{}", sessions[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_characters_languages_of_users_and_failures_to_connect() {
    let world = World::start().await;
    let user = world.add_user("alice").await;
    world.admin.patch(&format!("users/users/{user}/"), json!({"lang": "zh-hans"})).await;
    let wide = world.add_bare_host("数据库-北京-生产", "192.0.2.10", 22).await;
    comment(&world, &wide, "主库：不要重启").await;
    let narrow = world.add_bare_host("ascii-host", "127.0.0.1", 1).await;
    world.add_key_account(&narrow, "root", &Sshd::start().private_key).await;
    for asset in [&wide, &narrow] {
        world.grant(&user, asset).await;
    }
    let (mut menu, greeting) = Menu::open(&world, "alice");
    shows(&greeting, &["欢迎使用 Gatehouse", "进行搜索登录"], &["welcome to"]);
    let list = menu.ask("p");
    shows(&list, &["数据库-北京-生产", "主库：不要重启", "共 1 页，2 个资产"], &[]);
    // Columns line up by what a terminal shows: the addresses start in the same column.
    let column = |address: &str| {
        let line = list.lines().find(|l| l.contains(address)).unwrap();
        let before = &line[..line.find(address).unwrap()];
        before.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>()
    };
    assert_eq!(column("192.0.2.10"), column("127.0.0.1"), "{list}");
    // Typed characters of several bytes, one taken back.
    shows(&menu.ask("/北京x\x7f"), &["数据库-北京-生产", "1 个资产"], &["ascii-host"]);
    // No account, and an asset that nobody answers for: a sentence, and the menu again.
    shows(&menu.ask("北京"), &["您没有可登录 数据库-北京-生产 的账号"], &[]);
    let failed = menu.ask("ascii-host");
    shows(&failed, &["连接失败", "127.0.0.1:1"], &[]);
    menu.leave();
    let sessions = world.ended_sessions(&narrow, 1).await;
    assert_eq!(sessions[0]["is_success"], false, "{}", sessions[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_menu_asks_for_a_terminal_and_a_command_for_a_target() {
    let world = World::start().await;
    world.add_user("alice").await;
    let done = run_limited(&mut world.ssh("alice", &["uptime"]), b"", Duration::from_secs(30));
    assert_eq!(done.code, Some(255), "{done:?}");
    assert!(done.stderr.contains("needs a direct log-in"), "{done:?}");
    let done = run_limited(&mut world.ssh("alice", &[]), b"", Duration::from_secs(30));
    assert_eq!(done.code, Some(255), "{done:?}");
    assert!(done.stderr.contains("the menu needs a terminal"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_is_shown_nothing_any_more() {
    let world = World::start().await;
    let user = world.add_user("alice").await;
    let asset = world.add_bare_host("secret-host", "192.0.2.1", 22).await;
    world.grant(&user, &asset).await;
    let (mut menu, _) = Menu::open(&world, "alice");
    shows(&menu.ask("p"), &["secret-host"], &[]);
    world.admin.patch(&format!("users/users/{user}/"), json!({"is_active": false})).await;
    // Either way is right, but nothing of the assets: told that there is nothing, or sent away.
    menu.0.send("p\r");
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !menu.0.all().contains("No assets.") && !menu.0.has_ended() {
        assert!(std::time::Instant::now() < end, "{}", menu.0.all());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = menu.0.all();
    assert_eq!(all.matches("secret-host").count(), 1, "{all}");
}
