// SPDX-License-Identifier: MPL-2.0

//! Decides which frames are key frames: those requested, those that begin a segment, and those that are due.

use super::types::SegmentPlace;

/// Follows the key frames of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gop {
    /// Most frames from one key frame to the next; the encoder inserts such key frames itself, by the frames that it
    /// codes.
    most: u64,
    /// Frames are refreshed piece by piece, and no key frame is ever due by their number.
    refreshed: bool,
    /// Frames of a segment, 0 = none.
    segment_length: u8,
    /// Frame that segments are counted from.
    first: Option<u64>,
    last_segment: Option<u64>,
    since_idr: u64,
    /// Captured pictures left out since then.
    left_out: u64,
    last_idr_ns: u64,
    /// The next frame has to be a key frame, whoever requests it.
    force: bool,
}

/// Whether a frame is a key frame, and its place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameKind {
    /// It has to be a key frame.
    pub forced: bool,
    /// It is expected to be one.
    pub expected: bool,
    /// It is coded whatever else is wished.
    pub due: bool,
    pub segment: Option<SegmentPlace>,
}

impl Gop {
    /// For an encoder that begins at `now` with a key frame.
    pub(super) fn new(most: u64, segment_length: u8, now: u64) -> Self {
        Self {
            most: most.max(1),
            segment_length,
            first: None,
            last_segment: None,
            refreshed: false,
            since_idr: 0,
            left_out: 0,
            last_idr_ns: now,
            force: true,
        }
    }

    /// For an encoder that refreshes pictures piece by piece where `refreshed`.
    pub(super) fn with_refresh(self, refreshed: bool) -> Self {
        Self { refreshed, ..self }
    }

    /// The next frame has to be a key frame.
    pub(super) fn force(&mut self) {
        self.force = true;
    }

    /// Begins a frame: `asked` if a key frame is requested, which is also due where the last one is older than
    /// `after_ns`.
    pub(super) fn begin(&mut self, now: u64, frame: u64, asked: bool, after_ns: Option<u64>) -> FrameKind {
        let overdue = after_ns.is_some_and(|after| now.saturating_sub(self.last_idr_ns) >= after);
        let segment = (self.segment_length > 0).then(|| {
            let (number, length) = (frame - *self.first.get_or_insert(frame), u64::from(self.segment_length));
            SegmentPlace {
                index: number / length,
                position: (number % length) as u8,
                length: self.segment_length,
            }
        });
        let index = segment.map(|place| place.index);
        let starts = index.is_some() && self.last_segment != index;
        self.last_segment = index;
        // Intervals of key frames count captured pictures.
        let counted = !self.refreshed && self.since_idr + self.left_out + 1 >= self.most;
        let forced = asked || overdue || self.force || starts || counted && self.left_out > 0;
        FrameKind {
            forced,
            expected: forced || self.since_idr + 1 >= self.most,
            due: forced || counted,
            segment,
        }
    }

    /// The picture is left out.
    pub(super) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// The picture is coded as a repetition of the one before.
    pub(super) fn repeat(&mut self) {
        self.since_idr += 1;
    }

    /// The frame is coded.
    pub(super) fn end(&mut self, now: u64, idr: bool) {
        self.force = false;
        self.since_idr = if idr { 0 } else { self.since_idr + 1 };
        self.left_out = if idr { 0 } else { self.left_out };
        if idr || now < self.last_idr_ns {
            self.last_idr_ns = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key frames among those coded at 40 ms each, by an encoder that makes what is expected.
    fn key_frames(gop: &mut Gop, frames: std::ops::Range<u64>, after_ns: Option<u64>) -> Vec<u64> {
        frames
            .filter(|frame| {
                let kind = gop.begin(frame * 40_000_000, *frame, false, after_ns);
                gop.end(frame * 40_000_000, kind.expected);
                kind.expected
            })
            .collect()
    }

    #[test]
    fn the_first_is_one_then_those_that_are_due_by_number_or_by_time() {
        assert_eq!(key_frames(&mut Gop::new(4, 0, 0), 0..10, None), [0, 4, 8]);
        assert_eq!(
            key_frames(&mut Gop::new(100, 0, 0), 0..10, Some(160_000_000)),
            [0, 4, 8]
        );
        assert_eq!(key_frames(&mut Gop::new(0, 0, 0), 0..3, None), [0, 1, 2]);
    }

    #[test]
    fn each_segment_begins_with_one_whatever_is_left_out() {
        let mut gop = Gop::new(100, 4, 0);
        assert_eq!(key_frames(&mut gop, 3..12, None), [3, 7, 11]);
        // Frames 13 to 17 are not coded.
        assert_eq!(key_frames(&mut gop, 18..24, None), [18, 19, 23]);
        let place = gop.begin(0, 24, false, None).segment.unwrap();
        assert_eq!((place.index, place.position, place.length), (5, 1, 4));
    }

    #[test]
    fn pictures_that_are_left_out_count_for_the_next_key_frame() {
        let mut gop = Gop::new(9, 0, 0);
        let mut keyed = Vec::new();
        for frame in 0..30 {
            let kind = gop.begin(frame * 40_000_000, frame, false, None);
            if frame % 4 != 0 && !kind.due {
                gop.leave_out();
                continue;
            }
            gop.end(frame * 40_000_000, kind.expected);
            keyed.extend(kind.forced.then_some(frame));
        }
        assert_eq!(keyed, [0, 9, 18, 27]);
        // A repetition is coded, so the encoder counts it itself.
        let mut gop = Gop::new(4, 0, 0);
        gop.end(0, true);
        for _ in 0..2 {
            gop.repeat();
        }
        assert!(!gop.begin(0, 3, false, None).due);
        gop.repeat();
        let kind = gop.begin(0, 4, false, None);
        assert!(kind.due && kind.expected && !kind.forced);
        let mut refreshed = Gop::new(4, 0, 0).with_refresh(true);
        refreshed.end(0, true);
        (0..9).for_each(|_| refreshed.leave_out());
        assert!(!refreshed.begin(0, 9, false, None).due);
    }

    #[test]
    fn what_is_forced_is_forced_once() {
        let mut gop = Gop::new(100, 0, 0);
        assert_eq!(key_frames(&mut gop, 0..3, None), [0]);
        gop.force();
        assert_eq!(key_frames(&mut gop, 3..6, None), [3]);
        assert!(gop.begin(0, 7, true, None).forced);
    }
}
