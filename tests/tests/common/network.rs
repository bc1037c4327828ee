// SPDX-License-Identifier: MPL-2.0

//! A camera and a server as in `pipelines/camera.sh` and `server.sh`, with a bad network between them, and what really
//! happened there.
//!
//! The encoder's own key frames are switched off (`scenecut`; the regular ones are ten seconds apart): what recovers does so
//! because somebody asked. The pictures are noise with a bright object that moves along; the server's detector finds bright objects and is never
//! sure of them, so that each one it sees is asked for.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dds_protocol::{feedback, nal, rtcp};
use dds_tests::noise::Noise;
use dds_tests::relay::{Conditions, Direction, Fate, Relay};
use gst::prelude::*;

use super::{launch, wait_for};

pub const FPS: u64 = 30;
const FRAME: Duration = Duration::from_micros(1_000_000 / FPS);
/// Of the picture, in pixels.
pub const WIDTH: u32 = 320;
pub const HEIGHT: u32 = 192;
/// Quantizers outside and inside regions.
pub const QP: (u8, u8) = (40, 30);

/// A frame that the camera coded.
#[derive(Clone, Copy, Debug)]
pub struct Coded {
    pub frame: u64,
    pub key: bool,
    /// Time stamp of its RTP packets.
    rtp_time: u32,
}

/// A part of a generation of feedback on its way to the camera.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub generation: u16,
    /// The frame it is about.
    pub frame: u64,
    /// How often it arrives.
    pub times: u64,
}

/// What was seen between the two.
#[derive(Debug, Default)]
pub struct Log {
    pub coded: Vec<Coded>,
    /// All access units.
    pub stream: Vec<u8>,
    /// RTP times of pictures of which the network dropped something.
    hit: BTreeSet<u32>,
    pub told: Vec<Told>,
    /// Results, one a frame.
    pub lines: Vec<serde_json::Value>,
}

impl Log {
    /// Frames of which the network dropped something.
    pub fn hit(&self) -> BTreeSet<u64> {
        let of_it = |c: &&Coded| self.hit.contains(&c.rtp_time);
        self.coded.iter().filter(of_it).map(|c| c.frame).collect()
    }

    /// Frames that the server cannot have as they were coded: hit ones, and those predicted from them.
    pub fn damaged(&self) -> BTreeSet<u64> {
        let hit = self.hit();
        let mut damage = false;
        let mut damaged = BTreeSet::new();
        for coded in &self.coded {
            damage = hit.contains(&coded.frame) || damage && !coded.key;
            if damage {
                damaged.insert(coded.frame);
            }
        }
        damaged
    }

    /// Frames with results that count as undamaged.
    pub fn whole(&self) -> BTreeSet<u64> {
        let whole = self.lines.iter().filter(|l| l["damaged"] == false);
        whole.filter_map(|l| l["frame"].as_u64()).collect()
    }
}

/// Both pipelines and the network.
pub struct Path {
    pub camera: gst::Pipeline,
    pub server: gst::Pipeline,
    /// RTP, from the camera (near) to the server (far).
    pub media: Relay,
    /// RTCP, between the same.
    pub reports: Relay,
    pub log: Arc<Mutex<Log>>,
    source: gst_app::AppSrc,
    fed: u64,
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = self.camera.set_state(gst::State::Null);
        let _ = self.server.set_state(gst::State::Null);
    }
}

