// SPDX-License-Identifier: MPL-2.0

//! Properties of an element's channel, and their refusals.

#![forbid(unsafe_code)]

use std::path::Path;

use crate::secret::{self, Exposed};
use crate::secure::{Key, KeyError, MAX_KEY};
use crate::uri::{End, FeedbackUri, UriError};

/// Properties of an element's channel.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// Property `feedback-uri`; empty: no channel.
    pub uri: String,
    /// Property `feedback-key`; empty: none.
    pub key: String,
    /// Property `feedback-key-file`; empty: none.
    pub key_file: String,
    /// Property `feedback-plain`.
    pub plain: bool,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not be logged.
        let mut setup = f.debug_struct("Setup");
        setup.field("uri", &self.uri).field("key_file", &self.key_file);
        setup.field("plain", &self.plain).finish_non_exhaustive()
    }
}

/// Why a channel is not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The address is invalid.
    Uri(String, UriError),
    /// The key is invalid. First: its property.
    Key(&'static str, KeyError),
    /// The key file cannot be read.
    KeyFile(String, String),
    /// Two properties that contradict each other: the first one, the conflict and the cure.
    Contradiction(&'static str, &'static str),
    /// Neither a key nor permission to do without.
    NoKey(String),
    /// The socket cannot be opened.
    Listen(String, String),
    /// No thread, or no random numbers.
    System(String),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri, error) => write!(f, "feedback-uri={uri}: {error}."),
            Self::Key(property, error) => write!(f, "{property}: {error}."),
            Self::KeyFile(path, error) => write!(
                f,
                "feedback-key-file={path}: it cannot be read ({error}). Name a file that holds the key that the other \
                 end has too."
            ),
            Self::Contradiction(property, text) => write!(f, "{property}: {text}."),
            Self::NoKey(uri) => write!(
                f,
                "feedback-uri={uri}: without a key anybody there can steer the camera and see where people are. Set \
                 feedback-key or feedback-key-file to the same at both ends, or feedback-plain=true on a network where \
                 that does not matter."
            ),
            Self::Listen(uri, error) => write!(
                f,
                "feedback-uri={uri}: it cannot be listened on ({error}). Name an address of this machine and a port that \
                 is free, or add ?mode=caller to dial."
            ),
            Self::System(error) => write!(
                f,
                "feedback-uri: no channel ({error}). See to the system, or remove it."
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Address, key, and the key file where others may read it.
pub(super) type Read = (FeedbackUri, Option<Key>, Option<Exposed>);

impl Setup {
    /// Address, key, and what is wrong with the key file; `None` where no channel is set.
    ///
    /// # Errors
    /// Names the properties that are wrong.
    pub(super) fn read(&self, end: End) -> Result<Option<Read>, OpenError> {
        let refuse = |property, text| Err(OpenError::Contradiction(property, text));
        let (inline, file) = (!self.key.is_empty(), !self.key_file.is_empty());
        if self.uri.is_empty() {
            let idle = [(inline, "feedback-key"), (file, "feedback-key-file")];
            if let Some((_, property)) = idle.into_iter().find(|(set, _)| *set) {
                return refuse(
                    property,
                    "there is no channel that it could seal; set feedback-uri too, or remove it",
                );
            }
            return Ok(None);
        }
        let uri = FeedbackUri::parse(&self.uri, end).map_err(|e| OpenError::Uri(self.uri.clone(), e))?;
        if inline && file {
            return refuse("feedback-key-file", "feedback-key is set too; remove one of the two");
        }
        if self.plain && (inline || file) {
            return refuse(
                "feedback-plain",
                "a key is set, and nothing plain is sent or taken with it; remove one of the two",
            );
        }
        let mut exposed = None;
        let key = if inline {
            Some(Key::parse(self.key.as_bytes()).map_err(|e| OpenError::Key("feedback-key", e))?)
        } else if file {
            let text;
            (text, exposed) = read_key_file(&self.key_file)?;
            Some(Key::parse(&text).map_err(|e| OpenError::Key("feedback-key-file", e))?)
        } else if self.plain || uri.host.is_loopback() {
            None
        } else {
            return Err(OpenError::NoKey(self.uri.clone()));
        };
        Ok(Some((uri, key, exposed)))
    }
}

/// The bytes of a key file, limited to what proves it too long.
fn read_key_file(path: &str) -> Result<(Vec<u8>, Option<Exposed>), OpenError> {
    let most = (2 * MAX_KEY + 16) as u64;
    secret::read(Path::new(path), most).map_err(|e| OpenError::KeyFile(path.to_owned(), e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn setup(uri: &str, key: &str) -> Setup {
        Setup {
            uri: uri.into(),
            key: key.into(),
            ..Setup::default()
        }
    }

    #[test]
    fn properties_that_cannot_work_are_refused_by_name() {
        let read = |setup: &Setup| {
            setup
                .read(End::Camera)
                .map(|read| read.is_some())
                .map_err(|e| e.to_string())
        };
        let refused = |setup: &Setup, words: &[&str]| {
            let text = read(setup).unwrap_err();
            words.iter().for_each(|word| assert!(text.contains(word), "{text}"));
        };
        assert_eq!(read(&Setup::default()), Ok(false));
        assert_eq!(read(&setup("udp://0.0.0.0:5006", KEY)), Ok(true));
        assert_eq!(read(&setup("udp://127.0.0.1:5006", "")), Ok(true));
        refused(
            &setup("udp://0.0.0.0:5006", ""),
            &["feedback-uri", "feedback-key", "feedback-plain"],
        );
        refused(
            &setup("udp://0.0.0.0:5006", "short"),
            &["feedback-key", "5 bytes", "openssl"],
        );
        refused(&setup("nonsense", KEY), &["feedback-uri=nonsense", "udp://"]);
        refused(&setup("", KEY), &["feedback-key", "feedback-uri"]);
        let file = |path: &str| Setup {
            key_file: path.into(),
            ..setup("tcp://:5006", "")
        };
        refused(
            &file("/nowhere/key"),
            &["feedback-key-file=/nowhere/key", "cannot be read"],
        );
        refused(
            &Setup {
                key: KEY.into(),
                ..file("key")
            },
            &["feedback-key-file", "feedback-key is set too"],
        );
        let plain = |key: &str| Setup {
            plain: true,
            ..setup("tcp://:5006", key)
        };
        assert_eq!(read(&plain("")), Ok(true));
        refused(&plain(KEY), &["feedback-plain", "a key is set"]);
    }

    #[test]
    fn a_key_file_is_read_and_a_long_one_refused() {
        let path = std::env::temp_dir().join(format!("dds-key-{}", std::process::id()));
        let setup = Setup {
            key_file: path.to_string_lossy().into_owned(),
            ..setup("tcp://:5006", "")
        };
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        assert!(matches!(setup.read(End::Camera), Ok(Some((_, Some(_), _)))));
        std::fs::write(&path, vec![b'k'; 100_000]).unwrap();
        let error = setup.read(End::Camera).unwrap_err();
        assert!(
            matches!(error, OpenError::Key("feedback-key-file", KeyError::TooLong(_))),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
