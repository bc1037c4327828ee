// SPDX-License-Identifier: MPL-2.0

//! A thread that repeats feedback, so that the camera does not take a quiet scene or a slow model for a dead server.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use gst_dds_link::guard::Guard;

use crate::server::REPEAT;

/// Handle of the thread.
#[derive(Debug)]
pub struct Repeater {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Repeater {
    /// Calls `repeat` repeatedly, each time after the time that it returned; `None` ends the thread.
    pub fn start(guard: Guard, mut repeat: impl FnMut() -> Option<Duration> + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("ddsinfer-repeat".into())
            .spawn(move || {
                let mut wait = REPEAT / 2;
                while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                    match guard.run(Some(REPEAT), &mut repeat) {
                        Some(next) => wait = next,
                        None => return,
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread and waits for it, at most for one repetition. Call it where nothing is locked.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
