//! A broker for the tests: that of `publish-subscribe`, or a real nats-server.

use std::path::Path;

use anyhow::{Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;

use crate::peer::{ClosedPort, Peer};
use crate::support::{Check, find, missing, server, trial};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Real,
}

/// A running broker. Its port stays reserved, so that another can be started there.
pub struct Broker {
    pub process: Process,
    pub addr: String,
    closed: ClosedPort,
    kind: Kind,
}

impl Kind {
    pub fn start(self) -> Result<Broker> {
        self.start_at(ClosedPort::new()?)
    }

    fn start_at(self, closed: ClosedPort) -> Result<Broker> {
        let addr = closed.addr.clone();
        let process = match self {
            Self::Ours => server("publish-subscribe", &["serve", &addr])?,
            Self::Real => real(&closed, &[])?,
        };
        Ok(Broker { process, addr, closed, kind: self })
    }
}

impl Broker {
    /// Starts another broker at the same address, after this one was killed.
    pub fn restart(self) -> Result<Self> {
        drop(self.process);
        self.kind.start_at(self.closed)
    }
}

/// Starts a nats-server at the address of `closed`.
pub fn real(closed: &ClosedPort, args: &[&str]) -> Result<Process> {
    let args = [&["-a", "127.0.0.1", "-p", closed.port()], args].concat();
    let process = Process::start("", Path::new(&find("nats-server")), &args)?;
    process.expect("Server is ready")?;
    Ok(process)
}

/// Makes two tests per check: one for our broker, and one for the real server.
pub fn for_both(module: &str, checks: &[Check<Kind>]) -> Vec<Trial> {
    let nats = missing("nats-server");
    let mut trials = Vec::new();
    for &(name, check) in checks {
        let ours = move || check(Kind::Ours);
        trials.push(trial(format!("{module}::{name}"), None, ours));
        let real = move || check(Kind::Real);
        trials.push(trial(format!("{module}::nats_server::{name}"), nats, real));
    }
    trials
}

/// Connects a client, and reads the `INFO` of the broker.
pub fn connect(broker: &Broker) -> Result<Peer> {
    let mut peer = Peer::connect(&broker.addr)?.answering_pings();
    ensure!(peer.line()?.starts_with("INFO {"));
    Ok(peer)
}

/// Connects a client that wants no `+OK`.
pub fn client(broker: &Broker) -> Result<Peer> {
    let mut peer = connect(broker)?;
    peer.send("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
    flush(&mut peer)?;
    Ok(peer)
}

/// Waits until the broker has done what was sent before.
pub fn flush(peer: &mut Peer) -> Result<()> {
    peer.send("PING\r\n")?;
    peer.lines(&["PONG"])
}
