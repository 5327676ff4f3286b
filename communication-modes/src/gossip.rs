//! The loop around foca. foca implements the protocol SWIM without I/O: it returns which datagrams
//! to send and which timers to set. This file sends, receives, and waits.
//!
//! The numbers (1) to (5) are the steps in the header of `src/bin/decentralised.rs`.

mod node;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::lock;
use foca::{
    AccumulatingRuntime, Codec, Config, Foca, Header, Incarnation, Member, Message,
    NoCustomBroadcast, OwnedNotification, PeriodicParams, PostcardCodec, State, Timer,
};
use log::{info, warn};
use rand::{SeedableRng, rngs::SmallRng};

use node::Node;

/// The largest datagram that foca sends, in bytes.
const MAX_DATAGRAM: usize = 1400;
/// The longest wait for a datagram. After it, the loop checks whether it should stop.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// The shortest wait: the timeout of a socket cannot be zero.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// How often a node that is not connected announces itself.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(500);
/// The number of announcements without an answer after which a warning is logged.
const SILENT_ANNOUNCEMENTS: u32 = 4;

/// A node of the network.
pub struct Gossip {
    foca: Foca<Node, PostcardCodec, SmallRng, NoCustomBroadcast>,
    /// What foca asks for: datagrams to send, timers to set, changes to report.
    requests: AccumulatingRuntime<Node>,
    timers: BinaryHeap<Reverse<(Instant, Timer<Node>)>>,
    socket: UdpSocket,
    /// The addresses of all members, including this node, in ascending order.
    members: Arc<Mutex<Vec<SocketAddr>>>,
    /// Whether another node has answered this node in its present generation. Until then, foca
    /// sends nothing by itself.
    is_connected: bool,
    /// When this node announces itself next, unless it is connected.
    next_announcement: Instant,
    /// Announcements since it was last connected.
    announcements: u32,
}

impl Gossip {
    /// Makes a node with the address `addr`, to which `socket` is bound.
    #[must_use]
    pub fn new(socket: UdpSocket, addr: SocketAddr) -> Self {
        let random = SmallRng::seed_from_u64(RandomState::new().hash_one(addr));
        let node = Node { addr, generation: 0 };
        Self {
            foca: Foca::new(node, config(), random, PostcardCodec),
            requests: AccumulatingRuntime::default(),
            timers: BinaryHeap::new(),
            socket,
            members: Arc::new(Mutex::new(vec![addr])),
            is_connected: false,
            next_announcement: Instant::now(),
            announcements: 0,
        }
    }

    /// Returns the list of members, which changes as nodes join and leave.
    #[must_use]
    pub fn members(&self) -> Arc<Mutex<Vec<SocketAddr>>> {
        Arc::clone(&self.members)
    }

    /// Takes part in the network until `stop` is true: waits for the next datagram or timer, and
    /// passes it to foca.
    ///
    /// # Errors
    /// The timeout of the socket cannot be set.
    pub fn run(&mut self, seeds: &[SocketAddr], stop: &AtomicBool) -> anyhow::Result<()> {
        let mut buffer = [0; MAX_DATAGRAM + 1]; // foca rejects what is longer
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.announce(seeds, now);
            while self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now) {
                let Some(Reverse((_, timer))) = self.timers.pop() else { break };
                // (4), (5). If the timer is late, foca returns an error, and continues.
                let _ = self.foca.handle_timer(timer, &mut self.requests);
            }
            self.fulfill(now);

