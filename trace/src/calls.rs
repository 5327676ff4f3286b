//! From the lines of a trace to calls: whose they are, what came of them, and in which phase.

use std::collections::{HashMap, HashSet};

use crate::play::Play;
use crate::servers::Server;
use crate::story::{BLOCKED, Call, Direction, Phase, Signal, Thread};
use crate::strace::{Event, Nanos, Record, arguments};

/// Makes calls of records; knows what the trace has told about descriptors so far.
pub struct Teller<'a> {
    server: &'static Server,
    play: &'a Play,
    /// What `epoll_wait` will hand back for a descriptor, as `epoll_ctl` was told.
    tokens: HashMap<String, String>,
    /// Which client is at the far end of a socket, by what strace says is behind its descriptor.
    sockets: HashMap<String, usize>,
    listener: Option<String>,
    /// Which client is behind a descriptor's number: what the server's log goes by.
    numbers: HashMap<String, usize>,
    /// The sockets that do not block.
    impatient: HashSet<String>,
    /// The sockets that came in pairs, each with what `socketpair` returned.
    pairs: HashMap<String, String>,
}

impl<'a> Teller<'a> {
    pub fn new(server: &'static Server, play: &'a Play) -> Self {
        Self {
            server,
            play,
            tokens: HashMap::new(),
            sockets: HashMap::new(),
            listener: None,
            numbers: HashMap::new(),
            impatient: HashSet::new(),
            pairs: HashMap::new(),
        }
    }

    /// Which sockets are whose: `accept` and `getpeername` say it, perhaps later than they are used;
    /// and `socketpair`, which are the process's own.
    pub fn learn(&mut self, records: &[Record]) {
        for record in records {
            let Event::Call { name, args, result, .. } = &record.event else { continue };
            let parts = arguments(args);
            let first = parts.first().copied();
            let socket = match name.as_str() {
                "accept" | "accept4" => result.as_deref(),
                "getpeername" => first,
                "socketpair" => {
                    let ends = parts.last().copied().unwrap_or_default();
                    let sockets = ends.split(',').filter_map(identity);
                    self.pairs.extend(sockets.map(|socket| (socket.to_owned(), ends.to_owned())));
                    continue;
                }
                "listen" => {
                    self.listener = first.and_then(identity).map(str::to_owned);
                    continue;
                }
                _ => continue,
            };
            let port = args.split_once("htons(").and_then(|(_, rest)| rest.split(')').next());
            if let (Some(socket), Some(client)) = (socket, port.and_then(|port| self.at_port(port)))
            {
                self.sockets.extend(identity(socket).map(|socket| (socket.to_owned(), client)));
                self.numbers.extend(number_of(socket).map(|number| (number.to_owned(), client)));
            }
        }
    }

    pub fn tell(&mut self, records: &[Record]) -> Vec<Thread> {
        let mut threads: Vec<Thread> = Vec::new();
        for record in records {
            let index = threads.iter().position(|thread| thread.tid == record.tid);
            let index = index.unwrap_or_else(|| {
                let role = if threads.is_empty() { "main" } else { self.server.unnamed };
                threads.push(Thread {
                    tid: record.tid,
                    role: role.to_owned(),
                    born: record.at,
                    died: None,
                    calls: Vec::new(),
                    signals: Vec::new(),
                });
                threads.len() - 1
            });
            match &record.event {
                Event::Call { name, args, result, end } => {
                    let until = end.unwrap_or(Nanos::MAX);
                    let result = result.as_deref().unwrap_or("?");
                    if let Some(own) = own_name(name, args) {
                        own.clone_into(&mut threads[index].role);
                    }
                    let calls = &mut threads[index].calls;
                    if let Some(told) = self.told(name, args, record.at) {
                        calls.push(told);
                    } else if !is_hidden(name, args) {
                        calls.push(self.call(name, args, result, record.at, until));
                    }
                    if name.starts_with("exit") {
                        threads[index].died = Some(record.at);
                    }
                }
                Event::Signal { name, .. } => {
                    threads[index].signals.push(Signal {
                        name: name.clone(),
                        at: record.at,
                        from: None,
                    });
                }
                Event::Exit => threads[index].died = Some(record.at),
            }
        }
        for thread in &mut threads {
            let end = thread.died.unwrap_or(self.play.end.max(thread.born));
            for call in thread.calls.iter_mut().filter(|call| call.end == Nanos::MAX) {
                call.end = end.max(call.start);
            }
            thread.end_suspensions();
        }
        // In the order in which they were started, and not in that in which they got to run.
        if let Some((_main, others)) = threads.split_first_mut() {
            others.sort_by_key(|thread| thread.tid);
        }
        threads
    }

