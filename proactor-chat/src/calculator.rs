//! A thread for computations, so that they do not delay the worker.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use common::chat::{Computation, Id, Input};

/// A computation that a line of a client asked for, and the input after this line.
pub struct Job {
    pub id: Id,
    pub computation: Computation,
    pub rest: Input,
}

/// The worker's side of the thread.
pub struct Calculator {
    jobs: Sender<Job>,
    results: Receiver<(Job, String)>,
}

impl Calculator {
    /// Starts the thread. It writes to `waker` when a computation is done.
    pub fn start(mut waker: UnixStream) -> io::Result<Self> {
        let (jobs, new_jobs) = mpsc::channel::<Job>();
        let (new_results, results) = mpsc::channel();
        thread::Builder::new().name("calculator".into()).spawn(move || {
            for job in new_jobs {
                let result = job.computation.run();
                // This fails only at the end of the process.
                let _ = new_results.send((job, result));
                // This fails if the socket pair is full. Then the worker's end is readable, which
                // is enough.
                let _ = waker.write(b"!");
            }
        })?;
        Ok(Self { jobs, results })
    }

    /// Queues a computation.
    pub fn submit(&self, job: Job) {
        // This fails only if the thread has panicked, which ends the process.
        let _ = self.jobs.send(job);
    }

    /// Returns a computation that is done, with its result.
    pub fn take_result(&self) -> Option<(Job, String)> {
        self.results.try_recv().ok()
    }
}
