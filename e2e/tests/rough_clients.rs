//! Clients that are broken or mean, by the thousand: each gets the status it has earned, no request
//! hides in another, memory stays where it was, and others are served as before.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{in_plain_text, mirror_settings, start_up, up_settings};
use darner_e2e::darner::Darner;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{alone, place, raw};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// A request that a careless parser finds within another.
const HIDDEN: &str = "GET /v2/hidden/manifests/v1?ns=registry.test HTTP/1.1\r\nHost: h\r\n\r\n";

async fn start(scene: &Scene) -> Result<(Upstream, Darner, SocketAddr)> {
    let upstream = Upstream::start(scene).await?;
    let up = start_up(scene, &upstream).await?;
    let address = up.address("registry")?;
    Ok((upstream, up, address))
}

/// Bytes of memory that the process holds.
async fn memory(up: &Darner) -> Result<f64> {
    let metrics = up.metrics().await?;
    metrics.require("process_resident_memory_bytes")
}

/// A malformed request, by a name that says what is wrong with it, and the statuses it may have.
struct Malformed {
    name: String,
    target: String,
    allowed: &'static [u16],
}

/// By the specification's grammar.
fn is_tag(text: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let fits = |byte: u8| first(&byte) || matches!(byte, b'.' | b'-');
    text.as_bytes().first().is_some_and(first) && text.len() <= 128 && text.bytes().all(fits)
}

/// None of these can be part of a name, wherever in it they are.
const WRONG: &str = r#"A %41 _ __a_ . .. - a..b a.-b a-.b a___b a_-b %20 %00 %0d%0a %7f %c3%a9 %ff %
    %2 %zz a:b:c a@b a+b a~b a!b a*b a(b a,b a;b a=b a&b a$b a'b a|b a\b a"b a^b a{b a}b %2f %2F..
    %2e%2e %2e%2e%2f ..%2f %5c a%2f a%3fb a%23b"#;

/// Where in a name.
const PLACES: [&str; 6] = ["alone", "first", "last", "middle", "deep", "twice"];

fn placed(place: &str, part: &str) -> String {
    match place {
        "first" => format!("{part}/b"),
        "last" => format!("a/{part}"),
        "middle" => format!("a/{part}/b"),
        "deep" => format!("{}a/{part}", "a/".repeat(100)),
        "twice" => format!("{part}/{part}"),
        _ => part.to_owned(),
    }
}

fn malformed() -> Vec<Malformed> {
    let parts = WRONG.split_whitespace();
    let names = parts.flat_map(|part| PLACES.map(|place| (place, part)));
    let cases = names.flat_map(|(place, part)| {
        let (name, title) = (placed(place, part), format!("{place}/{part}"));
        let mut cases = wrong_names(&name, &title);
        cases.extend(wrong_references(&name, &title));
        cases
    });
    cases.collect()
}

fn wrong_names(name: &str, title: &str) -> Vec<Malformed> {
    let digest = format!("sha256:{HEX}");
    let objects = [
        "manifests/v1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{digest}"),
        "tags/list".to_owned(),
        format!("referrers/{digest}"),
    ];
    let targets = objects.iter().flat_map(|object| {
        [
            format!("/v2/{name}/{object}?ns={NAME}"),
            format!("/v2/{NAME}/{name}/{object}"),
        ]
    });
    let case = |target: String| Malformed {
        name: format!("name/{title} in {target:.60}"),
        target,
        allowed: &[400, 404],
    };
    targets.map(case).collect()
}

fn wrong_references(name: &str, title: &str) -> Vec<Malformed> {
    let mut targets = vec![
        ("blob", format!("/v2/a/blobs/{name}?ns={NAME}")),
        ("digest", format!("/v2/a/blobs/sha256:{name}?ns={NAME}")),
        ("algorithm", format!("/v2/a/blobs/{name}:{HEX}?ns={NAME}")),
        ("registry", format!("/v2/a/manifests/v1?ns={name}")),
        ("object", format!("/v2/a/{name}/v1?ns={NAME}")),
        ("root", format!("/{name}")),
        ("write", format!("/v2/{name}/blobs/uploads/?ns={NAME}")),
    ];
    if !is_tag(name) {
        targets.push(("tag", format!("/v2/a/manifests/{name}?ns={NAME}")));
    }
    let case = |(kind, target): (&str, String)| Malformed {
        name: format!("{kind}/{title}"),
        target,
        allowed: match kind {
            "registry" => &[400, 404, 503],
            _ => &[400, 404],
        },
    };
    targets.into_iter().map(case).collect()
}

