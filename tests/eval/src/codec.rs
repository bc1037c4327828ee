// SPDX-License-Identifier: MPL-2.0

//! Coding and decoding for the systems that are not ours: libx264 as `ddsencode` opens it, and the decoder that our own
//! pipelines use.

use crate::rival::SEGMENT;
use dds_tests::{Error, bus_error, clip::Clip, cpu, launch};
use gst::prelude::*;
use gst_video::prelude::*;
use gstdds::camera::{Geometry, QpMap};
use gstdds::encoder::x264::X264;
use gstdds::encoder::{
    Codec, Config, EncoderOption, FrameControls, NalKind, Origin, Picture, PixelFormat, Plane, RateControl,
    RegionEncoder,
};
use gstdds::picture::Layout;
use gstdds::scale::{Scaler, scaled_size};
use gstdds::vbv::Vbv;

/// The speed preset of every system.
pub const PRESET: &str = "veryfast";

/// A coded frame.
#[derive(Clone, Debug, Default)]
pub struct Coded {
    /// The access unit, with start codes.
    pub data: Vec<u8>,
    /// Processor time of scaling and coding, milliseconds.
    pub ms: f64,
}

/// Codes the frames of a clip, scaled down where asked for.
pub struct Coder {
    x264: X264,
    scaler: Option<Scaler>,
    map: QpMap,
    info: gst_video::VideoInfo,
    /// Size of the coded pictures.
    pub size: (u32, u32),
    pts: i64,
}

/// The three planes of a mapped I420 frame.
fn planes<'a>(frame: &'a gst_video::VideoFrameRef<&'a gst::BufferRef>) -> Result<[Plane<'a>; 3], Error> {
    let mut planes = [Plane::default(); 3];
    for (n, plane) in planes.iter_mut().enumerate() {
        *plane = Plane {
            data: frame.plane_data(n as u32)?,
            stride: frame.plane_stride()[n] as usize,
        };
    }
    Ok(planes)
}

/// Maps a frame of `info`.
///
/// # Errors
/// A buffer too small for it.
pub fn map<'a>(
    buffer: &'a gst::Buffer,
    info: &'a gst_video::VideoInfo,
) -> Result<gst_video::VideoFrameRef<&'a gst::BufferRef>, Error> {
    gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| "a frame cannot be mapped".into())
}

impl Coder {
    /// A coder for `clip` at `scale` of its size, with a key frame every `gop` frames, and at cuts too where that is more
    /// than a segment. `qp` is the quantizer to begin with.
    ///
    /// # Errors
    /// What libx264 says.
    pub fn open(clip: &Clip, scale: f64, gop: u32, qp: u8) -> Result<Self, Error> {
        Self::open_with(clip, scale, gop, gop <= SEGMENT, qp)
    }

    /// The same, with segments all of one length where `even`, else with key frames at cuts.
    ///
    /// # Errors
    /// What libx264 says.
    pub fn open_with(clip: &Clip, scale: f64, gop: u32, even: bool, qp: u8) -> Result<Self, Error> {
        let info = gst_video::VideoInfo::from_caps(&clip.caps)?;
        let size = scaled_size(clip.size.0, clip.size.1, scale);
        let option = |key: &str, value: String| EncoderOption {
            origin: Origin::OptionString,
            key: key.into(),
            value: Some(value),
        };
        let mut options = vec![
            option("keyint", gop.to_string()),
            option("threads", "1".into()),
            option("aud", "1".into()),
        ];
        if even {
            // Segments are all of one length, as in the paper.
            options.extend([option("min-keyint", gop.to_string()), option("scenecut", "0".into())]);
        }
        let config = Config {
            codec: Codec::H264,
            width: size.0,
            height: size.1,
            format: PixelFormat::I420,
            frame_rate: Some((clip.fps.numer() as u32, clip.fps.denom() as u32)),
            max_frame_rate: None,
            leaves_out: false,
            repeats: false,
            pixel_aspect_ratio: (1, 1),
            colour: Some(gstdds::ddsencode::colour(&info)),
            interlaced: None,
            frame_packing: None,
            preset: Some(PRESET.into()),
            tune: Some("zerolatency".into()),
            profile: None,
            intra_only: false,
            level_idc: None,
            byte_stream: true,
            rate: RateControl::Quantizers { base_qp: qp },
            vbv: Vbv::OPEN,
            vbv_may_change: false,
            still_parts: false,
            nominal_kbps: 0,
            gpu: None,
            options,
        };
        let layout = Layout {
            format: PixelFormat::I420,
            width: clip.size.0 as usize,
            height: clip.size.1 as usize,
        };
        Ok(Self {
            x264: X264::open(&config, Box::new(|_, _| {}))?,
            scaler: (size != clip.size).then(|| Scaler::new(layout, size.0, size.1)),
            map: QpMap::new(Geometry {
                width: size.0,
                height: size.1,
            }),
            info,
            size,
            pts: 0,
        })
    }

