//! `Caller`, as a program that copies it would use it.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use communication_modes::Caller;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The tests run one after the other, because one of them counts threads and file descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a server that answers each request `ID TEXT` with `ID TEXT`, for one connection.
fn echo_server() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?.to_string();
    thread::spawn(move || -> io::Result<()> {
        let (stream, _) = listener.accept()?;
        for line in BufReader::new(&stream).lines() {
            (&stream).write_all(format!("{}\n", line?).as_bytes())?;
        }
        Ok(())
    });
    Ok(addr)
}

fn connect(addr: &str) -> Result<Caller> {
    Ok(Caller::connect(addr, TIMEOUT, |_| {})?)
}

/// Calls, and waits for the answer.
fn call(caller: &Caller, request: &str) -> Result<io::Result<String>> {
    let (sender, receiver) = mpsc::channel();
    caller.call(request, Box::new(move |outcome| drop(sender.send(outcome))))?;
    receiver.recv_timeout(TIMEOUT).context("the callback was not called")
}

#[test]
fn a_callback_that_panics_does_not_end_the_others() -> Result<()> {
    let _alone = alone();
    let caller = connect(&echo_server()?)?;
    for _ in 0..3 {
        caller.call("x", Box::new(|_| panic!("a panic of the test")))?;
    }
    ensure!(call(&caller, "hello")?? == "hello");
    Ok(())
}

/// A caller may hold a lock that its callbacks take too.
#[test]
fn a_callback_never_runs_inside_of_call() -> Result<()> {
    let _alone = alone();
    let caller = connect(&echo_server()?)?;
    let results = Arc::new(Mutex::new(Vec::new()));
    let (done, all_done) = mpsc::channel();
    let mut accepted = 0;
    // One round with a connection, and one after it was closed. Some calls are refused in both.
    for round in 0..2 {
        let mut held = results.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..100 {
            let (results, done) = (Arc::clone(&results), done.clone());
            let callback = move |outcome: io::Result<String>| {
                results.lock().unwrap_or_else(PoisonError::into_inner).push(outcome.is_ok());
                let _ = done.send(());
            };
            match caller.call("x", Box::new(callback)) {
                Ok(_) => accepted += 1,
                Err(error) if round == 0 => ensure!(error.kind() == ErrorKind::QuotaExceeded),
                Err(error) => ensure!(error.kind() == ErrorKind::ConnectionAborted),
            }
        }
        held.push(true);
        drop(held);
        caller.close();
    }
    drop(done);
    // There is room for 64 calls, and for one more if the first answer has already arrived: its
    // callback has left the table, and waits for the lock.
    ensure!((64..=65).contains(&accepted), "{accepted} calls were accepted");
    for _ in 0..accepted {
        all_done.recv_timeout(TIMEOUT).context("a callback was not called")?;
    }
    drop(caller);
    // Exactly once: when all senders are gone, no further message has come.
    ensure!(all_done.recv_timeout(TIMEOUT) == Err(mpsc::RecvTimeoutError::Disconnected));
    Ok(())
}

#[test]
fn a_callback_may_call_again() -> Result<()> {
    let _alone = alone();
    let caller = Arc::new(connect(&echo_server()?)?);
    let (sender, receiver) = mpsc::channel();
    let again = Arc::clone(&caller);
    let first = move |outcome: io::Result<String>| {
        let text = outcome.unwrap_or_default() + " again";
        let _ = again.call(&text, Box::new(move |outcome| drop(sender.send(outcome))));
    };
    caller.call("once", Box::new(first))?;
    ensure!(receiver.recv_timeout(TIMEOUT)?? == "once again");
    Ok(())
}

#[test]
fn close_calls_what_still_waits() -> Result<()> {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let caller = connect(&listener.local_addr()?.to_string())?;
    let (sender, receiver) = mpsc::channel();
    caller.call("x", Box::new(move |outcome| drop(sender.send(outcome))))?;
    caller.close();
    let error = receiver.recv_timeout(TIMEOUT)?.expect_err("an error");
    ensure!(error.kind() == ErrorKind::ConnectionAborted, "{error}");
    let refused = caller.call("x", Box::new(|_| {})).expect_err("an error");
    ensure!(refused.kind() == ErrorKind::ConnectionAborted, "{refused}");
    Ok(())
}

#[test]
fn a_request_is_one_line() -> Result<()> {
    let _alone = alone();
    let caller = connect(&echo_server()?)?;
    for request in ["a\n2 b", "a\r", "\x1b", &"x".repeat(4073)] {
        let error = caller.call(request, Box::new(|_| {})).expect_err("an error");
        ensure!(error.kind() == ErrorKind::InvalidInput, "{error}");
    }
    ensure!(call(&caller, &"x".repeat(4072))??.len() == 4072);
    Ok(())
}

#[test]
fn a_dropped_caller_leaves_nothing() -> Result<()> {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?.to_string();
    let count = || -> Result<[usize; 2]> {
        let entries =
            |what| Ok::<_, io::Error>(fs::read_dir(format!("/proc/self/{what}"))?.count());
        Ok([entries("task")?, entries("fd")?])
    };
    // Threads of the tests before this one, and of the test runner, may still be ending.
    let mut before = count()?;
    loop {
        thread::sleep(Duration::from_millis(200));
        let now = count()?;
        if now == before {
            break;
        }
        before = now;
    }
    for index in 0..21 {
        let caller = connect(&addr)?;
        if index % 2 == 0 {
            caller.call("x", Box::new(|_| {}))?;
        }
        drop(caller);
        drop(listener.accept()?);
    }
    let deadline = Instant::now() + TIMEOUT;
    while count()? != before {
        ensure!(Instant::now() < deadline, "{:?} before, {:?} now", before, count()?);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
