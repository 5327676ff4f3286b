//! The rules of the room, as a guest with `nc` finds them.

use anyhow::{Context, Result, ensure};

use crate::{ChatClient, Client, Target};

use super::with_guests;
use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("arrival", arrival),
    Case::new("arrival_finds_a_free_name", arrival_finds_a_free_name),
    Case::new("leaving", leaving),
    Case::new("talk", talk),
    Case::new("alone", alone),
    Case::new("nick", nick),
    Case::new("nick_of_those_who_left", nick_of_those_who_left),
    Case::new("nick_refused", nick_refused),
    Case::new("who", who),
    Case::new("quit", quit),
    Case::new("quit_ends_the_input", quit_ends_the_input),
    Case::new("help", help),
    Case::new("unknown_command", unknown_command),
    Case::new("empty_lines", empty_lines),
    Case::new("line_ends", line_ends),
    Case::new("split_lines", split_lines),
    Case::new("split_characters", split_characters),
    Case::new("merged_lines", merged_lines),
    Case::new("not_utf8", not_utf8),
    Case::new("control_characters", control_characters),
    Case::new("longest_line", longest_line),
    Case::new("too_long_line", too_long_line),
    Case::new("megabytes_without_an_end", megabytes_without_an_end),
    Case::new("half_close", half_close),
    Case::new("half_close_at_once", half_close_at_once),
    Case::new("half_close_in_bad_lines", half_close_in_bad_lines),
    Case::new("half_close_in_quit", half_close_in_quit),
];

/// The most bytes of a line, without its end.
const LINE: usize = 1024;
const TOO_LONG: &str = "! line too long (limit 1024 bytes)";
const NOT_UTF8: &str = "! not UTF-8";

fn arrival(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = || Client::connect(server);
        let line = |client: &Client| client.line()?.context("closed without a welcome");
        let first = client()?;
        let read_greeting = line(&first)?;
        let expected = "* you are guest1; 0 others here; /help lists the commands";
        ensure!(read_greeting == expected, "the first is welcomed with {read_greeting:?}");
        let second = client()?;
        let read_greeting = line(&second)?;
        let expected = "* you are guest2; 1 other here; /help lists the commands";
        ensure!(read_greeting == expected, "the second is welcomed with {read_greeting:?}");
        let third = client()?;
        let read_greeting = line(&third)?;
        let expected = "* you are guest3; 2 others here; /help lists the commands";
        ensure!(read_greeting == expected, "the third is welcomed with {read_greeting:?}");
        for (client, received) in
            [(&first, "* guest2 joined"), (&first, "* guest3 joined"), (&second, "* guest3 joined")]
        {
            let line = line(client)?;
            ensure!(line == received, "as another came, one here was told {line:?}");
        }
        // Nobody was told of its own arrival, and nobody of any twice.
        for client in [&first, &second, &third] {
            client.send(b"/who\n")?;
            let line = line(client)?;
            ensure!(line == "* here: guest1, guest2, guest3", "/who is answered with {line:?}");
        }
        Ok(())
    })
}

fn arrival_finds_a_free_name(target: &Target) -> Result<()> {
    with_guests(target, |server, [mut first]| {
        for name in ["guest2", "guest3", "guest4"] {
            first.change_name(name, &[])?;
            let next = ChatClient::join(server)?;
            ensure!(next.name() != name, "a second {name} has come");
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
        ("closes", |guest| {
            drop(guest);
            Ok(())
        }),
        ("half-closes", ChatClient::finish),
        ("resets", ChatClient::reset),
        ("quits", |guest| {
            guest.send_line("/quit")?;
            guest.expect_line("* bye")?;
            guest.expect_end()
        }),
        ("quits and is gone at once", |guest| guest.send_line("/quit")),
    ];
    with_guests(target, |server, [a, b]| {
        for (way, leave) in ways {
            let guest = ChatClient::join(server)?;
            let name = guest.name().to_owned();
            ensure!(guest.others() == 2, "there are {} others here", guest.others());
            for other in [&a, &b] {
                other.expect_line(&format!("* {name} joined"))?;
            }
            leave(guest).with_context(|| format!("one {way}"))?;
            for other in [&a, &b] {
                other
                    .expect_line(&format!("* {name} left"))
                    .with_context(|| format!("one {way}"))?;
                other.expect_names(&[a.name(), b.name()]).with_context(|| format!("one {way}"))?;
            }
        }
        Ok(())
    })
}

fn talk(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b, c]| {
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
        // Nobody has heard itself, and nobody anything twice.
        [a, b, c].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2", "guest3"]))
    })
}

