//! What a real bash ran through the gateway, and what the record says it ran, side by side. A few cases of each kind; the
//! large corpus is in the session service's tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::{Sshd, write_script};
use gatehouse_tests::world::World;

const LIMIT: Duration = Duration::from_secs(30);

struct Stage {
    world: World,
    asset: String,
    login: String,
    /// Home of the shell, where it also notes each line it runs.
    home: tempfile::TempDir,
    _sshd: Sshd,
}

/// The shell is a bash without the machine's own settings that notes in `ran`, by itself, every line it runs.
async fn stage() -> Stage {
    let home = tempfile::tempdir().unwrap();
    let rc = "PS1='re''ady> '; PS2='mo''re> '; HISTCONTROL=; bind 'set enable-bracketed-paste off'\n\
              trap 'history 1 | sed \"s/^ *[0-9]* *//\" > ~/.now; cmp -s ~/.now ~/.last || { cat ~/.now >> ~/ran; cp ~/.now ~/.last; }' DEBUG\n\
              : > ~/ran\n";
    std::fs::write(home.path().join("rc"), rc).unwrap();
    let shell = home.path().join("shell");
    let at = home.path().display();
    write_script(&shell, &format!("#!/bin/bash\nexport HOME={at}\ncd\nexec bash --noprofile --rcfile rc -i\n"));
    let sshd = Sshd::start_with(&format!("ForceCommand {}", shell.display()));
    let world = World::start().await;
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let login = format!("alice@{}@web1", sshd.user);
    Stage { world, asset, login, home, _sshd: sshd }
}

impl Stage {
    fn shell(&self) -> Interactive {
        let mut shell = Interactive::start(self.world.client("ssh").args(["-tt", "-l", &self.login, "127.0.0.1"]));
        shell.expect("ready> ");
        shell
    }

    /// The recorded commands, oldest first, once the session is over.
    async fn recorded(&self) -> Vec<String> {
        let sessions = self.world.ended_sessions(&self.asset, 1).await;
        let path = format!("terminal/commands/?session={}&order=timestamp&limit=100", id(&sessions[0]));
        let rows = self.world.admin.list(&path).await;
        rows.iter().map(|c| c["input"].as_str().unwrap().to_owned()).collect()
    }

    fn ran(&self) -> String {
        std::fs::read_to_string(self.home.path().join("ran")).unwrap()
    }
}

fn leave(mut shell: Interactive) {
    shell.send("exit\r");
    shell.wait_end(LIMIT);
}

