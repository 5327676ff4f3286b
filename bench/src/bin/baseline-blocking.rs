//! The baseline of blocking I/O: a thread per connection that only reads and writes.

use std::{io, thread};

use baseline::{accept, copy, listen};

fn main() -> io::Result<()> {
    let listener = listen("baseline-blocking")?;
    loop {
        let fd = accept(&listener)?;
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while copy(fd, &mut buffer) {}
        });
    }
}
