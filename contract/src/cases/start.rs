//! An address that cannot be parsed, resolved or bound: one line on stderr that names it, exit
//! status 1 or 2, no backtrace. And what else the command line promises.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, ensure};

use crate::{Client, Target};

use rustix::pipe::PipeFlags;

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("unparsable", unparsable),
    Case::new("unresolvable", unresolvable),
    Case::new("not_ours", not_ours),
    Case::new("in_use", in_use),
    Case::new("not_utf8", not_utf8),
    Case::new("bad_argument", bad_argument)
        .applies(|target| !target.entry.bad_arguments.is_empty()),
    Case::new("surplus_argument", surplus_argument),
    Case::new("unknown_option", unknown_option),
    Case::new("help", help),
    Case::new("localhost", localhost),
    Case::new("ipv6", ipv6).unavailable(no_ipv6),
    Case::new("dual_stack", dual_stack).unavailable(no_ipv6),
    Case::new("stdout_closed", stdout_closed),
    Case::new("stdout_broken", stdout_broken),
];

/// With these arguments, it ends at once with one of these statuses and one line on stderr;
/// that line.
fn refuses<A: Into<OsString>>(
    target: &Target,
    arguments: impl IntoIterator<Item = A>,
    statuses: &[i32],
) -> Result<String> {
    let output = target.launch_with(arguments).output()?;
    let code = output.status.code();
    ensure!(code.is_some_and(|code| statuses.contains(&code)), "it ended with {}", output.status);
    ensure!(output.stdout.is_empty(), "it wrote to stdout: {:?}", output.stdout);
    let one_line = output.stderr.lines().count() == 1 && output.stderr.ends_with('\n');
    ensure!(one_line, "not one line on stderr: {:?}", output.stderr);
    Ok(output.stderr)
}

pub fn refuses_address(target: &Target, address: &str) -> Result<()> {
    let line = refuses(target, [address], &[1, 2]).with_context(|| format!("{address:?}"))?;
    ensure!(line.contains(address), "{address:?} is not named in {line:?}");
    Ok(())
}

pub fn unparsable(target: &Target) -> Result<()> {
    let bad = ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", ":0:0"];
    bad.into_iter().try_for_each(|address| refuses_address(target, address))
}

pub fn unresolvable(target: &Target) -> Result<()> {
    // A label of more than 63 characters is no name, so that nobody on the network is asked.
    refuses_address(target, &format!("{}.invalid:7000", "x".repeat(64)))
}

pub fn not_ours(target: &Target) -> Result<()> {
    // TEST-NET-3 (RFC 5737), which nobody has.
    refuses_address(target, "203.0.113.1:0")
}

fn in_use(target: &Target) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    refuses_address(target, &listener.local_addr()?.to_string())
}

pub fn not_utf8(target: &Target) -> Result<()> {
    let bad = || OsString::from_vec(b"\xff\xfe:0".to_vec());
    refuses(target, [bad()], &[1, 2])?;
    refuses(target, ["127.0.0.1:0".into(), bad()], &[1, 2])?;
    Ok(())
}

fn bad_argument(target: &Target) -> Result<()> {
    for &bad in target.entry.bad_arguments {
        refuses(target, ["127.0.0.1:0", bad], &[1, 2]).with_context(|| format!("{bad:?}"))?;
    }
    Ok(())
}

pub fn surplus_argument(target: &Target) -> Result<()> {
    let arguments = ["127.0.0.1:0"].into_iter().chain(target.argument).chain(["surplus"]);
    refuses(target, arguments, &[2])?;
    Ok(())
}

pub fn unknown_option(target: &Target) -> Result<()> {
    refuses(target, ["--frobnicate"], &[2])?;
    refuses(target, ["127.0.0.1:0", "-x"], &[2])?;
    Ok(())
}

pub fn help(target: &Target) -> Result<()> {
    for option in ["-h", "--help"] {
        let output = target.launch_with([option]).output()?;
        ensure!(output.status.code() == Some(0), "it ended with {}", output.status);
        ensure!(output.stderr.is_empty(), "it wrote to stderr: {:?}", output.stderr);
        for part in ["Usage:", target.name, target.entry.kind.default_address(), "RUST_LOG"] {
            ensure!(output.stdout.contains(part), "no {part:?} in {:?}", output.stdout);
        }
    }
    Ok(())
}

fn localhost(target: &Target) -> Result<()> {
    target.launch_with(["localhost:0"]).serve(|server| {
        ensure!(server.address().ip().is_loopback(), "it listens on {}", server.address());
        target.greet(&Client::connect(server)?)
    })
}

pub fn no_ipv6() -> Option<&'static str> {
    let missing = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    missing.then_some("this machine has no IPv6")
}

fn ipv6(target: &Target) -> Result<()> {
    target.launch_with(["[::1]:0"]).serve(|server| target.greet(&Client::connect(server)?))
}

fn dual_stack(target: &Target) -> Result<()> {
    target.launch_with(["[::]:0"]).serve(|server| {
        let port = server.address().port();
        let over_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        target.greet(&Client::connect_to(over_v4)?).context("over IPv4")?;
        let over_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        target.greet(&Client::connect_to(over_v6)?).context("over IPv6")
    })
}

fn stdout_closed(target: &Target) -> Result<()> {
    serves_unheard(target, None)
}

fn stdout_broken(target: &Target) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    drop(reader);
    serves_unheard(target, Some(writer))
}

fn serves_unheard(target: &Target, stdout: Option<OwnedFd>) -> Result<()> {
    let mut server = target.launch().start_without_stdout(stdout)?;
    let result = Client::connect(&server).and_then(|client| target.greet(&client));
    server.check_result(result)
}
