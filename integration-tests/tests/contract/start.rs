//! An address that cannot be parsed, resolved or bound: one line on stderr that names it, exit
//! status 1 or 2, no backtrace. And what else the command line promises.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, ensure};
use integration_tests::{Client, Server};

use rustix::pipe::PipeFlags;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("unparsable", unparsable),
    Case::new("unresolvable", unresolvable),
    Case::new("not_ours", not_ours),
    Case::new("in_use", in_use),
    Case::new("not_utf8", not_utf8),
    Case::new("bad_argument", bad_argument).applies(|server| !server.bad_arguments.is_empty()),
    Case::new("surplus_argument", surplus_argument),
    Case::new("unknown_option", unknown_option),
    Case::new("help", help),
    Case::new("localhost", localhost),
    Case::new("ipv6", ipv6).lacks(no_ipv6),
    Case::new("dual_stack", dual_stack).lacks(no_ipv6),
    Case::new("stdout_closed", stdout_closed),
    Case::new("stdout_broken", stdout_broken),
];

/// With these arguments, it ends at once with one of these statuses and one line on stderr;
/// that line.
fn refuses<A: Into<OsString>>(
    server: &Server,
    arguments: impl IntoIterator<Item = A>,
    statuses: &[i32],
) -> Result<String> {
    let output = server.launch_with(arguments).output()?;
    let code = output.status.code();
    ensure!(code.is_some_and(|code| statuses.contains(&code)), "it ended with {}", output.status);
    ensure!(output.stdout.is_empty(), "it wrote to stdout: {:?}", output.stdout);
    let one_line = output.stderr.lines().count() == 1 && output.stderr.ends_with('\n');
    ensure!(one_line, "not one line on stderr: {:?}", output.stderr);
    Ok(output.stderr)
}

pub fn refuses_address(server: &Server, address: &str) -> Result<()> {
    let line = refuses(server, [address], &[1, 2]).with_context(|| format!("{address:?}"))?;
    ensure!(line.contains(address), "{address:?} is not named in {line:?}");
    Ok(())
}

pub fn unparsable(server: &Server) -> Result<()> {
    let bad = ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", ":0:0"];
    bad.into_iter().try_for_each(|address| refuses_address(server, address))
}

pub fn unresolvable(server: &Server) -> Result<()> {
    // A label of more than 63 characters is no name, so that nobody on the network is asked.
    refuses_address(server, &format!("{}.invalid:7000", "x".repeat(64)))
}

pub fn not_ours(server: &Server) -> Result<()> {
    // TEST-NET-3 (RFC 5737), which nobody has.
    refuses_address(server, "203.0.113.1:0")
}

fn in_use(server: &Server) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    refuses_address(server, &listener.local_addr()?.to_string())
}

pub fn not_utf8(server: &Server) -> Result<()> {
    let bad = || OsString::from_vec(b"\xff\xfe:0".to_vec());
    refuses(server, [bad()], &[1, 2])?;
    refuses(server, ["127.0.0.1:0".into(), bad()], &[1, 2])?;
    Ok(())
}

fn bad_argument(server: &Server) -> Result<()> {
    for &bad in server.bad_arguments {
        refuses(server, ["127.0.0.1:0", bad], &[1, 2]).with_context(|| format!("{bad:?}"))?;
    }
    Ok(())
}

pub fn surplus_argument(server: &Server) -> Result<()> {
    let arguments = ["127.0.0.1:0"].into_iter().chain(server.argument).chain(["surplus"]);
    refuses(server, arguments, &[2])?;
    Ok(())
}

pub fn unknown_option(server: &Server) -> Result<()> {
    refuses(server, ["--frobnicate"], &[2])?;
    refuses(server, ["127.0.0.1:0", "-x"], &[2])?;
    Ok(())
}

pub fn help(server: &Server) -> Result<()> {
    for option in ["-h", "--help"] {
        let output = server.launch_with([option]).output()?;
        ensure!(output.status.code() == Some(0), "it ended with {}", output.status);
        ensure!(output.stderr.is_empty(), "it wrote to stderr: {:?}", output.stderr);
        for part in ["Usage:", server.name, server.default_address, "RUST_LOG"] {
            ensure!(output.stdout.contains(part), "no {part:?} in {:?}", output.stdout);
        }
    }
    Ok(())
}

fn localhost(server: &Server) -> Result<()> {
    server.launch_with(["localhost:0"]).serve(|running| {
        ensure!(running.address().ip().is_loopback(), "it listens on {}", running.address());
        (server.greet)(&Client::connect(running)?)
    })
}

pub fn no_ipv6() -> Option<&'static str> {
    let missing = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    missing.then_some("this machine has no IPv6")
}

fn ipv6(server: &Server) -> Result<()> {
    server.launch_with(["[::1]:0"]).serve(|running| (server.greet)(&Client::connect(running)?))
}

fn dual_stack(server: &Server) -> Result<()> {
    server.launch_with(["[::]:0"]).serve(|running| {
        let port = running.address().port();
        let over_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        (server.greet)(&Client::connect_to(over_v4)?).context("over IPv4")?;
        let over_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        (server.greet)(&Client::connect_to(over_v6)?).context("over IPv6")
    })
}

fn stdout_closed(server: &Server) -> Result<()> {
    serves_unheard(server, None)
}

fn stdout_broken(server: &Server) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    drop(reader);
    serves_unheard(server, Some(writer))
}

fn serves_unheard(server: &Server, stdout: Option<OwnedFd>) -> Result<()> {
    let mut running = server.launch().start_unheard(stdout)?;
    let result = Client::connect(&running).and_then(|client| (server.greet)(&client));
    running.judge(result)
}
