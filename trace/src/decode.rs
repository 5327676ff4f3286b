//! Turns the records of a trace into threads with calls: which client each call is about, what
//! it returned, and to which phase it belongs.

mod log_lines;
mod waits;

use std::collections::{HashMap, HashSet};

use crate::call::{BLOCKED, Call, Phase, Signal, Thread};
use crate::servers::Server;
use crate::session::Session;
use crate::sockets::{Sockets, identity};
use crate::strace::{Event, Nanos, Record, arguments, leading_number};
use crate::syscalls::{Direction, copy_direction, is_hidden, is_minor, is_wait};

/// Returns the threads of a trace, the main thread first.
pub fn decode(server: &Server, session: &Session, records: &[Record]) -> Vec<Thread> {
    let mut decoder = Decoder {
        server,
        session,
        sockets: Sockets::new(session, records),
        user_data: HashMap::new(),
        nonblocking: HashSet::new(),
    };
    decoder.threads(records)
}

/// What the records so far say about the server's file descriptors.
struct Decoder<'a> {
    server: &'a Server,
    session: &'a Session,
    sockets: Sockets,
    /// The descriptor that `epoll_ctl` registered with each user data, which `epoll_wait` returns.
    user_data: HashMap<String, String>,
    /// The sockets that were set to non-blocking.
    nonblocking: HashSet<String>,
}

impl Decoder<'_> {
    fn threads(&mut self, records: &[Record]) -> Vec<Thread> {
        let mut threads: Vec<Thread> = Vec::new();
        for record in records {
            let index = threads.iter().position(|thread| thread.tid == record.tid);
            let index = index.unwrap_or_else(|| {
                let unnamed = self.server.notes.unnamed_threads;
                threads.push(Thread {
                    tid: record.tid,
                    role: if threads.is_empty() { "main" } else { unnamed }.to_owned(),
                    born: record.at,
                    died: None,
                    calls: Vec::new(),
                    signals: Vec::new(),
                });
                threads.len() - 1
            });
            self.add(record, &mut threads[index]);
        }
        for thread in &mut threads {
            let end = thread.died.unwrap_or(self.session.end.max(thread.born));
            for call in thread.calls.iter_mut().filter(|call| call.end == Nanos::MAX) {
                call.end = end.max(call.start);
            }
            thread.name_interruptions();
        }
        // In the order in which they were created, not in which they first ran.
        if let Some((_main, others)) = threads.split_first_mut() {
            others.sort_by_key(|thread| thread.tid);
        }
        threads
    }

    fn add(&mut self, record: &Record, thread: &mut Thread) {
        match &record.event {
            Event::Call { name, args, result, end } => {
                if let Some(own_name) = thread_name(name, args) {
                    own_name.clone_into(&mut thread.role);
                }
                if let Some(call) = self.log_line(name, args, record.at) {
                    thread.calls.push(call);
                } else if !is_hidden(name, args) {
                    let result = result.as_deref().unwrap_or("?");
                    let end = end.unwrap_or(Nanos::MAX);
                    thread.calls.push(self.call(name, args, result, record.at, end));
                }
                if name.starts_with("exit") {
                    thread.died = Some(record.at);
                }
            }
            Event::Signal { name } => {
                let signal = Signal { name: name.clone(), at: record.at, sender: None };
                thread.signals.push(signal);
            }
            Event::Exit => thread.died = Some(record.at),
        }
    }

    fn call(&mut self, name: &str, args: &str, result: &str, start: Nanos, end: Nanos) -> Call {
        let parts = arguments(args);
        let first = parts.first().copied();
        let number = leading_number::<i64>(result);
        let error = result.split(' ').find(|word| word.starts_with('E') && word.len() > 2);
        let client = if is_wait(name) { None } else { self.client(name, &parts, result) };
        let copied = match (copy_direction(name), number) {
            (Some(direction), Some(count)) if count >= 0 && client.is_some() => {
                Some((direction, count as u64))
            }
            _ => None,
        };
        let socket = first.and_then(identity);
        let sets_nonblocking = args.contains("FIONBIO, [1]") || args.contains("O_NONBLOCK");
        if sets_nonblocking && matches!(name, "ioctl" | "fcntl") {
            self.nonblocking.extend(socket.map(str::to_owned));
        }
        let is_nonblocking = socket.is_some_and(|socket| self.nonblocking.contains(socket));
        let mut call = Call {
            name: name.to_owned(),
            args: args.to_owned(),
            result: result.to_owned(),
            start,
            end,
            blocked_until: None,
            phase: if copied.is_some() { Phase::Copying } else { Phase::Neither },
            label: name.to_owned(),
            outcome: error.map_or_else(
                || format!("= {}", result.split(['<', ' ']).next().unwrap_or_default()),
                str::to_owned,
            ),
            minor: is_minor(name),
            would_block: error == Some("EAGAIN"),
            can_block: !args.contains("MSG_DONTWAIT") && !is_nonblocking,
            client,
            copied,
            pair: first.and_then(|first| self.sockets.pair(first)).cloned(),
            step: None,
            from_log: false,
        };
        self.set_label(&mut call, first);
        if is_wait(name) {
            self.describe_wait(&mut call, &parts, number);
        } else if name == "epoll_ctl" {
            self.describe_epoll_ctl(&mut call, &parts);
        } else if name == "fcntl" {
            call.minor = !args.contains("O_ASYNC") && !args.contains("FASYNC");
            if !call.minor {
                "O_ASYNC".clone_into(&mut call.outcome);
            }
        } else if name == "close" && client.is_some() {
            call.minor = false;
            call.outcome.clear();
        } else if let Some((direction, count)) = copied {
            describe_copy(&mut call, &parts, direction, count);
        } else if call.can_block {
            note_blocking(&mut call, number);
        }
        call
    }

    /// Puts the client, or what else the call is about, behind its name.
    fn set_label(&self, call: &mut Call, descriptor: Option<&str>) {
        let name = &call.name;
        if let Some(client) = call.client {
            if name.starts_with("accept") {
                call.outcome = format!("= {}", self.client_name(client));
            } else {
                call.label = format!("{name}({})", self.client_name(client));
            }
        } else if let Some(kind) = descriptor.and_then(|descriptor| self.sockets.kind(descriptor)) {
            if copy_direction(name).is_some() {
                call.label = format!("{name}({kind})");
                call.outcome.clear();
            }
        }
    }

    fn client_name(&self, client: usize) -> char {
        self.session.clients[client].name
    }

    /// Returns the client that a call is about: by the descriptor, by what `accept` returned, or
    /// by the address of a datagram.
    fn client(&self, name: &str, parts: &[&str], result: &str) -> Option<usize> {
        if name.starts_with("accept") {
            return self.sockets.client(result);
        }
        let by_descriptor = self.sockets.client(parts.first()?);
        by_descriptor.or_else(|| parts.iter().find_map(|part| self.sockets.client_in_address(part)))
    }
}

