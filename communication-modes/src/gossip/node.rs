//! The identity of a node: its address, and which of its lives it is in.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

/// The identity of a node in one of its lives.
///
/// A node that was declared down, or that was restarted, comes back under the same address. The
/// others must know that it is a later life, and the generation says so. It is a logical clock
/// (Lamport): it starts at 0, and a node that learns of a higher generation of itself continues with
/// the next. A wall clock would not do: it can be set back, and the node would stay an earlier life of
/// itself for as long as the clock is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The address of its UDP socket, and of its TCP socket.
    pub addr: SocketAddr,
    /// The number of this life.
    pub generation: u64,
}

impl Node {
    /// Returns the next life.
    pub fn next(&self) -> Option<Self> {
        Some(Self { addr: self.addr, generation: self.generation.checked_add(1)? })
    }
}

impl Identity for Node {
    type Addr = SocketAddr;

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// foca calls this when the others have declared this node down.
    fn renew(&self) -> Option<Self> {
        self.next()
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}
