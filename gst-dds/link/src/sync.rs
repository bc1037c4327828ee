// SPDX-License-Identifier: MPL-2.0

//! Locks that a caught panic leaves usable.
//!
//! A poisoned lock of the standard library turns one caught panic into a panic of every later user: in a C callback
//! that would abort the process, elsewhere it would end work that could continue. Each of our states is consistent
//! between any two statements (counts, queues, tables), so that the next user may take it as it is. The interface is
//! that of the standard library, with an error that cannot occur.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::sync::{MutexGuard, PoisonError, WaitTimeoutResult};
use std::time::Duration;

/// As in the standard library; never an error.
pub type LockResult<T> = Result<T, Infallible>;

/// A mutex that is never poisoned.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex around a value.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    ///
    /// # Errors
    /// Never.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    /// A condition variable without waiters.
    pub const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits to be woken; may wake spuriously.
    ///
    /// # Errors
    /// Never.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(self.0.wait(guard).unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits to be woken, no longer than `time`.
    ///
    /// # Errors
    /// Never.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let waited = self.0.wait_timeout(guard, time);
        Ok(waited.unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits as long as `condition` holds, no longer than `time`.
    ///
    /// # Errors
    /// Never.
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let waited = self.0.wait_timeout_while(guard, time, condition);
        Ok(waited.unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_under_the_lock_leaves_it_usable_for_those_who_wait_as_well() {
        let shared = (Mutex::new(1), Condvar::new());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let value = shared.0.lock().unwrap();
                let (value, _) = shared
                    .1
                    .wait_timeout_while(value, Duration::from_secs(10), |value| *value == 1)
                    .unwrap();
                *value
            });
            let panics = scope.spawn(|| {
                let mut value = shared.0.lock().unwrap();
                *value = 2;
                shared.1.notify_all();
                panic!("under the lock");
            });
            assert!(panics.join().is_err());
            assert_eq!(waits.join().unwrap(), 2);
        });
        assert_eq!(*shared.0.lock().unwrap(), 2);
    }
}
