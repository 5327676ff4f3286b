//! Tests of every rule of the room, through what its clients receive.

use super::*;
use crate::chat::{INPUT_BUDGET, READ_SIZE, parse_idle};

/// A room with a clock. A client takes all its output when a test calls `read` for it.
struct Scene {
    room: Room,
    effects: Effects,
    now: Instant,
    closed: Vec<Id>,
    /// Clients for which the server has shut down writing.
    shut_down: Vec<Id>,
}

fn scene() -> Scene {
    let room = Room::new(Some(Duration::from_secs(300)));
    let (effects, closed, shut_down) = (Effects::default(), Vec::new(), Vec::new());
    Scene { room, effects, now: Instant::now(), closed, shut_down }
}

/// A scene with `N` clients that have read their greetings.
fn scene_of<const N: usize>() -> (Scene, [Id; N]) {
    let mut scene = scene();
    let ids = [(); N].map(|()| scene.join());
    for id in ids {
        scene.read(id);
    }
    (scene, ids)
}

impl Scene {
    fn join(&mut self) -> Id {
        self.room.join(self.now, &mut self.effects)
    }

    /// Passes on input, and runs the computations that it asks for.
    fn send(&mut self, id: Id, bytes: impl AsRef<[u8]>) {
        let mut input = bytes.as_ref();
        while let Some(computation) = self.room.input(id, &mut input, self.now, &mut self.effects) {
            self.room.reply(id, &computation.run(), &mut self.effects);
        }
    }

    fn end(&mut self, id: Id) {
        while let Some(computation) = self.room.end_of_input(id, self.now, &mut self.effects) {
            self.room.reply(id, &computation.run(), &mut self.effects);
        }
    }

    fn disconnect(&mut self, id: Id) {
        self.room.disconnect(id, &mut self.effects);
    }

    /// Lets time pass, as it does for a server that looks at each deadline in time, and finds no
    /// unread input.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.room.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            for id in self.room.expire(self.now, &mut self.effects) {
                self.room.dismiss(id, self.now, &mut self.effects);
            }
        }
        self.now = end;
    }

    /// Returns what a client receives, if the room has asked for a writer.
    fn read(&mut self, id: Id) -> String {
        let writers = self.effects.write.iter().filter(|&&writer| writer == id).count();
        assert!(writers <= 1, "two writers for one client");
        self.effects.write.retain(|&writer| writer != id);
        if writers == 0 { String::new() } else { self.write(id, usize::MAX) }
    }

    /// Writes all output of a client, at most `most` bytes at a time.
    fn write(&mut self, id: Id, most: usize) -> String {
        let (mut text, mut written, mut output) = (Vec::new(), 0, Output::default());
        loop {
            match self.room.take_output(id, written, &mut output) {
                WriterStep::Write => {}
                WriterStep::Wait => break,
                WriterStep::ShutDown => {
                    self.shut_down.push(id);
                    break;
                }
                WriterStep::Close => {
                    self.closed.push(id);
                    break;
                }
            }
            let block = output.blocks().next().expect("it says that there is output");
            written = block.len().min(most);
            text.extend_from_slice(&block[..written]);
            output.advance(written);
        }
        String::from_utf8(text).expect("the room sends UTF-8")
    }

    fn is_shut_down(&self, id: Id) -> bool {
        self.shut_down.contains(&id)
    }

    fn is_closed(&mut self, id: Id) -> bool {
        self.closed.append(&mut self.effects.close);
        self.closed.contains(&id)
    }

    /// Takes the line whose end has not arrived.
    fn partial_line(&mut self, id: Id) -> Vec<u8> {
        self.room.members.get_mut(&id).expect("it is a member").lines.finish()
    }

    fn pending(&self, id: Id) -> usize {
        self.room.members[&id].pending
    }
}

#[test]
fn a_new_client_is_greeted_and_announced() {
    let mut scene = scene();
    let a = scene.join();
    assert_eq!(scene.read(a), "* you are guest1; 0 others here; /help lists the commands\n");
    let b = scene.join();
    assert_eq!(scene.read(b), "* you are guest2; 1 other here; /help lists the commands\n");
    let c = scene.join();
    assert_eq!(scene.read(c), "* you are guest3; 2 others here; /help lists the commands\n");
    assert_eq!(scene.read(a), "* guest2 joined\n* guest3 joined\n");
    assert_eq!(scene.read(b), "* guest3 joined\n");
}

