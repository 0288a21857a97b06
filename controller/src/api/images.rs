//! Images. Everything that reads the store runs on a thread that may block.

use super::{
    Mode, Peer, Problem, Shared, body, code,
    view::{ImageView, ImportRequest, OperationState, OperationView},
};
use crate::images::{Images, StoreError};
use anyhow::Context;
use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use metalcast_shared::id::{ImageRef, Revision};
use std::sync::Arc;

pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<ImageView>>, Problem> {
    let images = blocking(&shared, Images::list).await?;
    Ok(Json(images.into_iter().map(ImageView::from).collect()))
}

/// All revisions of `project/name`, or the one of `project/name@7`.
pub(super) async fn show(
    State(shared): State<Shared>,
    Path((project, name)): Path<(String, String)>,
) -> Result<Json<Vec<ImageView>>, Problem> {
    let wanted = reference(&project, &name)?;
    Ok(Json(find(&shared, &wanted).await?))
}

/// The revisions that are meant; at least one.
async fn find(shared: &Shared, wanted: &ImageRef) -> Result<Vec<ImageView>, Problem> {
    let images = blocking(shared, Images::list).await?;
    let is_wanted = |revision: &Revision| {
        revision.image == wanted.image && wanted.number.is_none_or(|n| n == revision.number)
    };
    let found: Vec<ImageView> = images
        .into_iter()
        .filter(|summary| is_wanted(&summary.revision))
        .map(ImageView::from)
        .collect();
    if found.is_empty() { Err(no_image(wanted)) } else { Ok(found) }
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((project, name)): Path<(String, String)>,
    mode: Result<Query<Mode>, QueryRejection>,
) -> Result<Json<ImageView>, Problem> {
    let (run, wanted) = (mode?.run(), reference(&project, &name)?);
    let ImageRef { image, number: Some(number) } = wanted.clone() else {
        let detail = format!("name the revision to remove, such as {wanted}@1");
        return Err(Problem::new(StatusCode::BAD_REQUEST, code::INVALID, detail));
    };
    let revision = Revision { image, number };
    let gone = find(&shared, &wanted).await?.swap_remove(0);
    shared.service.remove_image(&revision, run, &peer.to_string()).await?;
    Ok(Json(gone))
}

pub(super) async fn import(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<OperationView>), Problem> {
    let ImportRequest { path, name } = body(&bytes)?;
    if !path.is_absolute() {
        let detail = "path must be absolute; it is a directory on the controller's host";
        return Err(Problem::new(StatusCode::BAD_REQUEST, code::INVALID, detail));
    }
    let what = format!("import {} as {name}", path.display());
    let view = shared.operations.begin(what.clone())?;
    if let Err(refusal) = shared.service.note_deed(&peer.to_string(), what).await {
        shared.operations.end(view.id, OperationState::Failed(refusal.to_string()));
        return Err(refusal.into());
    }
    let id = view.id;
    tokio::task::spawn_blocking(move || {
        let operations = &shared.operations;
        let progress = |progress| operations.progress(id, progress);
        let state = match shared.images.import(&path, &name, &progress) {
            Ok(revision) => {
                tracing::info!(%revision, "imported");
                OperationState::Done(revision)
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(image = %name, error, "import failed");
                OperationState::Failed(error)
            }
        };
        operations.end(id, state);
    });
    Ok((StatusCode::ACCEPTED, Json(view)))
}

async fn blocking<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&Images) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let images = Arc::clone(&shared.images);
    let done = tokio::task::spawn_blocking(move || work(&images)).await;
    let done = done.context("working on the image store").map_err(|e| Problem::internal(&e))?;
    done.map_err(|error| match error {
        StoreError::NotFound(_) => {
            Problem::new(StatusCode::NOT_FOUND, code::NOT_FOUND, error.to_string())
        }
        StoreError::NoPartition { .. }
        | StoreError::NoPage { .. }
        | StoreError::Damaged { .. }
        | StoreError::Io { .. } => Problem::internal(&error.into()),
    })
}

fn reference(project: &str, name: &str) -> Result<ImageRef, Problem> {
    format!("{project}/{name}")
        .parse()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, code::INVALID, format!("{error}")))
}

fn no_image(wanted: &ImageRef) -> Problem {
    let detail = format!("there is no image {wanted}; `metalcast image list` shows all");
    Problem::new(StatusCode::NOT_FOUND, code::NOT_FOUND, detail)
}
