//! A directory and all below it, to tell whether it is again what it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// What is at a path: the bytes of a file, or nothing for a directory.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// All that is in `directory`.
pub fn read(directory: &Path) -> Result<Tree> {
    let mut found = Tree::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(read(&path)?);
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path)?;
            found.insert(path, Some(bytes));
        }
    }
    Ok(found)
}
