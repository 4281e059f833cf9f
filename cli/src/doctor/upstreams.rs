//! The registries, asked as the mirror asks them: whether they answer, take the credentials they are
//! shown, and how much they still let us ask; and by the way whether the clock is right.

use std::time::{Duration, SystemTime};

use darner_mirror::upstream::{Access, Upstream, UpstreamError, UpstreamErrorKind, Upstreams};
use darner_proto::name::{Reference, RegistryName, RepositoryName};
use darner_service::config::KNOWN;
use darner_service::metrics::Metrics;
use darner_service::settings::{self, Settings};
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use futures_util::future::join_all;
use reqwest::header::DATE;
use tokio::time::timeout;

use super::finding::Finding;
use crate::pull::Image;

/// Longer than the mirror waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// A date is compared with whoever gives one first, and does not wait for the others.
const DATE_PATIENCE: Duration = Duration::from_secs(5);
/// Signed tokens and certificates are good for minutes; a request takes seconds.
const SKEW: Duration = Duration::from_secs(30);
const BAD_SKEW: Duration = Duration::from_secs(300);
/// With fewer requests left, a rollout may not get through.
const FEW: u64 = 20;
/// What any registry can say no to. That of Docker Hub is there.
const PROBE: (&str, &str) = ("library/hello-world", "latest");

/// All of them at once. Those that nobody configured may well be out of reach.
pub(super) async fn look(settings: &Settings, images: &[Image]) -> Vec<Finding> {
    let metrics = Metrics::default();
    let upstreams = match Upstreams::new(&settings.upstreams, &metrics, &Shutdown::default()) {
        Ok(upstreams) => upstreams,
        Err(error) => {
            return vec![
                Finding::failure("upstream", "", with_causes(&error))
                    .fix("correct the [[upstream]] of that name"),
            ];
        }
    };
    let asked = settings.upstreams.iter().filter_map(|given| {
        let upstream = upstreams.get(&given.name)?;
        Some(ask(given, upstream, images))
    });
    let mut findings: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    findings.extend(strangers(settings, images));
    findings.extend(left(&metrics.encode().unwrap_or_default()));
    findings.push(clock(&settings.upstreams).await);
    findings
}

/// Whether it is there without anybody having named it.
fn is_known(given: &settings::Upstream) -> bool {
    let (name, url) = (given.name.as_str(), given.url.as_str());
    KNOWN.contains(&(name, url)) && !has_credentials(given)
}

fn has_credentials(upstream: &settings::Upstream) -> bool {
    upstream.credentials.is_some()
        || upstream.credentials_file.is_some()
        || upstream.credential_helper.is_some()
}

/// One registry: about the images that are named, else whether it answers at all.
async fn ask(given: &settings::Upstream, upstream: Upstream, images: &[Image]) -> Vec<Finding> {
    let of_it = images
        .iter()
        .filter(|image| image.source.registry == given.name);
    let mut findings = Vec::new();
    for image in of_it {
        let (repository, reference) = (&image.source.repository, &image.reference);
        let answer = head(&upstream, repository, reference).await;
        findings.push(about_image(given, image, answer));
    }
    if findings.is_empty() {
        let (repository, tag) = PROBE;
        let (Ok(repository), Ok(tag)) = (repository.parse(), tag.parse()) else {
            return findings;
        };
        let answer = head(&upstream, &repository, &Reference::Tag(tag)).await;
        findings.push(about_registry(given, answer));
    }
    findings
}

/// The answer, or none in time.
type Answer = Option<Result<(), UpstreamError>>;

async fn head(upstream: &Upstream, repository: &RepositoryName, reference: &Reference) -> Answer {
    let head = upstream.head_manifest(repository, reference, Access::Configured);
    let answer = timeout(PATIENCE, head).await.ok()?;
    Some(answer.map(drop))
}

fn subject(given: &settings::Upstream) -> String {
    format!("{} ({})", given.name, given.url)
}

fn about_image(given: &settings::Upstream, image: &Image, answer: Answer) -> Finding {
    let subject = subject(given);
    let Some(answer) = answer else {
        return unreachable(Finding::failure("upstream", subject, silent()));
    };
    let with = match has_credentials(given) {
        true => "with the configured credentials",
        false => "without credentials",
    };
    let Err(error) = answer else {
        return Finding::ok("upstream", subject, format!("has {image}, read {with}"));
    };
    let found = format!("{image}, asked {with}: {}", with_causes(&error));
    let failed = Finding::failure("upstream", subject, found);
    match error.kind() {
        UpstreamErrorKind::Denied => failed.fix(
            "give the [[upstream]] credentials that may read it, or correct those it has; callers \
             with credentials of their own get it nevertheless",
        ),
        UpstreamErrorKind::NotFound => failed.fix("check the spelling of the image"),
        UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid => unreachable(failed),
    }
}

