//! Signal-driven I/O with datagrams, as the textbooks show it: there is one socket, so SIGIO need
//! not say on which socket something has happened.
//!
//! ```text
//!      application                              kernel
//!      fcntl(3, O_ASYNC) ─────── once ───────▶  send SIGIO for 3
//!  (1) sigsuspend ───────────────────────────▶  ┐
//!        asleep                                 │ wait: until something happens on the socket
//!  (2) SIGIO: the handler sets a flag ◀──────   ┘ a datagram has arrived
//!  (3) recvmsg ──────────────────────────────▶  ┐ copy: the datagram is already there,
//!        6 bytes, peer, our address ◀────────   ┘ so the call does not block
//!  (4) sendmsg ──────────────────────────────▶    copy: the whole datagram, or nothing
//!      … until EAGAIN ───────────────────────▶    datagrams that are left raise no signal
//! ```
//!
//! How a message travels: (1) The thread sleeps until a signal arrives. (2) The kernel sends SIGIO
//! when the *wait* is over. The *copy* is still to be done. (3) The server receives one datagram,
//! and (4) sends a reply from the address to which the peer sent it. It repeats this until EAGAIN.
//! (5) After `MAX_STEPS` datagrams it calls `sigsuspend`, where SIGINT and SIGTERM are unblocked.
//! No signal announces the datagrams that are left, so it sends SIGIO to itself. (6) If the send
//! buffer is full, the reply is pending output, and nothing is received before it has been sent.
//!
//! The catch: textbooks receive in the signal handler. That is allowed (`recvmsg` is
//! async-signal-safe), but the handler does not return while datagrams arrive: one call has replied
//! to 9000 of them, and the program did nothing else meanwhile. Here the handler only sets a flag,
//! and SIGIO is blocked except during `sigsuspend`. So SIGIO never interrupts other work.
//!
//! Run: `cargo run -p sigio-echo --bin sigio-echo-udp`
//!
//! ```text
//! $ nc -u 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/sigio-echo-udp.svg`.
//!
//! Use it when: you maintain such a program. A new program waits with `poll`. If its main thread
//! computes, a second thread waits.
//! Limits: datagrams that arrive while the receive buffer is full are lost, as always with UDP. All
//! peers share one send buffer. Replies to a few unreachable peers fill it, and all peers wait
//! until the kernel drops the replies (after three seconds if ARP finds nobody). So this server
//! keeps neither isolation nor fairness. A sender's address can be forged: on an open network, one
//! datagram can make two echo servers reply to each other for ever.
//! Compare with: `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-udp.rs` (one socket).

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
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
use sigio_echo::enable_sigio;
use signal_hook::flag;

/// Size of the largest datagram in bytes: 65,507 over IPv4, 65,527 over IPv6.
const BUFFER_SIZE: usize = 65_527;
/// The most datagrams per iteration, so that a flood does not keep SIGTERM blocked.
const MAX_STEPS: usize = 64;
/// Size of the socket's receive buffer in bytes. The kernel uses the lower of this and
/// `net.core.rmem_max`, doubled (socket(7)). The kernel counts about 800 bytes even for the
/// smallest datagram: a burst of 300 overflows the usual 208 KiB.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// The pause after `recvmsg` failed.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

struct Server {
    socket: UdpSocket,
    /// A reply for which the send buffer had no space. Its bytes are in `buffer`.
    pending: Option<Reply>,
    /// Something is left to do that no signal will announce.
    unfinished: bool,
    buffer: Vec<u8>,
}

/// A reply that consists of the first `len` bytes of the buffer.
struct Reply {
    len: usize,
    peer: SockaddrStorage,
    /// The address of this host to which the peer has sent its datagram.
    source: Option<ControlMessageOwned>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let socket = bind_udp(&addr)?;
        // Blocked, except while `sigsuspend` sleeps. A signal that arrives between the check of the
        // flags and the sleep then stays pending, and ends the sleep at once. If it were not
        // blocked, its handler would run before the sleep, and nothing would end the sleep.
        SigSet::from_iter([Signal::SIGIO, Signal::SIGINT, Signal::SIGTERM]).thread_block()?;
        // The handlers set these flags, and do nothing else. Pitfall: handler-prints
        let stop = stop_flag()?;
        let signaled = Arc::new(AtomicBool::new(false));
        flag::register(Signal::SIGIO as i32, Arc::clone(&signaled))?;
        let result = if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
        };
        result.context("setsockopt(IP_PKTINFO or IPV6_RECVPKTINFO)")?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).context("setsockopt(SO_RCVBUF)")?;
        enable_sigio(&socket)?;
        announce(socket.local_addr()?);
        Server {
            socket,
            pending: None,
            unfinished: true, // datagrams may have arrived before `enable_sigio`
            buffer: vec![0; BUFFER_SIZE],
        }
        .serve(&signaled, &stop)
    })
}

