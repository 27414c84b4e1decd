//! The cases: what is typed into which program.
//!
//! What lives here: the table only. `h$ ` is the prompt of every shell (unless a case changes it), `rec` logs its arguments,
//! the history starts with `rec forbidden old` and `rec allowed old`, the directory holds `alpha-file.txt`, `beta-one.log`,
//! `beta-two.log` and `forbidden`. `exit` follows every case.

use super::bench::{Case, Shell, Step};

const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";
const LEFT: &str = "\x1b[D";
const HOME: &str = "\x1b[H";
const END: &str = "\x1b[F";
const DELETE: &str = "\x1b[3~";

fn line(keys: impl AsRef<str>) -> Step {
    Step::Line(format!("{}\r", keys.as_ref()))
}
fn enter() -> Step {
    Step::Line("\r".into())
}
fn keys(keys: impl Into<String>) -> Step {
    Step::Keys(keys.into())
}
fn now(keys: impl Into<String>) -> Step {
    Step::Now(keys.into())
}
fn until(keys: impl Into<String>, text: &'static str) -> Step {
    Step::Until(keys.into(), text)
}

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, shell: Shell, name: &str, steps: impl Into<Vec<Step>>) -> &mut Case {
        self.0.push(Case {
            name: format!("{shell:?}: {name}"),
            shell,
            rc: "",
            size: (80, 24),
            steps: steps.into(),
            by_lines: shell == Shell::Python,
            by_log: matches!(shell, Shell::Dash | Shell::Busybox),
            never: Vec::new(),
            refused: 0,
            unjudged: false,
            output: None,
        });
        self.0.last_mut().unwrap()
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut table = Table(Vec::new());
    bash(&mut table);
    bash_screens(&mut table);
    zsh(&mut table);
    plain_shells(&mut table);
    interpreters(&mut table);
    full_screen(&mut table);
    multiplexer(&mut table);
    refused(&mut table);
    table.0
}

