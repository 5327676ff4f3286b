//! Parses what strace writes: one record per system call, signal and thread exit.

use std::collections::HashMap;

/// Nanoseconds. A point in time counts from the Unix epoch: strace and the clients use that clock.
pub type Nanos = i64;

/// The options with which strace must run for [`parse`] to understand its output.
pub const FORMAT: &[&str] = &[
    "--follow-forks",
    "--decode-pids=comm",
    // Not `all`: looking up the addresses of a socket can take milliseconds.
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
        /// The text after the `=`. `None` if the call never returned.
        result: Option<String>,
        /// The time at which the call returned.
        end: Option<Nanos>,
    },
    Signal {
        name: String,
    },
    /// The thread has ended.
    Exit,
}

/// Parses a trace. Returns the records in the order in which they began, and skips lines that
/// strace did not write.
pub fn parse(trace: &str) -> Vec<Record> {
    let mut records = Vec::new();
    // For each thread, the call that has begun and not returned. A thread is in one call at a time.
    let mut unfinished: HashMap<i32, usize> = HashMap::new();
    // For each thread, its last call, which `restart_syscall` continues.
    let mut last: HashMap<i32, usize> = HashMap::new();
    for (tid, at, rest) in trace.lines().filter_map(parse_head) {
        let event = if let Some(signal) = between(rest, "--- ", " ---") {
            let name = signal.split(' ').next().unwrap_or(signal);
            Event::Signal { name: name.to_owned() }
        } else if rest.starts_with("+++ ") {
            Event::Exit
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let tail = resumed.split_once("resumed>").and_then(|(_, tail)| parse_tail(tail));
            if let (Some(index), Some(tail)) = (unfinished.remove(&tid), tail) {
                finish(&mut records[index], tail, at);
            }
            continue;
        } else if let Some(restarted) = rest.strip_prefix("restart_syscall(<... ") {
            // The thread has not left the kernel: this is still the call that the signal
            // interrupted.
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

/// Splits a line such as `8760<epoll-echo> 1795218334.513929583 …` into the thread id, the time
/// and the rest.
///
/// The name after the thread id is ignored: a new thread still has the name of its creator.
fn parse_head(line: &str) -> Option<(i32, Nanos, &str)> {
    let digits = line.find(|c: char| !c.is_ascii_digit())?;
    let (tid, rest) = line.split_at(digits);
    let rest = if rest.starts_with('<') {
        // A name may contain any character. The time that follows it begins with a digit.
        let mut ends = rest.match_indices("> ").map(|(at, end)| &rest[at + end.len()..]);
        ends.find(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?
    } else {
        rest.trim_start()
    };
    let (time, rest) = rest.split_once(' ')?;
    Some((tid.parse().ok()?, parse_time(time)?, rest.trim_end()))
}

/// Parses seconds with up to nine digits after the decimal point.
fn parse_time(seconds: &str) -> Option<Nanos> {
    let (seconds, nanos) = seconds.split_once('.')?;
    let digits = nanos.len() as u32;
    let seconds: Nanos = seconds.parse().ok()?;
    let nanos: Nanos = nanos.parse().ok()?;
    Some(seconds * 1_000_000_000 + nanos * Nanos::pow(10, 9_u32.checked_sub(digits)?))
}

/// Splits `args) = result <0.000001>` into its three parts.
fn parse_tail(tail: &str) -> Option<(&str, &str, Option<Nanos>)> {
    // The last match: a string among the arguments may contain the same characters.
    let (at, _) =
        tail.rmatch_indices(" = ").find(|(at, _)| tail[..*at].trim_end().ends_with(')'))?;
    let args = tail[..at].trim_end().strip_suffix(')')?;
    let rest = tail[at + 3..].trim();
    let timed = rest.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'));
    let timed = timed.and_then(|(result, time)| Some((result.trim_end(), parse_time(time)?)));
    Some(timed.map_or((args, rest, None), |(result, time)| (args, result, Some(time))))
}

/// Adds what strace printed when the call returned: the other arguments and the result.
fn finish(
    begun: &mut Record,
    (more, returned, duration): (&str, &str, Option<Nanos>),
    time: Nanos,
) {
    let Event::Call { args, result, end, .. } = &mut begun.event else { return };
    // The first half does not show where its last argument ends: `sendto(4, "x", 1 ` and `) = 1`.
    if !more.is_empty() && !args.is_empty() && !more.starts_with(',') {
        args.push(' ');
    }
    args.push_str(more);
    *result = Some(returned.to_owned());
    *end = duration.map(|_| time);
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

/// Splits the arguments at the commas that are outside of brackets and strings.
pub fn arguments(args: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut depth = 0;
    let mut quoted = false;
    let mut escaped = false;
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

/// Parses the number at the beginning of a result such as `9<socket:[34733110]>`.
pub fn leading_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.char_indices().find(|&(at, c)| !(c.is_ascii_digit() || at == 0 && c == '-'));
    text[..end.map_or(text.len(), |(at, _)| at)].parse().ok()
}
