// SPDX-License-Identifier: MPL-2.0

//! A thread that keeps the camera from taking a quiet scene, or a slow model, for a dead server.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use gst_dds_link::guard::Guard;

use crate::server::REPEAT;

/// The thread.
#[derive(Debug)]
pub struct Repeater {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Repeater {
    /// Calls `repeat` again and again, after the time that it returns; `None` ends the thread.
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

    /// Ends it and waits until it has, at most for one repetition. To be called where nothing is locked.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
