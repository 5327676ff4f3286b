//! The rules of the room, as a client with `nc` sees them.

use anyhow::{Context, Result, ensure};

use super::with_clients;
use crate::{Case, ChatClient, Client, Target};

pub const CASES: &[Case] = &[
    Case::new("joining", "the greeting and `joined` name the client that joins", joining),
    Case::new(
        "joining_finds_a_free_name",
        "no two clients get the same name",
        joining_finds_a_free_name,
    ),
    Case::new("leaving", "`left` is sent once, however a client leaves", leaving),
    Case::new("talk", "a line goes to every other client", talk),
    Case::new("alone", "a line of the only client goes to nobody", alone),
    Case::new("nick", "/nick changes the name, and all are notified", nick),
    Case::new(
        "nick_of_client_that_left",
        "the name of a client that has left is free",
        nick_of_client_that_left,
    ),
    Case::new("nick_refused", "/nick refuses bad names and names in use", nick_refused),
    Case::new("who", "/who lists the clients in the order in which they joined", who),
    Case::new("quit", "/quit is answered with `* bye`, and then EOF", quit),
    Case::new("quit_ends_the_input", "lines after /quit are ignored", quit_ends_the_input),
    Case::new("help", "/help lists the commands", help),
    Case::new("factor", "/factor returns the prime factors of a number", factor),
    Case::new(
        "factor_refused",
        "/factor refuses what is no number from 2 to 15 digits",
        factor_refused,
    ),
    Case::new(
        "factor_in_order",
        "the lines after /factor wait for its result, and other clients do not see it",
        factor_in_order,
    ),
    Case::new("unknown_command", "an unknown command is answered with an error", unknown_command),
    Case::new("empty_lines", "empty lines are ignored", empty_lines),
    Case::new("line_ends", "lines end with \\n or \\r\\n", line_ends),
    Case::new("split_lines", "a line may arrive in parts", split_lines),
    Case::new("split_characters", "a character may arrive in parts", split_characters),
    Case::new("merged_lines", "several lines may arrive at once", merged_lines),
    Case::new("not_utf8", "a line that is not UTF-8 is refused", not_utf8),
    Case::new("control_characters", "control characters are removed", control_characters),
    Case::new(
        "invisible_characters",
        "bidirectional controls and invisible characters are removed",
        invisible_characters,
    ),
    Case::new("longest_line", "a line may have 1024 bytes", longest_line),
    Case::new("line_too_long", "a longer line is refused once and dropped", line_too_long),
    Case::new(
        "megabytes_without_an_end",
        "a line without an end takes bounded memory",
        megabytes_without_an_end,
    ),
    Case::new("half_close", "after FIN an unterminated last line counts", half_close),
    Case::new(
        "half_close_at_once",
        "lines and FIN that arrive before accept are handled",
        half_close_at_once,
    ),
    Case::new(
        "half_close_in_bad_lines",
        "FIN in a bad line is an error and then EOF",
        half_close_in_bad_lines,
    ),
    Case::new("half_close_in_quit", "FIN after /quit is one `left`", half_close_in_quit),
];

/// The most bytes of a line, without its end.
const LINE: usize = 1024;
const TOO_LONG: &str = "! line too long (limit 1024 bytes)";
const NOT_UTF8: &str = "! not UTF-8";

fn joining(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = || Client::connect(server);
        let line = |client: &Client| client.line()?.context("closed without a greeting");
        let first = client()?;
        let greeting = line(&first)?;
        let expected = "* you are guest1; 0 others here; /help lists the commands";
        ensure!(greeting == expected, "the first client is greeted with {greeting:?}");
        let second = client()?;
        let greeting = line(&second)?;
        let expected = "* you are guest2; 1 other here; /help lists the commands";
        ensure!(greeting == expected, "the second client is greeted with {greeting:?}");
        let third = client()?;
        let greeting = line(&third)?;
        let expected = "* you are guest3; 2 others here; /help lists the commands";
        ensure!(greeting == expected, "the third client is greeted with {greeting:?}");
        for (client, expected) in
            [(&first, "* guest2 joined"), (&first, "* guest3 joined"), (&second, "* guest3 joined")]
        {
            let line = line(client)?;
            ensure!(line == expected, "when another client joined, a client received {line:?}");
        }
        // No client received a line about itself, and none received a line twice.
        for client in [&first, &second, &third] {
            client.send(b"/who\n")?;
            let line = line(client)?;
            ensure!(line == "* here: guest1, guest2, guest3", "the response to /who is {line:?}");
        }
        Ok(())
    })
}

