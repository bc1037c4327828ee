#![allow(missing_docs)]
pub struct Grey<'a> { pub data: &'a [u8], pub width: usize, pub height: usize, pub stride: usize }
pub struct Tracker;
impl Tracker {
    pub fn new(_: &Grey<'_>, _: [f32; 4]) -> Option<Self> { None }
    pub fn update(&mut self, _: &Grey<'_>) -> Option<[f32; 4]> { None }
}