#[test]
fn a_line_goes_to_every_other_client() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.send(a, "hello\n");
    assert_eq!(scene.read(a), "");
    assert_eq!(scene.read(b), "guest1: hello\n");
    assert_eq!(scene.read(c), "guest1: hello\n");
}

#[test]
fn a_line_may_come_in_any_pieces() {
    let text = "grüße, 世界\r\nund noch eine\n/nick zoë\r\n/nick zoe\n\nlast\n".as_bytes();
    let expected = "guest1: grüße, 世界\nguest1: und noch eine\n* guest1 is now zoe\nzoe: last\n";
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let (mut scene, [a, b]) = scene_of();
            scene.send(a, &text[..first]);
            scene.send(a, &text[first..second]);
            scene.send(a, &text[second..]);
            assert_eq!(scene.read(b), expected, "split at {first} and {second}");
        }
    }
    let (mut scene, [a, b]) = scene_of();
    for byte in text {
        scene.send(a, [*byte]);
    }
    assert_eq!(scene.read(b), expected);
}

#[test]
fn the_lines_of_a_read_are_built_once_and_shared() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.send(a, "one\ntwo\nthree\n");
    let [b, c] = [b, c].map(|id| scene.room.members[&id].queue.blocks().collect::<Vec<_>>());
    assert_eq!((b.len(), c.len()), (1, 1));
    assert_eq!(b[0].as_ptr(), c[0].as_ptr(), "both point to the same memory");
}

#[test]
fn empty_lines_are_ignored() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "\n\r\n\x07\n\r\r\n \n");
    assert_eq!(scene.read(b), "guest1:  \n"); // a space is not nothing
    assert_eq!(scene.read(a), "");
}

#[test]
fn characters_that_disturb_the_display_are_removed() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "\x1b[31mred\x07\u{7f}\0 \u{9b}1mbold a\rb\n");
    scene.send(a, "a\u{202e}b\u{2066}c\u{200f}d\u{61c}e\u{2028}f\u{2029}g\n");
    scene.send(a, "z\u{200b}e\u{200d}r\u{2060}o\u{feff} \u{e9}\u{e9}\n");
    assert_eq!(
        scene.read(b),
        "guest1: [31mred 1mbold ab\nguest1: abcdefg\nguest1: zero \u{e9}\u{e9}\n"
    );
    // A line of nothing else is empty, and a removed character does not hide a command.
    scene.send(a, "\u{200b}\u{202e}\n\x1b/who\n");
    assert_eq!(scene.read(b), "");
    assert_eq!(scene.read(a), "* here: guest1, guest2\n");
}

#[test]
fn a_tab_becomes_a_space() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/nick\tbob\na\tb\n");
    assert_eq!(scene.read(b), "* guest1 is now bob\nbob: a b\n");
}

#[test]
fn a_line_that_is_not_utf8_is_dropped() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, b"\xff\xfe\nfine\n\xc3\n");
    assert_eq!(scene.read(a), "! not UTF-8\n! not UTF-8\n");
    assert_eq!(scene.read(b), "guest1: fine\n");
}

#[test]
fn a_line_has_at_most_1024_bytes() {
    for end in ["\n", "\r\n"] {
        for length in [1023, 1024, 1025, 1026, 5000] {
            for piece in [1, 2, 3, 1024, 1025, READ_SIZE] {
                let (mut scene, [a, b]) = scene_of();
                let text = "x".repeat(length);
                let line = format!("{text}{end}after{end}");
                for piece in line.as_bytes().chunks(piece) {
                    scene.send(a, piece);
                }
                let (back, others) = if length <= MAX_LINE {
                    (String::new(), format!("guest1: {text}\nguest1: after\n"))
                } else {
                    let back = "! line too long (limit 1024 bytes)\n";
                    (back.to_owned(), "guest1: after\n".to_owned())
                };
                assert_eq!(scene.read(a), back, "{length} bytes by {piece}");
                assert_eq!(scene.read(b), others, "{length} bytes by {piece}");
            }
        }
    }
    // Bytes, not characters.
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "é".repeat(512) + "\n" + &"é".repeat(513) + "\n");
    assert_eq!(scene.read(b), format!("guest1: {}\n", "é".repeat(512)));
    assert_eq!(scene.read(a), "! line too long (limit 1024 bytes)\n");
}

