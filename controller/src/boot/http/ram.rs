//! The RAM image's files, whole or in part.

use crate::boot::{
    files::BootFiles,
    range::{self, Wanted},
};
use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use std::{io, sync::Arc};

/// What was asked for and what is sent.
pub struct Answer {
    /// The response.
    pub response: Response,
    /// Whether it begins with the file's first byte: a boot begins, rather than goes on.
    pub is_start: bool,
}

/// The file as a response.
pub async fn file(files: Arc<BootFiles>, name: &'static str, headers: &HeaderMap) -> Answer {
    let path = files.path(name);
    let read = tokio::task::spawn_blocking(move || files.read(name)).await;
    match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(content) => part(Bytes::from_owner(content), headers),
        Err(error) => {
            tracing::error!("{}: {error}; build it with `cargo xtask initramfs`?", path.display());
            let response =
                (StatusCode::NOT_FOUND, "the RAM image is not installed here\n").into_response();
            Answer { response, is_start: false }
        }
    }
}

fn part(content: Bytes, headers: &HeaderMap) -> Answer {
    let len = content.len() as u64;
    // We give no validators, so a condition on one cannot hold (RFC 9110 section 13.1.5).
    let range = headers
        .get(header::RANGE)
        .filter(|_| !headers.contains_key(header::IF_RANGE))
        .and_then(|range| range.to_str().ok());
    let kind =
        [(header::CONTENT_TYPE, "application/octet-stream"), (header::ACCEPT_RANGES, "bytes")];
    match range.map_or(Wanted::Whole, |range| range::parse(range, len)) {
        Wanted::Whole => Answer { response: (kind, content).into_response(), is_start: true },
        Wanted::Part(part) => {
            let is_start = part.start == 0;
            let shown = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            let content = content.slice(part.start as usize..part.end as usize);
            let range = [(header::CONTENT_RANGE, shown)];
            let response = (StatusCode::PARTIAL_CONTENT, kind, range, content).into_response();
            Answer { response, is_start }
        }
        Wanted::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{len}"))];
            let response = (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
            Answer { response, is_start: false }
        }
    }
}