#[test]
fn five_thousand_malformed_requests_have_the_right_status_and_cost_nothing() {
    scene::run("rough_malformed", async |scene| {
        let (upstream, mut up, address) = start(scene).await?;
        let all = malformed();
        ensure!(all.len() >= 5000, "{}", all.len());
        let send = async |case: &Malformed| {
            let answer = raw::request(address, "GET", &case.target, "").await;
            let answer = answer.with_context(|| case.name.clone())?;
            let fits = case.allowed.contains(&answer.status);
            ensure!(fits, "{} {}: {}", case.name, case.target, answer.describe());
            Ok::<_, anyhow::Error>(())
        };
        let mut held = Vec::new();
        for _round in 0..2 {
            let mut sent = stream::iter(&all).map(&send).buffer_unordered(32);
            while let Some(sent) = sent.next().await {
                sent?;
            }
            drop(sent);
            held.push(memory(&up).await?);
        }
        let grown = held[1] - held[0];
        println!(
            "{} requests a round; memory after each: {held:?}",
            all.len()
        );
        ensure!(grown < 8e6, "memory grows by {grown}");
        let asked = upstream.ledger().describe();
        ensure!(asked.is_empty(), "upstream was asked:\n{asked}");
        ensure!(!up.output().contains("panicked"));
        ensure!(up.is_running());
        let client = Client::new(&up, NAME)?;
        client.pull(&upstream.images.tiny).await.map(drop)
    });
}

#[test]
fn no_malformed_request_makes_a_connection_to_anywhere() {
    scene::run("rough_alone", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let settings = in_plain_text(mirror_settings(scene, &upstream, "mirror")?);
        let mut command = alone::command()?;
        command.arg(place::darner()?);
        let mirror = Darner::start_by(scene, "mirror", "mirror", &settings, command).await?;
        let (process, address) = (mirror.id(), mirror.address("registry")?);
        let all = malformed();
        let before = alone::begun(process)?;
        let sent = alone::within(process, async || {
            let send = async |case: &Malformed| {
                raw::request(address, "GET", &case.target, "")
                    .await
                    .with_context(|| case.name.clone())
            };
            let mut answers = stream::iter(&all).map(send).buffer_unordered(32);
            let mut count = 0;
            while let Some(answer) = answers.next().await {
                answer?;
                count += 1;
            }
            Ok(count)
        })?;
        let after = alone::begun(process)?;
        ensure!(sent == all.len() as u64);
        let connections = after.connections - before.connections;
        ensure!(
            connections == sent,
            "{connections} connections for {sent} requests"
        );
        ensure!(
            after.datagrams == before.datagrams,
            "{after:?} after {before:?}"
        );
        // What counts counts: a request that is right is passed on, to a registry that is not there.
        let image = &upstream.images.tiny;
        let target = format!("/v2/{}/manifests/{}?ns={NAME}", image.repository, image.tag);
        let answer = alone::within(process, async || {
            raw::request(address, "GET", &target, "").await
        })?;
        ensure!(answer.status == 503, "{}", answer.describe());
        let begun = alone::begun(process)?.connections - after.connections;
        ensure!(begun > 1, "{begun} connections");
        Ok(())
    });
}

