// SPDX-License-Identifier: MPL-2.0

//! The encoder of `--encoder`. It is read once, and opened once with a picture of the source's size before the camera
//! is announced: clients would learn no more of a mistake than a 503.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_dds_link::sync::Mutex;

use crate::elements::words;
use crate::keyframes::Interval;
use crate::options::{KeyInterval, Options};
use crate::steering::Rule;

/// The encoder's name in its pipeline.
pub const ENCODER: &str = "dds_encoder";
/// Longest time for the first coded pictures: on a busy machine, of a large size.
const OPENING: Duration = Duration::from_secs(20);
/// Key frame interval of the encoder itself, in pictures: hours, and within the range of all libraries.
const NO_KEY_FRAMES: u32 = 1_000_000;
/// Options of libx264 and libx265 that set when key frames are coded.
const KEY_FRAME_OPTIONS: [&str; 3] = ["keyint", "keyint-max", "intra-refresh"];

/// Standard of the coded video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// H.264, supported by every recorder.
    H264,
    /// H.265.
    H265,
}

impl Codec {
    fn caps(self) -> &'static str {
        match self {
            // byte-stream: from `avc`, depayloaders of GStreamer 1.22 drop the first frame's identity.
            Self::H264 => "video/x-h264,stream-format=byte-stream",
            Self::H265 => "video/x-h265,stream-format=byte-stream",
        }
    }

    /// Caps and payloader after the encoder, in gst-launch syntax.
    pub fn track(self, name: &str, payload_type: u32) -> String {
        let payloader = match self {
            Self::H264 => "rtph264pay",
            Self::H265 => "rtph265pay",
        };
        let caps = self.caps();
        format!("{caps} ! {payloader} name={name} pt={payload_type} aggregate-mode=zero-latency ")
    }
}

/// The encoder that the command line selects.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its properties in the command line.
    properties: String,
    /// It has a stream of second passes.
    pub two_pass: bool,
    /// Rule of when key frames are coded.
    pub interval: Interval,
    /// Sample layouts that it supports, as in caps.
    pub formats: &'static str,
    /// `--max-bitrate`.
    max_bitrate: Option<u32>,
}

/// An encoder that has coded a picture of the source.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The element with its properties, in gst-launch syntax.
    pub line: String,
    /// Its standard.
    pub codec: Codec,
    /// Its choice, if it was free to choose, and its warnings.
    pub remarks: Vec<String>,
}

impl Recipe {
    /// Reads `--encoder`, and the options that depend on it.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn read(options: &Options) -> Result<Self, String> {
        let element = parse(&options.encoder)?;
        let nick = |property: &str| {
            let value = element.property_value(property);
            glib::EnumValue::from_value(&value).map_or("", |(_, value)| value.nick())
        };
        let uint = |property: &str| element.property::<u32>(property);
        let two_pass = nick("mode") == "two-pass";
        if options.steer == Rule::All && two_pass {
            return Err("--steer all: requests for second passes cannot be joined. Use --steer first".into());
        }
        let option_string = element.property::<Option<String>>("option-string").unwrap_or_default();
        let keys = option_string
            .split(':')
            .map(|option| option.split('=').next().unwrap_or_default());
        let key_frame_settings = [
            (uint("key-int-max") > 0, "key-int-max"),
            (element.property("intra-refresh"), "intra-refresh"),
            (two_pass && uint("segment-length") > 0, "segment-length"),
            (
                keys.map(|key| key.replace('_', "-"))
                    .any(|key| KEY_FRAME_OPTIONS.contains(&&*key)),
                "option-string",
            ),
        ];
        let key_frame_settings = key_frame_settings
            .iter()
            .find(|(own, _)| *own)
            .map(|(_, property)| *property);
        let interval = match (options.key_interval, key_frame_settings) {
            (KeyInterval::Auto, Some(_)) => Interval::Encoder,
            (KeyInterval::Auto, None) => Interval::Auto,
            (KeyInterval::Every(time), None) => Interval::Fixed(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            (KeyInterval::Every(_), Some(property)) => {
                return Err(format!(
                    "--key-interval: {property} in --encoder decides about key frames as well. Remove one of the two"
                ));
            }
        };
        let formats = match nick("encoder") {
            "x264" => "{I420,NV12}",
            "nvenc" => "{NV12,I420}",
            // The layout that all of them support.
            _ => "I420",
        };
        Ok(Self {
            properties: options.encoder.clone(),
            two_pass,
            interval,
            formats,
            max_bitrate: options.max_bitrate,
        })
    }

