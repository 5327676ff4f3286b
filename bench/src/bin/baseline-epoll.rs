//! The floor of epoll, level-triggered: the descriptor is all there is to a connection.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use baseline::{BUFFER, accept, copy, listen};
use libc::{EPOLL_CTL_ADD, EPOLLIN, c_int, epoll_create1, epoll_ctl, epoll_event, epoll_wait};

fn main() -> io::Result<()> {
    let listener = listen("baseline-epoll")?;
    let door = listener.as_raw_fd();
    // SAFETY: it takes a number and returns one.
    let epoll = unsafe { epoll_create1(0) };
    add(epoll, door);
    let mut events = [epoll_event { events: 0, u64: 0 }; 256];
    let mut buffer = vec![0; BUFFER];
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, -1) };
        for event in &events[..count.max(0) as usize] {
            match event.u64 as RawFd {
                fd if fd == door => add(epoll, accept(&listener)?),
                // Closing takes it out of the interest list.
                fd => _ = copy(fd, &mut buffer),
            }
        }
    }
}

fn add(epoll: RawFd, fd: RawFd) {
    let mut event = epoll_event { events: EPOLLIN as u32, u64: fd as u64 };
    // SAFETY: the kernel copies the event.
    unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &raw mut event) };
}
