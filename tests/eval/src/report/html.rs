// SPDX-License-Identifier: MPL-2.0

//! Text and numbers as HTML.

#![forbid(unsafe_code)]

use super::savings::Spread;

/// Text with the characters that HTML and XML take for themselves replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A number with `digits` behind the point; a dash where it is none.
pub fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}").replace('-', "\u{2212}")
    } else {
        "\u{2013}".into()
    }
}

/// Kbit/s with about three digits.
pub fn rate(kbps: f64) -> String {
    number(kbps, if kbps < 10.0 { 2 } else { usize::from(kbps < 100.0) })
}

/// A share as per cent, without sign.
pub fn share(value: f64) -> String {
    let percent = 100.0 * value;
    let digits = if percent.abs() < 1.0 {
        2
    } else {
        usize::from(percent.abs() < 10.0)
    };
    format!("{}\u{a0}%", number(percent, digits))
}

/// A change in per cent, with its sign.
pub fn signed(percent: f64) -> String {
    format!("{}\u{a0}%", bare(percent))
}

/// A change in per cent, with its sign and without its unit.
fn bare(percent: f64) -> String {
    let rounded = percent.round();
    let sign = if rounded > 0.0 { "+" } else { "" };
    // Rounding leaves a negative zero of small losses.
    format!("{sign}{}", number(rounded + 0.0, 0))
}

/// A change of bandwidth in words that go on with "than".
pub fn in_words(percent: f64) -> String {
    match verdict(percent) {
        "win" => format!("{}\u{a0}% fewer bits", number(-percent, 0)),
        "loss" => format!("{}\u{a0}% more bits", number(percent, 0)),
        _ => "no fewer and no more bits".into(),
    }
}

/// Style class of a change in bandwidth.
pub fn verdict(percent: f64) -> &'static str {
    match percent.round() {
        p if p < 0.0 => "win",
        p if p > 0.0 => "loss",
        _ => "even",
    }
}

/// The mark of an average over a sliver of a curve.
fn dagger(sliver: bool) -> &'static str {
    if sliver { "<sup>\u{2020}</sup>" } else { "" }
}

/// Cell of a table for one change of bandwidth.
pub fn change(percent: Option<f64>, sliver: bool) -> String {
    match percent.filter(|p| p.is_finite()) {
        Some(p) => format!(
            "<td class=\"{}\"><b>{}</b>{}</td>",
            verdict(p),
            signed(p),
            dagger(sliver)
        ),
        None => "<td class=\"none\">\u{2013}</td>".into(),
    }
}

/// Cell of a table for a change of bandwidth over clips.
pub fn spread(s: &Spread) -> String {
    let mut why = Vec::new();
    if s.never > 0 {
        why.push(format!("never as accurate on {}", s.never));
    }
    if s.under > 0 {
        why.push(format!("always more accurate on {}", s.under));
    }
    let title = match why.is_empty() {
        true => String::new(),
        false => format!(" title=\"{}\"", why.join(", ")),
    };
    if s.clips == 0 {
        let reason = match s.of {
            0 => String::new(),
            of if s.never == of => "<small>never as accurate</small>".into(),
            of if s.under == of => "<small>always more accurate</small>".into(),
            of => format!("<small>0 of {of}</small>"),
        };
        return format!("<td class=\"none\"{title}>\u{2013}{reason}</td>");
    }
    let mark = dagger(s.sliver);
    let range = match s.clips {
        1 => String::new(),
        _ => format!("<small>{}\u{a0}\u{2026}\u{a0}{}</small>", bare(s.least), bare(s.most)),
    };
    format!(
        "<td class=\"{}\"{title}><b>{}</b>{mark}{range}<small>{} of {}</small></td>",
        verdict(s.median),
        signed(s.median),
        s.clips,
        s.of
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(
            escape("<a href='x'>&\"\u{1}"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}"
        );
    }

    #[test]
    fn changes_have_their_sign_and_none_has_a_dash() {
        assert_eq!(signed(-38.4), "\u{2212}38\u{a0}%");
        assert_eq!((signed(12.0), signed(-0.2)), ("+12\u{a0}%".into(), "0\u{a0}%".into()));
        assert_eq!(number(f64::NAN, 2), "\u{2013}");
        assert_eq!(change(None, false), "<td class=\"none\">\u{2013}</td>");
        assert_eq!((verdict(-3.0), verdict(3.0), verdict(0.3)), ("win", "loss", "even"));
        assert_eq!(share(0.0123), "1.2\u{a0}%");
    }
}
