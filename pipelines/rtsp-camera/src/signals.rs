// SPDX-License-Identifier: MPL-2.0

//! Ends the program cleanly on SIGINT and SIGTERM.

#![allow(unsafe_code)]

use std::{mem, ptr, thread};

/// Calls `end`, on a thread of its own, at SIGINT or SIGTERM; a second signal ends the program at once. Call it before
/// any other thread is started, because threads inherit the signal mask.
pub fn on_end(end: impl FnOnce() + Send + 'static) {
    // SAFETY: The set is plain data that sigemptyset initialises before anything reads it; the pointers are to it.
    let signals = unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, ptr::null_mut());
        signals
    };
    thread::spawn(move || {
        let mut which = 0;
        // SAFETY: Both pointers are to values of this thread.
        unsafe { libc::sigwait(&signals, &mut which) };
        end();
        // SAFETY: As above. Pending signals are delivered to this thread from here on.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, ptr::null_mut()) };
        loop {
            thread::park();
        }
    });
}
