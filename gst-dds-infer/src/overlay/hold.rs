// SPDX-License-Identifier: MPL-2.0

//! Results that are shown on later frames for a time.

#![forbid(unsafe_code)]

use super::canvas::Area;
use super::{Mark, Scene};

/// Results of one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameResults {
    /// Objects; empty if none were found, `None` if no detector ran.
    pub objects: Option<Vec<Mark>>,
    /// Requested regions and whether the picture is damaged, if the server reports them.
    pub feedback: Option<(Vec<Area>, bool)>,
}

/// A result and its time, nanoseconds.
#[derive(Debug)]
struct Timed<T> {
    value: T,
    at: Option<u64>,
}

/// The newest results.
#[derive(Debug, Default)]
pub struct Hold {
    objects: Option<Timed<Vec<Mark>>>,
    feedback: Option<Timed<(Vec<Area>, bool)>>,
}

/// What to draw on a frame: its own results, and those of an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Showing {
    /// Results of this frame.
    pub fresh: Scene,
    /// Results of an earlier frame.
    pub held: Scene,
}

impl Hold {
    /// Drops all results: another picture follows.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the results of a frame of time `now` (nanoseconds; `None`: without a time) and returns what to draw on
    /// it. Results older than `limit` nanoseconds, or newer than the frame, are dropped, so nothing is kept if frames
    /// have no time.
    pub fn show(&mut self, found: FrameResults, now: Option<u64>, limit: u64) -> Showing {
        let mut showing = Showing::default();
        let valid = |at: Option<u64>| {
            let age = now.zip(at).and_then(|(now, at)| now.checked_sub(at));
            age.is_some_and(|age| age <= limit)
        };
        match found.objects {
            Some(objects) => {
                showing.fresh.objects.clone_from(&objects);
                self.objects = Some(Timed {
                    value: objects,
                    at: now,
                });
            }
            None => {
                self.objects.take_if(|kept| !valid(kept.at));
                showing.held.objects = self.objects.as_ref().map(|k| k.value.clone()).unwrap_or_default();
            }
        }
        let put = |shown: &mut Scene, (regions, damaged): (Vec<Area>, bool)| {
            (shown.regions, shown.damaged) = (regions, damaged);
        };
        match found.feedback {
            Some(feedback) => {
                put(&mut showing.fresh, feedback.clone());
                self.feedback = Some(Timed {
                    value: feedback,
                    at: now,
                });
            }
            None => {
                self.feedback.take_if(|kept| !valid(kept.at));
                if let Some(kept) = &self.feedback {
                    put(&mut showing.held, kept.value.clone());
                }
            }
        }
        showing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(showing: &Showing) -> bool {
        *showing == Showing::default()
    }

    fn found(label: &str) -> FrameResults {
        let area = Area::new(1, 2, 3, 4);
        FrameResults {
            objects: Some(vec![Mark {
                area,
                label: label.into(),
                percent: None,
            }]),
            feedback: Some((vec![area], false)),
        }
    }

    fn label(scene: &Scene) -> Option<&str> {
        scene.objects.first().map(|m| m.label.as_str())
    }

    #[test]
    fn results_are_fresh_on_their_frame_held_after_it_and_gone_in_time() {
        let mut hold = Hold::default();
        let showing = hold.show(found("a"), Some(1000), 500);
        assert_eq!(
            (label(&showing.fresh), showing.held == Scene::default()),
            (Some("a"), true)
        );
        let showing = hold.show(FrameResults::default(), Some(1500), 500);
        assert_eq!(showing.fresh, Scene::default());
        assert_eq!((label(&showing.held), showing.held.regions.len()), (Some("a"), 1));
        assert!(nothing(&hold.show(FrameResults::default(), Some(1501), 500)));
        // Not even if time goes back to it.
        assert!(nothing(&hold.show(FrameResults::default(), Some(1400), 500)));
    }

    #[test]
    fn an_empty_result_ends_what_was_held() {
        let mut hold = Hold::default();
        hold.show(found("a"), Some(0), 500);
        let empty = FrameResults {
            objects: Some(Vec::new()),
            feedback: Some((Vec::new(), false)),
        };
        assert!(nothing(&hold.show(empty, Some(10), 500)));
        assert!(nothing(&hold.show(FrameResults::default(), Some(20), 500)));
    }

    #[test]
    fn objects_of_another_detector_leave_the_regions_of_the_server() {
        let mut hold = Hold::default();
        hold.show(found("a"), Some(0), 500);
        let other = FrameResults {
            feedback: None,
            ..found("b")
        };
        let showing = hold.show(other, Some(10), 500);
        assert_eq!((label(&showing.fresh), showing.held.regions.len()), (Some("b"), 1));
    }

    #[test]
    fn nothing_is_held_without_times_nor_into_the_past() {
        let mut hold = Hold::default();
        assert!(!nothing(&hold.show(found("a"), None, 500)));
        assert!(nothing(&hold.show(FrameResults::default(), None, 500)));
        hold.show(found("a"), Some(1000), 500);
        assert!(nothing(&hold.show(FrameResults::default(), Some(999), 500)));
    }
}
