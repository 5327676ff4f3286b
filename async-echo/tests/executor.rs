//! The executor of async-echo under loom, which tries all interleavings of its threads: no wake-up is
//! lost, whichever thread calls the waker, and whenever it does.
//!
//! loom has a `Mutex` of its own, so the items under test are copied here. A test compares the copy
//! with the text of the server.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use anyhow::Result;
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics")
}

loom::lazy_static! {
    static ref RUN_QUEUE: Mutex<VecDeque<Arc<Task>>> = Mutex::new(VecDeque::new());
}

// The copy begins.

struct Task(Mutex<Pin<Box<dyn Future<Output = Result<()>> + Send>>>);

fn spawn(future: impl Future<Output = Result<()>> + Send + 'static) {
    Arc::new(Task(Mutex::new(Box::pin(future)))).wake();
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        lock(&RUN_QUEUE).push_back(self);
    }
}

fn run_queued_tasks() -> Result<()> {
    let queued = lock(&RUN_QUEUE).len();
    for _ in 0..queued {
        let Some(task) = lock(&RUN_QUEUE).pop_front() else { break };
        let waker = Waker::from(Arc::clone(&task)); // (4)
        let mut machine = lock(&task.0);
        if let Poll::Ready(result) = machine.as_mut().poll(&mut Context::from_waker(&waker)) {
            *machine = Box::pin(pending()); // for a waker that still holds the task
            result?; // only that of `accept_all` can be an error, which ends the server
        }
    }
    Ok(())
}

// The copy ends.

#[test]
fn the_copy_is_the_text_of_the_server() {
    let server = include_str!("../src/main.rs");
    let copy = include_str!("executor.rs");
    let begin = copy.find("// The copy begins.").expect("a copy");
    let end = copy.find("// The copy ends.").expect("a copy");
    let own = ["fn run_queued_tasks() -> Result<()> {", "Ok(())", "// The copy begins."];
    let lines: Vec<&str> = server.lines().map(str::trim).collect();
    for line in copy[begin..end].lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(own.contains(&line) || lines.contains(&line), "the server has no line {line:?}");
    }
}

/// What a reactor knows: how many events have occurred, and who awaits the next.
#[derive(Default)]
struct Events {
    count: usize,
    waker: Option<Waker>,
    /// The task has seen all of them.
    is_complete: bool,
}

/// Completes after `count` events.
async fn until(events: Arc<Mutex<Events>>, count: usize) -> Result<()> {
    poll_fn(|context| {
        let mut events = lock(&events);
        if events.count == count {
            events.is_complete = true;
            return Poll::Ready(Ok(()));
        }
        events.waker = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

fn occur(events: &Mutex<Events>) {
    let mut events = lock(events);
    events.count += 1;
    let waker = events.waker.take();
    drop(events);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[test]
fn no_wake_up_is_lost() {
    loom::model(|| {
        let events = Arc::new(Mutex::new(Events::default()));
        spawn(until(Arc::clone(&events), 2));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let events = Arc::clone(&events);
                thread::spawn(move || occur(&events))
            })
            .collect();
        run_queued_tasks().expect("tasks do not fail");
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        // Both events have occurred. What they have woken is in the queue.
        run_queued_tasks().expect("tasks do not fail");
        assert!(lock(&events).is_complete);
        assert_eq!(Arc::strong_count(&events), 1, "the state of a task that has ended is freed");
    });
}

#[test]
fn a_waker_may_outlive_its_task() {
    loom::model(|| {
        let waker = Arc::new(Mutex::new(None));
        let stored = Arc::clone(&waker);
        let mut polls = 0;
        spawn(poll_fn(move |context| {
            polls += 1;
            assert!(polls <= 2, "polled after its end");
            *lock(&stored) = Some(context.waker().clone());
            if polls == 2 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }));
        run_queued_tasks().expect("tasks do not fail");
        let waker: Waker = lock(&waker).take().expect("it was polled");
        let second = waker.clone();
        let thread = thread::spawn(move || second.wake());
        waker.wake();
        run_queued_tasks().expect("tasks do not fail");
        thread.join().expect("it does not panic");
        run_queued_tasks().expect("tasks do not fail");
        assert!(lock(&RUN_QUEUE).is_empty());
    });
}
