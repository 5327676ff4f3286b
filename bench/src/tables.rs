//! The figures as tables, in the terminal and on the page.

use comfy_table::{CellAlignment, Table, presets};

use crate::points::{LARGE, Point, SMALL};
use crate::sample::Figures;
use crate::subjects::{REFERENCE, Subject};
use crate::summary::{Cell, Measured, Spread, Summary};

/// Where the tables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Terminal,
    Page,
}

/// A column of a table with one row for each server.
struct Column {
    head: &'static str,
    show: fn(&Measured) -> Option<String>,
}

fn figure(
    measured: &Measured,
    figure: fn(&Figures) -> Option<f64>,
    show: fn(f64) -> String,
) -> Option<String> {
    measured.median(figure).map(show)
}

/// Three digits are what a second of measuring is good for.
pub fn short(value: f64) -> String {
    match value {
        value if value >= 99_950.0 => format!("{:.0} k", value / 1e3),
        value if value >= 9_995.0 => format!("{:.1} k", value / 1e3),
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// From microseconds.
pub fn time(microseconds: f64) -> String {
    match microseconds {
        value if value >= 1e6 => format!("{} s", short(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", short(value / 1e3)),
        value => format!("{} µs", short(value)),
    }
}

pub fn bytes(value: f64) -> String {
    if value < 1000.0 { format!("{value:.0} B") } else { format!("{} KiB", short(value / 1024.0)) }
}

fn percent(value: f64) -> String {
    format!("{} %", short(value * 100.0))
}

fn spread(ratio: Spread) -> String {
    let Spread { median, lower, upper } = ratio;
    if median >= 9.995 {
        short(median)
    } else if upper - lower < 0.005 {
        format!("{median:.2}")
    } else {
        format!("{median:.2} ({lower:.2}–{upper:.2})")
    }
}

const CPU: Column = Column {
    head: "CPU µs/msg",
    show: |measured| figure(measured, |figures| figures.cpu_us, short),
};
const RATIO: Column = Column { head: "× epoll-echo", show: |measured| measured.ratio.map(spread) };
const USER: Column = Column {
    head: "user",
    show: |measured| figure(measured, |figures| figures.user_share, percent),
};
const CALLS: Column = Column { head: "calls/msg", show: |measured| measured.calls.map(short) };
const RATE: Column =
    Column { head: "msg/s", show: |measured| figure(measured, Figures::rate, short) };
const P50: Column =
    Column { head: "p50", show: |measured| figure(measured, |figures| figures.p50_us, time) };
const P99: Column =
    Column { head: "p99", show: |measured| figure(measured, |figures| figures.p99_us, time) };
const P999: Column =
    Column { head: "p99.9", show: |measured| figure(measured, |figures| figures.p999_us, time) };
const THREADS: Column = Column {
    head: "threads",
    show: |measured| {
        figure(
            measured,
            |figures| figures.threads.map(|count| count as f64),
            |count| format!("{count:.0}"),
        )
    },
};
const RAN: Column = Column {
    head: "server ran",
    show: |measured| figure(measured, |figures| figures.server_ran, percent),
};
const LOAD_RAN: Column = Column {
    head: "load ran",
    show: |measured| figure(measured, |figures| figures.load_ran, percent),
};
const IDLE_CPU: Column = Column {
    head: "CPU when idle",
    show: |measured| figure(measured, |figures| figures.idle_cpu, percent),
};
const MEMORY: Column = Column {
    head: "memory/idle",
    show: |measured| figure(measured, |figures| figures.idle_memory, bytes),
};

/// A title, what there is to know before reading it, and the table.
pub type Titled = (String, &'static str, Table);

/// What a reader looks at first.
pub fn overview(
    summary: &Summary,
    points: &[Point],
    subjects: &[&Subject],
    medium: Medium,
) -> Vec<Titled> {
    let mut tables = Vec::new();
    let echo: Vec<Point> =
        points.iter().copied().filter(|point| matches!(point, Point::Echo { .. })).collect();
    if !echo.is_empty() {
        tables.push((
            "CPU time of the server for a message, µs".to_owned(),
            "By connections: `64`: 64 busy ones; `1+900`: one busy beside 900 idle; `16K`: 8 busy \
             ones with messages of 16 KiB, else 64 bytes.",
            matrix(&echo, subjects, medium, |point, subject| show(summary, point, subject, &CPU)),
        ));
    }
    tables.extend(growth(summary, &echo, subjects, medium));
    tables.extend(floors(summary, &echo, subjects, medium));
    let chosen = Point::Echo { active: 64, idle: 0, size: SMALL };
    if let Some(&point) = echo.iter().find(|&&point| point == chosen).or(echo.first()) {
        tables.push((
            format!("Under one load: {point}"),
            "",
            rows(summary, point, subjects, medium, &[RATIO, CALLS, RATE, P50, P99, P999, THREADS]),
        ));
    }
    let idle: Vec<Point> = echo
        .iter()
        .copied()
        .filter(|point| matches!(point, Point::Echo { active: 1, idle: 100.., .. }))
        .collect();
    if !idle.is_empty() {
        tables.push((
            "Memory for an idle connection".to_owned(),
            "Of the processes; what the kernel keeps for sockets, threads and processes comes on \
             top.",
            matrix(&idle, subjects, medium, |point, subject| {
                show(summary, point, subject, &MEMORY)
            }),
        ));
    }
    let pauses: Vec<Point> =
        points.iter().copied().filter(|point| matches!(point, Point::Pause { .. })).collect();
    if !pauses.is_empty() {
        let mut table = new(medium, ["server", "pause"], &[P50, P99, IDLE_CPU]);
        for &point in &pauses {
            for subject in subjects.iter().filter(|subject| point.concerns(subject)) {
                let pause = match point {
                    Point::Pause { pause: Some(0) } => "none".to_owned(),
                    Point::Pause { pause: Some(pause) } => time(pause as f64),
                    _ => "waits".to_owned(),
                };
                let head = [subject.name.to_owned(), pause];
                add(&mut table, head, summary.cell(point, subject), &[P50, P99, IDLE_CPU]);
            }
        }
        tables.push((
            "What asking again and again costs, and what a pause does".to_owned(),
            "100 connections, of which one says something now and then.",
            table,
        ));
    }
    for &point in points.iter().filter(|point| matches!(point, Point::Chat { .. })) {
        let columns = [CPU, CALLS, RATE, P50, P99, THREADS];
        tables.push((
            format!("A {point}"),
            "A message is a line for one client; the latency is that of the last client to get it.",
            rows(summary, point, subjects, medium, &columns),
        ));
    }
    tables
}

/// Everything that was measured of the echo servers, load by load.
pub fn details(summary: &Summary, points: &[Point], subjects: &[&Subject]) -> Vec<Titled> {
    const ALL: [Column; 12] =
        [RATE, CPU, RATIO, USER, CALLS, P50, P99, P999, THREADS, RAN, LOAD_RAN, MEMORY];
    let echo = points.iter().filter(|point| matches!(point, Point::Echo { .. }));
    echo.map(|&point| {
        let no_idle = matches!(point, Point::Echo { idle: 0, .. });
        let columns = if no_idle { &ALL[..ALL.len() - 1] } else { &ALL };
        (point.to_string(), "", rows(summary, point, subjects, Medium::Page, columns))
    })
    .collect()
}

/// What idle connections add, for the servers that can hold them.
fn growth(
    summary: &Summary,
    echo: &[Point],
    subjects: &[&Subject],
    medium: Medium,
) -> Option<Titled> {
    let alone = |point| match point {
        Point::Echo { active, idle: 1.., size } => Some(Point::Echo { active, idle: 0, size }),
        _ => None,
    };
    let against = |point: Point, subject: &Subject| {
        summary.against(point, subject.name, (alone(point)?, subject.name))
    };
    let missing = |point, subject: &Subject| missing(summary.cell(point, subject));
    let is_there = |point: &Point| alone(*point).is_some_and(|alone| echo.contains(&alone));
    let beside: Vec<Point> = echo.iter().copied().filter(is_there).collect();
    let holds = |subject: &&&Subject| {
        beside.iter().any(|&point| matches!(summary.cell(point, subject), Some(Cell::Measured(_))))
    };
    let subjects: Vec<&Subject> = subjects.iter().filter(holds).copied().collect();
    (!subjects.is_empty()).then(|| {
        (
            "What idle connections add".to_owned(),
            "CPU time for a message, × the same server's beside no idle ones in the same round.",
            matrix(&beside, &subjects, medium, |point, subject| {
                against(point, subject).map_or_else(|| missing(point, subject), spread)
            }),
        )
    })
}

/// What our servers add to the system calls that their model takes.
fn floors(
    summary: &Summary,
    echo: &[Point],
    subjects: &[&Subject],
    medium: Medium,
) -> Option<Titled> {
    let missing = |point, subject: &Subject| missing(summary.cell(point, subject));
    let has_floor = |subject: &&&Subject| {
        subject.floor.is_some_and(|floor| subjects.iter().any(|subject| subject.name == floor))
    };
    let ours: Vec<&Subject> = subjects.iter().filter(has_floor).copied().collect();
    (!ours.is_empty()).then(|| {
        (
            "Against the floor".to_owned(),
            "CPU time for a message, × that of the barest loop of the same system calls in the \
             same round.",
            matrix(echo, &ours, medium, |point, subject| {
                let ratio = subject
                    .floor
                    .and_then(|floor| summary.against(point, subject.name, (point, floor)));
                ratio.map_or_else(|| missing(point, subject), spread)
            }),
        )
    })
}

/// A row for each server, a column for each load.
fn matrix(
    points: &[Point],
    subjects: &[&Subject],
    medium: Medium,
    cell: impl Fn(Point, &Subject) -> String,
) -> Table {
    let mut table = new(medium, ["server"], &[]);
    let heads = points.iter().map(|&point| match point {
        Point::Echo { size: LARGE, .. } => "16K".to_owned(),
        Point::Echo { active, idle: 0, .. } => active.to_string(),
        Point::Echo { active, idle, .. } => format!("{active}+{idle}"),
        _ => point.to_string(),
    });
    table.set_header(std::iter::once("server".to_owned()).chain(heads));
    for subject in subjects.iter().filter(|subject| points.iter().any(|p| p.concerns(subject))) {
        let cells = points.iter().map(|&point| cell(point, subject));
        table.add_row(std::iter::once(subject.name.to_owned()).chain(cells));
    }
    align(&mut table, 1);
    table
}

/// One figure of a server under one load.
fn show(summary: &Summary, point: Point, subject: &Subject, column: &Column) -> String {
    match summary.cell(point, subject) {
        Some(Cell::Measured(measured)) => {
            // Who else had the cores does not change what memory was taken.
            let disturbed = measured.disturbed && column.head != MEMORY.head;
            let mark = if disturbed { "~" } else { "" };
            (column.show)(&measured).map_or("–".to_owned(), |text| format!("{mark}{text}"))
        }
        other => instead(other),
    }
}

/// One load: a row for each server, a column for each figure.
fn rows(
    summary: &Summary,
    point: Point,
    subjects: &[&Subject],
    medium: Medium,
    columns: &[Column],
) -> Table {
    let mut table = new(medium, ["server"], columns);
    for subject in subjects.iter().filter(|subject| point.concerns(subject)) {
        add(&mut table, [subject.name.to_owned()], summary.cell(point, subject), columns);
    }
    table
}

fn new<const N: usize>(medium: Medium, heads: [&str; N], columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_preset(match medium {
        Medium::Terminal => presets::UTF8_FULL_CONDENSED,
        Medium::Page => presets::ASCII_MARKDOWN,
    });
    table.set_header(heads.into_iter().chain(columns.iter().map(|column| column.head)));
    align(&mut table, N);
    table
}

/// Numbers to the right.
fn align(table: &mut Table, heads: usize) {
    for column in table.column_iter_mut().skip(heads) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn add<const N: usize>(
    table: &mut Table,
    head: [String; N],
    cell: Option<Cell>,
    columns: &[Column],
) {
    let texts: Vec<_> = match cell {
        Some(Cell::Measured(measured)) => columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let mark = if measured.disturbed && index == 0 { "~" } else { "" };
                (column.show)(&measured).map_or("–".to_owned(), |text| format!("{mark}{text}"))
            })
            .collect(),
        other => vec![instead(other)],
    };
    table.add_row(head.into_iter().chain(texts));
}

/// In place of a ratio for which there is no round.
fn missing(cell: Option<Cell>) -> String {
    if let Some(Cell::Measured(_)) = cell { "–".to_owned() } else { instead(cell) }
}

fn instead(cell: Option<Cell>) -> String {
    match cell {
        Some(Cell::Failed) => "FAILED".to_owned(),
        Some(Cell::Skipped(note)) if note.starts_with("holds ") => note,
        Some(Cell::Skipped(_)) => "skipped".to_owned(),
        _ => String::new(),
    }
}

/// What the marks in the tables mean.
pub fn legend(summary: &Summary) -> String {
    let (disturbed, all) = summary.disturbed();
    format!(
        "CPU time is that of all threads and processes of the server. × {REFERENCE}: the median of \
         the rounds, and between what their middle half lies. `~`: in every sample something else \
         had the cores for too long (in {disturbed} of all {all} samples). `holds N`: the server \
         takes no more connections. `–`: not measured."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_three_digits() {
        assert_eq!(short(0.034), "0.03");
        assert_eq!(short(2.345), "2.35");
        assert_eq!(short(99.96), "100");
        assert_eq!(short(1234.0), "1234");
        assert_eq!(short(123_456.0), "123 k");
        assert_eq!(time(1500.0), "1.50 ms");
        assert_eq!(bytes(4096.0), "4.00 KiB");
    }
}