fn bash(table: &mut Table) {
    use Shell::Bash;
    table.add(Bash, "plain, with output", [line("echo one; echo two")]).output = Some("one\ntwo");
    table.add(Bash, "empty lines", [enter(), enter(), line("echo x"), enter()]);
    table.add(Bash, "backspace", [line("echp\x7fo onee\x7f")]);
    table.add(Bash, "ctrl-a and ctrl-e", [line("cho one\x01e\x05 two")]);
    table.add(Bash, "ctrl-k, ctrl-y", [line("echo one two\x1bb\x0bthree \x19")]);
    table.add(Bash, "ctrl-u, ctrl-y", [line("echo lost\x15pwd; \x19")]);
    table.add(Bash, "ctrl-w", [line("echo one two\x17three")]);
    table.add(Bash, "meta-b, meta-d, meta-f", [line("echo one two\x1bb\x1bb\x1bd1\x1bf 3")]);
    table.add(Bash, "arrows and delete", [line(format!("ecXho one{}{DELETE}", LEFT.repeat(7)))]);
    table.add(Bash, "home, end, cursor in the middle at enter", [line(format!("cho one{HOME}e{END} two{LEFT}{LEFT}"))]);
    table.add(Bash, "transpose and undo", [line("ehco\x02\x02\x14\x05 onex\x1f two")]);
    table.add(Bash, "history up", [line("echo one"), line(UP)]);
    table.add(Bash, "history up, up, down", [line("echo one"), line("echo two"), line(format!("{UP}{UP}{DOWN}"))]);
    table.add(Bash, "history up and edited", [line("echo one"), line(format!("{UP}\x7f\x7f\x7ftwo"))]);
    table.add(Bash, "history left again", [line("echo one"), line(format!("{UP}{DOWN}pwd"))]);
    table.add(Bash, "ctrl-r", [line("echo needle"), line("echo hay"), keys("\x12need"), enter()]);
    table.add(Bash, "ctrl-r typed in one go", [line("echo needle"), line("echo hay"), line("\x12need")]);
    table.add(
        Bash,
        "ctrl-r twice, then edited",
        [line("echo needle 1"), line("echo needle 2"), keys("\x12need\x12"), line("\x05x")],
    );
    table.add(Bash, "ctrl-r given up", [line("echo needle"), keys("\x12need\x07"), line("pwd")]);
    table.add(Bash, "last argument", [line("echo one two"), line("echo \x1b.")]);
    table.add(Bash, "completion of a file", [line("cat al\t")]);
    table.add(Bash, "completion with a listing", [keys("cat be\t\t"), keys("\t"), line("-o\t")]);
    table.add(Bash, "completion of a command", [line("mkd\t-p x")]);
    table.add(Bash, "completion in the middle", [line(format!("cat al beta-one.log{}\t", LEFT.repeat(13)))]);
    table.add(Bash, "unbracketed paste of lines", [line("echo a\recho b\recho c"), keys("")]);
    table
        .add(Bash, "bracketed paste of lines", [until("\x1b[200~echo a\necho b\x1b[201~", "echo b"), enter()])
        .by_lines = true;
    table.add(Bash, "bracketed paste with a tab and edited", [line("\x1b[200~echo 'a\tb'\x1b[201~ c")]);
    table.add(Bash, "paste of 3 KiB", [line(format!("echo {}", "0123456789abcde ".repeat(190)))]);
    table.add(
        Bash,
        "for loop over lines",
        [until("for i in 1 2\r", "> "), until("do\r", "> "), until("echo $i\r", "> "), line("done")],
    );
    table
        .add(Bash, "here-document", [until("cat <<END\r", "> "), until("some $HOME text\r", "> "), line("END")])
        .output = Some("some");
    table.add(Bash, "open quote", [until("echo 'one\r", "> "), line("two'")]);
    table.add(Bash, "backslash at the end", [until("echo one \\\r", "> "), line("two")]);
    table.add(Bash, "history of several lines", [until("echo 'one\r", "> "), line("two'"), line(UP)]);
    table.add(Bash, "wide characters", [line("echo 日本語 中文\x02\x7fX")]);
    table.add(Bash, "combining characters", [line("echo cafe\u{301} n\u{303}")]);
    table.add(Bash, "ctrl-c gives the line up", [keys("echo lost\x03"), line("echo kept")]);
    table.add(Bash, "ctrl-c in several lines", [until("echo 'lost\r", "> "), keys("more\x03"), line("echo kept")]);
    table.add(Bash, "ctrl-j", [Step::Line("echo one\n".into())]);
    table.add(
        Bash,
        "ctrl-o takes the next of the history",
        [line("echo one"), line("echo two"), Step::Line(format!("{UP}{UP}\x0f")), enter()],
    );
    table.add(Bash, "typed ahead", [now("sleep 0.5\r"), keys("echo ahe"), until("ad\r", "\rahead")]);
    table
        .add(
            Bash,
            "hidden input is not recorded",
            [until("read -s -p 'Password: ' p\r", "Password: "), line("s3cret"), line("echo after")],
        )
        .never = vec!["s3cret"];
    table
        .add(
            Bash,
            "hidden input of an unknown prompt",
            [until("read -s -p 'value? ' p\r", "value? "), line("s3cret"), line("echo after")],
        )
        .never = vec!["s3cret"];
    table.add(Bash, "vi mode", [line("set -o vi"), line("ech one\x1b0fhlXio\x1bAo two\x7f")]);
    // Recorded although no Enter was held; the session judges it afterwards.
    let bound = table.add(Bash, "run by a key binding", [Step::Line("rec one\x14".into()), line("rec two")]);
    (bound.rc, bound.unjudged) = (r#"bind '"\C-t": accept-line'"#, true);
    table.add(Bash, "comment and blanks", [line("  echo   one   # why")]);
}

fn bash_screens(table: &mut Table) {
    use Shell::Bash;
    table.add(Bash, "wraps", [line("echo one two three four five six seven eight nine ten")]).size = (30, 10);
    table
        .add(Bash, "wraps, cursor at the start at enter", [line("cho one two three four five six seven eight\x01e")])
        .size = (24, 10);
    table.add(Bash, "wraps exactly at the edge", [line(format!("echo {}", "x".repeat(32))), line(UP)]).size = (40, 10);
    table.add(Bash, "wide characters at the edge", [line("echo 日本語日本語日本語日本語日本語日本語")]).size = (20, 10);
    table.add(Bash, "longer than the screen", [line(format!("echo {}", "abc defg hi ".repeat(60)))]).size = (40, 6);
    table
        .add(
            Bash,
            "recalled and wrapped at the bottom",
            [
                line("seq 30"),
                line("echo one two three four five six seven eight nine ten"),
                line(format!("{UP}{HOME}")),
            ],
        )
        .size = (30, 8);
    table.add(Bash, "coloured prompt of two lines", [keys("echo oen"), line("\x7f\x7fne"), line(UP)]).rc =
        r"PS1='\[\e[1;32m\]\u@host\[\e[0m\] \w\n\[\e[34m\]h$ \[\e[0m\]'";
    table.add(Bash, "prompt that changes", [line("cd bin"), line("echo one"), line("cd .."), line(UP)]).rc =
        r"PS1='[\W] \# h$ '";
    table.add(Bash, "marked prompt (OSC 133)", [line("echo > x"), line("cat al\t")]).rc =
        r"PS1='\[\e]133;A\a\]~ > h$ \[\e]133;B\a\]'";
    table.add(Bash, "window title in the prompt", [line("echo one"), line(UP)]).rc =
        r"PS1='\[\e]0;title\a\]\[\ek screen title\e\\\]h$ '";
    table.add(Bash, "ctrl-l in the middle", [line("seq 5"), keys("echo o"), keys("\x0c"), line("ne")]);
    table.add(Bash, "clear", [line("seq 3"), line("clear"), line("echo x")]);
    table.add(
        Bash,
        "resized while editing",
        [keys("echo one two three four five six seven"), Step::Resize(30, 20), line(" eight"), line("echo next")],
    );
    table.add(Bash, "after a flood", [line("seq 60000"), line(format!("{UP}\x7f1"))]).output = Some("1\n2\n3\n");
    table.add(Bash, "output without a line end", [line("printf abc"), line("echo x")]).output = Some("abc");
}

fn zsh(table: &mut Table) {
    use Shell::Zsh;
    const SUGGEST: &str = "autoload -U add-zle-hook-widget\n\
        ghost() { POSTDISPLAY=''; region_highlight=(); \
          if [[ $BUFFER == 'echo o' ]]; then POSTDISPLAY='ne suggested'; \
            region_highlight=(\"$#BUFFER $(( $#BUFFER + $#POSTDISPLAY )) fg=8\"); fi }\n\
        add-zle-hook-widget line-pre-redraw ghost\n\
        take() { BUFFER=\"$BUFFER$POSTDISPLAY\"; POSTDISPLAY=''; CURSOR=$#BUFFER }\n\
        zle -N take; bindkey '^F' take";
    table.add(Zsh, "plain, with output", [line("echo one; echo two")]).output = Some("one\ntwo");
    table.add(Zsh, "editing", [line("cho onee\x7f\x01e\x05 two\x17three")]);
    table.add(Zsh, "kill and yank in the middle", [line(format!("echo one two{}\x0b\x01\x19", LEFT.repeat(4)))]);
    table.add(Zsh, "history up and edited", [line("echo one"), line(format!("{UP}\x7f\x7f\x7ftwo"))]);
    table.add(Zsh, "ctrl-r", [line("echo needle"), line("echo hay"), keys("\x12need"), enter()]);
    table.add(Zsh, "completion", [line("cat al\t")]);
    table.add(Zsh, "completion menu", [keys("cat be\t"), keys("\t"), keys("\t"), keys("\r"), enter()]).rc =
        "autoload -U compinit; compinit -u; zstyle ':completion:*' menu select";
    table.add(Zsh, "right prompt", [line("echo one"), line(format!("{UP}x"))]).rc = "RPROMPT='[%D{%H} right]'";
    table.add(Zsh, "suggestion not taken", [keys("echo o"), enter()]).rc = SUGGEST;
    table.add(Zsh, "suggestion taken", [keys("echo o"), line("\x06")]).rc = SUGGEST;
    table.add(
        Zsh,
        "for loop over lines",
        [until("for i in 1 2\r", "for> "), until("do\r", "for> "), until("echo $i\r", "for> "), line("done")],
    );
    table.add(Zsh, "here-document", [until("cat <<END\r", "heredoc> "), until("text\r", "heredoc> "), line("END")]);
    table.add(Zsh, "open quote", [until("echo \"one\r", "dquote> "), line("two\"")]);
    table.add(Zsh, "history of several lines", [until("echo \"one\r", "dquote> "), line("two\""), line(UP)]);
    table
        .add(
            Zsh,
            "history of several lines, cursor in the first",
            [until("echo \"one\r", "dquote> "), line("two\""), keys(UP), line(format!("{UP}{END} more"))],
        )
        .rc = "bindkey '\\e[F' end-of-line";
    table.add(Zsh, "bracketed paste of lines", [until("\x1b[200~echo a\necho b\x1b[201~", "echo b"), enter()]);
    table.add(Zsh, "wraps", [line("echo one two three four five six seven eight nine ten"), line(UP)]).size = (30, 10);
    table.add(Zsh, "wraps exactly at the edge", [line(format!("echo {}", "x".repeat(32))), line(UP)]).size = (40, 10);
    table.add(Zsh, "coloured prompt of two lines", [line("echo one"), line(UP)]).rc =
        "PS1=$'%F{green}%n@host%f %~\\n%B%F{blue}h$ %f%b'";
    table.add(Zsh, "wide and combining characters", [line("echo 日本 cafe\u{301}")]);
    table.add(Zsh, "typed ahead", [now("sleep 0.5\r"), keys("echo ahe"), until("ad\r", "\nahead")]);
}

fn plain_shells(table: &mut Table) {
    use Shell::{Busybox, Dash};
    table.add(Dash, "plain", [line("rec one two")]);
    table.add(Dash, "backspace, ctrl-w, ctrl-u", [line("lost\x15rec onx\x7fe twoo\x17two")]);
    table.add(Dash, "paste of lines", [line("rec a\rrec b\rrec c"), keys("")]);
    table.add(Dash, "echo off", [line("stty -echo"), line("rec unseen"), line("stty echo"), line("rec seen")]);
    table.add(Dash, "wraps", [line("rec one two three four five six seven eight nine ten")]).size = (30, 10);
    table
        .add(
            Dash,
            "hidden input is not recorded",
            [
                until("stty -echo; printf 'Password: '; read p; stty echo\r", "Password: "),
                line("s3cret"),
                line("rec after"),
            ],
        )
        .never = vec!["s3cret"];
    table.add(Busybox, "editing", [line("ec onee\x7f\x01r\x05 two")]);
    table.add(Busybox, "history up", [line("rec one"), line(format!("{UP} two"))]);
    table.add(Busybox, "completion", [line("rec al\t")]);
}

fn interpreters(table: &mut Table) {
    use Shell::{MysqlLike, Python};
    table.add(Python, "plain", [line("1 + 1")]).output = Some("2");
    table.add(Python, "editing", [line("pint(1)\x01\x06r\x05\x02, 2")]);
    table.add(Python, "block", [until("def f():\r", "... "), until("    return 1\r", "... "), enter(), line("f()")]);
    table.add(Python, "history", [line("x = 1"), line(format!("{UP}2"))]);
    table.add(Python, "ctrl-r", [line("needle = 1"), line("hay = 2"), keys("\x12need"), enter()]);
    table.add(Python, "open string", [until("s = '''one\r", "... "), line("two'''")]);
    table.add(MysqlLike, "one line", [line("select 1;")]).output = Some("Query OK");
    table.add(
        MysqlLike,
        "several lines",
        [until("select *\r", "-> "), until("from t\r", "-> "), line("where a = '>';"), line("select 2;")],
    );
    table.add(MysqlLike, "history and editing", [line("select 1;"), line(format!("{UP}{LEFT}2"))]);
}

fn full_screen(table: &mut Table) {
    use Shell::Bash;
    let case = table.add(
        Bash,
        "vim: command, filter, and text that is no command",
        [
            until("vim -u NONE -N note.txt\r", "note.txt"),
            keys("irec nothing\r:!rec nothing\rtext\x1b"),
            until(":!rec from vim\r", "ENTER"),
            keys("\r"),
            until(":w\r", "written"),
            until(":r !rec read\r", "text"),
            keys(""),
            line(":q!"),
            line("rec after"),
        ],
    );
    case.by_log = true;
    case.never = vec!["nothing"];
    let case = table.add(
        Bash,
        "vim: long and edited command",
        [
            until("vim -u NONE -N note.txt\r", "note.txt"),
            until(format!(":!rec {}x{LEFT}y\r", "many words ".repeat(8)), "ENTER"),
            keys("\r"),
            line(":q!"),
        ],
    );
    case.by_log = true;
    case.size = (40, 12);
    table
        .add(
            Bash,
            "less: command",
            [
                until("less alpha-file.txt\r", "alpha-file.txt"),
                until("!rec from less\r", "done"),
                keys("\r"),
                line("q"),
                line("rec after"),
            ],
        )
        .by_log = true;
    table.add(
        Bash,
        "full-screen program in the history of commands",
        [until("vim -u NONE -N note.txt\r", "note.txt"), keys("isome text\rmore\x1b"), line(":q!"), line("echo back")],
    );
}

const TMUX: &str = "tmux -f tmux.conf new\r";
const INNER: &str =
    "echo \"PS1='i\\$ '\" > inner; echo 'set -g default-command \"bash --noprofile --rcfile inner\"' > tmux.conf";

fn multiplexer(table: &mut Table) {
    use Shell::Bash;
    let mut tmux = |name: &str, steps: Vec<Step>| {
        let mut all = vec![until(TMUX, "i$ ")];
        all.extend(steps);
        all.push(line("exit"));
        let case = table.add(Bash, name, all);
        case.by_log = true;
        case.rc = INNER;
    };
    let inner = |text: &str| until(format!("{text}\r"), "i$ ");
    tmux("tmux: plain and edited", vec![inner("rec one"), inner("ec twoo\x7f\x01r")]);
    tmux(
        "tmux: history and search",
        vec![inner("rec one"), inner("rec two"), keys(UP), inner(UP), keys("\x12one"), inner("")],
    );
    tmux("tmux: wraps", vec![inner(&format!("rec {}", "some more words ".repeat(8)))]);
    tmux(
        "tmux: split panes",
        vec![
            inner("rec left"),
            until("\x02%", "│"),
            inner("rec right"),
            keys("\x02o"),
            inner("rec left again"),
            keys("\x02o"),
            keys("exit\r"),
        ],
    );
    tmux(
        "tmux: vim inside",
        vec![
            until("vim -u NONE -N note.txt\r", "note.txt"),
            keys("irec nothing\r\x1b"),
            until(":!rec from vim in tmux\r", "ENTER"),
            keys("\r"),
            inner(":q!"),
            inner("rec after"),
        ],
    );
}

fn refused(table: &mut Table) {
    use Shell::{Bash, Busybox, Dash, MysqlLike, Python, Zsh};
    let mut refuse = |shell: Shell, name: &str, times: usize, steps: Vec<Step>| {
        let mut all = steps;
        if !matches!(shell, MysqlLike | Python) {
            all.push(Step::Insist("rec after\r".into()));
        }
        let case = table.add(shell, &format!("refused: {name}"), all);
        case.refused = times;
        case.by_log = true;
        case.never = vec!["forbidden"];
    };
    for shell in [Bash, Zsh, Dash, Busybox] {
        refuse(shell, "typed", 1, vec![line("rec forbidden x")]);
        refuse(shell, "inside a longer line", 1, vec![line("rec a; true && (rec forbidden) | cat")]);
        refuse(shell, "pasted", 1, vec![keys("rec a\rrec forbidden\rrec b\r")]);
    }
    for shell in [Bash, Zsh] {
        refuse(shell, "recalled", 1, vec![line(format!("{UP}{UP}"))]);
        refuse(shell, "recalled in one go, twice", 2, vec![line(format!("{UP}{UP}")), line(format!("{UP}{UP}{HOME}"))]);
        refuse(shell, "searched", 1, vec![keys("\x12bidden\r")]);
        refuse(shell, "completed", 1, vec![line("rec forb\t")]);
        refuse(shell, "bracketed paste", 1, vec![line("\x1b[200~rec forbidden\x1b[201~")]);
        refuse(
            shell,
            "bracketed paste of lines",
            1,
            vec![keys("\x1b[200~rec a\nrec forbidden\nrec b\x1b[201~"), keys("\x03")],
        );
        refuse(
            shell,
            "in a later line",
            1,
            vec![until("if true\r", "> "), until("then\r", "> "), line("rec forbidden; fi")],
        );
        refuse(shell, "typed ahead", 1, vec![until("sleep 0.4\r", ""), line("rec forbidden")]);
    }
    refuse(Bash, "taken by ctrl-o", 1, vec![Step::Line(format!("{UP}{UP}\x0f"))]);
    refuse(Bash, "cursor in the middle", 1, vec![line(format!("rec forbidden{}", LEFT.repeat(9)))]);
    refuse(Bash, "vi mode", 1, vec![line("set -o vi"), line("rec xforbidden\x1b0wx")]);
    refuse(Dash, "echo off", 1, vec![line("stty -echo"), until("rec forbidden\r", "h$ "), line("stty echo")]);
    refuse(Dash, "handed over by ctrl-d", 1, vec![until("rec forbidden\x04", "h$ ")]);
    refuse(MysqlLike, "typed", 1, vec![keys("delete forbidden ;\r")]);
    refuse(Python, "typed", 1, vec![keys("forbidden = 1 # forbidden\r")]);
}
