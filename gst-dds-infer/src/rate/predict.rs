// SPDX-License-Identifier: MPL-2.0

//! Where the objects of a picture are some captured pictures later.

use super::tracks::{Tracks, moved};
use crate::matching;
use crate::model::{BoundingBox, Detection};

/// The detection `ahead` captured pictures later, in a picture of `width` x `height` pixels, with the velocity of the object
/// of this index in `tracks`. `None` where its centre has left the picture.
pub fn predicted(
    detection: &Detection,
    (tracks, index): (&Tracks, usize),
    ahead: u32,
    (width, height): (u32, u32),
) -> Option<Detection> {
    let there = moved(&BoundingBox::from(detection), tracks.velocity(index), ahead as f32);
    let (x, y) = matching::centre(&there);
    let (width, height) = (width as f32, height as f32);
    if !(0.0..=width).contains(&x) || !(0.0..=height).contains(&y) {
        return None;
    }
    Some(Detection {
        x1: there.x1.clamp(0.0, width),
        y1: there.y1.clamp(0.0, height),
        x2: there.x2.clamp(0.0, width),
        y2: there.y2.clamp(0.0, height),
        ..*detection
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::Seen;
    use crate::rate::Sighting;

    #[test]
    fn objects_move_on_are_clipped_and_leave() {
        let detection = |x: f32| Detection {
            x1: x,
            y1: 10.0,
            x2: x + 20.0,
            y2: 30.0,
            score: 0.9,
            objectness: None,
            class: 1,
        };
        let sighting = |detection: &Detection| Sighting {
            seen: Seen {
                bounding_box: BoundingBox::from(detection),
                kind: 1,
            },
            score: 0.9,
        };
        let mut tracks = Tracks::default();
        tracks.update(1, &[sighting(&detection(60.0))]);
        tracks.update(3, &[sighting(&detection(70.0))]);
        let after = |ahead| predicted(&detection(70.0), (&tracks, 0), ahead, (100, 100)).map(|d| (d.x1, d.x2));
        assert_eq!(after(0), Some((70.0, 90.0)));
        assert_eq!(after(1), Some((75.0, 95.0)));
        assert_eq!(after(3), Some((85.0, 100.0)));
        assert_eq!(after(5), None);
    }
}
