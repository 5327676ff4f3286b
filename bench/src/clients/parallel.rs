//! Groups of echo clients, each in a thread and on a core of its own.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::echo::EchoClients;
use super::{Clients, Tally};
use crate::host;

/// The groups, each with its core.
#[derive(Debug)]
pub struct ParallelClients(Vec<(usize, EchoClients)>);

impl ParallelClients {
    pub fn new(groups: Vec<(usize, EchoClients)>) -> Self {
        Self(groups)
    }

    fn in_parallel(&mut self, work: impl Fn(&mut EchoClients) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (core, clients) in &mut self.0 {
                threads.push(scope.spawn(|| {
                    host::pin(&[*core])?;
                    work(clients)
                }));
            }
            // A panic of a thread is one of this thread.
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }
}

impl Clients for ParallelClients {
    fn run(&mut self, time: Duration) -> Result<()> {
        self.in_parallel(|clients| clients.run(time))
    }

    fn drain(&mut self) -> Result<()> {
        self.in_parallel(EchoClients::drain)
    }

    fn take(&mut self) -> Tally {
        let mut sum = Tally::new();
        for (_, clients) in &mut self.0 {
            sum.add(&clients.take());
        }
        sum
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.0.into_iter().try_for_each(|(_, clients)| Box::new(clients).finish())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::clients::echo::Settings;
    use crate::host::Cores;

    #[test]
    fn the_messages_of_all_groups_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client connects");
                thread::spawn(move || {
                    let mut buffer = [0; 1000];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..count]);
                    }
                });
            }
        });
        let settings = Settings {
            connections: 2,
            message_size: 64,
            window: 1,
            timeout: Duration::from_secs(10),
        };
        let core = Cores::choose().expect("there is a core").clients;
        let group = || (core, EchoClients::connect(addr, settings).expect("the server serves"));
        let mut clients = Box::new(ParallelClients::new(vec![group(), group()]));
        let mut messages = 0;
        while messages < 100 {
            clients.run(Duration::from_millis(10)).expect("the server is correct");
            messages += clients.take().messages;
        }
        clients.drain().expect("the server is correct");
        clients.finish().expect("the server is correct");
    }
}
