//! The decision against a model that is written another way, in a world of tenants whose rights
//! change and a registry that comes and goes.
//!
//! The machine keeps grants; the model keeps everything that ever happened and looks back over it.

use super::*;

mod tickets;

const MINUTE: Duration = Duration::from_secs(60);
const TENANTS: usize = 2;

/// What a request ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Content,
    StaleContent,
    /// Upstream's own answer to this caller.
    Upstreams,
    Aside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registry {
    Up,
    Down,
    Limiting,
}

/// As clients were seen to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Shows a token.
    Containerd,
    /// Shows a password, on this machine.
    Podman,
    /// Shows a password across the network.
    Distant,
    /// Shows nothing to mirrors.
    Docker,
}

/// Whose credential is shown: a tenant's, in one of its editions. A later edition replaces the
/// earlier ones.
type Credential = (usize, u32);

#[derive(Debug, Clone, Copy)]
struct Request {
    client: Client,
    /// The repository is its tenant's.
    repository: usize,
    credential: Option<Credential>,
    target: Target,
}

/// The registry's own mind.
struct World {
    registry: Registry,
    /// It was down a moment ago, as far as the mirror knows.
    down_lately: bool,
    edition: [u32; TENANTS],
    /// A tenant's right to its own repository.
    allowed: [bool; TENANTS],
}

impl World {
    fn new() -> Self {
        Self {
            registry: Registry::Up,
            down_lately: false,
            edition: [0; TENANTS],
            allowed: [true; TENANTS],
        }
    }

    fn admits(&self, repository: usize, (tenant, edition): Credential) -> bool {
        tenant == repository && edition == self.edition[tenant] && self.allowed[tenant]
    }

    fn proof(&self, request: &Request) -> Proof {
        let credential = request.credential.expect("only who shows one is proved");
        match self.registry {
            Registry::Down | Registry::Limiting => Proof::Unreachable,
            Registry::Up if self.admits(request.repository, credential) => {
                Proof::Granted { life: GRANT_FOR }
            }
            Registry::Up => Proof::Refused,
        }
    }
}

fn key(request: &Request, (tenant, edition): Credential) -> GrantKey {
    let mut key = [0; 32];
    key[0] = request.repository as u8;
    key[1] = tenant as u8;
    key[2..6].copy_from_slice(&edition.to_be_bytes());
    GrantKey(key)
}

/// The machine, driven as the front end drives it.
fn decide(grants: &mut Grants, world: &World, now: Duration, request: &Request) -> Outcome {
    let caller = match (request.client, request.credential) {
        (Client::Docker, _) | (_, None) => Caller::Nobody,
        (Client::Distant, Some(_)) => Caller::Exposed,
        (_, Some(credential)) => Caller::Shown(key(request, credential)),
    };
    let ask = Ask {
        caller,
        target: request.target,
    };
    let first = match world.down_lately {
        true => grants.without_upstream(now, &ask),
        false => grants.begin(now, &ask),
    };
    let step = match first {
        Step::Prove => grants.proved(now, &ask, world.proof(request)),
        step => step,
    };
    match step {
        Step::Serve { stale: false } => Outcome::Content,
        Step::Serve { stale: true } => Outcome::StaleContent,
        Step::Relay => Outcome::Upstreams,
        Step::StepAside => Outcome::Aside,
        Step::Prove => panic!("asked twice"),
    }
}

/// Everything upstream has ever said: when, to whom, about which repository, and what.
#[derive(Default)]
struct Model {
    said: Vec<(Duration, usize, Credential, bool)>,
}

impl Model {
    fn decide(&mut self, world: &World, now: Duration, request: &Request) -> Outcome {
        let Some(credential) = request.credential else {
            return Outcome::Upstreams;
        };
        match request.client {
            Client::Docker => return Outcome::Upstreams,
            Client::Distant => return Outcome::Aside,
            Client::Containerd | Client::Podman => {}
        }
        let repository = request.repository;
        let last_yes = self.last_yes(repository, credential);
        let within = |limit: Duration| last_yes.is_some_and(|when| now - when < limit);
        if request.target == Target::Linked && within(5 * MINUTE) {
            return Outcome::Content;
        }
        let known = [Target::Linked, Target::Tag { known: true }];
        let goes_on = known.contains(&request.target) && within(60 * MINUTE);
        if goes_on && (world.down_lately || world.registry != Registry::Up) {
            return Outcome::StaleContent;
        }
        if world.registry != Registry::Up {
            return Outcome::Aside;
        }
        let yes = world.admits(repository, credential);
        self.said.push((now, repository, credential, yes));
        if yes {
            Outcome::Content
        } else {
            Outcome::Upstreams
        }
    }
}