/// Types and waits for the prompt after the answer.
#[track_caller]
fn run(shell: &mut Interactive, keys: &str, answer: &str) {
    shell.send(keys);
    shell.expect(answer);
    shell.expect("ready> ");
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_recalled_and_completed_lines_are_recorded_as_bash_ran_them() {
    let s = stage().await;
    std::fs::write(s.home.path().join("a-rather-long-name"), "content-of-it\n").unwrap();
    let mut shell = s.shell();
    // Backspaces, a word killed, the cursor moved to the front and back, characters swapped by typing them anew.
    run(&mut shell, "ecoh\x7f\x7f\x7fcho typed-$((1+1))\r", "typed-2");
    run(&mut shell, "echo one two wrong\x17three-$((1+2))\r", "one two three-3");
    run(&mut shell, "cho front-$((2+2))\x01e\x05\r", "front-4");
    run(&mut shell, "echo ab-$((5))\x1b[D\x1b[D\x1b[D0\r", "ab-5");
    // Recalled, and recalled and changed.
    run(&mut shell, "\x1b[A\r", "ab-5");
    run(&mut shell, "\x1b[A\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7frecalled\r", "recalled");
    // Found by searching backwards.
    shell.send("\x12typed");
    shell.expect("typed");
    std::thread::sleep(Duration::from_millis(300));
    run(&mut shell, "\r", "typed-2");
    // Completed with Tab, then more typed.
    shell.send("cat a-ra\t");
    shell.expect("ther-long-name");
    run(&mut shell, "| tr c k\r", "kontent-of-it");
    leave(shell);
    let recorded = s.recorded().await;
    let ran = s.ran();
    for wanted in
        ["echo typed-$((1+1))", "echo one two three-$((1+2))", "echo front-$((2+2))", "cat a-rather-long-name | tr c k"]
    {
        assert!(recorded.iter().any(|c| c.trim_end() == wanted), "{wanted:?} is not in {recorded:#?}");
    }
    // Line by line: what bash noted is what is recorded, in the same order.
    let ran: Vec<&str> = ran.lines().filter(|l| !l.is_empty()).collect();
    assert!(ran.len() >= 8, "{ran:?}");
    let kept: Vec<&str> = recorded.iter().map(|c| c.trim_end()).collect();
    let mut rest = kept.iter();
    for line in &ran {
        assert!(rest.any(|c| *c == line.trim_end()), "bash ran {line:?}, recorded: {kept:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loops_heredocs_and_continued_lines_are_recorded_whole() {
    let s = stage().await;
    let mut shell = s.shell();
    shell.send("for i in 1 2; do\r");
    shell.expect("more> ");
    shell.send("echo loop-$i\r");
    shell.expect("more> ");
    run(&mut shell, "done\r", "loop-2");
    shell.send("cat > doc <<EOF\r");
    shell.expect("more> ");
    shell.send("first line\r");
    shell.expect("more> ");
    shell.send("EOF\r");
    shell.expect("ready> ");
    shell.send("echo con\\\r");
    shell.expect("more> ");
    run(&mut shell, "tinued\r", "continued");
    leave(shell);
    assert_eq!(std::fs::read_to_string(s.home.path().join("doc")).unwrap(), "first line\n");
    let recorded = s.recorded().await.join("\n");
    for part in ["for i in 1 2; do", "echo loop-$i", "done", "cat > doc <<EOF", "first line", "con\\", "tinued"] {
        assert!(recorded.contains(part), "{part:?} is not in {recorded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_given_inside_vim_and_tmux_are_recorded_and_the_text_typed_there_is_not_taken_for_commands() {
    let s = stage().await;
    let mut shell = s.shell();
    shell.send("vim -u NONE -N notes.txt\r");
    shell.expect("notes.txt");
    std::thread::sleep(Duration::from_millis(800));
    shell.send("irm -rf is only text here\x1b");
    std::thread::sleep(Duration::from_millis(300));
    shell.send(":!touch by-vim\r");
    exists(&s.home.path().join("by-vim"));
    std::thread::sleep(Duration::from_millis(500));
    shell.send("\r");
    std::thread::sleep(Duration::from_millis(300));
    shell.send(":wq\r");
    shell.expect("ready> ");
    // `-L`, so that no other tmux of this machine is spoken to.
    let socket = format!("gh-{}", s.world.ssh);
    shell.send(format!("tmux -L {socket} -f /dev/null new 'bash --noprofile --rcfile rc -i'\r"));
    shell.expect("ready> ");
    std::thread::sleep(Duration::from_millis(500));
    shell.send("touch by-tmux\r");
    exists(&s.home.path().join("by-tmux"));
    shell.send("exit\r");
    shell.expect("exited]");
    shell.expect("ready> ");
    run(&mut shell, "echo after-$((6*7))\r", "after-42");
    leave(shell);
    assert_eq!(std::fs::read_to_string(s.home.path().join("notes.txt")).unwrap(), "rm -rf is only text here\n");
    let recorded = s.recorded().await;
    let has = |text: &str| recorded.iter().any(|c| c.contains(text));
    for wanted in ["vim -u NONE -N notes.txt", "touch by-vim", "touch by-tmux", "echo after-$((6*7))"] {
        assert!(has(wanted), "{wanted:?} is not in {recorded:#?}");
    }
    assert!(!has("only text here"), "{recorded:#?}");
}

#[track_caller]
fn exists(path: &Path) {
    gatehouse_tests::wait_for(&path.display().to_string(), LIMIT, || path.exists().then_some(()));
}
