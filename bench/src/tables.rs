//! The figures as tables, for the terminal and for the page.

use crate::grid::{Grid, Medium};
use crate::sample::Figures;
use crate::subjects::{REFERENCE, Subject};
use crate::summary::{Cell, Measured, Spread, Summary};
use crate::workloads::{LARGE, SMALL, Workload};

/// A column of a table that has a row for each server.
struct Column {
    head: &'static str,
    show: fn(&Measured, Medium) -> Option<String>,
}

/// A table with its title and a note for its readers.
pub struct Titled {
    pub title: String,
    pub note: String,
    pub grid: Grid,
}

const SHORT_CONNECTIONS: &str = "\
Each client connects, sends 64 bytes, and closes the connection when they have come back. The server has one core. A
server that can have several workers (threads or processes) has four.

- `ratio`: connections per second, divided by those of epoll-echo in the same round. Where `server ran` is clearly less
  than 100 %, the clients were the limit. Then only the CPU time per connection compares the servers.
- `CPU µs/conn`: for a server with a thread or process per connection, this is the time in which the server's core was not
  idle. The clocks of processes that have ended cannot be read.
- `busiest`: the share of the connections that the busiest worker served. Its calls of `close` are counted. With four
  workers, 25 % is a fair share. With one worker, it is 100 %.
- `in vain/conn`: how often a thread woke up and found no connection to accept, per connection. Either it went back to
  sleep within the same system call, or its wait returned and `accept` failed with EAGAIN. It is counted in a recording by
  `perf`, which is taken after the rest of the sample.
- `p99`: the time from the call of `connect` until the 64 bytes have come back.";

const SEVERAL_LOOPS: &str = "\
64 connections per core of the server, all of them active, with messages of 64 bytes. `busiest`: the share of the CPU time
that the busiest thread used. With four loops on one core, this shows how evenly the connections are distributed, and what
the loops cost. It does not show how a server scales.";

const SCALING_NOT_MEASURED: &str = "\
**Scaling was not measured on this machine.** With several cores for the server, the clients need as many, and this machine
has too few. The table shows only what one core can show: the distribution of the connections, and the cost per message.";

const COMPUTATIONS: &str = "\
One client always has two `/factor` commands in flight. A second client sends a line every 4 ms on average, and a third
client receives it. The head of a column names the time that one computation takes (`none`: there are no computations). The
figures are the time from sending a line until it is received. `/s`: computations of 10 ms per second. When the benchmark
starts, it measures how large a number must be to take 1 ms or 10 ms. reactor-chat-multi has four loops, so each of the
three clients is in a loop of its own. A client in the loop that computes would wait as in reactor-chat-single.";

const SHARED_CORE: &str =
    "\
If the machine has two cores, the clients share one of them with the server. So the time that other processes used is not
known, and these figures are never marked `~`.";

/// What the tables are made from.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    pub summary: &'a Summary,
    pub workloads: &'a [Workload],
    pub subjects: &'a [&'a Subject],
    pub medium: Medium,
}

fn median(
    measured: &Measured,
    figure: fn(&Figures) -> Option<f64>,
    format: fn(f64) -> String,
) -> Option<String> {
    measured.median(figure).map(format)
}