impl Model {
    /// When upstream last admitted this credential, if it has not refused it since.
    fn last_yes(&self, repository: usize, credential: Credential) -> Option<Duration> {
        let about = |said: &&(Duration, usize, Credential, bool)| {
            said.1 == repository && said.2 == credential
        };
        match self.said.iter().rev().find(about) {
            Some((when, _, _, true)) => Some(*when),
            _ => None,
        }
    }

    fn left(&self, now: Duration, request: &Request) -> Duration {
        let credential = request.credential.expect("only who shows one has a grant");
        let yes = self.last_yes(request.repository, credential);
        yes.map_or(Duration::ZERO, |when| {
            (when + 5 * MINUTE).saturating_sub(now)
        })
    }
}

const CLIENTS: [Client; 4] = [
    Client::Containerd,
    Client::Podman,
    Client::Distant,
    Client::Docker,
];
const TARGETS: [Target; 4] = [
    Target::Linked,
    Target::Unlinked,
    Target::Tag { known: true },
    Target::Tag { known: false },
];
const REGISTRIES: [Registry; 3] = [Registry::Up, Registry::Down, Registry::Limiting];

/// How a credential came to be what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    None,
    Right,
    RightAndUsed(Duration),
    OtherTenants,
    Replaced,
    /// Used, and the right was taken away since.
    Revoked(Duration),
}

/// Tells a story to machine and model alike; the credential that is shown at its end, and the time.
fn tell(
    story: Story,
    repository: usize,
    (grants, model, world): (&mut Grants, &mut Model, &mut World),
) -> (Option<Credential>, Duration) {
    let own = (repository, 0);
    let mut use_it = |world: &World| {
        let request = Request {
            client: Client::Containerd,
            repository,
            credential: Some(own),
            target: Target::Unlinked,
        };
        let outcomes = (
            decide(grants, world, MINUTE, &request),
            model.decide(world, MINUTE, &request),
        );
        assert_eq!(outcomes, (Outcome::Content, Outcome::Content));
    };
    match story {
        Story::None => (None, MINUTE),
        Story::Right => (Some(own), MINUTE),
        Story::OtherTenants => (Some((1 - repository, 0)), MINUTE),
        Story::Replaced => {
            world.edition[repository] = 1;
            (Some(own), MINUTE)
        }
        Story::RightAndUsed(ago) => {
            use_it(world);
            (Some(own), MINUTE + ago)
        }
        Story::Revoked(ago) => {
            use_it(world);
            world.allowed[repository] = false;
            (Some(own), MINUTE + ago)
        }
    }
}

#[test]
fn every_combination_is_decided_as_the_model_says() {
    let ages = [1, 299, 300, 301, 3599, 3600, 4000].map(Duration::from_secs);
    let mut stories = vec![
        Story::None,
        Story::Right,
        Story::OtherTenants,
        Story::Replaced,
    ];
    stories.extend(ages.map(Story::RightAndUsed));
    stories.extend(ages.map(Story::Revoked));
    let mut combinations = 0;
    for (story, client, target) in triples(&stories) {
        for (repository, registry, down_lately) in places() {
            let (mut grants, mut model) = (Grants::default(), Model::default());
            let mut world = World::new();
            let told = (&mut grants, &mut model, &mut world);
            let (credential, now) = tell(story, repository, told);
            (world.registry, world.down_lately) = (registry, down_lately);
            let request = Request {
                client,
                repository,
                credential,
                target,
            };
            let expected = model.decide(&world, now, &request);
            let found = decide(&mut grants, &world, now, &request);
            let where_it_was = (registry, down_lately);
            assert_eq!(found, expected, "{story:?} {where_it_was:?} {request:?}");
            check_safety(story, &request, found);
            combinations += 1;
        }
    }
    assert_eq!(combinations, 2 * 18 * 4 * 4 * 3 * 2);
}

/// Whose repository, and how its registry is and was.
fn places() -> impl Iterator<Item = (usize, Registry, bool)> {
    let of_registry = |registry| [(registry, false), (registry, true)];
    let registries = REGISTRIES.into_iter().flat_map(of_registry);
    registries.flat_map(|(registry, lately)| [0, 1].map(|tenant| (tenant, registry, lately)))
}

fn triples(stories: &[Story]) -> impl Iterator<Item = (Story, Client, Target)> {
    let of_client = |story| CLIENTS.map(|client| (story, client));
    let pairs = stories.iter().copied().flat_map(of_client);
    pairs.flat_map(|(story, client)| TARGETS.map(|target| (story, client, target)))
}

/// What must hold whatever the model says.
fn check_safety(story: Story, request: &Request, found: Outcome) {
    let served = matches!(found, Outcome::Content | Outcome::StaleContent);
    let shown = matches!(request.client, Client::Containerd | Client::Podman);
    assert!(shown || !served, "{request:?}");
    match story {
        Story::None | Story::OtherTenants | Story::Replaced => assert!(!served, "{request:?}"),
        Story::Revoked(ago) => assert!(ago < 60 * MINUTE || !served, "{request:?}"),
        Story::Right | Story::RightAndUsed(_) => {}
    }
}

