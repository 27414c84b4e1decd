//! Answers for the questions of OpenSSH's client, by what is asked, through its `SSH_ASKPASS`; and what was asked. It is
//! the only way to answer several prompts of one log-in without a terminal.

use std::process::Command;

use crate::peers::write_script;

pub struct Askpass {
    dir: tempfile::TempDir,
}

impl Askpass {
    /// For a prompt that contains `.0`, the lines of `.1` in turn, the last one again and again. Other prompts get an
    /// empty answer.
    pub fn new(answers: &[(&str, &[&str])]) -> Self {
        let dir = tempfile::Builder::new().prefix("gh-askpass-").tempdir().unwrap();
        let at = dir.path().display();
        let mut script = format!("#!/bin/sh\nprintf '%s\\n' \"$1\" >> {at}/asked\ncase \"$1\" in\n");
        for (n, (prompt, lines)) in answers.iter().enumerate() {
            assert!(!prompt.contains(['\'', '*', '?', '[']), "a plain text: {prompt}");
            std::fs::write(dir.path().join(format!("left-{n}")), lines.join("\n") + "\n").unwrap();
            script.push_str(&format!(
                "*'{prompt}'*) head -n 1 {at}/left-{n}\n  [ $(wc -l < {at}/left-{n}) -gt 1 ] && sed -i 1d {at}/left-{n} ;;\n"
            ));
        }
        script.push_str("*) echo ;;\nesac\nexit 0\n");
        write_script(&dir.path().join("askpass"), &script);
        Self { dir }
    }

    /// Makes a client ask here.
    pub fn set(&self, command: &mut Command) {
        command.env("SSH_ASKPASS", self.dir.path().join("askpass"));
        command.env("SSH_ASKPASS_REQUIRE", "force").env("DISPLAY", ":0");
    }

    /// Every prompt so far.
    pub fn asked(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default()
    }
}
