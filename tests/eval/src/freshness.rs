// SPDX-License-Identifier: MPL-2.0

//! How old the newest result is, by a model of a link and a server: what a record sent when, how long the link takes for
//! it, when the server is free for it.
//!
//! A frame is sent when it is captured, or when its segment is whole; coding takes no time here, since it would be measured
//! and not the same twice. The link carries one access unit after the
//! other at its rate, with headers; half a round trip later the server takes it, one frame after the other. What a second
//! pass needs goes back for half a round trip, is coded, and takes the same way. The age at any moment is that of the newest
//! frame of which a result is there; a result that only a camera has (a tracker's) is none at the server.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::record::{Freshness, Origin, Record};

/// Headers of RTP (12), UDP (8) and IPv4 (20), bytes a packet.
const HEADERS: u64 = 40;
/// Payload of a packet at most.
const PAYLOAD: u64 = 1400;

/// Bytes of an access unit or a feedback packet on the wire, with headers of RTP, UDP and IP; 0 for nothing.
pub fn on_wire(bytes: u32) -> u64 {
    let bytes = u64::from(bytes);
    bytes + HEADERS * bytes.div_ceil(PAYLOAD)
}

/// Link and server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Frames per second of the source.
    pub rate: f64,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
    /// One run of the server's model, milliseconds.
    pub inference_ms: f64,
    /// Rate upstream, kbit/s.
    pub kbps: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Coded { frame: usize, second: bool },
    Arrived { frame: usize, second: bool },
}

/// Microseconds: whole numbers have an order.
fn us(ms: f64) -> u64 {
    (ms * 1000.0).round().max(0.0) as u64
}

/// When each frame's first and last result are at the server, milliseconds; `None` where it gets none.
pub fn results(record: &Record, path: &Path) -> Vec<Option<[f64; 2]>> {
    let frames = record.frames.len();
    let captured = |n: usize| n as f64 * 1000.0 / path.rate;
    let mut events = BinaryHeap::new();
    for (n, frame) in record.frames.iter().enumerate() {
        if frame.bytes == 0 {
            continue;
        }
        let ready = match record.segment as usize {
            0 => n,
            segment => ((n / segment + 1) * segment).min(frames) - 1,
        };
        let what = What::Coded {
            frame: n,
            second: false,
        };
        events.push(Reverse((us(captured(ready)), n, what)));
    }
    let (mut link_free, mut server_free) = (0, 0);
    let half = us(path.rtt_ms / 2.0);
    let mut done = vec![None; frames];
    while let Some(Reverse((time, order, what))) = events.pop() {
        match what {
            What::Coded { frame, second } => {
                let bytes = if second {
                    record.frames[frame].refine_bytes
                } else {
                    record.frames[frame].bytes
                };
                let took = us(on_wire(bytes) as f64 * 8.0 / path.kbps);
                link_free = time.max(link_free) + took;
                events.push(Reverse((link_free + half, order, What::Arrived { frame, second })));
            }
            What::Arrived { frame, second } => {
                server_free = time.max(server_free) + us(path.inference_ms);
                let now = server_free as f64 / 1000.0;
                let entry = done[frame].get_or_insert([now, now]);
                entry[1] = now;
                if !second && record.frames[frame].refine_bytes > 0 {
                    let what = What::Coded { frame, second: true };
                    events.push(Reverse((server_free + half, order, what)));
                }
            }
        }
    }
    done
}

/// Age of the newest final result, from the first one on until the last frame is captured. `None` where there is no result
/// at all.
pub fn freshness(record: &Record, path: &Path) -> Option<Freshness> {
    let captured = |n: usize| n as f64 * 1000.0 / path.rate;
    let mut news: Vec<(f64, f64)> = results(record, path)
        .into_iter()
        .enumerate()
        .filter(|(n, _)| record.frames[*n].origin != Origin::Tracked)
        .filter_map(|(n, times)| Some((times?[1], captured(n))))
        .collect();
    news.sort_by(|a, b| a.0.total_cmp(&b.0));
    let begin = news.first()?.0;
    let end = captured(record.frames.len().saturating_sub(1)).max(begin + 1.0);
    let mut ages = Vec::new();
    let (mut next, mut newest) = (0, f64::NEG_INFINITY);
    let mut now = begin;
    while now <= end {
        while let Some(&(time, capture)) = news.get(next).filter(|n| n.0 <= now) {
            debug_assert!(time <= now);
            newest = newest.max(capture);
            next += 1;
        }
        ages.push(now - newest);
        now += 1.0;
    }
    ages.sort_by(f64::total_cmp);
    let at = |share: f64| ages[((ages.len() - 1) as f64 * share).round() as usize];
    Some(Freshness {
        mean: ages.iter().sum::<f64>() / ages.len() as f64,
        p50: at(0.5),
        p95: at(0.95),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Frame;

    const PATH: Path = Path {
        rate: 10.0,
        rtt_ms: 100.0,
        inference_ms: 10.0,
        kbps: 8.0 * 1040.0,
    };

    fn record(frames: usize, refine: u32, segment: u32) -> Record {
        let frame = Frame {
            // With headers 1040 bytes: a millisecond.
            bytes: 1000,
            refine_bytes: refine,
            ..Frame::default()
        };
        Record {
            frames: vec![frame; frames],
            segment,
            ..Record::default()
        }
    }

    #[test]
    fn one_pass_waits_for_link_half_a_round_trip_and_the_model() {
        assert_eq!(results(&record(2, 0, 0), &PATH)[1], Some([161.0, 161.0]));
        let fresh = freshness(&record(40, 0, 0), &PATH).unwrap();
        // From 61 ms at arrival to 161 ms before the next.
        assert!((fresh.mean - 111.0).abs() < 2.0, "{fresh:?}");
        assert!((fresh.p95 - 156.0).abs() < 3.0, "{fresh:?}");
    }

    #[test]
    fn a_second_pass_takes_a_round_trip_more() {
        // 61 ms, then 100 ms for the round trip, 1 ms on the link, 10 ms at the server.
        assert_eq!(results(&record(1, 1000, 0), &PATH)[0], Some([61.0, 172.0]));
    }

    #[test]
    fn a_segment_waits_until_it_is_whole() {
        let times = results(&record(5, 0, 5), &PATH);
        assert_eq!(times[0], Some([461.0, 461.0]));
        // All five are sent at once; the server takes 10 ms for each.
        assert_eq!(times[4], Some([501.0, 501.0]));
    }

    #[test]
    fn a_link_that_is_too_thin_lets_ages_grow() {
        let thin = Path { kbps: 40.0, ..PATH };
        let fresh = freshness(&record(50, 0, 0), &thin).unwrap();
        assert!(fresh.p95 > 2000.0, "{fresh:?}");
    }

    #[test]
    fn frames_that_are_not_sent_keep_the_age_growing() {
        let mut half = record(40, 0, 0);
        for frame in half.frames.iter_mut().skip(1).step_by(2) {
            frame.bytes = 0;
            frame.origin = Origin::Held;
        }
        let (all, half) = (freshness(&record(40, 0, 0), &PATH), freshness(&half, &PATH));
        assert!(half.unwrap().mean > all.unwrap().mean + 40.0);
        assert_eq!(freshness(&Record::default(), &PATH), None);
    }
}
