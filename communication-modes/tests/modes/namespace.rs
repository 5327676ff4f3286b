//! Network namespaces of our own, in which a test can change the network. They need root.

use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use communication_modes::Process;
use nix::sched::{CloneFlags, unshare};

use crate::support::missing;

/// Returns what is missing if this user cannot make network namespaces.
pub fn missing_namespaces() -> Option<&'static str> {
    let result = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    let can_unshare = result.is_ok_and(|result| result.is_ok());
    if can_unshare {
        missing("ip").or(missing("nsenter")).or(missing("unshare"))
    } else {
        Some("root")
    }
}

/// Runs `test` in a network namespace of its own, which has a loopback interface and nothing else.
/// Processes that it starts are in the same namespace.
pub fn in_namespace(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        // A namespace belongs to a thread, and its children inherit it.
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            ip("link set lo up")?;
            test()
        });
        thread.join().ok().context("a thread of the test panicked")?
    })
}

/// Runs `ip` with the words of `args`.
pub fn ip(args: &str) -> Result<()> {
    let output = Command::new("ip").args(args.split(' ')).output()?;
    ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A second namespace, connected to that of the calling thread by a cable: a pair of veth interfaces
/// with the addresses 10.0.0.1 (here) and 10.0.0.2 (there).
pub struct Island {
    holder: Process,
}

impl Island {
    pub fn new() -> Result<Self> {
        let args = ["--net", "sh", "-c", "echo ready; exec sleep 1000"];
        let holder = Process::start("", "unshare".as_ref(), &args)?;
        holder.expect("ready")?;
        let island = Self { holder };
        ip(&format!("link add here type veth peer name there netns {}", island.holder.id()))?;
        ip("addr add 10.0.0.1/24 dev here")?;
        ip("link set here up")?;
        for command in ["link set lo up", "addr add 10.0.0.2/24 dev there", "link set there up"] {
            let mut nsenter = Command::new("nsenter");
            nsenter.args(["-t", &island.holder.id().to_string(), "--net", "ip"]);
            ensure!(nsenter.args(command.split(' ')).status()?.success(), "{command}");
        }
        Ok(island)
    }

    /// Starts a program in the second namespace.
    pub fn start(&self, program: &str, args: &[&str]) -> Result<Process> {
        let id = self.holder.id().to_string();
        let args = [&["-t", &id, "--net", program], args].concat();
        Process::start("", "nsenter".as_ref(), &args)
    }
}

/// Unplugs the cable to the [`Island`].
pub fn unplug() -> Result<()> {
    ip("link set here down")
}

/// Plugs the cable in again.
pub fn plug_in() -> Result<()> {
    ip("link set here up")
}