fn about_registry(given: &settings::Upstream, answer: Answer) -> Finding {
    let subject = subject(given);
    let found = match answer {
        None => silent(),
        Some(Ok(())) => return Finding::ok("upstream", subject, "answers"),
        Some(Err(error)) => match error.kind() {
            UpstreamErrorKind::NotFound => return Finding::ok("upstream", subject, "answers"),
            UpstreamErrorKind::Denied if !has_credentials(given) => {
                return Finding::ok("upstream", subject, "answers, and asks for credentials");
            }
            UpstreamErrorKind::Denied => {
                let found = format!("answers, and refuses: {}", with_causes(&error));
                return Finding::warning("upstream", subject, found)
                    .fix("name an image that the credentials may read with --image, to be sure");
            }
            UpstreamErrorKind::Unavailable | UpstreamErrorKind::Invalid => with_causes(&error),
        },
    };
    unreachable(if is_known(given) {
        Finding::warning("upstream", subject, found)
    } else {
        Finding::failure("upstream", subject, found)
    })
}

fn silent() -> String {
    format!("did not answer within {} s", PATIENCE.as_secs())
}

fn unreachable(finding: Finding) -> Finding {
    finding.fix(
        "check its url, DNS, the firewall, HTTPS_PROXY and NO_PROXY, ca_file if it has a certificate \
         of its own, and client_cert_file if it asks for one",
    )
}

/// Images whose registry the mirror never asks.
fn strangers(settings: &Settings, images: &[Image]) -> Vec<Finding> {
    let is_there = |name: &RegistryName| settings.upstreams.iter().any(|given| given.name == *name);
    let strange = images
        .iter()
        .filter(|image| !is_there(&image.source.registry));
    strange
        .map(|image| {
            let registry = image.source.registry.as_str();
            Finding::failure(
                "upstream",
                registry,
                "is not configured, so it is never asked",
            )
            .fix(format!("add an [[upstream]] with name = \"{registry}\""))
        })
        .collect()
}

/// What registries said of how much is left, as the mirror exports it.
fn left(metrics: &str) -> Vec<Finding> {
    let lines = metrics.lines();
    let told = lines.filter_map(|line| line.strip_prefix("darner_upstream_rate_limit_remaining{"));
    told.filter_map(|line| {
        let (labels, value) = line.split_once("} ")?;
        let left: u64 = value.trim().parse().ok()?;
        let registry = labels.split('"').nth(1)?;
        let found = format!("{left} requests left");
        Some(if left == 0 {
            Finding::failure("rate-limit", registry, found).fix(MORE)
        } else if left < FEW {
            Finding::warning("rate-limit", registry, found).fix(MORE)
        } else {
            Finding::ok("rate-limit", registry, found)
        })
    })
    .collect()
}

const MORE: &str = "give the [[upstream]] credentials of an account with a higher limit, or wait; \
     what the mirrors have goes on to be served";

async fn clock(upstreams: &[settings::Upstream]) -> Finding {
    let asked = upstreams.iter().map(|upstream| date(&upstream.url));
    let dates = join_all(asked).await;
    match dates.into_iter().flatten().next() {
        Some(skew) => skewed(skew),
        None => Finding::note("clock", "", "not compared: no registry told the time"),
    }
}

/// How far a registry's clock is from ours.
async fn date(url: &str) -> Option<Duration> {
    let http = reqwest::Client::builder()
        .timeout(DATE_PATIENCE)
        .build()
        .ok()?;
    let answer = http.get(format!("{url}/v2/")).send().await.ok()?;
    let told = httpdate::parse_http_date(answer.headers().get(DATE)?.to_str().ok()?).ok()?;
    let now = SystemTime::now();
    let ahead = now.duration_since(told);
    Some(ahead.unwrap_or_else(|behind| behind.duration()))
}

fn skewed(skew: Duration) -> Finding {
    let found = format!("within {} s of a registry's", skew.as_secs() + 1);
    let fix = "synchronise it (`timedatectl set-ntp true`): tokens and certificates are refused";
    if skew > BAD_SKEW {
        Finding::failure("clock", "", found).fix(fix)
    } else if skew > SKEW {
        Finding::warning("clock", "", found).fix(fix)
    } else {
        Finding::ok("clock", "", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_is_left_is_read_as_it_is_exported() {
        let text = "# TYPE x gauge\ndarner_upstream_rate_limit_remaining{registry=\"docker.io\"} 7\n\
            darner_upstream_rate_limit_remaining{registry=\"a\"} 0\n\
            darner_upstream_rate_limit_remaining{registry=\"b\"} 90\n";
        let levels: Vec<_> = left(text).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Failure, Level::Ok]);
        assert_eq!(left(text)[0].subject, "docker.io");
    }

    #[test]
    fn a_clock_may_be_off_by_seconds() {
        for (seconds, level) in [(0, Level::Ok), (40, Level::Warning), (4000, Level::Failure)] {
            assert_eq!(
                skewed(Duration::from_secs(seconds)).level,
                level,
                "{seconds}"
            );
        }
    }
}
