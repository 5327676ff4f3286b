//! The rules of the room, as a guest with `nc` finds them.

use anyhow::{Context, Result, ensure};
use integration_tests::{Client, Guest, Server};

use super::with_guests;
use crate::case::Case;

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

fn arrival(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let client = || Client::connect(running);
        let line = |client: &Client| client.line()?.context("closed without a welcome");
        let first = client()?;
        let welcome = line(&first)?;
        let expected = "* you are guest1; 0 others here; /help lists the commands";
        ensure!(welcome == expected, "the first is welcomed with {welcome:?}");
        let second = client()?;
        let welcome = line(&second)?;
        let expected = "* you are guest2; 1 other here; /help lists the commands";
        ensure!(welcome == expected, "the second is welcomed with {welcome:?}");
        let third = client()?;
        let welcome = line(&third)?;
        let expected = "* you are guest3; 2 others here; /help lists the commands";
        ensure!(welcome == expected, "the third is welcomed with {welcome:?}");
        for (client, heard) in
            [(&first, "* guest2 joined"), (&first, "* guest3 joined"), (&second, "* guest3 joined")]
        {
            let line = line(client)?;
            ensure!(line == heard, "as another came, one here was told {line:?}");
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

fn arrival_finds_a_free_name(server: &Server) -> Result<()> {
    with_guests(server, |running, [mut first]| {
        for name in ["guest2", "guest3", "guest4"] {
            first.take_name(name, &[])?;
            let next = Guest::arrive(running)?;
            ensure!(next.name() != name, "a second {name} has come");
            first.hears(&format!("* {} joined", next.name()))?;
            next.sees(&[name, next.name()])?;
            let left = format!("* {} left", next.name());
            next.leave()?;
            first.hears(&left)?;
        }
        Ok(())
    })
}

type Way = fn(Guest) -> Result<()>;

fn leaving(server: &Server) -> Result<()> {
    let ways: [(&str, Way); 5] = [
        ("closes", |guest| {
            drop(guest);
            Ok(())
        }),
        ("half-closes", Guest::leave),
        ("resets", Guest::reset),
        ("quits", |guest| {
            guest.say("/quit")?;
            guest.hears("* bye")?;
            guest.hears_the_end()
        }),
        ("quits and is gone at once", |guest| guest.say("/quit")),
    ];
    with_guests(server, |running, [a, b]| {
        for (way, leave) in ways {
            let guest = Guest::arrive(running)?;
            let name = guest.name().to_owned();
            ensure!(guest.others() == 2, "there are {} others here", guest.others());
            for other in [&a, &b] {
                other.hears(&format!("* {name} joined"))?;
            }
            leave(guest).with_context(|| format!("one {way}"))?;
            for other in [&a, &b] {
                other.hears(&format!("* {name} left")).with_context(|| format!("one {way}"))?;
                other.sees(&[a.name(), b.name()]).with_context(|| format!("one {way}"))?;
            }
        }
        Ok(())
    })
}

fn talk(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b, c]| {
        a.say("hello")?;
        for other in [&b, &c] {
            other.hears("guest1: hello")?;
        }
        b.say("  déjà vu: /who 日本 🦀  ")?;
        for other in [&a, &c] {
            other.hears("guest2:   déjà vu: /who 日本 🦀  ")?;
        }
        c.say(" /quit with a space before it is text")?;
        for other in [&a, &b] {
            other.hears("guest3:  /quit with a space before it is text")?;
        }
        // Nobody has heard itself, and nobody anything twice.
        [a, b, c].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2", "guest3"]))
    })
}

fn alone(server: &Server) -> Result<()> {
    with_guests(server, |_, [a]| {
        a.say("is anybody here?")?;
        a.sees(&["guest1"])
    })
}

