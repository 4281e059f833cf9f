//! A slow link: what leaves one port is held to a rate by the kernel. The whole loopback device of
//! this namespace is set up for it, and for nothing else.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A port that sends at a rate, until this is dropped.
#[derive(Debug)]
pub(crate) struct Shaped(());

impl Shaped {
    /// `rate` as `tc` writes it, such as `1gbit`.
    pub(crate) fn begin(port: u16, rate: &str) -> Result<Self> {
        let device = ["dev", "lo"];
        tc(
            "qdisc",
            "add",
            &device,
            "root handle 1: htb default 10 r2q 1000",
        )?;
        // Dropping it takes away whatever has been set up.
        let shaped = Self(());
        let classes = [
            "1:10 htb rate 100gbit".to_owned(),
            format!("1:20 htb rate {rate}"),
        ];
        for class in classes {
            tc(
                "class",
                "add",
                &device,
                &format!("parent 1: classid {class} quantum 65536"),
            )?;
        }
        let filter = format!("parent 1: protocol ip u32 match ip sport {port} 0xffff flowid 1:20");
        tc("filter", "add", &device, &filter)?;
        Ok(shaped)
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        if let Err(error) = tc("qdisc", "del", &["dev", "lo"], "root") {
            eprintln!("the loopback device stays slow: {error:#}");
        }
    }
}

fn tc(object: &str, verb: &str, device: &[&str], rest: &str) -> Result<()> {
    let mut command = Command::new("tc");
    command
        .arg(object)
        .arg(verb)
        .args(device)
        .args(rest.split(' '));
    let output = command.output().context("tc (package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "tc {object} {verb} {rest}: {}",
        said.trim()
    );
    Ok(())
}
