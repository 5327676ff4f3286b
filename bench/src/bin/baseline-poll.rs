//! The baseline of poll. The list of sockets is kept between calls and never rebuilt.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use baseline::{BUFFER_SIZE, accept, copy, listen};
use libc::{POLLIN, nfds_t, poll, pollfd};

fn main() -> io::Result<()> {
    let listener = listen("baseline-poll")?;
    let entry = |fd: RawFd| pollfd { fd, events: POLLIN, revents: 0 };
    let mut list = vec![entry(listener.as_raw_fd())];
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        // SAFETY: the kernel writes to the `list.len()` entries of the list only.
        let mut ready = unsafe { poll(list.as_mut_ptr(), list.len() as nfds_t, -1) };
        // From the end, so that `swap_remove` moves entries that have been handled.
        let mut index = list.len();
        while index > 0 && ready > 0 {
            index -= 1;
            if list[index].revents == 0 {
                continue;
            }
            ready -= 1;
            if index == 0 {
                list.push(entry(accept(&listener)?));
            } else if !copy(list[index].fd, &mut buffer) {
                list.swap_remove(index);
            }
        }
    }
}
