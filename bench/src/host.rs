//! The machine: which cores are used, by whom, and what the report says about it.

use std::fs;
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
}

impl Cores {
    /// Takes the first two processors that this process may use and that do not share a core. If
    /// there is only one, servers and clients share it.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut allowed = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let server = allowed.next().context("this process may use no processor")?;
        let siblings = siblings(server);
        let rest: Vec<_> = allowed.collect();
        let other = rest.iter().find(|&cpu| !siblings.contains(cpu)).or(rest.first());
        Ok(Self { server, clients: other.copied().unwrap_or(server) })
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

/// Makes this thread, and what it starts from now on, run on this core only.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot use core {cpu}"))
}

/// Raises the limit on file descriptors as far as possible, for this process and the servers.
/// Returns the limit.
pub fn raise_descriptor_limit() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard as usize)
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
            clients: Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?),
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
