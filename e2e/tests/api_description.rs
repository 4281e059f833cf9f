//! The API does what its description says: schemathesis asks every route of it, with what the
//! description allows and with what it does not.
//!
//! What it asks is made from the description by a fixed seed. Two of its checks are left out: that
//! everything allowed is taken (a cursor is a string, and not every string is one), and that a missing
//! header is 400 (without If-Match it is 428, which is meant for that).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::darner::Darner;
use darner_e2e::operator::set_up;
use darner_e2e::scene::{self, Scene};
use darner_e2e::{cluster, place, process};

/// Some hundreds of requests, of which those with passwords take a moment each.
const LIMIT: Duration = Duration::from_secs(180);

fn token(scene: &Scene) -> Result<String> {
    let kept = std::fs::read(scene.path("login.json"))?;
    let kept: serde_json::Value = serde_json::from_slice(&kept)?;
    Ok(kept["token"].as_str().context("no token")?.to_owned())
}

#[test]
fn every_answer_is_as_described() {
    scene::run_for("api_description", LIMIT, async |scene| {
        let settings = cluster::manager_settings(scene)?;
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        set_up(scene, &manager)?;
        let api = manager.url("api")?;
        let mut tester = Command::new(place::required_tool("schemathesis")?);
        tester.current_dir(scene.path(""));
        tester.arg("run").arg(format!("{api}/api/openapi.json"));
        tester
            .arg("-H")
            .arg(format!("Authorization: Bearer {}", token(scene)?));
        tester.args([
            "--exclude-checks",
            "positive_data_acceptance,missing_required_header",
        ]);
        // Streams go on for a minute.
        tester.args(["--exclude-path-regex", "events$"]);
        tester.args(["--phases", "coverage,fuzzing"]);
        tester.args(["--seed", "1", "--generation-deterministic"]);
        tester.args(["--max-examples", "10", "--no-color"]);
        let output = process::finish(tester).await?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{told}");
        ensure!(told.contains("API Operations:"), "it asked nothing: {told}");
        Ok(())
    });
}