fn joining_finds_a_free_name(target: &Target) -> Result<()> {
    with_clients(target, |server, [mut first]| {
        for name in ["guest2", "guest3", "guest4"] {
            first.change_name(name, &[])?;
            let next = ChatClient::join(server)?;
            ensure!(next.name() != name, "a second {name} has joined");
            first.expect_line(&format!("* {} joined", next.name()))?;
            next.expect_names(&[name, next.name()])?;
            let left = format!("* {} left", next.name());
            next.finish()?;
            first.expect_line(&left)?;
        }
        Ok(())
    })
}

type Way = fn(ChatClient) -> Result<()>;

fn leaving(target: &Target) -> Result<()> {
    let ways: [(&str, Way); 5] = [
        ("closes", |client| {
            drop(client);
            Ok(())
        }),
        ("half-closes", ChatClient::finish),
        ("resets", ChatClient::reset),
        ("quits", |client| {
            client.send_line("/quit")?;
            client.expect_line("* bye")?;
            client.expect_end()
        }),
        ("quits and closes at once", |client| client.send_line("/quit")),
    ];
    with_clients(target, |server, [a, b]| {
        for (way, leave) in ways {
            let client = ChatClient::join(server)?;
            let name = client.name().to_owned();
            ensure!(client.others() == 2, "{} others are in the room", client.others());
            for other in [&a, &b] {
                other.expect_line(&format!("* {name} joined"))?;
            }
            leave(client).with_context(|| format!("a client that {way}"))?;
            for other in [&a, &b] {
                other
                    .expect_line(&format!("* {name} left"))
                    .with_context(|| format!("a client that {way}"))?;
                other
                    .expect_names(&[a.name(), b.name()])
                    .with_context(|| format!("a client that {way}"))?;
            }
        }
        Ok(())
    })
}

fn talk(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b, c]| {
        a.send_line("hello")?;
        for other in [&b, &c] {
            other.expect_line("guest1: hello")?;
        }
        b.send_line("  déjà vu: /who 日本 🦀  ")?;
        for other in [&a, &c] {
            other.expect_line("guest2:   déjà vu: /who 日本 🦀  ")?;
        }
        c.send_line(" /quit with a space before it is text")?;
        for other in [&a, &b] {
            other.expect_line("guest3:  /quit with a space before it is text")?;
        }
        // No client received its own line, and none received a line twice.
        [a, b, c].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2", "guest3"]))
    })
}

fn alone(target: &Target) -> Result<()> {
    with_clients(target, |_, [a]| {
        a.send_line("is anybody here?")?;
        a.expect_names(&["guest1"])
    })
}

fn nick(target: &Target) -> Result<()> {
    with_clients(target, |_, [mut a, mut b, c]| {
        a.change_name("x", &[&b, &c])?;
        a.send_line("now I am x")?;
        b.expect_line("x: now I am x")?;
        c.expect_line("x: now I am x")?;
        b.change_name("Under_score-16xx", &[&a, &c])?;
        a.change_name("0-_", &[&b, &c])?;
        // The old names are free.
        b.change_name("guest1", &[&a, &c])?;
        a.change_name("x", &[&b, &c])?;
        for client in [&a, &b, &c] {
            client.expect_names(&["x", "guest1", "guest3"])?;
        }
        let left = format!("* {} left", b.name());
        b.finish()?;
        a.expect_line(&left)?;
        c.expect_line(&left)
    })
}

