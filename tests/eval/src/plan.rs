// SPDX-License-Identifier: MPL-2.0

//! Which points of which systems a run has.

#![forbid(unsafe_code)]

/// How far key frames lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gop {
    /// So many coded frames.
    Frames(u32),
    /// The time of the run's options, counted in captured pictures whatever share of them is sent.
    Captured,
}

/// How a point is made.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// The model on the source.
    Reference,
    /// One quantizer.
    Uniform {
        /// From one key frame to the next.
        gop: Gop,
        /// Quantizer.
        qp: u8,
        /// Size, a fraction of the sides.
        scale: f64,
        /// One frame in so many is sent.
        every: usize,
    },
    /// Share of pixels that must differ, and the quantizer of frames that are sent.
    Glimpse(f64, u8),
    /// Quantizer inside boxes.
    Vigil(u8),
    /// Quantizers inside and outside proposals.
    Eaar(u8, u8),
    /// Quantizer of the small picture.
    CloudSeg(u8),
    /// The elements themselves.
    Elements {
        /// Size of the source before the encoder, a fraction of the sides.
        scale: f64,
        /// Properties of ddsencode.
        encode: String,
        /// Properties of ddsinfer.
        infer: &'static str,
        /// The encoder is given one captured picture in so many.
        every: usize,
        /// Where key frames are not set by `encode`: [`Gop::Captured`].
        timed: bool,
    },
}

/// A point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The system's name.
    pub system: &'static str,
    /// Its own name.
    pub name: String,
    /// The system's shipped or published setting.
    pub shipped: bool,
    /// Its stream is kept for the pictures of the page.
    pub keep: bool,
    /// How it is made.
    pub how: How,
    /// Cost against one run of the model per frame, for the progress bar.
    pub cost: f64,
}

/// Evenly chosen `count` of `all`, ends and `keep` among them, in order.
fn choose<T: Copy + PartialEq>(all: &[T], count: usize, keep: T) -> Vec<T> {
    if count >= all.len() {
        return all.to_vec();
    }
    let last = all.len() - 1;
    let mut places: Vec<usize> = (0..count.max(1))
        .map(|n| {
            if count <= 1 {
                last / 2
            } else {
                (n * last + (count - 1) / 2) / (count - 1)
            }
        })
        .collect();
    if let Some(kept) = all.iter().position(|v| *v == keep)
        && !places.contains(&kept)
        && let Some(nearest) = places.iter_mut().min_by_key(|p| p.abs_diff(kept))
    {
        *nearest = kept;
    }
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|p| all[p]).collect()
}

/// Quantizers of uniform encodes.
const UNIFORM: [u8; 7] = [24, 27, 30, 33, 36, 39, 42];
/// Quantizers of backgrounds and first passes; regions and second passes are [`GAP`] finer.
const BACKGROUND: [u8; 7] = [30, 33, 36, 38, 40, 43, 46];
const GAP: u8 = 10;
/// As shipped: regions 10 finer; the fallback 6 finer.
const SHIPPED: u8 = 36;
/// Regions of the tuned sweep are so much finer.
const TUNED_GAP: u8 = 6;

/// Quantizers of uniform encodes at full rate: fine enough that the best accuracy is among them.
const FULL: [u8; 13] = [20, 24, 28, 30, 32, 34, 36, 38, 40, 42, 44, 47, 50];
/// Quantizers, shares of pictures and sizes among which a sender with an oracle chooses.
const CHOICE: [u8; 6] = [24, 28, 32, 36, 40, 44];
const RATES: [usize; 4] = [1, 2, 3, 5];
const SIZES: [f64; 3] = [1.0, 0.75, 0.5];
/// Quantizers of the background and of regions where pictures are skipped: one rule for all clips.
const PAIRS: [(u8, u8); 7] = [(20, 18), (24, 21), (28, 24), (32, 26), (36, 28), (40, 30), (44, 34)];
/// The pair that is the middle of what was studied.
const MIDDLE: (u8, u8) = (36, 28);

