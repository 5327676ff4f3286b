//! Subjects: where a message is published, and which messages a subscription gets.

use anyhow::ensure;

/// Returns whether `subject` can be published to: tokens between dots, without wildcards.
#[must_use]
pub fn is_subject(subject: &str) -> bool {
    subject.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
}

/// Returns whether `pattern` can be subscribed to. The token `*` stands for one token, and `>` at
/// the end for one or more.
#[must_use]
pub fn is_pattern(pattern: &str) -> bool {
    let pattern = pattern.strip_suffix(".>").unwrap_or(pattern);
    pattern == ">" || pattern.split('.').all(|token| !token.is_empty() && token != ">")
}

/// Returns whether a subscription to `pattern` gets what is published to `subject`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            (wanted, Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Checks a word of the user that becomes part of a line of the protocol. The error message calls
/// it `name`.
///
/// # Errors
/// The word has a space, which would separate it into two, or a control character, which could end
/// the line and begin another.
pub(super) fn check_word(name: &str, word: &str) -> anyhow::Result<()> {
    let is_word = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
    ensure!(is_word, "{name} {word:?} is empty, or has spaces or control characters");
    Ok(())
}

/// Checks a subject that a user gave.
///
/// # Errors
/// It cannot be published to.
pub(super) fn check_subject(subject: &str) -> anyhow::Result<()> {
    check_word("the subject", subject)?;
    ensure!(is_subject(subject), "the subject {subject:?} has empty tokens or wildcards");
    Ok(())
}

/// Checks a pattern that a user gave.
///
/// # Errors
/// It cannot be subscribed to.
pub(super) fn check_pattern(pattern: &str) -> anyhow::Result<()> {
    check_word("the subject", pattern)?;
    ensure!(is_pattern(pattern), "the subject {pattern:?} has empty tokens, or a > not at its end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_token_by_token() {
        for (pattern, subject) in [
            ("a", "a"),
            ("a.b", "a.b"),
            ("*", "a"),
            ("a.*.c", "a.b.c"),
            (">", "a"),
            (">", "a.b"),
            ("a.>", "a.b"),
            ("a.>", "a.b.c"),
            ("*.>", "a.b"),
            ("a.*", "a.*"),
        ] {
            assert!(matches(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("a", "b"),
            ("a", "a.b"),
            ("a.b", "a"),
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a"),
            ("A", "a"),
            ("a*", "ab"),
            ("a.b", "a.*"),
        ] {
            assert!(!matches(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn wildcards_are_whole_tokens_of_patterns() {
        for subject in ["a", "a.b", "a*", "a.>b", "_INBOX.x.1"] {
            assert!(is_subject(subject) && is_pattern(subject), "{subject}");
        }
        for pattern in ["*", ">", "a.*", "*.b", "a.>", "*.>"] {
            assert!(!is_subject(pattern) && is_pattern(pattern), "{pattern}");
        }
        for neither in ["", ".", "a.", ".a", "a..b", "a..>", ".>"] {
            assert!(!is_subject(neither) && !is_pattern(neither), "{neither}");
        }
        for no_pattern in [">.a", "a.>.b"] {
            assert!(!is_pattern(no_pattern), "{no_pattern}");
        }
    }

    #[test]
    fn a_word_of_a_user_stays_one_word() {
        for word in ["", "a b", "a\tb", "a\r\nPUB b 1\r\nx", "a\0", "a\u{85}b", "a\u{a0}b"] {
            assert!(check_word("the queue", word).is_err(), "{word:?}");
        }
        assert!(check_word("the queue", "ä*.>").is_ok());
    }
}