            let due = self.timers.peek().map_or(MAX_WAIT, |Reverse((due, _))| *due - now);
            self.socket.set_read_timeout(Some(due.clamp(MIN_WAIT, MAX_WAIT)))?;
            // An error is a timeout, a signal, or a lack of memory. None of them ends the loop.
            if let Ok((count, _)) = self.socket.recv_from(&mut buffer) {
                self.receive(&buffer[..count]);
            }
        }
        // Tell the others, so that they need not find out by pings.
        let _ = self.foca.leave_cluster(&mut self.requests);
        self.fulfill(Instant::now());
        Ok(())
    }

    /// Announces this node to the seeds (1), and to each node that foca still remembers, until one
    /// of them answers.
    ///
    /// Announcing to the seeds is not enough. When the parts of a split network meet again, many
    /// nodes learn at the same time that they were declared down, and each begins its next
    /// generation. A message that was sent to the previous generation is then dropped. An
    /// announcement is accepted by a node of any generation.
    fn announce(&mut self, seeds: &[SocketAddr], now: Instant) {
        if self.is_connected {
            self.announcements = 0;
            return;
        }
        let me = self.foca.identity().addr;
        let known = self.foca.iter_membership_state().map(|member| member.id().addr);
        let mut addrs: Vec<_> = known.chain(seeds.iter().copied()).filter(|it| *it != me).collect();
        if addrs.is_empty() || now < self.next_announcement {
            return;
        }
        addrs.sort_unstable();
        addrs.dedup();
        self.next_announcement = now + ANNOUNCE_INTERVAL;
        self.announcements += 1;
        if self.announcements == SILENT_ANNOUNCEMENTS {
            warn!("no answer from {addrs:?}; trying again");
        }
        for addr in addrs {
            let _ = self.foca.announce(Node { addr, generation: 0 }, &mut self.requests);
        }
    }

    /// Handles a datagram (2), (3). An invalid one is dropped, because anybody can send one.
    fn receive(&mut self, datagram: &[u8]) {
        let Ok(header) = PostcardCodec.decode_header(datagram) else { return };
        let header: Header<Node> = header;
        let known = self.latest(header.src.addr);
        if let Some(latest) = known.filter(|latest| latest.generation > header.src.generation) {
            return self.refuse(&header.src, latest);
        }
        let _ = self.foca.handle_data(datagram, &mut self.requests);
        self.fulfill(Instant::now());

        // foca records what others report about our own address. If they know a higher generation
        // of this node, an earlier run of it has used that generation. Continue with the next.
        let me = self.foca.identity();
        let latest = self.latest(me.addr).filter(|latest| latest.generation > me.generation);
        if let Some(next) = latest.and_then(|latest| latest.next()) {
            let _ = self.foca.change_identity(next, &mut self.requests);
            self.is_connected = false;
            self.next_announcement = Instant::now();
        }
    }

    /// Returns the node at `addr` in the highest generation that this node knows of.
    fn latest(&self, addr: SocketAddr) -> Option<Node> {
        let known = self.foca.iter_membership_state().map(Member::id).filter(|it| it.addr == addr);
        known.max_by_key(|node| node.generation).cloned()
    }

    /// Answers a node that has the address of `latest` and a lower generation: reports `latest` to it
    /// as down. foca's own answer, "you are down", does not contain the generation after which the
    /// node must continue.
    fn refuse(&self, sender: &Node, latest: Node) {
        let header = Header {
            src: self.foca.identity().clone(),
            src_incarnation: Incarnation::default(),
            dst: sender.clone(),
            message: Message::Gossip,
        };
        let latest = Member::new(latest, Incarnation::default(), State::Down);
        let mut datagram = Vec::new();
        let encoded = PostcardCodec.encode_header(&header, &mut datagram).and_then(|()| {
            datagram.extend(1_u16.to_be_bytes()); // the number of members that follow
            PostcardCodec.encode_member(&latest, &mut datagram)
        });
        if encoded.is_ok() {
            let _ = self.socket.send_to(&datagram, sender.addr);
        }
    }

    /// Does what foca wants done.
    fn fulfill(&mut self, now: Instant) {
        while let Some((to, datagram)) = self.requests.to_send() {
            // An error is the same as a datagram that the network loses: SWIM expects losses.
            let _ = self.socket.send_to(&datagram, to.addr);
        }
        while let Some((after, timer)) = self.requests.to_schedule() {
            self.timers.push(Reverse((now + after, timer)));
        }
        while let Some(change) = self.requests.to_notify() {
            let others = self.foca.iter_members().map(|member| member.id().addr);
            let mut members: Vec<_> = others.chain([self.foca.identity().addr]).collect();
            members.sort_unstable();
            *lock(&self.members) = members;
            match change {
                OwnedNotification::MemberUp(node) => info!("{} joined", node.addr),
                OwnedNotification::MemberDown(node) => info!("{} left", node.addr),
                OwnedNotification::Active => self.is_connected = true,
                // No other node is left, or this node has begun its next generation.
                OwnedNotification::Idle | OwnedNotification::Rejoin(_) => self.is_connected = false,
                _ => {}
            }
        }
    }
}

/// Returns a configuration for a small network. A node that dies is declared down after about 3 s,
/// which is sooner than with foca's configuration for a LAN.
fn config() -> Config {
    let to_one_node_every = |frequency| {
        let (frequency, num_members) = (Duration::from_millis(frequency), NonZero::<usize>::MIN);
        Some(PeriodicParams { frequency, num_members })
    };
    Config {
        probe_period: Duration::from_millis(500),
        probe_rtt: Duration::from_millis(200),
        suspect_to_down_after: Duration::from_millis(1500),
        max_transmissions: Config::simple().max_transmissions,
        // Pings carry changes as well, so less gossip than for a LAN is enough. With more gossip,
        // each node that joins or leaves would multiply the traffic for some seconds.
        periodic_gossip: to_one_node_every(400),
        // This is how the parts of a split network find each other again.
        periodic_announce_to_down_members: to_one_node_every(2000),
        ..Config::new_lan(NonZero::<u32>::MIN)
    }
}
