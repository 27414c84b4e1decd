//! Which command filter acts on a command (Z21, Z22). What lives here: command groups compiled once and shared by all
//! sessions, and the matcher of one session. What must not: where commands come from, and what is done about a hit.
//!
//! A filter keeps people from mistakes and leaves a trace; it cannot prove that a shell does not do something (a script, an
//! alias, an encoded text). It looks at the whole text and at each part of it between separators of shells, so that what
//! a rule accepts does not cover what stands behind it.

use std::sync::Arc;

use regex::Regex;
use uuid::Uuid;

use crate::common::Invalid;
use crate::filter::compile;
use crate::rules::{CommandFilter, CommandGroup, CommandGroupType, RuleAction};

/// Lines of one group.
pub const MAX_LINES: usize = 1_000;

struct Line {
    text: String,
    regex: Regex,
}

/// A command group ready to search with.
pub struct CompiledGroup {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    lines: Vec<Line>,
}

impl std::fmt::Debug for CompiledGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledGroup").field("id", &self.id).field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

impl CompiledGroup {
    /// Lines that cannot be compiled match nothing (they are refused when the group is made).
    pub fn new(group: &CommandGroup) -> Self {
        let lines = group.lines().take(MAX_LINES).filter_map(|text| {
            let regex = compile(&expression(group.r#type, text), group.ignore_case).ok()?;
            Some(Line { text: text.to_owned(), regex })
        });
        Self { id: group.id, org_id: group.org_id, name: group.name.clone(), lines: lines.collect() }
    }

    fn find<'t>(&self, text: &'t str) -> Option<(&Line, &'t str)> {
        self.lines.iter().find_map(|line| line.regex.find(text).map(|m| (line, m.as_str())))
    }
}

impl CommandGroup {
    /// The lines that mean something.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.content.lines().map(str::trim).filter(|l| !l.is_empty())
    }

    pub(crate) fn check_content(&self, invalid: &mut Invalid) {
        let count = self.lines().count();
        invalid.check(count > 0, "content", "give at least one command");
        invalid.check(count <= MAX_LINES, "content", format!("at most {MAX_LINES} lines in one group"));
        for (number, line) in self.content.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).take(MAX_LINES) {
            if let Err(why) = compile(&expression(self.r#type, line.trim()), self.ignore_case) {
                invalid.add("content", format!("line {}: {why}", number + 1));
            }
        }
    }
}

/// A regex line as it is; a command as its words with any blanks between. A single word is found as a word only (`rm` not
/// in `format`), at the ends where it has a word's character.
fn expression(kind: CommandGroupType, line: &str) -> String {
    if kind == CommandGroupType::Regex {
        return line.to_owned();
    }
    let words: Vec<String> = line.split_whitespace().map(regex::escape).collect();
    let joined = words.join(r"\s+");
    if words.len() != 1 {
        return joined;
    }
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (start, end) = (is_word(line.chars().next()), is_word(line.chars().next_back()));
    format!("{}{joined}{}", if start { r"\b" } else { "" }, if end { r"\b" } else { "" })
}

/// A filter that applies to a session, with its groups.
#[derive(Debug, Clone)]
pub struct BoundFilter {
    pub filter: Arc<CommandFilter>,
    pub groups: Vec<Arc<CompiledGroup>>,
}

/// What acts on a command.
#[derive(Debug, Clone)]
pub struct Hit {
    pub filter: Arc<CommandFilter>,
    pub group: Arc<CompiledGroup>,
    /// The group's line that was found.
    pub line: String,
    /// The part of the command that it was found in.
    pub matched: String,
}

impl Hit {
    pub fn action(&self) -> RuleAction {
        self.filter.action
    }
}

/// The filters of one session in their order.
#[derive(Debug, Clone, Default)]
pub struct CommandMatcher {
    filters: Vec<BoundFilter>,
}

/// How much an action takes away; among the parts of one text the strictest acts.
fn strictness(action: RuleAction) -> u8 {
    match action {
        RuleAction::Accept => 0,
        RuleAction::Notice => 1,
        RuleAction::Warning | RuleAction::NotifyAndWarn => 2,
        RuleAction::Review | RuleAction::FaceVerify | RuleAction::FaceOnline => 3,
        RuleAction::Reject => 4,
    }
}