fn nick_of_client_that_left(target: &Target) -> Result<()> {
    with_clients(target, |_, [mut a, mut b]| {
        b.change_name("bob", &[&a])?;
        b.finish()?;
        a.expect_line("* bob left")?;
        a.change_name("bob", &[])?;
        a.expect_names(&["bob"])
    })
}

fn nick_refused(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, mut b, mut c]| {
        b.change_name("bob", &[&a, &c])?;
        let long = "x".repeat(17);
        let bad = [
            "",
            " ",
            "two words",
            "a,b",
            "a:b",
            "*",
            "! a",
            "a/b",
            "a.b",
            "bob",
            "guest3",
            "äöü",
            &long,
        ];
        for bad in bad {
            a.send_line(&format!("/nick {bad}"))?;
            a.expect_line_starting_with("! ").with_context(|| format!("/nick {bad:?}"))?;
        }
        a.send_line("/nick")?;
        a.expect_line_starting_with("! ").context("without a name")?;
        // Its name is the old one, and no other client was notified.
        for client in [&a, &b, &c] {
            client.expect_names(&["guest1", "bob", "guest3"])?;
        }
        c.change_name("guest4", &[&a, &b])
    })
}

fn who(target: &Target) -> Result<()> {
    with_clients(target, |server, [mut a, b, c]| {
        b.expect_names(&["guest1", "guest2", "guest3"])?;
        a.change_name("zoe", &[&b, &c])?;
        b.expect_names(&["zoe", "guest2", "guest3"])?;
        c.finish()?;
        b.expect_line("* guest3 left")?;
        b.expect_names(&["zoe", "guest2"])?;
        a.expect_line("* guest3 left")?;
        let d = ChatClient::join(server)?;
        d.expect_names(&["zoe", "guest2", d.name()])?;
        let joined = format!("* {} joined", d.name());
        a.expect_line(&joined)?;
        a.expect_names(&["zoe", "guest2", d.name()])
    })
}

fn quit(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send_line("/quit")?;
        a.expect_line("* bye")?;
        a.expect_end()?;
        b.expect_line("* guest1 left")?;
        b.expect_names(&["guest2"])
    })
}

fn quit_ends_the_input(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send(b"one\n/who\n/quit\ntwo\n/who\nthree")?;
        a.expect_line("* here: guest1, guest2")?;
        a.expect_line("* bye")?;
        a.expect_end()?;
        b.expect_line("guest1: one")?;
        b.expect_line("* guest1 left")?;
        b.expect_names(&["guest2"])
    })
}

fn help(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send_line("/help")?;
        let line = a.expect_line_starting_with("* ")?;
        for command in ["/nick", "/who", "/factor", "/quit", "/help"] {
            ensure!(line.contains(command), "{command} is not in {line:?}");
        }
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn factor(target: &Target) -> Result<()> {
    with_clients(target, |_, [a]| {
        for (number, factors) in [
            ("2", "2 = 2"),
            ("12", "12 = 2 · 2 · 3"),
            ("0017", "17 = 17"),
            ("998247347733059", "998247347733059 = 1000003 · 998244353"),
        ] {
            a.send_line(&format!("/factor {number}"))?;
            a.expect_line(&format!("* {factors}"))?;
        }
        // An unterminated last line counts.
        a.send(b"/factor 15")?;
        a.half_close()?;
        a.expect_line("* 15 = 3 · 5")?;
        a.expect_end()
    })
}

fn factor_refused(target: &Target) -> Result<()> {
    with_clients(target, |_, [a]| {
        let too_large = "1000000000000000";
        for argument in ["", "0", "1", "-3", "1.5", "ten", "7 8", too_large] {
            a.send_line(&format!("/factor {argument}"))?;
            a.expect_line("! /factor takes a number from 2 to 999999999999999")
                .with_context(|| format!("/factor {argument}"))?;
        }
        a.expect_names(&["guest1"])
    })
}

fn factor_in_order(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        // All of it arrives at once.
        a.send(
            b"one\n/factor 9999999999971\ntwo\n/factor 9\n/who\n/factor 1\nthree\n/quit\nfour\n",
        )?;
        a.expect_line("* 9999999999971 = 9999999999971")?;
        a.expect_line("* 9 = 3 · 3")?;
        a.expect_line("* here: guest1, guest2")?;
        a.expect_line_starting_with("! /factor")?;
        a.expect_line("* bye")?;
        a.expect_end()?;
        for line in ["guest1: one", "guest1: two", "guest1: three", "* guest1 left"] {
            b.expect_line(line)?;
        }
        b.expect_names(&["guest2"])
    })
}