    /// The element for video of these caps. The user's properties come last, so they win.
    fn line(&self, caps: &gst::CapsRef) -> Result<String, String> {
        let mut line = format!("ddsencode name={ENCODER} ");
        if self.interval != Interval::Encoder {
            line += &format!("key-int-max={NO_KEY_FRAMES} ");
        }
        let cap = match self.max_bitrate {
            Some(given) => given,
            None => default_cap(&parse(&self.properties)?, caps),
        };
        Ok(line + &format!("max-bitrate={cap} {}", self.properties))
    }

    /// Opens the encoder, codes two grey pictures of these caps, and closes it again.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn open(&self, caps: &gst::Caps) -> Result<Opened, String> {
        let refusal = |words: String| format!("--encoder: {words}");
        let line = self.line(caps)?;
        let either = format!("capsfilter caps=\"{};{}\"", Codec::H264.caps(), Codec::H265.caps());
        let mut launch =
            format!("appsrc name=pictures format=time ! {line} ! {either} ! fakesink sync=false async=false ");
        if self.two_pass {
            launch += &format!("{ENCODER}.refine ! {either} ! fakesink sync=false async=false");
        }
        let pipeline = gst::parse::launch(&launch).map_err(|e| refusal(e.to_string()))?;
        let pipeline = pipeline
            .downcast::<gst::Pipeline>()
            .map_err(|_| refusal("not a pipeline".into()))?;
        let opened = self.code(&pipeline, caps, line);
        // Frees its ports and devices for the clients' media.
        let _ = pipeline.set_state(gst::State::Null);
        opened.map_err(refusal)
    }

    fn code(&self, pipeline: &gst::Pipeline, caps: &gst::Caps, line: String) -> Result<Opened, String> {
        let (Some(pictures), Some(encoder), Some(bus)) = (
            pipeline.by_name("pictures").and_downcast::<gst_app::AppSrc>(),
            pipeline.by_name(ENCODER),
            pipeline.bus(),
        ) else {
            return Err("its name is taken: leave the property name out".into());
        };
        let info = gst_video::VideoInfo::from_caps(caps).map_err(|e| e.to_string())?;
        pictures.set_caps(Some(caps));
        let coded = Arc::new(Mutex::new(None));
        if let Some(pad) = encoder.static_pad("src") {
            let coded = coded.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                let name = pad
                    .current_caps()
                    .and_then(|caps| Some(caps.structure(0)?.name().to_string()));
                *coded.lock().unwrap() = name;
                gst::PadProbeReturn::Ok
            });
        }
        // An error of this arrives as a message.
        let _ = pipeline.set_state(gst::State::Playing);
        for at in [0, 40] {
            let mut picture = gst::Buffer::from_mut_slice(vec![0x80; info.size()]);
            if let Some(picture) = picture.get_mut() {
                picture.set_pts(gst::ClockTime::from_mseconds(at));
            }
            let _ = pictures.push_buffer(picture);
        }
        let _ = pictures.end_of_stream();
        let mut remarks = Vec::new();
        let until = Instant::now() + OPENING;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = gst::ClockTime::from_nseconds(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            let Some(message) = bus.timed_pop(wait) else {
                return Err(format!("it has coded nothing within {} s", OPENING.as_secs()));
            };
            match message.view() {
                gst::MessageView::Error(error) => return Err(words(error)),
                gst::MessageView::Warning(warning) => remarks.push(format!("--encoder: {}", warning.error())),
                gst::MessageView::Element(of_element) => remarks.extend(of_element.structure().and_then(choice)),
                gst::MessageView::Eos(_) => break,
                _ => {}
            }
        }
        let codec = match coded.lock().unwrap().as_deref() {
            Some("video/x-h264") => Codec::H264,
            Some("video/x-h265") => Codec::H265,
            other => return Err(format!("it has coded {}", other.unwrap_or("nothing"))),
        };
        Ok(Opened { line, codec, remarks })
    }
}

/// Choice of `encoder=auto`, as the encoder reports it.
fn choice(message: &gst::StructureRef) -> Option<String> {
    if message.name() != "ddsencode-encoder" {
        return None;
    }
    let text = |field| message.get::<&str>(field).ok();
    let (encoder, codec) = (text("encoder")?, text("codec")?);
    let refused = text("refused").filter(|refused| !refused.is_empty());
    let why = refused.map(|refused| format!(" ({refused})")).unwrap_or_default();
    Some(format!("encoder={encoder} codes by {codec}{why}"))
}

