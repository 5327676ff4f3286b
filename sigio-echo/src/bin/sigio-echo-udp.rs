//! Signal-driven, with datagrams, as the textbooks show it: SIGIO says that something has come to
//! the one socket there is, so there is no question which.
//!
//! ```text
//!      application                              kernel
//!      fcntl(3, O_ASYNC) ─────── once ───────▶  tell this process of 3
//!  (1) sigsuspend ───────────────────────────▶  ┐
//!        blocked                                │ wait: until something *comes*
//!  (2) SIGIO: the handler sets a flag ◀──────   ┘ a datagram has arrived
//!  (3) recvmsg ──────────────────────────────▶  ┐ copy: it is there already,
//!        6 bytes, from whom, to whom ◀───────   ┘ so the call does not block
//!  (4) sendmsg ──────────────────────────────▶    copy: all of it, or nothing
//!      … until nothing is left ──────────────▶    what is left is never signalled again
//! ```
//!
//! A message: (1) the thread sleeps; a program with work of its own would do that instead. (2) The
//! signal comes at the end of the *wait*: the *copy* is still the process's own. (3) It receives
//! one datagram, (4) answers from the address that was asked, and so on until nothing is left.
//! (5) After so many it looks at its flags; no signal will tell of the rest: it sends itself one.
//! (6) An answer that the socket has no room for is owed; nothing is received before it is gone.
//!
//! Textbooks receive in the handler. It may (`recvmsg` is async-signal-safe), but does not return
//! while datagrams come: one call of such a handler was seen to answer 9000, and all that while
//! the program got nothing else done.
//!
//! Run: `cargo run -p sigio-echo --bin sigio-echo-udp`
//!
//! ```text
//! $ nc -u 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/sigio-echo-udp.svg`.
//!
//! Use it when: a program that computes has a datagram socket to answer on the side.
//! Limits: what comes while the receive buffer is full is lost, as UDP has it. All peers share one
//! send buffer: answers to a few that cannot be reached fill it, and until the kernel gives them up
//! (three seconds for one that ARP does not find) everybody waits: so this server keeps neither the
//! isolation nor the fairness of the others. And a sender's address may be false: on an open
//! network one datagram can set two echo servers on each other, for ever.
//! Compare with: `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-udp.rs` (one socket,
//! and messages that come whole).

use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{ECHO_ADDR, announce, bind_udp, run, stop_flag};
use libc::in6_pktinfo;
use log::{debug, trace};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use nix::unistd::getpid;
use signal_hook::flag;

/// The largest datagram: 65507 bytes over IPv4, 65527 over IPv6.
const DATAGRAM: usize = 65_527;
/// Datagrams answered between two looks at the flags.
const DATAGRAMS: usize = 64;
/// Bytes that may wait in the kernel; it takes the lower of this and `net.core.rmem_max`. It counts
/// even the smallest datagram as some 800: a burst of 300 overflows the usual 208 KiB.
const ROOM: usize = 16 * 1024 * 1024;

struct Server {
    socket: UdpSocket,
    /// What the send buffer had no room for; its bytes are in `buffer`.
    owed: Option<Answer>,
    /// Something is left to do that no signal will tell of.
    unfinished: bool,
    buffer: Vec<u8>,
}

/// Where the first `len` bytes of the buffer are to go, and from which of our addresses.
struct Answer {
    len: usize,
    to: SockaddrStorage,
    from: Option<ControlMessageOwned>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // Blocked except in `sigsuspend`: a signal that comes between a look at the flags and the
        // sleep stays pending, and ends the sleep at once. It would be slept over otherwise.
        let signals = [Signal::SIGIO, Signal::SIGINT, Signal::SIGTERM];
        signals.into_iter().collect::<SigSet>().thread_block()?;
        // The handlers set these flags, and do nothing else. Pitfall: handler-prints
        let (stop, news) = (stop_flag()?, Arc::new(AtomicBool::new(false)));
        flag::register(Signal::SIGIO as i32, Arc::clone(&news))?;
        let socket = bind_udp(&addr)?;
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        setsockopt(&socket, sockopt::RcvBuf, &ROOM)?;
        arm(&socket)?;
        announce(socket.local_addr()?);
        // Something may have come before the socket was armed.
        Server { socket, owed: None, unfinished: true, buffer: vec![0; DATAGRAM] }
            .serve(&news, &stop)
    })
}

/// From now on SIGIO tells this process of what comes to `socket`, which does not block.
fn arm(socket: &impl AsRawFd) -> nix::Result<()> {
    let owner = (libc::F_SETOWN, getpid().as_raw()); // without one, the signal goes to nobody
    let flags = (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    for (command, argument) in [owner, flags] {
        // SAFETY: these commands take a number and touch no memory.
        Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) })?;
    }
    Ok(())
}

impl Server {
    fn serve(&mut self, news: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if news.swap(false, Ordering::Relaxed) {
                self.answer_some();
            }
            if mem::take(&mut self.unfinished) {
                raise(Signal::SIGIO)?; // (5)
            }
            trace!("wait: sigsuspend"); // (1)
            SigSet::empty().suspend()?; // Pitfall: check-then-pause
            trace!("wait: sigsuspend, ended by a signal"); // (2)
        }
        Ok(())
    }

    fn answer_some(&mut self) {
        for _ in 0..DATAGRAMS {
            let answer = match self.owed.take().map_or_else(|| self.receive(), Ok) {
                Ok(answer) => answer,
                Err(Errno::EAGAIN) => return trace!("copy: recvmsg: nothing there"),
                // What became of an earlier answer.
                Err(error) => {
                    debug!("recvmsg: {error}");
                    continue;
                }
            };
            match self.send(&answer) {
                Ok(count) => trace!("copy: sendmsg = {count}"),
                // A signal will tell when there is room.
                Err(Errno::EAGAIN) => {
                    trace!("copy: sendmsg: no room");
                    self.owed = Some(answer); // (6)
                    return;
                }
                // No route, a firewall, a sender whom nobody can answer (port 0).
                Err(error) => debug!("no answer to {}: {error}", answer.to),
            }
        }
        self.unfinished = true;
    }

    /// Receives one datagram (3) into the buffer.
    fn receive(&mut self) -> nix::Result<Answer> {
        let mut control = cmsg_space!(in6_pktinfo); // the larger one
        let mut bytes = [IoSliceMut::new(&mut self.buffer)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg(fd, &mut bytes, Some(&mut control), MsgFlags::empty())?;
        trace!("copy: recvmsg = {}", message.bytes);
        let mut from = message.cmsgs()?.next();
        // Which interface the answer takes is for the routes to say.
        match &mut from {
            Some(ControlMessageOwned::Ipv4PacketInfo(info)) => info.ipi_ifindex = 0,
            Some(ControlMessageOwned::Ipv6PacketInfo(info)) => info.ipi6_ifindex = 0,
            _ => {}
        }
        let to = message.address.ok_or(Errno::EDESTADDRREQ)?;
        Ok(Answer { len: message.bytes, to, from })
    }

    /// Sends `answer` whole (4), or not at all.
    fn send(&self, answer: &Answer) -> nix::Result<usize> {
        let from = answer.from.as_ref().and_then(|from| match from {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
            _ => None,
        });
        let bytes = [IoSlice::new(&self.buffer[..answer.len])];
        let (fd, to) = (self.socket.as_raw_fd(), Some(&answer.to));
        sendmsg(fd, &bytes, from.as_slice(), MsgFlags::empty(), to)
    }
}