fn alone(target: &Target) -> Result<()> {
    with_guests(target, |_, [a]| {
        a.send_line("is anybody here?")?;
        a.expect_names(&["guest1"])
    })
}

fn nick(target: &Target) -> Result<()> {
    with_guests(target, |_, [mut a, mut b, c]| {
        a.change_name("x", &[&b, &c])?;
        a.send_line("now I am x")?;
        b.expect_line("x: now I am x")?;
        c.expect_line("x: now I am x")?;
        b.change_name("Under_score-16xx", &[&a, &c])?;
        a.change_name("0-_", &[&b, &c])?;
        // The names that were given up are free.
        b.change_name("guest1", &[&a, &c])?;
        a.change_name("x", &[&b, &c])?;
        for guest in [&a, &b, &c] {
            guest.expect_names(&["x", "guest1", "guest3"])?;
        }
        let left = format!("* {} left", b.name());
        b.finish()?;
        a.expect_line(&left)?;
        c.expect_line(&left)
    })
}

fn nick_of_those_who_left(target: &Target) -> Result<()> {
    with_guests(target, |_, [mut a, mut b]| {
        b.change_name("bob", &[&a])?;
        b.finish()?;
        a.expect_line("* bob left")?;
        a.change_name("bob", &[])?;
        a.expect_names(&["bob"])
    })
}

fn nick_refused(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, mut b, mut c]| {
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
            "a\u{200b}",
            &long,
        ];
        for bad in bad {
            a.send_line(&format!("/nick {bad}"))?;
            a.expect_line_starting_with("! ")
                .with_context(|| format!("as it wants to be {bad:?}"))?;
        }
        a.send_line("/nick")?;
        a.expect_line_starting_with("! ").context("without a name")?;
        // It is who it was, and nobody else was told.
        for guest in [&a, &b, &c] {
            guest.expect_names(&["guest1", "bob", "guest3"])?;
        }
        c.change_name("guest4", &[&a, &b])
    })
}