/// A generator whose every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// Changes the world now and then.
fn turn(world: &mut World, random: &mut Random) {
    match random.below(40) {
        0..6 => world.registry = random.of(&REGISTRIES),
        6 => world.edition[random.below(2) as usize] += 1,
        7 => {
            let tenant = random.below(2) as usize;
            world.allowed[tenant] = !world.allowed[tenant];
        }
        12..15 => world.down_lately = !world.down_lately,
        8..12 => {
            world.registry = Registry::Up;
            world.allowed = [true; 2];
        }
        _ => {}
    }
}

/// Runs this many decisions in sequences of five hundred and counts how each ended; and last, how
/// many tickets were honoured and refused.
fn run(decisions: u64, seed: u64) -> ([u64; 4], [u64; 2]) {
    let mut random = Random(seed);
    let (mut counts, mut tickets) = ([0; 4], [0; 2]);
    for _ in 0..decisions / 500 {
        let (mut grants, mut model, mut world) =
            (Grants::default(), Model::default(), World::new());
        let mut now = Duration::ZERO;
        let mut seed_node = tickets::Seed::new();
        for _ in 0..500 {
            now += Duration::from_secs(random.of(&[0, 1, 20, 299, 300, 301, 3000, 3600]));
            turn(&mut world, &mut random);
            let tenant = random.below(2) as usize;
            let edition = world.edition[tenant].saturating_sub(random.of(&[0, 0, 0, 1]));
            let request = Request {
                client: random.of(&CLIENTS),
                repository: random.below(2) as usize,
                credential: random.of(&[None, Some((tenant, edition)), Some((tenant, edition))]),
                target: random.of(&TARGETS),
            };
            let expected = model.decide(&world, now, &request);
            let found = decide(&mut grants, &world, now, &request);
            assert_eq!(found, expected, "seed {seed}, at {now:?}: {request:?}");
            if let Some(credential) = request.credential {
                // What a ticket between nodes may last at most.
                let left = grants.left(&key(&request, credential), now);
                assert_eq!(left, model.left(now, &request), "seed {seed}, at {now:?}");
                let proved = model.last_yes(request.repository, credential);
                let lasts = match found {
                    Outcome::Content => Some(left),
                    Outcome::StaleContent => Some(super::super::tickets::TICKET_FOR),
                    Outcome::Upstreams | Outcome::Aside => None,
                };
                if let (Some(left), Some(proved)) = (lasts, proved) {
                    let times = (now, proved, left);
                    seed_node.give(&mut random, request.repository, times);
                }
            }
            seed_node.show(&mut random, now);
            counts[found as usize] += 1;
        }
        tickets[0] += seed_node.honoured;
        tickets[1] += seed_node.refused;
    }
    (counts, tickets)
}

/// A hundred thousand decisions, or as many as `DARNER_ACCESS_DECISIONS` says.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the length of a test's run is no setting of a process"
)]
fn random_histories_are_decided_as_the_model_says() {
    let asked = std::env::var("DARNER_ACCESS_DECISIONS").ok();
    let decisions = asked.map_or(100_000, |text| text.parse().expect("a number"));
    let (counts, tickets) = run(decisions, 0x9e37_79b9_7f4a_7c15);
    println!("content, stale content, upstream's, aside: {counts:?}");
    println!("tickets honoured, refused: {tickets:?}");
    // Each way to end is met often, or the comparison says little.
    let mut all = counts.iter().chain(&tickets);
    assert!(
        all.all(|count| *count > decisions / 1000),
        "{counts:?} {tickets:?}"
    );
}

#[test]
fn grants_are_bounded_and_the_first_go_first() {
    let mut grants = Grants::default();
    let key = |number: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        GrantKey(key)
    };
    let now = Duration::from_secs(1);
    for number in 0..MAX_GRANTS as u32 + 10 {
        grants.give(key(number), now, GRANT_FOR);
    }
    assert_eq!(grants.len(), MAX_GRANTS);
    assert!(!grants.is_live(&key(9), now) && grants.is_live(&key(10), now));
    // One caller who is granted again and again fills nothing.
    for second in 0..3 * MAX_GRANTS as u64 {
        grants.give(key(7), now + Duration::from_micros(second), GRANT_FOR);
    }
    assert!(grants.order.len() <= 2 * MAX_GRANTS);
    assert!(grants.is_live(&key(7), now + Duration::from_secs(1)));
    // What is over is gone with the next that is given.
    grants.give(key(1), now + STRETCH_FOR + MINUTE, GRANT_FOR);
    assert_eq!(grants.len(), 1);
}
