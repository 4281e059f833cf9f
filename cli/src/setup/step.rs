//! The single steps that files are changed by. Each can be done twice, and a kill between two of
//! them, or within one, leaves every file as it was or as it is to be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::host::FileState;

/// Ends the name of a file that is being written, beside the one it will replace.
const PARTIAL: &str = "darner-new";

/// One step. Paths are this process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A directory that may be there already.
    MakeDirectory(PathBuf),
    /// A file beside its place, on disk when this is done.
    Write(PathBuf, FileState),
    /// What was written there becomes the file.
    Put(PathBuf),
    /// A file that may be gone already.
    Remove(PathBuf),
    /// A directory; one that is not empty is left.
    RemoveDirectory(PathBuf),
}

impl Step {
    /// Makes `path` this file.
    pub(crate) fn replace(path: PathBuf, file: FileState) -> [Self; 2] {
        [Self::Write(path.clone(), file), Self::Put(path)]
    }

    /// Removes what a kill may have left of writing `path`.
    pub(crate) fn clear(path: &Path) -> Self {
        Self::Remove(partial(path))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::MakeDirectory(path)
            | Self::Write(path, _)
            | Self::Put(path)
            | Self::Remove(path)
            | Self::RemoveDirectory(path) => path,
        }
    }

    pub(crate) fn perform(&self) -> io::Result<()> {
        match self {
            Self::MakeDirectory(path) => {
                match fs::DirBuilder::new().mode(0o755).create(path) {
                    // Whatever this process makes its files private by.
                    Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755))?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
                sync_parent(path)
            }
            Self::Write(path, file) => write(&partial(path), file),
            Self::Put(path) => {
                fs::rename(partial(path), path)?;
                sync_parent(path)
            }
            Self::Remove(path) => {
                let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                unless(fs::remove_file(path), &gone)?;
                sync_parent(path)
            }
            Self::RemoveDirectory(path) => {
                let fine = [
                    io::ErrorKind::NotFound,
                    io::ErrorKind::NotADirectory,
                    io::ErrorKind::DirectoryNotEmpty,
                ];
                unless(fs::remove_dir(path), &fine)?;
                sync_parent(path)
            }
        }
    }
}

/// The name that runtimes skip where they read whole directories: it does not end as theirs do.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut partial = path.to_owned();
    partial.add_extension(PARTIAL);
    partial
}

fn write(partial: &Path, new: &FileState) -> io::Result<()> {
    // Never through a link, and never into a file that somebody else has opened.
    unless(fs::remove_file(partial), &[io::ErrorKind::NotFound])?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)?;
    file.write_all(&new.bytes)?;
    let mine = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if mine != (new.user, new.group) {
        std::os::unix::fs::fchown(&file, Some(new.user), Some(new.group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(new.mode))?;
    file.sync_all()
}

fn unless(done: io::Result<()>, fine: &[io::ErrorKind]) -> io::Result<()> {
    match done {
        Err(error) if fine.contains(&error.kind()) => Ok(()),
        done => done,
    }
}

/// What was made, renamed or removed in a directory is so after a power cut too.
fn sync_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    match File::open(parent) {
        Ok(directory) => directory.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