fn unknown_command(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for (sent, command) in [
            ("/word", "/word"),
            ("/word with arguments", "/word"),
            ("/", "/"),
            ("//", "//"),
            ("/WHO", "/WHO"),
            ("/whom", "/whom"),
            ("/nickname bob", "/nickname"),
            ("/né", "/né"),
        ] {
            a.send_line(sent)?;
            a.expect_line(&format!("! unknown command {command}; try /help"))?;
        }
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn empty_lines(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send(b"\n")?;
        a.send(b"\r\n\n\n\r\n")?;
        a.send(&[b'\n'; 5000])?;
        a.send(b"\x07\n\x1b\x00\r\n\xc2\x9b\n")?;
        a.send_line("text")?;
        b.expect_line("guest1: text")?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn line_ends(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send(b"unix\ndos\r\n/who\r\n")?;
        a.expect_line("* here: guest1, guest2")?;
        a.send(b"half a dos\r")?;
        // The response shows that the server has read everything before it.
        b.expect_line("guest1: unix")?;
        b.expect_line("guest1: dos")?;
        b.expect_names(&["guest1", "guest2"])?;
        a.send(b"\n")?;
        b.expect_line("guest1: half a dos")?;
        a.send(b"/nick bob\r\n")?;
        a.expect_line("* guest1 is now bob")?;
        b.expect_line("* guest1 is now bob")
    })
}

fn split_lines(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        b"byte by byte\r\n/who\n".iter().try_for_each(|&byte| a.send(&[byte]))?;
        b.expect_line("guest1: byte by byte")?;
        a.expect_line("* here: guest1, guest2")?;
        for part in ["in ", "three ", "parts\nand ", "on\n"] {
            // The server is busy with another client in between, so it reads each part separately.
            b.expect_names(&["guest1", "guest2"])?;
            a.send(part.as_bytes())?;
            if part.ends_with("and ") {
                b.expect_line("guest1: in three parts")?;
            }
        }
        b.expect_line("guest1: and on")?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn split_characters(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for byte in "日é🦀\n".bytes() {
            b.expect_names(&["guest1", "guest2"])?;
            a.send(&[byte])?;
        }
        b.expect_line("guest1: 日é🦀")?;
        // A long line, in parts that end within a character.
        let text = "🦀".repeat(LINE / 4);
        for part in format!("{text}\n").as_bytes().chunks(7) {
            a.send(part)?;
        }
        b.expect_line(&format!("guest1: {text}"))?;
        a.expect_names(&["guest1", "guest2"])
    })
}

fn merged_lines(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        a.send(b"one\n/who\n/nick bob\r\ntwo\n\n/frob\nthree\n/nick guest2\n\xff\nfour\nand half")?;
        a.expect_line("* here: guest1, guest2")?;
        a.expect_line("* guest1 is now bob")?;
        a.expect_line("! unknown command /frob; try /help")?;
        a.expect_line_starting_with("! ")?;
        a.expect_line(NOT_UTF8)?;
        for line in ["guest1: one", "* guest1 is now bob", "bob: two", "bob: three", "bob: four"] {
            b.expect_line(line)?;
        }
        a.send(b" of it\n")?;
        b.expect_line("bob: and half of it")?;
        // More than one read, however large.
        let lines: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
        a.send((lines.join("\n") + "\n").as_bytes())?;
        lines.iter().try_for_each(|line| b.expect_line(&format!("bob: {line}")))?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["bob", "guest2"]))
    })
}

