//! Images. Everything that reads the store runs on a thread that may block.

use super::{
    Mode, Peer, Problem, Shared, body, code, streams,
    view::{
        ExportRequest, ImageView, ImportRequest, OperationResult, OperationState, OperationView,
        StreamRequest,
    },
};
use crate::images::{Diff, DiskOptions, ImageSummary, Images, Progress, StoreError, clones};
use anyhow::{Context, ensure};
use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use metalcast_shared::id::{ImageName, ImageRef, Revision};
use serde::Deserialize;
use std::{path::Path as FilePath, sync::Arc};

pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<ImageView>>, Problem> {
    let images = of_operators(&shared).await?;
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

/// All images but those that only a job needs.
async fn of_operators(shared: &Shared) -> Result<Vec<ImageSummary>, Problem> {
    let mut images = blocking(shared, Images::list).await?;
    images.retain(|image| !clones::is_clone(&image.revision.image));
    Ok(images)
}

/// The revisions that are meant; at least one.
async fn find(shared: &Shared, wanted: &ImageRef) -> Result<Vec<ImageView>, Problem> {
    let images = of_operators(shared).await?;
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
    let ImportRequest { path, name, disk } = body(&bytes)?;
    must_be_operators(&name)?;
    must_be_absolute(&path)?;
    let what = format!("import {} as {name}", path.display());
    let work = move |images: &Images, progress: &dyn Fn(Progress)| {
        let revision = if path.is_dir() {
            let are_for_disks = disk != DiskOptions::default();
            ensure!(
                !are_for_disks,
                "{} is a directory; a device name, --exact and --force are for disks",
                path.display()
            );
            images.import(&path, &name, progress)?
        } else {
            images.import_file(&path, &disk, &name, progress)?
        };
        Ok(OperationResult::Imported(revision))
    };
    operate(shared, what, Some(&peer), work).await
}

/// Begins an import of what is then sent to the operation.
pub(super) async fn import_stream(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<OperationView>), Problem> {
    let StreamRequest { name, disk } = body(&bytes)?;
    must_be_operators(&name)?;
    let what = format!("import standard input as {name}");
    let (sender, mut stream) = streams::channel();
    let work = move |images: &Images, progress: &dyn Fn(Progress)| {
        let revision = images.import_stream(&mut stream, &disk, &name, progress)?;
        Ok(OperationResult::Imported(revision))
    };
    let begun = operate(shared.clone(), what, Some(&peer), work).await?;
    shared.streams.expect(begun.1.id, sender);
    Ok(begun)
}

pub(super) async fn check(
    State(shared): State<Shared>,
    Path((project, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<OperationView>), Problem> {
    let revision = newest(&shared, &reference(&project, &name)?).await?;
    let what = format!("check {revision}");
    let work = move |images: &Images, progress: &dyn Fn(Progress)| {
        Ok(OperationResult::Checked(images.check(&revision, progress)?))
    };
    operate(shared, what, None, work).await
}

pub(super) async fn export(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((project, name)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<OperationView>), Problem> {
    let ExportRequest { path, options } = body(&bytes)?;
    must_be_absolute(&path)?;
    let revision = newest(&shared, &reference(&project, &name)?).await?;
    let what = format!("export {revision} to {}", path.display());
    let work = move |images: &Images, progress: &dyn Fn(Progress)| {
        Ok(OperationResult::Exported(images.export(&revision, &path, options, progress)?))
    };
    operate(shared, what, Some(&peer), work).await
}

/// With which image one is compared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct With {
    with: ImageRef,
}

pub(super) async fn diff(
    State(shared): State<Shared>,
    Path((project, name)): Path<(String, String)>,
    with: Result<Query<With>, QueryRejection>,
) -> Result<Json<Diff>, Problem> {
    let Query(With { with }) = with?;
    let a = newest(&shared, &reference(&project, &name)?).await?;
    let b = newest(&shared, &with).await?;
    Ok(Json(blocking(&shared, move |images| images.diff(&a, &b)).await?))
}

/// The revision that is meant, or the newest.
async fn newest(shared: &Shared, wanted: &ImageRef) -> Result<Revision, Problem> {
    let found = find(shared, wanted).await?.pop();
    found.map(|image| image.revision).ok_or_else(|| no_image(wanted))
}

fn must_be_operators(name: &ImageName) -> Result<(), Problem> {
    clones::check(name).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, code::INVALID, why))
}

fn must_be_absolute(path: &FilePath) -> Result<(), Problem> {
    if path.is_absolute() {
        return Ok(());
    }
    let detail = "path must be absolute; it is on the controller's host";
    Err(Problem::new(StatusCode::BAD_REQUEST, code::INVALID, detail))
}

/// Begins work that goes on after the request, on a thread that may block. What changes something is
/// noted as the deed of an operator.
async fn operate(
    shared: Shared,
    what: String,
    by: Option<&Peer>,
    work: impl FnOnce(&Images, &dyn Fn(Progress)) -> anyhow::Result<OperationResult> + Send + 'static,
) -> Result<(StatusCode, Json<OperationView>), Problem> {
    let view = shared.operations.begin(what.clone())?;
    let id = view.id;
    if let Some(peer) = by
        && let Err(refusal) = shared.service.note_deed(&peer.to_string(), what.clone()).await
    {
        shared.operations.end(id, OperationState::Failed(refusal.to_string()));
        return Err(refusal.into());
    }
    tokio::task::spawn_blocking(move || {
        let operations = &shared.operations;
        let state = match work(&shared.images, &|progress| operations.progress(id, progress)) {
            Ok(result) => {
                tracing::info!(operation = what, "done");
                OperationState::Done(result)
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(operation = what, error, "failed");
                OperationState::Failed(error)
            }
        };
        operations.end(id, state);
    });
    Ok((StatusCode::ACCEPTED, Json(view)))
}

pub(super) async fn blocking<T: Send + 'static>(
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
