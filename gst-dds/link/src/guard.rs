// SPDX-License-Identifier: MPL-2.0

//! Where others call into us, a panic ends.
//!
//! A panic that unwinds into C aborts the process, and the bindings catch it in the virtual functions of elements only: not
//! in signal handlers, pad probes, properties and most pad functions. What stands there, and each thread of ours, runs in a
//! [`Guard`]: the panic is caught, counted, and told once. Locks that such code takes are those of [`crate::sync`], which a
//! caught panic does not poison.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use gst::prelude::*;

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Panics caught in this process, by this copy of the library.
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Catches the panics of one place.
pub struct Guard {
    place: &'static str,
    caught: AtomicU64,
    /// `None`: the log hears of it.
    tell: Option<Box<dyn Fn(&str) + Send + Sync>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut guard = f.debug_struct("Guard");
        guard.field("place", &self.place).field("caught", &self.caught());
        guard.finish_non_exhaustive()
    }
}

impl Guard {
    /// For a place that belongs to nobody who could tell more than the log does.
    pub const fn new(place: &'static str) -> Self {
        Self {
            place,
            caught: AtomicU64::new(0),
            tell: None,
        }
    }

    /// For a place of which `tell` hears the first panic.
    pub fn telling(place: &'static str, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            tell: Some(Box::new(tell)),
            ..Self::new(place)
        }
    }

    /// For a place of `element`, which warns on its bus as long as it lives. Without one: for the log.
    pub fn of(place: &'static str, element: Option<&gst::Element>) -> Self {
        let Some(weak) = element.map(ObjectExt::downgrade) else {
            return Self::new(place);
        };
        Self::telling(place, move |text| {
            if let Some(element) = weak.upgrade() {
                gst::element_warning!(element, gst::LibraryError::Failed, ("{text}"));
            }
        })
    }

    /// Runs it, and gives `otherwise` where it panics.
    pub fn run<T>(&self, otherwise: T, run: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<&str>().copied();
            self.note(words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)));
            otherwise
        })
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
        let _ = catch_unwind(AssertUnwindSafe(|| match &self.tell {
            _ if before > 0 => gst::debug!(crate::CAT, "{text}"),
            Some(tell) => tell(&text),
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
        // Neither a poisoned lock nor a dead process, and each place has told once.
        assert_eq!(*state.lock().unwrap(), 13);
        // Other tests of this process panic too.
        assert!(caught() - before >= 4);
        let told: Vec<_> = std::iter::from_fn(|| pipeline.bus()?.pop_filtered(&[gst::MessageType::Warning]))
            .map(|message| match message.view() {
                gst::MessageView::Warning(warning) => warning.error().to_string(),
                _ => unreachable!("only warnings were asked for"),
            })
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("a probe") && told[0].contains("number 1"), "{told:?}");
        assert!(told[1].contains("a signal"), "{told:?}");
    }

    #[test]
    fn what_panics_while_it_is_told_is_caught_too() {
        let guard = Guard::telling("a test", |_| panic!("in the telling"));
        assert_eq!(guard.run(1, || panic!("first")), 1);
        assert_eq!(guard.run(2, || 3), 3);
        assert_eq!(guard.caught(), 1);
    }
}
