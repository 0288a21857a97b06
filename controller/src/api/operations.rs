//! Things that take longer than a request. They live in memory: what one that was cut short left behind
//! is removed at the next start, and the operation is gone.

use super::{
    Problem, Shared, code,
    view::{OperationState, OperationView},
};
use crate::images::Progress;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Operations that may be under way: each keeps processors busy.
const MAX_RUNNING: usize = 4;

/// Operations that are remembered.
const MAX_KEPT: usize = 64;

#[derive(Default)]
pub(super) struct Operations {
    kept: Mutex<BTreeMap<u64, OperationView>>,
}

impl Operations {
    /// Begins an operation, unless too many are under way.
    pub(super) fn begin(&self, what: String) -> Result<OperationView, Problem> {
        let mut kept = self.kept();
        let running = |view: &OperationView| view.state == OperationState::Running;
        if kept.values().filter(|view| running(view)).count() >= MAX_RUNNING {
            let detail = format!("{MAX_RUNNING} operations are under way; wait for one to end");
            return Err(Problem::new(StatusCode::CONFLICT, code::BUSY, detail));
        }
        if kept.len() >= MAX_KEPT {
            let oldest = kept.iter().find(|(_, view)| !running(view)).map(|(id, _)| *id);
            oldest.map(|id| kept.remove(&id));
        }
        let id = kept.keys().last().map_or(1, |last| last + 1);
        let view = OperationView {
            id,
            what,
            state: OperationState::Running,
            file: String::new(),
            done_bytes: 0,
            total_bytes: 0,
        };
        kept.insert(id, view.clone());
        Ok(view)
    }

    pub(super) fn progress(&self, id: u64, progress: Progress) {
        if let Some(view) = self.kept().get_mut(&id) {
            view.file = progress.file;
            view.done_bytes = progress.done_bytes;
            view.total_bytes = progress.total_bytes;
        }
    }

    pub(super) fn end(&self, id: u64, state: OperationState) {
        if let Some(view) = self.kept().get_mut(&id) {
            view.state = state;
        }
    }

    fn get(&self, id: u64) -> Option<OperationView> {
        self.kept().get(&id).cloned()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, OperationView>> {
        // Each change is one assignment, so the map is whole even where a thread panicked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<OperationView>, Problem> {
    let found = id.parse().ok().and_then(|id| shared.operations.get(id));
    found.map(Json).ok_or_else(|| {
        let detail = "no such operation; the controller may have been restarted since it began";
        Problem::new(StatusCode::NOT_FOUND, code::NOT_FOUND, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_bounded_and_the_oldest_ended_one_is_forgotten() {
        let operations = Operations::default();
        let end = |id| operations.end(id, OperationState::Failed("x".into()));
        for _ in 0..MAX_RUNNING {
            operations.begin("import".into()).unwrap();
        }
        assert_eq!(operations.begin("import".into()).unwrap_err().code, code::BUSY);
        end(2);
        for _ in 0..MAX_KEPT {
            let id = operations.begin("import".into()).unwrap().id;
            end(id);
        }
        assert_eq!(operations.kept().len(), MAX_KEPT);
        assert!(operations.get(1).is_some(), "it is still under way");
        assert!(operations.get(2).is_none());
    }
}