/// Creates the element with these properties, and refuses anything else.
fn parse(properties: &str) -> Result<gst::Element, String> {
    // GLib ignores an out-of-range value with only a warning, and its log handlers are global to the process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let collected = warnings.clone();
    let levels = glib::LogLevels::LEVEL_WARNING | glib::LogLevels::LEVEL_CRITICAL;
    let handler = glib::log_set_handler(Some("GLib-GObject"), levels, false, false, move |_, _, words| {
        collected.lock().unwrap().push(words.to_string());
    });
    let parsed = gst::parse::launch(&format!("ddsencode name={ENCODER} {properties}"));
    glib::log_remove_handler(Some("GLib-GObject"), handler);
    // The text is not repeated: it may hold a key.
    let element = parsed.map_err(|e| format!("--encoder: {e}"))?;
    if let Some(words) = warnings.lock().unwrap().first() {
        return Err(format!("--encoder: {words}"));
    }
    let is_it = element.factory().is_some_and(|f| f.name() == "ddsencode") && element.name() == ENCODER;
    is_it.then_some(element).ok_or_else(|| {
        "--encoder: give properties of ddsencode, but its name, and no other element, such as \"background-qp=36\""
            .into()
    })
}

/// Rate in kbit/s that this video does not need in honest use, and that hostile feedback would exceed.
///
/// A busy street takes about 0.07 bits a pixel at quantizer 30 in every macroblock, a key frame every 2 s included,
/// and twice as much for each 6 quantizers less. The cap is three times that at the finest quantizer that the settings
/// allow.
fn default_cap(encoder: &gst::Element, caps: &gst::CapsRef) -> u32 {
    let field = |name| {
        caps.structure(0)
            .and_then(|s| s.get::<i32>(name).ok())
            .unwrap_or(0)
            .max(0)
    };
    let rate = caps.structure(0).and_then(|s| s.get::<gst::Fraction>("framerate").ok());
    let rate = rate.filter(|rate| rate.numer() > 0 && rate.denom() > 0);
    // For a source without a known rate.
    let rate = rate.map_or(30.0, |rate| f64::from(rate.numer()) / f64::from(rate.denom()));
    let uint = |property: &str| encoder.property::<u32>(property);
    let finest = ["background-qp", "region-qp", "fallback-qp", "quantizer"].map(uint);
    // quantizer counts only if it is set.
    let quantizers = if uint("quantizer") == encoder_default(encoder, "quantizer") {
        &finest[..3]
    } else {
        &finest[..]
    };
    let finest = quantizers.iter().copied().min().unwrap_or(0);
    let bits = 0.2 * 2f64.powf((30.0 - f64::from(finest)) / 6.0).max(1.0);
    let pixels = f64::from(field("width")) * f64::from(field("height")) * rate;
    // A rate that the user sets must fit, whatever the size.
    let least = 2 * uint("bitrate").max(uint("bandwidth")).max(500);
    ((pixels * bits / 1000.0).ceil() as u32).max(least)
}

