//! Layers: tar archives of this machine's own files, compressed with gzip.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_proto::digest::Digest;

use crate::process;

/// Larger files would make a layer much larger than it is meant to be.
const MAX_FILE: u64 = 32 << 20;
/// What a small file counts for: layers of many thousands of tiny files take runtimes long to unpack
/// and show nothing about transport.
const MIN_FILE: u64 = 32 << 10;
/// Directories of text, which compresses to next to nothing.
const TEXTS: [&str; 4] = ["doc", "html", "man", "locale"];
/// As many bytes of files are listed; what the images need together, and some.
const ENOUGH: u64 = 1000 << 20;

/// A compressed layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The digest of the archive before compression.
    pub(super) id: Digest,
    /// The compressed archive.
    pub(super) bytes: Bytes,
}

impl Layer {
    /// So many bytes that compress to nothing and are no archive.
    pub(super) fn noise(number: u64, length: usize) -> Self {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(length);
        Self {
            id: Digest::sha256(&bytes),
            bytes: bytes.into(),
        }
    }
}

/// Files that layers are made of, in an order that does not change.
#[derive(Debug)]
pub(super) struct Files {
    found: Vec<(PathBuf, u64)>,
    next: usize,
    layers: u32,
}

impl Files {
    pub(super) fn of_this_machine() -> Self {
        let mut found = Vec::new();
        let mut left = ENOUGH;
        let mut places = vec![PathBuf::from("/usr/bin")];
        places.extend(rust_sysroot());
        places.extend(["/usr/lib", "/usr/share"].map(PathBuf::from));
        for place in places {
            list(&place, &mut found, &mut left);
        }
        Self {
            found,
            next: 0,
            layers: 0,
        }
    }

    /// The next files, `size` bytes of them or a little more, as a layer. Begins again at the first
    /// file where a machine has too few; no two layers are alike all the same.
    pub(super) async fn layer(&mut self, size: u64, work: &Path) -> Result<Layer> {
        ensure!(!self.found.is_empty(), "no files to make layers of");
        let mut names = Vec::new();
        let mut taken = 0;
        while taken < size {
            let (path, length) = &self.found[self.next % self.found.len()];
            names.extend(path.strip_prefix("/")?.as_os_str().as_bytes());
            names.push(0);
            taken += length;
            self.next += 1;
        }
        self.layers += 1;
        archive(&names, self.layers, work).await
    }
}

async fn archive(names: &[u8], number: u32, work: &Path) -> Result<Layer> {
    let list = work.join("names");
    let tar = work.join("layer.tar");
    fs::File::create(&list)?.write_all(names)?;
    let mut command = Command::new("tar");
    command.args(["--create", "--directory=/", "--null", "--no-recursion"]);
    command.args(["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    command.args(["--hard-dereference", "--verbatim-files-from"]);
    command.arg(format!("--transform=s,^,layer-{number}/,"));
    command.arg(format!("--files-from={}", list.display()));
    command.arg(format!("--file={}", tar.display()));
    process::run(command).await?;
    let id = {
        let tar = tar.clone();
        tokio::task::spawn_blocking(move || digest_of(&tar)).await??
    };
    let mut command = Command::new("gzip");
    command.args(["--fast", "--no-name", "--force"]).arg(&tar);
    process::run(command).await?;
    let bytes = fs::read(tar.with_extension("tar.gz"))?;
    Ok(Layer {
        id,
        bytes: bytes.into(),
    })
}

fn digest_of(path: &Path) -> Result<Digest> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Digest::sha256(&bytes))
}

/// Regular files under `place`, sorted by name.
fn list(place: &Path, found: &mut Vec<(PathBuf, u64)>, left: &mut u64) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    let mut entries: Vec<_> = entries.filter_map(|entry| entry.ok()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Of the entry itself, not of what a link points to.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            if TEXTS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            list(&entry.path(), found, left);
        } else if metadata.is_file() && metadata.len() <= MAX_FILE && *left > 0 {
            let length = metadata.len().max(MIN_FILE);
            *left = left.saturating_sub(length);
            found.push((entry.path(), length));
        }
    }
}

/// A machine that runs these tests has a Rust toolchain, hundreds of MB of it.
fn rust_sysroot() -> Option<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(path.trim()).join("lib"))
}
