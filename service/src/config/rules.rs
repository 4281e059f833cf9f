//! What must hold between settings.

use std::path::Path;

use darner_proto::gossip::{MAX_LABEL_BYTES, labels_fit};
use darner_proto::name::RegistryName;

use super::Command;
use super::read::Reading;
use crate::settings::Settings;

const INSECURE: &str = "identity.insecure";

/// Notes every rule that `settings` break.
pub(super) fn check(command: Command, settings: &Settings, file: Option<&Path>, reading: &Reading) {
    default_upstream_is_known(settings, file, reading);
    logins_are_safe(settings, file, reading);
    plain_text_is_meant(command, settings, file, reading);
    has_an_identity(command, settings, file, reading);
    others_can_connect(command, settings, file, reading);
    one_database(settings, file, reading);
    one_identity(settings, file, reading);
    labels_travel(command, settings, file, reading);
}

fn one_database(settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let manager = &settings.manager;
    if manager.database.is_some() && manager.postgres_url.is_some() {
        let message = "and [manager] database are both set: a manager has one database".to_owned();
        reading.fault_of("manager.postgres_url_file", file, message);
    }
}

fn one_identity(settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let identity = &settings.identity;
    let others = [
        (identity.insecure, "insecure"),
        (identity.files.is_some(), "certificate"),
        (identity.token_file.is_some(), "token_file"),
    ];
    for (is_set, other) in others {
        if is_set && identity.cluster_key.is_some() {
            let message =
                format!("and [identity] {other} are both set: a process has one identity");
            reading.fault_of("identity.cluster_key_file", file, message);
        }
    }
}

/// Every word about a member carries its labels.
fn labels_travel(command: Command, settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let gossips = command == Command::Mirror && settings.gossip.enabled;
    if gossips && !labels_fit(&settings.node.labels) {
        let message =
            format!("are longer than {MAX_LABEL_BYTES} bytes, more than [gossip] can carry");
        reading.fault_of("node.labels", file, message);
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

/// Passwords are shown where nobody can listen, and go to registries that are there.
fn logins_are_safe(settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let registry = &settings.registry;
    let known = |name: &RegistryName| settings.upstreams.iter().any(|other| other.name == *name);
    for name in registry.logins.iter().filter(|name| !known(name)) {
        let name = name.as_str();
        let message = format!("{name:?} is not known: it needs an [[upstream]] of that name");
        reading.fault_of("registry.logins", file, message);
    }
    let others_can_listen = !registry.tls && !registry.listen.ip().is_loopback();
    if !registry.logins.is_empty() && others_can_listen {
        let message = "asks for passwords where others can listen: set [registry] tls = true, or \
                       listen to an address of this machine alone"
            .to_owned();
        reading.fault_of("registry.logins", file, message);
    }
}

/// Plain text is spoken where that was somebody's decision, and nowhere else.
fn plain_text_is_meant(
    command: Command,
    settings: &Settings,
    file: Option<&Path>,
    reading: &Reading,
) {
    if reading.is_bad(INSECURE) {
        return;
    }
    let insecure = settings.identity.insecure;
    let api = settings.manager.api_listen;
    let manages = matches!(command, Command::Up | Command::Manager);
    let manager = &settings.manager;
    if manager.api_certificate.is_some() != manager.api_key.is_some() {
        let message = "api_certificate and api_key go together: set both or neither".to_owned();
        reading.fault_of("manager.api_certificate", file, message);
    }
    let plain = manager.api_certificate.is_none() && !reading.is_bad("manager.api_certificate");
    if manages && plain && !insecure && !api.ip().is_loopback() {
        let message = format!(
            "{api} can be reached from other hosts, in plain text: set [manager] api_certificate and api_key, or on a network you trust [identity] insecure = true"
        );
        reading.fault_of("manager.api_listen", file, message);
    }
    if command == Command::Up {
        return;
    }
    let manager = settings.manager.address.iter();
    let manager = manager.map(|url| ("manager.address", url));
    let schedulers = settings.scheduler.addresses.iter();
    let schedulers = schedulers.map(|url| ("scheduler.addresses", url));
    for (setting, url) in manager.chain(schedulers) {
        let message = match (insecure, url.starts_with("https://")) {
            (false, false) => {
                "is http://, plain text: write https://, or on a network you trust set [identity] insecure = true"
            }
            (true, true) => {
                "is https://, and [identity] insecure = true means plain text: write http://, or leave insecure out"
            }
            _ => continue,
        };
        reading.fault_of(setting, file, message.to_owned());
    }
}

/// A certificate comes from the manager, for a join token, or from files.
fn has_an_identity(command: Command, settings: &Settings, file: Option<&Path>, reading: &Reading) {
    let identity = &settings.identity;
    let unclear = [
        INSECURE,
        "identity.certificate",
        "identity.cluster_key_file",
    ];
    if identity.insecure || unclear.iter().any(|key| reading.is_bad(key)) {
        return;
    }
    if command == Command::Up && identity.files.is_some() {
        let message = "means nothing to `darner up`, which issues certificates itself";
        reading.fault_of("identity.certificate", file, message.to_owned());
    }
    if command == Command::Up && identity.cluster_key.is_some() {
        let message = "means nothing to `darner up`, which issues certificates itself";
        reading.fault_of("identity.cluster_key_file", file, message.to_owned());
    }
    let joins = matches!(command, Command::Mirror | Command::Scheduler);
    let alone = identity.files.is_none() && identity.cluster_key.is_none();
    if joins && alone && settings.manager.address.is_none() {
        let message = "has nowhere to come from: set token_file to a join token and [manager] address; or certificate, key and ca; or cluster_key_file; or, on a network you trust, insecure = true for plain text";
        reading.fault_of("identity.certificate", file, message.to_owned());
    }
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
