//! A library for `LD_PRELOAD` that makes the C library's calls return what a kernel may return, and
//! rarely does: short counts, and readiness without data.
//!
//! `SHIM=one` and `SHIM=half` shorten each read and write of a TCP socket to one byte or to half of
//! what was asked for. `SHIM=spurious` lets each `select`, `poll` and `epoll_wait` that returns
//! report all of the process's watched TCP sockets as readable.
//!
//! Calls that do not go through the C library (those of `io_uring`, and of the crate `polling`) are not affected.
#![allow(clippy::missing_safety_doc, missing_docs, unsafe_op_in_unsafe_fn)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::mem;
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{
    epoll_event, fd_set, iovec, nfds_t, pollfd, sigset_t, size_t, ssize_t, timespec, timeval,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    One,
    Half,
    Spurious,
}

fn mode() -> Option<Mode> {
    static MODE: OnceLock<Option<Mode>> = OnceLock::new();
    *MODE.get_or_init(|| match std::env::var("SHIM").ok()?.as_str() {
        "one" => Some(Mode::One),
        "half" => Some(Mode::Half),
        "spurious" => Some(Mode::Spurious),
        _ => None,
    })
}

/// The C library's own function of this name.
macro_rules! next {
    ($name:ident as $type:ty) => {{
        const NAME: &str = concat!(stringify!($name), "\0");
        // SAFETY: NAME ends with a zero byte.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, NAME.as_ptr().cast()) };
        assert!(!address.is_null(), "the C library has no {NAME}");
        // SAFETY: the C library declares the function with this type.
        unsafe { mem::transmute::<*mut c_void, $type>(address) }
    }};
}

