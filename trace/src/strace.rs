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
    // The last call of each thread: what it resumes where nothing but a signal was in between.
    let mut last: HashMap<i32, usize> = HashMap::new();
    for (tid, at, rest) in trace.lines().filter_map(parse_head) {
        let event = if let Some(signal) = inside(rest, "--- ", " ---") {
            let (name, info) = signal.split_once(' ').unwrap_or((signal, ""));
            Event::Signal { name: name.to_owned(), info: info.to_owned() }
        } else if rest.starts_with("+++ ") {
            Event::Exit
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let tail = resumed.split_once("resumed>").and_then(|(_, tail)| parse_tail(tail));
            if let (Some(index), Some(tail)) = (unfinished.remove(&tid), tail) {
                finish(&mut records[index], tail, at);
            }
            continue;
        } else if let Some(restarted) = rest.strip_prefix("restart_syscall(<... ") {
            // The thread has not been outside the kernel: it is in the same call.
            let Some(&index) = last.get(&tid) else { continue };
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(tid, index);
            } else if let Some(tail) = restarted.split_once("...>").and_then(|(_, t)| parse_tail(t))
            {
                finish(&mut records[index], tail, at + tail.2.unwrap_or(0));
            }
            continue;
        } else if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            let Some((name, args)) = begun.split_once('(') else { continue };
            unfinished.insert(tid, records.len());
            let (name, args) = (name.to_owned(), args.trim_end().to_owned());
            Event::Call { name, args, result: None, end: None }
        } else {
            let Some((name, tail)) = rest.split_once('(') else { continue };
            let Some((args, result, duration)) = parse_tail(tail) else { continue };
            let end = duration.map(|duration| at + duration);
            let (name, args) = (name.to_owned(), args.to_owned());
            Event::Call { name, args, result: Some(result.to_owned()), end }
        };
        if matches!(event, Event::Call { .. }) {
            last.insert(tid, records.len());
        }
        records.push(Record { tid, at, event });
    }
    records
}

/// `8760<epoll-echo> 1795218334.513929583 …`: the thread, the time, and the rest. What strace says
/// is its name need not be: a thread inherits that of the one that starts it.
fn parse_head(line: &str) -> Option<(i32, Nanos, &str)> {
    let digits = line.find(|c: char| !c.is_ascii_digit())?;
    let (tid, rest) = line.split_at(digits);
    let rest = if rest.starts_with('<') {
        // A name may hold anything; the time that follows it begins with a digit.
        let mut ends = rest.match_indices("> ").map(|(at, end)| &rest[at + end.len()..]);
        ends.find(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?
    } else {
        rest.trim_start()
    };
    let (time, rest) = rest.split_once(' ')?;
    Some((tid.parse().ok()?, parse_time(time)?, rest.trim_end()))
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

/// Adds what was written when the call returned: the rest of its arguments, and its result.
fn finish(
    begun: &mut Record,
    (more, answer, duration): (&str, &str, Option<Nanos>),
    returned: Nanos,
) {
    let Event::Call { args, result, end, .. } = &mut begun.event else { return };
    // Where an argument ended is not told in the first half: `sendto(4, "x", 1 ` and `) = 1`.
    if !more.is_empty() && !args.is_empty() && !more.starts_with(',') {
        args.push(' ');
    }
    args.push_str(more);
    *result = Some(answer.to_owned());
    *end = duration.map(|_| returned);
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
