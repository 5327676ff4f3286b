//! What a server writes to stdout and stderr.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};

/// How much is kept of the beginning, and as much of the end.
const KEPT: usize = 1 << 20;
/// How long the thread that reads waits at most before it checks whether the server has ended.
const CHECK: Duration = Duration::from_millis(200);

/// What a server has written until now.
#[derive(Debug)]
pub enum Capture {
    /// A file, which takes any amount.
    File(File),
    /// A pipe that is always read, so that the server never blocks, with bounded memory.
    Pipe(Arc<Pipe>),
}

/// A pipe, and what was read from it.
#[derive(Debug)]
pub struct Pipe {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` after EOF.
    reader: Option<File>,
    first: Vec<u8>,
    last: Vec<u8>,
    omitted: u64,
}

impl Capture {
    /// Takes the read end of a pipe. A thread reads it until EOF or until the `Capture` is dropped.
    pub fn pipe(reader: impl Into<std::os::fd::OwnedFd>) -> Result<Self> {
        let reader = File::from(reader.into());
        fcntl_setfl(&reader, OFlags::NONBLOCK)?;
        let state = State { reader: Some(reader), first: Vec::new(), last: Vec::new(), omitted: 0 };
        let pipe = Arc::new(Pipe { state: Mutex::new(state) });
        let weak = Arc::downgrade(&pipe);
        thread::spawn(move || {
            while let Some(pipe) = weak.upgrade() {
                if !pipe.read() {
                    return;
                }
                let waiting = pipe.wait_handle();
                drop(pipe);
                let Some(reader) = waiting else { return };
                let timeout = Timespec::try_from(CHECK).ok();
                let _ = poll(&mut [PollFd::new(&reader, PollFlags::IN)], timeout.as_ref());
            }
        });
        Ok(Self::Pipe(pipe))
    }

    /// Everything written so far, or its beginning and its end.
    pub fn text(&self) -> Result<String> {
        match self {
            // Without moving the position that the server writes at.
            Self::File(file) => {
                let length = usize::try_from(file.metadata()?.len())?;
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, 0)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::Pipe(pipe) => {
                pipe.read();
                let state = pipe.lock();
                let mut text = String::from_utf8_lossy(&state.first).into_owned();
                if state.omitted > 0 {
                    text += &format!("\n… {} bytes are left out …\n", state.omitted);
                }
                text += &String::from_utf8_lossy(&state.last);
                Ok(text)
            }
        }
    }
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_handle(&self) -> Option<File> {
        self.lock().reader.as_ref().and_then(|reader| reader.try_clone().ok())
    }

    /// Reads what is there. Returns whether more may come.
    fn read(&self) -> bool {
        let mut state = self.lock();
        let mut buffer = [0; 4096];
        loop {
            let Some(reader) = &mut state.reader else { return false };
            match reader.read(&mut buffer) {
                Ok(count) if count > 0 => state.add(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                _ => state.reader = None,
            }
        }
    }
}

impl State {
    fn add(&mut self, bytes: &[u8]) {
        let room = KEPT - self.first.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.first.extend_from_slice(first);
        self.last.extend_from_slice(rest);
        if self.last.len() > 2 * KEPT {
            let surplus = self.last.len() - KEPT;
            self.last.drain(..surplus);
            self.omitted += surplus as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn keeps_the_beginning_and_the_end_of_a_pipe() -> Result<()> {
        let (reader, writer) = rustix::pipe::pipe()?;
        let mut writer = File::from(writer);
        let capture = Capture::pipe(reader)?;
        writer.write_all(b"first line\n")?;
        assert_eq!(capture.text()?, "first line\n");
        let line = [b'x'; 999].iter().chain(b"\n").copied().collect::<Vec<_>>();
        (0..6000).try_for_each(|_| writer.write_all(&line))?;
        writer.write_all(b"last line\n")?;
        let text = capture.text()?;
        assert!(text.starts_with("first line\n") && text.ends_with("\nlast line\n"));
        assert!(text.contains("bytes are left out") && text.len() < 4 * KEPT);
        Ok(())
    }
}
