//! `intermediary` in networks of our own: few ports, names with several addresses, and a cut cable.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::decentralised::{all_know_all, node};
use crate::intermediary::{Kind, answering, backend};
use crate::namespace::{Island, in_namespace, missing_namespaces, plug_in, unplug};
use crate::peer::Peer;
use crate::support::{program, server, text, trial, until};

pub fn trials() -> Vec<Trial> {
    let missing = missing_namespaces();
    vec![
        trial("intermediary_network::a_connection_to_itself", missing, a_connection_to_itself),
        trial("intermediary_network::all_addresses_of_a_name", missing, all_addresses_of_a_name),
        trial("intermediary_network::a_cut_cable", missing, a_backend_behind_a_cut_cable),
    ]
}

/// If a backend on this machine is dead, `connect` to its port can connect the socket to itself. Here
/// this always happens, because the kernel has only one port to choose from. The client must not get
/// its own bytes back, and the backend must be able to bind the port again.
fn a_connection_to_itself() -> Result<()> {
    in_namespace(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000")?;
        let middle = "127.0.0.1:7300";
        let intermediary = server("intermediary", &[middle, "127.0.0.1:40000"])?;
        // The clients of this test need ports as well: they take them by binding.
        let client = |port: u16| -> Result<Peer> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.connect(&middle.parse::<SocketAddr>()?.into())?;
            Peer::new(socket.into())
        };
        for port in 50_000..50_003 {
            let mut client = client(port)?;
            let _ = client.send("hello");
            let _ = client.finish();
            let echoed = client.rest().unwrap_or_default();
            ensure!(echoed.is_empty(), "the client got {:?}", text(&echoed));
        }
        intermediary.expect("127.0.0.1:40000 is down: Connection refused")?;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099")?;
        let _backend = server("intermediary", &["backend", "127.0.0.1:40000"])?;
        intermediary.expect("127.0.0.1:40000 is up again").map(drop)
    })
}

/// A name with an IPv6 and an IPv4 address, of which the first refuses connections: as a backend, as
/// the seed of a node, and as the server of each client.
fn all_addresses_of_a_name() -> Result<()> {
    let dir = TempDir::new()?;
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "::1 twofold\n127.0.0.1 twofold\n")?;
    let hosts = hosts.to_string_lossy();
    let name = |addr: &str| addr.replace("127.0.0.1", "twofold");
    // Starts a mode that looks names up in our file.
    let start = |mode: &str, args: &[&str]| {
        let (ours, script) = (program(mode), "mount --bind \"$0\" /etc/hosts && exec \"$@\"");
        let unshare = ["--mount", "sh", "-c", script, &hosts, &ours.to_string_lossy()];
        Process::start("", "unshare".as_ref(), &[&unshare, args].concat())
    };
    let alive = backend()?;
    let intermediary = start("intermediary", &["127.0.0.1:0", &name(&alive.addr)])?.listening()?;
    ensure!(answering(&intermediary.addr)? == alive.addr);
    ensure!(!intermediary.has("is down"), "a backend with one address that answers is not down");

    let seed = node(&[])?;
    let second =
        start("decentralised", &["node", "127.0.0.1:0", &name(&seed.addr)])?.listening()?;
    all_know_all(&[&seed, &second])?;

    for (mode, role, args) in [
        ("callback", "call", &["1:a"][..]),
        ("publish-subscribe", "publish", &["a", "x"]),
        ("synchronous", "get", &[]),
    ] {
        let server = server(mode, &["serve", "127.0.0.1:0"])?;
        let scheme = if mode == "synchronous" { "http://" } else { "" };
        let addr = format!("{scheme}{}", name(&server.addr));
        let mut client = start(mode, &[&[role, &addr], args].concat())?;
        ensure!(client.wait()?.success(), "{mode} {role} did not find {addr}");
    }
    Ok(())
}

/// A host that cannot be reached does not refuse a connection: the connect times out.
fn a_backend_behind_a_cut_cable() -> Result<()> {
    in_namespace(|| {
        let island = Island::new()?;
        let ours = program("intermediary").to_string_lossy();
        let far = island.start(&ours, &["backend", "10.0.0.2:7301"])?.listening()?;
        let near = backend()?;
        let intermediary = Kind::Ours.start([&far.addr, &near.addr])?;
        ensure!(answering(&intermediary.addr)? == far.addr);
        ensure!(answering(&intermediary.addr)? == near.addr);
        unplug()?;
        for _ in 0..4 {
            ensure!(answering(&intermediary.addr)? == near.addr);
        }
        intermediary.process.expect("10.0.0.2:7301 is down")?;
        plug_in()?;
        intermediary.process.expect("10.0.0.2:7301 is up again")?;
        until("it gets clients again", || Ok(answering(&intermediary.addr)? == far.addr))
    })
}