fn encoder_default(encoder: &gst::Element, property: &str) -> u32 {
    let spec = encoder.find_property(property);
    spec.and_then(|spec| spec.default_value().get::<u32>().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(encoder: &str) -> Options {
        dds_tests::init().unwrap();
        Options {
            encoder: encoder.into(),
            ..Options::default()
        }
    }

    fn caps(width: i32, height: i32, rate: i32) -> gst::Caps {
        gst_video::VideoCapsBuilder::new()
            .format(gst_video::VideoFormat::I420)
            .width(width)
            .height(height)
            .framerate((rate, 1).into())
            .build()
    }

    #[test]
    fn key_frames_are_the_encoders_business_where_it_is_told_of_them() {
        let interval = |encoder: &str| Recipe::read(&options(encoder)).unwrap().interval;
        assert_eq!(interval("background-qp=30"), Interval::Auto);
        for encoder in [
            "key-int-max=50",
            "intra-refresh=true",
            "mode=two-pass segment-length=15",
            "mode=1 segment-length=15",
            "option-string=\"ref=1:keyint=50\"",
            "option-string=keyint_max=50",
        ] {
            assert_eq!(interval(encoder), Interval::Encoder, "{encoder}");
            let fixed = Options {
                key_interval: KeyInterval::Every(Duration::from_secs(5)),
                ..options(encoder)
            };
            let words = Recipe::read(&fixed).unwrap_err();
            assert!(
                words.contains("--key-interval") && words.contains("in --encoder"),
                "{words}"
            );
        }
        // One pass ignores segments.
        assert_eq!(interval("segment-length=15"), Interval::Auto);
    }

    #[test]
    fn nothing_but_properties_is_taken_and_no_value_is_left_out_silently() {
        for (encoder, words) in [
            ("no-such-property=1", "no-such-property"),
            ("background-qp=99", "background-qp"),
            ("background-qp=x", "background-qp"),
            ("speed-preset=nonsense", "speed-preset"),
            ("encoder=x266", "encoder"),
            ("name=other", "name"),
            ("! fakesink", "properties"),
            ("! identity ! fakesink", "properties"),
            ("videotestsrc", "properties"),
            ("background-qp", ""),
            ("\"", ""),
        ] {
            let error = Recipe::read(&options(encoder)).map(|recipe| recipe.two_pass);
            let error = error.expect_err(encoder);
            assert!(
                error.starts_with("--encoder: ") && error.contains(words),
                "{encoder}: {error}"
            );
        }
        let all = Options {
            steer: Rule::All,
            ..options("mode=1")
        };
        assert!(Recipe::read(&all).unwrap_err().contains("--steer all"));
    }

    #[test]
    fn the_cap_follows_size_rate_and_quantizers_and_the_user_wins() {
        let cap = |encoder: &str, max_bitrate: Option<u32>, caps: &gst::Caps| {
            let options = Options {
                max_bitrate,
                ..options(encoder)
            };
            let line = Recipe::read(&options).unwrap().line(caps).unwrap();
            gst::parse::launch(&line).unwrap().property::<u32>("max-bitrate")
        };
        let quantizers = "background-qp=40 region-qp=30";
        assert_eq!(cap(quantizers, None, &caps(1280, 720, 30)), 5530);
        assert_eq!(cap(quantizers, None, &caps(1920, 1080, 25)), 10_368);
        assert_eq!(cap(quantizers, None, &caps(320, 240, 25)), 1000);
        assert_eq!(cap("background-qp=40 region-qp=24", None, &caps(1280, 720, 30)), 11_060);
        assert_eq!(cap("background-qp=46 region-qp=40", None, &caps(1280, 720, 30)), 5530);
        assert_eq!(
            cap("bitrate=4000 background-qp=36 region-qp=30", None, &caps(320, 240, 25)),
            8000
        );
        assert_eq!(cap(quantizers, Some(0), &caps(1280, 720, 30)), 0);
        assert_eq!(cap(quantizers, Some(700), &caps(1280, 720, 30)), 700);
        assert_eq!(cap("max-bitrate=0", None, &caps(1280, 720, 30)), 0);
        assert_eq!(cap("max-bitrate=900", Some(700), &caps(1280, 720, 30)), 900);
        // An unknown rate counts as 30.
        assert_eq!(cap(quantizers, None, &caps(1280, 720, 0)), 5530);
    }

    #[test]
    fn the_encoder_is_opened_with_a_picture_of_the_source() {
        let opened = |encoder: &str, caps: &gst::Caps| Recipe::read(&options(encoder)).unwrap().open(caps);
        let small = caps(320, 240, 25);
        let quick = "speed-preset=ultrafast";
        assert_eq!(opened(quick, &small).unwrap().codec, Codec::H264);
        assert_eq!(
            opened(&format!("{quick} mode=two-pass"), &small).unwrap().codec,
            Codec::H264
        );
        assert_eq!(
            opened(&format!("{quick} encoder=x265"), &small).unwrap().codec,
            Codec::H265
        );
        for (encoder, words) in [
            ("bframes=3", "bframes"),
            ("bitrate=500 quantizer=30", "quantizer"),
            ("qp-min=40 qp-max=30", "qp-min"),
            ("feedback-uri=nonsense", "feedback-uri"),
            ("feedback-uri=udp://0.0.0.0:5006", "feedback-key"),
        ] {
            let error = opened(encoder, &small).map(|opened| opened.codec).expect_err(encoder);
            assert!(
                error.starts_with("--encoder: ") && error.contains(words),
                "{encoder}: {error}"
            );
        }
    }
}
