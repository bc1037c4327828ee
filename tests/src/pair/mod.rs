// SPDX-License-Identifier: MPL-2.0

//! Camera core and server core in one process on a virtual clock, with a bad link between them: hours of video in
//! seconds, without a pipeline, threads and sleeps. The same setup and the same calls give the same history.
//!
//! # What is real
//! On the camera's side `FeedbackReceiver`, `StreamPlanner`, `KeyFrameRequests` and, with two passes, `jobs::Jobs`. On the
//! server's side one `IdentityTracker` for each stream, `server::Core`, the policy of `feedback` and
//! `server::Repetition`. Access units carry real messages and feedback real packets.
//!
//! # What is modelled
//! - The encoder, in bytes: 60 times the sum of `2^((26 - qp) / 4)` over macroblocks, 0.15 of that where a picture is no IDR
//!   picture, more where macroblocks get finer, up to 30 % more or less, never more than the VBV's buffer. The second pass takes
//!   300 bytes for a rectangle, and [`Setup::coding_ms`].
//! - The picture: four objects, each in a band of its own, of which three go left and right ([`place`]). What is coded of it is the
//!   quantizer at the centre of each object ([`Shot`]).
//! - The detector: it finds each object where it is, and is 0.95 sure at quantizer 26, 0.03 less for each step coarser, less
//!   for hard ones; the last one is clutter that it is never sure of. In a damaged picture it finds a ghost in the top rows,
//!   where nothing ever is.
//! - The decoder: its picture is whole while every access unit since the last IDR picture came whole and in order.
//! - The link: delay, even jitter, loss, cut access units, duplicates, reordering and outages for each direction
//!   ([`Link`]), and a buffer that puts access units in order and waits [`Setup::patience_ms`] for what is missing. Numbers
//!   of access units on the link go on when a camera begins anew.
//!
//! # What is watched
//! A watch beside both ends knows which pictures are whole and what has arrived where. Promises that it sees broken stand
//! in [`Pair::broken`] in words:
//! - No picture is steered, and no frame asked for, by what was found in a damaged picture; none is refined where the ghost
//!   is; no damaged second pass is looked at, or taken for that of another frame.
//! - A picture is in fallback where nothing for its stream has arrived for the timeout, and steered where nothing has
//!   disturbed for [`Pair::healing`].
//! - Frames and events leave the server in order, each once, no later than [`SEGMENT_PATIENCE`] and twice the deadline behind
//!   those before them, and than the deadline behind their request; the server never waits for ever while it holds a frame.
//! - Bytes keep the cap in every second since it was set; packets that are parsed keep the limit of their ways.
//! - Each frame asked for is refined, in rising order, or named as refused.
//!
//! What is kept in memory is told by [`Pair::held`] and [`Pair::peak`].
//!
//! [`SEGMENT_PATIENCE`]: gstddsinfer::server::SEGMENT_PATIENCE

#![forbid(unsafe_code)]

mod camera;
mod link;
mod model;
mod server;
mod setup;
mod types;
mod watch;

use std::collections::BTreeMap;

use gstdds::camera::{CameraSettings, FeedbackStats, FrameMode, Stats, Way, jobs};
use gstddsinfer::server::{CoreSettings, Counts, Event, Kind, RateStatus};

use crate::noise::Noise;
use camera::Camera;
use link::Path;
use server::{Server, Wants};
use types::{Cut, Unit};
use watch::Watch;

pub use link::Link;
pub use model::{OBJECTS, SIZE, Shot, place};
pub use setup::{Held, Setup};
pub use types::{MS, Pass, SECOND, Time};
pub use watch::Seen;

/// Packets of the server that are remembered, to be sent again by somebody else.
const CAUGHT: usize = 64;
/// Pictures between two serialized events.
const EVENT_EVERY: u64 = 97;

/// Something that happens at its time.
#[derive(Debug)]
enum Happening {
    Capture,
    Unit(Pass, u64, Box<Unit>, Cut),
    Patience(Pass),
    Packet(Way, Vec<u8>),
    KeyFrame(Pass),
    Worked,
    Wake,
    Repeat,
    Coder,
}

/// Camera, link and server. See the [module](self).
#[derive(Debug)]
pub struct Pair {
    setup: Setup,
    now: Time,
    /// By time, and in the order in which they were put there.
    happenings: BTreeMap<(Time, u64), (Happening, u32)>,
    next_happening: u64,
    camera: Camera,
    server: Server,
    forward: [Path; 2],
    back: Path,
    /// Access units sent on each path.
    sent: [u64; 2],
    /// Of the server: what happens to one before is nothing to it.
    life: u32,
    coding: bool,
    noise: Noise,
    captured: u64,
    /// Newest packets of the server.
    caught: Vec<Vec<u8>>,
    calm_since: Time,
    peak: Held,
    watch: Watch,
}

