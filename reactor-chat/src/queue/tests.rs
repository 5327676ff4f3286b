use super::*;

/// A wait that began while a worker was busy does not know what this worker registered for writing.
#[test]
fn only_a_wait_without_busy_workers_renews_the_budget() {
    let poller = Box::leak(Box::new(Poller::new().expect("epoll_create1")));
    let queue = Queue::new(3, poller);
    let events = Events::new();
    lock(&queue.state).put_read(1);
    lock(&queue.state).put_read(2);
    assert!(matches!(queue.next(None), Request::Read(1)));
    queue.timeout(); // the main thread begins to wait
    lock(&queue.state).writes.push_back(3);
    let finished = Finished { work: Work::Input, returned: 0, cost: INPUT_BUDGET };
    assert!(matches!(queue.next(Some(finished)), Request::Write(3)));
    lock(&queue.state).copying = 0; // the worker has written, and sleeps
    queue.put(&events);
    assert_eq!(lock(&queue.state).used, INPUT_BUDGET);
    assert_eq!(queue.timeout(), Some(Duration::ZERO));
    queue.put(&events);
    assert_eq!(lock(&queue.state).used, 0);
}

/// The cost of one request can be more than what is left. It is not forgotten when another request
/// returns what it has not used.
#[test]
fn an_overdrawn_budget_stays_used_up() {
    let poller = Box::leak(Box::new(Poller::new().expect("epoll_create1")));
    let queue = Queue::new(3, poller);
    let mut state = lock(&queue.state);
    for key in 1..=4 {
        state.put_read(key);
        state.writes.push_back(key);
    }
    drop(state);
    assert!(matches!(queue.next(None), Request::Read(1)));
    assert!(matches!(queue.next(None), Request::Read(2)));
    let finished = Finished { work: Work::Input, returned: 0, cost: 3 * INPUT_BUDGET };
    assert!(matches!(queue.next(Some(finished)), Request::Write(1)));
    let finished = Finished { work: Work::Input, returned: 0, cost: 1 };
    assert!(matches!(queue.next(Some(finished)), Request::Write(2)));
}
