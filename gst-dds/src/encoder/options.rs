// SPDX-License-Identifier: MPL-2.0

//! Names of a configuration's options, and the option that causes a refusal.

#![forbid(unsafe_code)]

use super::{Config, EncoderOption, OpenError, Origin};

/// Why an option is refused in exact mode, and the cure.
pub(super) const MOVED: &str = "in quantizer mode all quantizers are exact, and this would move them";
pub(super) const LEAVE: &str = "Remove it, or set bitrate or pass=qual";

/// Name of an option in error messages.
pub(super) fn describe(option: &EncoderOption) -> String {
    match (&option.origin, &option.value) {
        (Origin::Property(name), _) => (*name).to_string(),
        (Origin::OptionString, Some(value)) => format!("option-string `{}={value}`", option.key),
        (Origin::OptionString, None) => format!("option-string `{}`", option.key),
    }
}

/// The option's name with dashes and without a negation.
pub(super) fn canonical(key: &str) -> String {
    let key = key.replace('_', "-");
    match key.strip_prefix("no-") {
        Some(rest) => rest.to_string(),
        None => key,
    }
}

/// Whether the option's name negates it.
pub(super) fn is_negated(key: &str) -> bool {
    key.starts_with("no-") || key.starts_with("no_")
}

/// The last option with one of the names in `keys`: names of the library's options or of properties.
pub(super) fn culprit<'a>(config: &'a Config, keys: &[&str]) -> Option<&'a EncoderOption> {
    config.options.iter().rev().find(|option| {
        let by_property = matches!(option.origin, Origin::Property(name) if keys.contains(&name));
        by_property || keys.contains(&canonical(&option.key).as_str())
    })
}

/// Name in error messages of the option that [`culprit`] finds, or else `otherwise`.
pub(super) fn name_culprit(config: &Config, keys: &[&str], otherwise: &str) -> String {
    culprit(config, keys).map_or_else(|| otherwise.to_string(), describe)
}

/// The options of `option-string`.
pub(super) fn of_string(config: &Config) -> impl Iterator<Item = &EncoderOption> {
    config.options.iter().filter(|o| o.origin == Origin::OptionString)
}

/// Refuses an option that would override a property. These are listed by the library's names, with the cure.
///
/// # Errors
/// It is one of them.
pub(super) fn refuse_overridden(option: &EncoderOption, overridden: &[(&[&str], &str)]) -> Result<(), OpenError> {
    let key = canonical(&option.key);
    match overridden.iter().find(|(keys, _)| keys.contains(&key.as_str())) {
        Some((_, cure)) => Err(OpenError::refused(
            describe(option),
            "the element sets this itself",
            *cure,
        )),
        None => Ok(()),
    }
}
