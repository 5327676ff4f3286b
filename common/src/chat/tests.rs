//! Every rule of the room, seen as its clients see it: by what they are sent.

use super::*;

/// A room with a clock, whose clients take at once whatever is owed to them, but for those that
/// a test wants otherwise.
struct Scene {
    room: Room,
    effects: Effects,
    now: Instant,
    closed: Vec<Id>,
}

fn scene() -> Scene {
    let (room, effects) = (Room::new(Some(Duration::from_secs(300))), Effects::default());
    Scene { room, effects, now: Instant::now(), closed: Vec::new() }
}

/// A scene with so many clients who have read what they were told on arrival.
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

    fn say(&mut self, id: Id, bytes: impl AsRef<[u8]>) {
        self.room.input(id, bytes.as_ref(), self.now, &mut self.effects);
    }

    fn end(&mut self, id: Id) {
        self.room.end(id, self.now, &mut self.effects);
    }

    fn leave(&mut self, id: Id) {
        self.room.leave(id, &mut self.effects);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.room.expire(self.now, &mut self.effects);
    }

    /// What a client gets to read, as its server writes it: if it was called to.
    fn read(&mut self, id: Id) -> String {
        let (mut text, mut bytes, mut sent) = (Vec::new(), Vec::new(), 0);
        let called = self.effects.write.iter().filter(|&&called| called == id).count();
        assert!(called <= 1, "two writers for one client");
        self.effects.write.retain(|&called| called != id);
        if called == 1 {
            loop {
                match self.room.owed(id, sent, &mut bytes) {
                    Owed::Lines => text.extend_from_slice(&bytes),
                    Owed::Nothing => break,
                    Owed::Close => {
                        self.closed.push(id);
                        break;
                    }
                }
                sent = bytes.len();
            }
        }
        String::from_utf8(text).expect("the room speaks UTF-8")
    }

    fn is_closed(&mut self, id: Id) -> bool {
        self.closed.append(&mut self.effects.close);
        self.closed.contains(&id)
    }
}

#[test]
fn arrival_greets_and_tells_the_others() {
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
    scene.say(a, "hello\n");
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
            scene.say(a, &text[..first]);
            scene.say(a, &text[first..second]);
            scene.say(a, &text[second..]);
            assert_eq!(scene.read(b), expected, "split at {first} and {second}");
        }
    }
    let (mut scene, [a, b]) = scene_of();
    for byte in text {
        scene.say(a, [*byte]);
    }
    assert_eq!(scene.read(b), expected);
}

#[test]
fn the_lines_of_a_read_are_built_once_and_shared() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.say(a, "one\ntwo\nthree\n");
    let [b, c] = [b, c].map(|id| scene.room.members[&id].outbox.clone());
    assert_eq!((b.len(), c.len()), (1, 1));
    assert!(Arc::ptr_eq(&b[0], &c[0]));
}

#[test]
fn empty_lines_are_ignored() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "\n\r\n\x07\n\r\r\n \n");
    assert_eq!(scene.read(b), "guest1:  \n"); // a blank is something
    assert_eq!(scene.read(a), "");
}

#[test]
fn control_characters_are_taken_out() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "\x1b[31mred\x07\u{7f}\0 \u{9b}1mbold\ttab a\rb\n");
    assert_eq!(scene.read(b), "guest1: [31mred 1mboldtab ab\n");
    // One that hides a command does not.
    scene.say(a, "\x1b/who\n");
    assert_eq!(scene.read(b), "");
    assert_eq!(scene.read(a), "* here: guest1, guest2\n");
}

#[test]
fn what_is_not_utf8_is_dropped() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, b"\xff\xfe\nfine\n\xc3\n");
    assert_eq!(scene.read(a), "! not UTF-8\n! not UTF-8\n");
    assert_eq!(scene.read(b), "guest1: fine\n");
}

