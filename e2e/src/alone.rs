//! A process in a network namespace of its own, in which every address is to be had by the loopback
//! device: whatever connection it begins, to wherever, is counted by the kernel and by nobody else.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::place;

/// What was begun in a namespace so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// TCP connections.
    pub connections: u64,
    /// UDP datagrams, those of name resolution among them.
    pub datagrams: u64,
}

/// What runs a command, given after it, in such a namespace.
pub fn command() -> Result<Command> {
    place::required_tool("ip")?;
    let mut command = Command::new(place::required_tool("unshare")?);
    command.args(["--net", "sh", "-ec"]);
    command.arg("ip link set lo up\nip route add default dev lo\nexec \"$@\"");
    command.arg("sh");
    Ok(command)
}

/// What was begun in the namespace of a process.
pub fn begun(process: u32) -> Result<Begun> {
    let text = std::fs::read_to_string(format!("/proc/{process}/net/snmp"))?;
    let count = |protocol: &str, name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
        let (names, values) = (lines.next()?, lines.next()?);
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(found, _)| *found == name)?.1.parse().ok()
    };
    Ok(Begun {
        connections: count("Tcp:", "ActiveOpens").context("no count of connections")?,
        datagrams: count("Udp:", "OutDatagrams").context("no count of datagrams")?,
    })
}

/// Does something in the namespace of a process: what connects there is counted there too.
pub fn within<T: Send>(
    process: u32,
    something: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    let on_thread = move || {
        let namespace = File::open(format!("/proc/{process}/ns/net"))?;
        // This thread alone, which ends with it.
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(something())
    };
    std::thread::scope(|scope| {
        let done = scope.spawn(on_thread).join();
        done.unwrap_or_else(|_| anyhow::bail!("it panicked"))
    })
}