fn nick(server: &Server) -> Result<()> {
    with_guests(server, |_, [mut a, mut b, c]| {
        a.take_name("x", &[&b, &c])?;
        a.say("now I am x")?;
        b.hears("x: now I am x")?;
        c.hears("x: now I am x")?;
        b.take_name("Under_score-16xx", &[&a, &c])?;
        a.take_name("0-_", &[&b, &c])?;
        // The names that were given up are free.
        b.take_name("guest1", &[&a, &c])?;
        a.take_name("x", &[&b, &c])?;
        for guest in [&a, &b, &c] {
            guest.sees(&["x", "guest1", "guest3"])?;
        }
        let left = format!("* {} left", b.name());
        b.leave()?;
        a.hears(&left)?;
        c.hears(&left)
    })
}

fn nick_of_those_who_left(server: &Server) -> Result<()> {
    with_guests(server, |_, [mut a, mut b]| {
        b.take_name("bob", &[&a])?;
        b.leave()?;
        a.hears("* bob left")?;
        a.take_name("bob", &[])?;
        a.sees(&["bob"])
    })
}

fn nick_refused(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, mut b, mut c]| {
        b.take_name("bob", &[&a, &c])?;
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
            a.say(&format!("/nick {bad}"))?;
            a.hears_something_like("! ").with_context(|| format!("as it wants to be {bad:?}"))?;
        }
        a.say("/nick")?;
        a.hears_something_like("! ").context("without a name")?;
        // It is who it was, and nobody else was told.
        for guest in [&a, &b, &c] {
            guest.sees(&["guest1", "bob", "guest3"])?;
        }
        c.take_name("guest4", &[&a, &b])
    })
}

fn who(server: &Server) -> Result<()> {
    with_guests(server, |running, [mut a, b, c]| {
        b.sees(&["guest1", "guest2", "guest3"])?;
        a.take_name("zoe", &[&b, &c])?;
        b.sees(&["zoe", "guest2", "guest3"])?;
        c.leave()?;
        b.hears("* guest3 left")?;
        b.sees(&["zoe", "guest2"])?;
        a.hears("* guest3 left")?;
        let d = Guest::arrive(running)?;
        d.sees(&["zoe", "guest2", d.name()])?;
        let joined = format!("* {} joined", d.name());
        a.hears(&joined)?;
        a.sees(&["zoe", "guest2", d.name()])
    })
}

fn quit(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.say("/quit")?;
        a.hears("* bye")?;
        a.hears_the_end()?;
        b.hears("* guest1 left")?;
        b.sees(&["guest2"])
    })
}

fn quit_ends_the_input(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.send(b"one\n/who\n/quit\ntwo\n/who\nthree")?;
        a.hears("* here: guest1, guest2")?;
        a.hears("* bye")?;
        a.hears_the_end()?;
        b.hears("guest1: one")?;
        b.hears("* guest1 left")?;
        b.sees(&["guest2"])
    })
}

fn help(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.say("/help")?;
        let line = a.hears_something_like("* ")?;
        for command in ["/nick", "/who", "/quit", "/help"] {
            ensure!(line.contains(command), "{command} is not in {line:?}");
        }
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn unknown_command(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for (said, command) in [
            ("/word", "/word"),
            ("/word with arguments", "/word"),
            ("/", "/"),
            ("//", "//"),
            ("/WHO", "/WHO"),
            ("/whom", "/whom"),
            ("/nickname bob", "/nickname"),
            ("/né", "/né"),
        ] {
            a.say(said)?;
            a.hears(&format!("! unknown command {command}; try /help"))?;
        }
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn empty_lines(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.send(b"\n")?;
        a.send(b"\r\n\n\n\r\n")?;
        a.send(&[b'\n'; 5000])?;
        a.send(b"\x07\n\x1b\x00\r\n\xc2\x9b\n")?;
        a.say("text")?;
        b.hears("guest1: text")?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn line_ends(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.send(b"unix\ndos\r\n/who\r\n")?;
        a.hears("* here: guest1, guest2")?;
        a.send(b"half a dos\r")?;
        // Whoever is answered has been read from before: this one not before that one.
        b.hears("guest1: unix")?;
        b.hears("guest1: dos")?;
        b.sees(&["guest1", "guest2"])?;
        a.send(b"\n")?;
        b.hears("guest1: half a dos")?;
        a.send(b"/nick bob\r\n")?;
        a.hears("* guest1 is now bob")?;
        b.hears("* guest1 is now bob")
    })
}

fn split_lines(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        b"byte by byte\r\n/who\n".iter().try_for_each(|&byte| a.send(&[byte]))?;
        b.hears("guest1: byte by byte")?;
        a.hears("* here: guest1, guest2")?;
        for part in ["in ", "three ", "parts\nand ", "on\n"] {
            // In between the server has other things to do, so that it reads each by itself.
            b.sees(&["guest1", "guest2"])?;
            a.send(part.as_bytes())?;
            if part.ends_with("and ") {
                b.hears("guest1: in three parts")?;
            }
        }
        b.hears("guest1: and on")?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn split_characters(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for byte in "日é🦀\n".bytes() {
            b.sees(&["guest1", "guest2"])?;
            a.send(&[byte])?;
        }
        b.hears("guest1: 日é🦀")?;
        // A long line of which no part has a whole number of characters.
        let text = "🦀".repeat(LINE / 4);
        for part in format!("{text}\n").as_bytes().chunks(7) {
            a.send(part)?;
        }
        b.hears(&format!("guest1: {text}"))?;
        a.sees(&["guest1", "guest2"])
    })
}