/// The elements with the rate that the server chooses, or a fixed one: one captured picture sent in so many. The first
/// picture and those before feedback are coded as the background.
fn thinned(pair: (u8, u8), fixed: Option<usize>) -> How {
    let (background, region) = pair;
    How::Elements {
        scale: 1.0,
        encode: format!("background-qp={background} fallback-qp={background} region-qp={region}"),
        infer: match fixed {
            None => "feedback-rate=true",
            Some(_) => "feedback-rate=false",
        },
        every: fixed.unwrap_or(1),
        timed: true,
    }
}

/// One pass of the elements.
fn one_pass(qp: u8, gap: u8) -> (f64, String, &'static str) {
    let gop = crate::rival::LONG_GOP;
    let (fallback, region) = (qp - 6, qp - gap);
    let encode = format!("key-int-max={gop} background-qp={qp} fallback-qp={fallback} region-qp={region}");
    (1.0, encode, "feedback-rate=false")
}

/// All points of `system`, at most `count` along its sweep.
pub fn points(system: &'static str, count: usize) -> Vec<Point> {
    use crate::rival::{LONG_GOP, SEGMENT};
    let point = |name: String, shipped, cost, how| Point {
        system,
        name,
        shipped,
        keep: shipped,
        how,
        cost,
    };
    let uniform = |gop: u32| {
        let qps = choose(&UNIFORM, count, SHIPPED);
        let at = |qp: u8| {
            let how = How::Uniform {
                gop: Gop::Frames(gop),
                qp,
                scale: 1.0,
                every: 1,
            };
            // None of them is the one that users run; one of them has its picture.
            Point {
                keep: qp == SHIPPED,
                ..point(format!("qp{qp}"), false, 1.0, how)
            }
        };
        qps.into_iter().map(at).collect::<Vec<_>>()
    };
    let elements = |cost, gap: u8, of: &dyn Fn(u8) -> (f64, String, &'static str)| {
        let qps = choose(&BACKGROUND, count, SHIPPED);
        let at = |qp: u8| {
            let (scale, encode, infer) = of(qp);
            let how = How::Elements {
                scale,
                encode,
                infer,
                every: 1,
                timed: false,
            };
            point(format!("qp{qp}-{}", qp - gap), qp == SHIPPED, cost, how)
        };
        qps.into_iter().map(at).collect::<Vec<_>>()
    };
    match system {
        "reference" => vec![point("source".into(), true, 1.0, How::Reference)],
        "uniform-short" => uniform(SEGMENT),
        "uniform-long" => uniform(LONG_GOP),
        "awstream" => {
            let qps = choose(&[24u8, 30, 36, 42], count, 36);
            let mut all = Vec::new();
            for every in [1usize, 3] {
                for scale in [1.0, 0.75, 0.5] {
                    for &qp in &qps {
                        let how = How::Uniform {
                            gop: Gop::Frames(SEGMENT),
                            qp,
                            scale,
                            every,
                        };
                        let name = format!("s{:.0}-qp{qp}-1in{every}", scale * 100.0);
                        all.push(point(name, false, 1.0 / every as f64, how));
                    }
                }
            }
            all
        }
        "glimpse" => {
            // As DDS tuned it, and as tuned here: there trackers that fail make it send, hardly ever differences.
            let published = (0.5, 30u8);
            let sweep = [
                (0.01, 22),
                (0.01, 26),
                (0.01, 30),
                published,
                (0.01, 34),
                (0.01, 38),
                (0.01, 42),
            ];
            choose(&sweep, count, published)
                .into_iter()
                .map(|(share, qp)| {
                    let name = format!("share{share}-qp{qp}");
                    point(name, (share, qp) == published, 0.3, How::Glimpse(share, qp))
                })
                .collect()
        }
        "vigil" => choose(&[22u8, 26, 30, 32, 34, 38, 42], count, 30)
            .into_iter()
            .map(|inner| point(format!("qp{inner}"), inner == 30, 1.1, How::Vigil(inner)))
            .collect(),
        "eaar" => choose(&[22u8, 26, 30, 32, 34, 37, 40], count, 30)
            .into_iter()
            .map(|inner| {
                let name = format!("qp{inner}-{}", inner + 6);
                point(name, inner == 30, 1.0, How::Eaar(inner, inner + 6))
            })
            .collect(),
        "cloudseg" => choose(&[18u8, 22, 26, 30, 33, 36, 40], count, 30)
            .into_iter()
            .map(|qp| point(format!("qp{qp}"), qp == 30, 4.0, How::CloudSeg(qp)))
            .collect(),
        "dds" => elements(2.2, GAP, &|qp| {
            let encode = format!(
                "mode=two-pass segment-length={SEGMENT} refine-canvas=black background-qp={qp} fallback-qp={qp} region-qp={}",
                qp - GAP
            );
            (0.8, encode, "feedback-policy=paper")
        }),
        "uniform-full" => choose(&FULL, count, 36)
            .into_iter()
            .map(|qp| {
                let how = How::Uniform {
                    gop: Gop::Captured,
                    qp,
                    scale: 1.0,
                    every: 1,
                };
                point(format!("qp{qp}"), false, 1.0, how)
            })
            .collect(),
        "awstream-long" => {
            let qps = choose(&CHOICE, count, 36);
            let grid = RATES.iter().flat_map(|every| SIZES.map(|scale| (*every, scale)));
            grid.flat_map(|(every, scale)| qps.iter().map(move |qp| (every, scale, *qp)))
                .map(|(every, scale, qp)| {
                    let how = How::Uniform {
                        gop: Gop::Captured,
                        qp,
                        scale,
                        every,
                    };
                    let name = format!("s{:.0}-qp{qp}-1in{every}", scale * 100.0);
                    point(name, false, 1.0 / every as f64, how)
                })
                .collect()
        }
        "ours-rate" => choose(&PAIRS, count, MIDDLE)
            .into_iter()
            .map(|pair| {
                let name = format!("qp{}-{}", pair.0, pair.1);
                point(name, pair == MIDDLE, 0.5, thinned(pair, None))
            })
            .collect(),
        "ours-fixed" => {
            let pairs = choose(&PAIRS, count, MIDDLE);
            RATES
                .into_iter()
                .flat_map(|every| pairs.iter().map(move |pair| (*pair, every)))
                .map(|(pair, every)| {
                    let name = format!("qp{}-{}-1in{every}", pair.0, pair.1);
                    point(name, false, 1.1 / every as f64, thinned(pair, Some(every)))
                })
                .collect()
        }
        "ours-two-pass" => elements(2.2, GAP, &|qp| {
            let encode = format!(
                "mode=two-pass key-int-max={LONG_GOP} background-qp={qp} fallback-qp={qp} region-qp={}",
                qp - GAP
            );
            (1.0, encode, "")
        }),
        "ours-one-pass" => elements(1.1, GAP, &|qp| one_pass(qp, GAP)),
        "ours-tuned" => elements(1.1, TUNED_GAP, &|qp| one_pass(qp, TUNED_GAP)),
        // Composed of the grid's points, without a run of its own.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SYSTEMS;

    #[test]
    fn every_system_has_as_many_points_as_ours_and_one_as_published() {
        let ours = points("ours-one-pass", 99).len();
        for system in SYSTEMS.iter().filter(|s| s.id != "awstream-online") {
            for count in [3, 4, 99] {
                let points = points(system.id, count);
                // Where a system is swept along other things too, quantizers are fewer.
                let least = ours.min(count).min(PAIRS.len());
                assert!(points.len() >= least, "{}", system.id);
                let shipped = points.iter().filter(|p| p.shipped).count();
                let none = ["awstream", "awstream-long", "ours-fixed"];
                let none = none.contains(&system.id) || system.id.starts_with("uniform");
                assert_eq!(shipped, usize::from(!none), "{} {count}", system.id);
                let mut names: Vec<_> = points.iter().map(|p| &p.name).collect();
                names.dedup();
                assert_eq!(names.len(), points.len());
            }
        }
    }

    #[test]
    fn a_choice_keeps_ends_and_what_it_must() {
        assert_eq!(choose(&[1, 2, 3, 4, 5, 6, 7], 3, 3), [1, 3, 7]);
        assert_eq!(choose(&[1, 2, 3, 4, 5, 6, 7], 3, 4), [1, 4, 7]);
        assert_eq!(choose(&[1, 2, 3], 9, 3), [1, 2, 3]);
    }
}