fn describe_copy(call: &mut Call, parts: &[&str], direction: Direction, count: u64) {
    if direction == Direction::In && count == 0 {
        "= 0, end".clone_into(&mut call.outcome);
    }
    let length = parts.get(2).and_then(|part| part.parse::<u64>().ok());
    if let Some(length) = length.filter(|&length| direction == Direction::Out && count < length) {
        call.outcome = format!("= {count} of {length}");
    }
}

/// Notes that a call which copied nothing for a client was blocked all the same.
fn note_blocking(call: &mut Call, number: Option<i64>) {
    let was_blocked = call.end.saturating_sub(call.start) > BLOCKED;
    let reads = copy_direction(&call.name) == Some(Direction::In);
    if reads && number.is_none() {
        // Interrupted, or it never returned.
        call.phase = Phase::Waiting;
    } else if reads && number.is_some_and(|count| count >= 0) && was_blocked {
        // A read of a pipe or an eventfd.
        call.blocked_until = Some(call.end);
    } else if call.name.starts_with("accept") && !call.would_block && was_blocked {
        call.blocked_until = Some(call.end);
    }
}

/// Returns the name that a thread gives itself by `prctl(PR_SET_NAME, "worker-1")`.
fn thread_name<'a>(name: &str, args: &'a str) -> Option<&'a str> {
    let quoted = args.strip_prefix("PR_SET_NAME, ").filter(|_| name == "prctl")?;
    quoted.strip_prefix('"')?.split('"').next()
}
