//! What a prompt looks like when nothing better is known than its text.
//!
//! What lives here: guesses from text alone, each documented with what it is good for. What must not: positions, state.

/// The text in front of the cursor asks for a secret. Used only where the asset does not echo (or echoes stars).
pub(super) fn asks_secret(prompt: &str) -> bool {
    const WORDS: [&str; 18] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pass phrase",
        "pin",
        "secret",
        "otp",
        "one-time",
        "token",
        "verification code",
        "authenticator",
        "密码",
        "口令",
        "验证码",
        "パスワード",
        "contraseña",
        "passwort",
    ];
    let lower = prompt.trim_end().to_lowercase();
    let asks = lower.ends_with([':', '：', '?', '>', ')']) || lower.ends_with("password");
    asks && WORDS.iter().any(|word| lower.contains(word))
}

/// The text ends like the prompt of something that takes commands: `$ # % > ❯ » ➜ λ` and at most one blank. A lone sign
/// of progress (`100%`) is not one.
pub(super) fn takes_commands(prompt: &str) -> bool {
    let line = prompt.strip_suffix(' ').unwrap_or(prompt);
    let Some(last) = line.chars().next_back() else { return false };
    match last {
        '%' => !line.trim_end_matches('%').ends_with(|c: char| c.is_ascii_digit()),
        '$' | '#' | '>' | '❯' | '»' | '➜' | 'λ' | '⟩' => true,
        _ => false,
    }
}

/// The prompt of a further line of the same command: `> `, `... `, `-> `, zsh's `dquote> `, psql's `db-# `, sqlite's
/// `   ...> `.
pub(super) fn continues(prompt: &str) -> bool {
    let text = prompt.trim();
    if matches!(text, ">" | "..." | "...>" | "->" | "'>" | "\">" | "`>" | "/*>" | "+" | "?>" | "•") {
        return true;
    }
    if let Some(words) = text.strip_suffix('>')
        && !words.is_empty()
        && words.split(' ').all(zsh_state)
    {
        return true;
    }
    // psql puts the state before the sign: `db-#`, `db'#`, `db"#`, `db(#`, `db$#`, `db*#`.
    let Some(rest) = text.strip_suffix(['#', '>']) else { return false };
    rest.len() > 1
        && rest.ends_with(['-', '\'', '"', '(', '$'])
        && rest.chars().next().is_some_and(char::is_alphanumeric)
        && !rest.contains([' ', '@', ':', '/'])
}

/// The words of zsh's `%_`, from its manual (zshmisc, "Prompt expansion") and parser.
fn zsh_state(word: &str) -> bool {
    matches!(
        word,
        "quote"
            | "dquote"
            | "bquote"
            | "heredoc"
            | "heredocd"
            | "cmdsubst"
            | "mathsubst"
            | "math"
            | "subsh"
            | "cursh"
            | "brace"
            | "braceparam"
            | "if"
            | "elif"
            | "then"
            | "elif-then"
            | "else"
            | "while"
            | "until"
            | "for"
            | "foreach"
            | "repeat"
            | "case"
            | "select"
            | "function"
            | "errpipe"
            | "pipe"
            | "cmdand"
            | "cmdor"
            | "always"
            | "try"
            | "array"
            | "nocorrect"
            | "cond"
            | "coproc"
    )
}

/// A prompt whose reader may die of Ctrl-C: database clients and the like, `name> ` without a shell's sign.
pub(super) fn dislikes_interrupt(prompt: &str) -> bool {
    let text = prompt.trim();
    let body = text.trim_end_matches('>');
    if body.split(' ').all(zsh_state) {
        return false;
    }
    body.len() < text.len()
        && !body.is_empty()
        && !body.contains(['~', '/', '\\', '@'])
        && !body.ends_with('>')
        && text != ">>>"
}

/// Programs that show a shell inside the alternate screen.
pub(super) fn multiplexes(command: &str) -> bool {
    runs(command, &["tmux", "screen", "byobu", "zellij", "dvtm", "abduco", "dtach", "mc", "mosh", "ssh", "mtm"])
}

/// Programs that fill the screen with text of their own.
pub(super) fn edits(command: &str) -> bool {
    runs(
        command,
        &[
            "vi",
            "vim",
            "vim.tiny",
            "vim.basic",
            "vimdiff",
            "view",
            "nvim",
            "nano",
            "pico",
            "emacs",
            "emacsclient",
            "joe",
            "micro",
            "hx",
            "less",
            "more",
            "most",
            "man",
            "info",
            "top",
            "htop",
            "btop",
            "atop",
            "watch",
            "visudo",
            "crontab",
            "vipw",
            "vigr",
            "git",
            "systemctl",
            "journalctl",
            "mutt",
            "ranger",
            "nnn",
            "edit",
            "editor",
            "sensible-editor",
            "kak",
            "fzf",
        ],
    )
}

