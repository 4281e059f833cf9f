//! What must hold between settings, and what this version cannot do yet.

use std::net::SocketAddr;
use std::path::Path;

use super::Command;
use super::read::Reading;
use crate::settings::Settings;

const INSECURE: &str = "identity.insecure";

/// Notes every rule that `settings` break.
pub(super) fn check(command: Command, settings: &Settings, file: Option<&Path>, reading: &Reading) {
    default_upstream_is_known(settings, file, reading);
    plain_text_is_meant(command, settings, file, reading);
    others_can_connect(command, settings, file, reading);
    one_database(settings, file, reading);
}

fn one_database(settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let manager = &settings.manager;
    if manager.database.is_some() && manager.postgres_url.is_some() {
        let message = "and [manager] database are both set: a manager has one database".to_owned();
        reading.fault_of("manager.postgres_url_file", file, message);
    }
}

fn default_upstream_is_known(settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let name = &settings.registry.default_upstream;
    let known = settings.upstreams.iter().any(|other| other.name == *name);
    if known || reading.is_bad("upstream.name") || reading.is_bad("upstream.url") {
        return;
    }
    let name = name.as_str();
    let message = format!("{name:?} is not known: it needs an [[upstream]] with name = {name:?}");
    reading.fault_of("registry.default_upstream", file, message);
}

/// This version has no certificates: talking to other hosts must be somebody's decision.
fn plain_text_is_meant(
    command: Command,
    settings: &Settings,
    file: Option<&Path>,
    reading: &Reading,
) {
    if settings.identity.insecure || reading.is_bad(INSECURE) {
        return;
    }
    if command != Command::Up {
        let message = "must be set to true: this version has no certificates, so its processes talk in plain text and believe what others say of themselves; do so on a network you trust";
        reading.fault_of(INSECURE, file, message.to_owned());
        return;
    }
    for (setting, listen) in internals(settings) {
        if !listen.ip().is_loopback() {
            let message = format!(
                "{listen} can be reached from other hosts, in plain text: on a network you trust, set [identity] insecure = true"
            );
            reading.fault_of(setting, file, message);
        }
    }
}

fn internals(settings: &Settings) -> [(&'static str, SocketAddr); 4] {
    [
        ("pieces.listen", settings.pieces.listen),
        ("scheduler.listen", settings.scheduler.listen),
        ("manager.listen", settings.manager.listen),
        ("manager.api_listen", settings.manager.api_listen),
    ]
}

/// A process tells others where it is; a wildcard is no place.
fn others_can_connect(
    command: Command,
    settings: &Settings,
    file: Option<&Path>,
    reading: &Reading,
) {
    let serves_pieces = matches!(command, Command::Mirror | Command::Up);
    // A scheduler without a manager tells nobody.
    let schedules = command == Command::Up
        || (command == Command::Scheduler && settings.manager.address.is_some());
    let (pieces, scheduler) = (&settings.pieces, &settings.scheduler);
    for (applies, setting, listen, advertise) in [
        (
            serves_pieces,
            "pieces.advertise",
            pieces.listen,
            &pieces.advertise,
        ),
        (
            schedules,
            "scheduler.advertise",
            scheduler.listen,
            &scheduler.advertise,
        ),
    ] {
        let nowhere = listen.ip().is_unspecified() && advertise.is_none();
        if applies && nowhere && !reading.is_bad(setting) {
            let message = format!(
                "must be set to host:port that others reach this one at, since it listens on {listen}"
            );
            reading.fault_of(setting, file, message);
        }
    }
}
