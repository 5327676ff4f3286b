//! An address that cannot be parsed, resolved or bound: one line on stderr that names it, exit
//! status 1 or 2, no backtrace. And what else the command line promises.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::pipe::PipeFlags;
use socket2::{Domain, Socket, Type};

use crate::case::{Case, Need};
use crate::server::Launch;
use crate::target::Origin;
use crate::wait::{TIMEOUT, seconds, timeout, wait_until};
use crate::{Client, Kind, Server, Target, filter};

pub const CASES: &[Case] = &[
    IN_USE,
    UNPARSABLE,
    UNRESOLVABLE,
    NOT_ASSIGNED,
    NOT_UTF8,
    Case::new("bad_argument", "a bad second argument is refused in one line", bad_argument).needs(
        &[
            Need::Workspace,
            Need::Property(
                |target| target.entry().is_some_and(|entry| !entry.bad_arguments.is_empty()),
                "the server has no second argument",
            ),
        ],
    ),
    SURPLUS_ARGUMENT,
    UNKNOWN_OPTION,
    HELP,
    Case::new("localhost", "the server listens on a host name", localhost)
        .needs(&[Need::Workspace]),
    Case::new("ipv6", "the server listens on an IPv6 address", ipv6)
        .needs(&[Need::Workspace, IPV6]),
    Case::new("dual_stack", "on [::] the server serves IPv4 and IPv6", dual_stack)
        .needs(&[Need::Workspace, IPV6]),
    Case::new("stdout_closed", "the server serves with stdout closed", |target| {
        serves_without_stdout(target, None)
    })
    .needs(&[Need::Process]),
    Case::new(
        "stdout_broken",
        "the server serves although its stdout is a broken pipe",
        |target| {
            let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            drop(reader);
            serves_without_stdout(target, Some(writer))
        },
    )
    .needs(&[Need::Process]),
    Case::new(
        "few_descriptors",
        "with few file descriptors the server serves, or ends without announcing itself",
        few_descriptors,
    )
    .needs(&[Need::Process]),
    Case::new(
        "no_threads",
        "if no thread can be created the server serves, or ends without announcing itself",
        no_threads,
    )
    .needs(&[Need::Process, filter::SECCOMP]),
    Case::new(
        "no_io_uring",
        "if the kernel refuses io_uring, the message names the call and the usual reason",
        no_io_uring,
    )
    .needs(&[
        Need::Workspace,
        Need::Property(|target| target.name.contains("uring"), "the server does not use io_uring"),
        filter::SECCOMP,
    ]),
    Case::new(
        "many_inherited_descriptors",
        "with 1100 inherited file descriptors the server serves, or ends without announcing itself",
        many_inherited_descriptors,
    )
    .needs(&[Need::Process, crate::case::MANY_DESCRIPTORS]),
    Case::new(
        "sigterm_during_lookup",
        "SIGTERM ends the server at once while it waits for a name server",
        sigterm_during_lookup,
    )
    .needs(&[Need::Process, HOST, crate::case::ROOT])
    .exclusive(),
];

const HOST: Need = Need::Property(
    |target| match &target.origin {
        Origin::Command(command) => command.has_host(),
        _ => true,
    },
    "the command contains neither {addr} nor {host}",
);

pub const IN_USE: Case =
    Case::new("in_use", "an address in use ends the server with a message", in_use)
        .needs(&[
            Need::Process,
            Need::Property(
                |target| match &target.origin {
                    Origin::Command(command) => command.has_free_port(),
                    _ => true,
                },
                "the address of the server is fixed",
            ),
        ])
        .quick();
pub const UNPARSABLE: Case =
    Case::new("unparsable", "an address that cannot be parsed is named in one line", unparsable)
        .needs(&[Need::Workspace]);
pub const UNRESOLVABLE: Case =
    Case::new("unresolvable", "a name that cannot be resolved is named in one line", unresolvable)
        .needs(&[Need::Workspace]);
pub const NOT_ASSIGNED: Case =
    Case::new("not_assigned", "an address of another machine is named in one line", not_assigned)
        .needs(&[Need::Workspace]);
pub const NOT_UTF8: Case =
    Case::new("not_utf8", "arguments that are not UTF-8 are refused in one line", not_utf8)
        .needs(&[Need::Workspace]);
pub const SURPLUS_ARGUMENT: Case =
    Case::new("surplus_argument", "a surplus argument is refused in one line", surplus_argument)
        .needs(&[Need::Workspace]);