fn merged_lines(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        a.send(b"one\n/who\n/nick bob\r\ntwo\n\n/frob\nthree\n/nick guest2\n\xff\nfour\nand half")?;
        a.hears("* here: guest1, guest2")?;
        a.hears("* guest1 is now bob")?;
        a.hears("! unknown command /frob; try /help")?;
        a.hears_something_like("! ")?;
        a.hears(NOT_UTF8)?;
        for line in ["guest1: one", "* guest1 is now bob", "bob: two", "bob: three", "bob: four"] {
            b.hears(line)?;
        }
        a.send(b" of it\n")?;
        b.hears("bob: and half of it")?;
        // More than one read, whatever its size.
        let lines: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
        a.send((lines.join("\n") + "\n").as_bytes())?;
        lines.iter().try_for_each(|line| b.hears(&format!("bob: {line}")))?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["bob", "guest2"]))
    })
}

fn not_utf8(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
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
            a.hears(NOT_UTF8).with_context(|| format!("{line:?}"))?;
        }
        a.say("still here")?;
        b.hears("guest1: still here")?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn control_characters(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for (said, heard) in [
            ("\x1b[31mred\x1b[0m", "[31mred[0m"),
            ("\x07b\x08e\x00l\tl\x7f", "bell"),
            ("a return\r in mid-line", "a return in mid-line"),
            ("the other\u{9b}2J escape\u{85}", "the other2J escape"),
            ("\x1b]0;title\x07", "]0;title"),
        ] {
            a.say(said)?;
            b.hears(&format!("guest1: {heard}"))?;
        }
        a.say("/\x1b[2J")?;
        a.hears("! unknown command /[2J; try /help")?;
        // All of them at once, but for the one that ends a line.
        let all: String =
            (0..0xa0_u8).map(char::from).filter(|&c| c.is_control() && c != '\n').collect();
        a.say(&format!("<{all}>"))?;
        b.hears("guest1: <>")?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

fn longest_line(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for text in ["x".repeat(LINE), "é".repeat(LINE / 2)] {
            a.send(format!("{text}\n").as_bytes())?;
            b.hears(&format!("guest1: {text}"))?;
            a.send(format!("{text}\r\n").as_bytes())?;
            b.hears(&format!("guest1: {text}"))?;
            // Its end may come as late as it likes.
            a.send(text.as_bytes())?;
            b.sees(&["guest1", "guest2"])?;
            a.send(b"\r")?;
            b.sees(&["guest1", "guest2"])?;
            a.send(b"\n")?;
            b.hears(&format!("guest1: {text}"))?;
        }
        a.sees(&["guest1", "guest2"])
    })
}

