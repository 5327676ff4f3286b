//! Mutexes, for the servers with several threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`.
///
/// It is never poisoned, because [`run`](crate::run) ends the process when a thread panics. If the
/// process continued, the state could be half changed, and this function would hide that.
/// Pitfall: panic-in-worker
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