impl Pair {
    /// Both ends begin at time 0.
    pub fn new(setup: Setup) -> Self {
        let mut noise = Noise(setup.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut draw = || (noise.uniform() * f64::from(u32::MAX)) as u64;
        let forward = setup.forward.map(|link| Path::new(link, draw()));
        let back = Path::new(setup.back, draw());
        // Those before it in the line, and what late pictures may hold up.
        let answered_within = (jobs::MOST_WAITING as Time + 2) * setup.coding_ms * MS + 2 * SECOND;
        let mut watch = Watch::new(answered_within);
        let (stream, generation) = (draw() as u32, draw() as u16);
        let mut pair = Self {
            camera: Camera::new(&setup, stream, 0),
            server: Server::new(&setup, generation, 0, &mut watch),
            now: 0,
            happenings: BTreeMap::new(),
            next_happening: 0,
            forward,
            back,
            sent: [0; 2],
            life: 0,
            coding: false,
            noise,
            captured: 0,
            caught: Vec::new(),
            calm_since: 0,
            peak: Held::default(),
            watch,
            setup,
        };
        pair.put(0, Happening::Capture);
        pair.put(0, Happening::Repeat);
        pair.serve(|server, now, wants, watch| server.work(now, wants, watch));
        pair
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Time) {
        let end = self.now + time;
        while let Some(entry) = self.happenings.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), (happening, life)) = entry.remove_entry();
            self.now = at;
            self.happen(happening, life);
        }
        self.now = end;
    }

    fn put(&mut self, at: Time, happening: Happening) {
        self.next_happening += 1;
        let key = (at.max(self.now), self.next_happening);
        self.happenings.insert(key, (happening, self.life));
    }

    fn happen(&mut self, happening: Happening, life: u32) {
        let same = life == self.life;
        match happening {
            Happening::Capture => self.capture(),
            Happening::Unit(pass, sent, unit, cut) => {
                self.serve(|server, now, wants, watch| server.unit(now, pass, sent, (*unit, cut), wants, watch));
            }
            Happening::Patience(pass) => {
                self.serve(|server, now, wants, watch| server.give_up(now, pass, wants, watch));
            }
            Happening::Packet(way, packet) => self.deliver(way, &packet),
            Happening::KeyFrame(pass) => self.camera.request_key_frame(pass),
            Happening::Worked if same => self.serve(|server, now, wants, watch| server.worked(now, wants, watch)),
            Happening::Wake if same => self.serve(|server, now, wants, watch| server.work(now, wants, watch)),
            Happening::Repeat if same => {
                let mut wants = Wants::default();
                let again = self.server.repeat(self.now, &mut wants);
                self.fulfil(wants);
                self.put(again, Happening::Repeat);
            }
            Happening::Worked | Happening::Wake | Happening::Repeat => (),
            Happening::Coder => {
                self.coding = false;
                self.code();
            }
        }
    }

    fn capture(&mut self) {
        self.captured += 1;
        let next = (self.captured as f64 * 1e9 / self.setup.frame_rate) as Time;
        self.put(next, Happening::Capture);
        if !self.is_calm() {
            self.calm_since = self.now;
        }
        let well = self.server.settings.feedback && self.now > self.calm_since + self.healing();
        self.watch.expected = well.then(|| self.camera.healthy_mode());
        if let Some(unit) = self.camera.capture(self.now, &mut self.watch) {
            self.send(Pass::First, unit);
        }
        self.watch.parsed(self.camera.receiver.stats(), self.setup.frame_rate);
        self.code();
        if self.captured.is_multiple_of(EVENT_EVERY) {
            self.server.event(self.now, Kind::Other, &mut self.watch);
            self.serve(|server, now, wants, watch| server.work(now, wants, watch));
        }
        self.peak = self.peak.max(self.held());
    }

    /// The second pass codes the next picture, unless it is at one.
    fn code(&mut self) {
        if self.coding {
            return;
        }
        if let Some(unit) = self.camera.work(self.now, &mut self.watch) {
            self.coding = true;
            let done = self.now + self.setup.coding_ms * MS;
            self.put(done, Happening::Coder);
            self.send(Pass::Second, unit);
        }
    }

    fn send(&mut self, pass: Pass, unit: Unit) {
        let sent = self.sent[pass as usize];
        self.sent[pass as usize] += 1;
        for (at, cut) in self.forward[pass as usize].send(self.now, true) {
            self.put(at, Happening::Unit(pass, sent, Box::new(unit.clone()), cut));
        }
    }

    fn deliver(&mut self, way: Way, packet: &[u8]) {
        self.watch.delivered(self.camera.stream, way, packet);
        self.camera.deliver(self.now, way, packet, &mut self.watch);
        self.code();
    }

    fn serve(&mut self, turn: impl FnOnce(&mut Server, Time, &mut Wants, &mut Watch)) {
        let mut wants = Wants::default();
        turn(&mut self.server, self.now, &mut wants, &mut self.watch);
        self.fulfil(wants);
    }

    fn fulfil(&mut self, wants: Wants) {
        for packet in wants.packets {
            for way in self.setup.ways.clone() {
                for (at, _) in self.back.send(self.now, false) {
                    self.put(at, Happening::Packet(way, packet.clone()));
                }
            }
            if self.caught.len() >= CAUGHT {
                self.caught.remove(0);
            }
            self.caught.push(packet);
        }
        for pass in wants.key_frames {
            for (at, _) in self.back.send(self.now, false) {
                self.put(at, Happening::KeyFrame(pass));
            }
        }
        if let Some(at) = wants.worked {
            self.put(at, Happening::Worked);
        }
        if let Some(at) = wants.wake {
            self.put(at, Happening::Wake);
        }
        if let Some((pass, at)) = wants.look_again {
            self.put(at, Happening::Patience(pass));
        }
    }

    // ---- what may befall them

    /// How the path of a pass to the server is from now on.
    pub fn set_forward(&mut self, pass: Pass, link: Link) {
        self.disturb();
        self.forward[pass as usize].link = link;
    }

    /// How the path back to the camera is from now on.
    pub fn set_back(&mut self, link: Link) {
        self.disturb();
        self.back.link = link;
    }

    /// Both paths to the server and the one back, as they are.
    pub fn links(&self) -> [Link; 3] {
        [self.forward[0].link, self.forward[1].link, self.back.link]
    }

    /// All paths keep everything from now on, each with its delay and jitter.
    pub fn heal(&mut self) {
        self.disturb();
        for path in self.forward.iter_mut().chain([&mut self.back]) {
            path.link = Link {
                loss: 0.0,
                down: false,
                ..path.link
            };
        }
        self.camera.late = 0.0;
    }

    /// Another server takes the place of the one that was there; it numbers its feedback from anywhere.
    pub fn restart_server(&mut self) {
        self.disturb();
        self.life += 1;
        let generation = (self.noise.uniform() * 65536.0) as u16;
        (self.setup.server, self.setup.inference_ms) = (self.server.settings, self.server.inference / MS);
        self.server = Server::new(&self.setup, generation, self.now, &mut self.watch);
        self.put(self.now, Happening::Repeat);
        self.serve(|server, now, wants, watch| server.work(now, wants, watch));
    }

    /// The camera begins another stream: as another process, or with another encoder only.
    pub fn restart_camera(&mut self, process: bool) {
        self.disturb();
        let stream = (self.noise.uniform() * f64::from(u32::MAX)) as u32;
        self.watch.camera_began(process);
        if process {
            self.setup.camera = self.camera.settings;
            let late = self.camera.late;
            self.camera = Camera::new(&self.setup, stream, self.now);
            self.camera.late = late;
        } else {
            self.camera.reopen(&self.setup, stream);
        }
    }

    /// The camera's clock goes on from `to`.
    pub fn seek_camera(&mut self, to: Time, flush: bool) {
        self.disturb();
        self.camera.seek(self.now, to, flush);
        if flush {
            self.watch.camera_flushed();
        }
    }

    /// The server drops all that waits.
    pub fn flush_server(&mut self) {
        self.disturb();
        self.server.flush(self.now, &mut self.watch);
        self.serve(|server, now, wants, watch| server.work(now, wants, watch));
    }

    /// Settings of the camera, from the next picture on.
    pub fn set_camera(&mut self, settings: CameraSettings) {
        self.disturb();
        self.camera.settings = settings;
    }

    /// The camera's settings.
    pub fn camera(&self) -> CameraSettings {
        self.camera.settings
    }

    /// Share of pictures that come too late to be coded.
    pub fn set_late(&mut self, share: f64) {
        self.camera.late = share;
    }

    /// Settings of the server, and the time of an inference in milliseconds.
    pub fn set_server(&mut self, settings: CoreSettings, inference_ms: u64) {
        self.disturb();
        self.server.settings = settings;
        self.server.inference = inference_ms * MS;
        self.watch.server_settings(&settings, self.server.inference);
        self.server.tell(self.now, Event::Settings(settings));
    }

    /// Somebody sends the camera a packet, now, by this way. By one of the server's own ways that may cost the server's
    /// packets their place.
    pub fn inject(&mut self, way: Way, packet: &[u8]) {
        if self.setup.ways.contains(&way) {
            self.disturb();
        }
        self.deliver(way, packet);
    }

    /// The server gets second passes of frames that never come.
    pub fn stray(&mut self, count: usize) {
        let first = self.camera.newest_frame() + 100_000;
        for frame in first..first + count as u64 {
            self.server.stray(self.now, (self.camera.stream, frame));
        }
        self.serve(|server, now, wants, watch| server.work(now, wants, watch));
    }

    /// One of the newest packets of the server, `back` before the newest.
    pub fn caught(&self, back: usize) -> Option<Vec<u8>> {
        let at = self.caught.len().checked_sub(1 + back)?;
        self.caught.get(at).cloned()
    }

    /// The name of the camera's stream.
    pub fn stream(&self) -> u32 {
        self.camera.stream
    }

    /// The number of the newest picture.
    pub fn newest_frame(&self) -> u64 {
        self.camera.newest_frame()
    }

    fn disturb(&mut self) {
        self.calm_since = self.now;
    }

    fn is_calm(&self) -> bool {
        self.forward[0].link.keeps_all() && self.back.link.keeps_all() && self.camera.late == 0.0
    }

    /// Time within which the camera is steered once nothing disturbs any more: a server that begins anew is believed
    /// after the timeout; its key frame is asked for within half a second, and granted within another; then there are the
    /// ways of the request, of the key frame and of the feedback, and some inferences.
    pub fn healing(&self) -> Time {
        let timeout = match self.camera.settings.feedback_timeout_ns {
            0 => 2 * SECOND,
            timeout => timeout,
        };
        let frame = (1e9 / self.setup.frame_rate) as Time;
        let ways = 2 * self.back.link.slowest() + 2 * self.forward[0].link.slowest() + self.setup.patience_ms * MS;
        let looks = Time::from(self.server.settings.inference_interval) * frame + 3 * self.server.inference;
        timeout + 1500 * MS + ways + looks + 5 * frame
    }

    // ---- what came of it

    /// Promises that were broken, in words; the first twenty.
    pub fn broken(&self) -> &[String] {
        &self.watch.broken
    }

    /// What was seen.
    pub fn seen(&self) -> Seen {
        self.watch.seen
    }

    /// Equal histories have equal ones.
    pub fn digest(&self) -> u64 {
        self.watch.digest
    }

    /// What is kept now.
    pub fn held(&self) -> Held {
        let (packets, generations) = self.camera.receiver.kept();
        let (ring, jobs) = self.camera.held();
        let (inbox, line) = self.server.core.waiting();
        let (_, events) = self.watch.inside();
        Held {
            packets,
            ways: self.watch.ways(),
            generations,
            ring,
            jobs,
            inbox,
            line,
            events,
            answers: self.server.core.answers(),
            units: self.server.units_held().1,
        }
    }

    /// The most that was kept of each at any picture.
    pub fn peak(&self) -> Held {
        self.peak
    }

    /// The camera's counts of feedback and of frames.
    pub fn camera_counts(&self) -> (FeedbackStats, Stats) {
        (
            self.camera.receiver.stats().clone(),
            self.camera.planner.stats().clone(),
        )
    }

    /// The server's counts.
    pub fn server_counts(&self) -> Counts {
        self.server.core.counts()
    }

    /// The server's wish for a rate, and what the camera said last.
    pub fn rate(&self) -> RateStatus {
        self.server.core.rate()
    }

    /// What governed the newest picture.
    pub fn mode(&self) -> Option<FrameMode> {
        self.watch.mode()
    }

    /// Whether anything of the newest picture was coded otherwise than the rest.
    pub fn is_refining(&self) -> bool {
        self.watch.is_refining()
    }

    /// Frames and events inside the server.
    pub fn inside(&self) -> (usize, usize) {
        self.watch.inside()
    }
}
