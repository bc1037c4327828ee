// SPDX-License-Identifier: MPL-2.0

//! Camera-side decisions without GStreamer and without an encoder: feedback packets, input regions and coded bytes go
//! in, the quantizers of the next frame come out.
//!
//! Nothing here reads a clock. Every call takes `now`, in nanoseconds of one clock that the caller chooses (running
//! time, or video time when the pipeline is driven in lockstep); equal calls give equal results. Calls up to half a
//! second out of order count as simultaneous, a larger step back as a seek.
//!
//! # One frame
//!
//! ```text
//! FeedbackReceiver::deliver(way, packet)*      any number of times, from any way and thread
//! StreamPlanner::plan(capture, feedback)       -> Plan: skip it, or code it: base quantizer, offset per macroblock,
//!                                              VBV, size, key frame, notice
//!   ... encode ...
//! StreamPlanner::end_frame(now, bytes, idr)    size of the frame, when it was coded
//! ```
//!
//! A server may also wish for fewer pictures ([`WishBounds`]): those left out are [`Skip::Asked`]. [`wake::Wake`] finds
//! changes for which one is sent all the same.
//!
//! [`Camera`] is both on one thread, for tools and tests.
//!
//! # The rule that merges regions
//!
//! Feedback regions and input regions ([`RoiRequest`]) of a frame meet in one map of macroblocks:
//!
//! 1. A macroblock belongs to a region as soon as one pixel does.
//! 2. Where regions overlap, **the finest one (lowest quantizer) wins**, whichever way it came.
//! 3. A region coarser than the base quantizer counts only where no other region lies.
//! 4. Differences to the base are even (odd ones are rounded towards finer), because x264 codes a macroblock whose
//!    quantizer differs by one from its neighbour's with the neighbour's quantizer. Quantizers stay within 1..=51.
//! 5. Regions finer than the base share [`CameraSettings::max_region_area`]: input regions first, then feedback, way by
//!    way in the order of [`Way`] and within one in the order of its value. A region whose new macroblocks do not fit
//!    is left out whole and counted; smaller ones after it may still fit.
//!
//! Each way that feedback comes by has its own generations: the newest complete one of each way acts until that way
//! brings a newer one, its regions' time ends, or nothing has come by that way for
//! [`CameraSettings::feedback_timeout_ns`]. So no sender can displace by one way what comes by another. What one server
//! sends by two ways is counted once, and the slower of the two rests while the one before it is ahead.
//!
//! Input regions are relative to the base quantizer of their frame, apply to that frame alone, work in every mode and
//! never count as feedback.

#![forbid(unsafe_code)]

mod bandwidth;
mod cap;
mod clock;
mod controller;
mod gop;
pub mod jobs;
mod keyframes;
mod loss;
mod pace;
mod planner;
mod qpmap;
pub mod receiver;
mod regions;
mod requests;
pub mod ring;
mod single;
mod stats;
pub mod timeline;
mod types;
pub mod wake;
mod window;
mod wishes;

pub use controller::{Controller, ControllerSettings, Estimate, OperatingPoint};
pub use keyframes::{KeyFrameCounts, KeyFrameRequests};
pub use loss::LossEstimator;
pub use pace::Pace;
pub use planner::{StreamConfig, StreamPlanner};
pub use qpmap::QpMap;
pub use receiver::{
    Delivery, FeedbackReceiver, FeedbackUpdate, Liveness, Outcome, Reading, ReceivedState, Way, WayUpdate, Ways,
};
pub use requests::{RefineCounts, Refusal, Request, Requests};
pub use single::Camera;
pub use stats::{DelayStats, FeedbackStats, RegionStats, Stats};
pub use types::{
    Applied, Bandwidth, CameraSettings, Capture, FeedbackBound, FrameMode, FramePlan, Geometry, Interval, MACROBLOCK,
    MAX_QP, MIN_QP, Notice, Plan, RoiRequest, SegmentPlace, Skip, WishBounds,
};
pub use window::Window;