impl Server {
    fn serve(&mut self, signaled: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if signaled.swap(false, Ordering::Relaxed) {
                self.echo_some();
            }
            if std::mem::take(&mut self.unfinished) {
                // (5) The signal that announced the other datagrams is used up. `raise` replaces it:
                // SIGIO is blocked now, so it stays pending, and `sigsuspend` returns at once.
                raise(Signal::SIGIO)?;
            }
            trace!("wait: sigsuspend"); // (1)
            SigSet::empty().suspend()?; // Pitfall: check-then-pause
            trace!("wait: sigsuspend = EINTR"); // (2): a signal handler has run
        }
        Ok(())
    }

    fn echo_some(&mut self) {
        for _ in 0..MAX_STEPS {
            let reply = match self.pending.take() {
                Some(reply) => reply,
                None => match self.receive() {
                    Ok(reply) => reply,
                    Err(Errno::EAGAIN) => return trace!("copy: recvmsg = EAGAIN"),
                    // The datagram is lost, or there is no memory: do not keep a core busy.
                    Err(error) => {
                        debug!("recvmsg: {error}");
                        thread::sleep(ERROR_PAUSE);
                        continue;
                    }
                },
            };
            match self.send(&reply) {
                Ok(count) => trace!("copy: sendmsg = {count}"),
                Err(Errno::EAGAIN) => {
                    trace!("copy: sendmsg = EAGAIN"); // SIGIO announces space
                    self.pending = Some(reply); // (6)
                    return;
                }
                // No route, a firewall, or a peer that nobody can reply to (port 0).
                Err(error) => debug!("no reply to {}: {error}", reply.peer),
            }
        }
        self.unfinished = true;
    }

    /// Receives one datagram into the buffer (3).
    fn receive(&mut self) -> nix::Result<Reply> {
        let mut control = cmsg_space!(in6_pktinfo); // in_pktinfo is smaller
        let mut bytes = [IoSliceMut::new(&mut self.buffer)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg(fd, &mut bytes, Some(&mut control), MsgFlags::empty())?;
        trace!("copy: recvmsg = {}", message.bytes);
        let mut source = message.cmsgs()?.next();
        // Let the routing table choose the interface of the reply. But a link-local address needs
        // its interface.
        match &mut source {
            Some(ControlMessageOwned::Ipv4PacketInfo(info)) => info.ipi_ifindex = 0,
            Some(ControlMessageOwned::Ipv6PacketInfo(info))
                if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() =>
            {
                info.ipi6_ifindex = 0;
            }
            _ => {}
        }
        let peer = message.address.ok_or(Errno::EDESTADDRREQ)?;
        Ok(Reply { len: message.bytes, peer, source })
    }

    /// Sends the whole of `reply` (4), or nothing.
    fn send(&self, reply: &Reply) -> nix::Result<usize> {
        let source = match &reply.source {
            Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
                Some(ControlMessage::Ipv4PacketInfo(info))
            }
            Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
                Some(ControlMessage::Ipv6PacketInfo(info))
            }
            _ => None,
        };
        let bytes = [IoSlice::new(&self.buffer[..reply.len])];
        let send_from = |source: &[ControlMessage]| {
            sendmsg(self.socket.as_raw_fd(), &bytes, source, MsgFlags::empty(), Some(&reply.peer))
        };
        match send_from(source.as_slice()) {
            // The peer has sent its datagram to a multicast group or to a broadcast address. That
            // cannot be the source of the reply, so let the kernel choose one.
            Err(Errno::EINVAL | Errno::ENETUNREACH) => send_from(&[]),
            result => result,
        }
    }
}
