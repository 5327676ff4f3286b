//! The identity of a node: its address, and its generation.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

/// The identity of a node.
///
/// A node that was restarted, or that was declared down by mistake, comes back under the same
/// address. The others must recognize that it is newer than the node that they declared down. It is
/// newer if its generation is higher. The generation is a logical clock (Lamport): it starts at 0,
/// and a node that learns of a higher generation at its own address continues with the next one.
///
/// The wall clock cannot be the generation. If it is set back, the node looks older than it was,
/// and the others refuse it for as long as the clock is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The address of its UDP socket, and of its TCP socket.
    pub addr: SocketAddr,
    /// How often a node at this address has begun anew.
    pub generation: u64,
}

impl Node {
    /// Returns the same node in its next generation.
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
