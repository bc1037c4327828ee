// SPDX-License-Identifier: MPL-2.0

//! The property table. Properties that upstream's `objectdetectionoverlay` has too share its names.

use std::sync::LazyLock;

use glib::prelude::*;

use gst::prelude::*;

use crate::overlay::Style;
use crate::overlay::canvas::Color;

#[derive(Clone, Debug)]
pub struct Settings {
    draw_boxes: bool,
    draw_regions: bool,
    draw_labels: bool,
    draw_scores: bool,
    box_color: u32,
    region_color: u32,
    label_color: u32,
    line_width: u32,
    text_scale: f32,
    hold_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            draw_boxes: true,
            draw_regions: true,
            draw_labels: true,
            draw_scores: true,
            box_color: 0xff3c_e65a,
            region_color: 0xffff_9614,
            label_color: 0xffff_ffff,
            line_width: 0,
            text_scale: 1.0,
            hold_ms: 500,
        }
    }
}

impl Settings {
    pub fn style(&self) -> Style {
        Style {
            boxes: self.draw_boxes,
            regions: self.draw_regions,
            labels: self.draw_labels,
            scores: self.draw_scores,
            box_color: Color::from_argb(self.box_color),
            region_color: Color::from_argb(self.region_color),
            label_color: Color::from_argb(self.label_color),
            line_width: self.line_width,
            text_scale: self.text_scale,
        }
    }

    /// How long results are shown, nanoseconds.
    pub fn hold(&self) -> u64 {
        u64::from(self.hold_ms) * 1_000_000
    }

    /// Sets a property.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        fn get<'a, T: glib::value::FromValue<'a>>(value: &'a glib::Value) -> T {
            value.get().expect("type checked by the property's ParamSpec")
        }
        match name {
            "draw-boxes" => self.draw_boxes = get(value),
            "draw-regions" => self.draw_regions = get(value),
            "draw-labels" => self.draw_labels = get(value),
            "draw-scores" => self.draw_scores = get(value),
            "object-detection-outline-color" => self.box_color = get(value),
            "region-outline-color" => self.region_color = get(value),
            "labels-color" => self.label_color = get(value),
            "line-width" => self.line_width = get(value),
            "text-scale" => self.text_scale = get(value),
            _ => self.hold_ms = get(value),
        }
    }

    /// Returns a property.
    pub fn get(&self, name: &str) -> glib::Value {
        match name {
            "draw-boxes" => self.draw_boxes.to_value(),
            "draw-regions" => self.draw_regions.to_value(),
            "draw-labels" => self.draw_labels.to_value(),
            "draw-scores" => self.draw_scores.to_value(),
            "object-detection-outline-color" => self.box_color.to_value(),
            "region-outline-color" => self.region_color.to_value(),
            "labels-color" => self.label_color.to_value(),
            "line-width" => self.line_width.to_value(),
            "text-scale" => self.text_scale.to_value(),
            _ => self.hold_ms.to_value(),
        }
    }
}

/// The properties, as gst-inspect lists them.
pub static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
    let d = Settings::default();
    let switch = |name, nick, blurb, default| {
        glib::ParamSpecBoolean::builder(name)
            .nick(nick)
            .blurb(blurb)
            .default_value(default)
            .mutable_playing()
            .build()
    };
    let color = |name, nick, blurb, default| {
        glib::ParamSpecUInt::builder(name)
            .nick(nick)
            .blurb(blurb)
            .default_value(default)
            .mutable_playing()
            .build()
    };
    vec![
        switch("draw-boxes", "Draw boxes", "Draw the outlines of detected objects", d.draw_boxes),
        switch(
            "draw-regions",
            "Draw regions",
            "Draw the regions for which ddsinfer asked the camera for quality (corners and a light wash)",
            d.draw_regions,
        ),
        switch("draw-labels", "Draw labels", "Write the names of objects beside them", d.draw_labels),
        switch("draw-scores", "Draw scores", "Write scores behind the names, in percent", d.draw_scores),
        color(
            "object-detection-outline-color",
            "Outline colour",
            "Colour of the outlines of objects, 0xAARRGGBB",
            d.box_color,
        ),
        color("region-outline-color", "Region colour", "Colour of regions, 0xAARRGGBB", d.region_color),
        color("labels-color", "Labels colour", "Colour of names and scores, 0xAARRGGBB", d.label_color),
        glib::ParamSpecUInt::builder("line-width")
            .nick("Line width")
            .blurb("Width of the outlines in pixels; 0 = a 400th of the picture's height, at least 2")
            .maximum(100)
            .default_value(d.line_width)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("text-scale")
            .nick("Text scale")
            .blurb("Height of the letters, as a multiple of a 56th of the picture's height or of 11 pixels, whichever is more")
            .minimum(0.1)
            .maximum(10.0)
            .default_value(d.text_scale)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("hold")
            .nick("Hold")
            .blurb("Milliseconds of stream time that results stay, dimmed, on frames behind theirs that were not inferred; 0 = not at all")
            .maximum(600_000)
            .default_value(d.hold_ms)
            .mutable_playing()
            .build(),
    ]
});