#[test]
fn a_line_has_at_most_1024_bytes() {
    for end in ["\n", "\r\n"] {
        for length in [1023, 1024, 1025, 1026, 5000] {
            for piece in [1, 2, 3, 1024, 1025, READ] {
                let (mut scene, [a, b]) = scene_of();
                let text = "x".repeat(length);
                let line = format!("{text}{end}after{end}");
                for piece in line.as_bytes().chunks(piece) {
                    scene.say(a, piece);
                }
                let (back, others) = if length <= LINE {
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
    scene.say(a, "é".repeat(512) + "\n" + &"é".repeat(513) + "\n");
    assert_eq!(scene.read(b), format!("guest1: {}\n", "é".repeat(512)));
    assert_eq!(scene.read(a), "! line too long (limit 1024 bytes)\n");
}

#[test]
fn too_long_is_said_at_once_and_once() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "x".repeat(1025));
    assert_eq!(scene.read(a), "! line too long (limit 1024 bytes)\n");
    for _ in 0..256 {
        scene.say(a, "x".repeat(READ)); // a megabyte
        assert_eq!(scene.room.members[&a].unfinished.capacity(), 0);
    }
    assert_eq!(scene.read(a), "");
    scene.say(a, "x\nback again\n");
    assert_eq!(scene.read(a), "");
    assert_eq!(scene.read(b), "guest1: back again\n");
    // Nor is its end a line at a half-close.
    scene.say(a, "x".repeat(1025));
    scene.say(a, "tail");
    scene.end(a);
    assert_eq!(scene.read(b), "* guest1 left\n");
}

#[test]
fn a_client_between_two_lines_costs_no_buffer() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "half a ");
    scene.say(a, "line\n");
    assert_eq!(scene.room.members[&a].unfinished.capacity(), 0);
    for _ in 0..1000 {
        scene.say(a, "hello\n");
    }
    scene.read(b);
    assert!(scene.room.members[&b].outbox.capacity() <= 16);
}

#[test]
fn nick_renames_and_tells_all() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "before\n/nick ann\nafter\n");
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
        scene.say(a, format!("/nick {name}\n"));
        let news = if allowed { format!("* guest1 is now {name}\n") } else { String::new() };
        assert_eq!(scene.read(b), news);
        assert_eq!(scene.read(a), if allowed { news } else { RULE.to_owned() });
    }
    let (mut scene, [a]) = scene_of();
    scene.say(a, "/nick\n/nick   bob  \r\n");
    assert_eq!(scene.read(a), format!("{RULE}* guest1 is now bob\n"));
}

#[test]
fn a_name_is_taken_until_its_owner_leaves() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.say(a, "/nick bob\n");
    scene.read(b);
    scene.say(b, "/nick bob\n/nick guest2\n/nick guest3\n/nick guest1\n");
    let back =
        "! bob is taken\n! you are guest2 already\n! guest3 is taken\n* guest2 is now guest1\n";
    assert_eq!(scene.read(b), back);
    scene.leave(a);
    scene.say(c, "/nick bob\n");
    assert!(scene.read(c).ends_with("* bob left\n* guest3 is now bob\n"));
}

#[test]
fn a_guest_does_not_get_a_name_that_is_taken() {
    let (mut scene, [a]) = scene_of();
    scene.say(a, "/nick guest2\n");
    let b = scene.join();
    assert!(scene.read(b).starts_with("* you are guest3; "));
}

#[test]
fn who_lists_those_who_are_here() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.say(b, "/nick bea\n");
    scene.read(a);
    scene.say(a, "/who\n");
    assert_eq!(scene.read(a), "* here: guest1, bea, guest3\n");
    scene.leave(c);
    scene.end(b); // it has lines to take yet, but is not here any more
    scene.read(a);
    scene.say(a, "/who\n");
    assert_eq!(scene.read(a), "* here: guest1\n");
}

#[test]
fn help_and_unknown_commands_are_answered() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "/help\n/nack bob\n/\n/WHO\n");
    let back = "* /nick NAME, /who, /quit, /help; anything else is said to all\n\
                ! unknown command /nack; try /help\n\
                ! unknown command /; try /help\n\
                ! unknown command /WHO; try /help\n";
    assert_eq!(scene.read(a), back);
    assert_eq!(scene.read(b), "");
}

#[test]
fn quit_says_bye_and_closes() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "so long\n/quit\nnot said\n");
    scene.say(a, "nor this\n");
    assert!(!scene.is_closed(a));
    assert_eq!(scene.read(a), "* bye\n");
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "guest1: so long\n* guest1 left\n");
    assert_eq!(scene.room.members.len(), 1);
}

