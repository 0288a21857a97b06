//! Nodes.

use super::{Mode, Peer, Problem, Shared, body};
use crate::service::view::{LogView, NodeChange, NodeView};
use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, Path, Query, State, rejection::QueryRejection},
};

pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<NodeView>>, Problem> {
    Ok(Json(shared.service.nodes().await?))
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    Ok(Json(shared.service.node(&name).await?))
}

pub(super) async fn approve(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    Ok(Json(shared.service.approve(&name, &peer.to_string()).await?))
}

pub(super) async fn change(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<NodeView>, Problem> {
    let change: NodeChange = body(&bytes)?;
    Ok(Json(shared.service.change_node(&name, change, &peer.to_string()).await?))
}

pub(super) async fn forget(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    mode: Result<Query<Mode>, QueryRejection>,
) -> Result<Json<NodeView>, Problem> {
    let run = mode?.run();
    Ok(Json(shared.service.forget_node(&name, run, &peer.to_string()).await?))
}

pub(super) async fn logs(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Vec<LogView>>, Problem> {
    Ok(Json(shared.service.node_logs(&name).await?))
}
