//! Docker: a mirror of Docker Hub, which is all it has mirrors for.

use std::path::{Path, PathBuf};

use super::{Terms, Wishes};
use crate::setup::edit::EditError;
use crate::setup::plan::{Edit, PlanError, Standing, Wish};

pub(crate) const FILE: &str = "/etc/docker/daemon.json";
/// Directories by host and port.
const CERTIFICATES: &str = "/etc/docker/certs.d";
const HUB: &str = "docker.io";

pub(super) fn wishes(standing: Standing<'_>, terms: &Terms) -> Result<Wishes, PlanError> {
    let path = PathBuf::from(FILE);
    let has_flag = |pid: &i32| {
        let arguments = standing.host.text(format!("/proc/{pid}/cmdline"));
        arguments.is_some_and(|text| text.contains("\0--registry-mirror"))
    };
    if standing.host.processes("dockerd").iter().any(has_flag) {
        return Err(PlanError::Edit {
            path,
            why: EditError::Shape(
                "dockerd was started with --registry-mirror, and with registry-mirrors here as well \
                 it would not start again; move the flag's value into this file, and run this again"
                    .to_owned(),
            ),
        });
    }
    let mut notes = vec![
        "it asks mirrors for images of Docker Hub only; others it pulls from their registries"
            .to_owned(),
    ];
    let named = &terms.registries;
    if !named.is_empty() && named.iter().all(|name| name.as_str() != HUB) {
        notes.push(format!(
            "nothing to do for it: {HUB} is not among --registry"
        ));
        return Ok((Vec::new(), notes));
    }
    let directory = Path::new(CERTIFICATES).join(terms.address());
    let mut wishes: Vec<_> = terms.ca_in(&directory).into_iter().collect();
    if !wishes.is_empty() {
        notes.push(
            "it takes any certificate of a registry on 127.0.0.0/8 and ::1, so for it TLS there is \
             no proof of who answers: keep accounts of Docker Hub out of it where others may take \
             the mirror's port"
                .to_owned(),
        );
    }
    let edit = Edit::DaemonJson;
    wishes.push(Wish { path, edit });
    Ok((wishes, notes))
}