#[test]
fn a_half_close_ends_the_last_line() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "first\nlast");
    scene.end(a);
    scene.end(a);
    assert!(scene.is_closed(a)); // nothing was owed to it
    assert_eq!(scene.read(b), "guest1: first\nguest1: last\n* guest1 left\n");
    scene.say(b, "/nope");
    scene.end(b);
    assert!(!scene.is_closed(b));
    assert_eq!(scene.read(b), "! unknown command /nope; try /help\n");
    assert!(scene.is_closed(b));
    assert!(scene.room.members.is_empty());
}

#[test]
fn an_unended_quit_leaves_once() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "/quit");
    scene.end(a);
    assert_eq!(scene.read(a), "* bye\n");
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "* guest1 left\n");
}

#[test]
fn a_half_close_delivers_what_is_owed() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "one\n");
    scene.end(b);
    scene.say(a, "two\n");
    assert!(!scene.is_closed(b));
    assert_eq!(scene.read(b), "guest1: one\n");
    assert!(scene.is_closed(b));
    assert_eq!(scene.read(a), "* guest2 left\n");
}

#[test]
fn leaving_is_told_once_however_it_comes_about() {
    let (mut scene, [a, b, c]) = scene_of();
    scene.say(a, "/quit\n");
    scene.leave(a);
    scene.leave(a);
    scene.end(a);
    assert_eq!(scene.read(b), "* guest1 left\n");
    scene.say(b, "unsaid");
    scene.leave(b);
    assert_eq!(scene.read(c), "* guest1 left\n* guest2 left\n");
    assert_eq!(scene.room.members.len(), 1);
}

#[test]
fn an_unknown_id_is_no_error() {
    let (mut scene, [a, b]) = scene_of();
    scene.leave(a);
    scene.say(a, "hello\n");
    scene.end(a);
    assert_eq!(scene.room.owed(a, 7, &mut vec![1]), Owed::Close);
    assert_eq!(scene.read(b), "* guest1 left\n");
    let c = scene.join();
    assert!(c > b, "ids are not given out twice");
}

#[test]
fn everybody_sees_the_same_order() {
    let (mut scene, [a, b, c]) = scene_of();
    for turn in 0..100 {
        scene.say(a, format!("{turn} from a\n"));
        scene.say(b, format!("{turn} from b\n{turn} again\n"));
    }
    let seen = scene.read(c);
    assert_eq!(seen.lines().count(), 300);
    for (id, own) in [(a, "guest1: "), (b, "guest2: ")] {
        let others: Vec<_> = seen.lines().filter(|line| !line.starts_with(own)).collect();
        assert_eq!(scene.read(id).lines().collect::<Vec<_>>(), others);
    }
}

#[test]
fn a_write_may_take_a_part() {
    for part in [1, 2, 7, 100] {
        let (mut scene, [a, b]) = scene_of();
        scene.say(a, "hello\n");
        scene.say(a, "world\n");
        let (mut bytes, mut taken, mut sent) = (Vec::new(), Vec::new(), 0);
        while scene.room.owed(b, sent, &mut bytes) == Owed::Lines {
            sent = bytes.len().min(part);
            taken.extend_from_slice(&bytes[..sent]);
        }
        assert_eq!(taken, b"guest1: hello\nguest1: world\n");
    }
}

#[test]
fn there_is_one_writer_a_client() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "one\n");
    assert_eq!(mem::take(&mut scene.effects.write), [b]);
    let mut bytes = Vec::new();
    assert_eq!(scene.room.owed(b, 0, &mut bytes), Owed::Lines);
    scene.say(a, "two\n"); // while the first is being written
    assert_eq!(scene.effects.write, []);
    assert_eq!(scene.room.owed(b, bytes.len(), &mut bytes), Owed::Lines);
    assert_eq!(bytes, b"guest1: two\n");
    assert_eq!(scene.room.owed(b, bytes.len(), &mut bytes), Owed::Nothing);
    scene.say(a, "three\n");
    assert_eq!(scene.effects.write, [b]);
}

#[test]
fn a_client_that_does_not_read_is_cut_off_at_the_bound() {
    let (mut scene, [a, b, c]) = scene_of();
    let line = "x".repeat(1015) + "\n"; // 1024 with the name
    for count in 1..=BOUND / 1024 {
        scene.say(a, &line);
        assert_eq!(scene.read(c).len(), 1024);
        assert_eq!(scene.room.members[&b].waiting, count * 1024);
        assert!(!scene.is_closed(b));
    }
    scene.say(a, "the last straw\n");
    assert!(scene.is_closed(b));
    assert_eq!(scene.read(c), "guest1: the last straw\n* guest2 left\n");
    assert_eq!(scene.read(a), "* guest2 left\n");
    assert_eq!(scene.room.owed(b, 0, &mut Vec::new()), Owed::Close);
    assert_eq!(scene.room.members.len(), 2);
}

