// SPDX-License-Identifier: MPL-2.0

//! Files that hold a key or a password.

#![forbid(unsafe_code)]

use std::fs::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A file whose contents are not secret: every user of the machine may read or change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed(PathBuf);

impl Exposed {
    /// Checks the permissions of an open file.
    pub fn of(path: &Path, metadata: &Metadata) -> Option<Self> {
        #[cfg(unix)]
        let open = std::os::unix::fs::MetadataExt::mode(metadata) & 0o006 != 0;
        #[cfg(not(unix))]
        let open = false;
        (metadata.is_file() && open).then(|| Self(path.to_owned()))
    }
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.0.to_string_lossy();
        // The text can be pasted into a shell.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%".contains(c);
        let pasted = if path.chars().all(plain) {
            path.to_string()
        } else {
            format!("'{}'", path.replace('\'', r"'\''"))
        };
        write!(
            f,
            "{path} holds a secret, and every user of this machine may read or change it: chmod o-rwx {pasted}"
        )
    }
}

/// At most `most` bytes of the file, and whether it is one that others may read.
///
/// # Errors
/// It cannot be opened or read.
pub fn read(path: &Path, most: u64) -> io::Result<(Vec<u8>, Option<Exposed>)> {
    let file = std::fs::File::open(path)?;
    let exposed = Exposed::of(path, &file.metadata()?);
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok((text, exposed))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_may_read_or_change_is_told_with_the_cure() {
        let path = std::env::temp_dir().join(format!("dds secret {}", std::process::id()));
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let mut found = Vec::new();
        for mode in [0o600, 0o640, 0o604, 0o602, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let (text, exposed) = read(&path, 10).unwrap();
            assert_eq!(text, b"0123456789");
            found.push(exposed.map(|exposed| exposed.to_string()));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found[..2], [None, None]);
        for words in &found[2..] {
            let words = words.as_ref().unwrap();
            assert!(words.ends_with(&format!("chmod o-rwx '{}'", path.display())), "{words}");
        }
        // A pipe or terminal is no file, and has no permissions that matter.
        assert_eq!(read(Path::new("/dev/null"), 10).unwrap(), (Vec::new(), None));
        assert!(read(&path, 10).is_err());
    }
}
