//! What the documentation says about cost is what `docs/benchmarks` shows.
//!
//! A claim is a few words with `{}` in place of a number. The test reads the number from the
//! text, in digits or in words, and compares it with a figure of the page.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use regex::{Captures, Regex};

/// The folders with measurements.
const ALL: &str = "docs/benchmarks";
const IO_URING: &str = "docs/benchmarks/io-uring";
const CORES: &str = "docs/benchmarks/cores";
/// The pages that show tables of [`CORES`].
const DESIGNS: [&str; 2] = ["docs/designs.md", "docs/designs.zh-CN.md"];
/// What stands in place of a table that has not been measured yet, in each page.
const NOT_MEASURED: [&str; 2] = ["Not measured yet.", "尚未测量。"];
/// With this variable, the test writes the tables to the pages.
const UPDATE: &str = "UPDATE_DOCS";

/// A figure of a page: the title of its table, its row and its column.
#[derive(Clone, Copy, Debug)]
struct Figure(&'static str, &'static str, &'static str);

#[derive(Clone, Copy, Debug)]
struct Claim {
    file: &'static str,
    /// `{}` stands for a number.
    says: &'static str,
    /// The folder of the measurement.
    page: &'static str,
    figure: Figure,
    /// The figure with which it is compared.
    relation: Option<Relation>,
    /// What the figure should be, given the number in the text.
    expected: Expected,
    /// By which part the figure may differ.
    tolerance: f64,
}

#[derive(Clone, Copy, Debug)]
enum Relation {
    Over(Figure),
    Minus(Figure),
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The number in the text, times this.
    Number(f64),
    /// So many percent more than 1.
    PercentMore,
    /// At most so many percent more than 1.
    AtMostPercentMore,
    /// 1 minus the number in the text.
    Saved,
    /// The text contains no number.
    Constant(f64),
    AtLeast(f64),
    AtMost(f64),
}

const fn claim(file: &'static str, says: &'static str, figure: Figure) -> Claim {
    let expected = Expected::Number(1.0);
    Claim { file, says, page: ALL, figure, relation: None, expected, tolerance: 0.25 }
}

impl Claim {
    /// The figures are those of another measurement.
    const fn of(self, page: &'static str) -> Self {
        Self { page, ..self }
    }

    const fn over(self, divisor: Figure) -> Self {
        Self { relation: Some(Relation::Over(divisor)), ..self }
    }

    const fn minus(self, subtrahend: Figure) -> Self {
        Self { relation: Some(Relation::Minus(subtrahend)), ..self }
    }

    const fn kib(self) -> Self {
        Self { expected: Expected::Number(1024.0), tolerance: 0.1, ..self }
    }

    /// The text says milliseconds, and the figure is in microseconds.
    const fn ms(self) -> Self {
        Self { expected: Expected::Number(1000.0), ..self }
    }

    const fn percent_more(self) -> Self {
        Self { expected: Expected::PercentMore, tolerance: 0.1, ..self }
    }

    const fn at_most_percent_more(self) -> Self {
        Self { expected: Expected::AtMostPercentMore, tolerance: 0.005, ..self }
    }

    const fn saved(self) -> Self {
        Self { expected: Expected::Saved, tolerance: 0.05, ..self }
    }

    const fn is(self, value: f64) -> Self {
        Self { expected: Expected::Constant(value), tolerance: 0.1, ..self }
    }

    /// The text says that the figure is large, without a number.
    const fn at_least(self, value: f64) -> Self {
        Self { expected: Expected::AtLeast(value), ..self }
    }

    /// The text says that the figure is small, without a number.
    const fn at_most(self, value: f64) -> Self {
        Self { expected: Expected::AtMost(value), ..self }
    }

    const fn within(self, tolerance: f64) -> Self {
        Self { tolerance, ..self }
    }

    /// Compares the claim with the page. Returns what is wrong.
    fn check(&self) -> Option<String> {
        let text = prose(&repository(self.file));
        let Some(captures) = pattern(self.says).captures(&text) else {
            return Some(format!("{} does not say {:?}", self.file, self.says));
        };
        let page = match measurement(self.page) {
            Some(page) => Page::read(&page),
            // The text must not contain a number that was not measured.
            None if captures.get(1).is_none() => return None,
            None => return Some(format!("{} has not been measured", self.page)),
        };
        let number = captures.get(1).map(|number| parse_number(number.as_str()));
        let number = number.unwrap_or_default();
        let figure = page.figure(self.figure);
        let figure = match self.relation {
            Some(Relation::Over(divisor)) => figure / page.figure(divisor),
            Some(Relation::Minus(subtrahend)) => figure - page.figure(subtrahend),
            None => figure,
        };
        let expected = match self.expected {
            Expected::Number(factor) => number * factor,
            Expected::PercentMore | Expected::AtMostPercentMore => 1.0 + number / 100.0,
            Expected::Saved => 1.0 - number,
            Expected::Constant(value) | Expected::AtLeast(value) | Expected::AtMost(value) => value,
        };
        let margin = expected * self.tolerance;
        let is_right = match self.expected {
            Expected::AtMostPercentMore => figure <= expected + margin,
            Expected::AtLeast(value) => figure >= value,
            Expected::AtMost(value) => figure <= value,
            _ => (figure - expected).abs() <= margin,
        };
        let says = &captures[0];
        (!is_right).then(|| format!("{}: {says:?}, but it is {figure:.3}", self.file))
    }
}

// Columns.
const RATIO: &str = "× epoll-echo";
const CALLS: &str = "calls/msg";
const CHAT_CPU: &str = "CPU µs/msg";
const TEN_MS_P50: &str = "10 ms: p50";
// Tables.
const CHAT_100: &str = "A chat of 100";
const CHAT_1000: &str = "A chat of 1000";

const fn cpu(server: &'static str, workload: &'static str) -> Figure {
    Figure("CPU time per message, µs", server, workload)
}

const fn busy(server: &'static str, column: &'static str) -> Figure {
    Figure("One workload: 64 active", server, column)
}

const fn growth(server: &'static str, workload: &'static str) -> Figure {
    Figure("What idle connections add", server, workload)
}

const fn memory(server: &'static str) -> Figure {
    Figure("Memory per idle connection", server, "1+900")
}

const fn memory_of_5000(server: &'static str) -> Figure {
    Figure("Memory per idle connection", server, "1+5000")
}

const fn pause(pause: &'static str, column: &'static str) -> Figure {
    Figure("What polling costs, and what a pause changes", pause, column)
}

const fn baseline(server: &'static str) -> Figure {
    Figure("Against the baseline", server, "64")
}

const fn chat(table: &'static str, server: &'static str, column: &'static str) -> Figure {
    Figure(table, server, column)
}

const fn computing(server: &'static str, column: &'static str) -> Figure {
    Figure("While another client computes, on one core", server, column)
}

const README: &str = "README.md";
const COSTS: &str = "docs/costs.md";
const SIGIO: &str = "sigio-echo/src/main.rs";
const REALTIME: &str = "sigio-echo/src/bin/sigio-echo-realtime.rs";
const AIO: &str = "aio-echo/src/main.rs";
const URING: &str = "uring-echo/src/main.rs";
const BUFFERS: &str = "uring-echo/src/bin/uring-echo-buffers.rs";
const PROACTOR: &str = "proactor-chat/src/main.rs";
const PROACTOR_URING: &str = "proactor-chat/src/bin/proactor-chat-uring.rs";

const EPOLL_900: Figure = cpu("epoll-echo", "1+900");
const EPOLL_5000: Figure = cpu("epoll-echo", "1+5000");
const TOKIO_100: Figure = chat(CHAT_100, "reference-tokio-chat", CHAT_CPU);
const TOKIO_1000: Figure = chat(CHAT_1000, "reference-tokio-chat", CHAT_CPU);

const CLAIMS: &[Claim] = &[
    claim(README, "select and poll use {} times as much CPU", cpu("select-echo", "1+900"))
        .over(EPOLL_900),
    claim(README, "select and poll use {} times as much CPU", cpu("poll-echo", "1+900"))
        .over(EPOLL_900),
    claim(README, "With one client it uses as much CPU as epoll", cpu("blocking-echo", "1"))
        .over(cpu("epoll-echo", "1"))
        .is(1.0),
    claim(README, "with 64 busy clients {} % more", busy("blocking-echo", RATIO)).percent_more(),
    claim(README, "Each client takes {} KiB", memory("blocking-echo")).kib(),
    claim(README, "(Yama). Each client takes {} KiB", memory("blocking-echo-fork")).kib(),
    claim(README, "all connections busy it costs the same as epoll", busy("poll-echo", RATIO))
        .is(1.0),
    claim(README, "{} times fewer system calls than epoll", busy("epoll-echo", CALLS))
        .over(busy("uring-echo", CALLS)),
    claim(README, "saves {} of the CPU", busy("uring-echo", RATIO)).saved(),
    claim(README, "no cheaper than `poll`", cpu("select-echo", "64"))
        .over(cpu("poll-echo", "64"))
        .is(1.0),
    claim(README, "at {} epoll's CPU", busy("aio-echo", RATIO)),
    claim(README, "{} system calls per message", busy("aio-echo", CALLS)),
    claim(README, "until the computation has ended", computing("reactor-chat-single", TEN_MS_P50))
        .of(CORES)
        .at_least(3_000.0),
    claim(README, "In the servers with workers it does not", computing("reactor-chat", TEN_MS_P50))
        .over(computing("reactor-chat-single", TEN_MS_P50))
        .of(CORES)
        .at_most(0.5),
    claim(
        README,
        "In the servers with workers it does not",
        computing("proactor-chat-simulated", TEN_MS_P50),
    )
    .over(computing("reactor-chat-single", TEN_MS_P50))
    .of(CORES)
    .at_most(0.5),
    claim(
        README,
        "In the servers with workers it does not",
        computing("proactor-chat-uring", TEN_MS_P50),
    )
    .over(computing("reactor-chat-single", TEN_MS_P50))
    .of(CORES)
    .at_most(0.5),
    // The list of costs.
    claim(COSTS, "select and poll take {} times as much CPU", cpu("select-echo", "1+900"))
        .over(EPOLL_900),
    claim(COSTS, "select and poll take {} times as much CPU", cpu("poll-echo", "1+900"))
        .over(EPOLL_900),
    claim(COSTS, "connections, poll takes {} times as much", cpu("poll-echo", "1+5000"))
        .over(EPOLL_5000),
    claim(COSTS, "epoll's cost does not grow", growth("epoll-echo", "1+5000")).is(1.0),
    claim(COSTS, "select, poll, and epoll cost the same", busy("select-echo", RATIO)).is(1.0),
    claim(COSTS, "select, poll, and epoll cost the same", busy("poll-echo", RATIO)).is(1.0),
    claim(COSTS, "{} times fewer system calls than epoll", busy("epoll-echo", CALLS))
        .over(busy("uring-echo", CALLS)),
    claim(COSTS, "saves {} of the CPU", busy("uring-echo", RATIO)).saved(),
    claim(COSTS, "`aio-echo` makes {} system calls per message", busy("aio-echo", CALLS)),
    claim(COSTS, "connections it takes {} epoll's CPU", busy("aio-echo", RATIO)),
    claim(COSTS, "900 idle connections it takes {} times as much", cpu("aio-echo", "1+900"))
        .over(EPOLL_900),
    claim(COSTS, "a thread per connection takes {} % more CPU", busy("blocking-echo", RATIO))
        .percent_more(),
    claim(COSTS, "Each idle connection takes {} KiB", memory("blocking-echo")).kib(),
    claim(COSTS, "With one client both cost the same", cpu("blocking-echo", "1"))
        .over(cpu("epoll-echo", "1"))
        .is(1.0),
    claim(COSTS, "one system call more than epoll", busy("sigio-echo-realtime", CALLS)).is(3.0),
    claim(COSTS, "takes no more CPU", busy("sigio-echo-realtime", RATIO)).is(1.0),
    claim(COSTS, "idle connections, it takes {} times epoll's CPU", cpu("sigio-echo", "1+900"))
        .over(EPOLL_900),
    claim(COSTS, "a pause of 1 ms takes {} % of a core", pause("1.00 ms", "CPU when idle")),
    claim(COSTS, "reply then comes {} a millisecond later", pause("1.00 ms", "p50"))
        .minus(pause("waits", "p50"))
        .ms(),
    claim(COSTS, "(median {} µs, against", pause("none", "p50")).within(0.01),
    claim(COSTS, "against {} µs for epoll", pause("waits", "p50")).within(0.01),
    claim(COSTS, "takes a whole core", pause("none", "CPU when idle")).is(100.0),
    claim(COSTS, "epoll takes no CPU while the clients are idle", pause("waits", "CPU when idle"))
        .is(0.0),
    claim(
        COSTS,
        "`reactor-chat` takes {} of the reference's CPU",
        chat(CHAT_100, "reactor-chat", CHAT_CPU),
    )
    .over(TOKIO_100),
    claim(
        COSTS,
        "chat of 1000, `proactor-chat-uring` takes {}.",
        chat(CHAT_1000, "proactor-chat-uring", CHAT_CPU),
    )
    .over(TOKIO_1000),
    claim(
        COSTS,
        "on POSIX AIO: it takes more than the reference",
        chat(CHAT_1000, "proactor-chat", CHAT_CPU),
    )
    .over(TOKIO_1000)
    .is(1.3),
    claim(COSTS, "cost at most {} % more", baseline("epoll-echo")).at_most_percent_more(),
    claim(COSTS, "cost at most {} % more", baseline("poll-echo")).at_most_percent_more(),
    claim(COSTS, "cost at most {} % more", baseline("select-echo")).at_most_percent_more(),
    claim(COSTS, "cost at most {} % more", baseline("blocking-echo")).at_most_percent_more(),
    // The headers.
    claim(SIGIO, "the same CPU as in epoll-echo", busy("sigio-echo", RATIO)).is(1.0),
    claim(SIGIO, "{} system calls instead of", busy("sigio-echo", CALLS)).within(0.05),
    claim(SIGIO, "instead of {}.", busy("epoll-echo", CALLS)).within(0.05),
    claim(SIGIO, "{} times the CPU", cpu("sigio-echo", "1+900")).over(EPOLL_900),
    claim(REALTIME, "{} system calls per message", busy("sigio-echo-realtime", CALLS)).within(0.05),
    claim(REALTIME, "(epoll-echo: {})", busy("epoll-echo", CALLS)).within(0.05),
    claim(REALTIME, "and the same CPU", busy("sigio-echo-realtime", RATIO)).is(1.0),
    claim(REALTIME, "Idle connections cost nothing", growth("sigio-echo-realtime", "1+5000"))
        .is(1.0),
    claim(AIO, "{} system calls per message", busy("aio-echo", CALLS)),
    claim(AIO, "(epoll-echo: {})", busy("epoll-echo", CALLS)).within(0.05),
    claim(AIO, "{} epoll-echo's CPU", busy("aio-echo", RATIO)),
    claim(AIO, "{} times", cpu("aio-echo", "1+900")).over(EPOLL_900),
    claim(AIO, "{} KiB", memory("aio-echo")).kib(),
    claim(URING, "{} of them per message", busy("uring-echo", CALLS)),
    claim(URING, "(epoll-echo: {})", busy("epoll-echo", CALLS)).within(0.05),
    claim(URING, "{} of epoll-echo's CPU", busy("uring-echo", RATIO)).within(0.05),
    claim(URING, "with one client there is no gain", cpu("uring-echo", "1"))
        .over(cpu("epoll-echo", "1"))
        .is(1.0),
    claim(BUFFERS, "{} of epoll-echo's CPU", busy("uring-echo-buffers", RATIO))
        .of(IO_URING)
        .within(0.02),
    claim(BUFFERS, "as much as uring-echo", cpu("uring-echo-buffers", "64"))
        .over(cpu("uring-echo", "64"))
        .of(IO_URING)
        .is(1.0),
    claim(BUFFERS, "{} bytes per idle connection", memory_of_5000("uring-echo-buffers"))
        .of(IO_URING)
        .within(0.05),
    claim(BUFFERS, "It costs as much CPU here", cpu("reference-uring-multishot", "64"))
        .over(cpu("uring-echo-buffers", "64"))
        .of(IO_URING)
        .is(1.0),
    claim(PROACTOR, "{} times the CPU", chat(CHAT_1000, "proactor-chat", CHAT_CPU))
        .over(TOKIO_1000),
    claim(PROACTOR_URING, "{} of the system calls", chat(CHAT_100, "proactor-chat-uring", CALLS))
        .over(chat(CHAT_100, "proactor-chat-simulated", CALLS)),
    claim(
        "nonblocking-echo/src/main.rs",
        "a message can wait for up to one pause",
        pause("10.0 ms", "p99"),
    )
    .is(10_000.0),
];

/// The words of a number.
const WORDS: &[(&str, f64)] = &[
    ("twice", 2.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
    ("ten", 10.0),
    ("eleven", 11.0),
    ("twelve", 12.0),
    ("fifteen", 15.0),
    ("sixteen", 16.0),
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("forty", 40.0),
    ("fifty", 50.0),
    ("sixty", 60.0),
    ("half", 0.5),
    ("third", 1.0 / 3.0),
    ("quarter", 0.25),
    ("eighth", 0.125),
    ("tenth", 0.1),
];

/// Parses digits, or words such as "a hundred and sixty", "thirty-five" and "a tenth".
fn parse_number(text: &str) -> f64 {
    if let Ok(number) = text.parse() {
        return number;
    }
    let mut sum = 0.0;
    for word in text.split([' ', '-']) {
        if word == "hundred" {
            sum = f64::max(sum, 1.0) * 100.0;
        } else if let Some((_, value)) = WORDS.iter().find(|(name, _)| *name == word) {
            sum += value;
        }
    }
    sum
}

/// A regular expression for a number.
fn number_pattern() -> String {
    let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
    let words = words.join("|");
    format!(r"\d+(?:\.\d+)?|\b(?:(?:an?|and|hundred|{words})[ -])*(?:hundred|{words})\b")
}

/// A regular expression for the words of a claim.
fn pattern(says: &str) -> Regex {
    let escaped = regex::escape(says).replace(r"\{\}", &format!("({})", number_pattern()));
    Regex::new(&escaped).expect("the pattern is valid")
}

/// The tables of the page: cells by title, row and column.
struct Page(HashMap<(String, String, String), String>);

impl Page {
    fn read(text: &str) -> Self {
        let mut title = "";
        let mut head: Vec<&str> = Vec::new();
        let mut cells = HashMap::new();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix('#') {
                title = heading.trim_start_matches('#').trim();
                head.clear();
            } else if let Some(row) = line.strip_prefix('|') {
                let row: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
                if head.is_empty() {
                    head = row;
                    continue;
                }
                // In these tables, one server has several rows.
                let name = match head.get(1) {
                    Some(&"pause") => row[1].to_owned(),
                    Some(&"loops") => format!("{}, {}", row[0], row[1]),
                    _ => row[0].to_owned(),
                };
                for (column, cell) in head.iter().zip(&row) {
                    let place = (title.to_owned(), name.clone(), (*column).to_owned());
                    cells.insert(place, (*cell).to_owned());
                }
            }
        }
        Self(cells)
    }

    /// Returns a figure in microseconds, bytes or messages per second, or without a unit.
    fn figure(&self, Figure(title, row, column): Figure) -> f64 {
        let place = (title.to_owned(), row.to_owned(), column.to_owned());
        let cell = self.0.get(&place).unwrap_or_else(|| panic!("no figure at {place:?}"));
        let mut words = cell.trim_start_matches('~').split(' ');
        let number = words.next().and_then(|word| word.parse::<f64>().ok());
        let number = number.unwrap_or_else(|| panic!("{cell:?} at {place:?} is not a figure"));
        let unit = match words.next() {
            Some("KiB") => 1024.0,
            Some("ms" | "k") => 1e3,
            Some("s") => 1e6,
            _ => 1.0,
        };
        number * unit
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn repository(path: &str) -> String {
    let path = in_repository(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page of a measurement, or `None` if it has not been taken yet.
fn measurement(folder: &str) -> Option<String> {
    let page = format!("{folder}/README.md");
    in_repository(&page).exists().then(|| repository(&page))
}

/// The table with this title in a page, as it stands there.
fn table(page: &str, title: &str) -> String {
    let lines = page.lines().skip_while(|line| line.trim_start_matches('#').trim() != title);
    let lines = lines.skip_while(|line| !line.starts_with('|'));
    let table: Vec<&str> = lines.take_while(|line| line.starts_with('|')).collect();
    assert!(!table.is_empty(), "there is no table {title:?}");
    table.join("\n")
}

/// Joins the lines of a text, without the marks of doc comments.
fn prose(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("//!").trim());
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_said_is_what_was_measured() {
    let wrong: Vec<String> = CLAIMS.iter().filter_map(Claim::check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tables_of_the_designs_are_those_of_the_measurement() {
    let place = Regex::new(r"(?s)(<!-- measured: ([^\n]*) -->\n).*?(<!-- end -->)");
    let place = place.expect("the pattern is valid");
    let page = measurement(CORES);
    for (file, not_measured) in DESIGNS.into_iter().zip(NOT_MEASURED) {
        let text = repository(file);
        assert!(place.captures_iter(&text).count() > 3, "{file} has places for tables");
        let current = place.replace_all(&text, |captures: &Captures| {
            let table = match (page.as_deref(), &captures[2]) {
                (None, _) => not_measured.to_owned(),
                (Some(_), "the page") => {
                    "[benchmarks/cores](benchmarks/cores/README.md)".to_owned()
                }
                (Some(page), title) => table(page, title),
            };
            format!("{}\n{table}\n\n{}", &captures[1], &captures[3])
        });
        if env::var_os(UPDATE).is_some() {
            fs::write(in_repository(file), &*current).expect("it can be written");
        } else {
            let rewrite = format!("{UPDATE}=1 cargo test -p bench --test claims rewrites it");
            assert!(text == current, "{file} differs from {CORES}; {rewrite}");
        }
    }
}

#[test]
fn every_sentence_with_a_number_is_checked() {
    let number = Regex::new(&number_pattern()).expect("the pattern is valid");
    let places = Regex::new(r"\[[^\]]*\]").expect("the pattern is valid");
    let text = repository(COSTS);
    let entries: Vec<&str> = text.split("\n- ").skip(1).collect();
    assert!(entries.len() > 4, "{entries:?}");
    for entry in entries {
        let entry = prose(entry.split("\n\n").next().unwrap_or(entry));
        let entry = places.replace_all(&entry, "");
        let sentences = entry.split_inclusive(". ").filter(|sentence| number.is_match(sentence));
        for sentence in sentences {
            let mut claims = CLAIMS.iter().filter(|claim| claim.file == COSTS);
            let is_checked = claims.any(|claim| pattern(claim.says).is_match(sentence));
            assert!(is_checked, "no claim in bench/tests/claims.rs checks {sentence:?}");
        }
    }
}

#[test]
fn numbers_are_read_in_digits_and_in_words() {
    for (text, expected) in [
        ("3.0", 3.0),
        ("160", 160.0),
        ("twelve", 12.0),
        ("thirty-five", 35.0),
        ("a hundred and sixty", 160.0),
        ("two hundred", 200.0),
        ("a tenth", 0.1),
        ("an eighth", 0.125),
        ("half", 0.5),
        ("twice", 2.0),
    ] {
        let sentence = format!("it costs {text} of what it did");
        let captures = pattern("costs {} of").captures(&sentence);
        let captures = captures.unwrap_or_else(|| panic!("{text:?} is not a number"));
        assert!((parse_number(&captures[1]) - expected).abs() < 1e-9, "{text:?}");
    }
}