fn not_utf8(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        let bad: [&[u8]; 9] = [
            b"\xff",
            b"in \xc3( mid-line",
            b"cut off \xe6\x97",
            b"\x80",
            b"overlong \xc0\xaf",
            b"a surrogate \xed\xa0\x80",
            b"beyond \xf4\x90\x80\x80",
            b"/who \xfe",
            b"/quit\xff",
        ];
        for line in bad {
            a.send(&[line, b"\n"].concat())?;
            a.expect_line(NOT_UTF8).with_context(|| format!("{line:?}"))?;
        }
        a.send_line("still here")?;
        b.expect_line("guest1: still here")?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn control_characters(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for (sent, expected) in [
            ("\x1b[31mred\x1b[0m", "[31mred[0m"),
            ("\x07b\x08e\x00ll\x7f", "bell"),
            ("a return\r in mid-line", "a return in mid-line"),
            ("the other\u{9b}2J escape\u{85}", "the other2J escape"),
            ("\x1b]0;title\x07", "]0;title"),
            // A tab separates words, so it becomes a space.
            ("two\twords", "two words"),
        ] {
            a.send_line(sent)?;
            b.expect_line(&format!("guest1: {expected}"))?;
        }
        a.send_line("/\x1b[2J")?;
        a.expect_line("! unknown command /[2J; try /help")?;
        // All of them at once, except those that are not removed.
        let is_removed = |c: &char| c.is_control() && !"\n\t".contains(*c);
        let all: String = (0..0xa0_u8).map(char::from).filter(is_removed).collect();
        a.send_line(&format!("<{all}>"))?;
        b.expect_line("guest1: <>")?;
        a.send_line("/nick\tbob")?;
        a.expect_line("* guest1 is now bob")?;
        b.expect_line("* guest1 is now bob")?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["bob", "guest2"]))
    })
}

/// They could make a line look like another one, or like the line of another client.
fn invisible_characters(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for (sent, expected) in [
            ("a\u{202e}b\u{2066}c\u{200f}d\u{61c}e", "abcde"),
            ("f\u{2028}guest2: g\u{2029}h", "fguest2: gh"),
            ("z\u{200b}e\u{2060}r\u{feff}o", "zero"),
            ("\u{e9}\u{65e5}\u{1f980}", "\u{e9}\u{65e5}\u{1f980}"),
        ] {
            a.send_line(sent)?;
            b.expect_line(&format!("guest1: {expected}")).with_context(|| format!("{sent:?}"))?;
        }
        // Nothing is left of this line, and empty lines are ignored.
        a.send_line("\u{200b}\u{202e}")?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

fn longest_line(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for text in ["x".repeat(LINE), "é".repeat(LINE / 2)] {
            a.send(format!("{text}\n").as_bytes())?;
            b.expect_line(&format!("guest1: {text}"))?;
            a.send(format!("{text}\r\n").as_bytes())?;
            b.expect_line(&format!("guest1: {text}"))?;
            // Its end may arrive much later.
            a.send(text.as_bytes())?;
            b.expect_names(&["guest1", "guest2"])?;
            a.send(b"\r")?;
            b.expect_names(&["guest1", "guest2"])?;
            a.send(b"\n")?;
            b.expect_line(&format!("guest1: {text}"))?;
        }
        a.expect_names(&["guest1", "guest2"])
    })
}

