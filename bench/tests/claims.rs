//! Whoever speaks of cost, in the README or a header, says what `docs/benchmarks` shows.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// A figure of the page: the title of its table, its row and its column.
#[derive(Clone, Copy, Debug)]
struct Figure(&'static str, &'static str, &'static str);

const KIB: f64 = 1024.0;

/// Columns.
const RATIO: &str = "× epoll-echo";
const CALLS: &str = "calls/msg";

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

const fn floor(server: &'static str) -> Figure {
    Figure("Against the floor", server, "64")
}

const fn chat(clients: &'static str, server: &'static str, column: &'static str) -> Figure {
    Figure(clients, server, column)
}

const CHAT_100: &str = "A chat of 100";
const CHAT_1000: &str = "A chat of 1000";
const CHAT_CPU: &str = "CPU µs/msg";

const README: &str = "README.md";
const COSTS: &str = "docs/costs.md";
const SIGIO: &str = "sigio-echo/src/main.rs";
const REALTIME: &str = "sigio-echo/src/bin/sigio-echo-realtime.rs";
const AIO: &str = "aio-echo/src/main.rs";
const URING: &str = "uring-echo/src/main.rs";

const CLAIMS: &[Claim] = &[
    // Which model?
    claim(README, "costs select and poll twenty times as much", cpu("select-echo", "1+900"), 20.0)
        .to(cpu("epoll-echo", "1+900")),
    claim(README, "With one client it uses as much CPU as epoll", cpu("blocking-echo", "1"), 1.0)
        .to(cpu("epoll-echo", "1"))
        .within(0.1),
    claim(README, "with 64 busy clients 50 % more", busy("blocking-echo", RATIO), 1.5),
    claim(README, "Each client takes 26 KiB", memory("blocking-echo"), 26.0 * KIB).within(0.05),
    claim(README, "Each client takes 44 KiB", memory("blocking-echo-fork"), 44.0 * KIB)
        .within(0.05),
    claim(README, "all connections busy it costs the same as", busy("poll-echo", RATIO), 1.0)
        .within(0.1),
    claim(README, "forty times fewer", busy("epoll-echo", CALLS), 40.0)
        .to(busy("uring-echo", CALLS)),
    claim(README, "On loopback that saves a tenth of", busy("uring-echo", RATIO), 0.9).within(0.05),
    claim(README, "no cheaper than `poll`", cpu("select-echo", "64"), 1.0)
        .to(cpu("poll-echo", "64"))
        .within(0.1),
    claim(README, "twice epoll's CPU", busy("aio-echo", RATIO), 2.0),
    claim(README, "twelve system calls per message", busy("aio-echo", CALLS), 12.0),
    // docs/costs.md
    claim(COSTS, "costs select and poll twenty times as much", cpu("poll-echo", "1+900"), 20.0)
        .to(cpu("epoll-echo", "1+900")),
    claim(COSTS, "a hundred and sixty times", cpu("poll-echo", "1+5000"), 160.0)
        .to(cpu("epoll-echo", "1+5000")),
    claim(COSTS, "epoll's cost does not grow", growth("epoll-echo", "1+5000"), 1.0).within(0.1),
    claim(COSTS, "select, poll, and epoll cost the same", busy("select-echo", RATIO), 1.0)
        .within(0.1),
    claim(COSTS, "forty times fewer", busy("epoll-echo", CALLS), 40.0)
        .to(busy("uring-echo", CALLS)),
    claim(COSTS, "saves a tenth of the CPU", busy("uring-echo", RATIO), 0.9).within(0.05),
    claim(COSTS, "twelve system calls per message", busy("aio-echo", CALLS), 12.0),
    claim(COSTS, "takes twice epoll's CPU with 64", busy("aio-echo", RATIO), 2.0),
    claim(COSTS, "twenty times with 900 idle", cpu("aio-echo", "1+900"), 20.0)
        .to(cpu("epoll-echo", "1+900")),
    claim(COSTS, "takes 50 % more CPU than epoll", busy("blocking-echo", RATIO), 1.5),
    claim(COSTS, "Each idle connection takes 26 KiB", memory("blocking-echo"), 26.0 * KIB)
        .within(0.05),
    claim(COSTS, "With one client both cost the same", cpu("blocking-echo", "1"), 1.0)
        .to(cpu("epoll-echo", "1"))
        .within(0.1),
    claim(COSTS, "one system call more than epoll", busy("sigio-echo-realtime", CALLS), 3.0)
        .within(0.1),
    claim(COSTS, "and no more CPU", busy("sigio-echo-realtime", RATIO), 1.0).within(0.1),
    claim(COSTS, "thirty-five times epoll's", cpu("sigio-echo", "1+900"), 35.0)
        .to(cpu("epoll-echo", "1+900")),
    claim(COSTS, "takes 3 % of a core", pause("1.00 ms", "CPU when idle"), 3.0),
    claim(COSTS, "half a millisecond late", pause("1.00 ms", "p50"), 560.0),
    claim(COSTS, "replies earliest (median 38.6 µs", pause("none", "p50"), 38.6).within(0.001),
    claim(COSTS, "against 63.4 µs for epoll", pause("waits", "p50"), 63.4).within(0.001),
    claim(COSTS, "but takes a whole core", pause("none", "CPU when idle"), 100.0).within(0.05),
    claim(COSTS, "Waiting costs nothing", pause("waits", "CPU when idle"), 0.0),
    claim(COSTS, "cost a quarter of one", chat(CHAT_100, "reactor-chat", CHAT_CPU), 0.25).to(chat(
        CHAT_100,
        "reference-tokio-chat",
        CHAT_CPU,
    )),
    claim(COSTS, "down to an eighth", chat(CHAT_1000, "proactor-chat-uring", CHAT_CPU), 0.125)
        .to(chat(CHAT_1000, "reference-tokio-chat", CHAT_CPU)),
    claim(COSTS, "which costs more", chat(CHAT_1000, "proactor-chat", CHAT_CPU), 1.3).to(chat(
        CHAT_1000,
        "reference-tokio-chat",
        CHAT_CPU,
    )),
    claim(COSTS, "at most 3 % more", floor("epoll-echo"), 1.0).within(0.035),
    claim(COSTS, "at most 3 % more", floor("poll-echo"), 1.0).within(0.035),
    claim(COSTS, "at most 3 % more", floor("select-echo"), 1.0).within(0.035),
    claim(COSTS, "at most 3 % more", floor("blocking-echo"), 1.0).within(0.035),
    // The headers
    claim(SIGIO, "costs the same CPU as in epoll-echo", busy("sigio-echo", RATIO), 1.0).within(0.1),
    claim(SIGIO, "3.0 system calls instead of 2.0", busy("sigio-echo", CALLS), 3.0).within(0.05),
    claim(SIGIO, "3.0 system calls instead of 2.0", busy("epoll-echo", CALLS), 2.0).within(0.05),
    claim(SIGIO, "costs thirty-five times the CPU", cpu("sigio-echo", "1+900"), 35.0)
        .to(cpu("epoll-echo", "1+900")),
    claim(
        REALTIME,
        "connections 3.0 system calls per message",
        busy("sigio-echo-realtime", CALLS),
        3.0,
    )
    .within(0.05),
    claim(REALTIME, "and the same CPU", busy("sigio-echo-realtime", RATIO), 1.0).within(0.1),
    claim(REALTIME, "Idle connections cost nothing", growth("sigio-echo-realtime", "1+5000"), 1.0)
        .within(0.1),
    claim(AIO, "12 system calls a message", busy("aio-echo", CALLS), 12.0),
    claim(AIO, "twice epoll-echo's CPU", busy("aio-echo", RATIO), 2.0),
    claim(AIO, "it is twenty times", cpu("aio-echo", "1+900"), 20.0).to(cpu("epoll-echo", "1+900")),
    claim(AIO, "16 KiB even when idle", memory("aio-echo"), 16.0 * KIB).within(0.1),
    claim(URING, "0.05 of them per message", busy("uring-echo", CALLS), 0.05),
    claim(URING, "0.9 of epoll-echo's CPU", busy("uring-echo", RATIO), 0.9).within(0.05),
    claim(URING, "with one client there is no gain", cpu("uring-echo", "1"), 1.0)
        .to(cpu("epoll-echo", "1"))
        .within(0.1),
    claim(
        "proactor-chat/src/main.rs",
        "takes 1.3 times the CPU",
        chat(CHAT_1000, "proactor-chat", CHAT_CPU),
        1.3,
    )
    .to(chat(CHAT_1000, "reference-tokio-chat", CHAT_CPU)),
    claim(
        "proactor-chat/src/bin/proactor-chat-uring.rs",
        "a tenth of the calls",
        chat(CHAT_100, "proactor-chat-uring", CALLS),
        0.1,
    )
    .to(chat(CHAT_100, "proactor-chat-simulated", CALLS)),
    claim(
        "nonblocking-echo/src/main.rs",
        "each message may come late by as much",
        pause("10.0 ms", "p99"),
        10_000.0,
    ),
];

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
        let mut words = cell.split(' ');
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
        if (figure - claim.is).abs() > claim.is * claim.within {
            wrong.push(format!("{}: {:?}: it is {figure:.3}", claim.file, claim.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_sentence_on_cost_is_checked() {
    let costs = repository(COSTS);
    let sentences: Vec<_> = costs.split("\n- ").skip(1).map(prose).collect();
    assert!(sentences.len() > 4, "{sentences:?}");
    for sentence in sentences {
        let claimed = CLAIMS.iter().any(|claim| sentence.contains(claim.says));
        assert!(claimed, "no claim is checked of {sentence:?}");
    }
}
