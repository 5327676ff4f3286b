//! What the records say: which thread waited, which one copied, and whose message it was.

use std::collections::{HashMap, HashSet};

use super::play::{Play, What};
use super::servers::{Server, Step};
use super::strace::{Event, Nanos, Record, arguments};

/// Where it is not known when what a call waited for came, it has been blocked if it took so long.
const BLOCKED: Nanos = 1_000_000;
/// A write that took so long has waited for its peer to read: a client that reads late does so
/// after tens of milliseconds.
const BLOCKED_WRITE: Nanos = 5_000_000;

/// What a thread does in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is blocked until something comes.
    Waiting,
    /// Bytes go from the kernel to the process, or back.
    Copying,
    /// It returns at once, with nothing for either phase.
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    In,
    Out,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub args: String,
    /// What strace put after the `=`.
    pub result: String,
    pub start: Nanos,
    /// Where it did not return: the end of its thread, or of the play.
    pub end: Nanos,
    /// Until when it was blocked; the phase that it ended in follows.
    pub waited: Option<Nanos>,
    pub phase: Phase,
    /// Its name and whom it was about: `recvfrom(A)`.
    pub title: String,
    /// What came of it, in short: `= 6`.
    pub answer: String,
    /// It belongs to the bookkeeping and not to the two phases.
    pub minor: bool,
    /// It was asked for something that was not there.
    pub vain: bool,
    /// It would have waited, had there been nothing.
    pub patient: bool,
    pub client: Option<usize>,
    pub copied: Option<(Direction, u64)>,
    pub step: Option<&'static str>,
    /// It is none: the server's log says here that the kernel had done this.
    pub told: bool,
}

#[derive(Clone, Debug)]
pub struct Signal {
    pub name: String,
    pub at: Nanos,
    /// The thread and the call that sent it, where it was one of the process's own.
    pub from: Option<(usize, usize)>,
}

#[derive(Clone, Debug)]
pub struct Thread {
    pub tid: i32,
    pub role: String,
    pub born: Nanos,
    pub died: Option<Nanos>,
    /// In the order in which they began.
    pub calls: Vec<Call>,
    pub signals: Vec<Signal>,
}

/// Bytes, a connection or its end, on the way between a client and the call that took or sent them.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub client: usize,
    /// Of the client's deeds.
    pub deed: usize,
    pub thread: usize,
    /// Of the thread's calls.
    pub call: usize,
    pub direction: Direction,
}

/// A thread that slept until another one woke it.
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    /// Thread and call.
    pub by: (usize, usize),
    pub woken: (usize, usize),
}

#[derive(Debug)]
pub struct Story {
    pub server: &'static Server,
    pub play: Play,
    pub threads: Vec<Thread>,
    pub messages: Vec<Message>,
    pub wakes: Vec<Wake>,
}

impl Story {
    pub fn new(server: &'static Server, play: Play, records: &[Record]) -> Self {
        let mut teller = Teller::new(server, &play);
        teller.learn(records);
        let threads = teller.tell(records);
        let mut story = Self { server, play, threads, messages: Vec::new(), wakes: Vec::new() };
        story.match_messages();
        story.credit_kernel();
        story.find_waits();
        story.find_wakes();
        story.name_threads();
        story.find_signals();
        for thread in &mut story.threads {
            thread.number_steps(server.steps);
        }
        story.cut_to_play();
        story
    }

    /// Which call took which message: a client's bytes are counted, and so are those that the
    /// server copied on that client's connection.
    fn match_messages(&mut self) {
        for client in 0..self.play.clients.len() {
            for direction in [Direction::In, Direction::Out] {
                self.match_bytes(client, direction);
            }
        }
        let deeds = |client: usize, what: What| {
            self.play.clients[client].deeds.iter().position(|deed| deed.what == what)
        };
        for (thread, Thread { calls, .. }) in self.threads.iter().enumerate() {
            for (index, call) in calls.iter().enumerate() {
                let Some(client) = call.client else { continue };
                let what = match call.copied {
                    _ if call.name.starts_with("accept") => What::Connect,
                    Some((Direction::In, 0)) => What::Leave,
                    _ => continue,
                };
                let Some(deed) = deeds(client, what) else { continue };
                let direction = Direction::In;
                let message = Message { client, deed, thread, call: index, direction };
                self.messages.push(message);
            }
        }
    }

