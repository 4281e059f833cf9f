//! The store's own thread: looks at the sizes of files, verifies those the index does not know,
//! keeps the disk's reserve free when others fill it, and removes downloads nobody goes on with.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::error::StoreError;
use super::{Inner, lock};

/// How often the disk is looked at: well within the half minute in which a full one is to be
/// relieved.
const ROUND: Duration = Duration::from_secs(10);

/// Starts the thread. It ends when the sender of `stop` is dropped.
pub(super) fn start(store: &Arc<Inner>, stop: Receiver<()>) -> Result<(), StoreError> {
    let weak = Arc::downgrade(store);
    std::thread::Builder::new()
        .name("store-keeper".to_owned())
        .spawn(move || keep(&weak, &stop))
        .map(drop)
        .map_err(|error| StoreError::io("start a thread for", store.layout.root(), error))
}

fn keep(store: &Weak<Inner>, stop: &Receiver<()>) {
    check_sizes(store, stop);
    loop {
        verify_unknown(store, stop);
        match store.upgrade() {
            Some(store) => store.tidy(),
            None => return,
        }
        match stop.recv_timeout(ROUND) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

/// Looks once at the size of every file that was there at the start.
fn check_sizes(store: &Weak<Inner>, stop: &Receiver<()>) {
    let digests = match store.upgrade() {
        Some(held) => lock(&held.ledger).keys(),
        None => return,
    };
    for digest in digests {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        let Some(held) = store.upgrade() else { return };
        held.check_size(&digest);
    }
}

/// Verifies the files that are not in the index, one after the other.
fn verify_unknown(store: &Weak<Inner>, stop: &Receiver<()>) {
    let stopped = || stop.try_recv() == Err(TryRecvError::Disconnected);
    while !stopped() {
        let Some(held) = store.upgrade() else { return };
        let next = lock(&held.ledger).next_unverified();
        let Some((digest, size)) = next else { return };
        let file = held.open_unverified(&digest);
        // The store can be closed while a file is being read.
        drop(held);
        let Some(file) = file else { continue };
        let found = super::disk::has_digest(&file, size, &digest, stopped);
        if let (Some(held), Some(found)) = (store.upgrade(), found.transpose()) {
            held.settle_file(&digest, found);
        }
    }
}
