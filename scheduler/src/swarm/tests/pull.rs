//! A whole cold pull, played to its end between nodes that do as mirrors do.

use super::*;

const PIECES: u32 = 150;
const MIRRORS: usize = 40;

/// The nodes' side.
#[derive(Default)]
struct Nodes {
    held: BTreeMap<String, PieceSet>,
    leases: BTreeMap<String, Lease>,
    parents: BTreeMap<String, Vec<String>>,
}

impl Nodes {
    /// Does what the scheduler has said to `name`.
    fn hear(&mut self, cluster: &mut Cluster, name: &str) {
        for message in cluster.heard(name) {
            match message {
                SchedulerMessage::Lease(lease) => self.leased(cluster, name, lease),
                SchedulerMessage::Parents { parents, .. } => {
                    let told = parents.iter().map(|one| one.host.id.to_string());
                    self.parents.insert(name.to_owned(), told.collect());
                }
                SchedulerMessage::NoSource { .. } => panic!("no source for {name}"),
                _ => {}
            }
        }
    }

    fn leased(&mut self, cluster: &mut Cluster, name: &str, lease: Lease) {
        if !self.held.contains_key(name) {
            let nothing = PieceSet::empty(PIECES);
            self.held.insert(name.to_owned(), nothing.clone());
            let ranges = lease.ranges.clone();
            let mut joined = join(PIECES, &[]);
            joined.lease = Some(LeaseClaim {
                lease: lease.lease,
                ranges,
            });
            cluster.join(name, joined);
        }
        self.leases.insert(name.to_owned(), lease);
    }

    /// What `name` gains in a round: a reader four pieces, a child three from each of its parents.
    /// Also how many of them come from upstream.
    fn gain(&self, name: &str, chance: u64) -> (PieceSet, u64) {
        let mine = &self.held[name];
        let mut gain = PieceSet::empty(PIECES);
        let open = match self.leases.get(name) {
            Some(lease) => held(PIECES, &lease.ranges),
            None => PieceSet::empty(PIECES),
        };
        for index in open.iter().filter(|one| !mine.contains(*one)).take(4) {
            gain.insert(index);
        }
        let read = u64::from(gain.len());
        for parent in self.parents.get(name).into_iter().flatten() {
            let Some(theirs) = self.held.get(parent) else {
                continue;
            };
            let mut useful = theirs.clone();
            useful.subtract(mine);
            useful.subtract(&open);
            let skip = chance % u64::from(useful.len().max(1));
            let skip = usize::try_from(skip).expect("small");
            for index in useful.iter().skip(skip).take(3) {
                gain.insert(index);
            }
        }
        (gain, read)
    }

    /// A round of transfers, told to the scheduler. Returns the pieces read from upstream.
    fn transfer(&mut self, cluster: &mut Cluster, chance: u64) -> u64 {
        let names: Vec<_> = self.held.keys().cloned().collect();
        let gains: Vec<_> = names.iter().map(|name| self.gain(name, chance)).collect();
        let mut read = 0;
        for (name, (gain, fetched)) in names.iter().zip(gains) {
            read += fetched;
            if gain.is_empty() {
                continue;
            }
            self.held.get_mut(name).expect("takes part").union(&gain);
            let progress = Progress {
                task: task(),
                gained: gain.runs(),
                upstream_bytes: 0,
                upstream_ranges: self.leases.contains_key(name).then_some(true),
                rates: Vec::new(),
            };
            cluster.say(name, NodeMessage::Progress(progress));
        }
        read
    }

    /// Kills a reader. Returns how many pieces only it held.
    fn kill_reader(&mut self, cluster: &mut Cluster) -> u64 {
        let reader = self.leases.keys().next().expect("somebody reads").clone();
        let mut alone = self.held.remove(&reader).expect("takes part");
        for other in self.held.values() {
            alone.subtract(other);
        }
        self.leases.remove(&reader);
        cluster.die(&reader);
        u64::from(alone.len())
    }
}

/// Returns the pieces read from upstream, without those that were lost with a reader.
fn play(seed: u64, reader_dies: bool) -> u64 {
    let names: Vec<_> = (0..MIRRORS).map(|n| format!("m-{n}")).collect();
    let mirrors: Vec<_> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::of(&["s-1", "s-2", "s-3"], &mirrors);
    let mut nodes = Nodes::default();
    for name in &names {
        cluster.join(name, join(PIECES, &[]));
        nodes.held.insert(name.clone(), PieceSet::empty(PIECES));
    }
    let mut read = 0;
    for round in 0..400 {
        let live: Vec<_> = cluster.nodes.keys().cloned().collect();
        for name in live {
            nodes.hear(&mut cluster, &name);
        }
        read += nodes.transfer(&mut cluster, mix(seed, round));
        if reader_dies && round == 6 {
            read -= nodes.kill_reader(&mut cluster);
        }
        cluster.pass(100);
        if names.iter().all(|name| nodes.held[name].is_full()) {
            return read;
        }
    }
    panic!("seed {seed}: not everybody is done after 40 seconds");
}

#[test]
fn everybody_gets_everything_and_upstream_is_read_once() {
    for seed in 0..3 {
        assert_eq!(play(seed, false), u64::from(PIECES), "seed {seed}");
    }
}

#[test]
fn when_a_reader_dies_only_what_it_alone_held_is_read_again() {
    for seed in 0..3 {
        assert_eq!(play(seed, true), u64::from(PIECES), "seed {seed}");
    }
}
