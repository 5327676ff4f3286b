//! The floor of poll: the list is kept from call to call, never built again.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use baseline::{BUFFER, accept, copy, listen};
use libc::{POLLIN, nfds_t, poll, pollfd};

fn main() -> io::Result<()> {
    let listener = listen("baseline-poll")?;
    let wanted = |fd: RawFd| pollfd { fd, events: POLLIN, revents: 0 };
    let mut list = vec![wanted(listener.as_raw_fd())];
    let mut buffer = vec![0; BUFFER];
    loop {
        // SAFETY: the kernel writes into the entries of the list, as many as there are.
        let mut count = unsafe { poll(list.as_mut_ptr(), list.len() as nfds_t, -1) };
        let mut at = list.len();
        while at > 0 && count > 0 {
            at -= 1;
            if list[at].revents == 0 {
                continue;
            }
            count -= 1;
            if at == 0 {
                list.push(wanted(accept(&listener)?));
            } else if !copy(list[at].fd, &mut buffer) {
                list.swap_remove(at);
            }
        }
    }
}
