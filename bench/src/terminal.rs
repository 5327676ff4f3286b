//! What the benchmark prints: lines of at most 80 columns.

use std::io::{self, Write};

pub const COLUMNS: usize = 80;

/// Prints a text, and ignores a closed stdout: the samples must not be lost because of it.
pub fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Breaks a text into lines that fit the terminal.
pub fn fold(text: &str) -> String {
    let mut folded = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > COLUMNS {
            folded.push('\n');
            column = 0;
        }
        if column > 0 {
            folded.push(' ');
            column += 1;
        }
        folded += word;
        column += length;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_folded() {
        assert_eq!(fold("a short text"), "a short text");
        let folded = fold(&"word ".repeat(40));
        assert!(folded.lines().count() > 2 && folded.lines().all(|line| line.len() <= COLUMNS));
    }
}
