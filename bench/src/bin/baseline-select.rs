//! The baseline of select. The set is kept, copied for each call, and never rebuilt.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;

use baseline::{BUFFER_SIZE, accept, copy, listen};
use libc::{FD_CLR, FD_ISSET, FD_SET, fd_set, select};

fn main() -> io::Result<()> {
    let listener = listen("baseline-select")?;
    let listener_fd = listener.as_raw_fd();
    // SAFETY: an empty set consists of zeros, as `FD_ZERO` makes it.
    let mut set: fd_set = unsafe { mem::zeroed() };
    add(&mut set, listener_fd);
    let mut highest = listener_fd;
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let mut ready = set;
        let end = highest + 1;
        // SAFETY: `ready` is a valid set. Null pointers stand for no set and for no timeout.
        let mut count = unsafe { select(end, &raw mut ready, null_mut(), null_mut(), null_mut()) };
        for fd in listener_fd..end {
            if count <= 0 {
                break;
            }
            // SAFETY: `fd` is below the size of the set, because `add` has checked it.
            if !unsafe { FD_ISSET(fd, &raw const ready) } {
                continue;
            }
            count -= 1;
            if fd == listener_fd {
                let fd = accept(&listener)?;
                add(&mut set, fd);
                highest = highest.max(fd);
            } else if !copy(fd, &mut buffer) {
                // SAFETY: `fd` is below the size of the set, because `add` has checked it.
                unsafe { FD_CLR(fd, &raw mut set) };
            }
        }
    }
}

fn add(set: &mut fd_set, fd: RawFd) {
    // SAFETY: libc checks that `fd` is below the size of the set, and panics if it is not.
    unsafe { FD_SET(fd, set) };
}