impl CommandMatcher {
    /// Takes filters in any order; inactive ones are left out.
    pub fn new(mut filters: Vec<BoundFilter>) -> Self {
        filters.retain(|f| f.filter.is_active);
        filters.sort_by(|a, b| a.filter.rank().cmp(&b.filter.rank()));
        Self { filters }
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The filter that acts on the command; `None`: it runs. For the whole text and for each part the first matching filter
    /// counts, and the strictest of those acts: `ls` accepted before does not let `ls; reboot` pass a rule against `reboot`.
    pub fn check(&self, command: &str) -> Option<Hit> {
        if self.filters.is_empty() {
            return None;
        }
        // A backslash at the end of a line joins it with the next before the shell reads words.
        let joined = command.replace("\\\r\n", "").replace("\\\n", "");
        let mut found: Option<(usize, Hit)> = None;
        for text in std::iter::once(joined.trim()).chain(parts(&joined)) {
            let Some((at, hit)) = self.first(text) else { continue };
            let stricter = found.as_ref().is_none_or(|(before, old)| {
                let (new, old) = (strictness(hit.action()), strictness(old.action()));
                new > old || new == old && at < *before
            });
            if stricter {
                found = Some((at, hit));
            }
        }
        found.map(|(_, hit)| hit)
    }

    fn first(&self, text: &str) -> Option<(usize, Hit)> {
        self.filters.iter().enumerate().find_map(|(at, bound)| {
            bound.groups.iter().find_map(|group| {
                let (line, matched) = group.find(text)?;
                let hit = Hit {
                    filter: Arc::clone(&bound.filter),
                    group: Arc::clone(group),
                    line: line.text.clone(),
                    matched: matched.to_owned(),
                };
                Some((at, hit))
            })
        })
    }
}

/// What stands between the separators of shells. Quotes do not protect: `sh -c "a; b"` runs both.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let separator = |c: char| matches!(c, '\n' | '\r' | ';' | '|' | '&' | '(' | ')' | '{' | '}' | '`' | '"' | '\'');
    text.split(separator).map(str::trim).filter(move |part| !part.is_empty() && part.len() < text.trim().len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::common::Validate;
    use crate::fixture;

    fn group(kind: CommandGroupType, content: &str) -> CommandGroup {
        CommandGroup { r#type: kind, content: content.into(), ..fixture::command_group(1, "") }
    }

    fn bound(n: u128, priority: u8, action: RuleAction, kind: CommandGroupType, content: &str) -> BoundFilter {
        let filter = CommandFilter { priority, action, ..fixture::command_filter(n) };
        BoundFilter { filter: Arc::new(filter), groups: vec![Arc::new(CompiledGroup::new(&group(kind, content)))] }
    }

    use CommandGroupType::{Command, Regex as Expression};
    use RuleAction::{Accept, Reject, Warning};

    fn one(kind: CommandGroupType, content: &str) -> CommandMatcher {
        CommandMatcher::new(vec![bound(1, 50, Reject, kind, content)])
    }

    #[test]
    fn a_word_is_found_as_a_word_anywhere() {
        let matcher = one(Command, "rm");
        for yes in
            ["rm", "rm -rf /", "sudo rm x", "/bin/rm x", "ls;rm x", "ls | xargs rm", "RM x", "echo $(rm x)", "a\nrm"]
        {
            assert!(matcher.check(yes).is_some(), "{yes}");
        }
        for no in ["", "ls", "format", "rmdir x", "farm", "rm_old"] {
            assert!(matcher.check(no).is_none(), "{no}");
        }
    }

    #[test]
    fn words_may_stand_apart() {
        let matcher = one(Command, "rm -rf /");
        for yes in ["rm -rf /", "rm   -rf\t/", "rm -rf /etc", "rm \\\n-rf /", "cd / && rm  -rf /"] {
            assert!(matcher.check(yes).is_some(), "{yes}");
        }
        assert!(matcher.check("rm -r /").is_none());
    }

    #[test]
    fn special_characters_of_a_command_are_themselves() {
        let matcher = one(Command, "a.b*c\n:(){");
        assert!(matcher.check("a.b*c").is_some() && matcher.check(":(){ :|:& };:").is_some());
        assert!(matcher.check("axbbc").is_none());
    }

    #[test]
    fn anchors_see_the_parts() {
        let matcher = one(Expression, "^reboot$");
        for yes in ["reboot", "  reboot ", "true; reboot", "true&&reboot", "(reboot)", "sh -c 'reboot'", "a | reboot"] {
            assert!(matcher.check(yes).is_some(), "{yes}");
        }
        assert!(matcher.check("echo reboot now").is_none());
    }

    #[test]
    fn case_counts_when_asked() {
        let strict = CompiledGroup::new(&CommandGroup { ignore_case: false, ..group(Command, "Drop") });
        let filter = Arc::new(fixture::command_filter(1));
        let matcher = CommandMatcher::new(vec![BoundFilter { filter, groups: vec![Arc::new(strict)] }]);
        assert!(matcher.check("Drop table").is_some());
        assert!(matcher.check("drop table").is_none());
    }

    #[test]
    fn the_smaller_priority_acts_first() {
        let accept_first =
            CommandMatcher::new(vec![bound(2, 50, Reject, Command, "rm"), bound(1, 10, Accept, Command, "rm -i")]);
        assert_eq!(accept_first.check("rm -i x").unwrap().action(), Accept);
        assert_eq!(accept_first.check("rm x").unwrap().action(), Reject);
        let reject_first =
            CommandMatcher::new(vec![bound(2, 9, Reject, Command, "rm"), bound(1, 10, Accept, Command, "rm -i")]);
        assert_eq!(reject_first.check("rm -i x").unwrap().action(), Reject);
    }

    #[test]
    fn what_is_accepted_does_not_cover_what_follows() {
        let matcher = CommandMatcher::new(vec![
            bound(1, 1, Accept, Expression, "^ls"),
            bound(2, 2, Warning, Command, "sudo"),
            bound(3, 3, Reject, Command, "reboot"),
        ]);
        assert_eq!(matcher.check("ls -l").unwrap().action(), Accept);
        assert_eq!(matcher.check("ls; reboot").unwrap().action(), Reject);
        assert_eq!(matcher.check("ls && sudo id").unwrap().action(), Warning);
        assert_eq!(matcher.check("ls `reboot`").unwrap().matched, "reboot");
    }

    #[test]
    fn inactive_filters_do_nothing_and_a_hit_says_where() {
        let mut off = bound(1, 1, Reject, Command, "rm");
        off.filter = Arc::new(CommandFilter { is_active: false, ..(*off.filter).clone() });
        let matcher = CommandMatcher::new(vec![off]);
        assert!(matcher.is_empty() && matcher.check("rm").is_none());
        let hit = one(Command, "dd\nrm -rf").check("sudo  rm   -rf /x").unwrap();
        assert_eq!((hit.line.as_str(), hit.matched.as_str()), ("rm -rf", "rm   -rf"));
    }

    #[test]
    fn broken_and_huge_expressions_are_refused_and_match_nothing() {
        for bad in ["(", "[a-", "(?=x)", r"(a)\1", "(a{1000}){1000}", "x{2000}{2000}"] {
            assert!(group(Expression, bad).validate().is_err(), "{bad}");
            assert!(one(Expression, bad).check("aaaa ( [a- x").is_none(), "{bad}");
        }
        assert!(group(Expression, "^a+$").validate().is_ok());
        assert!(group(Command, " \n ").validate().is_err());
        assert!(group(Command, &"x\n".repeat(MAX_LINES + 1)).validate().is_err());
        // One broken line does not take the good ones away.
        assert!(one(Expression, "(\nreboot").check("reboot").is_some());
    }

    #[test]
    fn a_long_text_takes_no_long_time() {
        let matcher = one(Expression, "(a+)+$\n(x|x)*y");
        let text = format!("{}!", "a".repeat(200_000));
        assert!(matcher.check(&text).is_none());
    }

    proptest! {
        #[test]
        fn a_forbidden_word_is_found_whatever_stands_around(before in "[a-z ]{0,12}", after in "[a-z ]{0,12}",
                                                           a in "[;|&\n ]", b in "[;|&\n ]") {
            let matcher = CommandMatcher::new(vec![
                bound(1, 1, Accept, Expression, "^[a-z]"),
                bound(2, 2, Reject, Command, "%%"),
            ]);
            // The accept rule matches the whole text first; only a part of its own is rejected.
            let text = format!("{before};%%{b}{after}{a}");
            prop_assert_eq!(matcher.check(&text).unwrap().action(), Reject);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*", line in "\\PC{0,40}") {
            let _ = one(Command, &line).check(&text);
            let _ = one(Expression, &line).check(&text);
        }

        #[test]
        fn a_weaker_rule_never_widens(text in "[a-c;| ]{0,20}", word in "[a-c]", action in 0..2usize) {
            let rules = vec![bound(1, 10, Reject, Command, "a"), bound(2, 20, Warning, Command, "b")];
            let before = CommandMatcher::new(rules.clone()).check(&text).map_or(0, |h| strictness(h.action()));
            let mut more = rules;
            more.push(bound(3, 90, [Accept, Warning][action], Command, &word));
            let after = CommandMatcher::new(more).check(&text).map_or(0, |h| strictness(h.action()));
            prop_assert!(after >= before);
        }
    }
}
