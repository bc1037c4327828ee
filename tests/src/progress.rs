// SPDX-License-Identifier: MPL-2.0

//! A progress bar on standard error.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// A bar for work of known length. On a terminal it redraws itself; elsewhere it prints a line when done.
pub struct Bar {
    what: String,
    total: usize,
    done: usize,
    started: Instant,
    terminal: bool,
}

impl Bar {
    /// A bar for `total` steps.
    pub fn new(what: impl Into<String>, total: usize) -> Self {
        let bar = Self {
            what: what.into(),
            total: total.max(1),
            done: 0,
            started: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        };
        bar.draw();
        bar
    }

    /// Advances by one step.
    pub fn step(&mut self) {
        self.set(self.done + 1);
    }

    /// Sets the number of steps so far.
    pub fn set(&mut self, done: usize) {
        self.done = done.min(self.total);
        self.draw();
    }

    fn draw(&self) {
        if !self.terminal {
            return;
        }
        const WIDTH: usize = 30;
        let filled = self.done * WIDTH / self.total;
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = if self.done == 0 {
            String::new()
        } else {
            format!(
                "{:.0} s left",
                elapsed * (self.total - self.done) as f64 / self.done as f64
            )
        };
        eprint!(
            "\r\x1b[K{:32} [{}{}] {}/{} {left}",
            self.what,
            "#".repeat(filled),
            "-".repeat(WIDTH - filled),
            self.done,
            self.total
        );
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let took = self.started.elapsed().as_secs_f64();
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        eprintln!("{:32} {}/{} in {took:.1} s", self.what, self.done, self.total);
    }
}
