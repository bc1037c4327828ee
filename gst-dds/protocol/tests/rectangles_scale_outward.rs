// SPDX-License-Identifier: MPL-2.0

//! A rectangle scaled to a picture of another size covers everything it covered, whatever the numbers.

use dds_protocol::feedback::Rect;
use proptest::prelude::*;

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

#[test]
fn whole_pixels_are_kept_and_parts_grow_outward() {
    let half = |r: Rect| r.scaled((1280, 720), (640, 360));
    assert_eq!(half(rect(64, 32, 128, 64)), rect(32, 16, 64, 32));
    assert_eq!(half(rect(1, 3, 2, 1)), rect(0, 1, 2, 1));
    assert_eq!(rect(1, 1, 1, 1).scaled((3, 3), (8, 8)), rect(2, 2, 4, 4));
    assert_eq!(rect(5, 6, 7, 8).scaled((100, 50), (100, 50)), rect(5, 6, 7, 8));
}

#[test]
fn a_side_of_no_length_has_no_place() {
    assert_eq!(rect(9, 9, 0, 3).scaled((16, 16), (32, 32)), rect(0, 18, 0, 6));
    assert_eq!(rect(9, 9, 3, 0).scaled((16, 16), (32, 32)), rect(18, 0, 6, 0));
}

#[test]
fn extremes_end_at_the_largest_number() {
    const MAX: u32 = u32::MAX;
    let all = rect(MAX, MAX, MAX, MAX);
    assert_eq!(all.scaled((MAX, MAX), (MAX, MAX)), all);
    assert_eq!(all.scaled((1, 1), (MAX, MAX)), all);
    assert_eq!(all.scaled((0, 0), (1, 1)), all);
    assert_eq!(all.scaled((MAX, MAX), (1, 1)), rect(1, 1, 1, 1));
    assert_eq!(all.scaled((MAX, MAX), (0, 0)), rect(0, 0, 0, 0));
}

proptest! {
    #[test]
    fn nothing_is_lost_and_less_than_a_pixel_is_won(
        start in any::<u32>(),
        length in 1..=u32::MAX,
        from in 1..=u32::MAX,
        to in any::<u32>(),
    ) {
        let out = rect(start, 0, length, 0).scaled((from, 1), (to, 1));
        let (first, end) = (u128::from(out.x), u128::from(out.x) + u128::from(out.width));
        let edge = |pixel: u32, more: u32| (u128::from(pixel) + u128::from(more)) * u128::from(to);
        let from = u128::from(from);
        prop_assert!(out.x == u32::MAX || first * from <= edge(start, 0) && edge(start, 0) < (first + 1) * from);
        let ended = out.x == u32::MAX || out.width == u32::MAX;
        prop_assert!(ended || end * from >= edge(start, length) && end * from < edge(start, length) + from);
    }
}
