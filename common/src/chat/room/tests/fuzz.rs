//! Properties of the room that hold for any input. proptest makes up the inputs, and shrinks a
//! failing input to a small one.
//!
//! `PROPTEST_CASES=100000 cargo test --release -p common fuzz` tries more of them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const CLIENTS: usize = 3;

fn config() -> ProptestConfig {
    // The default has read PROPTEST_CASES. A failure is printed, and not written to a file.
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    if is_set { default } else { ProptestConfig { cases: 64, ..default } }
}

/// A part of a client's input: bytes that mean something to the room, or any bytes.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "\n",
        "\r\n",
        "\r",
        "\t",
        " ",
        "a",
        "grüße",
        "\u{202e}",
        "/nick bob\n",
        "/nick ",
        "/who\n",
        "/who",
        "/factor 12\n",
        "/factor 1\n",
        "/help\n",
        "/quit\n",
        "/x\n",
        "/",
    ]);
    prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
        // Around the longest line.
        1 => (1000..1050_usize).prop_map(|count| vec![b'x'; count]),
    ]
}

/// What one client sends at once.
fn message() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let bytes = vec(part(), 0..12).prop_map(|parts| {
        let mut bytes = parts.concat();
        bytes.truncate(READ_SIZE);
        bytes
    });
    (0..CLIENTS, bytes)
}

/// What each client receives, and whether it is shut down.
fn outcome(messages: &[(usize, Vec<&[u8]>)]) -> [(String, bool); CLIENTS] {
    let (mut scene, ids) = scene_of::<CLIENTS>();
    let mut received = [(); CLIENTS].map(|()| String::new());
    for (sender, pieces) in messages {
        for piece in pieces {
            scene.send(ids[*sender], piece);
            for (text, id) in received.iter_mut().zip(ids) {
                text.push_str(&scene.read(id));
            }
        }
    }
    let mut index = 0;
    received.map(|text| {
        index += 1;
        (text, scene.is_shut_down(ids[index - 1]))
    })
}

/// Something that happens to the room.
#[derive(Clone, Debug)]
enum Action {
    Join,
    Line(Index),
    Bytes(Index, Vec<u8>),
    /// Long lines, so many that a client that writes little reaches its limit.
    Lines(Index, usize),
    Fin(Index),
    Failure(Index),
    Write(Index, usize),
    Time(Duration),
}

fn action() -> impl Strategy<Value = Action> {
    let client = any::<Index>;
    prop_oneof![
        2 => Just(Action::Join),
        8 => client().prop_map(Action::Line),
        2 => (client(), message()).prop_map(|(client, (_, bytes))| Action::Bytes(client, bytes)),
        2 => (client(), 20..100_usize).prop_map(|(client, count)| Action::Lines(client, count)),
        1 => client().prop_map(Action::Fin),
        1 => client().prop_map(Action::Failure),
        6 => (client(), 1..5000_usize).prop_map(|(client, most)| Action::Write(client, most)),
        1 => (0..400_u64).prop_map(|seconds| Action::Time(Duration::from_secs(seconds))),
    ]
}

/// Checks that the lines of each sender arrive in order, and that none is missing in between.
fn check_order(received: &str) -> Result<(), TestCaseError> {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for line in received.lines() {
        let Some((_, text)) = line.split_once(": line ") else { continue };
        let (sender, number) = text.split_once(' ').expect("a line has two words");
        let number = number.parse().expect("a line has a number");
        if let Some(before) = last.insert(sender, number) {
            prop_assert_eq!(number, before + 1, "of sender {}", sender);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn input_may_be_split_anywhere(
        messages in vec((message(), vec(any::<Index>(), 0..4)), 0..8),
    ) {
        let whole: Vec<_> =
            messages.iter().map(|((sender, bytes), _)| (*sender, vec![&bytes[..]])).collect();
        let mut split = Vec::new();
        for ((sender, bytes), places) in &messages {
            let mut places: Vec<_> = places.iter().map(|at| at.index(bytes.len() + 1)).collect();
            places.sort_unstable();
            let (mut pieces, mut start) = (Vec::new(), 0);
            for place in places {
                pieces.push(&bytes[start..place]);
                start = place;
            }
            pieces.push(&bytes[start..]);
            split.push((*sender, pieces));
        }
        prop_assert_eq!(outcome(&whole), outcome(&split));
    }

    #[test]
    fn the_room_keeps_order_and_limits(actions in vec(action(), 0..150)) {
        let (mut scene, ids) = scene_of::<CLIENTS>();
        let mut clients: Vec<(Id, usize, String)> =
            ids.into_iter().map(|id| (id, 0, String::new())).collect();
        for action in actions {
            match action {
                Action::Join => clients.push((scene.join(), 0, String::new())),
                Action::Line(at) => {
                    let (id, count, _) = at.get_mut(&mut clients[..]);
                    *count += 1;
                    // Ends what other bytes have begun.
                    scene.send(*id, format!("\nline {} {count}\n", id.0));
                }
                Action::Bytes(at, bytes) => scene.send(at.get(&clients).0, bytes),
                Action::Lines(at, count) => {
                    let id = at.get(&clients).0;
                    (0..count).for_each(|_| scene.send(id, format!("\n{:1000}\n", "x")));
                }
                Action::Fin(at) => scene.end(at.get(&clients).0),
                Action::Failure(at) => scene.disconnect(at.get(&clients).0),
                Action::Write(at, most) => {
                    let (id, _, received) = at.get_mut(&mut clients[..]);
                    let writers = scene.effects.write.iter().filter(|writer| *writer == id).count();
                    prop_assert!(writers <= 1, "two writers for one client");
                    scene.effects.write.retain(|writer| writer != id);
                    if writers == 1 {
                        received.push_str(&scene.write(*id, most));
                    }
                }
                Action::Time(time) => scene.pass(time),
            }
            for (id, member) in &scene.room.members {
                prop_assert!(member.pending <= MAX_PENDING, "{}: {}", id, member.pending);
                prop_assert!(member.pending >= member.queue.len());
            }
        }
        for (_, _, received) in &clients {
            check_order(received)?;
        }
    }
}