fn who(target: &Target) -> Result<()> {
    with_guests(target, |server, [mut a, b, c]| {
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
    with_guests(target, |_, [a, b]| {
        a.send_line("/quit")?;
        a.expect_line("* bye")?;
        a.expect_end()?;
        b.expect_line("* guest1 left")?;
        b.expect_names(&["guest2"])
    })
}

fn quit_ends_the_input(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
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
    with_guests(target, |_, [a, b]| {
        a.send_line("/help")?;
        let line = a.expect_line_starting_with("* ")?;
        for command in ["/nick", "/who", "/quit", "/help"] {
            ensure!(line.contains(command), "{command} is not in {line:?}");
        }
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn unknown_command(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
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
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn empty_lines(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        a.send(b"\n")?;
        a.send(b"\r\n\n\n\r\n")?;
        a.send(&[b'\n'; 5000])?;
        a.send(b"\x07\n\x1b\x00\r\n\xc2\x9b\n")?;
        a.send_line("text")?;
        b.expect_line("guest1: text")?;
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn line_ends(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        a.send(b"unix\ndos\r\n/who\r\n")?;
        a.expect_line("* here: guest1, guest2")?;
        a.send(b"half a dos\r")?;
        // Whoever is answered has been read from before: this one not before that one.
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
    with_guests(target, |_, [a, b]| {
        b"byte by byte\r\n/who\n".iter().try_for_each(|&byte| a.send(&[byte]))?;
        b.expect_line("guest1: byte by byte")?;
        a.expect_line("* here: guest1, guest2")?;
        for part in ["in ", "three ", "parts\nand ", "on\n"] {
            // In between the server has other things to do, so that it reads each by itself.
            b.expect_names(&["guest1", "guest2"])?;
            a.send(part.as_bytes())?;
            if part.ends_with("and ") {
                b.expect_line("guest1: in three parts")?;
            }
        }
        b.expect_line("guest1: and on")?;
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn split_characters(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        for byte in "日é🦀\n".bytes() {
            b.expect_names(&["guest1", "guest2"])?;
            a.send(&[byte])?;
        }
        b.expect_line("guest1: 日é🦀")?;
        // A long line of which no part has a whole number of characters.
        let text = "🦀".repeat(LINE / 4);
        for part in format!("{text}\n").as_bytes().chunks(7) {
            a.send(part)?;
        }
        b.expect_line(&format!("guest1: {text}"))?;
        a.expect_names(&["guest1", "guest2"])
    })
}

fn merged_lines(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
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
        // More than one read, whatever its size.
        let lines: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
        a.send((lines.join("\n") + "\n").as_bytes())?;
        lines.iter().try_for_each(|line| b.expect_line(&format!("bob: {line}")))?;
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["bob", "guest2"]))
    })
}

fn not_utf8(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
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
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn control_characters(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        for (sent, received) in [
            ("\x1b[31mred\x1b[0m", "[31mred[0m"),
            ("\x07b\x08e\x00l\tl\x7f", "bell"),
            ("a return\r in mid-line", "a return in mid-line"),
            ("the other\u{9b}2J escape\u{85}", "the other2J escape"),
            ("\x1b]0;title\x07", "]0;title"),
        ] {
            a.send_line(sent)?;
            b.expect_line(&format!("guest1: {received}"))?;
        }
        a.send_line("/\x1b[2J")?;
        a.expect_line("! unknown command /[2J; try /help")?;
        // All of them at once, but for the one that ends a line.
        let all: String =
            (0..0xa0_u8).map(char::from).filter(|&c| c.is_control() && c != '\n').collect();
        a.send_line(&format!("<{all}>"))?;
        b.expect_line("guest1: <>")?;
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

fn longest_line(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        for text in ["x".repeat(LINE), "é".repeat(LINE / 2)] {
            a.send(format!("{text}\n").as_bytes())?;
            b.expect_line(&format!("guest1: {text}"))?;
            a.send(format!("{text}\r\n").as_bytes())?;
            b.expect_line(&format!("guest1: {text}"))?;
            // Its end may come as late as it likes.
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

fn too_long_line(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        for length in [LINE + 1, LINE + 2, 2 * LINE, 4096, 5000, 100_000] {
            for end in ["\n", "\r\n"] {
                let text = "x".repeat(length);
                a.send(format!("{text}{end}after it\n").as_bytes())?;
                a.expect_line(TOO_LONG).with_context(|| format!("{length} bytes"))?;
                b.expect_line("guest1: after it")
                    .with_context(|| format!("after {length} bytes"))?;
            }
        }
        // It is told before the line's end, which may never come.
        a.send("é".repeat(LINE / 2 + 1).as_bytes())?;
        a.expect_line(TOO_LONG)?;
        a.send(b"still the same line\xff")?;
        a.send(b"\n")?;
        a.expect_names(&["guest1", "guest2"])?;
        // Each is told of.
        a.send(format!("{0}\n{0}\n", "x".repeat(LINE + 1)).as_bytes())?;
        a.expect_line(TOO_LONG)?;
        a.expect_line(TOO_LONG)?;
        [a, b].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest2"]))
    })
}

/// The memory of one line, with what an allocator takes at once.
const SPARE: u64 = 1 << 20;

fn megabytes_without_an_end(target: &Target) -> Result<()> {
    with_guests(target, |server, [a, b]| {
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
    with_guests(target, |_, [a, b, c]| {
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

/// All of it is there when the server looks: the connection, lines, and the FIN.
fn half_close_at_once(target: &Target) -> Result<()> {
    with_guests(target, |server, [a]| {
        let client = server.while_stopped(|| {
            let client = Client::connect(server)?;
            client.send(b"hello\n/who\n/nick bob\nbye")?;
            client.half_close()?;
            Ok(client)
        })?;
        let guest = ChatClient::new(client)?;
        ensure!(guest.others() == 1, "there are {} others here", guest.others());
        let name = guest.name();
        guest.expect_line(&format!("* here: guest1, {name}"))?;
        guest.expect_line(&format!("* {name} is now bob"))?;
        guest.expect_end()?;
        a.expect_line(&format!("* {name} joined"))?;
        a.expect_line(&format!("{name}: hello"))?;
        a.expect_line(&format!("* {name} is now bob"))?;
        a.expect_line("bob: bye")?;
        a.expect_line("* bob left")?;
        a.expect_names(&["guest1"])
    })
}

fn half_close_in_bad_lines(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b, c, d]| {
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
        [a, d].iter().try_for_each(|guest| guest.expect_names(&["guest1", "guest4"]))
    })
}

/// It leaves for two reasons, and once.
fn half_close_in_quit(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        b.send(b"/quit")?;
        b.half_close()?;
        b.expect_line("* bye")?;
        b.expect_end()?;
        a.expect_line("* guest2 left")?;
        a.expect_names(&["guest1"])
    })
}