fn is_tcp(fd: c_int) -> bool {
    let option = |name| {
        let mut value: c_int = 0;
        let mut length = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: value and length are valid for writing, and length is the size of value.
        let result = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
        };
        (result == 0).then_some(value)
    };
    option(libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

fn shorten(fd: c_int, count: size_t) -> size_t {
    match mode() {
        Some(Mode::One) if is_tcp(fd) => count.min(1),
        Some(Mode::Half) if is_tcp(fd) => count.div_ceil(2),
        _ => count,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    type Recv = unsafe extern "C" fn(c_int, *mut c_void, size_t, c_int) -> ssize_t;
    let next = next!(recv as Recv);
    // SAFETY: the caller's arguments, with a count that is not larger.
    unsafe { next(fd, buffer, shorten(fd, count), flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, count: size_t) -> ssize_t {
    type ReadFn = unsafe extern "C" fn(c_int, *mut c_void, size_t) -> ssize_t;
    let next = next!(read as ReadFn);
    // SAFETY: the caller's arguments, with a count that is not larger.
    unsafe { next(fd, buffer, shorten(fd, count)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    fd: c_int,
    buffer: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    type Send = unsafe extern "C" fn(c_int, *const c_void, size_t, c_int) -> ssize_t;
    let next = next!(send as Send);
    // SAFETY: the caller's arguments, with a count that is not larger.
    unsafe { next(fd, buffer, shorten(fd, count), flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    type WriteFn = unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t;
    let next = next!(write as WriteFn);
    // SAFETY: the caller's arguments, with a count that is not larger.
    unsafe { next(fd, buffer, shorten(fd, count)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    type Writev = unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t;
    // SAFETY: the caller's array of `count` entries.
    let entries = unsafe { std::slice::from_raw_parts(vectors, count.max(0) as usize) };
    let total = entries.iter().map(|entry| entry.iov_len).sum();
    let mut left = shorten(fd, total);
    let mut short = entries.to_vec();
    for entry in &mut short {
        entry.iov_len = entry.iov_len.min(left);
        left -= entry.iov_len;
    }
    let next = next!(writev as Writev);
    // SAFETY: the caller's buffers, with lengths that are not larger.
    unsafe { next(fd, short.as_ptr(), count) }
}

/// What the process has asked epoll to watch: interest and user data by epoll and file descriptor.
static WATCHED: Mutex<BTreeMap<(c_int, c_int), (u32, u64)>> = Mutex::new(BTreeMap::new());

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    type EpollCtl = unsafe extern "C" fn(c_int, c_int, c_int, *mut epoll_event) -> c_int;
    let next = next!(epoll_ctl as EpollCtl);
    // SAFETY: the caller's arguments.
    let result = unsafe { next(epoll, operation, fd, event) };
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if result == 0 && operation == libc::EPOLL_CTL_DEL {
        watched.remove(&(epoll, fd));
    } else if result == 0 && !event.is_null() {
        // SAFETY: the caller's event, valid for reading.
        let event = unsafe { *event };
        watched.insert((epoll, fd), (event.events, event.u64));
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    type Close = unsafe extern "C" fn(c_int) -> c_int;
    if mode() == Some(Mode::Spurious) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|&(epoll, watched), _| epoll != fd && watched != fd);
    }
    let next = next!(close as Close);
    // SAFETY: the caller's argument.
    unsafe { next(fd) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    capacity: c_int,
    timeout: c_int,
) -> c_int {
    type EpollWait = unsafe extern "C" fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
    let next = next!(epoll_wait as EpollWait);
    // SAFETY: the caller's arguments.
    let count = unsafe { next(epoll, events, capacity, timeout) };
    if mode() != Some(Mode::Spurious) || count <= 0 {
        return count;
    }
    // SAFETY: the caller's array of `capacity` events.
    let events = unsafe { std::slice::from_raw_parts_mut(events, capacity as usize) };
    let mut count = count as usize;
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    for (&(of, fd), &(interest, data)) in watched.iter() {
        let reported = events[..count].iter().any(|event| { event.u64 } == data);
        let reads = interest & libc::EPOLLIN as u32 != 0;
        if of == epoll && reads && !reported && count < events.len() && is_tcp(fd) {
            events[count] = epoll_event { events: libc::EPOLLIN as u32, u64: data };
            count += 1;
        }
    }
    count as c_int
}

/// Reports every watched TCP socket of a list as readable, if the call has returned any.
///
/// # Safety
/// `entries` is an array of `count` entries.
unsafe fn spread(entries: *mut pollfd, count: nfds_t, ready: c_int) -> c_int {
    if mode() != Some(Mode::Spurious) || ready <= 0 {
        return ready;
    }
    // SAFETY: the caller's array of `count` entries.
    let entries = unsafe { std::slice::from_raw_parts_mut(entries, count as usize) };
    for entry in entries.iter_mut() {
        if entry.events & libc::POLLIN != 0 && is_tcp(entry.fd) {
            entry.revents |= libc::POLLIN;
        }
    }
    entries.iter().filter(|entry| entry.revents != 0).count() as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(entries: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    type Poll = unsafe extern "C" fn(*mut pollfd, nfds_t, c_int) -> c_int;
    let next = next!(poll as Poll);
    // SAFETY: the caller's arguments.
    let ready = unsafe { next(entries, count, timeout) };
    // SAFETY: the same array.
    unsafe { spread(entries, count, ready) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    entries: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    type Ppoll =
        unsafe extern "C" fn(*mut pollfd, nfds_t, *const timespec, *const sigset_t) -> c_int;
    let next = next!(ppoll as Ppoll);
    // SAFETY: the caller's arguments.
    let ready = unsafe { next(entries, count, timeout, mask) };
    // SAFETY: the same array.
    unsafe { spread(entries, count, ready) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn select(
    limit: c_int,
    reads: *mut fd_set,
    writes: *mut fd_set,
    errors: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    type Select =
        unsafe extern "C" fn(c_int, *mut fd_set, *mut fd_set, *mut fd_set, *mut timeval) -> c_int;
    // SAFETY: a set of the caller's, or none.
    let asked = unsafe { reads.as_ref().copied() };
    let next = next!(select as Select);
    // SAFETY: the caller's arguments.
    let mut count = unsafe { next(limit, reads, writes, errors, timeout) };
    let Some(asked) = asked.filter(|_| mode() == Some(Mode::Spurious) && count > 0) else {
        return count;
    };
    for fd in 0..limit {
        // SAFETY: `fd` is below `limit`, and so within the set.
        let was_asked = unsafe { libc::FD_ISSET(fd, &raw const asked) };
        // SAFETY: as above.
        let is_set = unsafe { libc::FD_ISSET(fd, reads) };
        if was_asked && !is_set && is_tcp(fd) {
            // SAFETY: as above.
            unsafe { libc::FD_SET(fd, reads) };
            count += 1;
        }
    }
    count
}