#[test]
fn a_line_that_is_too_long_is_reported_at_once_and_once() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "x".repeat(1025));
    assert_eq!(scene.read(a), "! line too long (limit 1024 bytes)\n");
    for _ in 0..256 {
        scene.send(a, "x".repeat(READ_SIZE)); // a megabyte
        assert_eq!(scene.partial_line(a).capacity(), 0);
    }
    assert_eq!(scene.read(a), "");
    scene.send(a, "x\nback again\n");
    assert_eq!(scene.read(a), "");
    assert_eq!(scene.read(b), "guest1: back again\n");
    // At a half-close, the end of such a line is not a line either.
    scene.send(a, "x".repeat(1025));
    scene.send(a, "tail");
    scene.end(a);
    assert_eq!(scene.read(b), "* guest1 left\n");
}

#[test]
fn a_client_between_two_lines_uses_no_buffer() {
    let (mut scene, [a, _]) = scene_of();
    scene.send(a, "half a ");
    scene.send(a, "line\n");
    assert_eq!(scene.partial_line(a).capacity(), 0);
}

#[test]
fn nick_renames_and_is_announced() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "before\n/nick ann\nafter\n");
    assert_eq!(scene.read(a), "* guest1 is now ann\n");
    assert_eq!(scene.read(b), "guest1: before\n* guest1 is now ann\nann: after\n");
}

#[test]
fn nick_takes_1_to_16_letters_digits_dashes_and_underscores() {
    const RULE: &str = "! a name is 1 to 16 letters, digits, - or _\n";
    for (name, allowed) in [
        ("", false),
        ("a", true),
        ("Bob_the-2nd", true),
        ("abcdefghijklmnop", true),
        ("abcdefghijklmnopq", false),
        ("a b", false),
        ("a,b", false),
        ("zoë", false),
        ("*", false),
        ("-", true),
    ] {
        let (mut scene, [a, b]) = scene_of();
        scene.send(a, format!("/nick {name}\n"));
        let announcement =
            if allowed { format!("* guest1 is now {name}\n") } else { String::new() };
        assert_eq!(scene.read(b), announcement);
        assert_eq!(scene.read(a), if allowed { announcement } else { RULE.to_owned() });
    }
    let (mut scene, [a]) = scene_of();
    scene.send(a, "/nick\n/nick   bob  \r\n");
    assert_eq!(scene.read(a), format!("{RULE}* guest1 is now bob\n"));
}

#[test]
fn a_name_is_taken_until_its_owner_leaves() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.send(a, "/nick bob\n");
    scene.read(b);
    scene.send(b, "/nick bob\n/nick guest2\n/nick guest3\n/nick guest1\n");
    let back =
        "! bob is taken\n! you are guest2 already\n! guest3 is taken\n* guest2 is now guest1\n";
    assert_eq!(scene.read(b), back);
    scene.disconnect(a);
    scene.send(c, "/nick bob\n");
    assert!(scene.read(c).ends_with("* bob left\n* guest3 is now bob\n"));
}

#[test]
fn a_guest_does_not_get_a_name_that_is_taken() {
    let (mut scene, [a]) = scene_of();
    scene.send(a, "/nick guest2\n");
    let b = scene.join();
    assert!(scene.read(b).starts_with("* you are guest3; "));
}

#[test]
fn who_lists_the_clients_that_are_present() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.send(b, "/nick bea\n");
    scene.read(a);
    scene.send(a, "/who\n");
    assert_eq!(scene.read(a), "* here: guest1, bea, guest3\n");
    scene.disconnect(c);
    scene.end(b); // has pending output, but is not present
    scene.read(a);
    scene.send(a, "/who\n");
    assert_eq!(scene.read(a), "* here: guest1\n");
}

#[test]
fn help_and_unknown_commands_get_a_reply() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/help\n/nack bob\n/\n/WHO\n");
    let back = "* /nick NAME, /who, /factor N, /quit, /help; anything else is said to all\n\
                ! unknown command /nack; try /help\n\
                ! unknown command /; try /help\n\
                ! unknown command /WHO; try /help\n";
    assert_eq!(scene.read(a), back);
    assert_eq!(scene.read(b), "");
}

