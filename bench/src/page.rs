//! The Markdown page.

use crate::calls::Counter;
use crate::points::Point;
use crate::sample::Method;
use crate::subjects::Subject;
use crate::summary::Summary;
use crate::tables::{self, Medium, Titled};

/// What the figures do not show, however well they are measured.
const NOT_SHOWN: &str = "\
- A network. Loopback has no card, no interrupts and no loss, and the sender does most of the receiver's work in
  its own call: a real network costs more for every model alike, and so the differences shrink.
- More than one core for a server. Models with threads could use more; here each has one, so that the cost of a
  message is compared and not the number of cores.
- Work. An answer that takes a millisecond to compute hides every difference between the models.
- What comes in bursts. Each busy connection sends its next message when the last one is back: where the server is
  slow, the clients wait, and the latency under many connections is mostly the time in the queue. (The pauses of
  nonblocking-echo are measured with messages at moments of their own.)
- Time that the kernel spends for a server in no process's name (interrupts, `ksoftirqd`), and the memory that it keeps
  for sockets, threads and processes.
- Another machine. A virtual machine, mitigations and frequencies change the figures, and less so their proportions:
  `cargo run --release -p bench` shows those of yours.
";

/// Writes the page.
pub fn page(
    summary: &Summary,
    points: &[Point],
    subjects: &[&Subject],
    method: Method,
    machine: &[String],
    rounds: usize,
    plots: &[(&str, &str)],
) -> String {
    let mut page = "# What each model costs\n\nMade by `cargo run --release -p bench`".to_owned();
    let rounds = if rounds == 1 { "one round".to_owned() } else { format!("{rounds} rounds") };
    page += &format!(" in {rounds}, {} s a sample, on:\n\n", method.time.as_secs_f64());
    if cfg!(debug_assertions) {
        page += "- **a build without optimisation: the figures mean nothing**\n";
    }
    for line in machine {
        page += &format!("- {line}\n");
    }
    let failures = summary.failures();
    if !failures.is_empty() {
        page += "\n## Failed\n\nThese did not do what they have to, and are in no figure:\n\n";
        for failure in failures {
            page += &format!("- {failure}\n");
        }
    }
    for (name, title) in plots {
        page += &format!("\n![{title}]({name}.svg)\n");
    }
    page += &format!("\n{}\n", tables::legend(summary));
    add(&mut page, "##", tables::overview(summary, points, subjects, Medium::Page));
    page += &format!("\n## What the figures do not show\n\n{NOT_SHOWN}");
    page += &format!("\n## How it is measured\n\n{}", how(method));
    page += "\n## Load by load\n";
    add(&mut page, "###", tables::details(summary, points, subjects));
    let left_out = summary.skipped();
    if !left_out.is_empty() {
        page += "\n## Left out\n\n";
        for what in left_out {
            page += &format!("- {what}\n");
        }
    }
    page
}

fn add(page: &mut String, level: &str, tables: Vec<Titled>) {
    for (title, note, table) in tables {
        *page += &format!("\n{level} {title}\n\n");
        if !note.is_empty() {
            *page += &format!("{note}\n\n");
        }
        *page += &format!("{table}\n");
    }
}

fn how(method: Method) -> String {
    let calls = match method.counter {
        Counter::Perf => "by `perf stat -e raw_syscalls:sys_enter`, after the rest of the sample",
        Counter::Strace => "by `strace -c -f`, after the rest of the sample",
        Counter::Nothing => "not at all: neither perf nor strace may do it here",
    };
    format!(
        "\
- Every sample has a server of its own, and clients that check each byte; in the chat, the order and completeness of
  every line. A server that fails the check is in no figure.
- The servers take turns under each load, round after round; a ratio is taken between two samples of a round.
- Server and load have a core each, if there are two. A sample in which something else had one of them for more than
  5 % of the time is repeated, up to {REPEATS} times, and then marked `~`.
- CPU time: the clocks of the server's processes, by the nanosecond. `user`: their proportion, by the ticks.
- System calls: {calls}.
- Latency: from the first byte sent to the last byte back, by the client's clock.
- The load is one thread. Where `load ran` says 100 % and `server ran` less, the load was the limit: then messages a
  second are the load's, and CPU time a message is the server's all the same.
",
        REPEATS = crate::REPEATS,
    )
}
