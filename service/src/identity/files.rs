//! A certificate that others provide and renew, such as cert-manager or a SPIFFE agent: three files,
//! which are read again when they change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::trust::Trust;

use super::material::{self, Material, MaterialError};
use super::{Identity, IdentityError, IdentityMetrics, PeerRole, check_owner, tls};
use crate::settings::{IdentityFiles, Settings};
use crate::shutdown::Shutdown;
use crate::telemetry::with_causes;

/// How often the files are looked at. They are replaced days or hours before the old ones are over.
const LOOK: Duration = Duration::from_secs(5);

/// What the files held when they were last read.
type Read = [Vec<u8>; 3];

pub(super) fn open(
    settings: &Settings,
    role: PeerRole,
    metrics: &IdentityMetrics,
    shutdown: &Shutdown,
) -> Result<Identity, IdentityError> {
    let Some(files) = settings.identity.files.clone() else {
        return Err(IdentityError::None);
    };
    let unusable = |source| IdentityError::Material {
        place: "[identity] certificate, key and ca".to_owned(),
        source,
    };
    let held = read(&files).map_err(unusable)?;
    let (material, trust) = parse(&held).map_err(unusable)?;
    check_owner(&files.certificate, &material.peer, role, &settings.node.id)?;
    let identity = Identity::new(material, trust, true, metrics).map_err(unusable)?;
    let (following, ending) = (identity.clone(), shutdown.clone());
    shutdown.spawn(async move {
        tokio::select! {
            () = following.follow(files, held) => {}
            () = following.keep(&ending) => {}
        }
    });
    Ok(identity)
}

impl Identity {
    async fn follow(&self, files: IdentityFiles, mut held: Read) {
        let files = Arc::new(files);
        let mut trouble = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let read = files.clone();
            let found = match tokio::task::spawn_blocking(move || self::read(&read)).await {
                Ok(found) => found,
                Err(_) => continue,
            };
            let taken = match found {
                Ok(found) if found == held => continue,
                Ok(found) => self.take_files(&found).map(|()| held = found),
                Err(error) => Err(error),
            };
            let now = match taken {
                Ok(()) => String::new(),
                Err(error) => with_causes(&error).to_string(),
            };
            // A renewal replaces one file after the other: the next look finds them whole.
            if !now.is_empty() && now != trouble {
                tracing::warn!(
                    error = now,
                    "certificate files changed and cannot be used; the old ones stay in use"
                );
            }
            trouble = now;
        }
    }

    fn take_files(&self, found: &Read) -> Result<(), MaterialError> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let (material, mut trust) = parse(found)?;
        let current = inner.current();
        let held = &current.material.peer;
        if (&material.peer.id, material.peer.role) != (&held.id, held.role) {
            return Err(MaterialError::Pem {
                what: "certificate",
                why: format!("it is of {} {}", material.peer.role, material.peer.id),
            });
        }
        trust.revoked = current.trust.revoked.clone();
        inner.replace(material, trust)?;
        inner.metrics.renewed(held.role);
        tracing::info!(role = %held.role, id = %held.id, "certificate files read again");
        Ok(())
    }
}

fn read(files: &IdentityFiles) -> Result<Read, MaterialError> {
    let read = |path: &PathBuf| material::read(path);
    Ok([
        read(&files.certificate)?,
        read(&files.key)?,
        read(&files.ca)?,
    ])
}

fn parse([certificate, key, ca]: &Read) -> Result<(Material, Trust), MaterialError> {
    let material = Material::from_pem(certificate, key, &tls::provider())?;
    Ok((material, authorities(ca)?))
}

/// The authorities in a file.
pub(super) fn authorities(pem: &[u8]) -> Result<Trust, MaterialError> {
    let authorities = material::certificates_of("ca", pem)?;
    let authorities = authorities.iter().map(|der| der.to_vec().into());
    Ok(Trust {
        authorities: authorities.collect(),
        ..Trust::default()
    })
}
