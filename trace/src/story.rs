//! What the records say: which thread waited, which one copied, and whose message it was.

use std::collections::{HashMap, HashSet};

use crate::calls::{Teller, copy_direction, is_wait, leading_number};
use crate::play::{Play, What, moment};
use crate::servers::{Server, Step};
use crate::strace::{Nanos, Record, arguments};

/// Where it is not known when what a call waited for came, it has been blocked if it took so long.
pub const BLOCKED: Nanos = 1_000_000;
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts that have nothing to do with each other"
)]
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
    /// The pair of sockets of one end of which it reads or writes, if it does: that is how a thread
    /// tells another one something.
    pub pair: Option<String>,
    pub step: Option<&'static Step>,
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

/// A thread that slept until another one woke it, or read what another one had written for it.
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
        story.correct_ends();
        story.match_messages();
        story.credit_kernel();
        story.find_waits();
        story.find_wakes();
        story.name_threads();
        story.find_signals();
        story.number_steps();
        story.cut_to_play();
        story
    }

    /// The less, the calmer the machine was: the play was short, and in each act nothing came long
    /// after that to which it is the answer.
    pub fn unrest(&self) -> Nanos {
        let deeds = || self.play.clients.iter().flat_map(|client| &client.deeds).map(moment);
        let calls = || self.threads.iter().flat_map(|thread| &thread.calls);
        let late = |act: usize| {
            let here = self.play.acts[act].at..self.play.act_end(act);
            let begun = calls().filter(|call| !call.vain && here.contains(&call.start));
            let after = |call: &Call| {
                let before = deeds().filter(|&at| here.start <= at && at <= call.start).max();
                before.map_or(0, |before| call.start - before)
            };
            begun.map(after).max().unwrap_or(0)
        };
        self.play.unrest() + (0..self.play.acts.len()).map(late).sum::<Nanos>()
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
            lengths
                .scan(0, |end, bytes| {
                    *end += bytes;
                    Some(*end)
                })
                .collect::<Vec<u64>>()
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
            if let (Some(&(_, _, thread, call)), Some(&(_, deed))) =
                (copies.get(copy), deeds.get(deed))
            {
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
                if call.patient && call.end - call.start > BLOCKED_WRITE {
                    let reads = self.play.clients[client].deeds.iter();
                    let read = reads.filter(|deed| matches!(deed.what, What::Receive(_)));
                    if let Some(read) =
                        read.map(|deed| deed.from).find(|&at| at > call.start + BLOCKED)
                    {
                        call.wait_until(read);
                    }
                }
            }
        }
    }

    /// A wait ends after that which it waited for: see [`Call::wait_until`].
    fn correct_ends(&mut self) {
        let mut deeds: Vec<Nanos> = (self.play.clients.iter())
            .flat_map(|client| client.deeds.iter().map(|deed| deed.from))
            .collect();
        deeds.sort_unstable();
        for thread in &mut self.threads {
            for index in 0..thread.calls.len() {
                let next = thread.calls.get(index + 1).map_or(self.play.end, |next| next.start);
                let call = &mut thread.calls[index];
                if call.phase != Phase::Waiting || call.end - call.start < BLOCKED {
                    continue;
                }
                let first = deeds.partition_point(|&deed| deed <= call.end - BLOCKED);
                if let Some(&deed) = deeds.get(first).filter(|&&deed| deed <= next) {
                    call.end = call.end.max(deed);
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
                if calls[told].told
                    && calls[told].copied.is_some_and(|(way, _)| way == Direction::In)
                {
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

    /// An `io_uring_enter` ends when another thread has written to an eventfd that the kernel reads.
    fn credit_answers(&mut self) {
        for by in self.all_calls(|call| call.title == "write(eventfd)") {
            let written = self.call(by).start;
            let calls = self.threads.iter_mut().flat_map(|thread| &mut thread.calls);
            let mut after = calls.filter(|call| call.phase_is_open() && call.end > written);
            let Some(call) = after.next().filter(|call| call.phase == Phase::Waiting) else {
                continue;
            };
            "= eventfd".clone_into(&mut call.answer);
            if call.start > written {
                call.phase = Phase::Neither;
            }
        }
    }

    /// `futex` tells who woke whom, and so does what is written to another thread.
    fn find_wakes(&mut self) {
        let mut sleeps = self.all_calls(|call| {
            call.name == "futex" && call.phase == Phase::Waiting && call.result == "0"
        });
        let mut wakes =
            self.all_calls(|call| call.name == "futex" && call.args.contains("FUTEX_WAKE"));
        sleeps.sort_by_key(|&at| self.call(at).end);
        wakes.sort_by_key(|&at| self.call(at).start);
        for by in wakes {
            for _ in 0..leading_number(&self.call(by).result).unwrap_or(0) {
                // Whom the kernel woke of several it does not say: the first one that runs again.
                let woken = sleeps.iter().position(|&at| {
                    let (sleep, wake) = (self.call(at), self.call(by));
                    let overlap = sleep.start < wake.end && wake.start < sleep.end;
                    at.0 != by.0 && overlap && sleep.word() == wake.word()
                });
                let woken = woken.map(|at| sleeps.remove(at)).filter(|&at| !self.call(at).minor);
                self.wakes.extend(woken.map(|woken| Wake { by, woken }));
            }
        }
        for &Wake { by: (thread, call), .. } in &self.wakes {
            self.threads[thread].calls[call].minor = false;
        }
        self.find_hints();
    }

    /// Which write another thread has read, from a pair of sockets or by way of an eventfd: the last
    /// one that was there when it asked, or the first one that it has waited for.
    fn find_hints(&mut self) {
        let way = |call: &Call| call.pair.as_ref().and_then(|_| copy_direction(&call.name));
        let reads = self
            .all_calls(|call| way(call) == Some(Direction::In) && !call.result.starts_with('?'));
        let mut writes = self.all_calls(|call| way(call) == Some(Direction::Out));
        writes.sort_by_key(|&at| self.call(at).start);
        for (index, &woken) in reads.iter().enumerate() {
            let read = self.call(woken);
            let before = reads[..index].iter().rev();
            let before = before.map(|&at| self.call(at)).find(|before| before.pair == read.pair);
            let before = before.map_or(0, |before| before.end);
            let new = |&by: &(usize, usize)| {
                let write = self.call(by);
                write.pair == read.pair && write.start > before && write.start < read.end
            };
            let new: Vec<_> = writes.iter().copied().filter(new).collect();
            let there = new.iter().rfind(|&&by| self.call(by).start < read.start);
            let Some(&by) = there.or(new.first()).filter(|by| by.0 != woken.0) else { continue };
            if there.is_none() {
                let read = &mut self.threads[woken.0].calls[woken.1];
                (read.phase, read.waited) = (Phase::Waiting, None);
            }
            self.wakes.push(Wake { by, woken });
        }
        for by in self.all_calls(|call| call.title == "write(eventfd)") {
            let written = self.call(by).start;
            let woken = self.all_calls(|call| {
                let waited = call.phase == Phase::Waiting && call.answer.contains("eventfd");
                waited && (call.start..call.end).contains(&written)
            });
            self.wakes.extend(woken.first().map(|&woken| Wake { by, woken }));
        }
    }

    fn call(&self, (thread, call): (usize, usize)) -> &Call {
        &self.threads[thread].calls[call]
    }

    /// The calls of all threads that pass `test`: thread and call.
    fn all_calls(&self, test: impl Fn(&Call) -> bool) -> Vec<(usize, usize)> {
        let calls = self.threads.iter().enumerate().flat_map(|(thread, Thread { calls, .. })| {
            calls.iter().enumerate().map(move |(index, call)| ((thread, index), call))
        });
        calls.filter(|(_, call)| test(call)).map(|(at, _)| at).collect()
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
                let Some(name) =
                    arguments(&call.args).into_iter().find(|part| part.starts_with("SIG"))
                else {
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

    /// A thread without a name gets one: that of its client, or a number.
    fn name_threads(&mut self) {
        let unnamed = self.server.unnamed;
        let mut count = 0;
        let mut names: Vec<String> = Vec::new();
        for thread in self.threads.iter_mut().filter(|thread| thread.role == unnamed) {
            let mut clients =
                thread.calls.iter().filter(|call| call.copied.is_some()).map(|call| call.client);
            let first = clients.next().flatten();
            let name = match (unnamed.strip_suffix(" of"), first) {
                (Some(_), Some(client)) if clients.all(|other| other == first) => {
                    format!("{unnamed} {}", self.play.clients[client].name)
                }
                (kind, _) => {
                    count += 1;
                    format!("{} {count}", kind.unwrap_or(unnamed))
                }
            };
            // One may follow another in the service of the same client.
            let same = names.iter().filter(|other| **other == name).count();
            thread.role = if same == 0 { name.clone() } else { format!("{name} ({})", same + 1) };
            names.push(name);
        }
        // What a call that started a thread returned is more than a number now.
        let roles: HashMap<i32, String> =
            self.threads.iter().map(|thread| (thread.tid, thread.role.clone())).collect();
        for call in self.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
            if call.name.starts_with("clone") || call.name.ends_with("fork") {
                if let Some(role) = leading_number(&call.result).and_then(|tid| roles.get(&tid)) {
                    call.answer.clone_from(role);
                }
            }
        }
    }

    /// Which calls are steps of the pattern.
    fn number_steps(&mut self) {
        // Threads sleep long where they wait for work, and never for a lock.
        let long = self
            .all_calls(|call| call.name == "futex" && call.phase == Phase::Waiting && !call.minor);
        let queues: HashSet<String> = long.into_iter().map(|at| self.call(at).word()).collect();
        for thread in 0..self.threads.len() {
            let mut answered = String::new();
            for index in 0..self.threads[thread].calls.len() {
                let call = &self.threads[thread].calls[index];
                if ends_waiting(call) {
                    answered = format!("{} {}", call.args, call.answer);
                }
                let role = &self.threads[thread].role;
                let step = self.server.steps.iter().find(|step| {
                    role.starts_with(step.thread)
                        && call.name == step.call
                        && !call.vain
                        && (!call.minor || call.name != "epoll_ctl")
                        && (call.name != "futex" || queues.contains(&call.word()))
                        && [&call.args, &call.answer].iter().any(|text| text.contains(step.with))
                        && (answered.contains(step.after)
                            || self.led_by((thread, index)).contains(step.after))
                });
                let call = &mut self.threads[thread].calls[index];
                call.step = step;
                // Where it wakes nobody, nobody sleeps: it is a step all the same.
                call.minor &= step.is_none();
            }
        }
    }

    /// The call that copied what made the thread go as far as this: its own, or, across signals
    /// and wakes, another thread's.
    fn led_by(&self, at: (usize, usize)) -> &str {
        let (mut thread, mut index) = at;
        loop {
            let Thread { calls, signals, .. } = &self.threads[thread];
            let call = &calls[index];
            if call.copied.is_some() {
                return &call.name;
            }
            let woken = self.wakes.iter().find(|wake| wake.woken == (thread, index));
            let signalled = |signal: &&Signal| {
                let before = index.checked_sub(1).map_or(0, |before| calls[before].end);
                (before..=call.start).contains(&signal.at)
            };
            let signal = signals.iter().rfind(signalled).and_then(|signal| signal.from);
            (thread, index) = match (woken.map(|wake| wake.by), signal) {
                (Some(by), _) if call.pair.is_some() => by,
                (_, Some(from)) => from,
                _ if index == 0 || ends_waiting(&calls[index - 1]) => return "",
                _ => (thread, index - 1),
            };
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

/// It is a wait, and what comes after it comes of its answer.
fn ends_waiting(call: &Call) -> bool {
    is_wait(&call.name) && call.name != "futex"
}

impl Call {
    /// What it waited for came at `time`; if it does not wait, the kernel was not asked before.
    ///
    /// strace prints when it saw a call begin, which is before the kernel does anything, and times
    /// its length from a moment after that: that a call seems to end before that came which ended
    /// it, or to copy what has not been sent yet, can only be due to this.
    fn wait_until(&mut self, time: Nanos) {
        if time <= self.start || self.phase == Phase::Waiting {
            return;
        }
        self.end = self.end.max(time);
        if self.patient {
            self.waited = Some(time);
        } else {
            self.start = time;
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
            Some(until) => vec![(Phase::Waiting, self.start, until), (self.phase, until, self.end)],
        }
    }

    /// Of a `futex`: the address of the word that it is about.
    fn word(&self) -> String {
        self.args.split(',').next().unwrap_or_default().to_owned()
    }

    pub fn waits_at(&self, time: Nanos) -> bool {
        let waits = |&(phase, from, to): &(Phase, Nanos, Nanos)| {
            phase == Phase::Waiting && from < time && time <= to
        };
        self.phases().iter().any(waits)
    }

    /// Its step is not that it waits, but what ended the wait.
    pub fn is_step_at_end(&self) -> bool {
        let decided = |step: &Step| !(step.with.is_empty() && step.after.is_empty());
        self.phase == Phase::Waiting && self.step.is_some_and(decided)
    }

    /// The phase in which it spent most of its time.
    pub fn main_phase(&self) -> Phase {
        let longest = self.phases().into_iter().max_by_key(|(_, from, to)| to - from);
        longest.map_or(self.phase, |(phase, ..)| phase)
    }
}

impl Thread {
    /// A sleep that a signal ended was a wait for that signal.
    pub fn end_suspensions(&mut self) {
        for index in 0..self.calls.len() {
            let next_call = self.calls.get(index + 1).map_or(Nanos::MAX, |next| next.start);
            let call = &mut self.calls[index];
            let ended = call.result.contains("ERESTART")
                || call.answer == "EINTR"
                || call.answer.is_empty();
            if call.phase == Phase::Waiting && ended {
                let next = self.signals.iter().find(|signal| signal.at >= call.end);
                if let Some(signal) = next.filter(|signal| signal.at <= next_call) {
                    call.answer = format!("until {}", signal.name);
                }
            }
        }
    }
}
