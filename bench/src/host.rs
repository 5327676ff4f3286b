//! The machine: which cores to use, what they were given to, and what to say of them.

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

/// Where the servers run, and where the load.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// The first two that we may use and that do not share their pipelines; twice the same where
    /// there is one only.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut allowed = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let server = allowed.next().context("no processor may be used")?;
        let siblings = siblings(server);
        let rest: Vec<_> = allowed.collect();
        let other = rest.iter().find(|&cpu| !siblings.contains(cpu)).or(rest.first());
        Ok(Self { server, load: other.copied().unwrap_or(server) })
    }

    /// Whether the servers and the load have to share one.
    pub fn shared(self) -> bool {
        self.server == self.load
    }
}

/// The logical processors of the same core, as `0-1` or `0,4` in sysfs.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = fs::read_to_string(path).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse().ok()?..=to.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// This thread, and what it starts from now on, runs on this core only.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot use core {cpu}"))
}

/// Raises the limit on descriptors, ours and the servers', as far as it goes; returns it.
pub fn raise_descriptors() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard as usize)
}

/// What a core was used for, between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    /// What this thread has run, and how often it was given the core.
    own: Duration,
    slices: u64,
    idle: [Duration; 2],
}

impl Moment {
    pub fn now(cores: Cores) -> Result<Self> {
        let stats = KernelStats::current()?;
        let idle = |cpu: usize| -> Result<Duration> {
            let times = stats.cpu_time.get(cpu).context("a core has no line in /proc/stat")?;
            Ok(times.idle_duration() + times.iowait_duration().unwrap_or_default())
        };
        let own = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        // The load runs in the main thread, and this file is about that one.
        let slices = Process::myself()?.schedstat()?.pcount;
        Ok(Self { at: Instant::now(), own, slices, idle: [idle(cores.server)?, idle(cores.load)?] })
    }

    pub fn since(self, start: Self) -> Usage {
        let spent = |core: usize| self.idle[core].saturating_sub(start.idle[core]);
        Usage {
            wall: self.at - start.at,
            load: self.own.saturating_sub(start.own),
            load_slices: self.slices.saturating_sub(start.slices),
            server_idle: spent(0),
            load_idle: spent(1),
        }
    }
}

/// How the cores were used in a stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub wall: Duration,
    /// By the load.
    pub load: Duration,
    load_slices: u64,
    server_idle: Duration,
    load_idle: Duration,
}

/// What it takes to get from idle to running and back, which is counted as neither: interrupts
/// and two context switches. Seen from 1 to 2 microseconds.
const SLICE: Duration = Duration::from_micros(2);

impl Usage {
    /// The share of its core that neither the load had, nor the idle task.
    pub fn taken_from_load(&self) -> f64 {
        self.taken(self.load, self.load_idle, self.load_slices)
    }

    /// The same for the server, which ran for `server` in so many slices.
    pub fn taken_from_server(&self, server: Duration, slices: u64) -> f64 {
        self.taken(server, self.server_idle, slices)
    }

    fn taken(&self, own: Duration, idle: Duration, slices: u64) -> f64 {
        let accounted = own + idle + SLICE * slices as u32;
        self.wall.saturating_sub(accounted).as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// What a reader has to know of the machine, one thing a line.
pub fn describe(cores: Cores) -> Result<Vec<String>> {
    let name = uname()?;
    let cpu = CpuInfo::current()?;
    let model = cpu.model_name(0).unwrap_or("unknown").to_owned();
    let virtual_machine = cpu.flags(0).is_some_and(|flags| flags.contains(&"hypervisor"));
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
            if virtual_machine { ", a virtual machine" } else { "" }
        ),
        if cores.shared() {
            format!("servers and load share processor {}: latency is the sum of both", cores.server)
        } else {
            format!("servers on processor {}, the load on {}", cores.server, cores.load)
        },
    ];
    lines.extend(governor.map(|governor| format!("frequency governor: {}", governor.trim())));
    lines.extend(mitigations.map(|what| format!("Spectre v2: {}", what.trim())));
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    lines.push(now.split('T').next().unwrap_or_default().to_owned());
    Ok(lines)
}
