//! Reading a disk on several threads: one can hash while the other waits for the disk.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

const READERS: usize = 2;

/// Does `work` with each item; `told` gets what came of it, from this thread and in no order. Its first
/// error ends all.
pub(super) fn each<'t, T: Sync, R: Send>(
    items: &'t [T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
    mut told: impl FnMut(&'t T, R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        // Dropped when this thread is told enough, which ends the others.
        let results = results;
        for _ in 0..READERS {
            let (next, sender, work) = (&next, sender.clone(), &work);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((item, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        results.into_iter().try_for_each(|(item, result)| told(item, result?))
    })
}
