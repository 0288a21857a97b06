//! Deployments, clones, captures, comparisons, boots and the jobs that they are.

use super::{MAX_WAIT, Mode, Peer, Problem, Shared, body, code};
use crate::service::view::{
    BootAnswer, BootRequest, CaptureAnswer, CaptureRequest, CloneAnswer, CloneRequest,
    DeployAnswer, DeployRequest, JobEvent, JobSummary, JobView, LogView, VerifyAnswer,
    VerifyRequest,
};
use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use metalcast_shared::id::JobId;
use serde::Deserialize;
use std::time::Duration;

/// Answers 200 with the plan of a dry run, 202 with plan and job otherwise.
pub(super) async fn deploy(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<DeployAnswer>), Problem> {
    let request: DeployRequest = body(&bytes)?;
    let answer = shared.service.deploy(&request, &peer.to_string()).await?;
    let status = if answer.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(answer)))
}

/// Answers 200 with the plan of a dry run, 202 with plan and job otherwise.
pub(super) async fn capture(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<CaptureAnswer>), Problem> {
    let request: CaptureRequest = body(&bytes)?;
    let answer = shared.service.capture(&request, &peer.to_string()).await?;
    let status = if answer.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(answer)))
}

/// Answers 200 with the plan of a dry run, 202 with plan and job otherwise.
pub(super) async fn clone_system(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<CloneAnswer>), Problem> {
    let request: CloneRequest = body(&bytes)?;
    let answer = shared.service.clone_system(&request, &peer.to_string()).await?;
    let status = if answer.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(answer)))
}

/// Answers 200 with the plan of a dry run, 202 with plan and job otherwise.
pub(super) async fn verify(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<VerifyAnswer>), Problem> {
    let request: VerifyRequest = body(&bytes)?;
    let answer = shared.service.verify(&request, &peer.to_string()).await?;
    let status = if answer.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(answer)))
}

pub(super) async fn boot(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<BootAnswer>), Problem> {
    let request: BootRequest = body(&bytes)?;
    let answer = shared.service.boot_slot(&request, &peer.to_string()).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<JobSummary>>, Problem> {
    Ok(Json(shared.service.jobs().await?))
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    detail: Result<Query<Detail>, QueryRejection>,
) -> Result<Json<JobView>, Problem> {
    let Query(Detail { brief }) = detail?;
    let id = number(&id)?;
    let job = match brief {
        true => shared.service.job_state(id).await,
        false => shared.service.job(id).await,
    };
    Ok(Json(job?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detail {
    /// Without steps and timelines, for those who ask often.
    #[serde(default)]
    brief: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    #[serde(default)]
    after: i64,
    #[serde(default)]
    wait_seconds: u64,
}

pub(super) async fn events(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    window: Result<Query<Window>, QueryRejection>,
) -> Result<Json<Vec<JobEvent>>, Problem> {
    let Query(Window { after, wait_seconds }) = window?;
    let wait = Duration::from_secs(wait_seconds).min(MAX_WAIT);
    tokio::select! {
        events = shared.service.job_events(number(&id)?, after, wait) => Ok(Json(events?)),
        // Whoever waits is answered at once, so that the controller can stop.
        () = shared.shutdown.cancelled() => Ok(Json(Vec::new())),
    }
}

pub(super) async fn logs(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Vec<LogView>>, Problem> {
    Ok(Json(shared.service.job_logs(number(&id)?).await?))
}

pub(super) async fn cancel(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    mode: Result<Query<Mode>, QueryRejection>,
) -> Result<Json<JobView>, Problem> {
    let run = mode?.run();
    Ok(Json(shared.service.cancel(number(&id)?, run, &peer.to_string()).await?))
}

fn number(text: &str) -> Result<JobId, Problem> {
    text.parse().map(JobId).map_err(|_| {
        let text: String = text.chars().take(40).collect();
        let detail = format!("{text:?} is not the number of a job");
        Problem::new(StatusCode::BAD_REQUEST, code::INVALID, detail)
    })
}