pub const UNKNOWN_OPTION: Case =
    Case::new("unknown_option", "an unknown option is refused in one line", unknown_option)
        .needs(&[Need::Workspace]);
pub const HELP: Case =
    Case::new("help", "--help says how to start the server", help).needs(&[Need::Workspace]);

/// For the cases over IPv6.
pub const IPV6: Need = Need::Machine(|| {
    let missing = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    missing.then_some("this machine has no IPv6")
});

/// Checks that with these arguments the server ends at once with one of these statuses and one line
/// on stderr. Returns the line.
fn refuses<A: Into<OsString>>(
    target: &Target,
    arguments: impl IntoIterator<Item = A>,
    statuses: &[i32],
) -> Result<String> {
    refuses_to_start(target.launch_with(arguments), statuses)
}

/// The same for a server that is ready to start.
fn refuses_to_start(launch: Launch, statuses: &[i32]) -> Result<String> {
    let output = launch.output()?;
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| statuses.contains(&code)),
        "the server ended with {}",
        output.status
    );
    ensure!(output.stdout.is_empty(), "the server wrote to stdout: {:?}", output.stdout);
    let one_line = output.stderr.lines().count() == 1 && output.stderr.ends_with('\n');
    ensure!(one_line, "stderr is not one line: {:?}", output.stderr);
    Ok(output.stderr)
}

fn refuses_address(target: &Target, address: &str) -> Result<()> {
    let line = refuses(target, [address], &[1, 2]).with_context(|| format!("{address:?}"))?;
    ensure!(line.contains(address), "{line:?} does not name {address:?}");
    Ok(())
}

fn unparsable(target: &Target) -> Result<()> {
    let bad = ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", ":0:0"];
    bad.into_iter().try_for_each(|address| refuses_address(target, address))
}

fn unresolvable(target: &Target) -> Result<()> {
    // A label of more than 63 characters is not a name, so no name server is asked.
    refuses_address(target, &format!("{}.invalid:7000", "x".repeat(64)))
}

fn not_assigned(target: &Target) -> Result<()> {
    // TEST-NET-3 (RFC 5737), which no machine has.
    refuses_address(target, "203.0.113.1:0")
}

fn in_use(target: &Target) -> Result<()> {
    if let Origin::Command(command) = &target.origin {
        return command_in_use(target, command);
    }
    if target.entry().is_some_and(|entry| entry.kind == Kind::Datagram) {
        let taken = UdpSocket::bind("127.0.0.1:0")?;
        return refuses_address(target, &taken.local_addr()?.to_string());
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    refuses_address(target, &listener.local_addr()?.to_string())
}

/// Listens on the port, on all addresses of this machine, whichever the server binds.
fn take(port: u16) -> Result<TcpListener> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    if let Ok(socket) = Socket::new(Domain::IPV6, Type::STREAM, None) {
        socket.set_only_v6(false)?;
        socket.bind(&all.into())?;
        socket.listen(1)?;
        return Ok(socket.into());
    }
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)
}

/// Some servers try again for a few seconds: nginx for 2.5.
fn command_in_use(target: &Target, command: &crate::command::Command) -> Result<()> {
    let (_, _, address) = command.instance();
    let _taken = take(address.port())?;
    let (program, arguments, _) = command.instance_at(address);
    let launch = Launch::new(target.name.clone(), arguments).program(PathBuf::from(program));
    let limit = 3 * timeout();
    let output = launch.output_within(limit).with_context(|| {
        format!("{address} is in use, and after {} the server still runs", seconds(limit))
    })?;
    ensure!(!output.status.success(), "{address} is in use, but the server ended with status 0");
    ensure!(
        output.status.code().is_some_and(|code| code != 101 && code != 134),
        "{address} is in use: the server ended with {}",
        output.status
    );
    let message = output.stdout + &output.stderr;
    ensure!(!message.trim().is_empty(), "{address} is in use, and the server printed nothing");
    Ok(())
}

fn not_utf8(target: &Target) -> Result<()> {
    let bad = || OsString::from_vec(b"\xff\xfe:0".to_vec());
    refuses(target, [bad()], &[1, 2])?;
    refuses(target, ["127.0.0.1:0".into(), bad()], &[1, 2])?;
    Ok(())
}

fn bad_argument(target: &Target) -> Result<()> {
    let entry = target.entry().context("not a server of the workspace")?;
    for &bad in entry.bad_arguments {
        refuses(target, ["127.0.0.1:0", bad], &[1, 2]).with_context(|| format!("{bad:?}"))?;
    }
    Ok(())
}

