//! The RAM image's files, streamed from the disk, whole or in part.

use crate::boot::range::{self, Wanted};
use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{io::SeekFrom, path::Path};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};
use tokio_util::io::ReaderStream;

/// Read from the disk at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What was asked for and what is sent.
pub struct Answer {
    /// The response.
    pub response: Response,
    /// Whether it begins with the file's first byte: a boot begins, rather than goes on.
    pub is_start: bool,
}

/// The file as a response. A file that shrinks meanwhile breaks the connection off.
pub async fn file(path: &Path, headers: &HeaderMap) -> Answer {
    match open(path, headers).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!("{}: {error}; build it with `cargo xtask initramfs`?", path.display());
            let response =
                (StatusCode::NOT_FOUND, "the RAM image is not installed here\n").into_response();
            Answer { response, is_start: false }
        }
    }
}

async fn open(path: &Path, headers: &HeaderMap) -> std::io::Result<Answer> {
    let mut file = File::open(path).await?;
    let len = file.metadata().await?.len();
    // We give no validators, so a condition on one cannot hold (RFC 9110 section 13.1.5).
    let range = headers
        .get(header::RANGE)
        .filter(|_| !headers.contains_key(header::IF_RANGE))
        .and_then(|range| range.to_str().ok());
    let (status, part) = match range.map_or(Wanted::Whole, |range| range::parse(range, len)) {
        Wanted::Whole => (StatusCode::OK, 0..len),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{len}"))];
            let response = (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
            return Ok(Answer { response, is_start: false });
        }
    };
    file.seek(SeekFrom::Start(part.start)).await?;
    let bytes = part.end - part.start;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(bytes), PIECE_BYTES));
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, bytes);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
        response = response.header(header::CONTENT_RANGE, range);
    }
    let response = response.body(body).map_err(std::io::Error::other)?;
    Ok(Answer { response, is_start: part.start == 0 })
}
