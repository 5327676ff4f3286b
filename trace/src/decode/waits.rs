//! The calls that wait: how long each waited, and what ended the wait.

use super::Decoder;
use crate::call::{BLOCKED, Call, Phase};

impl Decoder<'_> {
    pub(super) fn describe_wait(&self, call: &mut Call, parts: &[&str], number: Option<i64>) {
        if call.name == "futex" && !call.args.contains("FUTEX_WAIT") {
            call.minor = true;
            if let Some(count) = number {
                call.outcome = format!("wakes {count}");
            }
            return;
        }
        let timeout = if call.name.starts_with("epoll") { 3 } else { 2 };
        let has_zero_timeout = (parts.get(timeout) == Some(&"0") && call.name.contains("poll"))
            || call.args.contains("{tv_sec=0, tv_nsec=0}");
        let took_signal = call.name == "rt_sigtimedwait" && number.is_some_and(|signal| signal > 0);
        if !has_zero_timeout && !call.would_block {
            call.phase = Phase::Waiting;
        } else if !took_signal {
            call.minor |= call.name == "futex";
            return;
        }
        if call.name == "io_uring_enter" {
            call.outcome = match parts.get(1) {
                Some(&"0") | None => String::new(),
                Some(count) => format!("submits {count}"),
            };
        } else if call.name == "futex" {
            // A shorter one waited for a lock.
            call.minor = call.end.saturating_sub(call.start) < BLOCKED;
            "sleeps".clone_into(&mut call.outcome);
        } else if call.name.starts_with("rt_sig") || call.name == "pause" {
            self.describe_signal_wait(call, number);
        } else if number.is_some_and(|count| count > 0) {
            let ready = self.ready(call, parts);
            if !ready.is_empty() {
                call.outcome = format!("= {}", ready.join(", "));
            }
        }
    }

    fn describe_signal_wait(&self, call: &mut Call, number: Option<i64>) {
        let signal = call.result.split_once('(').map(|(_, name)| name.trim_end_matches(')'));
        let (Some(signal), Some(_)) = (signal, number) else {
            call.outcome.clear();
            return;
        };
        call.outcome = format!("= {signal}");
        let fd = call.args.split_once("si_int=").and_then(|(_, rest)| rest.split(',').next());
        if let Some(client) = fd.and_then(|fd| self.sockets.client_of_number(fd)) {
            call.outcome += &format!(", {}", self.client_name(client));
        }
    }

    /// Names the clients, and the other descriptors that are known, that a wait returned as ready.
    fn ready(&self, call: &Call, parts: &[&str]) -> Vec<String> {
        // The arguments describe the descriptors, the result contains their numbers only.
        let by_number = |number: &str| {
            let descriptor = format!("{number}<");
            let mut found = call.args.match_indices(&descriptor);
            let (at, _) = found.find(|&(at, _)| call.args[..at].ends_with(['[', ' ', '=']))?;
            self.name(&call.args[at..])
        };
        match call.name.as_str() {
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => (parts.get(1).into_iter())
                .flat_map(|events| events.split("u64=").skip(1))
                .filter_map(|event| self.name(self.user_data.get(event.split(['}', ',']).next()?)?))
                .collect(),
            "poll" | "ppoll" => (call.result.split("{fd=").skip(1))
                .filter_map(|entry| by_number(entry.split([',', '<']).next()?))
                .collect(),
            "select" | "pselect6" => (call.result.split(['[', ' ', ']', ')']))
                .map(|word| word.split('<').next().unwrap_or_default())
                .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()))
                .skip(1) // the number of ready descriptors
                .filter_map(by_number)
                .collect(),
            _ => Vec::new(),
        }
    }

    fn name(&self, descriptor: &str) -> Option<String> {
        match self.sockets.client(descriptor) {
            Some(client) => Some(self.client_name(client).to_string()),
            None => self.sockets.kind(descriptor).map(str::to_owned),
        }
    }

    pub(super) fn describe_epoll_ctl(&mut self, call: &mut Call, parts: &[&str]) {
        let [_, operation, target, rest @ ..] = parts else { return };
        let event = rest.first().copied().unwrap_or_default();
        let user_data = event.split("u64=").nth(1).and_then(|rest| rest.split('}').next());
        if let Some(user_data) = user_data {
            self.user_data.insert(user_data.to_owned(), (*target).to_owned());
        }
        let interest = match (event.contains("EPOLLIN"), event.contains("EPOLLOUT")) {
            (true, true) => " in+out",
            (true, false) => " in",
            (false, true) => " out",
            (false, false) => "",
        };
        call.outcome = format!("{}{interest}", operation.trim_start_matches("EPOLL_CTL_"));
        if let Some(client) = self.sockets.client(target) {
            call.client = Some(client);
            call.label = format!("epoll_ctl({})", self.client_name(client));
        } else {
            // Timers and the like are minor.
            let kind = self.sockets.kind(target);
            call.minor = kind != Some("listener");
            if let Some(kind) = kind {
                call.label = format!("epoll_ctl({kind})");
            }
        }
    }
}