fn surplus_argument(target: &Target) -> Result<()> {
    let further = target.entry().map_or(&[][..], |entry| entry.further_arguments);
    let usual = ["127.0.0.1:0"].into_iter().chain(target.argument()).chain(further.iter().copied());
    refuses(target, usual.chain(["surplus"]), &[2])?;
    Ok(())
}

fn unknown_option(target: &Target) -> Result<()> {
    refuses(target, ["--frobnicate"], &[2])?;
    refuses(target, ["127.0.0.1:0", "-x"], &[2])?;
    Ok(())
}

fn help(target: &Target) -> Result<()> {
    let entry = target.entry().context("not a server of the workspace")?;
    for option in ["-h", "--help"] {
        let output = target.launch_with([option]).output()?;
        ensure!(output.status.code() == Some(0), "the server ended with {}", output.status);
        ensure!(output.stderr.is_empty(), "the server wrote to stderr: {:?}", output.stderr);
        for part in ["Usage:", entry.name, entry.kind.default_address(), "RUST_LOG"] {
            ensure!(output.stdout.contains(part), "{part:?} is not in {:?}", output.stdout);
        }
    }
    Ok(())
}

fn localhost(target: &Target) -> Result<()> {
    for address in ["localhost:0", "[localhost]:0"] {
        target.launch_with([address]).serve(|server| {
            let ip = server.address().ip();
            ensure!(ip.is_loopback(), "with {address} the server listens on {ip}");
            target.greet(&Client::connect(server)?)
        })?;
    }
    Ok(())
}

fn ipv6(target: &Target) -> Result<()> {
    for address in ["[::1]:0", "[::1%lo]:0"] {
        target
            .launch_with([address])
            .serve(|server| target.greet(&Client::connect(server)?))
            .with_context(|| address.to_owned())?;
    }
    Ok(())
}

fn dual_stack(target: &Target) -> Result<()> {
    target.launch_with(["[::]:0"]).serve(|server| {
        let port = server.address().port();
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        target.greet(&Client::connect_with(v4, &target.probe)?).context("over IPv4")?;
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        target.greet(&Client::connect_with(v6, &target.probe)?).context("over IPv6")
    })
}

fn serves_without_stdout(target: &Target, stdout: Option<OwnedFd>) -> Result<()> {
    let mut server = target.launch().start_without_stdout(stdout)?;
    let result = Client::connect(&server).and_then(|client| target.greet(&client));
    server.check_result(result)
}

/// Checks that the server either serves, or ends with status 1 and one line on stderr before it
/// has announced itself.
///
/// Returns whether it has responded to a client.
fn serves_or_ends(target: &Target, launch: impl Fn() -> Launch) -> Result<bool> {
    let Some(mut server) = start_or_end(target, launch())? else { return Ok(false) };
    // It has announced itself, so it has to serve a client now or later.
    let client = Client::connect(&server);
    if let Ok(client) = &client {
        let _ = client.send_request(1);
    }
    // Once it waits for events, it has done all that can fail. Not every server waits. A command may
    // have listened before it does what fails, so it gets time to respond, or to print the backtrace
    // of a panic.
    let is_command = target.entry().is_none();
    let limit = Duration::from_millis(if is_command { 3000 } else { 200 });
    let (start, grace) = (Instant::now(), Duration::from_millis(300));
    let mut responds = false;
    let _ = wait_until("the server to wait", limit, || {
        responds = client.as_ref().is_ok_and(|it| it.has_response().unwrap_or(false));
        let may_sleep = !is_command || start.elapsed() > grace;
        let waits = responds || may_sleep && server.is_asleep()?;
        Ok((waits || server.has_ended()?).then_some(()))
    });
    if is_command && server.has_ended()? {
        let (status, _) = server.wait(TIMEOUT)?;
        expect_not_announced(target, status, &server.log()?)?;
        return Ok(false);
    }
    server
        .check_result(Ok(()))
        .context("the server announced itself, or listened, and then ended")?;
    client.with_context(|| target.name.clone())?;
    Ok(responds)
}

