// SPDX-License-Identifier: MPL-2.0

//! The systems that are compared, by name.

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    /// Name on the command line and in files.
    pub id: &'static str,
    /// Name on the page.
    pub name: &'static str,
    /// Colour on the page, RGB.
    pub color: [u8; 3],
    /// Ours.
    pub ours: bool,
    /// The rule in one sentence, with what differs from the published one.
    pub rule: &'static str,
}

/// All systems, in the order of the page.
pub const SYSTEMS: &[System] = &[
    System {
        id: "ours-one-pass",
        name: "gst-dds, one pass",
        color: [214, 40, 40],
        ours: true,
        rule: "Every captured picture sent: feedback of a frame makes regions of the coming frames finer. Sweep: background \
               quantizer, regions 10 finer.",
    },
    System {
        id: "ours-tuned",
        name: "gst-dds, one pass, tuned",
        color: [240, 128, 128],
        ours: true,
        rule: "As one pass, with regions 6 finer than the background instead of 10.",
    },
    System {
        id: "ours-two-pass",
        name: "gst-dds, two passes",
        color: [247, 127, 0],
        ours: true,
        rule: "ddsencode mode=two-pass, continuous streams, canvas held. Sweep: quantizer of the first pass, second 10 \
               finer.",
    },
    System {
        id: "ours-rate",
        name: "gst-dds, rate by the server",
        color: [181, 23, 158],
        ours: true,
        rule: "One pass; the server has the camera send only as many of the captured pictures as the motion of the objects \
               needs. Key frames by captured time, as the rivals of long GOP. Sweep: quantizers of background and regions, \
               in pairs.",
    },
    System {
        id: "ours-fixed",
        name: "gst-dds, fixed rates",
        color: [226, 149, 211],
        ours: true,
        rule: "As before, with every picture sent, every second, third or fifth: what choosing the rate with the accuracy \
               known would bring.",
    },
    System {
        id: "dds",
        name: "DDS as published",
        color: [106, 76, 147],
        ours: false,
        rule: "The same elements set as in the paper: segments of 15 frames, both passes at 0.8 of the size, regions on \
               black, the paper's region rule. Sweep: quantizer of the first pass, second 10 finer.",
    },
    System {
        id: "uniform-short",
        name: "uniform x264, GOP 15",
        color: [70, 70, 70],
        ours: false,
        rule: "One quantizer for the whole picture, a key frame every 15 frames, as the paper runs it.",
    },
    System {
        id: "uniform-long",
        name: "uniform x264, GOP 250",
        color: [150, 150, 150],
        ours: false,
        rule: "One quantizer for the whole picture, a key frame every 250 frames, as users run it.",
    },
    System {
        id: "uniform-full",
        name: "uniform x264, best",
        color: [20, 20, 20],
        ours: false,
        rule: "One quantizer for the whole picture, from 20 to 50, at full rate, key frames every 10 s unless the run says \
               otherwise.",
    },
    System {
        id: "awstream-long",
        name: "AWStream, oracle, long GOP",
        color: [16, 84, 128],
        ours: false,
        rule: "The best of a grid of three sizes, six quantizers and every 1st, 2nd, 3rd and 5th picture, chosen per clip \
               with the accuracy known; key frames as far apart as ours, the same first picture.",
    },
    System {
        id: "awstream",
        name: "AWStream, oracle",
        color: [25, 130, 196],
        ours: false,
        rule: "The best of a grid of size, quantizer and frame rate, chosen per clip with the accuracy known; GOP of half \
               a second. Profiling costs nothing here.",
    },
    System {
        id: "awstream-online",
        name: "AWStream, online",
        color: [110, 190, 235],
        ours: false,
        rule: "Its controller climbs and falls on the grid's Pareto list by the queue of a link whose rate follows a drawn \
               trace. Sweep: mean rate of the trace.",
    },
    System {
        id: "glimpse",
        name: "Glimpse",
        color: [138, 201, 38],
        ours: false,
        rule: "A frame is sent when enough pixels differ from the last one sent, or a tracker failed, never within 6 \
               frames; a correlation tracker moves the boxes between. Sent as H.264, which is cheaper than its JPEG. \
               Published: half of the pixels; sweep: 1 % of the pixels, quantizer.",
    },
    System {
        id: "vigil",
        name: "Vigil",
        color: [0, 150, 110],
        ours: false,
        rule: "A small detector on the camera; macroblocks of its boxes get the inner quantizer, all others 51 (as AccMPEG \
               runs it). Sweep: inner quantizer.",
    },
    System {
        id: "eaar",
        name: "EAAR",
        color: [160, 100, 50],
        ours: false,
        rule: "The server's proposals on the newest frame it answered (objectness over 0.7, at most 10 % of the frame) get \
               the inner quantizer, all else one 6 coarser (as AccMPEG runs it). Sweep: inner quantizer.",
    },
    System {
        id: "cloudseg",
        name: "CloudSeg",
        color: [230, 90, 160],
        ours: false,
        rule: "Half the size sent, CARN-M x2 restores it at the server before the detector. Sweep: quantizer.",
    },
];

/// The system of this name.
pub fn find(id: &str) -> Option<&'static System> {
    SYSTEMS.iter().find(|system| system.id == id)
}