    /// Codes a frame at `qp`, with `regions` (x, y, width, height in pixels of the coded picture) at `inner`.
    ///
    /// # Errors
    /// What libx264 says.
    pub fn code(&mut self, frame: &gst::Buffer, qp: u8, regions: &[[u32; 4]], inner: u8) -> Result<Coded, Error> {
        let begun = cpu::thread_ms();
        let mapped = map(frame, &self.info)?;
        let source = planes(&mapped)?;
        let planes = match &mut self.scaler {
            Some(scaler) => scaler
                .scale(&source)
                .ok_or("a frame is too short to be scaled")?
                .planes(),
            None => source,
        };
        self.map.begin(qp, 1.0);
        for &[x, y, width, height] in regions {
            self.map
                .add(dds_protocol::feedback::Rect { x, y, width, height }, inner);
        }
        let (base_qp, offsets) = self.map.finish();
        let controls = FrameControls {
            base_qp,
            offsets,
            force_idr: false,
        };
        let picture = Picture { planes, pts: self.pts };
        self.pts += 1;
        let unit = self.x264.encode(&picture, &controls)?;
        // Without libx264's note about itself, as ddsencode leaves it out too.
        let kept = unit
            .nals
            .iter()
            .filter(|nal| Codec::H264.kind(nal.kind) != NalKind::Sei);
        let data = kept.flat_map(|nal| &unit.data[nal.start..nal.end]).copied().collect();
        Ok(Coded {
            data,
            ms: cpu::thread_ms() - begun,
        })
    }
}

/// Decodes access units one by one.
pub struct Decoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    count: u64,
}

impl Decoder {
    /// A decoder of pictures of this size.
    ///
    /// # Errors
    /// A missing element.
    pub fn open(size: (u32, u32)) -> Result<Self, Error> {
        let pipeline = launch(
            "appsrc name=in format=time ! avdec_h264 max-threads=1 ! appsink name=out sync=false max-buffers=4",
        )?;
        let source = pipeline
            .by_name("in")
            .and_then(|e| e.downcast::<gst_app::AppSrc>().ok());
        let sink = pipeline
            .by_name("out")
            .and_then(|e| e.downcast::<gst_app::AppSink>().ok());
        let (source, sink) = source.zip(sink).ok_or("no appsrc or appsink")?;
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .field("width", size.0 as i32)
            .field("height", size.1 as i32)
            .field("framerate", gst::Fraction::new(30, 1))
            .build();
        source.set_caps(Some(&caps));
        pipeline.set_state(gst::State::Playing)?;
        Ok(Self {
            pipeline,
            source,
            sink,
            count: 0,
        })
    }

    /// The picture of an access unit, with its caps.
    ///
    /// # Errors
    /// What the decoder says; a picture that does not come out before the next goes in.
    pub fn decode(&mut self, data: Vec<u8>) -> Result<gst::Sample, Error> {
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let time = gst::ClockTime::SECOND * self.count / 30;
        self.count += 1;
        buffer.make_mut().set_pts(time);
        let failed = |pipeline: &gst::Pipeline| -> Error {
            bus_error(pipeline)
                .unwrap_or_else(|| "the decoder gave no picture for an access unit".into())
                .into()
        };
        self.source.push_buffer(buffer).map_err(|_| failed(&self.pipeline))?;
        self.sink
            .try_pull_sample(gst::ClockTime::from_seconds(30))
            .ok_or_else(|| failed(&self.pipeline))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
