//! Whoever speaks of cost, in the README or a header, says what `docs/benchmarks` shows.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// A figure of the page: the title of its table, its row and its column.
#[derive(Clone, Copy, Debug)]
struct Figure(&'static str, &'static str, &'static str);

/// That `file` says so, and that the figure, or its ratio to another one, is about `is`.
#[derive(Clone, Copy, Debug)]
struct Claim {
    file: &'static str,
    says: &'static str,
    of: Figure,
    to: Option<Figure>,
    is: f64,
    /// The part of `is` by which the figure may be off.
    within: f64,
}

const fn claim(file: &'static str, says: &'static str, of: Figure, is: f64) -> Claim {
    Claim { file, says, of, to: None, is, within: 0.25 }
}

impl Claim {
    const fn to(self, figure: Figure) -> Self {
        Self { to: Some(figure), ..self }
    }

    const fn within(self, within: f64) -> Self {
        Self { within, ..self }
    }
}

const fn cpu(server: &'static str, load: &'static str) -> Figure {
    Figure("CPU time of the server for a message, µs", server, load)
}

const fn busy(server: &'static str, column: &'static str) -> Figure {
    Figure("Under one load: 64 active", server, column)
}

const fn growth(server: &'static str, load: &'static str) -> Figure {
    Figure("What idle connections add", server, load)
}

const fn memory(server: &'static str) -> Figure {
    Figure("Memory for an idle connection", server, "1+900")
}

const fn pause(pause: &'static str, column: &'static str) -> Figure {
    Figure("What asking again and again costs, and what a pause does", pause, column)
}

const README: &str = "README.md";

const CLAIMS: &[Claim] = &[claim(
    README,
    "a message costs select and poll twenty times",
    cpu("poll-echo", "1+900"),
    20.0,
)
.to(cpu("epoll-echo", "1+900"))];

/// The tables of a page, by title, row and column.
struct Page(HashMap<(String, String, String), String>);

impl Page {
    fn read(text: &str) -> Self {
        let (mut title, mut heads) = ("", Vec::new());
        let mut cells = HashMap::new();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix('#') {
                (title, heads) = (heading.trim_start_matches('#').trim(), Vec::new());
            } else if let Some(row) = line.strip_prefix('|') {
                let row: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
                if heads.is_empty() {
                    heads = row;
                    continue;
                }
                // The pauses of one server have a row each.
                let name = if heads.get(1) == Some(&"pause") { row[1] } else { row[0] };
                for (head, cell) in heads.iter().zip(&row) {
                    let place = (title.to_owned(), name.to_owned(), (*head).to_owned());
                    cells.insert(place, (*cell).to_owned());
                }
            }
        }
        Self(cells)
    }

    /// In microseconds, bytes, messages a second; or without a unit.
    fn figure(&self, Figure(title, row, column): Figure) -> f64 {
        let place = (title.to_owned(), row.to_owned(), column.to_owned());
        let cell = self.0.get(&place).unwrap_or_else(|| panic!("no figure at {place:?}"));
        let mut words = cell.trim_start_matches('~').split(' ');
        let number = words.next().and_then(|word| word.parse::<f64>().ok());
        let number = number.unwrap_or_else(|| panic!("{cell:?} is no figure, at {place:?}"));
        number
            * match words.next() {
                Some("KiB") => 1024.0,
                Some("ms" | "k") => 1e3,
                Some("s") => 1e6,
                _ => 1.0,
            }
    }
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As it reads, wherever its lines are broken.
fn prose(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("//!").trim());
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_said_is_what_was_measured() {
    let page = Page::read(&repository("docs/benchmarks/README.md"));
    let mut wrong = Vec::new();
    for claim in CLAIMS {
        if !prose(&repository(claim.file)).contains(claim.says) {
            wrong.push(format!("{} does not say {:?}", claim.file, claim.says));
        }
        let figure = page.figure(claim.of) / claim.to.map_or(1.0, |to| page.figure(to));
        if (figure / claim.is - 1.0).abs() > claim.within {
            wrong.push(format!("{}: {:?}: it is {figure:.3}", claim.file, claim.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_sentence_on_cost_is_checked() {
    let readme = repository(README);
    let costs = readme.split("\n## ").find(|section| section.starts_with("The costs"));
    let costs = costs.expect("a section");
    let sentences: Vec<_> = costs.split("\n- ").skip(1).map(prose).collect();
    assert!(sentences.len() > 4, "{sentences:?}");
    for sentence in sentences {
        let claimed = CLAIMS.iter().any(|claim| sentence.contains(claim.says));
        assert!(claimed, "no claim is checked of {sentence:?}");
    }
}
