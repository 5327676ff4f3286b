//! The report as a Markdown page.

use crate::grid::Medium;
use crate::plan::MAX_REPEATS;
use crate::plots::Plot;
use crate::run_info::RunInfo;
use crate::syscalls::Counter;
use crate::tables::{Report, Titled, legend};

/// What no measurement of this kind shows.
const NO_NETWORK: &str = "\
- A network. Loopback has no network card, no interrupts, and no loss, and the sender's call does most of the receiver's
  work. A real network adds the same cost to every model, so the ratios become smaller.
";

/// What the messages of an echo server do not show, and those of a chat without computations.
const NO_CORES: &str = "\
- Several cores per server. Models with threads could use more cores. Here each server has one core, because the
  benchmark compares the cost of a message.
- Processing. If a reply takes a millisecond to compute, the differences between the models hardly matter.
- Bursts. Each active connection sends its next message when the last one has come back. If a server is slow, its
  clients wait. With many connections, most of the latency is therefore time in the queue. (In the table of the pauses
  of nonblocking-echo, the moments of sending do not depend on the server.)
";

/// What short connections and computations do not show.
const NO_TIME_WAIT: &str = "\
- The usual end of a connection. The clients close with RST (`SO_LINGER`), because connections in TIME_WAIT would soon
  occupy all ports. So a server reads ECONNRESET instead of the end of input. It makes the same calls for both.
- Many cores. On one core, a worker that wakes up must wait for the one that runs. On several cores they run at the same
  time, so more workers compete for a connection, and more of them wake up in vain.
";

const NO_KERNEL: &str = "\
- Kernel time that belongs to no process (interrupts, `ksoftirqd`), and the kernel's memory for sockets, threads, and
  processes.
- Another machine. Virtualization, mitigations, and CPU frequencies change the figures, and change the ratios less.
  `cargo run --release -p bench` measures on yours.
";

/// The title of a page that is only about short connections, several loops and computations.
const WORKERS_TITLE: &str = "Short connections, several loops, and handlers that compute";

/// Returns the page.
pub fn page(report: Report, info: &RunInfo, plots: &[Plot]) -> String {
    let report = Report { medium: Medium::Page, ..report };
    let summary = report.summary;
    let mut workloads = report.workloads.iter();
    let has_messages = report.workloads.iter().any(|workload| !workload.is_about_workers());
    let has_workers = workloads.any(|workload| workload.is_about_workers());
    let title = if has_messages { "What each model costs" } else { WORKERS_TITLE };
    let mut page = format!("# {title}\n\n");
    let rounds =
        if info.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", info.rounds) };
    let scenarios = if has_messages { "" } else { " -- --scenario churn,cores,compute" };
    page += &format!(
        "Measured by `cargo run --release -p bench{scenarios}` in {rounds}, with {} s per sample, on this machine:\n\n",
        info.sample_seconds
    );
    if !info.optimized {
        page += "- **a build without optimization: the figures mean nothing**\n";
    }
    for line in &info.machine {
        page += &format!("- {line}\n");
    }
    let failures = summary.failures();
    if !failures.is_empty() {
        page += "\n## Failed\n\nThese servers did something wrong. They have no figures.\n\n";
        page += &list(&failures);
    }
    for Plot { name, title } in plots {
        page += &format!("\n![{title}]({name}.svg)\n");
    }
    page += &format!("\n{}\n", legend(summary));
    add(&mut page, "##", report.overview());
    page += &format!("\n## What the figures do not show\n\n{NO_NETWORK}");
    if has_messages {
        page += NO_CORES;
    }
    if has_workers {
        page += NO_TIME_WAIT;
    }
    page += NO_KERNEL;
    page += &format!("\n## How it is measured\n\n{}", method(info));
    let details = report.details();
    if !details.is_empty() {
        page += "\n## Workload by workload\n";
        add(&mut page, "###", details);
    }
    let skipped = summary.skipped();
    if !skipped.is_empty() {
        page += "\n## Skipped\n\n";
        page += &list(&skipped);
    }
    page
}

fn list(entries: &[String]) -> String {
    format!("- {}\n", entries.join("\n- "))
}

fn add(page: &mut String, level: &str, tables: Vec<Titled>) {
    for Titled { title, note, grid } in tables {
        *page += &format!("\n{level} {title}\n\n");
        if !note.is_empty() {
            *page += &format!("{note}\n\n");
        }
        *page += &format!("{}\n", grid.render(Medium::Page));
    }
}

fn method(info: &RunInfo) -> String {
    let counter = match info.counter {
        Counter::Perf => {
            "counted by `perf stat -e raw_syscalls:sys_enter`, after the rest of the sample"
        }
        Counter::Strace => "counted by `strace -c -f`, after the rest of the sample",
        Counter::None => "not counted: neither perf nor strace can count them on this machine",
    };
    format!(
        "\
- Each sample has its own server process. Its clients check every byte. In the chat they check the order and the
  completeness of all lines. A server that fails a check has no figures.
- Under each workload the servers take turns, round after round. A ratio compares two samples of the same round.
- The server and the clients have a core each, if the machine has two. If other processes use one of these cores for
  more than 5 % of the time, the sample is repeated up to {MAX_REPEATS} times, and then marked `~`.
- CPU time: from the CPU clocks of the server's processes, in nanoseconds. `user` is the share of user mode, from the
  clock ticks.
- System calls: {counter}.
- Latency: from the first byte sent to the last byte received, by the clock of the client.
- The clients are one thread. If `clients ran` is 100 % and `server ran` is less, the clients were the limit. The
  messages per second are then those of the clients. The CPU time per message is still valid.
"
    )
}