    fn call(&mut self, name: &str, args: &str, result: &str, start: Nanos, end: Nanos) -> Call {
        let parts = arguments(args);
        let number = leading_number::<i64>(result);
        let error = result.split(' ').find(|word| word.starts_with('E') && word.len() > 2);
        let wait = is_wait(name);
        let client = if wait { None } else { self.client(name, &parts, result) };
        let copied = match (copy_direction(name), number) {
            (Some(direction), Some(count)) if count >= 0 && client.is_some() => {
                Some((direction, count as u64))
            }
            _ => None,
        };
        let vain = error == Some("EAGAIN");
        let unblocks = args.contains("FIONBIO, [1]") || args.contains("O_NONBLOCK");
        if unblocks && (name == "ioctl" || name == "fcntl") {
            self.impatient.extend(parts.first().copied().and_then(identity).map(str::to_owned));
        }
        let mut call = Call {
            name: name.to_owned(),
            args: args.to_owned(),
            result: result.to_owned(),
            start,
            end,
            waited: None,
            phase: if copied.is_some() { Phase::Copying } else { Phase::Neither },
            title: name.to_owned(),
            answer: error.map_or_else(
                || format!("= {}", result.split(['<', ' ']).next().unwrap_or_default()),
                str::to_owned,
            ),
            minor: is_minor(name),
            vain,
            patient: !args.contains("MSG_DONTWAIT")
                && parts
                    .first()
                    .copied()
                    .and_then(identity)
                    .is_none_or(|socket| !self.impatient.contains(socket)),
            client,
            copied,
            pair: self.pair(parts.first().copied()).cloned(),
            step: None,
            told: false,
        };
        let name_of = |client: usize| self.play.clients[client].name;
        if let Some(client) = client {
            if name.starts_with("accept") {
                call.answer = format!("= {}", name_of(client));
            } else {
                call.title = format!("{name}({})", name_of(client));
            }
        } else if let Some(kind) = parts.first().and_then(|first| self.kind(first)) {
            if copy_direction(name).is_some() {
                call.title = format!("{name}({kind})");
                call.answer.clear();
            }
        }
        if wait {
            self.describe_wait(&mut call, &parts, number);
        } else if name == "epoll_ctl" {
            self.note_interest(&mut call, &parts);
        } else if name == "fcntl" {
            call.minor = !args.contains("O_ASYNC") && !args.contains("FASYNC");
            if !call.minor {
                "O_ASYNC".clone_into(&mut call.answer);
            }
        } else if name == "close" && call.client.is_some() {
            call.minor = false;
            call.answer.clear();
        } else if let Some((direction, count)) = copied {
            if direction == Direction::In && count == 0 {
                "= 0, end".clone_into(&mut call.answer);
            } else if let Some(asked) = parts.get(2).and_then(|part| part.parse::<u64>().ok()) {
                if direction == Direction::Out && count < asked {
                    call.answer = format!("= {count} of {asked}");
                }
            }
        } else if call.patient
            && copy_direction(name) == Some(Direction::In)
            && number.is_some_and(|count| count >= 0)
            && end.saturating_sub(start) > BLOCKED
        {
            // A pipe, an eventfd: nobody's data, but a wait all the same.
            call.waited = Some(end);
        } else if call.patient && copy_direction(name) == Some(Direction::In) && number.is_none() {
            // Interrupted, or never over.
            call.phase = Phase::Waiting;
        } else if call.patient
            && name.starts_with("accept")
            && !vain
            && end.saturating_sub(start) > BLOCKED
        {
            // Interrupted, or never over.
            call.waited = Some(end);
        }
        call
    }

