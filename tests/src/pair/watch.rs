// SPDX-License-Identifier: MPL-2.0

//! Watches both ends and says what was promised and not kept. It knows what neither end knows: which pictures are whole,
//! and what has arrived where.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;

use dds_protocol::feedback::{FeedbackState, addressee};
use gstdds::camera::jobs::Asked;
use gstdds::camera::{CameraSettings, FeedbackStats, FrameMode, FramePlan, MACROBLOCK, Request, Way};
use gstddsinfer::results::Refined;
use gstddsinfer::server::{CoreSettings, FrameKey, Look, SEGMENT_PATIENCE};

use super::model::{EMPTY_ROWS, SIZE, Shot};
use super::types::{MS, Out, Picture, Refinement, Time};

/// Pictures of which it is remembered whether they were whole.
const REMEMBERED: usize = 20_000;
/// Broken promises that are kept in words.
const MOST_WORDS: usize = 20;
/// A second may take this much of the cap, and a picture's smallest size on top.
const TOLERANCE: f64 = 1.05;
const SMALLEST: f64 = 64.0;
/// Packets of each way that are parsed for a picture.
const PARSED: f64 = 2.0;
/// Pictures after which a refusal has been named.
const NAMED_WITHIN: u64 = 40;

/// A planned picture and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    pub frame: u64,
    pub bytes: usize,
    pub idr: bool,
}

/// What was counted beside the ends' own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pictures coded, by what governed them.
    pub first: u64,
    /// In fallback.
    pub fallback: u64,
    /// Steered by a server.
    pub steered: u64,
    /// With steering switched off.
    pub unsteered: u64,
    /// With macroblocks off the base quantizer.
    pub with_regions: u64,
    /// Bytes of the first stream.
    pub bytes: u64,
    /// Pictures that the server's decoder gave damaged.
    pub damaged: u64,
    /// Changes from steered to fallback, and back.
    pub falls: u64,
    /// See `falls`.
    pub returns: u64,
    /// Frames that left the server.
    pub out: u64,
    /// Of those, frames with a second pass.
    pub refined: u64,
    /// Of those, frames whose second pass the camera refused.
    pub refused: u64,
    /// Of those, frames that waited in vain.
    pub late: u64,
    /// Frames asked for in requests of second passes.
    pub requests: u64,
    /// Requests that reached the camera.
    pub asked: u64,
    /// Refinements coded.
    pub refinements: u64,
    /// The longest that a frame was inside the server, in nanoseconds.
    pub longest_inside: Time,
    /// The most bytes in a second as a share of the cap, in thousandths.
    pub worst_second: u64,
}

/// The camera's side.
#[derive(Debug, Default)]
struct CameraSide {
    /// Something addressed to the stream arrived since the last picture, and ever.
    heard: bool,
    ever: bool,
    silence: Time,
    /// The camera's clock at the last picture, and what it has run, steps back left out.
    plan_now: Option<Time>,
    clock: Time,
    mode: Option<FrameMode>,
    /// The last picture had regions.
    regions: bool,
    kbps: u32,
    second: VecDeque<(Time, usize)>,
    bytes: usize,
    pictures: u64,
    /// Packets that were looked at, up to each picture of the last second, and the ways they come.
    parsed: VecDeque<(Time, u64)>,
    ways: BTreeSet<usize>,
    /// Requests that wait for their refinement, and refusals to be named.
    to_refine: BTreeMap<u64, Time>,
    to_name: BTreeMap<u64, u64>,
    accepted: BTreeSet<u64>,
    last_refined: Option<u64>,
}

/// The server's side.
#[derive(Debug, Default)]
struct ServerSide {
    inside: BTreeMap<u64, Inside>,
    last_out: u64,
    out_at: Time,
    deadline: Time,
    inference: Time,
    requested: BTreeMap<FrameKey, Time>,
}

