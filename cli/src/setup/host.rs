//! What stands on the host, read and not changed: files below a root, programs, processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// No configuration file of a runtime is larger.
const MAX_FILE: u64 = 1 << 20;
/// Where programs are, below the root.
const PROGRAMS: [&str; 6] = [
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/opt/bin",
];

/// A host: the running one, or what is to become one in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

/// A file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// Something on the host cannot be read, or not safely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// A link, which may lead anywhere.
    #[error(
        "{0} is not a plain file or leads through a link; name the place it leads to, or replace it"
    )]
    Link(PathBuf),
    /// Too large to be what it should be.
    #[error("{0} is larger than {MAX_FILE} bytes, which no configuration is; left as it is")]
    Large(PathBuf),
    /// Bytes that are not text.
    #[error("{0} is not UTF-8 text; left as it is")]
    NotText(PathBuf),
    /// The file system refuses.
    #[error("{path} cannot be read")]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl FileState {
    /// A new file for everybody to read, owned by whoever runs this.
    pub(crate) fn new(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
        }
    }

    /// The same file with another text.
    pub(crate) fn with_text(&self, text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_vec(),
            ..self.clone()
        }
    }
}

impl Host {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether this is the host that runs, and not a directory that may become one.
    pub(crate) fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a path of the host is for this process.
    pub(crate) fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// As [`Host::place`], for what is to be written. Below a root that is not this host's, no
    /// link on the way is followed: it would lead out of it.
    pub(crate) fn safe_place(&self, path: &Path) -> Result<PathBuf, HostError> {
        let place = self.place(path);
        if self.is_running() {
            return Ok(place);
        }
        let mut walked = self.root.clone();
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => walked.push(name),
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(HostError::Link(path.to_owned()));
                }
            }
            if walked.is_symlink() {
                return Err(HostError::Link(walked));
            }
        }
        Ok(place)
    }

    /// A file that may be written later; `None` when it is not there.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<FileState>, HostError> {
        let place = self.safe_place(path)?;
        let failed = |source| HostError::Read {
            path: path.to_owned(),
            source,
        };
        let found = match fs::symlink_metadata(&place) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !found.is_file() {
            return Err(HostError::Link(path.to_owned()));
        }
        if found.len() > MAX_FILE {
            return Err(HostError::Large(path.to_owned()));
        }
        Ok(Some(FileState {
            bytes: fs::read(&place).map_err(failed)?,
            mode: found.mode() & 0o7777,
            user: found.uid(),
            group: found.gid(),
        }))
    }

    /// The text of a file that is only looked at; `None` when there is none to be had.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let place = self.place(path.as_ref());
        let length = fs::metadata(&place).ok()?.len();
        (length <= MAX_FILE).then(|| fs::read_to_string(&place).ok())?
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.place(path.as_ref()).exists()
    }

    /// The names in a directory, in order; none when it cannot be listed.
    pub(crate) fn list(&self, directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(self.place(directory)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Where a program is.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let mut paths = PROGRAMS
            .iter()
            .map(|directory| Path::new(directory).join(name));
        paths.find(|path| self.exists(path))
    }

    /// The version that a program says it has. Programs of another root are not run.
    pub(crate) fn version(&self, name: &str) -> Option<Version> {
        if !self.is_running() {
            return None;
        }
        let mut command = Command::new(self.program(name)?);
        let command = command.arg("--version").stdin(Stdio::null());
        let said = command.output().ok()?;
        Version::find(&String::from_utf8_lossy(&said.stdout))
    }

    /// The processes of a name, on the running host.
    pub(crate) fn processes(&self, name: &str) -> Vec<i32> {
        if !self.is_running() {
            return Vec::new();
        }
        let numbers = self.list(Path::new("/proc")).into_iter();
        let pids = numbers.filter_map(|number| number.parse().ok());
        pids.filter(|pid| is_process(*pid, name)).collect()
    }
}

fn is_process(pid: i32, name: &str) -> bool {
    let said = fs::read_to_string(format!("/proc/{pid}/comm"));
    said.is_ok_and(|said| said.trim() == name)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The first two numbers of a version, and all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) text: String,
}

impl Version {
    /// The first word of `said` that is a version.
    pub(crate) fn find(said: &str) -> Option<Self> {
        said.split_whitespace().find_map(|word| {
            let text = word.trim_start_matches('v').trim_end_matches(',');
            let mut parts = text.split('.');
            let major = parts.next()?.parse().ok()?;
            let minor = parts.next()?;
            let digits = minor.find(|byte: char| !byte.is_ascii_digit());
            let minor = minor[..digits.unwrap_or(minor.len())].parse().ok()?;
            Some(Self {
                major,
                minor,
                text: text.to_owned(),
            })
        })
    }

    /// Whether it is this one or later.
    pub(crate) fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, major, minor) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1",
                1,
                6,
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.1.4 abc",
                2,
                1,
            ),
            ("Docker version 20.10.24+dfsg1, build 297e128", 20, 10),
            ("podman version 4.3.1", 4, 3),
            ("crio version 1.30.0\nGitCommit: x", 1, 30),
            ("k3s version v1.31.4+k3s1 (a562d090)", 1, 31),
        ] {
            let version = Version::find(said).unwrap();
            assert_eq!((version.major, version.minor), (major, minor), "{said}");
        }
        assert_eq!(Version::find("no version here"), None);
    }

    #[test]
    fn nothing_is_read_or_written_through_a_link_out_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("daemon.json"), "{}").unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let link = root.path().join("etc/docker");
        std::os::unix::fs::symlink(outside.path(), link).unwrap();
        let host = Host::new(root.path().to_owned());
        let read = host.read(Path::new("/etc/docker/daemon.json"));
        assert!(matches!(read, Err(HostError::Link(_))), "{read:?}");
        let read = host.read(Path::new("/etc/../../x"));
        assert!(matches!(read, Err(HostError::Link(_))), "{read:?}");
        assert_eq!(host.read(Path::new("/etc/absent/file")).unwrap(), None);
    }
}