impl Path {
    /// Both play. `latency`: of the server's jitter buffer in milliseconds. `encoder`: further properties of `ddsencode`.
    pub fn new(encoder: &str, latency: u32, seed: u64) -> Self {
        let server = launch(&format!(
            "rtpbin name=r rtp-profile=avpf latency={latency} \
             udpsrc name=rtp address=127.0.0.1 port=0 caps=application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=96,rtcp-fb-nack-pli=true \
             ! r.recv_rtp_sink_0 udpsrc name=rtcp address=127.0.0.1 port=0 ! r.recv_rtcp_sink_0 \
             r.send_rtcp_src_0 ! udpsink name=reports host=127.0.0.1 sync=false async=false \
             r. ! rtph264depay ! avdec_h264 max-threads=1 ! identity name=detector ! ddsinfer name=infer ! fakesink async=false \
             infer.results ! appsink name=results sync=false async=false"
        ));
        let camera = launch(&format!(
            "rtpbin name=r rtp-profile=avpf \
             appsrc name=in is-live=true do-timestamp=true format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1 \
             ! ddsencode name=encoder background-qp={} region-qp={} speed-preset=superfast threads=1 option-string=scenecut=0 {encoder} \
             ! video/x-h264,stream-format=byte-stream \
             ! rtph264pay config-interval=-1 aggregate-mode=zero-latency timestamp-offset=0 mtu=1000 ! r.send_rtp_sink_0 \
             r.send_rtp_src_0 ! udpsink name=media host=127.0.0.1 sync=false async=false \
             r.send_rtcp_src_0 ! udpsink name=reports host=127.0.0.1 sync=false async=false \
             udpsrc name=rtcp address=127.0.0.1 port=0 ! r.recv_rtcp_sink_0",
            QP.0, QP.1
        ));
        for pipeline in [&server, &camera] {
            pipeline.set_state(gst::State::Ready).unwrap();
        }
        let (media, reports) = relays(&camera, &server, seed);
        let log = Arc::new(Mutex::new(Log::default()));
        watch_network(&media, &reports, &log);
        watch_camera(&pad(&camera, "encoder", "src"), &log);
        pad(&server, "detector", "src").add_probe(gst::PadProbeType::BUFFER, |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                detect(buffer);
            }
            gst::PadProbeReturn::Ok
        });
        let results: gst_app::AppSink = server.by_name("results").unwrap().downcast().unwrap();
        let lines = log.clone();
        let take = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let map = sample.buffer().unwrap().map_readable().unwrap();
            lines.lock().unwrap().lines.push(serde_json::from_slice(&map).unwrap());
            Ok(gst::FlowSuccess::Ok)
        };
        results.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).build());
        for pipeline in [&server, &camera] {
            pipeline.set_state(gst::State::Playing).unwrap();
        }
        Self {
            source: camera.by_name("in").unwrap().downcast().unwrap(),
            camera,
            server,
            media,
            reports,
            log,
            fed: 0,
        }
    }

    /// Codes so many frames more, each of the time it is fed at: after a pause of the machine frames are missing, as a
    /// camera's would be, and none are hurried.
    pub fn feed(&mut self, frames: u64) {
        for _ in 0..frames {
            self.feed_one();
            std::thread::sleep(FRAME);
        }
    }

    fn feed_one(&mut self) {
        let picture = gst::Buffer::from_mut_slice(picture(self.fed));
        self.source.push_buffer(picture).unwrap();
        self.fed += 1;
    }

    /// Feeds in step with feedback: before each frame, that of the frame before has left the server, whether or not the
    /// network lets it through. So a busy machine makes no feedback older, in frames. Only where no frame is lost.
    pub fn feed_in_step(&mut self, frames: u64) {
        // It is seen before it arrives.
        let way = Duration::from_millis(10);
        for _ in 0..frames {
            self.feed_one();
            let due = self.fed - 1;
            std::thread::sleep(FRAME - way);
            wait_for("feedback", || {
                self.log.lock().unwrap().told.last().is_some_and(|t| t.frame >= due)
            });
            std::thread::sleep(way);
        }
    }

    /// Feeds until something has happened. Panics after `limit` frames.
    pub fn feed_until(&mut self, what: &str, limit: u64, done: impl Fn(&Self) -> bool) {
        let end = self.fed + limit;
        while !done(self) {
            assert!(self.fed < end, "waited {limit} frames for {what}");
            self.feed(1);
        }
    }

    /// Number of the next frame.
    pub fn fed(&self) -> u64 {
        self.fed
    }

    /// The same conditions for everything, both ways.
    pub fn set_all(&self, conditions: Conditions) {
        self.media.set(Direction::Forward, conditions);
        self.reports.set(Direction::Forward, conditions);
        self.reports.set(Direction::Backward, conditions);
    }

    /// Waits for the result of the frame that was fed last. Only where nothing of it was lost.
    pub fn settle(&self) {
        wait_for("the last frame's result", || {
            let log = self.log.lock().unwrap();
            log.lines.iter().any(|l| l["frame"].as_u64() == Some(self.fed - 1))
        });
    }

    /// Both pipelines still play and nobody complains.
    pub fn assert_healthy(&self) {
        for pipeline in [&self.camera, &self.server] {
            assert_eq!(dds_tests::bus_error(pipeline), None);
            assert_eq!(pipeline.current_state(), gst::State::Playing);
        }
    }

    /// A field of the camera's `stats`.
    pub fn camera_stat<T: for<'a> glib::value::FromValue<'a> + 'static>(&self, field: &str) -> T {
        stat(&self.camera, "encoder", field)
    }

    /// A count of the camera.
    pub fn camera_count(&self, field: &str) -> u64 {
        stat(&self.camera, "encoder", field)
    }

    /// A count of the server.
    pub fn server_count(&self, field: &str) -> u64 {
        stat(&self.server, "infer", field)
    }
}