    fn match_bytes(&mut self, client: usize, direction: Direction) {
        let mut copies: Vec<_> = (self.threads.iter().enumerate())
            .flat_map(|(thread, Thread { calls, .. })| {
                calls.iter().enumerate().map(move |(index, call)| (thread, index, call))
            })
            .filter(|(.., call)| call.client == Some(client))
            .filter_map(|(thread, index, call)| match call.copied {
                Some((way, bytes)) if way == direction && bytes > 0 => {
                    Some((call.end, bytes, thread, index))
                }
                _ => None,
            })
            .collect();
        copies.sort_unstable();
        let deeds: Vec<_> = (self.play.clients[client].deeds.iter().enumerate())
            .filter_map(|(index, deed)| match (deed.what, direction) {
                (What::Send(bytes), Direction::In) | (What::Receive(bytes), Direction::Out) => {
                    Some((bytes, index))
                }
                _ => None,
            })
            .collect();
        // The offset in the stream behind the last byte of each.
        let ends = |lengths: &mut dyn Iterator<Item = u64>| {
            lengths.scan(0, |end, bytes| { *end += bytes; Some(*end) }).collect::<Vec<u64>>()
        };
        let copy_ends = ends(&mut copies.iter().map(|&(_, bytes, ..)| bytes));
        let deed_ends = ends(&mut deeds.iter().map(|&(bytes, _)| bytes));
        let holding = |ends: &[u64], offset| ends.partition_point(|&end| end <= offset);
        // Each is matched by its first byte; those of the receiving side that begin in the middle
        // of what was sent are of the same message.
        let pairs: Vec<(usize, usize)> = match direction {
            Direction::In => (0..deeds.len())
                .map(|deed| (holding(&copy_ends, deed_ends[deed] - deeds[deed].0), deed))
                .collect(),
            Direction::Out => (0..copies.len())
                .map(|copy| (copy, holding(&deed_ends, copy_ends[copy] - copies[copy].1)))
                .collect(),
        };
        for (copy, deed) in pairs {
            if let (Some(&(_, _, thread, call)), Some(&(_, deed))) = (copies.get(copy), deeds.get(deed)) {
                self.messages.push(Message { client, deed, thread, call, direction });
            }
        }
        if direction == Direction::In {
            // When the first byte of each read was sent.
            for (copy, &(_, bytes, thread, call)) in copies.iter().enumerate() {
                let deed = holding(&deed_ends, copy_ends[copy] - bytes);
                if let Some(&(_, deed)) = deeds.get(deed) {
                    let came = self.play.clients[client].deeds[deed].from;
                    self.threads[thread].calls[call].wait_until(came);
                }
            }
        }
    }

