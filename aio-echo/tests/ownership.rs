//! Which side owns the socket and the buffer, from submission to completion; and operations that no
//! helper starts.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aio_echo::{Idle, InFlight, can_start_threads};
use nix::sys::signal::Signal;

/// A signal that is ignored by default, so that it needs no handler.
const SIGNAL: Signal = Signal::SIGURG;

fn wait<S>(mut operation: InFlight<S>) -> (Idle<S>, io::Result<usize>) {
    loop {
        operation = match operation.complete() {
            Ok(completed) => return completed,
            Err(in_flight) => in_flight,
        };
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_read_appends_and_a_write_starts_at_its_offset() -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    peer.write_all(b"lo")?;
    let mut buffer = Vec::with_capacity(5);
    buffer.extend(b"hel");

    let (mut idle, result) = wait(Idle::new(socket, buffer, SIGNAL).submit_read()?);
    assert_eq!((result?, idle.buffer().as_slice()), (2, b"hello".as_slice()));

    let (_, result) = wait(idle.submit_write(1)?);
    let mut echo = [0; 4];
    peer.read_exact(&mut echo)?;
    assert_eq!((result?, &echo), (4, b"ello"));
    Ok(())
}

#[test]
fn a_waiting_read_moves_between_threads_and_completes_at_a_shutdown() -> io::Result<()> {
    let (_peer, socket) = UnixStream::pair()?;
    let socket = Arc::new(socket);
    let read = Idle::new(Arc::clone(&socket), Vec::with_capacity(8), SIGNAL).submit_read()?;
    let Err(read) = read.complete() else { panic!("a read without data has completed") };
    let waiter = thread::spawn(move || wait(read).1);
    socket.shutdown(Shutdown::Both)?;
    assert_eq!(waiter.join().expect("the waiter")?, 0);
    assert_eq!(Arc::strong_count(&socket), 1);
    Ok(())
}

#[test]
fn an_operation_that_is_dropped_in_flight_keeps_its_socket() -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    let socket = Arc::new(socket);
    drop(Idle::new(Arc::clone(&socket), Vec::with_capacity(8), SIGNAL).submit_read()?);
    assert_eq!(Arc::strong_count(&socket), 2);
    peer.write_all(b"into a buffer that is not freed")
}

#[test]
fn a_failure_is_the_result_of_the_operation() -> io::Result<()> {
    let (_, socket) = UnixStream::pair()?;
    let (_, result) = wait(Idle::new(socket, b"hello".to_vec(), SIGNAL).submit_write(0)?);
    assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
    Ok(())
}

#[test]
fn a_read_that_a_helper_has_started_is_known_to_be_started() -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    let mut read = Idle::new(socket, Vec::with_capacity(8), SIGNAL).submit_read()?;
    assert!(!read.is_started());
    for _ in 0..3 {
        thread::sleep(aio_echo::START_RETRY);
        let Err(in_flight) = read.complete() else { panic!("a read without data has completed") };
        read = in_flight;
    }
    assert!(read.is_started());
    peer.write_all(b"hello")?;
    let (mut idle, result) = wait(read);
    assert_eq!((result?, idle.buffer().as_slice()), (5, b"hello".as_slice()));
    Ok(())
}

#[test]
fn threads_can_be_started() {
    assert!(can_start_threads(0));
    assert!(can_start_threads(3));
}
