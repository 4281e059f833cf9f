use super::*;
use proptest::prelude::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn digest(number: u32) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

fn space(free: u64, total: u64) -> Space {
    Space { free, total }
}

#[test]
fn limits_suit_large_and_small_disks() {
    let large = Limits::new(None, space(900 * GIB, 1000 * GIB), 0);
    assert_eq!(large.capacity, 100 * GIB);
    assert_eq!(large.reserve, 50 * GIB);
    let laptop = Limits::new(None, space(40 * GIB, 100 * GIB), 0);
    assert_eq!((laptop.capacity, laptop.reserve), (20 * GIB, 5 * GIB));
    let tiny = Limits::new(None, space(64 * MIB, 64 * MIB), 0);
    assert_eq!((tiny.capacity, tiny.reserve), (32 * MIB, 16 * MIB));
    let told = Limits::new(Some(7 * GIB), space(40 * GIB, 100 * GIB), 0);
    assert_eq!(told.capacity, 7 * GIB);
    // A restart of a filled store changes nothing.
    let restarted = Limits::new(None, space(24 * GIB, 100 * GIB), 16 * GIB);
    assert_eq!(restarted, laptop);
}

#[test]
fn a_disk_that_others_fill_is_relieved() {
    let mut ledger = Ledger::new();
    ledger.limit(Limits {
        capacity: GIB,
        reserve: 100 * MIB,
    });
    for number in 0..10 {
        assert_eq!(ledger.reserve(10 * MIB, GIB, false), Room::Granted);
        ledger.allocated(10 * MIB);
        let last_use = ledger.stamp(u64::from(number));
        let size = 10 * MIB;
        ledger.hold(digest(number), BlobRecord { size, last_use }, Weak::new());
    }
    assert_eq!(ledger.relieve(100 * MIB), []);
    let gone = ledger.relieve(85 * MIB);
    assert_eq!(
        gone,
        [0, 1].map(|number| Victim::Blob(digest(number), 10 * MIB))
    );
    // The disk is short even after the store gave what it could.
    assert_eq!(ledger.reserve(10 * MIB, 50 * MIB, true), Room::Full);
    assert!(matches!(
        ledger.reserve(10 * MIB, 105 * MIB, false),
        Room::After(victims) if victims == [Victim::Blob(digest(2), 10 * MIB)]
    ));
    // What was granted but not yet taken from the disk is not granted twice.
    assert_eq!(ledger.reserve(10 * MIB, 110 * MIB, false), Room::Granted);
    assert!(matches!(
        ledger.reserve(10 * MIB, 110 * MIB, false),
        Room::After(_)
    ));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u32, u64),
    Begin(u32, u64),
    Rest(u32),
    End(u32, bool),
    Touch(u32),
    Remove(u32),
    Suspect(u32, u64),
    Settle(u32, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || 0u32..12;
    let size = || 0..300 * KIB;
    let step = prop_oneof![
        (number(), size()).prop_map(|(number, size)| Step::Put(number, size)),
        (number(), size()).prop_map(|(number, size)| Step::Begin(number, size)),
        number().prop_map(Step::Rest),
        (number(), any::<bool>()).prop_map(|(number, held)| Step::End(number, held)),
        number().prop_map(Step::Touch),
        number().prop_map(Step::Remove),
        (number(), size()).prop_map(|(number, size)| Step::Suspect(number, size)),
        (number(), any::<bool>()).prop_map(|(number, good)| Step::Settle(number, good)),
    ];
    prop::collection::vec(step, 1..80)
}

/// Reserves as the store does; says whether there was room.
fn make_room(ledger: &mut Ledger, size: u64) -> bool {
    loop {
        match ledger.reserve(size, u64::MAX, false) {
            Room::Granted => break,
            Room::Full => return false,
            Room::After(victims) => assert!(!victims.is_empty()),
        }
    }
    ledger.allocated(size);
    true
}

fn hold(ledger: &mut Ledger, number: u32, size: u64) {
    let last_use = ledger.stamp(0);
    ledger.hold(digest(number), BlobRecord { size, last_use }, Weak::new());
}

fn apply(ledger: &mut Ledger, step: &Step) {
    match *step {
        Step::Put(number, size) => {
            if ledger.size_of(&digest(number)).is_none() && make_room(ledger, size) {
                hold(ledger, number, size);
            }
        }
        Step::Begin(number, size) => {
            if ledger.partial(&digest(number)).is_none() && make_room(ledger, size) {
                ledger.begin(digest(number), size, 0);
            }
        }
        Step::Rest(number) => ledger.rest(&digest(number), 0),
        Step::End(number, held) => {
            let size = ledger.partial(&digest(number)).map(|partial| partial.size);
            if let Some(size) = size {
                if held {
                    hold(ledger, number, size);
                }
                ledger.end(&digest(number), held);
            }
        }
        Step::Touch(number) => drop(ledger.touch(&digest(number), 0)),
        Step::Remove(number) => drop(ledger.remove(&digest(number))),
        Step::Suspect(number, size) => {
            if ledger.size_of(&digest(number)).is_none()
                && ledger.unverified(&digest(number)).is_none()
            {
                ledger.suspect(digest(number), size);
            }
        }
        Step::Settle(number, good) => {
            if let Some(size) = ledger.settle(&digest(number), good)
                && good
            {
                hold(ledger, number, size);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_used_is_the_sum_of_what_is_there(steps in steps()) {
        let mut ledger = Ledger::new();
        ledger.limit(Limits { capacity: MIB, reserve: 0 });
        for step in &steps {
            let before = ledger.used;
            apply(&mut ledger, step);
            let blobs: u64 = ledger.blobs.values().map(|blob| footprint(blob.size)).sum();
            let unverified: u64 = ledger.unverified.values().copied().map(footprint).sum();
            let partials: u64 = ledger.partials.values().map(|partial| footprint(partial.size)).sum();
            prop_assert_eq!(ledger.used, blobs + unverified + partials, "after {:?}", step);
            prop_assert_eq!(ledger.unallocated, 0);
            // Only what is found on disk may be more than is allowed.
            if !matches!(step, Step::Suspect(..)) {
                prop_assert!(ledger.used <= MIB.max(before));
            }
            let order: Vec<_> = ledger.by_use.iter().map(|(_, digest)| *digest).collect();
            prop_assert_eq!(order.len(), ledger.blobs.len());
            prop_assert!(order.iter().all(|digest| ledger.blobs.contains_key(digest)));
        }
    }
}