fn stat<T: for<'a> glib::value::FromValue<'a> + 'static>(pipeline: &gst::Pipeline, element: &str, field: &str) -> T {
    let stats = pipeline.by_name(element).unwrap().property::<gst::Structure>("stats");
    stats.get(field).unwrap_or_else(|e| panic!("{e} in {stats:?}"))
}

fn pad(pipeline: &gst::Pipeline, element: &str, pad: &str) -> gst::Pad {
    pipeline.by_name(element).unwrap().static_pad(pad).unwrap()
}

/// Relays between the sockets that both pipelines have opened.
fn relays(camera: &gst::Pipeline, server: &gst::Pipeline, seed: u64) -> (Relay, Relay) {
    let port = |pipeline: &gst::Pipeline, name: &str| pipeline.by_name(name).unwrap().property::<i32>("port") as u16;
    // Of RTP nothing goes back: the discard port.
    let media = Relay::between(9, port(server, "rtp"), seed).unwrap();
    let reports = Relay::between(port(camera, "rtcp"), port(server, "rtcp"), seed.wrapping_add(1)).unwrap();
    for (pipeline, sink, port) in [
        (camera, "media", media.port(Direction::Forward)),
        (camera, "reports", reports.port(Direction::Forward)),
        (server, "reports", reports.port(Direction::Backward)),
    ] {
        pipeline.by_name(sink).unwrap().set_property("port", i32::from(port));
    }
    (media, reports)
}

fn watch_network(media: &Relay, reports: &Relay, log: &Arc<Mutex<Log>>) {
    let seen = log.clone();
    media.tap(Direction::Forward, move |packet, fate| {
        if !fate.passed() && carries_picture(packet) {
            let rtp_time = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            seen.lock().unwrap().hit.insert(rtp_time);
        }
    });
    let seen = log.clone();
    reports.tap(Direction::Backward, move |compound, fate| {
        for (_, packet) in rtcp::feedback_in(compound).unwrap() {
            let part = feedback::decode(packet).unwrap();
            seen.lock().unwrap().told.push(Told {
                generation: part.generation.0,
                frame: part.frame,
                times: match fate {
                    Fate::Passed { copy, .. } => 1 + u64::from(copy.is_some()),
                    Fate::Dropped(_) => 0,
                },
            });
        }
    });
}