/// Requests that two parsers may cut differently: by name, and the bytes.
fn smuggled() -> Vec<(String, Vec<u8>)> {
    let head = "GET /v2/ HTTP/1.1\r\nHost: h\r\n";
    let length = HIDDEN.len();
    let chunked = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let mut all = Vec::new();
    let mut add = |name: &str, lines: &str, body: &str| {
        let bytes = format!("{head}{lines}\r\n{body}");
        all.push((name.to_owned(), bytes.into_bytes()));
    };
    for (name, value) in [
        ("plain", "Transfer-Encoding: chunked\r\n"),
        ("upper", "TRANSFER-ENCODING: CHUNKED\r\n"),
        ("tab", "Transfer-Encoding:\tchunked\r\n"),
        ("space-before-colon", "Transfer-Encoding : chunked\r\n"),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n"),
        (
            "twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("identity", "Transfer-Encoding: identity, chunked\r\n"),
        ("not-last", "Transfer-Encoding: chunked, identity\r\n"),
        ("unknown", "Transfer-Encoding: xchunked\r\n"),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n"),
        ("vertical-tab", "Transfer-Encoding: \x0bchunked\r\n"),
        ("bare-cr", "X: a\rTransfer-Encoding: chunked\r\n"),
        ("bare-lf", "X: a\nTransfer-Encoding: chunked\r\n"),
        ("nul", "Transfer-Encoding: chunked\0\r\n"),
    ] {
        add(&format!("chunked/{name}"), value, &chunked);
        let both = format!("{value}Content-Length: {}\r\n", chunked.len());
        add(&format!("chunked-and-length/{name}"), &both, &chunked);
        let short = format!("Content-Length: 4\r\n{value}");
        add(
            &format!("short-length-and-chunked/{name}"),
            &short,
            &chunked,
        );
    }
    for (name, value) in [
        ("body", format!("Content-Length: {length}\r\n")),
        (
            "two",
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        ),
        (
            "two-turned",
            format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        ),
        ("list", format!("Content-Length: {length}, {length}\r\n")),
        ("plus", format!("Content-Length: +{length}\r\n")),
        ("minus", format!("Content-Length: -{length}\r\n")),
        ("hexadecimal", format!("Content-Length: {length:#x}\r\n")),
        ("space-within", "Content-Length: 1 1\r\n".to_owned()),
        (
            "huge",
            "Content-Length: 99999999999999999999999\r\n".to_owned(),
        ),
        (
            "space-before-colon",
            format!("Content-Length : {length}\r\n"),
        ),
        ("folded", format!("Content-Length:\r\n {length}\r\n")),
    ] {
        add(&format!("length/{name}"), &value, HIDDEN);
    }
    all
}

#[test]
fn no_request_hides_in_another() {
    scene::run("rough_smuggled", async |scene| {
        let (upstream, up, address) = start(scene).await?;
        let all = smuggled();
        for (name, bytes) in &all {
            let answer = raw::exchange(address, bytes).await.context(name.clone())?;
            let answer = String::from_utf8_lossy(&answer);
            let answers = answer.matches("HTTP/1.1 ").count();
            ensure!(answers == 1, "{name}: {answers} answers:\n{answer}");
            ensure!(answer.starts_with("HTTP/1.1 400 "), "{name}:\n{answer}");
        }
        let asked = upstream.ledger().describe();
        ensure!(asked.is_empty(), "upstream was asked:\n{asked}");
        println!("{} ways to hide a request", all.len());
        // Honest requests one after the other in one packet are each answered, in their order.
        let mut bytes = "GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n".repeat(99);
        bytes += "GET /v2/UPPER/tags/list HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let answer = raw::exchange(address, bytes.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer);
        let statuses: Vec<_> = answer.matches("HTTP/1.1 200").collect();
        ensure!(statuses.len() == 99, "{} pings", statuses.len());
        let last = answer.rfind("HTTP/1.1 ").context("no answer")?;
        ensure!(
            answer[last..].starts_with("HTTP/1.1 400"),
            "{}",
            &answer[last..]
        );
        ensure!(!up.output().contains("panicked"));
        Ok(())
    });
}

/// The times that requests for a small manifest take, one after the other, sorted.
async fn times(client: &Client, path: &str, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let answer = client.get(path).await?;
        ensure!(answer.status == 200, "{}", answer.describe());
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times)
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// Connections that say nothing.
const IDLE: u32 = 8192;
/// Connections that say little.
const DAWDLING: usize = 150;

/// One that has been served and says nothing more.
async fn idle(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n")
        .await?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await?;
    ensure!(answer[..read].starts_with(b"HTTP/1.1 200"));
    Ok(stream)
}

/// One that sends a byte of its request now and then, for as long as it may: at least two seconds
/// and not for ever.
async fn loris(address: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect(address).await?;
    let began = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let drip = async {
        for byte in b"GET /v2/ HTTP/1.1\r\nHost: h\r\nX: "
            .iter()
            .chain([b'a'; 600].iter())
        {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reading.read_to_end(&mut rest) => {}
    }
    Ok(began.elapsed())
}

#[test]
fn others_are_served_while_thousands_idle_or_dawdle() {
    scene::run("rough_idle", async |scene| {
        let limits = rustix::process::Rlimit {
            current: Some(20_000),
            maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limits)?;
        let upstream = Upstream::start(scene).await?;
        let settings = up_settings(scene, &upstream)?;
        // As shells and service managers start it.
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", "ulimit -Sn 1024; exec \"$@\"", "sh"]);
        command.arg(place::darner()?);
        let up = Darner::start_by(scene, "up", "up", &settings, command).await?;
        let address = up.address("registry")?;
        let image = &upstream.images.tiny;
        let client = Client::new(&up, NAME)?;
        client.pull(image).await?;
        let path = format!("{}/manifests/{}", image.repository, image.digest);
        times(&client, &path, 200).await?;
        let before = times(&client, &path, 1000).await?;
        let memory_before = memory(&up).await?;
        let mut connections: Vec<_> = stream::iter(0..IDLE)
            .map(|_| idle(address))
            .buffer_unordered(64)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        let beside_idle = times(&client, &path, 1000).await?;
        let mut dawdling = JoinSet::new();
        for _ in 0..DAWDLING {
            dawdling.spawn(loris(address));
        }
        let during = times(&client, &path, 1000).await?;
        let each = (memory(&up).await? - memory_before) / f64::from(IDLE);
        println!(
            "p99 {:?} before, {:?} beside {IDLE} idle connections, {:?} with {DAWDLING} dawdling ones too; \
             {each:.0} bytes for each",
            p99(&before),
            p99(&beside_idle),
            p99(&during)
        );
        // This machine does other things too: what is held against the server is a lasting delay.
        let bound = (2 * p99(&before)).max(Duration::from_millis(100));
        ensure!(p99(&during) <= bound, "{:?} > {bound:?}", p99(&during));
        ensure!(each < 40_000.0, "{each} bytes for each idle connection");
        while let Some(lasted) = dawdling.join_next().await {
            let lasted = lasted??;
            ensure!(lasted < Duration::from_secs(20), "it may dawdle {lasted:?}");
        }
        // Those that idle are still there, within their time.
        let alive = connections.last_mut().context("none")?;
        alive
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n")
            .await?;
        let mut answer = [0; 12];
        alive.read_exact(&mut answer).await?;
        ensure!(answer == *b"HTTP/1.1 200");
        Ok(())
    });
}