#[test]
fn factor_replies_to_the_sender_only() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/factor 60\n/factor\t999999999999989 \n/factor x\n");
    assert_eq!(
        scene.read(a),
        "* 60 = 2 · 2 · 3 · 5\n* 999999999999989 = 999999999999989\n\
         ! /factor takes a number from 2 to 999999999999999\n"
    );
    assert_eq!(scene.read(b), "");
}

#[test]
fn lines_stay_in_order_around_a_computation() {
    let (mut scene, [a, b]) = scene_of();
    let mut input = &b"one\n/factor 6\ntwo\n"[..];
    let computation = scene.room.input(a, &mut input, scene.now, &mut scene.effects);
    assert_eq!(input, b"two\n");
    assert_eq!(scene.read(b), "guest1: one\n");
    scene.send(b, "meanwhile\n");
    scene.room.reply(a, &computation.expect("it asks for one").run(), &mut scene.effects);
    scene.send(a, input);
    assert_eq!(scene.read(a), "guest2: meanwhile\n* 6 = 2 · 3\n");
    assert_eq!(scene.read(b), "guest1: two\n");
}

#[test]
fn a_half_close_may_end_a_computation() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/factor 21");
    scene.end(a);
    assert_eq!(scene.read(a), "* 21 = 3 · 7\n");
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "* guest1 left\n");
}

#[test]
fn the_result_of_a_client_that_is_gone_is_dropped() {
    let (mut scene, [a, b]) = scene_of();
    scene.disconnect(a);
    scene.room.reply(a, "6 = 2 · 3", &mut scene.effects);
    scene.send(b, "/quit\n");
    scene.room.reply(b, "6 = 2 · 3", &mut scene.effects);
    assert_eq!(scene.read(b), "* guest1 left\n* bye\n");
}

#[test]
fn quit_says_bye_and_departs() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "so long\n/quit\nnot sent on\n");
    scene.send(a, "nor this\n");
    assert!(!scene.is_shut_down(a));
    assert_eq!(scene.read(a), "* bye\n");
    assert!(scene.is_shut_down(a));
    assert_eq!(scene.read(b), "guest1: so long\n* guest1 left\n");
    // The connection stays open until the client's FIN arrives.
    scene.send(a, "late\n");
    assert!(!scene.is_closed(a));
    scene.end(a);
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "");
    assert_eq!(scene.room.members.len(), 1);
}

#[test]
fn a_fin_before_the_last_output_is_written_saves_the_shutdown() {
    let (mut scene, [a, _]) = scene_of();
    scene.send(a, "/quit\nlate\n");
    scene.end(a);
    assert!(!scene.is_closed(a));
    assert_eq!(scene.read(a), "* bye\n");
    assert!(scene.is_closed(a) && !scene.is_shut_down(a));
}

#[test]
fn a_departing_client_may_send_so_much_and_no_more() {
    for writes_first in [true, false] {
        let (mut scene, [a, b]) = scene_of();
        scene.send(a, "/quit\n");
        if writes_first {
            scene.read(a);
        }
        for _ in 0..MAX_DISCARDED / READ_SIZE {
            scene.send(a, [b'\n'; READ_SIZE]);
        }
        assert!(!scene.is_closed(a));
        scene.send(a, "x");
        assert!(scene.is_closed(a));
        assert_eq!(scene.read(b), "* guest1 left\n");
    }
}

#[test]
fn a_half_close_ends_the_last_line() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "first\nlast");
    scene.end(a);
    scene.end(a);
    assert!(scene.is_closed(a)); // it had no pending output
    assert_eq!(scene.read(b), "guest1: first\nguest1: last\n* guest1 left\n");
    scene.send(b, "/nope");
    scene.end(b);
    assert!(!scene.is_closed(b));
    assert_eq!(scene.read(b), "! unknown command /nope; try /help\n");
    assert!(scene.is_closed(b));
    assert!(scene.room.members.is_empty());
}

#[test]
fn an_unterminated_quit_leaves_once() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/quit");
    scene.end(a);
    assert_eq!(scene.read(a), "* bye\n");
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "* guest1 left\n");
}