    /// The waiting calls: for how long, and what ended them.
    fn describe_wait(&self, call: &mut Call, parts: &[&str], number: Option<i64>) {
        let lock = call.name == "futex" && !call.args.contains("FUTEX_WAIT");
        let timeout = if call.name.starts_with("epoll") { 3 } else { 2 };
        let polled = parts.get(timeout) == Some(&"0") && call.name.contains("poll");
        let at_once = polled || call.args.contains("{tv_sec=0, tv_nsec=0}") || call.vain;
        let timed_wait = call.name == "rt_sigtimedwait" && number.is_some_and(|signal| signal > 0);
        if lock {
            call.minor = true;
            if let Some(count) = number {
                call.answer = format!("wakes {count}");
            }
            return;
        }
        if !at_once {
            call.phase = Phase::Waiting;
        } else if !timed_wait {
            call.minor |= call.name == "futex";
            return;
        }
        if call.name == "io_uring_enter" {
            call.answer = match parts.get(1) {
                Some(&"0") | None => String::new(),
                Some(count) => format!("submits {count}"),
            };
        } else if call.name == "futex" {
            // Shorter ones are about a lock that was held for a moment.
            call.minor = call.end.saturating_sub(call.start) < BLOCKED;
            "sleeps".clone_into(&mut call.answer);
        } else if call.name.starts_with("rt_sig") || call.name == "pause" {
            let signal = call.result.split_once('(').map(|(_, name)| name.trim_end_matches(')'));
            if let (Some(signal), Some(_)) = (signal, number) {
                call.answer = format!("= {signal}");
                let fd =
                    call.args.split_once("si_int=").and_then(|(_, rest)| rest.split(',').next());
                if let Some(&client) = fd.and_then(|fd| self.numbers.get(fd)) {
                    call.answer += &format!(", {}", self.play.clients[client].name);
                }
            } else {
                call.answer.clear();
            }
        } else if number.is_some_and(|count| count > 0) {
            let ready = self.ready(call, parts);
            if !ready.is_empty() {
                call.answer = format!("= {}", ready.join(", "));
            }
        }
    }

    /// Who is ready, as far as it is a client or the listener.
    fn ready(&self, call: &Call, parts: &[&str]) -> Vec<String> {
        let name = |described: &str| {
            let client =
                self.peer(described).map(|client| self.play.clients[client].name.to_string());
            client.or_else(|| self.kind(described).map(str::to_owned))
        };
        let among = |number: &str| {
            let described = format!("{number}<");
            let mut found = call.args.match_indices(&described);
            let (at, _) = found.find(|&(at, _)| call.args[..at].ends_with(['[', ' ', '=']))?;
            name(&call.args[at..])
        };
        match call.name.as_str() {
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => parts
                .get(1)
                .into_iter()
                .flat_map(|events| events.split("u64=").skip(1))
                .filter_map(|event| event.split(['}', ',']).next())
                .filter_map(|token| self.tokens.get(token).and_then(|described| name(described)))
                .collect(),
            "poll" | "ppoll" => (call.result.split("{fd=").skip(1))
                .filter_map(|fd| among(fd.split([',', '<']).next()?))
                .collect(),
            "select" | "pselect6" => (call.result.split(['[', ' ', ']', ')']))
                .map(|word| word.split('<').next().unwrap_or_default())
                .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()))
                .skip(1)
                .filter_map(among)
                .collect(),
            _ => Vec::new(),
        }
    }

    fn note_interest(&mut self, call: &mut Call, parts: &[&str]) {
        let [_, operation, target, rest @ ..] = parts else { return };
        let event = rest.first().copied().unwrap_or_default();
        if let Some(token) = event.split("u64=").nth(1).and_then(|rest| rest.split('}').next()) {
            self.tokens.insert(token.to_owned(), (*target).to_owned());
        }
        let verb = operation.trim_start_matches("EPOLL_CTL_");
        let way = match (event.contains("EPOLLIN"), event.contains("EPOLLOUT")) {
            (true, true) => " in+out",
            (true, false) => " in",
            (false, true) => " out",
            (false, false) => "",
        };
        call.answer = format!("{verb}{way}");
        if let Some(client) = self.peer(target) {
            call.client = Some(client);
            call.title = format!("epoll_ctl({})", self.play.clients[client].name);
        } else {
            // Timers and the like.
            let kind = self.kind(target);
            call.minor = kind != Some("listener");
            if let Some(kind) = kind {
                call.title = format!("epoll_ctl({kind})");
            }
        }
    }

    /// Whose call it is: by the descriptor, by what `accept` returned, by a datagram's address.
    fn client(&self, name: &str, parts: &[&str], result: &str) -> Option<usize> {
        if name.starts_with("accept") {
            return self.peer(result);
        }
        self.peer(parts.first()?).or_else(|| {
            let port = parts.iter().find_map(|part| part.split_once("htons("))?.1;
            self.at_port(port.split(')').next()?)
        })
    }

    /// `8<socket:[17813284]>`: the client at its far end.
    fn peer(&self, described: &str) -> Option<usize> {
        self.sockets.get(identity(described)?).copied()
    }

    /// The pair of which a descriptor is one end.
    fn pair(&self, described: Option<&str>) -> Option<&String> {
        self.pairs.get(identity(described?)?)
    }

    /// What is behind a descriptor that is no client's, in a word.
    fn kind(&self, described: &str) -> Option<&'static str> {
        let identity = identity(described)?;
        if self.listener.as_deref() == Some(identity) {
            return Some("listener");
        }
        if self.pairs.contains_key(identity) {
            return Some("pair");
        }
        let kinds = [
            ("anon_inode:[signalfd]", "signalfd"),
            ("anon_inode:[eventfd]", "eventfd"),
            ("anon_inode:[timerfd]", "timerfd"),
            ("pipe:[", "pipe"),
        ];
        kinds.into_iter().find(|(start, _)| identity.starts_with(start)).map(|(_, kind)| kind)
    }

    fn at_port(&self, port: &str) -> Option<usize> {
        let port: u16 = port.parse().ok()?;
        self.play.clients.iter().position(|client| client.port == port)
    }

    /// What the server's log tells that the kernel has done, in what is written to stderr:
    /// `copy: recv(8) = 6`, and `127.0.0.1:41254 came`.
    fn told(&self, name: &str, args: &str, at: Nanos) -> Option<Call> {
        if !(self.server.kernel_copies && name == "write" && args.starts_with('2')) {
            return None;
        }
        let mut call = Call {
            name: String::new(),
            args: args.to_owned(),
            result: String::new(),
            start: at,
            end: at,
            waited: None,
            phase: Phase::Copying,
            title: String::new(),
            answer: String::new(),
            minor: false,
            vain: false,
            patient: false,
            client: None,
            copied: None,
            pair: None,
            step: None,
            told: true,
        };
        if let Some((before, _)) = args.split_once(" came") {
            let client = self.at_port(before.rsplit(':').next()?)?;
            "accept".clone_into(&mut call.name);
            call.title.clone_from(&call.name);
            call.answer = format!("= {}", self.play.clients[client].name);
            call.client = Some(client);
            return Some(call);
        }
        let (operation, rest) = args.split_once("copy: ")?.1.split_once('(')?;
        let (number, rest) = rest.split_once(") = ")?;
        let count: u64 = leading_number(rest)?;
        let client = *self.numbers.get(number)?;
        let outward = operation.contains("send") || operation.contains("write");
        operation.clone_into(&mut call.name);
        call.title = format!("{operation}({})", self.play.clients[client].name);
        call.answer = if count == 0 { "= 0, end".to_owned() } else { format!("= {count}") };
        call.client = Some(client);
        call.copied = Some((if outward { Direction::Out } else { Direction::In }, count));
        Some(call)
    }
}

