// SPDX-License-Identifier: MPL-2.0

//! Ends the program in order on SIGINT and SIGTERM.

#![allow(unsafe_code)]

use std::{mem, ptr, thread};

/// Calls `end`, on a thread of its own, when the program is told to end; a second signal ends it at once. To be called
/// before any other thread is there, because threads inherit which signals they leave alone.
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
        // SAFETY: As above. What was pending is delivered to this thread from here on.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, ptr::null_mut()) };
        loop {
            thread::park();
        }
    });
}