    /// The waits of the calls that wait for a client, and copy or accept once it has come.
    fn find_waits(&mut self) {
        for &Message { client, deed, thread, call, direction } in &self.messages {
            let deed = self.play.clients[client].deeds[deed];
            let call = &mut self.threads[thread].calls[call];
            if direction == Direction::In && matches!(deed.what, What::Connect | What::Leave) {
                call.wait_until(deed.from);
            }
        }
        for call in self.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
            if let (Some((Direction::Out, _)), Some(client)) = (call.copied, call.client) {
                if call.end - call.start > BLOCKED_WRITE {
                    let reads = self.play.clients[client].deeds.iter();
                    let read = reads.filter(|deed| matches!(deed.what, What::Receive(_)));
                    if let Some(read) = read.map(|deed| deed.from).find(|&at| at > call.start + BLOCKED) {
                        call.wait_until(read);
                    }
                }
            }
        }
    }

    /// What the log tells that the kernel had copied, it copied inside a call that waited: the last
    /// one before the server knew, for bytes that came; for bytes that went, the last one that had
    /// begun when the client had them.
    fn credit_kernel(&mut self) {
        for message in &mut self.messages {
            let calls = &mut self.threads[message.thread].calls;
            let told = &calls[message.call];
            if !told.told {
                continue;
            }
            let deed = self.play.clients[message.client].deeds[message.deed];
            let known = match message.direction {
                Direction::In => told.start,
                Direction::Out => told.start.min(deed.to),
            };
            let carrier = calls.iter().rposition(|call| call.phase_is_open() && call.start < known);
            let Some(carrier) = carrier else { continue };
            let (copied, call) = (told.copied.is_some(), &mut calls[carrier]);
            message.call = carrier;
            if !copied {
                continue;
            }
            let came = deed.from.min(call.end);
            if message.direction == Direction::In && came > call.start {
                call.waited = call.waited.max(Some(came));
                call.phase = Phase::Copying;
            } else if call.end - call.start < BLOCKED && call.waited.is_none() {
                call.phase = Phase::Copying;
            }
        }
        // Bytes of a message that came in several parts.
        for calls in self.threads.iter_mut().map(|thread| &mut thread.calls) {
            for told in 0..calls.len() {
                if calls[told].told && calls[told].copied.is_some_and(|(way, _)| way == Direction::In) {
                    let carrier = calls[..told].iter().rposition(Call::phase_is_open);
                    if let Some(call) = carrier.map(|carrier| &mut calls[carrier]) {
                        if call.end - call.start < BLOCKED && call.waited.is_none() {
                            call.phase = Phase::Copying;
                        }
                    }
                }
            }
        }
        self.credit_answers();
    }

    /// An `io_uring_enter` ends when another thread writes to an eventfd that the kernel reads.
    fn credit_answers(&mut self) {
        let writes: Vec<Nanos> = (self.threads.iter().flat_map(|thread| &thread.calls))
            .filter(|call| call.title == "write(eventfd)")
            .map(|call| call.start)
            .collect();
        for call in self.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
            let told = |&at: &Nanos| call.start < at && at < call.end;
            if call.phase_is_open() && call.phase == Phase::Waiting && writes.iter().any(told) {
                "= eventfd".clone_into(&mut call.answer);
            }
        }
    }

    /// `futex` tells who woke whom.
    fn find_wakes(&mut self) {
        let of = |call: &Call| call.args.split(',').next().unwrap_or_default().to_owned();
        for (thread, Thread { calls, .. }) in self.threads.iter().enumerate() {
            for (index, call) in calls.iter().enumerate() {
                let slept = call.name == "futex" && call.phase == Phase::Waiting && !call.minor;
                if !slept || call.result != "0" {
                    continue;
                }
                let word = of(call);
                let by = (self.threads.iter().enumerate())
                    .filter(|&(other, _)| other != thread)
                    .flat_map(|(other, Thread { calls, .. })| {
                        calls.iter().enumerate().map(move |(index, call)| ((other, index), call))
                    })
                    .filter(|(_, wake)| wake.name == "futex" && wake.args.contains("FUTEX_WAKE"))
                    .filter(|(_, wake)| wake.start < call.end && of(wake) == word && wake.result != "0")
                    .max_by_key(|(_, wake)| wake.start);
                if let Some((by, _)) = by {
                    self.wakes.push(Wake { by, woken: (thread, index) });
                }
            }
        }
        for &Wake { by: (thread, call), .. } in &self.wakes {
            self.threads[thread].calls[call].minor = false;
        }
    }

    /// Signals that were not delivered but fetched, and who sent those that came from within.
    fn find_signals(&mut self) {
        const SOON: Nanos = 20_000_000;
        for thread in &mut self.threads {
            for call in &thread.calls {
                let name = match call.answer.strip_prefix("= ") {
                    Some(signal) if call.name == "rt_sigtimedwait" => signal.to_owned(),
                    _ if call.title == "read(signalfd)" && !call.vain => String::new(),
                    _ => continue,
                };
                thread.signals.push(Signal { name, at: call.end, from: None });
            }
            thread.signals.sort_by_key(|signal| signal.at);
        }
        for thread in 0..self.threads.len() {
            for index in 0..self.threads[thread].calls.len() {
                let call = &self.threads[thread].calls[index];
                if !matches!(call.name.as_str(), "rt_sigqueueinfo" | "tgkill" | "kill") {
                    continue;
                }
                let start = call.start;
                let Some(name) = arguments(&call.args).into_iter().find(|part| part.starts_with("SIG")) else {
                    continue;
                };
                let name = name.to_owned();
                self.threads[thread].calls[index].answer.clone_from(&name);
                let taken = (self.threads.iter_mut().flat_map(|thread| &mut thread.signals))
                    .filter(|signal| signal.name.is_empty() || signal.name == name)
                    .filter(|signal| (start..start + SOON).contains(&signal.at))
                    .min_by_key(|signal| signal.at);
                if let Some(signal) = taken {
                    // One that is pending already is not sent again: the first sender counts.
                    signal.name = name;
                    signal.from = signal.from.or(Some((thread, index)));
                }
            }
        }
    }

    /// A thread that works for one client only is named after it.
    fn name_threads(&mut self) {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut taken: HashMap<String, usize> = HashMap::new();
        for thread in &mut self.threads {
            if thread.role != self.server.unnamed {
                continue;
            }
            let number = numbers.entry(thread.role.clone()).or_default();
            *number += 1;
            let mut clients = thread.calls.iter().filter(|call| call.copied.is_some()).map(|call| call.client);
            let first = clients.next().flatten();
            match first {
                Some(client) if clients.all(|other| other == first) => {
                    thread.role += &format!(" of {}", self.play.clients[client].name);
                }
                _ => thread.role += &format!(" {number}"),
            }
            // One helper may follow another in the service of the same client.
            let count = taken.entry(thread.role.clone()).or_default();
            *count += 1;
            if *count > 1 {
                thread.role += &format!(" ({count})");
            }
        }
        // What a call that started a thread returned is more than a number now.
        let roles: HashMap<i32, String> =
            self.threads.iter().map(|thread| (thread.tid, thread.role.clone())).collect();
        for call in self.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
            if call.name.starts_with("clone") || call.name.ends_with("fork") {
                if let Some(role) = leading_number(&call.result).and_then(|tid| roles.get(&tid)) {
                    call.answer = role.clone();
                }
            }
        }
    }

    /// Leaves out what was over before the first act and what began after the last.
    fn cut_to_play(&mut self) {
        let start = self.play.acts.first().map_or(0, |act| act.at);
        let end = self.play.end;
        let mut kept_threads = Vec::new();
        let mut indices = HashMap::new();
        for (number, mut thread) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let mut kept = Vec::new();
            for (index, mut call) in thread.calls.into_iter().enumerate() {
                if call.end > start && call.start < end {
                    if call.end > end {
                        call.waited = call.waited.map(|waited| waited.min(end));
                        call.end = end;
                        call.answer.clear(); // nobody knows yet
                    }
                    indices.insert((number, index), (kept_threads.len(), kept.len()));
                    kept.push(call);
                }
            }
            thread.calls = kept;
            thread.signals.retain(|signal| (start..end).contains(&signal.at));
            if !thread.calls.is_empty() {
                kept_threads.push(thread);
            }
        }
        self.threads = kept_threads;
        self.messages.retain_mut(|message| {
            let new = indices.get(&(message.thread, message.call));
            new.inspect(|new| (message.thread, message.call) = **new).is_some()
        });
        for signal in self.threads.iter_mut().flat_map(|thread| &mut thread.signals) {
            signal.from = signal.from.and_then(|from| indices.get(&from).copied());
        }
        self.wakes.retain_mut(|wake| match (indices.get(&wake.by), indices.get(&wake.woken)) {
            (Some(&by), Some(&woken)) => {
                *wake = Wake { by, woken };
                true
            }
            _ => false,
        });
    }
}