#[test]
fn a_half_close_delivers_pending_output() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "one\n");
    scene.end(b);
    scene.send(a, "two\n");
    assert!(!scene.is_closed(b));
    assert_eq!(scene.read(b), "guest1: one\n");
    assert!(scene.is_closed(b));
    assert_eq!(scene.read(a), "* guest2 left\n");
}

#[test]
fn leaving_is_announced_once_whatever_the_cause() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.send(a, "/quit\n");
    scene.disconnect(a);
    scene.disconnect(a);
    scene.end(a);
    assert_eq!(scene.read(b), "* guest1 left\n");
    scene.send(b, "unsaid");
    scene.disconnect(b);
    assert_eq!(scene.read(c), "* guest1 left\n* guest2 left\n");
    assert_eq!(scene.room.members.len(), 1);
}

#[test]
fn an_unknown_id_is_no_error() {
    let (mut scene, [a, b]) = scene_of();
    scene.disconnect(a);
    scene.send(a, "hello\n");
    scene.end(a);
    assert_eq!(scene.room.take_output(a, 7, &mut Output::default()), WriterStep::Close);
    assert_eq!(scene.read(b), "* guest1 left\n");
    let c = scene.join();
    assert!(c > b, "ids are not reused");
}

#[test]
fn all_clients_see_the_same_order() {
    let (mut scene, [a, b, c]) = scene_of();
    for turn in 0..100 {
        scene.send(a, format!("{turn} from a\n"));
        scene.send(b, format!("{turn} from b\n{turn} again\n"));
    }
    let seen = scene.read(c);
    assert_eq!(seen.lines().count(), 300);
    for (id, own) in [(a, "guest1: "), (b, "guest2: ")] {
        let others: Vec<_> = seen.lines().filter(|line| !line.starts_with(own)).collect();
        assert_eq!(scene.read(id).lines().collect::<Vec<_>>(), others);
    }
}

#[test]
fn a_write_may_be_short() {
    for most in [1, 2, 7, 100] {
        let (mut scene, [a, b]) = scene_of();
        scene.send(a, "hello\n");
        scene.send(a, "world\n");
        assert_eq!(scene.write(b, most), "guest1: hello\nguest1: world\n");
    }
}

#[test]
fn a_client_has_one_writer() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "one\n");
    assert_eq!(mem::take(&mut scene.effects.write), [b]);
    let mut output = Output::default();
    assert_eq!(scene.room.take_output(b, 0, &mut output), WriterStep::Write);
    scene.send(a, "two\n"); // while the first line is being written
    assert_eq!(scene.effects.write, []);
    output.advance("guest1: one\n".len());
    assert_eq!(scene.room.take_output(b, 12, &mut output), WriterStep::Write);
    assert_eq!(output.blocks().collect::<Vec<_>>(), [b"guest1: two\n"]);
    output.advance("guest1: two\n".len());
    assert_eq!(scene.room.take_output(b, 12, &mut output), WriterStep::Wait);
    scene.send(a, "three\n");
    assert_eq!(scene.effects.write, [b]);
}

#[test]
fn a_client_that_does_not_read_is_disconnected_at_the_limit() {
    let (mut scene, [a, b, c]) = scene_of();
    let line = "x".repeat(1015) + "\n"; // 1024 with the name
    for count in 1..=MAX_PENDING / 1024 {
        scene.send(a, &line);
        assert_eq!(scene.read(c).len(), 1024);
        assert_eq!(scene.pending(b), count * 1024);
        assert!(!scene.is_closed(b));
    }
    scene.send(a, "one more\n");
    assert!(scene.is_closed(b));
    assert_eq!(scene.read(c), "guest1: one more\n* guest2 left\n");
    assert_eq!(scene.read(a), "* guest2 left\n");
    assert_eq!(scene.room.take_output(b, 0, &mut Output::default()), WriterStep::Close);
    assert_eq!(scene.room.members.len(), 2);
}

#[test]
fn output_counts_as_pending_until_its_writer_reports_it() {
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "x\n");
    let mut output = Output::default();
    assert_eq!(scene.room.take_output(b, 0, &mut output), WriterStep::Write);
    for _ in 0..MAX_PENDING / READ_SIZE {
        scene.send(a, ("x".repeat(1015) + "\n").repeat(4));
    }
    assert!(scene.is_closed(b));
}

