// SPDX-License-Identifier: MPL-2.0

//! Stops panics where foreign code calls ours.
//!
//! A panic that unwinds into C aborts the process, and the bindings catch it in the virtual functions of elements only:
//! not in signal handlers, pad probes, properties and most pad functions. These, and each thread of ours, run in a
//! [`Guard`]: the panic is caught, counted, and reported once. Such code takes the locks of [`crate::sync`], which a
//! caught panic does not poison.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use gst::prelude::*;

static CAUGHT: AtomicU64 = AtomicU64::new(0);
/// Turns of a task that may panic in a row.
const MOST_IN_A_ROW: u64 = 16;

/// Panics caught in this process, by this copy of the library.
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Receives the report of the first panic of a place.
type Report = Box<dyn Fn(&str) + Send + Sync>;

/// Catches the panics of one place.
pub struct Guard {
    place: &'static str,
    caught: AtomicU64,
    /// Turns of a task that have panicked in a row.
    in_a_row: AtomicU64,
    /// `None`: it is logged.
    report: Option<Report>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut guard = f.debug_struct("Guard");
        guard.field("place", &self.place).field("caught", &self.caught());
        guard.finish_non_exhaustive()
    }
}

impl Guard {
    /// For a place without an element to report to: the panic is only logged.
    pub const fn new(place: &'static str) -> Self {
        Self {
            place,
            caught: AtomicU64::new(0),
            in_a_row: AtomicU64::new(0),
            report: None,
        }
    }

    /// For a place whose first panic is passed to `report`.
    pub fn reporting(place: &'static str, report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            report: Some(Box::new(report)),
            ..Self::new(place)
        }
    }

    /// For a place of `element`, which posts a warning as long as it lives. Without one the panic is logged.
    pub fn of(place: &'static str, element: Option<&gst::Element>) -> Self {
        let Some(weak) = element.map(ObjectExt::downgrade) else {
            return Self::new(place);
        };
        Self::reporting(place, move |text| {
            if let Some(element) = weak.upgrade() {
                gst::element_warning!(element, gst::LibraryError::Failed, ("{text}"));
            }
        })
    }

    /// Runs it, and returns `otherwise` where it panics.
    pub fn run<T>(&self, otherwise: T, run: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<&str>().copied();
            self.note(words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)));
            otherwise
        })
    }

    /// Runs one turn of a pad's task. A fault that recurs turn after turn ends the task and is the element's error:
    /// continuing would only keep a core busy. `mend` runs after a turn that panicked.
    pub fn turn(&self, pad: &gst::Pad, turn: impl FnOnce(), mend: impl FnOnce()) {
        let done = || {
            turn();
            true
        };
        if self.run(false, done) {
            self.in_a_row.store(0, Ordering::Relaxed);
            return;
        }
        self.run((), mend);
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 < MOST_IN_A_ROW {
            return;
        }
        let _ = pad.pause_task();
        if let Some(element) = pad.parent_element() {
            let text = format!("A fault in {} comes back again and again. Please report it", self.place);
            self.run((), || {
                gst::element_error!(element, gst::LibraryError::Failed, ("{text}"))
            });
        }
    }

    fn note(&self, words: Option<&str>) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
        let before = self.caught.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "A fault in {} was caught ({}). What it was about is dropped and the rest goes on; this is told once and counted \
             in the statistics as panics-caught. Please report it",
            self.place,
            words.unwrap_or("no words")
        );
        // Handlers of the application may run in here.
        let _ = catch_unwind(AssertUnwindSafe(|| match &self.report {
            _ if before > 0 => gst::debug!(crate::CAT, "{text}"),
            Some(report) => report(&text),
            None => gst::error!(crate::CAT, "{text}"),
        }));
    }

    /// Panics caught here.
    pub fn caught(&self) -> u64 {
        self.caught.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Mutex;

    #[test]
    fn a_panic_behind_a_signal_or_a_probe_is_caught_counted_and_told_once() {
        gst::init().unwrap();
        let pipeline = gst::Pipeline::new();
        let element = gst::ElementFactory::make("identity").build().unwrap();
        pipeline.add(&element).unwrap();
        let pad = element.static_pad("src").unwrap();
        let before = caught();
        let state = std::sync::Arc::new(Mutex::new(0));
        let guard = Guard::of("a probe", Some(&element));
        let of_probe = state.clone();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, _| {
            guard.run(gst::PadProbeReturn::Ok, || {
                let mut count = of_probe.lock().unwrap();
                *count += 1;
                panic!("number {count}");
            })
        });
        let guard = Guard::of("a signal", Some(&element));
        let of_signal = state.clone();
        element.connect("notify::name", false, move |_| {
            guard.run(None, || {
                *of_signal.lock().unwrap() += 10;
                panic!();
            })
        });
        pad.set_active(true).unwrap();
        for i in 0..3 {
            pad.push_event(gst::event::StreamStart::new(&i.to_string()));
        }
        element.notify("name");
        // Neither a poisoned lock nor an abort, and each place has reported once.
        assert_eq!(*state.lock().unwrap(), 13);
        // Other tests of this process panic too.
        assert!(caught() - before >= 4);
        let reported: Vec<_> = std::iter::from_fn(|| pipeline.bus()?.pop_filtered(&[gst::MessageType::Warning]))
            .map(|message| match message.view() {
                gst::MessageView::Warning(warning) => warning.error().to_string(),
                _ => unreachable!("only warnings were asked for"),
            })
            .collect();
        assert_eq!(reported.len(), 2, "{reported:?}");
        assert!(
            reported[0].contains("a probe") && reported[0].contains("number 1"),
            "{reported:?}"
        );
        assert!(reported[1].contains("a signal"), "{reported:?}");
    }

    #[test]
    fn a_task_goes_on_after_a_fault_and_ends_with_an_error_where_it_does_not_pass() {
        gst::init().unwrap();
        let pipeline = gst::Pipeline::new();
        let element = gst::ElementFactory::make("identity").build().unwrap();
        pipeline.add(&element).unwrap();
        let pad = gst::Pad::builder(gst::PadDirection::Src).name("side").build();
        pad.set_active(true).unwrap();
        element.add_pad(&pad).unwrap();
        let guard = Guard::of("a task", Some(&element));
        let (turns, mended) = (AtomicU64::new(0), std::sync::Arc::new(AtomicU64::new(0)));
        let (weak, counted) = (pad.downgrade(), mended.clone());
        pad.start_task(move || {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            // Every other turn panics at first, then each.
            let panics = turn % 2 == 1 || turn > 9;
            let mend = || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            guard.turn(&weak.upgrade().unwrap(), || assert!(!panics, "turn {turn}"), mend);
        })
        .unwrap();
        let wait = gst::ClockTime::from_seconds(20);
        let error = pipeline
            .bus()
            .unwrap()
            .timed_pop_filtered(wait, &[gst::MessageType::Error]);
        assert!(error.is_some());
        // Five panics in alternating turns, of which the last began the final series.
        assert_eq!(mended.load(Ordering::Relaxed), 4 + MOST_IN_A_ROW);
        pad.stop_task().unwrap();
    }

    #[test]
    fn what_panics_while_it_is_told_is_caught_too() {
        let guard = Guard::reporting("a test", |_| panic!("in the telling"));
        assert_eq!(guard.run(1, || panic!("first")), 1);
        assert_eq!(guard.run(2, || 3), 3);
        assert_eq!(guard.caught(), 1);
    }
}