/// Calls that only wait.
pub fn is_wait(name: &str) -> bool {
    matches!(
        name,
        "epoll_wait"
            | "epoll_pwait"
            | "epoll_pwait2"
            | "poll"
            | "ppoll"
            | "select"
            | "pselect6"
            | "rt_sigsuspend"
            | "rt_sigtimedwait"
            | "pause"
            | "futex"
            | "nanosleep"
            | "clock_nanosleep"
            | "io_uring_enter"
            | "wait4"
    )
}

pub fn copy_direction(name: &str) -> Option<Direction> {
    match name {
        "read" | "readv" | "pread64" | "preadv" | "recvfrom" | "recvmsg" | "recvmmsg" => {
            Some(Direction::In)
        }
        "write" | "writev" | "pwrite64" | "pwritev" | "sendto" | "sendmsg" | "sendmmsg" => {
            Some(Direction::Out)
        }
        _ => None,
    }
}

fn is_minor(name: &str) -> bool {
    matches!(
        name,
        "setsockopt"
            | "getsockopt"
            | "getsockname"
            | "getpeername"
            | "ioctl"
            | "fcntl"
            | "close"
            | "rt_sigreturn"
            | "exit"
            | "socket"
            | "wait4"
    )
}

/// What is not the server's own: its log, and the check of std's debug builds before each close.
fn is_hidden(name: &str, args: &str) -> bool {
    (name == "write" && (args.starts_with("2<") || args.starts_with("2,")))
        || (name == "fcntl" && args.ends_with("F_GETFD"))
        || name.starts_with("exit")
        || name == "prctl"
}

/// The name that a thread gives itself: `prctl(PR_SET_NAME, "worker-1")`.
fn own_name<'a>(name: &str, args: &'a str) -> Option<&'a str> {
    let quoted = args.strip_prefix("PR_SET_NAME, ").filter(|_| name == "prctl")?;
    quoted.strip_prefix('"')?.split('"').next()
}

/// What strace says is behind a descriptor: `socket:[17813284]` of `8<socket:[17813284]>`.
fn identity(described: &str) -> Option<&str> {
    described.split_once('<')?.1.split('>').next()
}

/// The number of a descriptor: `8`.
fn number_of(described: &str) -> Option<&str> {
    described.split('<').next()
}

pub fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.char_indices().find(|&(at, c)| !(c.is_ascii_digit() || at == 0 && c == '-'));
    text[..end.map_or(text.len(), |(at, _)| at)].parse().ok()
}