impl Call {
    /// What it waited for came at `time`.
    ///
    /// strace times the length of a call from a moment after the one that it prints: that a call
    /// seems to end before that came which ended it can only be due to this.
    fn wait_until(&mut self, time: Nanos) {
        if time > self.start && self.phase != Phase::Waiting && self.patient {
            self.end = self.end.max(time);
            self.waited = Some(time);
        }
    }

    /// It is a wait in which the kernel may copy.
    fn phase_is_open(&self) -> bool {
        self.name == "io_uring_enter"
    }

    /// Its phases in their order, each with its beginning and its end.
    pub fn phases(&self) -> Vec<(Phase, Nanos, Nanos)> {
        match self.waited {
            None => vec![(self.phase, self.start, self.end)],
            Some(until) => vec![
                (Phase::Waiting, self.start, until),
                (self.phase, until, self.end),
            ],
        }
    }

    /// The phase in which it spent most of its time.
    pub fn main_phase(&self) -> Phase {
        let longest = self.phases().into_iter().max_by_key(|(_, from, to)| to - from);
        longest.map_or(self.phase, |(phase, ..)| phase)
    }
}

/// Makes calls of records; knows what the trace has told about descriptors so far.
struct Teller<'a> {
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
}

impl<'a> Teller<'a> {
    fn new(server: &'static Server, play: &'a Play) -> Self {
        Self {
            server,
            play,
            tokens: HashMap::new(),
            sockets: HashMap::new(),
            listener: None,
            numbers: HashMap::new(),
            impatient: HashSet::new(),
        }
    }