fn runs(command: &str, names: &[&str]) -> bool {
    super::split(command).iter().any(|part| {
        part.split_whitespace()
            .filter(|word| !word.contains('=') && !word.starts_with('-'))
            .find(|word| !matches!(*word, "sudo" | "env" | "exec" | "command" | "nice" | "nohup" | "doas" | "time"))
            .is_some_and(|word| names.contains(&word.rsplit('/').next().unwrap_or(word)))
    })
}

/// The shell command inside the command line of a full-screen program: vim's `:!cmd`, `:r !cmd`, `:w !cmd`, `:1,$!cmd`,
/// `:terminal cmd`; less's and more's `!cmd` and `|mcmd`; emacs's `Shell command: cmd`.
pub(super) fn program_command(line: &str) -> Option<&str> {
    let line = line.trim_end();
    if let Some(rest) = line.strip_prefix("Shell command: ").or_else(|| line.strip_prefix("Shell command on region: "))
    {
        return Some(rest.trim());
    }
    if let Some(rest) = line.strip_prefix('!') {
        return Some(rest.trim());
    }
    if let Some(rest) = line.strip_prefix('|') {
        return rest.get(1..).map(str::trim);
    }
    let ex = line.strip_prefix(':')?.trim_start();
    let verb_at = ex.find(|c: char| c.is_ascii_alphabetic() || c == '!').unwrap_or(ex.len());
    // A range comes first: numbers, marks, `%`, `.`, `$`, `'<,'>`; the letter of a mark is not a verb.
    let (_, mut rest) = ex.split_at_checked(verb_at)?;
    if ex.get(..verb_at).is_some_and(|range| range.ends_with('\'')) {
        rest = rest.find('!').and_then(|at| rest.get(at..)).unwrap_or(rest);
    }
    let verb = rest.find(|c: char| !c.is_ascii_alphabetic()).map_or(rest, |end| rest.get(..end).unwrap_or(rest));
    let after = rest.get(verb.len()..).unwrap_or("");
    match verb {
        "" => after.strip_prefix('!').map(str::trim),
        "sil" | "silent" | "verb" | "verbose" => {
            let inner = after.trim_start_matches('!').trim_start();
            inner.strip_prefix('!').map(str::trim)
        }
        "r" | "re" | "rea" | "read" | "w" | "wr" | "wri" | "writ" | "write" => {
            after.trim_start().strip_prefix('!').map(str::trim)
        }
        "te" | "ter" | "term" | "termi" | "termin" | "termina" | "terminal" => {
            Some(after.trim_start_matches('!').trim()).filter(|rest| !rest.is_empty())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised() {
        for prompt in ["Password:", "[sudo] password for eve: ", "Enter passphrase for key '/k': ", "密码：", "PIN: "]
        {
            assert!(asks_secret(prompt), "{prompt}");
        }
        for prompt in ["$ ", "password.txt", "login: ", "eve@pinbox:~$ "] {
            assert!(!asks_secret(prompt), "{prompt}");
        }
    }

    #[test]
    fn prompts_are_recognised() {
        for prompt in ["$ ", "root@h:~# ", "h% ", ">>> ", "mysql> ", "❯ ", "MariaDB [(none)]> ", "<H3C>", "[H3C]#"] {
            assert!(takes_commands(prompt), "{prompt}");
        }
        for prompt in ["", "100%", "Continue? [y/N] ", "name: ", "x >  "] {
            assert!(!takes_commands(prompt), "{prompt}");
        }
    }

    #[test]
    fn continuations_are_recognised() {
        for prompt in ["> ", "... ", "    -> ", "dquote> ", "for heredoc> ", "   ...> ", "shop-# ", "shop'# ", "pipe> "]
        {
            assert!(continues(prompt), "{prompt}");
        }
        for prompt in ["$ ", ">>> ", "mysql> ", "sqlite> ", "shop=# ", "root@db-# ", "ftp> "] {
            assert!(!continues(prompt), "{prompt}");
        }
    }

    #[test]
    fn programs_hand_commands_to_shells() {
        assert_eq!(program_command(":!ls -l"), Some("ls -l"));
        assert_eq!(program_command(":r !date"), Some("date"));
        assert_eq!(program_command(":w !sudo tee %"), Some("sudo tee %"));
        assert_eq!(program_command(":%!sort"), Some("sort"));
        assert_eq!(program_command(":'<,'>!sort"), Some("sort"));
        assert_eq!(program_command(":sil! !rm x"), Some("rm x"));
        assert_eq!(program_command("!sh"), Some("sh"));
        assert_eq!(program_command(":wq!"), None);
        assert_eq!(program_command(":q!"), None);
        assert_eq!(program_command(":w"), None);
        assert_eq!(program_command("text"), None);
    }

    #[test]
    fn programs_are_known_by_name() {
        assert!(multiplexes("sudo -E /usr/bin/tmux attach"));
        assert!(edits("cd x && vim.tiny y"));
        assert!(!edits("grep vim x"));
    }
}