fn too_long_line(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for length in [LINE + 1, LINE + 2, 2 * LINE, 4096, 5000, 100_000] {
            for end in ["\n", "\r\n"] {
                let text = "x".repeat(length);
                a.send(format!("{text}{end}after it\n").as_bytes())?;
                a.hears(TOO_LONG).with_context(|| format!("{length} bytes"))?;
                b.hears("guest1: after it").with_context(|| format!("after {length} bytes"))?;
            }
        }
        // It is told before the line's end, which may never come.
        a.send("é".repeat(LINE / 2 + 1).as_bytes())?;
        a.hears(TOO_LONG)?;
        a.send(b"still the same line\xff")?;
        a.send(b"\n")?;
        a.sees(&["guest1", "guest2"])?;
        // Each is told of.
        a.send(format!("{0}\n{0}\n", "x".repeat(LINE + 1)).as_bytes())?;
        a.hears(TOO_LONG)?;
        a.hears(TOO_LONG)?;
        [a, b].iter().try_for_each(|guest| guest.sees(&["guest1", "guest2"]))
    })
}

/// The memory of one line, with what an allocator takes at once.
const SPARE: u64 = 1 << 20;

fn megabytes_without_an_end(server: &Server) -> Result<()> {
    with_guests(server, |running, [a, b]| {
        let before = running.figures()?.memory;
        let megabyte = vec![b'x'; 1 << 20];
        for part in 0..4 {
            a.send(&megabyte)?;
            if part == 0 {
                a.hears(TOO_LONG)?;
            }
            b.sees(&["guest1", "guest2"]).context("beside a line without an end")?;
        }
        let grown = running.figures()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a line without an end");
        a.send(b"\nat last\n")?;
        b.hears("guest1: at last")?;
        a.sees(&["guest1", "guest2"])
    })
}

fn half_close(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b, c]| {
        a.send(b"one\nan unended line")?;
        a.half_close()?;
        a.hears_the_end()?;
        for other in [&b, &c] {
            other.hears("guest1: one")?;
            other.hears("guest1: an unended line")?;
            other.hears("* guest1 left")?;
        }
        b.send(b"/who")?;
        b.half_close()?;
        b.hears("* here: guest2, guest3")?;
        b.hears_the_end()?;
        c.hears("* guest2 left")?;
        c.sees(&["guest3"])?;
        c.half_close()?;
        c.hears_the_end()
    })
}

/// All of it is there when the server looks: the connection, lines, and the FIN.
fn half_close_at_once(server: &Server) -> Result<()> {
    with_guests(server, |running, [a]| {
        let client = running.paused(|| {
            let client = Client::connect(running)?;
            client.send(b"hello\n/who\n/nick bob\nbye")?;
            client.half_close()?;
            Ok(client)
        })?;
        let guest = Guest::over(client)?;
        ensure!(guest.others() == 1, "there are {} others here", guest.others());
        let name = guest.name();
        guest.hears(&format!("* here: guest1, {name}"))?;
        guest.hears(&format!("* {name} is now bob"))?;
        guest.hears_the_end()?;
        a.hears(&format!("* {name} joined"))?;
        a.hears(&format!("{name}: hello"))?;
        a.hears(&format!("* {name} is now bob"))?;
        a.hears("bob: bye")?;
        a.hears("* bob left")?;
        a.sees(&["guest1"])
    })
}

fn half_close_in_bad_lines(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b, c, d]| {
        b.send(b"cut off \xe6\x97")?;
        b.half_close()?;
        b.hears(NOT_UTF8)?;
        b.hears_the_end()?;
        a.hears("* guest2 left")?;
        c.hears("* guest2 left")?;
        c.send(&[b'x'; LINE + 1])?;
        c.half_close()?;
        c.hears(TOO_LONG)?;
        c.hears_the_end()?;
        a.hears("* guest3 left")?;
        d.hears("* guest2 left")?;
        d.hears("* guest3 left")?;
        [a, d].iter().try_for_each(|guest| guest.sees(&["guest1", "guest4"]))
    })
}

/// It leaves for two reasons, and once.
fn half_close_in_quit(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        b.send(b"/quit")?;
        b.half_close()?;
        b.hears("* bye")?;
        b.hears_the_end()?;
        a.hears("* guest2 left")?;
        a.sees(&["guest1"])
    })
}