    /// Which sockets are whose: `accept` and `getpeername` say it, perhaps later than they are used.
    fn learn(&mut self, records: &[Record]) {
        for record in records {
            let Event::Call { name, args, result, .. } = &record.event else { continue };
            let parts = arguments(args);
            let first = parts.first().copied();
            let socket = match name.as_str() {
                "accept" | "accept4" => result.as_deref(),
                "getpeername" => first,
                "listen" => {
                    self.listener = first.and_then(identity).map(str::to_owned);
                    continue;
                }
                _ => continue,
            };
            let port = args.split_once("htons(").and_then(|(_, rest)| rest.split(')').next());
            if let (Some(socket), Some(client)) = (socket, port.and_then(|port| self.at_port(port))) {
                self.sockets.extend(identity(socket).map(|socket| (socket.to_owned(), client)));
                self.numbers.extend(number_of(socket).map(|number| (number.to_owned(), client)));
            }
        }
    }

    fn tell(&mut self, records: &[Record]) -> Vec<Thread> {
        let mut threads: Vec<Thread> = Vec::new();
        let main_comm = records.first().map(|record| record.tid).and_then(|main| {
            records.iter().rfind(|record| record.tid == main).map(|record| record.comm.clone())
        });
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
            // A thread takes a name of its own after it has begun.
            if index > 0 && Some(&record.comm) != main_comm.as_ref() {
                threads[index].role = record.comm.clone();
            }
            match &record.event {
                Event::Call { name, args, result, end } => {
                    let until = end.unwrap_or(Nanos::MAX);
                    let result = result.as_deref().unwrap_or("?");
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
            answer: error.map_or_else(|| format!("= {}", result.split(['<', ' ']).next().unwrap_or_default()), str::to_owned),
            minor: is_minor(name),
            vain,
            patient: !args.contains("MSG_DONTWAIT")
                && parts.first().copied().and_then(identity).is_none_or(|socket| !self.impatient.contains(socket)),
            client,
            copied,
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
        } else if copy_direction(name).is_some() && number.is_some() && end.saturating_sub(start) > BLOCKED {
            // A pipe, an eventfd: nobody's data, but a wait all the same.
            call.waited = Some(end);
        } else if name.starts_with("accept") && !vain && end.saturating_sub(start) > BLOCKED {
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
                let fd = call.args.split_once("si_int=").and_then(|(_, rest)| rest.split(',').next());
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
            let client = self.peer(described).map(|client| self.play.clients[client].name.to_string());
            client.or_else(|| self.kind(described).map(str::to_owned))
        };
        let among = |number: &str| {
            let described = format!("{number}<");
            let mut found = call.args.match_indices(&described);
            let (at, _) = found.find(|&(at, _)| {
                call.args[..at].ends_with(['[', ' ', '='])
            })?;
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

    /// What is behind a descriptor that is no client's, in a word.
    fn kind(&self, described: &str) -> Option<&'static str> {
        let identity = identity(described)?;
        if self.listener.as_deref() == Some(identity) {
            return Some("listener");
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

impl Thread {
    /// A sleep that a signal ended was a wait for that signal.
    fn end_suspensions(&mut self) {
        for call in &mut self.calls {
            let ended = call.result.contains("ERESTART") || call.answer == "EINTR" || call.answer.is_empty();
            if call.phase == Phase::Waiting && ended {
                let next = self.signals.iter().find(|signal| signal.at >= call.end);
                if let Some(signal) = next.filter(|signal| signal.at - call.end < BLOCKED) {
                    call.answer = format!("until {}", signal.name);
                }
            }
        }
    }

    fn number_steps(&mut self, steps: &'static [Step]) {
        let mut answered = String::new();
        for call in &mut self.calls {
            if is_wait(&call.name) && call.name != "futex" {
                answered = format!("{} {}", call.args, call.answer);
            }
            let step = steps.iter().find(|step| {
                self.role.starts_with(step.thread)
                    && call.name == step.call
                    && !call.vain
                    && (!call.minor || call.name != "epoll_ctl")
                    && (call.args.contains(step.with) || call.answer.contains(step.with))
                    && answered.contains(step.after)
            });
            call.step = step.map(|step| step.number);
            // Where it wakes nobody, nobody sleeps: it is a step all the same.
            call.minor &= call.step.is_none();
        }
    }
}

/// Calls that only wait.
pub fn is_wait(name: &str) -> bool {
    matches!(
        name,
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "poll" | "ppoll" | "select" | "pselect6"
            | "rt_sigsuspend" | "rt_sigtimedwait" | "pause" | "futex" | "nanosleep"
            | "clock_nanosleep" | "io_uring_enter" | "wait4"
    )
}

fn copy_direction(name: &str) -> Option<Direction> {
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
        "setsockopt" | "getsockopt" | "getsockname" | "getpeername" | "ioctl" | "fcntl" | "close"
            | "rt_sigreturn" | "exit" | "socket" | "wait4"
    )
}

/// What is not the server's own: its log, and the check of std's debug builds before each close.
fn is_hidden(name: &str, args: &str) -> bool {
    (name == "write" && (args.starts_with("2<") || args.starts_with("2,")))
        || (name == "fcntl" && args.ends_with("F_GETFD"))
        || name.starts_with("exit")
}

/// What strace says is behind a descriptor: `socket:[17813284]` of `8<socket:[17813284]>`.
fn identity(described: &str) -> Option<&str> {
    described.split_once('<')?.1.split('>').next()
}

/// The number of a descriptor: `8`.
fn number_of(described: &str) -> Option<&str> {
    described.split('<').next()
}

fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.char_indices().find(|&(at, c)| !(c.is_ascii_digit() || at == 0 && c == '-'));
    text[..end.map_or(text.len(), |(at, _)| at)].parse().ok()
}
