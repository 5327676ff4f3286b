//! The baseline of level-triggered epoll. A connection consists of its file descriptor only.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use baseline::{BUFFER_SIZE, accept, copy, listen};
use libc::{EPOLL_CTL_ADD, EPOLLIN, c_int, epoll_create1, epoll_ctl, epoll_event, epoll_wait};

fn main() -> io::Result<()> {
    let listener = listen("baseline-epoll")?;
    let listener_fd = listener.as_raw_fd();
    // SAFETY: the call takes a number and returns a number.
    let epoll = unsafe { epoll_create1(0) };
    add(epoll, listener_fd);
    let mut events = [epoll_event { events: 0, u64: 0 }; 256];
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        // SAFETY: the kernel writes at most `events.len()` events to the array.
        let count = unsafe { epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, -1) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as RawFd;
            if fd == listener_fd {
                add(epoll, accept(&listener)?);
            } else {
                // Closing a descriptor also takes it off the interest list.
                copy(fd, &mut buffer);
            }
        }
    }
}

fn add(epoll: RawFd, fd: RawFd) {
    let mut event = epoll_event { events: EPOLLIN as u32, u64: fd as u64 };
    // SAFETY: the kernel copies the event during the call.
    unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &raw mut event) };
}
