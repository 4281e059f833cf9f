//! What has come of a file: beside the file, under a name of its own, until it is whole.
//!
//! `.<name>.darner-part` holds the bytes, and its first line of `.<name>.darner-from` says of what:
//! the digest of what was asked for, so that no signed URL lies about, and the version's tag.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use darner_proto::digest::{Digest, Hasher};

use super::{GetError, What};

/// The bytes of a file so far.
#[derive(Debug)]
pub(super) struct Partial {
    output: PathBuf,
    path: PathBuf,
    /// Says what the bytes are of.
    from: PathBuf,
    /// The digest of what was asked for.
    asked: Digest,
    file: Arc<File>,
    hasher: Hasher,
    length: u64,
    tag: Option<String>,
    resumed: bool,
}

impl Partial {
    /// Takes up what an earlier run has left of the same, or begins.
    pub(super) async fn open(
        output: &Path,
        what: &What,
        expected: Option<Digest>,
    ) -> Result<Self, GetError> {
        let asked = match what {
            What::Url(url) | What::Object(url) => Digest::sha256(url.as_str().as_bytes()),
            What::Digest(digest) => Digest::sha256(digest.to_string().as_bytes()),
        };
        let hasher = expected.unwrap_or(Digest::Sha256([0; 32])).hasher();
        let output = output.to_owned();
        blocking(move || Self::open_now(output, asked, hasher)).await
    }

    fn open_now(output: PathBuf, asked: Digest, hasher: Hasher) -> Result<Self, GetError> {
        let name = output.file_name().filter(|_| !output.is_dir());
        let Some(name) = name.map(|name| name.to_string_lossy().into_owned()) else {
            return Err(GetError::NoFile(output));
        };
        let path = output.with_file_name(format!(".{name}.darner-part"));
        let from = output.with_file_name(format!(".{name}.darner-from"));
        let mut options = File::options();
        options.read(true).write(true).create(true);
        let file = options
            .open(&path)
            .map_err(GetError::file(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(GetError::InUse(output)),
            // Where files cannot be locked, nobody is kept out.
            Err(TryLockError::Error(_)) => {}
        }
        let mut new = Self {
            output,
            from,
            asked,
            file: Arc::new(file),
            hasher,
            length: 0,
            tag: None,
            resumed: false,
            path,
        };
        new.take_up()?;
        Ok(new)
    }

    fn take_up(&mut self) -> Result<(), GetError> {
        let told = std::fs::read_to_string(&self.from).unwrap_or_default();
        let mut lines = told.lines();
        let same = lines.next() == Some(&self.asked.to_string());
        let Some(tag) = lines.next().filter(|tag| same && !tag.is_empty()) else {
            return self.truncate();
        };
        self.tag = Some(tag.to_owned());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = (&*self.file).read(&mut buffer);
            match read.map_err(GetError::file(&self.path, "read"))? {
                0 => break,
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.length += read as u64;
                }
            }
        }
        self.resumed = self.length > 0;
        Ok(())
    }

    fn truncate(&self) -> Result<(), GetError> {
        let emptied = self.file.set_len(0);
        emptied
            .and_then(|()| (&*self.file).seek(SeekFrom::Start(0)).map(drop))
            .map_err(GetError::file(&self.path, "emptied"))
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// By what their version can be asked for.
    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Whether some of them are of an earlier run.
    pub(super) fn resumed(&self) -> bool {
        self.resumed
    }

    /// From the first byte on, of the version with this tag.
    pub(super) async fn begin_anew(&mut self, tag: Option<&str>) -> Result<(), GetError> {
        self.length = 0;
        self.resumed = false;
        self.hasher = match self.hasher {
            Hasher::Sha256(_) => Digest::Sha256([0; 32]).hasher(),
            Hasher::Sha512(_) => Digest::Sha512([0; 64]).hasher(),
        };
        self.tag = tag.map(str::to_owned);
        self.truncate()?;
        let text = format!("{}\n{}\n", self.asked, tag.unwrap_or_default());
        let from = self.from.clone();
        blocking(move || std::fs::write(&from, text).map_err(GetError::file(&from, "written")))
            .await
    }

    /// Adds bytes.
    pub(super) async fn write(&mut self, bytes: &bytes::Bytes) -> Result<(), GetError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        let (file, bytes, path) = (self.file.clone(), bytes.clone(), self.path.clone());
        blocking(move || {
            (&*file)
                .write_all(&bytes)
                .map_err(GetError::file(&path, "written to"))
        })
        .await
    }

    /// Gives the file its name, if it has the digest it should have.
    pub(super) async fn finish(
        self,
        expected: Option<Digest>,
        modified: Option<SystemTime>,
    ) -> Result<Digest, GetError> {
        blocking(move || self.finish_now(expected, modified)).await
    }

    /// What is in the file's place stays. Says what digest that has.
    pub(super) async fn leave(self) -> Result<Digest, GetError> {
        blocking(move || {
            let _ = std::fs::remove_file(&self.from);
            let _ = std::fs::remove_file(&self.path);
            let mut hasher = self.hasher;
            let failed = || GetError::file(&self.output, "read");
            let mut file = File::open(&self.output).map_err(failed())?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer).map_err(failed())? {
                    0 => return Ok(hasher.finish()),
                    read => hasher.update(&buffer[..read]),
                }
            }
        })
        .await
    }

    fn finish_now(
        self,
        expected: Option<Digest>,
        modified: Option<SystemTime>,
    ) -> Result<Digest, GetError> {
        let found = self.hasher.finish();
        if let Some(expected) = expected
            && expected != found
        {
            let _ = std::fs::remove_file(&self.from);
            let _ = std::fs::remove_file(&self.path);
            let (expected, found) = (Box::new(expected), Box::new(found));
            return Err(GetError::WrongBytes { expected, found });
        }
        if let Some(modified) = modified {
            let dated = self.file.set_modified(modified);
            dated.map_err(GetError::file(&self.path, "given its date"))?;
        }
        let synced = self.file.sync_all();
        synced.map_err(GetError::file(&self.path, "made durable"))?;
        let named = std::fs::rename(&self.path, &self.output);
        named.map_err(GetError::file(&self.output, "given its name"))?;
        let _ = std::fs::remove_file(&self.from);
        let directory = self
            .output
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        // Some file systems cannot, and then it is durable by itself.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(found)
    }
}

/// Runs what blocks where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GetError> + Send + 'static,
) -> Result<T, GetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
