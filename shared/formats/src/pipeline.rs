//! Work on several threads, in order.
//!
//! ```text
//! next ──┬─ work ──> workers ──> answer
//!        └─ order (the same pieces' answers) ──> take, this thread
//! ```
//!
//! Both queues are bounded. Answers are taken in the order in which the pieces came, so memory does not
//! depend on how long one takes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// Pieces that wait for each worker, so that none is idle while they come slowly for a moment.
const QUEUED_PER_WORKER: usize = 2;

/// A piece to be worked on, and where the answer goes.
type Work<I, O> = (I, SyncSender<O>);

/// Takes pieces from `next` until there are none, has one of `workers` workers made by `worker` work on
/// each, and has `take` take what comes of it, in order. How taking pieces ended and how taking answers did; either
/// stops the other.
pub fn run<I: Send, O: Send, R: Send, T, W: FnMut(I) -> O>(
    workers: usize,
    next: impl FnMut() -> Result<Option<I>, R> + Send,
    worker: impl Fn() -> W + Sync,
    take: impl FnMut(O) -> Result<(), T>,
) -> (Result<(), R>, Result<(), T>) {
    let (work_in, work) = sync_channel::<Work<I, O>>(workers * QUEUED_PER_WORKER);
    let (order_in, order) = sync_channel::<Receiver<O>>(workers * QUEUED_PER_WORKER);
    // It goes with the last worker: whoever sends then is not left waiting.
    let work = Arc::new(Mutex::new(work));
    thread::scope(|scope| {
        for _ in 0..workers {
            let (work, worker) = (Arc::clone(&work), &worker);
            scope.spawn(move || work_on(&work, worker()));
        }
        drop(work);
        let reader = scope.spawn(move || feed(next, &work_in, &order_in));
        // No answer: its worker has panicked, and the scope will.
        let taken = order.into_iter().map_while(|answer| answer.recv().ok()).try_for_each(take);
        let fed = match reader.join() {
            Ok(fed) => fed,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (fed, taken)
    })
}

/// Feeds pieces until there are none left or nobody wants them.
fn feed<I, O, R>(
    mut next: impl FnMut() -> Result<Option<I>, R>,
    work: &SyncSender<Work<I, O>>,
    order: &SyncSender<Receiver<O>>,
) -> Result<(), R> {
    while let Some(piece) = next()? {
        let (answer_in, answer) = sync_channel(1);
        if order.send(answer).is_err() || work.send((piece, answer_in)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Works until there is nothing more.
fn work_on<I, O>(work: &Mutex<Receiver<Work<I, O>>>, mut worker: impl FnMut(I) -> O) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((piece, answer)) = next else { return };
        // Nobody waits for it any more if taking has failed.
        let _ = answer.send(worker(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_come_in_order_however_long_they_take() {
        let mut numbers = 0..200_u64;
        let mut taken = Vec::new();
        let ended = run(
            2,
            || Ok::<_, ()>(numbers.next()),
            || {
                |number| {
                    thread::sleep(Duration::from_micros(number * 7919 % 500));
                    number * 2
                }
            },
            |answer| {
                taken.push(answer);
                Ok::<_, ()>(())
            },
        );
        assert_eq!(ended, (Ok(()), Ok(())));
        assert!(taken.iter().copied().eq((0..200).map(|number| number * 2)), "{taken:?}");
    }

    #[test]
    fn either_end_stops_the_other() {
        let mut count = 0;
        let endless = || {
            count += 1;
            Ok::<_, &str>(Some(count))
        };
        let stop = |answer| if answer < 50 { Ok(()) } else { Err("taken enough") };
        assert_eq!(run(3, endless, || |it| it, stop), (Ok(()), Err("taken enough")));
        let mut numbers = [Ok(Some(1)), Ok(Some(2)), Err("broken")].into_iter();
        let mut taken = 0;
        let ended = run(
            2,
            || numbers.next().unwrap_or(Ok(None)),
            || |it: i32| it,
            |it| {
                taken += it;
                Ok::<_, ()>(())
            },
        );
        assert_eq!((ended, taken), ((Err("broken"), Ok(())), 3));
    }

    #[test]
    fn a_worker_that_panics_ends_it_all() {
        let ended = std::panic::catch_unwind(|| {
            run(
                2,
                || Ok::<_, ()>(Some(1)),
                || |_: i32| -> i32 { panic!("broken") },
                |_| Ok::<_, ()>(()),
            )
        });
        assert!(ended.is_err());
    }
}
