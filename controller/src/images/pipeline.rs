//! Work on all processors, in order: see [`metalcast_formats::pipeline`].

use metalcast_formats::pipeline;
use std::thread;

/// More workers than this are never fed by one reader.
const MAX_WORKERS: usize = 16;

/// With as many workers as there are processors.
pub(super) fn run<I: Send, O: Send, R: Send, T, W: FnMut(I) -> O>(
    next: impl FnMut() -> Result<Option<I>, R> + Send,
    worker: impl Fn() -> W + Sync,
    take: impl FnMut(O) -> Result<(), T>,
) -> (Result<(), R>, Result<(), T>) {
    pipeline::run(workers(), next, worker, take)
}

/// As many as there are processors.
pub(super) fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}