#[test]
fn many_can_be_disconnected_at_once() {
    let (mut scene, [a, _, _, d]) = scene_of();
    for _ in 0..MAX_PENDING / 1024 {
        scene.send(a, "x".repeat(1015) + "\n");
    }
    scene.read(d);
    scene.send(a, "one more\n");
    assert_eq!(scene.effects.close.len(), 2);
    assert_eq!(scene.read(d), "guest1: one more\n* guest2 left\n* guest3 left\n");
    assert_eq!(scene.read(a), "* guest2 left\n* guest3 left\n");
}

#[test]
fn a_client_that_asks_for_more_than_the_limit_is_disconnected() {
    let mut scene = scene();
    let ids: Vec<_> = (0..1000).map(|_| scene.join()).collect();
    let a = ids[999];
    scene.read(a);
    scene.send(a, "/who\n".repeat(READ_SIZE / 5));
    assert!(scene.is_closed(a));
    assert!(scene.read(ids[0]).ends_with("* guest1000 left\n"));
}

#[test]
fn two_input_budgets_stay_below_the_limit() {
    // The worst case: the longest name, and lines of one letter.
    let (mut scene, [a, b]) = scene_of();
    scene.send(a, "/nick abcdefghijklmnop\n");
    scene.read(b);
    for _ in 0..2 * INPUT_BUDGET / READ_SIZE {
        scene.send(a, "x\n".repeat(READ_SIZE / 2));
    }
    assert!(scene.pending(b) < MAX_PENDING);
}

