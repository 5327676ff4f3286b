//! Who owns socket and buffer, from submission to completion.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aio_echo::{Idle, InFlight};
use nix::sys::signal::Signal;

/// Ignored by default: it needs no handler here.
const SIGNAL: Signal = Signal::SIGURG;

fn wait<S>(mut operation: InFlight<S>) -> (Idle<S>, io::Result<usize>) {
    loop {
        operation = match operation.done() {
            Ok(done) => return done,
            Err(in_flight) => in_flight,
        };
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_read_appends_and_a_write_sends_from_where_it_is_told() -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    peer.write_all(b"lo")?;
    let mut buffer = Vec::with_capacity(5);
    buffer.extend(b"hel");

    let (mut idle, result) = wait(Idle::new(socket, buffer, SIGNAL).read()?);
    assert_eq!((result?, idle.buffer().as_slice()), (2, b"hello".as_slice()));

    let (_, result) = wait(idle.write(1)?);
    let mut echo = [0; 4];
    peer.read_exact(&mut echo)?;
    assert_eq!((result?, &echo), (4, b"ello"));
    Ok(())
}

#[test]
fn a_read_that_waits_moves_between_threads_and_ends_at_a_shutdown() -> io::Result<()> {
    let (_peer, socket) = UnixStream::pair()?;
    let socket = Arc::new(socket);
    let read = Idle::new(Arc::clone(&socket), Vec::with_capacity(8), SIGNAL).read()?;
    let Err(read) = read.done() else { panic!("a read of nothing has completed") };
    let waiter = thread::spawn(move || wait(read).1);
    socket.shutdown(Shutdown::Both)?;
    assert_eq!(waiter.join().expect("the waiter")?, 0);
    assert_eq!(Arc::strong_count(&socket), 1);
    Ok(())
}

#[test]
fn an_operation_dropped_in_flight_keeps_its_socket() -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    let socket = Arc::new(socket);
    drop(Idle::new(Arc::clone(&socket), Vec::with_capacity(8), SIGNAL).read()?);
    assert_eq!(Arc::strong_count(&socket), 2);
    peer.write_all(b"to a buffer that nobody has freed")
}

#[test]
fn a_failure_is_reported_at_completion() -> io::Result<()> {
    let (_, socket) = UnixStream::pair()?;
    let (_, result) = wait(Idle::new(socket, b"hello".to_vec(), SIGNAL).write(0)?);
    assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
    Ok(())
}
