//! The floor of select: the set is kept and copied for each call, never built again.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;

use baseline::{BUFFER, accept, copy, listen};
use libc::{FD_CLR, FD_ISSET, FD_SET, fd_set, select};

fn main() -> io::Result<()> {
    let listener = listen("baseline-select")?;
    let door = listener.as_raw_fd();
    // SAFETY: a set of zeros is what `FD_ZERO` makes.
    let mut set: fd_set = unsafe { mem::zeroed() };
    add(&mut set, door);
    let mut highest = door;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (mut ready, end) = (set, highest + 1);
        // SAFETY: the set is ours, and a null pointer means no set, or no timeout.
        let mut count = unsafe { select(end, &raw mut ready, null_mut(), null_mut(), null_mut()) };
        for fd in door..end {
            if count <= 0 {
                break;
            }
            // SAFETY: what is in the set is below its size.
            if !unsafe { FD_ISSET(fd, &raw const ready) } {
                continue;
            }
            count -= 1;
            if fd == door {
                let new = accept(&listener)?;
                add(&mut set, new);
                highest = highest.max(new);
            } else if !copy(fd, &mut buffer) {
                // SAFETY: what is in the set is below its size.
                unsafe { FD_CLR(fd, &raw mut set) };
            }
        }
    }
}

fn add(set: &mut fd_set, fd: RawFd) {
    // SAFETY: libc checks the index into the set, and panics.
    unsafe { FD_SET(fd, set) };
}