/// The lines began in earlier reads, which an earlier budget paid for. Only their ends arrive now.
#[test]
fn the_end_of_a_long_line_is_charged_for_the_line() {
    for end in ["\n", ""] {
        let (mut scene, clients) = scene_of::<256>();
        for id in clients {
            scene.send(id, "x".repeat(MAX_LINE));
        }
        scene.effects.take_charge(0); // of the joins
        let mut processed = 0;
        for id in clients {
            if processed + READ_SIZE > INPUT_BUDGET {
                for reader in clients {
                    assert!(scene.read(reader).len() < MAX_PENDING / 2);
                }
                processed = 0;
            }
            assert!(!scene.is_closed(id));
            if end.is_empty() {
                scene.end(id);
            } else {
                scene.send(id, end);
            }
            processed += scene.effects.take_charge(end.len());
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_idle_client_is_dismissed() {
    let (mut scene, [a, b]) = scene_of();
    scene.pass(299 * SECOND);
    scene.send(b, "x"); // half a line counts
    scene.pass(SECOND);
    assert_eq!(scene.read(a), "");
    scene.pass(SECOND_LOOK);
    assert_eq!(scene.read(a), "* idle for 300 s, goodbye\n");
    assert!(scene.is_shut_down(a));
    assert_eq!(scene.read(b), "* guest1 left\n");
    scene.pass(298 * SECOND);
    assert_eq!(scene.read(b), "");
    scene.pass(SECOND);
    assert_eq!(scene.read(b), "* idle for 300 s, goodbye\n");
    scene.pass(LINGER_TIME);
    assert!(scene.is_closed(a) && scene.is_closed(b));
    assert_eq!(scene.room.next_deadline(), None);
}

/// Each client that leaves is a line for all others. If all left in one call, the lines could exceed
/// what may be pending for a client that does read.
#[test]
fn idle_clients_leave_a_few_at_a_time() {
    let (mut scene, ids) = scene_of::<200>();
    scene.now += 299 * SECOND;
    scene.send(ids[0], "x");
    scene.now += SECOND;
    assert_eq!(scene.room.expire(scene.now, &mut scene.effects), [], "the first look");
    scene.now += SECOND_LOOK;
    let mut left = 199;
    while left > 0 {
        assert!(scene.room.next_deadline().is_some_and(|deadline| deadline <= scene.now));
        let idle = scene.room.expire(scene.now, &mut scene.effects);
        assert_eq!(idle.len(), left.min(MAX_DISMISSED));
        left -= idle.len();
        for id in idle {
            scene.room.dismiss(id, scene.now, &mut scene.effects);
        }
        scene.read(ids[0]);
    }
    assert!(scene.room.next_deadline().is_some_and(|deadline| deadline > scene.now));
}

/// The process was stopped for longer than a client may be idle. The client was not idle: its input
/// arrived meanwhile.
#[test]
fn a_look_that_comes_late_dismisses_nobody() {
    let (mut scene, [a, b]) = scene_of();
    scene.now += 1000 * SECOND;
    assert_eq!(scene.room.expire(scene.now, &mut scene.effects), []);
    scene.send(a, "x"); // is read after the first look
    scene.now += SECOND_LOOK;
    assert_eq!(scene.room.expire(scene.now, &mut scene.effects), [b]);
    // The input of the other one is read between the second look and the decision.
    scene.send(b, "x");
    scene.room.dismiss(b, scene.now, &mut scene.effects);
    assert_eq!(scene.read(b), "");
}

/// While input of a client waits in the server, the server does not dismiss it.
#[test]
fn a_client_that_is_not_dismissed_is_looked_at_again() {
    let (mut scene, [a]) = scene_of();
    scene.now += 300 * SECOND;
    assert_eq!(scene.room.expire(scene.now, &mut scene.effects), []);
    for _ in 0..3 {
        assert_eq!(scene.room.next_deadline(), Some(scene.now + SECOND_LOOK));
        scene.now += SECOND_LOOK;
        assert_eq!(scene.room.expire(scene.now, &mut scene.effects), [a]);
    }
}

#[test]
fn next_deadline_is_never_late() {
    let (mut scene, [a, b]) = scene_of();
    let start = scene.now;
    assert_eq!(scene.room.next_deadline(), Some(start + 300 * SECOND));
    scene.pass(100 * SECOND);
    scene.send(a, "hello\n");
    scene.pass(200 * SECOND + SECOND_LOOK);
    assert!(scene.read(b).ends_with("goodbye\n"));
    let deadline = scene.room.next_deadline().expect("client a is departing");
    assert!(deadline <= scene.now + LINGER_TIME);
}

/// Each dismissal is a line for all that remain. The server writes between two calls.
#[test]
fn a_large_room_is_dismissed_in_parts() {
    let mut scene = scene();
    let active = scene.join();
    let idle: Vec<_> = (0..=MAX_DISMISSED).map(|_| scene.join()).collect();
    scene.now += 300 * SECOND;
    assert_eq!(scene.room.expire(scene.now, &mut scene.effects), []);
    scene.send(active, "x");
    scene.now += SECOND_LOOK;
    for part in idle.chunks(MAX_DISMISSED) {
        assert!(scene.room.next_deadline().is_some_and(|deadline| deadline <= scene.now));
        assert_eq!(scene.room.expire(scene.now, &mut scene.effects), part);
    }
    assert!(scene.room.next_deadline() > Some(scene.now));
    let longest = "* abcdefghijklmnop left\n".len();
    assert!(MAX_DISMISSED * longest < MAX_PENDING / 10);
}

#[test]
fn idle_0_is_never() {
    assert_eq!(parse_idle("0").ok(), Some(None));
    assert_eq!(parse_idle("7").ok(), Some(Some(7 * SECOND)));
    for wrong in ["", "-1", "1.5", "soon", "99999999999"] {
        assert!(parse_idle(wrong).is_err());
    }
    let mut scene = Scene { room: Room::new(None), ..scene() };
    let a = scene.join();
    assert_eq!(scene.room.next_deadline(), None);
    scene.pass(1_000_000 * SECOND);
    assert!(!scene.is_shut_down(a) && !scene.is_closed(a));
}

#[test]
fn a_departing_client_is_closed_in_time() {
    for reads in [true, false] {
        let mut scene = Scene { room: Room::new(None), ..scene() };
        let (a, b) = (scene.join(), scene.join());
        scene.send(a, "/quit\n");
        assert_eq!(scene.room.next_deadline(), Some(scene.now + LINGER_TIME));
        if reads {
            scene.read(a);
        }
        scene.pass(LINGER_TIME / 2);
        scene.send(a, "still here\n"); // does not prolong it
        assert!(!scene.is_closed(a));
        scene.pass(LINGER_TIME / 2);
        assert!(scene.is_closed(a));
        assert!(!scene.is_closed(b));
        assert_eq!(scene.room.next_deadline(), None);
    }
}

mod fuzz;
