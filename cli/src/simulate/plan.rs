//! What a run is made of: the flags, checked and with their defaults worked out, and the limit that
//! no scheme can beat.

use std::time::Duration;

use super::Args;
use super::fault::Fault;
use super::queue::Chance;

/// A scheduler grants no lease before it has stood this long; pulls begin a little later.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// A run, as planned.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) peers: usize,
    pub(super) seeds: usize,
    pub(super) schedulers: u16,
    pub(super) zones: u16,
    /// The bytes of each content, image by image.
    pub(super) layers: Vec<u64>,
    pub(super) images: usize,
    /// Bytes a second.
    pub(super) down: u64,
    pub(super) up: u64,
    pub(super) upstream: u64,
    pub(super) store_rate: Option<u64>,
    pub(super) slots: u32,
    pub(super) ranges: bool,
    pub(super) in_order: bool,
    /// Layers that a host pulls at a time.
    pub(super) at_once: usize,
    /// Nanoseconds: within a zone, and between zones.
    pub(super) latency: (u64, u64),
    pub(super) upstream_latency: u64,
    pub(super) join: Duration,
    pub(super) settle: Duration,
    pub(super) faults: Vec<Fault>,
    pub(super) chance: Chance,
}

impl Plan {
    pub(super) fn new(args: &Args) -> Result<Self, String> {
        let images = usize::from(args.images);
        let layers = usize::from(args.layers);
        if args.size < (images * layers) as u64 {
            return Err("--size is less than a byte for every layer".to_owned());
        }
        if usize::from(args.zones) > args.peers {
            return Err("--zones is more than there are hosts".to_owned());
        }
        let (near, far) = args.latency;
        Ok(Self {
            peers: args.peers,
            seeds: usize::from(args.seeds),
            schedulers: args.schedulers,
            zones: args.zones,
            layers: (0..images)
                .flat_map(|_| split(args.size, layers as u64))
                .collect(),
            images,
            down: args.link,
            up: args.up_link.unwrap_or(args.link),
            upstream: args.upstream,
            store_rate: args.store,
            slots: args.upload_slots,
            ranges: !args.no_ranges,
            in_order: args.in_order,
            at_once: args.layers_at_once.map_or(layers, usize::from).max(1),
            latency: (super::queue::nanos(near), super::queue::nanos(far)),
            upstream_latency: super::queue::nanos(args.upstream_latency),
            join: args.join,
            settle: SETTLE,
            faults: args.fault.clone(),
            chance: Chance::new(args.seed),
        })
    }

    /// Bytes of all images together.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().sum()
    }

    /// Bytes of one image.
    pub(super) fn image_bytes(&self) -> u64 {
        self.bytes() / self.images as u64
    }

    /// The least time in seconds that any scheme needs, with the capacity that the faults leave:
    /// every byte leaves upstream once, passes each host's downlink, and is uploaded once for each
    /// host that takes it. Liars take and give nothing of use; hosts that die or leave are counted
    /// as not there.
    pub(super) fn bound(&self) -> f64 {
        let image = self.image_bytes() as f64;
        let (mut takers, mut givers) = (1.0, 1.0);
        let mut seeds = self.seeds as f64;
        for fault in &self.faults {
            match fault {
                Fault::Die(share, ..) | Fault::Leave(share, ..) => {
                    takers -= share;
                    givers -= share;
                }
                Fault::Slow(share, part) => givers -= share * (1.0 - part),
                Fault::Liars(share) => givers -= share,
                Fault::Boasters(share) => givers -= share,
                Fault::Seed(_) => seeds -= 1.0,
                Fault::Scheduler(_) | Fault::Upstream(_) => {}
            }
        }
        let (up, down) = (self.up as f64, self.down as f64);
        let peers = self.peers as f64;
        let entry = if seeds > 0.0 {
            (self.upstream as f64).min(seeds * down)
        } else {
            (self.upstream as f64).min(peers * down)
        };
        let capacity = seeds.max(0.0) * up + peers * givers.max(0.0) * up;
        let source = self.bytes() as f64 / entry;
        // Without seeds the first copy comes from upstream and not from an uplink.
        let copies = if seeds > 0.0 {
            peers * takers
        } else {
            peers * takers - 1.0
        };
        source.max(image / down).max(copies * image / capacity)
    }
}

fn split(size: u64, parts: u64) -> impl Iterator<Item = u64> {
    (0..parts).map(move |part| size / parts + u64::from(part < size % parts))
}