fn line_too_long(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for length in [LINE + 1, LINE + 2, 2 * LINE, 4096, 5000, 100_000] {
            for end in ["\n", "\r\n"] {
                let text = "x".repeat(length);
                a.send(format!("{text}{end}after it\n").as_bytes())?;
                a.expect_line(TOO_LONG).with_context(|| format!("{length} bytes"))?;
                b.expect_line("guest1: after it")
                    .with_context(|| format!("after {length} bytes"))?;
            }
        }
        // The error comes before the end of the line, which may never arrive.
        a.send("é".repeat(LINE / 2 + 1).as_bytes())?;
        a.expect_line(TOO_LONG)?;
        a.send(b"still the same line\xff")?;
        a.send(b"\n")?;
        a.expect_names(&["guest1", "guest2"])?;
        // There is one error per line.
        a.send(format!("{0}\n{0}\n", "x".repeat(LINE + 1)).as_bytes())?;
        a.expect_line(TOO_LONG)?;
        a.expect_line(TOO_LONG)?;
        [a, b].iter().try_for_each(|client| client.expect_names(&["guest1", "guest2"]))
    })
}

/// The memory of one line, and what an allocator takes at once.
const SPARE: u64 = 1 << 20;

fn megabytes_without_an_end(target: &Target) -> Result<()> {
    with_clients(target, |server, [a, b]| {
        let before = server.usage()?.memory;
        let megabyte = vec![b'x'; 1 << 20];
        for part in 0..4 {
            a.send(&megabyte)?;
            if part == 0 {
                a.expect_line(TOO_LONG)?;
            }
            b.expect_names(&["guest1", "guest2"]).context("beside a line without an end")?;
        }
        let grown = server.usage()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a line without an end");
        a.send(b"\nat last\n")?;
        b.expect_line("guest1: at last")?;
        a.expect_names(&["guest1", "guest2"])
    })
}

fn half_close(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b, c]| {
        a.send(b"one\nan unended line")?;
        a.half_close()?;
        a.expect_end()?;
        for other in [&b, &c] {
            other.expect_line("guest1: one")?;
            other.expect_line("guest1: an unended line")?;
            other.expect_line("* guest1 left")?;
        }
        b.send(b"/who")?;
        b.half_close()?;
        b.expect_line("* here: guest2, guest3")?;
        b.expect_end()?;
        c.expect_line("* guest2 left")?;
        c.expect_names(&["guest3"])?;
        c.half_close()?;
        c.expect_end()
    })
}

/// The connection, the lines and the FIN have all arrived when the server looks.
fn half_close_at_once(target: &Target) -> Result<()> {
    with_clients(target, |server, [a]| {
        let client = server.while_stopped(|| {
            let client = Client::connect(server)?;
            client.send(b"hello\n/who\n/nick bob\nbye")?;
            client.half_close()?;
            Ok(client)
        })?;
        let client = ChatClient::new(client)?;
        ensure!(client.others() == 1, "{} others are in the room", client.others());
        let name = client.name();
        client.expect_line(&format!("* here: guest1, {name}"))?;
        client.expect_line(&format!("* {name} is now bob"))?;
        client.expect_end()?;
        a.expect_line(&format!("* {name} joined"))?;
        a.expect_line(&format!("{name}: hello"))?;
        a.expect_line(&format!("* {name} is now bob"))?;
        a.expect_line("bob: bye")?;
        a.expect_line("* bob left")?;
        a.expect_names(&["guest1"])
    })
}

fn half_close_in_bad_lines(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b, c, d]| {
        b.send(b"cut off \xe6\x97")?;
        b.half_close()?;
        b.expect_line(NOT_UTF8)?;
        b.expect_end()?;
        a.expect_line("* guest2 left")?;
        c.expect_line("* guest2 left")?;
        c.send(&[b'x'; LINE + 1])?;
        c.half_close()?;
        c.expect_line(TOO_LONG)?;
        c.expect_end()?;
        a.expect_line("* guest3 left")?;
        d.expect_line("* guest2 left")?;
        d.expect_line("* guest3 left")?;
        [a, d].iter().try_for_each(|client| client.expect_names(&["guest1", "guest4"]))
    })
}

/// There are two reasons to leave, but the client leaves once.
fn half_close_in_quit(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        b.send(b"/quit")?;
        b.half_close()?;
        b.expect_line("* bye")?;
        b.expect_end()?;
        a.expect_line("* guest2 left")?;
        a.expect_names(&["guest1"])
    })
}