/// Whether an RTP packet (RFC 3550, 5.1; RFC 6184, 5.4) holds anything but parameter sets and delimiters, which the
/// receiver has already.
fn carries_picture(packet: &[u8]) -> bool {
    let picture = |unit: &[u8]| !matches!(unit[0] & 0x1f, 7..=9);
    let payload = &packet[12..];
    if payload[0] & 0x1f != 24 {
        return picture(payload);
    }
    let mut units = &payload[1..];
    while let [high, low, rest @ ..] = units {
        let (unit, others) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if picture(unit) {
            return true;
        }
        units = others;
    }
    false
}

fn watch_camera(encoded: &gst::Pad, log: &Arc<Mutex<Log>>) {
    let seen = log.clone();
    encoded.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &info.data else {
            unreachable!()
        };
        let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
        let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap();
        let running = segment.to_running_time(buffer.pts()).unwrap().nseconds();
        let map = buffer.map_readable().unwrap();
        let identity = nal::Codec::H264
            .summarize(&map, nal::Format::ByteStream)
            .identity
            .unwrap()
            .unwrap();
        let mut log = seen.lock().unwrap();
        log.stream.extend_from_slice(&map);
        log.coded.push(Coded {
            frame: identity.frame,
            key: identity.recovery,
            // As the payloader reckons, with no offset.
            rtp_time: (u128::from(running) * 90_000 / 1_000_000_000) as u32,
        });
        gst::PadProbeReturn::Ok
    });
}

/// Where the object lies in a frame: x, y, width, height.
pub fn object(frame: u64) -> (u32, u32, u32, u32) {
    // To and fro, four pixels a frame: it turns every 20 frames, which nothing foretells.
    let span = 80;
    let x = (4 * frame) % (2 * span);
    (100 + x.min(2 * span - x) as u32, 72, 64, 48)
}

/// I420 of a frame: noise that no prediction foretells, so that every macroblock is coded.
fn picture(frame: u64) -> Vec<u8> {
    let (left, top, width, height) = object(frame);
    let mut noise = Noise(frame);
    let mut bytes = Vec::with_capacity((WIDTH * HEIGHT * 3 / 2) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let bright = (left..left + width).contains(&x) && (top..top + height).contains(&y);
            let base = if bright { 210.0 } else { 60.0 };
            bytes.push((base + 40.0 * noise.uniform()) as u8);
        }
    }
    bytes.resize((WIDTH * HEIGHT * 3 / 2) as usize, 128);
    bytes
}

/// Finds what is bright, and is undecided about it.
fn detect(buffer: &mut gst::Buffer) {
    let found = {
        let map = buffer.map_readable().unwrap();
        // Planes come one after the other, and the first is the luma.
        let stride = buffer
            .meta::<gst_video::VideoMeta>()
            .map_or(WIDTH as usize, |m| m.stride()[0] as usize);
        bounds(&map, stride)
    };
    let Some(bounds) = found else { return };
    let mut meta = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "object", bounds);
    meta.add_param(
        gst::Structure::builder("detection")
            .field("confidence", 0.3f64)
            .field("label_id", 0i32)
            .build(),
    );
}

/// Box around rows and columns with a good part of bright pixels.
fn bounds(luma: &[u8], stride: usize) -> Option<(u32, u32, u32, u32)> {
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    let (mut rows, mut columns) = (vec![0; height], vec![0; width]);
    for (y, line) in luma.chunks(stride).take(height).enumerate() {
        for (x, pixel) in line[..width].iter().enumerate() {
            let bright = u32::from(*pixel > 180);
            rows[y] += bright;
            columns[x] += bright;
        }
    }
    let span = |counts: &[u32]| {
        let first = counts.iter().position(|n| *n >= 20)?;
        let last = counts.iter().rposition(|n| *n >= 20)?;
        Some((first as u32, (last - first + 1) as u32))
    };
    let ((y, height), (x, width)) = (span(&rows)?, span(&columns)?);
    Some((x, y, width, height))
}
