//! An authority of a test's own, and the certificates that it gives.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::scene::Scene;

/// Signs certificates; all it makes is in files of the scene.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    file: PathBuf,
}

/// The files of a certificate and of its key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate alone.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new(scene: &Scene, name: &str) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?;
        let directory = scene.path("");
        let file = directory.join(format!("{name}.pem"));
        std::fs::write(&file, certificate.pem())?;
        Ok(Self {
            issuer: Issuer::new(parameters, key),
            directory,
            file,
        })
    }

    /// A file with its own certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A certificate for these host names and addresses, in files called `name`.
    pub fn certify(&self, name: &str, hosts: &[&str]) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts)?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}-key.pem")),
        };
        std::fs::write(&pair.certificate, certificate.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}
