//! The key that this node signs piece maps with, made once and kept in the data directory. It is told to
//! others with the node's certificate behind it: see [`super::Identity`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use darner_proto::id::HostId;
use darner_proto::invalid::Invalid;
use darner_proto::piece_map::PieceSigner;

use crate::replace::replace;

const KEY_FILE: &str = "piece-signing.key";

/// The node's key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key file cannot be read or written.
    #[error("signing key {path}")]
    File {
        /// The key file.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The file is there but is no key. It is not replaced: peers know the old one.
    #[error("signing key {path} is damaged; restore it, or remove it to get a new one")]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Invalid,
    },
}

/// The node's signer, from `data_dir` or newly made there with mode 0600.
pub fn piece_signer(data_dir: &Path, host: HostId) -> Result<PieceSigner, SignerError> {
    let path = data_dir.join(KEY_FILE);
    let document = match fs::read(&path) {
        Ok(document) => document,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_key(&path).map_err(|source| SignerError::File {
                path: path.clone(),
                source,
            })?
        }
        Err(source) => return Err(SignerError::File { path, source }),
    };
    PieceSigner::from_pkcs8(host, &document).map_err(|source| SignerError::Damaged { path, source })
}

fn create_key(path: &Path) -> io::Result<Vec<u8>> {
    let document = PieceSigner::generate().map_err(io::Error::other)?;
    replace(path, &document)?;
    Ok(document)
}