/// Formats a number with three digits. A measurement of a second is not more precise.
pub fn short(value: f64) -> String {
    match value {
        value if value >= 99_950.0 => format!("{:.0} k", value / 1e3),
        value if value >= 9_995.0 => format!("{:.1} k", value / 1e3),
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Formats a time in microseconds.
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

/// Formats a median, on the page with its quartiles.
fn spread(ratio: Spread, medium: Medium) -> String {
    let Spread { median, lower, upper } = ratio;
    if median >= 9.995 {
        short(median)
    } else if upper - lower < 0.005 || medium == Medium::Terminal {
        format!("{median:.2}")
    } else {
        format!("{median:.2} ({lower:.2}–{upper:.2})")
    }
}

const CPU: Column = Column {
    head: "CPU µs/msg",
    show: |measured, _| median(measured, |figures| figures.cpu_us, short),
};
const RATIO: Column = Column {
    head: "× epoll-echo",
    show: |measured, medium| measured.ratio.map(|ratio| spread(ratio, medium)),
};
const USER: Column = Column {
    head: "user",
    show: |measured, _| median(measured, |figures| figures.user_share, percent),
};
const CALLS: Column = Column { head: "calls/msg", show: |measured, _| measured.calls.map(short) };
const RATE: Column =
    Column { head: "msg/s", show: |measured, _| median(measured, Figures::rate, short) };
const P50: Column =
    Column { head: "p50", show: |measured, _| median(measured, |figures| figures.p50_us, time) };
const P99: Column =
    Column { head: "p99", show: |measured, _| median(measured, |figures| figures.p99_us, time) };
const P999: Column =
    Column { head: "p99.9", show: |measured, _| median(measured, |figures| figures.p999_us, time) };
const THREADS: Column = Column {
    head: "threads",
    show: |measured, _| {
        let threads = measured.median(|figures| figures.threads.map(|count| count as f64));
        threads.map(|count| format!("{count:.0}"))
    },
};
const RATE_RATIO: Column = Column {
    head: "ratio",
    show: |measured, medium| measured.rate_ratio.map(|ratio| spread(ratio, medium)),
};
const PER_SECOND: Column =
    Column { head: "conn/s", show: |measured, _| median(measured, Figures::rate, short) };
const CPU_PER_CONNECTION: Column = Column {
    head: "CPU µs/conn",
    show: |measured, _| median(measured, |figures| figures.cpu_us, short),
};
const CALLS_PER_CONNECTION: Column =
    Column { head: "calls/conn", show: |measured, _| measured.calls.map(short) };
const BUSIEST: Column =
    Column { head: "busiest", show: |measured, _| measured.busiest.map(percent) };
const IN_VAIN: Column =
    Column { head: "in vain/conn", show: |measured, _| measured.in_vain.map(short) };
const COMPUTED: Column = Column {
    head: "/s",
    show: |measured, _| median(measured, |figures| figures.computations, short),
};
const SERVER_CPU: Column = Column {
    head: "server ran",
    show: |measured, _| median(measured, |figures| figures.server_cpu, percent),
};
const CLIENTS_CPU: Column = Column {
    head: "clients ran",
    show: |measured, _| median(measured, |figures| figures.clients_cpu, percent),
};
const IDLE_CPU: Column = Column {
    head: "CPU when idle",
    show: |measured, _| median(measured, |figures| figures.idle_cpu, percent),
};
const MEMORY: Column = Column {
    head: "memory/idle",
    show: |measured, _| median(measured, |figures| figures.idle_memory, bytes),
};

impl Report<'_> {
    /// Returns the tables that a reader looks at first.
    pub fn overview(self) -> Vec<Titled> {
        let mut tables = Vec::new();
        let echo = self.echo_workloads();
        if !echo.is_empty() {
            tables.push(Titled {
                title: "CPU time per message, µs".to_owned(),
                note: "Each column is a workload, named by its connections. `64`: 64 active. \
                       `1+900`: one active and 900 idle. `8×16K`: 8 active, with messages of 16 KiB \
                       instead of 64 bytes."
                    .to_owned(),
                grid: matrix(&echo, self.subjects, |workload, subject| {
                    self.show(workload, subject, &CPU)
                }),
            });
        }
        tables.extend(self.growth(&echo));
        tables.extend(self.against_baseline(&echo));
        let usual = Workload::Echo { active: 64, idle: 0, size: SMALL };
        if let Some(&workload) = echo.iter().find(|&&it| it == usual).or(echo.first()) {
            tables.push(Titled {
                title: format!("One workload: {workload}"),
                note: String::new(),
                grid: self.rows(workload, &[RATIO, CALLS, RATE, P50, P99, P999, THREADS]),
            });
        }
        let with_idle: Vec<Workload> = (echo.iter().copied())
            .filter(|it| matches!(it, Workload::Echo { active: 1, idle: 100.., .. }))
            .collect();
        if !with_idle.is_empty() {
            tables.push(Titled {
                title: "Memory per idle connection".to_owned(),
                note: "Memory of the server's processes. The kernel's memory for sockets, threads \
                       and processes is not included."
                    .to_owned(),
                grid: matrix(&with_idle, self.subjects, |workload, subject| {
                    self.show(workload, subject, &MEMORY)
                }),
            });
        }
        tables.extend(self.pauses());
        for &workload in self.workloads.iter().filter(|it| matches!(it, Workload::Chat { .. })) {
            tables.push(Titled {
                title: format!("A {workload}"),
                note:
                    "A message is a line that one client receives. The latency is the time until \
                       the last client has received the line."
                        .to_owned(),
                grid: self.rows(workload, &[CPU, CALLS, RATE, P50, P99, THREADS]),
            });
        }
        tables.extend(self.short_connections());
        tables.extend(self.several_loops());
        tables.extend(self.computations());
        tables
    }

    /// A table for each number of connections at a time.
    fn short_connections(self) -> Vec<Titled> {
        const COLUMNS: [Column; 8] = [
            PER_SECOND,
            RATE_RATIO,
            CPU_PER_CONNECTION,
            BUSIEST,
            IN_VAIN,
            CALLS_PER_CONNECTION,
            P99,
            SERVER_CPU,
        ];
        let workloads = self.workloads.iter().filter(|it| matches!(it, Workload::Churn { .. }));
        let tables = workloads.enumerate().map(|(index, &workload)| Titled {
            title: capitalize(&workload.to_string()),
            note: if index == 0 { SHORT_CONNECTIONS } else { "" }.to_owned(),
            grid: self.rows(workload, &COLUMNS),
        });
        tables.collect()
    }

    /// A table with a row for each server and each number of cores that was measured.
    fn several_loops(self) -> Option<Titled> {
        const COLUMNS: [Column; 6] = [RATE, CPU, RATIO, BUSIEST, THREADS, CLIENTS_CPU];
        let mut workloads: Vec<Workload> = self.workloads.to_vec();
        workloads.retain(|it| matches!(it, Workload::Cores { .. }));
        let is_measured = |workload: &Workload| {
            self.subjects.iter().any(|subject| self.summary.measured(*workload, subject).is_some())
        };
        let measured: Vec<Workload> = workloads.into_iter().filter(is_measured).collect();
        if measured.is_empty() {
            return None;
        }
        let mut grid = Grid::new(2, heads(["server", "loops"], &COLUMNS));
        for &workload in &measured {
            let Workload::Cores { loops, cores } = workload else { continue };
            for subject in self.subjects.iter().filter(|subject| workload.applies_to(subject)) {
                // It has one loop, whatever the others have.
                let is_reference = subject.name == REFERENCE;
                if is_reference && loops > cores {
                    continue; // the same figures again
                }
                let loops = if is_reference { 1 } else { loops };
                let label = Workload::Cores { loops, cores }.to_string();
                let keys = vec![subject.name.to_owned(), label];
                grid.add(self.row(keys, workload, subject, &COLUMNS));
            }
        }
        let scales = measured.iter().any(|workload| workload.server_cores() > 1);
        let note = if scales {
            SEVERAL_LOOPS.to_owned()
        } else {
            format!("{SEVERAL_LOOPS}\n\n{SCALING_NOT_MEASURED}")
        };
        Some(Titled { title: "Several loops".to_owned(), note, grid })
    }

    /// A table for each number of cores.
    fn computations(self) -> Vec<Titled> {
        let mut tables = Vec::new();
        for (cores, title) in [(1, "on one core"), (2, "on two cores")] {
            let times = [0, 1, 10].map(|milliseconds| (milliseconds, cores));
            let workloads: Vec<(u64, Workload)> = (times.into_iter())
                .map(|(milliseconds, cores)| {
                    (milliseconds, Workload::Compute { milliseconds, cores })
                })
                .filter(|(_, workload)| self.workloads.contains(workload))
                .collect();
            if workloads.is_empty() {
                continue;
            }
            let mut head = vec!["server".to_owned()];
            for (milliseconds, _) in &workloads {
                let time = match milliseconds {
                    0 => "none".to_owned(),
                    _ => format!("{milliseconds} ms"),
                };
                head.extend([format!("{time}: p50"), format!("{time}: p99")]);
            }
            head.push(COMPUTED.head.to_owned());
            let mut grid = Grid::new(1, head);
            for subject in self.subjects.iter().filter(|it| workloads[0].1.applies_to(it)) {
                let mut row = vec![subject.name.to_owned()];
                for (_, workload) in &workloads {
                    row.push(self.show(*workload, subject, &P50));
                    row.push(self.show(*workload, subject, &P99));
                }
                row.extend(
                    workloads.last().map(|(_, workload)| self.show(*workload, subject, &COMPUTED)),
                );
                grid.add(row);
            }
            let note = match (tables.is_empty(), cores) {
                (true, 1) => COMPUTATIONS.to_owned(),
                (true, _) => format!("{COMPUTATIONS}\n\n{SHARED_CORE}"),
                (false, _) => SHARED_CORE.to_owned(),
            };
            tables.push(Titled {
                title: format!("While another client computes, {title}"),
                note,
                grid,
            });
        }
        tables
    }

    /// Returns all figures of the echo servers, workload by workload.
    pub fn details(self) -> Vec<Titled> {
        const ALL: [Column; 12] = [
            RATE,
            CPU,
            RATIO,
            USER,
            CALLS,
            P50,
            P99,
            P999,
            THREADS,
            SERVER_CPU,
            CLIENTS_CPU,
            MEMORY,
        ];
        let mut tables = Vec::new();
        for workload in self.echo_workloads() {
            let has_idle = !matches!(workload, Workload::Echo { idle: 0, .. });
            let columns = if has_idle { &ALL[..] } else { &ALL[..ALL.len() - 1] };
            let grid = self.rows(workload, columns);
            tables.push(Titled { title: workload.to_string(), note: String::new(), grid });
        }
        tables
    }

    fn echo_workloads(self) -> Vec<Workload> {
        let echo = self.workloads.iter().copied();
        echo.filter(|workload| matches!(workload, Workload::Echo { .. })).collect()
    }

    /// What idle connections add, for the servers that can have them.
    fn growth(self, echo: &[Workload]) -> Option<Titled> {
        let without_idle = |workload| match workload {
            Workload::Echo { active, idle: 1.., size } => {
                Some(Workload::Echo { active, idle: 0, size })
            }
            _ => None,
        };
        let has_both = |workload: &Workload| {
            without_idle(*workload).is_some_and(|without| echo.contains(&without))
        };
        let with_idle: Vec<Workload> = echo.iter().copied().filter(has_both).collect();
        let is_measured = |subject: &&&Subject| {
            with_idle.iter().any(|&it| self.summary.measured(it, subject).is_some())
        };
        let subjects: Vec<&Subject> = self.subjects.iter().filter(is_measured).copied().collect();
        if subjects.is_empty() {
            return None;
        }
        let ratio = |workload: Workload, subject: &Subject| {
            let without = without_idle(workload)?;
            self.summary.ratio_to(workload, subject.name, (without, subject.name))
        };
        Some(Titled {
            title: "What idle connections add".to_owned(),
            note: "CPU time per message, divided by that of the same server in the same round \
                   without idle connections."
                .to_owned(),
            grid: matrix(&with_idle, &subjects, |workload, subject| {
                self.show_ratio(ratio(workload, subject), workload, subject)
            }),
        })
    }

    /// What the servers add to the system calls of their model.
    fn against_baseline(self, echo: &[Workload]) -> Option<Titled> {
        let has_baseline = |subject: &&&Subject| {
            let baseline = subject.baseline;
            baseline.is_some_and(|name| self.subjects.iter().any(|other| other.name == name))
        };
        let subjects: Vec<&Subject> = self.subjects.iter().filter(has_baseline).copied().collect();
        if subjects.is_empty() {
            return None;
        }
        let ratio = |workload: Workload, subject: &Subject| {
            self.summary.ratio_to(workload, subject.name, (workload, subject.baseline?))
        };
        Some(Titled {
            title: "Against the baseline".to_owned(),
            note: "CPU time per message, divided by that of the baseline in the same round: a \
                   minimal loop of the same system calls."
                .to_owned(),
            grid: matrix(echo, &subjects, |workload, subject| {
                self.show_ratio(ratio(workload, subject), workload, subject)
            }),
        })
    }

    fn pauses(self) -> Option<Titled> {
        const COLUMNS: [Column; 3] = [P50, P99, IDLE_CPU];
        let mut workloads = self.workloads.iter().copied();
        let workloads: Vec<Workload> =
            workloads.by_ref().filter(|it| matches!(it, Workload::Pause { .. })).collect();
        if workloads.is_empty() {
            return None;
        }
        let mut grid = Grid::new(2, heads(["server", "pause"], &COLUMNS));
        for workload in workloads {
            for subject in self.subjects.iter().filter(|subject| workload.applies_to(subject)) {
                let pause = match workload {
                    Workload::Pause { pause: Some(0) } => "none".to_owned(),
                    Workload::Pause { pause: Some(pause) } => time(pause as f64),
                    _ => "waits".to_owned(),
                };
                let keys = vec![subject.name.to_owned(), pause];
                grid.add(self.row(keys, workload, subject, &COLUMNS));
            }
        }
        Some(Titled {
            title: "What polling costs, and what a pause changes".to_owned(),
            note: "100 connections, one of which sends a message from time to time.".to_owned(),
            grid,
        })
    }

    /// A table with a row for each server and a column for each figure, under one workload.
    fn rows(self, workload: Workload, columns: &[Column]) -> Grid {
        let mut grid = Grid::new(1, heads(["server"], columns));
        for subject in self.subjects.iter().filter(|subject| workload.applies_to(subject)) {
            grid.add(self.row(vec![subject.name.to_owned()], workload, subject, columns));
        }
        grid
    }

    fn row(
        self,
        keys: Vec<String>,
        workload: Workload,
        subject: &Subject,
        columns: &[Column],
    ) -> Vec<String> {
        let mut row = keys;
        match self.summary.cell(workload, subject) {
            Some(Cell::Measured(measured)) => {
                for (index, column) in columns.iter().enumerate() {
                    // One mark per row is enough.
                    let mark = if measured.disturbed && index == 0 { "~" } else { "" };
                    row.push(self.show_column(&measured, column, mark));
                }
            }
            other => row.push(without_figure(other)),
        }
        row
    }

    /// One figure of a server under one workload.
    fn show(self, workload: Workload, subject: &Subject, column: &Column) -> String {
        match self.summary.cell(workload, subject) {
            Some(Cell::Measured(measured)) => {
                // Other processes do not change how much memory the server uses.
                let is_marked = measured.disturbed && column.head != MEMORY.head;
                self.show_column(&measured, column, if is_marked { "~" } else { "" })
            }
            other => without_figure(other),
        }
    }

    fn show_column(self, measured: &Measured, column: &Column, mark: &str) -> String {
        let text = (column.show)(measured, self.medium);
        text.map_or("–".to_owned(), |text| format!("{mark}{text}"))
    }

    fn show_ratio(self, ratio: Option<Spread>, workload: Workload, subject: &Subject) -> String {
        match (ratio, self.summary.cell(workload, subject)) {
            (Some(ratio), _) => spread(ratio, self.medium),
            // No round has undisturbed samples of both.
            (None, Some(Cell::Measured(_))) => "–".to_owned(),
            (None, cell) => without_figure(cell),
        }
    }
}

/// A table with a row for each server and a column for each workload.
fn matrix(
    workloads: &[Workload],
    subjects: &[&Subject],
    cell: impl Fn(Workload, &Subject) -> String,
) -> Grid {
    let mut head = vec!["server".to_owned()];
    head.extend(workloads.iter().map(|&workload| match workload {
        Workload::Echo { active, size: LARGE, .. } => format!("{active}×16K"),
        Workload::Echo { active, idle: 0, .. } => active.to_string(),
        Workload::Echo { active, idle, .. } => format!("{active}+{idle}"),
        _ => workload.to_string(),
    }));
    let mut grid = Grid::new(1, head);
    for subject in subjects {
        if workloads.iter().any(|workload| workload.applies_to(subject)) {
            let mut row = vec![subject.name.to_owned()];
            row.extend(workloads.iter().map(|&workload| cell(workload, subject)));
            grid.add(row);
        }
    }
    grid
}

fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn heads<const N: usize>(keys: [&str; N], columns: &[Column]) -> Vec<String> {
    let columns = columns.iter().map(|column| column.head);
    keys.into_iter().chain(columns).map(str::to_owned).collect()
}

/// What a cell without a figure contains.
fn without_figure(cell: Option<Cell>) -> String {
    match cell {
        Some(Cell::Failed) => "FAILED".to_owned(),
        Some(Cell::Skipped(note)) if note.starts_with("max ") => note,
        Some(Cell::Skipped(_)) => "skipped".to_owned(),
        _ => String::new(),
    }
}

/// Explains the marks in the tables.
pub fn legend(summary: &Summary) -> String {
    let (disturbed, all) = summary.disturbed();
    format!(
        "CPU time is that of all threads and processes of the server. The column `× {REFERENCE}` \
         has the CPU time divided by that of {REFERENCE} in the same round. Figures are medians over \
         the rounds, with the quartiles in parentheses. `~`: in all samples of this figure, other \
         processes used the cores for too long. (In all, this was so in {disturbed} of {all} \
         samples.) `max N`: the server serves no more connections. `–`: not measured."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Outcome, Sample};
    use crate::subjects;
    use crate::terminal::COLUMNS;
    use crate::workloads::all;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(short(0.034), "0.03");
        assert_eq!(short(2.345), "2.35");
        assert_eq!(short(99.96), "100");
        assert_eq!(short(1234.0), "1234");
        assert_eq!(short(123_456.0), "123 k");
        assert_eq!(time(1500.0), "1.50 ms");
        assert_eq!(bytes(4096.0), "4.00 KiB");
    }

    #[test]
    fn the_tables_in_the_terminal_fit_80_columns() {
        let subjects: Vec<&Subject> = subjects::all().iter().collect();
        let workloads = all();
        let mut samples = Vec::new();
        for &workload in &workloads {
            for subject in subjects.iter().filter(|subject| workload.applies_to(subject)) {
                let is_skipped =
                    workload.connections() > subject.max_connections && !workload.connections_end();
                let value = Some(999_999.0);
                samples.push(Sample {
                    round: 1,
                    workload,
                    server: subject.name,
                    outcome: if is_skipped { Outcome::Skipped } else { Outcome::Ok },
                    note: format!("max {}", subject.max_connections),
                    figures: Figures {
                        seconds: 1.0,
                        messages: 999_999,
                        cpu_us: value,
                        calls: value,
                        p50_us: value,
                        p99_us: value,
                        p999_us: value,
                        idle_memory: value,
                        idle_cpu: Some(1.0),
                        server_cpu: Some(1.0),
                        clients_cpu: Some(1.0),
                        busiest: Some(1.0),
                        in_vain: value,
                        computations: value,
                        threads: Some(9999),
                        ..Figures::default()
                    },
                });
            }
        }
        let summary = Summary::new(samples);
        let report = Report {
            summary: &summary,
            workloads: &workloads,
            subjects: &subjects,
            medium: Medium::Terminal,
        };
        let tables = report.overview();
        assert!(tables.len() > 10);
        for Titled { title, grid, .. } in tables {
            let text = grid.render(Medium::Terminal);
            let longest = text.lines().max_by_key(|line| line.chars().count());
            let longest = longest.expect("a table has lines");
            assert!(longest.chars().count() <= COLUMNS, "{title}: {longest:?}");
        }
    }
}