#[test]
fn a_write_under_way_counts_for_the_bound() {
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "x\n");
    assert_eq!(scene.room.owed(b, 0, &mut Vec::new()), Owed::Lines);
    for _ in 0..BOUND / READ {
        scene.say(a, ("x".repeat(1015) + "\n").repeat(4));
    }
    assert!(scene.is_closed(b));
}

#[test]
fn many_can_be_cut_off_at_once() {
    let (mut scene, [a, _, _, d]) = scene_of();
    for _ in 0..BOUND / 1024 {
        scene.say(a, "x".repeat(1015) + "\n");
    }
    scene.read(d);
    scene.say(a, "the last straw\n");
    assert_eq!(scene.effects.close.len(), 2);
    assert_eq!(scene.read(d), "guest1: the last straw\n* guest2 left\n* guest3 left\n");
    assert_eq!(scene.read(a), "* guest2 left\n* guest3 left\n");
}

#[test]
fn one_that_asks_for_more_than_the_bound_is_cut_off() {
    let mut scene = scene();
    let ids: Vec<_> = (0..1000).map(|_| scene.join()).collect();
    let a = ids[999];
    scene.read(a);
    scene.say(a, "/who\n".repeat(READ / 5));
    assert!(scene.is_closed(a));
    assert!(scene.read(ids[0]).ends_with("* guest1000 left\n"));
}

#[test]
fn twice_the_most_that_is_under_way_stays_below_the_bound() {
    // The worst: the longest name, before lines of one letter.
    let (mut scene, [a, b]) = scene_of();
    scene.say(a, "/nick abcdefghijklmnop\n");
    scene.read(b);
    for _ in 0..2 * UNDER_WAY / READ {
        scene.say(a, "x\n".repeat(READ / 2));
    }
    assert!(scene.room.members[&b].waiting < BOUND);
}

#[test]
fn the_idle_are_sent_away() {
    let (mut scene, [a, b]) = scene_of();
    scene.pass(299);
    scene.say(b, "x"); // half a line is a sign of life
    scene.pass(1);
    assert_eq!(scene.read(a), "* idle for 300 s, goodbye\n");
    assert!(scene.is_closed(a));
    assert_eq!(scene.read(b), "* guest1 left\n");
    scene.pass(298);
    assert_eq!(scene.read(b), "");
    scene.pass(1);
    assert_eq!(scene.read(b), "* idle for 300 s, goodbye\n");
    scene.pass(10);
    assert_eq!(scene.room.next_expiry(), None);
}

#[test]
fn next_expiry_is_never_late() {
    let (mut scene, [a, _]) = scene_of();
    let start = scene.now;
    assert_eq!(scene.room.next_expiry(), Some(start + Duration::from_secs(300)));
    scene.pass(100);
    scene.say(a, "hello\n");
    scene.pass(200); // the other goes
    assert_eq!(scene.room.next_expiry(), Some(scene.now + LINGER));
}

#[test]
fn idle_0_is_never() {
    assert_eq!(idle("0").ok(), Some(None));
    assert_eq!(idle("7").ok(), Some(Some(Duration::from_secs(7))));
    for wrong in ["", "-1", "1.5", "soon", "99999999999"] {
        assert!(idle(wrong).is_err());
    }
    let mut scene = Scene { room: Room::new(None), ..scene() };
    let a = scene.join();
    assert_eq!(scene.room.next_expiry(), None);
    scene.pass(1_000_000);
    assert!(!scene.is_closed(a));
}

#[test]
fn one_that_leaves_and_does_not_read_is_cut_off_in_time() {
    let mut scene = Scene { room: Room::new(None), ..scene() };
    let (a, b) = (scene.join(), scene.join());
    scene.say(a, "/quit\n");
    assert_eq!(scene.room.next_expiry(), Some(scene.now + LINGER));
    scene.pass(9);
    assert!(!scene.is_closed(a));
    scene.pass(1);
    assert!(scene.is_closed(a));
    assert!(!scene.is_closed(b));
    assert_eq!(scene.room.next_expiry(), None);
}
