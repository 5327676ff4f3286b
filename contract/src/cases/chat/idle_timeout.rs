//! After IDLE seconds without input: a goodbye, and the connection is closed. 0 means never.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::room::{HAS_IDLE_TIMEOUT, Member};
use crate::case::{MANY_DESCRIPTORS, Need};
use crate::chat_client::join_many;
use crate::wait::seconds;
use crate::{Case, ChatClient, Client, Target};

pub const CASES: &[Case] = &[
    Case::new("goodbye", "an idle client receives a goodbye and EOF", goodbye),
    Case::new(
        "counts_from_the_last_input",
        "input postpones the deadline",
        counts_from_the_last_input,
    ),
    Case::new("active_client_stays", "an active client stays", active_client_stays),
    Case::new("receiving_is_idle", "a client that only receives is idle", receiving_is_idle),
    Case::new("two_hundred_at_once", "200 clients receive their goodbye", two_hundred_at_once),
    INPUT_BEFORE_DEADLINE,
    Case::new(
        "burst_before_deadline",
        "input of 400 clients that arrived in time counts, even if it is read late",
        burst_before_deadline,
    )
    .needs(&[MANY_DESCRIPTORS]),
    Case::new("never", "with IDLE 0 a client may be idle for ever", never),
];

pub const INPUT_BEFORE_DEADLINE: Case = Case::new(
    "input_before_deadline",
    "input that arrived in time counts, even if it is read late",
    input_before_deadline,
)
.needs(&[Need::Process, HAS_IDLE_TIMEOUT]);

const GOODBYE: &str = "* idle for 1 s, goodbye";
const IDLE: Duration = Duration::from_secs(1);

fn goodbye(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let start = Instant::now();
        let client = ChatClient::join(server)?;
        client.expect_line(GOODBYE)?;
        ensure!(start.elapsed() >= IDLE, "the goodbye came after {:?}", start.elapsed());
        client.expect_end()?;
        // Nobody is left.
        let client = ChatClient::join(server)?;
        client.expect_names(&[client.name()])
    })
}

fn counts_from_the_last_input(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let client = ChatClient::join(server)?;
        thread::sleep(IDLE / 4);
        let last = Instant::now();
        // Part of a line is input too.
        client.send(b"er")?;
        client.expect_line(GOODBYE)?;
        ensure!(last.elapsed() >= IDLE, "the goodbye came {:?} after input", last.elapsed());
        client.expect_end()
    })
}

/// If the machine stops this client for so long that it is idle itself, the case tries again.
fn active_client_stays(target: &Target) -> Result<()> {
    const TRIES: usize = 10;
    target.with_argument("1").launch().serve(|server| {
        for _ in 0..TRIES {
            let client = ChatClient::join(server)?;
            let start = Instant::now();
            let (mut last, mut longest) = (start, Duration::ZERO);
            let mut stays = true;
            while stays && start.elapsed() < IDLE + IDLE / 2 {
                thread::sleep(IDLE / 20);
                // The response shows that the server has read the request.
                stays = client.who().is_ok();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            if stays {
                return Ok(());
            }
            ensure!(longest > IDLE / 2, "the goodbye came, although no pause was over {longest:?}");
        }
        bail!("this machine is too busy for the case")
    })
}

fn receiving_is_idle(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let start = Instant::now();
        let (sender, receiver) = (ChatClient::join(server)?, ChatClient::join(server)?);
        sender.expect_line(&format!("* {} joined", receiver.name()))?;
        loop {
            sender.send_line("are you there?")?;
            let line = receiver.next_line()?;
            if line == GOODBYE {
                break;
            }
            ensure!(line.ends_with(": are you there?"), "it received {line:?}");
            ensure!(start.elapsed() < 20 * IDLE, "a client that only receives stays for ever");
            thread::sleep(IDLE / 20);
        }
        ensure!(start.elapsed() >= IDLE, "the goodbye came after {:?}", start.elapsed());
        receiver.expect_end()?;
        sender.expect_line(&format!("* {} left", receiver.name()))
    })
}

fn two_hundred_at_once(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let clients = join_many(server, 200)?;
        for client in &clients {
            loop {
                let line = client.next_line()?;
                if line == GOODBYE {
                    break;
                }
                let expected = line.ends_with(" joined") || line.ends_with(" left");
                ensure!(expected, "{} received {line:?}", client.name());
            }
            client.expect_end()?;
        }
        let last = ChatClient::join(server)?;
        ensure!(last.others() == 0, "{} others are still in the room", last.others());
        Ok(())
    })
}

/// The server was stopped for longer than IDLE, so its timer has expired. But input has arrived
/// before, and the server has to read that first.
fn input_before_deadline(target: &Target) -> Result<()> {
    let idle = target.properties.idle_timeout.unwrap_or(IDLE);
    target.with_argument("1").launch().serve(|server| {
        for _ in 0..3 {
            let mut member = Member::join(server)?;
            server.while_stopped(|| {
                member.send_line("/who")?;
                thread::sleep(2 * idle);
                Ok(())
            })?;
            let line = member.line()?;
            ensure!(
                line.starts_with("* here: "),
                "the server was stopped for {}, and the client, which was not idle, received \
                 {line:?}",
                seconds(2 * idle)
            );
            member.leave()?;
        }
        Ok(())
    })
}

/// When the server continues, 400 deadlines are over and 400 inputs have arrived, more than a server
/// takes at once. It must not judge a deadline while it has taken the input and not processed it.
fn burst_before_deadline(target: &Target) -> Result<()> {
    const CLIENTS: usize = 400;
    for (argument, idle) in [("1", IDLE), ("5", 5 * IDLE), ("20", 20 * IDLE)] {
        let mut in_time = false;
        target.with_argument(argument).launch().serve(|server| {
            let start = Instant::now();
            let clients = server.while_stopped(|| {
                (0..CLIENTS).map(|_| Client::connect(server)).collect::<Result<Vec<_>>>()
            })?;
            let clients: Vec<_> =
                clients.into_iter().map(ChatClient::new).collect::<Result<_>>()?;
            server.while_stopped(|| {
                // In no order, so that those whose deadline is first are not those that are read first.
                let mut senders: Vec<_> = clients.iter().collect();
                fastrand::Rng::with_seed(1).shuffle(&mut senders);
                senders.into_iter().try_for_each(|client| client.send_line("/x"))?;
                // Otherwise a deadline may have passed before the input arrived.
                in_time = start.elapsed() < idle;
                if in_time {
                    thread::sleep(idle + IDLE / 10);
                }
                Ok(())
            })?;
            if !in_time {
                return Ok(());
            }
            clients.iter().try_for_each(expect_response_to_unknown_command)
        })?;
        if in_time {
            return Ok(());
        }
    }
    bail!("this machine is too busy for the case")
}

/// Other clients may have joined and left before the response.
fn expect_response_to_unknown_command(client: &ChatClient) -> Result<()> {
    loop {
        let line = client.next_line()?;
        if line.starts_with("! unknown command /x") {
            return Ok(());
        }
        let is_event = line.ends_with(" joined") || line.ends_with(" left");
        ensure!(is_event, "{}, which was not idle, received {line:?}", client.name());
    }
}

fn never(target: &Target) -> Result<()> {
    target.with_argument("0").launch().serve(|server| {
        let client = ChatClient::join(server)?;
        thread::sleep(IDLE + IDLE / 4);
        client.expect_names(&[client.name()]).context("IDLE is 0")
    })
}
