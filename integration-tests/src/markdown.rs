//! Reads what a test can check in a Markdown page: links, tables, commands, and lists.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The parts of a page, each with the line on which it begins, counted from 1.
#[derive(Debug, Default)]
pub struct Page {
    /// The path of the page, relative to the root of the repository.
    pub path: PathBuf,
    /// The anchors of the headings, in order.
    pub anchors: Vec<String>,
    /// Links and images.
    pub links: Vec<Link>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Code blocks, and code within text.
    pub codes: Vec<Code>,
    /// The texts of list items.
    pub items: Vec<(usize, String)>,
}

/// A link or an image.
#[derive(Clone, Debug)]
pub struct Link {
    /// The line on which it begins.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// The path or URL, with the anchor.
    pub target: String,
}

/// The rows of a table. The first row is the head.
#[derive(Debug, Default)]
pub struct Table(pub Vec<Row>);

/// A row of a table.
#[derive(Debug, Default)]
pub struct Row {
    /// The line on which it begins.
    pub line: usize,
    /// The cells.
    pub cells: Vec<Cell>,
}

/// A cell of a table.
#[derive(Debug, Default)]
pub struct Cell {
    /// Its text, as a reader sees it.
    pub text: String,
    /// The code in it.
    pub codes: Vec<String>,
    /// The links in it.
    pub links: Vec<Link>,
}

/// A code block, or code within text.
#[derive(Clone, Debug)]
pub struct Code {
    /// The line on which it begins.
    pub line: usize,
    /// The word after the fence of a block. `None` for code within text.
    pub language: Option<String>,
    /// The code.
    pub text: String,
}

impl Page {
    /// Reads the page at `path`, from the root of the repository.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::parse(path, &text))
    }

    /// Reads the `//!` header of the Rust file at `path`.
    pub fn of_header(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let header = source.lines().map_while(|line| line.strip_prefix("//!"));
        let header: Vec<_> = header.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        Ok(Self::parse(path, &header.join("\n")))
    }

    fn parse(path: &Path, text: &str) -> Self {
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let mut lines = Lines { text, at: 0, line: 1 };
        let mut open = Open::default();
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            page.take(event, lines.line_of(range.start), &mut open);
        }
        page
    }

    fn take(&mut self, event: Event<'_>, line: usize, open: &mut Open) {
        match event {
            Event::Start(Tag::Heading { .. }) => open.heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&open.heading.take().unwrap_or_default());
                let count = open.slugs.entry(slug.clone()).or_insert(0);
                self.anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                open.links.push(Link { line, text: String::new(), target: dest_url.into_string() });
            }
            Event::End(TagEnd::Link | TagEnd::Image) => {
                let Some(ended) = open.links.pop() else { return };
                if let Some(cell) = &mut open.cell {
                    cell.links.push(ended.clone());
                }
                self.links.push(ended);
            }
            Event::Start(Tag::Table(_)) => self.tables.push(Table::default()),
            Event::Start(Tag::TableHead | Tag::TableRow) => {
                if let Some(Table(rows)) = self.tables.last_mut() {
                    rows.push(Row { line, cells: Vec::new() });
                }
            }
            Event::Start(Tag::TableCell) => open.cell = Some(Cell::default()),
            Event::End(TagEnd::TableCell) => {
                let row = self.tables.last_mut().and_then(|Table(rows)| rows.last_mut());
                if let Some(row) = row {
                    row.cells.extend(open.cell.take());
                }
            }
            Event::Start(Tag::Item) => open.items.push((line, String::new())),
            Event::End(TagEnd::Item) => self.items.extend(open.items.pop()),
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(language) => language.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                open.block = Some(Code { line, language: Some(language), text: String::new() });
            }
            Event::End(TagEnd::CodeBlock) => self.codes.extend(open.block.take()),
            Event::Code(text) => {
                if let Some(cell) = &mut open.cell {
                    cell.codes.push(text.to_string());
                }
                self.codes.push(Code { line, language: None, text: text.to_string() });
                open.add(&text);
            }
            Event::Text(text) => match &mut open.block {
                Some(block) => block.text += &text,
                None => open.add(&text),
            },
            Event::SoftBreak | Event::HardBreak => open.add(" "),
            _ => {}
        }
    }

    /// `path:line`, for messages.
    #[must_use]
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

impl Table {
    /// The number of the column with one of these heads.
    #[must_use]
    pub fn column(&self, heads: &[&str]) -> Option<usize> {
        let head = &self.0.first()?.cells;
        head.iter().position(|cell| heads.contains(&cell.text.as_str()))
    }

    /// The rows below the head.
    pub fn body(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().skip(1)
    }
}

/// The parts that have begun but not ended.
#[derive(Default)]
struct Open {
    heading: Option<String>,
    slugs: HashMap<String, usize>,
    links: Vec<Link>,
    cell: Option<Cell>,
    items: Vec<(usize, String)>,
    block: Option<Code>,
}

impl Open {
    /// Adds text to all open parts. Of nested list items only the inner one gets it.
    fn add(&mut self, text: &str) {
        let link = self.links.last_mut().map(|link| &mut link.text);
        let cell = self.cell.as_mut().map(|cell| &mut cell.text);
        let item = self.items.last_mut().map(|(_, item)| item);
        for part in [self.heading.as_mut(), link, cell, item].into_iter().flatten() {
            *part += text;
        }
    }
}

/// Makes an anchor as GitHub does: lower case, only letters, digits, `-`, and `_`, and a `-` for each
/// space.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// Converts offsets to lines. Fast if the offsets ascend.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn line_of(&mut self, offset: usize) -> usize {
        if offset < self.at {
            (self.at, self.line) = (0, 1);
        }
        self.line += self.text[self.at..offset].matches('\n').count();
        self.at = offset;
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_github() {
        let page = Page::parse(
            Path::new(""),
            "# Linux I/O models, one `small` server\n## A_b-c?\n## A_b-c\n# I/O 模型：回显\n",
        );
        let expected = ["linux-io-models-one-small-server", "a_b-c", "a_b-c-1", "io-模型回显"];
        assert_eq!(page.anchors, expected);
    }

    #[test]
    fn finds_links_tables_codes_and_items() {
        let page = Page::parse(
            Path::new(""),
            "![a](b.svg)\n\n| x | y |\n|---|---|\n| [`f`](g.rs) | 1 `h` |\n\n\
             - one [two](c)\n  three\n  - four\n\n```sh\ncargo test\n```\n",
        );
        let links: Vec<_> =
            page.links.iter().map(|link| (link.line, &*link.text, &*link.target)).collect();
        assert_eq!(links, [(1, "a", "b.svg"), (5, "f", "g.rs"), (7, "two", "c")]);
        let row = page.tables[0].body().next().expect("a row");
        let [one, other] = row.cells.as_slice() else { panic!("{row:?}") };
        assert_eq!((row.line, &*one.links[0].target), (5, "g.rs"));
        assert_eq!((&*other.text, &*other.codes[0]), ("1 h", "h"));
        assert_eq!(page.tables[0].column(&["y"]), Some(1));
        let items: Vec<_> = page.items.iter().map(|(line, item)| (*line, item.as_str())).collect();
        assert_eq!(items, [(9, "four"), (7, "one two three")]);
        let block = page.codes.last().expect("a block");
        assert_eq!((block.language.as_deref(), &*block.text), (Some("sh"), "cargo test\n"));
    }
}
