// SPDX-License-Identifier: MPL-2.0

//! Chooses an encoder.

#![forbid(unsafe_code)]

use crate::encoder::{Backend, Codec, OpenError};

use super::negotiate;
use super::settings::Settings;

/// The encoder in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub coder: (Backend, Codec),
    /// The ones tried before it, and why they were refused.
    pub refused: Vec<(Backend, OpenError)>,
}

impl Chosen {
    /// Names in one line what was refused; empty where nothing was.
    pub fn refusals(&self) -> String {
        refusals(&self.refused)
    }
}

fn refusals(refused: &[(Backend, OpenError)]) -> String {
    let lines: Vec<_> = refused
        .iter()
        .map(|(b, error)| format!("{}: {error}", b.name()))
        .collect();
    lines.join(" ")
}

/// Result of [`first`].
#[derive(Debug)]
pub(super) struct Opened<T> {
    pub value: T,
    pub coder: (Backend, Codec),
    pub refused: Vec<(Backend, OpenError)>,
}

/// The first of `coders` that opens.
///
/// # Errors
/// The error of the only encoder, or those of all of them as one refusal of the property `encoder`.
pub(super) fn first<T>(
    coders: &[(Backend, Codec)],
    mut open: impl FnMut(Backend, Codec) -> Result<T, OpenError>,
) -> Result<Opened<T>, OpenError> {
    let mut refused = Vec::new();
    for &(backend, codec) in coders {
        match open(backend, codec) {
            Ok(value) => {
                return Ok(Opened {
                    value,
                    coder: (backend, codec),
                    refused,
                });
            }
            Err(error) => refused.push((backend, error)),
        }
    }
    match refused.len() {
        1 => Err(refused.remove(0).1),
        _ => Err(OpenError::refused(
            "encoder=auto",
            format!("no encoder opens. {}", refusals(&refused).trim_end_matches('.')),
            "Set encoder to the one you want, and see to what it asks for",
        )),
    }
}

/// The encoders to try, in order: where downstream takes one standard only, those that code it.
///
/// # Errors
/// No encoder fits downstream.
pub(super) fn coders(settings: &Settings, allowed: Option<&gst::Caps>) -> Result<Vec<(Backend, Codec)>, OpenError> {
    let backends = settings.backends();
    let of = |backend: &Backend| {
        let codecs = negotiate::codecs(allowed, backend.codecs());
        codecs.into_iter().next().map(|codec| (*backend, codec))
    };
    let coders: Vec<_> = backends.iter().filter_map(of).collect();
    if coders.is_empty() {
        let names: Vec<_> = backends.iter().map(|b| b.name()).collect();
        return Err(OpenError::refused(
            "encoder",
            format!("downstream takes nothing that {} codes", names.join(" or ")),
            "Choose another encoder, or allow its format behind the element",
        ));
    }
    Ok(coders)
}
