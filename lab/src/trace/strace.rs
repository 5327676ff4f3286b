//! What strace writes, line by line, and the lines put together to calls.

use std::collections::HashMap;

/// Nanoseconds, since the epoch where it is a point in time: the clock of strace and of the play.
pub type Nanos = i64;

/// How strace has to be called for [`parse`] to understand it.
pub const FORMAT: &[&str] = &[
    "--follow-forks",
    "--decode-pids=comm",
    // And not `all`: to look up a socket's addresses can take milliseconds.
    "--decode-fds=path",
    "--absolute-timestamps=format:unix,precision:ns",
    "--syscall-times=ns",
    "--string-limit=64",
    "--quiet=attach,personality,path-resolution,thread-execve",
];

/// Something that happened in a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub tid: i32,
    /// The thread's name when it happened.
    pub comm: String,
    pub at: Nanos,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Call {
        name: String,
        args: String,
        /// What stands after the `=`; nothing where the call never returned.
        result: Option<String>,
        /// When it returned.
        end: Option<Nanos>,
    },
    /// `info` is what `siginfo_t` said.
    Signal { name: String, info: String },
    /// The thread has ended.
    Exit,
}

/// Reads a trace. The records come in the order in which they began; lines that are none of
/// strace's are skipped.
pub fn parse(trace: &str) -> Vec<Record> {
    let mut records = Vec::new();
    // Calls that have been seen to begin, by thread: a thread is in one call at a time.
    let mut unfinished: HashMap<i32, usize> = HashMap::new();
    for (tid, comm, at, rest) in trace.lines().filter_map(parse_head) {
        let event = if let Some(signal) = inside(rest, "--- ", " ---") {
            let (name, info) = signal.split_once(' ').unwrap_or((signal, ""));
            Event::Signal { name: name.to_owned(), info: info.to_owned() }
        } else if rest.starts_with("+++ ") {
            Event::Exit
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(begun) = unfinished.remove(&tid).and_then(|index| records.get_mut(index)) {
                finish(begun, resumed, at);
            }
            continue;
        } else if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(tid, records.len());
            let Some((name, args)) = begun.split_once('(') else { continue };
            let (name, args) = (name.to_owned(), args.trim_end().to_owned());
            Event::Call { name, args, result: None, end: None }
        } else {
            let Some((name, tail)) = rest.split_once('(') else { continue };
            let Some((args, result, duration)) = parse_tail(tail) else { continue };
            let end = duration.map(|duration| at + duration);
            let (name, args) = (name.to_owned(), args.to_owned());
            Event::Call { name, args, result: Some(result.to_owned()), end }
        };
        records.push(Record { tid, comm: comm.to_owned(), at, event });
    }
    records
}

/// `8760<epoll-echo> 1795218334.513929583 …`: the thread, its name, the time, and the rest.
fn parse_head(line: &str) -> Option<(i32, &str, Nanos, &str)> {
    let digits = line.find(|c: char| !c.is_ascii_digit())?;
    let (tid, rest) = line.split_at(digits);
    let (comm, rest) = match rest.strip_prefix('<') {
        // A name may hold anything; the time that follows it begins with a digit.
        Some(named) => {
            let end = named
                .match_indices("> ")
                .find(|&(at, _)| named[at + 2..].starts_with(|c: char| c.is_ascii_digit()))?;
            (&named[..end.0], &named[end.0 + 2..])
        }
        None => ("", rest.trim_start()),
    };
    let (time, rest) = rest.split_once(' ')?;
    Some((tid.parse().ok()?, comm, parse_time(time)?, rest.trim_end()))
}

/// Seconds with nine digits after the point.
pub fn parse_time(seconds: &str) -> Option<Nanos> {
    let (seconds, nanos) = seconds.split_once('.')?;
    let (seconds, count): (Nanos, _) = (seconds.parse().ok()?, nanos.len());
    let nanos: Nanos = nanos.parse().ok()?;
    Some(seconds * 1_000_000_000 + nanos * Nanos::pow(10, 9_u32.checked_sub(count as u32)?))
}

/// `args) = result <0.000001>`: the three of them.
fn parse_tail(tail: &str) -> Option<(&str, &str, Option<Nanos>)> {
    // The last one: strings among the arguments may hold what looks like it.
    let (at, _) =
        tail.rmatch_indices(" = ").find(|(at, _)| tail[..*at].trim_end().ends_with(')'))?;
    let args = tail[..at].trim_end().strip_suffix(')')?;
    let rest = tail[at + 3..].trim();
    let timed = rest.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'));
    let timed = timed.and_then(|(result, time)| Some((result.trim_end(), parse_time(time)?)));
    Some(timed.map_or((args, rest, None), |(result, time)| (args, result, Some(time))))
}

/// `name resumed>args) = result <0.000001>`, the second half of a call, written when it returned.
fn finish(begun: &mut Record, resumed: &str, at: Nanos) {
    let Event::Call { args, result, end, .. } = &mut begun.event else { return };
    let tail = resumed.split_once("resumed>").map(|(_, tail)| tail);
    if let Some((more, answer, duration)) = tail.and_then(parse_tail) {
        // Where an argument ended is not told in the first half: `sendto(4, "x", 1 ` and `) = 1`.
        if !more.is_empty() && !args.is_empty() && !more.starts_with(',') {
            args.push(' ');
        }
        args.push_str(more);
        *result = Some(answer.to_owned());
        *end = duration.map(|_| at);
    }
}

fn inside<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

/// The arguments, split at the commas that stand in no bracket and no string.
pub fn arguments(args: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped, mut start) = (0, false, false, 0);
    let mut parts = Vec::new();
    let mut previous = ' ';
    for (at, c) in args.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' | '<' => depth += 1,
            '>' if previous == '-' || previous == '=' => {} // an arrow in an address
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(args[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        previous = c;
    }
    let last = args[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}
