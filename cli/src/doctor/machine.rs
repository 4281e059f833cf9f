//! The machine: the ports that a process is to listen on, and the disk that its store is on.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use darner_service::config::Command;
use darner_service::settings::Settings;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::finding::Finding;

/// With less of the disk free, runtimes have trouble of their own before long.
const LITTLE: f64 = 0.10;
/// A refusal on the same machine takes no time.
const PATIENCE: Duration = Duration::from_secs(1);
/// With less, a common image does not fit.
const TOO_LITTLE: u64 = 1 << 30;

/// Every port that a process of `command` listens on.
pub(super) fn ports(command: Command, settings: &Settings, is_up: bool) -> Vec<Finding> {
    let mut ports = vec![
        ("registry.listen", settings.registry.listen),
        ("pieces.listen", settings.pieces.listen),
        ("admin.listen", settings.admin.listen),
    ];
    if command == Command::Up {
        ports.extend([
            ("scheduler.listen", settings.scheduler.listen),
            ("manager.listen", settings.manager.listen),
            ("manager.api_listen", settings.manager.api_listen),
        ]);
    }
    // Any port will do for those, and is free.
    let fixed = ports.into_iter().filter(|(_, address)| address.port() != 0);
    fixed
        .map(|(setting, address)| port(setting, address, is_up))
        .collect()
}

fn port(setting: &str, address: SocketAddr, is_up: bool) -> Finding {
    let subject = format!("{setting} {address}");
    match try_bind(address) {
        Ok(()) if is_up => Finding::note("port", subject, "free, though a mirror is running")
            .fix("nothing, unless the mirror's settings are not those given here"),
        Ok(()) => Finding::ok("port", subject, "free"),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_up => {
            Finding::ok("port", subject, "in use, and the mirror is running")
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let found = "in use by another process, so the mirror cannot start";
            Finding::failure("port", subject, found).fix(format!(
                "end that process (`ss -ltnp sport = :{}` names it), or set {setting} to another \
                 port",
                address.port()
            ))
        }
        Err(error) => Finding::failure("port", subject, format!("cannot be listened on: {error}"))
            .fix(format!("set {setting} to an address of this host")),
    }
}

/// Takes the address for a moment, without listening on it.
fn try_bind(address: SocketAddr) -> io::Result<()> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket(family, SocketType::STREAM, None)?;
    // As servers do: connections that have just ended are not in the way.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(bind(&socket, &address)?)
}

/// Whether who connects to the mirror's address is refused when nobody listens there, as runtimes have
/// to be to go on to the registry without delay. A mirror that runs is not stopped for it: another
/// port of the same address, which is free, stands for its own.
pub(super) fn refusal(listen: SocketAddr, is_up: bool) -> Option<Finding> {
    let free = match is_up {
        true => {
            let free = TcpListener::bind((listen.ip(), 0)).ok()?;
            free.local_addr().ok()?
        }
        false => listen,
    };
    let began = Instant::now();
    let refused = TcpStream::connect_timeout(&free, PATIENCE);
    let took = began.elapsed();
    let subject = listen.ip().to_string();
    match refused.map_err(|error| error.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => {
            let found = format!(
                "a port where nobody listens refuses within {} ms, so runtimes go on to the registry \
                 at once when the mirror is stopped",
                took.as_millis() + 1
            );
            Some(Finding::ok("fall-back", subject, found))
        }
        Err(io::ErrorKind::TimedOut) => {
            let found = "a port where nobody listens says nothing: while the mirror is stopped, \
                         runtimes wait 15 to 150 s in each pull before they go on to the registry";
            let finding = Finding::warning("fall-back", subject, found);
            Some(
                finding.fix("let the firewall reject what it keeps from this address, not drop it"),
            )
        }
        // Somebody listens there, or nothing can be said.
        _ => None,
    }
}

/// The file system of the data directory, or of where it is to be made.
pub(super) fn disk(settings: &Settings) -> Finding {
    let data_dir = &settings.data_dir;
    let subject = data_dir.display().to_string();
    let there = data_dir.ancestors().find(|path| path.exists());
    let found = rustix::fs::statvfs(there.unwrap_or(Path::new("/")));
    let (free, size) = match found {
        Ok(found) => (
            found.f_bavail * found.f_frsize,
            found.f_blocks * found.f_frsize,
        ),
        Err(error) => {
            return Finding::failure("disk", subject, format!("cannot be looked at: {error}"))
                .fix("set data_dir to a directory that this user may read");
        }
    };
    let shown = format!("{} of {} free", ByteSize(free), ByteSize(size));
    let fix = "make room, or set data_dir to a larger file system";
    if free < TOO_LITTLE {
        return Finding::failure("disk", subject, shown).fix(fix);
    }
    if (free as f64) < size as f64 * LITTLE {
        return Finding::warning("disk", subject, shown).fix(fix);
    }
    match settings.store.capacity {
        Some(capacity) if capacity > size => {
            let capacity = ByteSize(capacity);
            let found = format!("{shown}, and [store] capacity is {capacity}");
            Finding::warning("disk", subject, found)
                .fix("set it to less than the file system has, or leave it out")
        }
        _ => Finding::ok("disk", subject, shown),
    }
}
