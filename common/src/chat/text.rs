//! From bytes to lines, and from a line to text that is safe to show.

use std::borrow::Cow;
use std::mem;

use super::MAX_LINE;

/// Splits the input of one client into lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// The beginning of a line whose end has not arrived: at most [`MAX_LINE`] bytes and a `\r`.
    /// Uses no memory between two lines.
    partial: Vec<u8>,
    /// True while the rest of a line that is too long is skipped.
    skipping: bool,
}

/// What [`LineSplitter::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its `\n`.
    Complete(Cow<'a, [u8]>),
    /// A line of more than [`MAX_LINE`] bytes, reported once. The rest of it is skipped.
    TooLong,
}

impl LineSplitter {
    /// Takes the next line from the front of `input`. Returns `None` when `input` is used up. Bytes
    /// without a line end are kept until the rest of their line arrives.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Line<'a>> {
        while !input.is_empty() {
            let (piece, ended) = match input.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let piece = &input[..end];
                    *input = &input[end + 1..];
                    (piece, true)
                }
                None => (mem::take(input), false),
            };
            if self.skipping {
                self.skipping = !ended;
            } else if self.is_too_long_with(piece) {
                self.partial = Vec::new();
                self.skipping = !ended;
                return Some(Line::TooLong);
            } else if !ended {
                self.partial.extend_from_slice(piece);
            } else if self.partial.is_empty() {
                return Some(Line::Complete(Cow::Borrowed(piece)));
            } else {
                let mut line = mem::take(&mut self.partial);
                line.extend_from_slice(piece);
                return Some(Line::Complete(Cow::Owned(line)));
            }
        }
        None
    }

    /// Returns the line that EOF cut off, or an empty one.
    pub fn finish(&mut self) -> Vec<u8> {
        mem::take(&mut self.partial)
    }

    fn is_too_long_with(&self, piece: &[u8]) -> bool {
        let length = self.partial.len() + piece.len();
        // A `\r` at the end may be half of a `\r\n`, and does not count.
        let last = piece.last().or(self.partial.last());
        length - usize::from(last == Some(&b'\r')) > MAX_LINE
    }
}

/// Removes control characters (also escape and line breaks), characters that change the writing
/// direction, and the most common invisible characters. Without this, a client could change how the
/// lines of others look.
///
/// A tab becomes a space, so that it still separates words.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\t' {
            clean.push(' ');
        } else if !is_removed(character) {
            clean.push(character);
        }
    }
    Cow::Owned(clean)
}

fn is_removed(character: char) -> bool {
    let is_invisible = matches!(
        character,
        '\u{061c}' | '\u{180e}'          // Arabic letter mark, Mongolian vowel separator
        | '\u{200b}'..='\u{200f}'        // zero-width space and joiners, direction marks
        | '\u{2028}'..='\u{202e}'        // line and paragraph separator, bidirectional controls
        | '\u{2060}'..='\u{206f}'        // word joiner, invisible operators, isolates
        | '\u{feff}' // zero-width no-break space, the byte order mark
    );
    is_invisible || character.is_control()
}

/// Returns whether `name` is a valid nickname: 1 to 16 ASCII letters, digits, `-` or `_`.
pub fn is_valid_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=16).contains(&name.len()) && name.bytes().all(is_allowed)
}
