//! Mutexes, for the servers with several threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`.
///
/// A poisoned mutex does not occur in the servers, because [`run`](crate::run) ends the process when
/// a thread panics. Without that, the state behind the mutex could be half changed, and ignoring the
/// poison would hide it. Pitfall: panic-in-worker
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
