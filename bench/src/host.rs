//! The machine: which cores are used, by whom, and what the report says about it.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use procfs::process::Process;
use procfs::{CpuInfo, Current, CurrentSI, KernelStats};

/// The core on which the servers run, and the core on which the clients run.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub server: usize,
    pub clients: usize,
    /// The number of cores that this process may use. Processors that share a core count once.
    pub count: usize,
}

/// The processors that this process may use, and one of each core.
struct Allowed {
    processors: Vec<usize>,
    cores: Vec<usize>,
}

/// Read before the process is restricted to the core of the clients.
static ALLOWED: LazyLock<Allowed> = LazyLock::new(|| {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let processors = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    let processors: Vec<usize> = processors.collect();
    let mut cores: Vec<usize> = Vec::new();
    for &processor in &processors {
        let siblings = siblings(processor);
        if !cores.iter().any(|core| siblings.contains(core)) {
            cores.push(processor);
        }
    }
    Allowed { processors, cores }
});

impl Cores {
    /// Takes the first two processors that this process may use and that do not share a core. If
    /// there is only one, servers and clients share it.
    pub fn choose() -> Result<Self> {
        let Allowed { processors, cores } = &*ALLOWED;
        let server = *cores.first().context("this process may use no processor")?;
        let other = cores.get(1).or(processors.get(1));
        Ok(Self { server, clients: other.copied().unwrap_or(server), count: cores.len() })
    }

    /// Returns so many cores for a server. The core of the clients is the last one to be taken.
    pub fn for_server(self, count: usize) -> Vec<usize> {
        let others = ALLOWED.cores.iter().filter(|&&it| it != self.server && it != self.clients);
        let all = [self.server].into_iter().chain(others.copied()).chain([self.clients]);
        all.take(count).collect()
    }

    /// Returns so many cores for the clients. The core of the server is the last one to be taken.
    pub fn for_clients(self, count: usize) -> Vec<usize> {
        let others = ALLOWED.cores.iter().filter(|&&it| it != self.server && it != self.clients);
        let all = [self.clients].into_iter().chain(others.rev().copied()).chain([self.server]);
        all.take(count).collect()
    }

    pub fn are_shared(self) -> bool {
        self.server == self.clients
    }
}

/// Returns the processors of the same core, which sysfs lists as `0-1` or `0,4`.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = fs::read_to_string(path).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse().ok()?..=to.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Makes this thread, and what it starts from now on, run on these cores only.
pub fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot use cores {cores:?}"))
}

/// Raises the limit on file descriptors as far as possible, for this process and the servers.
/// Returns the limit.
pub fn raise_descriptor_limit() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard as usize)
}

/// Returns the CPU time of this thread. Other processes do not change it.
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// How the two cores have been used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct CoreClocks {
    at: Instant,
    /// The CPU time of this thread, and how often it was scheduled.
    clients: Duration,
    clients_slices: u64,
    server_idle: Duration,
    clients_idle: Duration,
}

impl CoreClocks {
    pub fn now(cores: Cores) -> Result<Self> {
        let stats = KernelStats::current()?;
        let idle = |cpu: usize| -> Result<Duration> {
            let times = stats.cpu_time.get(cpu).context("a core has no line in /proc/stat")?;
            Ok(times.idle_duration() + times.iowait_duration().unwrap_or_default())
        };
        Ok(Self {
            at: Instant::now(),
            clients: thread_time(),
            // The clients run in the main thread, and this file is about the main thread.
            clients_slices: Process::myself()?.schedstat()?.pcount,
            server_idle: idle(cores.server)?,
            clients_idle: idle(cores.clients)?,
        })
    }

    pub fn since(self, start: Self) -> CoreUsage {
        CoreUsage {
            wall: self.at - start.at,
            clients: self.clients.saturating_sub(start.clients),
            clients_slices: self.clients_slices.saturating_sub(start.clients_slices),
            server_idle: self.server_idle.saturating_sub(start.server_idle),
            clients_idle: self.clients_idle.saturating_sub(start.clients_idle),
        }
    }
}

/// How the two cores were used over a period.
#[derive(Clone, Copy, Debug)]
pub struct CoreUsage {
    pub wall: Duration,
    /// CPU time of the clients.
    pub clients: Duration,
    clients_slices: u64,
    server_idle: Duration,
    clients_idle: Duration,
}

/// The time from idle to running and back: interrupts and two context switches, which the kernel
/// counts as neither. 1 to 2 microseconds were observed.
const SLICE_OVERHEAD: Duration = Duration::from_micros(2);

impl CoreUsage {
    /// The time in which the server's core was not idle.
    pub fn server_busy(&self) -> Duration {
        self.wall.saturating_sub(self.server_idle)
    }

    /// The share of the clients' core that other processes used.
    pub fn clients_core_other(&self) -> f64 {
        self.other(self.clients, self.clients_idle, self.clients_slices)
    }

    /// The share of the server's core that other processes used. The server ran for the time
    /// `server`, and was scheduled `slices` times.
    pub fn server_core_other(&self, server: Duration, slices: u64) -> f64 {
        self.other(server, self.server_idle, slices)
    }

    fn other(&self, own: Duration, idle: Duration, slices: u64) -> f64 {
        let accounted = own + idle + SLICE_OVERHEAD * slices as u32;
        self.wall.saturating_sub(accounted).as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// Describes the machine for the report, one fact per line.
pub fn describe(cores: Cores) -> Result<Vec<String>> {
    let name = uname()?;
    let cpu = CpuInfo::current()?;
    let model = cpu.model_name(0).unwrap_or("unknown").to_owned();
    let is_virtual = cpu.flags(0).is_some_and(|flags| flags.contains(&"hypervisor"));
    let mitigations = fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/spectre_v2");
    let governor = fs::read_to_string(format!(
        "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor",
        cores.server
    ));
    let mut lines = vec![
        format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        format!(
            "{model}, {} processors{}",
            cpu.num_cores(),
            if is_virtual { ", a virtual machine" } else { "" }
        ),
        if cores.are_shared() {
            format!(
                "servers and clients share processor {}, so that a latency contains both",
                cores.server
            )
        } else {
            format!("servers on processor {}, clients on processor {}", cores.server, cores.clients)
        },
    ];
    lines.extend(governor.map(|governor| format!("frequency governor: {}", governor.trim())));
    lines.extend(mitigations.map(|text| format!("Spectre v2: {}", text.trim())));
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    lines.push(now.split('T').next().unwrap_or_default().to_owned());
    Ok(lines)
}