/// Starts the server. Returns `None` if it ended instead, with status 1 and one line on stderr, and
/// without having announced itself.
pub fn start_or_end(target: &Target, launch: Launch) -> Result<Option<Server>> {
    let output = match launch.start_or_output() {
        // A wrapper, such as a shell that tries again to fork, has not announced anything either.
        Err(_) if target.entry().is_none() => return Ok(None),
        result => match result? {
            Ok(server) => return Ok(Some(server)),
            Err(output) => output,
        },
    };
    ensure!(!output.status.success(), "the server ended with status 0");
    if target.entry().is_none() {
        let log = format!("{}\n{}", output.stdout, output.stderr);
        expect_not_announced(target, output.status, &log)?;
        return Ok(None);
    }
    ensure!(output.status.code() == Some(1), "the server ended with {}", output.status);
    ensure!(
        output.stdout.is_empty(),
        "the server announced itself and then ended: {:?}",
        output.stdout
    );
    ensure!(output.stderr.lines().count() >= 1, "the server ended without a message");
    ensure!(!output.stderr.contains("panicked"), "the server panicked: {:?}", output.stderr);
    Ok(None)
}

/// A command may listen before it does what fails, and its runtime may abort, as long as it has
/// not announced that it serves.
fn expect_not_announced(target: &Target, status: ExitStatus, log: &str) -> Result<()> {
    let beginning = format!("{} listening on ", target.name);
    if let Some(line) = log.lines().find(|line| line.starts_with(&beginning)) {
        bail!("the server announced itself ({line:?}) and then ended: {status}");
    }
    Ok(())
}

/// stdin, stdout and stderr are open; each server needs a few more.
fn few_descriptors(target: &Target) -> Result<()> {
    for limit in 4..=14 {
        let responds = serves_or_ends(target, || target.quiet().launch().fd_limit(limit))
            .with_context(|| format!("with RLIMIT_NOFILE {limit}"))?;
        // With more it has no reason to fail. A command may take long to start.
        if responds && target.entry().is_none() {
            break;
        }
    }
    Ok(())
}

fn no_threads(target: &Target) -> Result<()> {
    let filter = filter::no_clone()?;
    serves_or_ends(target, || target.quiet().launch().filter(filter.clone())).map(drop)
}

/// Each error has other usual reasons: the setting of a limit, a setting of the kernel, a container.
fn no_io_uring(target: &Target) -> Result<()> {
    let reasons = [
        (libc::ENOMEM, "RLIMIT_MEMLOCK"),
        (libc::EPERM, "kernel.io_uring_disabled"),
        (libc::ENOSYS, "a kernel without io_uring"),
    ];
    for (error, reason) in reasons {
        let launch = target.launch().filter(filter::no_io_uring(error)?);
        let line = refuses_to_start(launch, &[1])?;
        for part in ["io_uring_setup", reason] {
            ensure!(line.contains(part), "{line:?} does not contain {part:?}");
        }
    }
    Ok(())
}

fn many_inherited_descriptors(target: &Target) -> Result<()> {
    serves_or_ends(target, || target.quiet().launch().inherited_below(1100)).map(drop)
}

/// A name server that never answers: the resolver repeats its question for several seconds.
fn sigterm_during_lookup(target: &Target) -> Result<()> {
    const NAME: &str = "slow.example.com";
    let silent = UdpSocket::bind("127.0.0.53:53").or_else(|_| UdpSocket::bind("127.0.0.9:53"));
    let silent = silent.context("cannot take the port of a name server")?;
    let configuration = format!("nameserver {}\n", silent.local_addr()?.ip());
    let launch = match &target.origin {
        Origin::Command(command) => {
            let (program, arguments) = command.with_host_name(NAME);
            Launch::new(target.name.clone(), arguments).program(PathBuf::from(program))
        }
        _ => target.launch_with([format!("{NAME}:0")]),
    };
    let mut server = launch.resolver(&configuration)?.spawn()?;
    // It has asked when the question has arrived.
    silent.set_read_timeout(Some(Duration::from_millis(20)))?;
    let asks = wait_until("the server to ask the name server", timeout(), || {
        Ok((silent.recv(&mut [0; 512]).is_ok() || server.has_ended()?).then_some(()))
    });
    if target.entry().is_none() && (asks.is_err() || server.has_ended()?) {
        return Ok(()); // it takes only IP addresses, or asks in another way
    }
    asks?;
    server.signal(rustix::process::Signal::TERM)?;
    let (status, time) = server.wait(timeout().max(Duration::from_secs(2)))?;
    ensure!(time < Duration::from_secs(2), "the server took {} to end: {status}", seconds(time));
    Ok(())
}