#[derive(Clone, Copy, Debug)]
struct Inside {
    came: Time,
    looked: Option<Time>,
    frame: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub seen: Seen,
    pub broken: Vec<String>,
    pub digest: u64,
    /// Time after which a request has been answered in either way.
    answered_within: Time,
    /// What has to govern the next picture.
    pub expected: Option<FrameMode>,
    truth: HashMap<FrameKey, bool>,
    order: VecDeque<FrameKey>,
    camera: CameraSide,
    server: ServerSide,
}

impl Watch {
    /// `answered_within`: time after which a request has been answered in either way.
    pub fn new(answered_within: Time) -> Self {
        Self {
            answered_within,
            ..Self::default()
        }
    }

    fn breaks(&mut self, promise: std::fmt::Arguments<'_>) {
        if self.broken.len() < MOST_WORDS {
            let mut words = String::new();
            let _ = words.write_fmt(promise);
            self.broken.push(words);
        }
    }

    fn note(&mut self, values: &[u64]) {
        for value in values {
            self.digest = (self.digest ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    fn is_whole(&self, key: FrameKey) -> bool {
        self.truth.get(&key).copied().unwrap_or(false)
    }

    // ---- the camera

    /// A camera begins a stream; `process`: it knows nothing of what was before.
    pub fn camera_began(&mut self, process: bool) {
        let before = std::mem::take(&mut self.camera);
        if !process {
            (self.camera.clock, self.camera.plan_now) = (before.clock, before.plan_now);
            (self.camera.kbps, self.camera.second, self.camera.bytes) = (before.kbps, before.second, before.bytes);
            (self.camera.parsed, self.camera.ways) = (before.parsed, before.ways);
            // What was accepted is still refined; what was refused has no access unit any more to be named in.
            (self.camera.accepted, self.camera.to_refine) = (before.accepted, before.to_refine);
            self.camera.last_refined = before.last_refined;
        }
    }

    /// No more packets are parsed than each way is allowed in a second, and as many at once.
    pub fn parsed(&mut self, stats: &FeedbackStats, frame_rate: f64) {
        let looked_at = stats.packets_complete + stats.packets_partial + stats.packets_stale + stats.packets_duplicate;
        let camera = &mut self.camera;
        let now = camera.clock;
        while camera.parsed.front().is_some_and(|(at, _)| now - at > 1000 * MS) {
            camera.parsed.pop_front();
        }
        let before = camera.parsed.front().map_or(0, |(_, count)| *count);
        camera.parsed.push_back((now, looked_at));
        let (parsed, ways) = (looked_at - before, camera.ways.len() as u64);
        if parsed as f64 > 2.0 * PARSED * frame_rate * ways as f64 {
            self.breaks(format_args!("{parsed} packets are parsed in a second, by {ways} ways"));
        }
    }

    /// What was asked for and not coded yet is dropped with a flush.
    pub fn camera_flushed(&mut self) {
        self.camera.to_refine.clear();
    }

    /// A packet arrives at the camera.
    pub fn delivered(&mut self, stream: u32, way: Way, packet: &[u8]) {
        self.camera.ways.insert(way as usize);
        if addressee(packet) == Ok(stream) {
            (self.camera.heard, self.camera.ever) = (true, true);
        }
    }

    pub fn planned(
        &mut self,
        now: Time,
        stream: u32,
        user: &CameraSettings,
        plan: &FramePlan<'_>,
        Planned { frame, bytes, idr }: Planned,
    ) {
        let offsets = plan.offsets.unwrap_or_default();
        let finest = offsets.iter().min().copied().unwrap_or(0);
        self.note(&[now, frame, plan.base_qp.into(), finest as u64, bytes as u64, idr.into()]);
        self.camera.regions = finest < 0;
        self.count(plan.mode, self.camera.regions, bytes);
        let empty = (EMPTY_ROWS / MACROBLOCK) as usize * SIZE.mb_width();
        if offsets.iter().take(empty).any(|offset| *offset != 0) {
            self.breaks(format_args!("frame {frame}: steered by damage, there is nothing"));
        }
        if let Some(applied) = plan.applied
            && !self.is_whole((stream, applied.frame))
        {
            self.breaks(format_args!(
                "frame {frame}: steered by frame {}, which was damaged",
                applied.frame
            ));
        }
        let camera = &mut self.camera;
        let passed = plan.now.saturating_sub(camera.plan_now.unwrap_or(plan.now));
        camera.plan_now = Some(plan.now);
        camera.clock += passed;
        camera.silence = if std::mem::take(&mut camera.heard) {
            0
        } else {
            camera.silence + passed
        };
        camera.pictures += 1;
        self.judge_mode(frame, user, plan.mode);
        self.judge_second(frame, user.max_bitrate_kbps, bytes);
        self.judge_requests(now);
    }

    fn count(&mut self, mode: FrameMode, regions: bool, bytes: usize) {
        let seen = &mut self.seen;
        *match mode {
            FrameMode::First => &mut seen.first,
            FrameMode::Fallback => &mut seen.fallback,
            FrameMode::Steered => &mut seen.steered,
            FrameMode::Unsteered => &mut seen.unsteered,
        } += 1;
        seen.with_regions += u64::from(regions);
        seen.bytes += bytes as u64;
        match self.camera.mode.replace(mode) {
            Some(FrameMode::Steered) => seen.falls += u64::from(mode == FrameMode::Fallback),
            Some(FrameMode::Fallback) => seen.returns += u64::from(mode == FrameMode::Steered),
            _ => (),
        }
    }

    fn judge_mode(&mut self, frame: u64, user: &CameraSettings, mode: FrameMode) {
        let camera = &self.camera;
        let timeout = user.feedback_timeout_ns;
        let silent = !camera.ever || (timeout > 0 && camera.silence >= timeout);
        if silent && mode == FrameMode::Steered {
            let ms = camera.silence / MS;
            self.breaks(format_args!("frame {frame}: steered after {ms} ms of silence"));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != mode) {
            self.breaks(format_args!(
                "frame {frame}: {mode:?} where all is well, not {expected:?}"
            ));
        }
    }

    /// The cap, in any second since it was set.
    fn judge_second(&mut self, frame: u64, kbps: u32, bytes: usize) {
        let camera = &mut self.camera;
        if std::mem::replace(&mut camera.kbps, kbps) != kbps {
            camera.second.clear();
            camera.bytes = 0;
        }
        if kbps == 0 {
            return;
        }
        camera.second.push_back((camera.clock, bytes));
        camera.bytes += bytes;
        while let Some((at, bytes)) = camera.second.front().copied()
            && camera.clock - at >= 1000 * MS
        {
            camera.bytes -= bytes;
            camera.second.pop_front();
        }
        let (bytes, cap) = (camera.bytes as f64, f64::from(kbps) * 125.0);
        self.seen.worst_second = self.seen.worst_second.max((1000.0 * bytes / cap) as u64);
        if bytes > TOLERANCE * cap + SMALLEST {
            self.breaks(format_args!(
                "frame {frame}: {bytes} bytes in a second, {cap} are the cap"
            ));
        }
    }

    fn judge_requests(&mut self, now: Time) {
        let camera = &mut self.camera;
        let late = camera
            .to_refine
            .iter()
            .find(|(_, at)| now - **at > self.answered_within)
            .map(|(frame, _)| *frame);
        let unnamed = camera
            .to_name
            .iter()
            .find(|(_, at)| camera.pictures - **at > NAMED_WITHIN)
            .map(|(frame, _)| *frame);
        if let Some(frame) = late {
            camera.to_refine.remove(&frame);
            self.breaks(format_args!(
                "frame {frame} was asked for, and is neither refined nor refused"
            ));
        }
        if let Some(frame) = unnamed {
            self.camera.to_name.remove(&frame);
            self.breaks(format_args!("frame {frame} was refused, and is not named"));
        }
    }

    /// A state of feedback has become jobs.
    pub fn asked(&mut self, now: Time, state: &FeedbackState, asked: &Asked, next_frame: u64) {
        let frames: BTreeSet<u64> = state
            .regions
            .iter()
            .map(|region| state.frame + u64::from(region.frame_offset))
            .collect();
        if state.regions.iter().any(|region| region.rect.y < EMPTY_ROWS) {
            self.breaks(format_args!(
                "asked by damage, there is nothing in frame {}",
                state.frame
            ));
        }
        for frame in frames {
            self.seen.asked += 1;
            if !self.is_whole((state.stream_id, frame)) {
                self.breaks(format_args!("frame {frame} was asked for, and was damaged"));
            }
            if asked.refused.iter().any(|(refused, _)| *refused == frame) {
                if frame < next_frame {
                    self.camera.to_name.insert(frame, self.camera.pictures);
                }
            } else if self.camera.accepted.insert(frame) {
                self.camera.to_refine.insert(frame, now);
            }
        }
        while self.camera.accepted.len() > REMEMBERED {
            self.camera.accepted.pop_first();
        }
    }

    /// The first pass names frames as refused.
    pub fn named(&mut self, refused: &[u64]) {
        for frame in refused {
            self.camera.to_name.remove(frame);
            self.camera.to_refine.remove(frame);
        }
    }

    pub fn refined(&mut self, shot: Shot, request: &Request) {
        self.seen.refinements += 1;
        self.note(&[shot.frame, request.regions.len() as u64]);
        if self.camera.last_refined.is_some_and(|last| shot.frame <= last) {
            self.breaks(format_args!("frame {} is refined out of order", shot.frame));
        }
        self.camera.last_refined = Some(shot.frame);
        if request.frame != shot.frame || self.camera.to_refine.remove(&shot.frame).is_none() {
            self.breaks(format_args!("frame {} is refined, and nobody asked", shot.frame));
        }
    }

    /// What governed the newest picture.
    pub fn mode(&self) -> Option<FrameMode> {
        self.camera.mode
    }

    /// Ways that packets have come by.
    pub fn ways(&self) -> usize {
        self.camera.ways.len()
    }

    pub fn is_refining(&self) -> bool {
        self.camera.regions
    }

    // ---- the server

    pub fn server_began(&mut self) {
        self.server = ServerSide::default();
    }

    pub fn server_settings(&mut self, settings: &CoreSettings, inference: Time) {
        let deadline = settings.refine_deadline.as_nanos() as Time;
        self.server.deadline = self.server.deadline.max(deadline);
        self.server.inference = self.server.inference.max(inference);
    }

    pub fn server_flushed(&mut self) {
        self.server.inside.clear();
        self.server.requested.clear();
    }

    /// The decoder gives a picture.
    pub fn decoded(&mut self, shot: Shot, whole: bool) {
        self.seen.damaged += u64::from(!whole);
        let key = (shot.stream, shot.frame);
        if self.truth.insert(key, whole).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.truth.remove(&oldest);
        }
    }

    pub fn came_in(&mut self, now: Time, number: u64, frame: bool) {
        let inside = Inside {
            came: now,
            looked: None,
            frame,
        };
        self.server.inside.insert(number, inside);
    }

    pub fn looked(&mut self, done: Time, picture: &Picture, look: &Look) {
        if look.ask.is_some() && !picture.whole {
            self.breaks(format_args!(
                "frame {} is damaged, and the policy is asked",
                picture.shot.frame
            ));
        }
        if let Some(inside) = self.server.inside.get_mut(&picture.number) {
            inside.looked = Some(done);
        }
    }

    pub fn requested(&mut self, now: Time, request: &gstddsinfer::server::Request) {
        self.note(&[now, request.frame, request.regions.len() as u64]);
        let frames: BTreeSet<u64> = request
            .regions
            .iter()
            .map(|region| request.frame + u64::from(region.frame_offset))
            .collect();
        for frame in frames.into_iter().filter(|_| request.once) {
            self.seen.requests += 1;
            self.server.requested.insert((request.stream_id, frame), now);
        }
    }

    pub fn refinement_came(&mut self, now: Time, truth: FrameKey, told: FrameKey) {
        self.note(&[now, told.1]);
        if truth != told {
            self.breaks(format_args!("a second pass of {truth:?} is taken for one of {told:?}"));
        }
    }

    pub fn pasted(&mut self, picture: &Picture, refinement: Refinement) {
        let key = (picture.shot.stream, picture.shot.frame);
        if key != refinement.key {
            self.breaks(format_args!(
                "the second pass of {:?} is pasted into {key:?}",
                refinement.key
            ));
        }
        if !refinement.whole || !picture.whole {
            self.breaks(format_args!("a damaged second pass is pasted into {key:?}"));
        }
    }

    pub fn went_out(&mut self, now: Time, out: &Out) {
        out.events.iter().for_each(|event| self.event_went_out(*event));
        self.note(&[now, out.frame.number, out.refined as u64]);
        let shot = out.frame.shot;
        let Some(inside) = self.leaves(out.frame.number) else {
            self.breaks(format_args!("frame {} goes out, and is not inside", shot.frame));
            return;
        };
        let seen = &mut self.seen;
        seen.out += 1;
        match out.refined {
            Refined::Yes => seen.refined += 1,
            Refined::Refused => seen.refused += 1,
            Refined::Late => seen.late += 1,
            Refined::No | Refined::Damaged => (),
        }
        seen.longest_inside = seen.longest_inside.max(now - inside.came);
        let server = &mut self.server;
        let behind = server.out_at.max(inside.looked.unwrap_or(inside.came));
        // The worker may be at another frame when the deadline comes, and looks at this one again.
        let busy = 2 * server.inference;
        let mut latest = behind + SEGMENT_PATIENCE.as_nanos() as Time + 2 * server.deadline + busy;
        if let Some(at) = server.requested.remove(&(shot.stream, shot.frame)) {
            latest = latest.min(behind.max(at + server.deadline) + busy);
        }
        server.out_at = now;
        if now > latest {
            let ms = (now - latest) / MS;
            self.breaks(format_args!(
                "frame {} goes out {ms} ms later than promised",
                shot.frame
            ));
        }
        while self.server.requested.len() > REMEMBERED {
            self.server.requested.pop_first();
        }
    }

    pub fn event_went_out(&mut self, number: u64) {
        self.note(&[number]);
        self.leaves(number);
    }

    fn leaves(&mut self, number: u64) -> Option<Inside> {
        let server = &mut self.server;
        let first = server.inside.first_key_value().map(|(first, _)| *first);
        let in_order = number > server.last_out && first.is_none_or(|first| first >= number);
        server.last_out = number;
        let left = server.inside.remove(&number);
        if !in_order {
            self.breaks(format_args!("number {number} goes out of order"));
        }
        left
    }

    /// The worker waits, with so many frames inbox and held.
    pub fn waits(&mut self, now: Time, until: Option<Time>, (inbox, held): (usize, usize)) {
        if until.is_some_and(|until| until <= now) {
            self.breaks(format_args!("the server waits for the past"));
        }
        if until.is_none() && inbox + held > 0 {
            self.breaks(format_args!("stuck: {inbox} frames wait and {held} are held for ever"));
        }
    }

    /// Frames and events inside the server.
    pub fn inside(&self) -> (usize, usize) {
        let frames = self.server.inside.values().filter(|inside| inside.frame).count();
        (frames, self.server.inside.len() - frames)
    }
}
