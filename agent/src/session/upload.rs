//! A capture into the controller's store, over the connection that there is, or the next one.

use super::{fetch::Line, wire};
use crate::task::{Begun, Fault, Sending, Uploader};
use anyhow::Context;
use metalcast_shared::{
    codec::{self, MAX_MESSAGE_BYTES},
    id::{Revision, TaskId},
    to_controller::Open,
    upload::{Survey, UploadPart, UploadReply},
};
use quinn::{Connection, RecvStream, SendStream};
use std::{future::Future, time::Duration};
use tokio::runtime::Handle;

/// How long the controller may take to begin: it may have to delete what came before.
const BEGIN_LIMIT: Duration = Duration::from_secs(2 * 60);

/// How long it may take nothing, on a connection that lives: its disk may be busy flushing.
const TAKE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long it may take to say why it takes no more.
const REASON_LIMIT: Duration = Duration::from_secs(60);

/// Handed to the connection at a time, so that progress is seen between them.
const PIECE_BYTES: usize = 64 << 10;

/// The store, for one task.
pub(super) struct QuicUploader {
    line: Line,
    runtime: Handle,
    task: TaskId,
}

impl QuicUploader {
    pub(super) fn new(line: Line, runtime: Handle, task: TaskId) -> Self {
        Self { line, runtime, task }
    }

    async fn open(&self, survey: &Survey) -> anyhow::Result<Begun<'_>> {
        let connection = self.line.connection().await?;
        let open = Open::Upload { task: self.task, survey: Box::new(survey.clone()) };
        let begin = async {
            let (mut send, mut receive) = connection.open_bi().await.context("opening a stream")?;
            wire::send(&mut send, &open).await?;
            let reply: UploadReply = wire::receive(&mut receive, MAX_MESSAGE_BYTES).await?;
            Ok::<_, anyhow::Error>((send, receive, reply))
        };
        let begun = self.line.or_cancelled(limited(BEGIN_LIMIT, begin)).await?;
        let (send, receive, reply) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(self.fault(&connection, &error).await.into()),
        };
        match reply {
            UploadReply::From(from) => {
                let stream = Stream { uploader: self, connection, send, receive };
                Ok(Begun::From(from, Box::new(stream)))
            }
            UploadReply::Saved { revision } => Ok(Begun::Saved(revision)),
            UploadReply::Refused { reason, may_retry } => {
                Err(Fault::Refused { reason, may_retry }.into())
            }
        }
    }

    /// What an error on a connection means.
    async fn fault(&self, connection: &Connection, error: &anyhow::Error) -> Fault {
        if connection.close_reason().is_some() {
            self.line.lost(connection).await;
            return Fault::Lost;
        }
        Fault::Refused { reason: format!("{error:#}"), may_retry: true }
    }
}

impl Uploader for QuicUploader {
    fn begin(&self, survey: &Survey) -> anyhow::Result<Begun<'_>> {
        self.runtime.block_on(self.open(survey))
    }
}

/// An upload on one stream.
struct Stream<'u> {
    uploader: &'u QuicUploader,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

impl Stream<'_> {
    async fn write(&mut self, part: &UploadPart, body: &[u8]) -> anyhow::Result<()> {
        let head = codec::encode_framed(part);
        for piece in [&head[..]].into_iter().chain(body.chunks(PIECE_BYTES)) {
            let send = &mut self.send;
            let write = async move { send.write_all(piece).await.context("sending") };
            let written = self.uploader.line.or_cancelled(limited(TAKE_LIMIT, write)).await?;
            if let Err(error) = written {
                return Err(self.why(&error).await.into());
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<Revision> {
        self.write(&UploadPart::Finish, &[]).await?;
        // Only fails on a stream that is gone, which the answer will say.
        let _ = self.send.finish();
        let answer = wire::receive(&mut self.receive, MAX_MESSAGE_BYTES);
        match self.uploader.line.or_cancelled(limited(TAKE_LIMIT, answer)).await? {
            Ok(UploadReply::Saved { revision }) => Ok(revision),
            Ok(UploadReply::Refused { reason, may_retry }) => {
                Err(Fault::Refused { reason, may_retry }.into())
            }
            Ok(UploadReply::From(_)) => {
                let reason = "the controller answered out of turn".to_owned();
                Err(Fault::Refused { reason, may_retry: true }.into())
            }
            Err(error) => Err(self.uploader.fault(&self.connection, &error).await.into()),
        }
    }

    /// Why the controller takes no more: it says so before it stops the stream.
    async fn why(&mut self, error: &anyhow::Error) -> Fault {
        let reason = wire::receive(&mut self.receive, MAX_MESSAGE_BYTES);
        match limited(REASON_LIMIT, reason).await {
            Ok(UploadReply::Refused { reason, may_retry }) => Fault::Refused { reason, may_retry },
            Ok(UploadReply::From(_) | UploadReply::Saved { .. }) | Err(_) => {
                self.uploader.fault(&self.connection, error).await
            }
        }
    }
}

impl Sending for Stream<'_> {
    fn send(&mut self, part: &UploadPart, body: &[u8]) -> anyhow::Result<()> {
        let runtime = self.uploader.runtime.clone();
        runtime.block_on(self.write(part, body))
    }

    fn finish(&mut self) -> anyhow::Result<Revision> {
        let runtime = self.uploader.runtime.clone();
        runtime.block_on(self.end())
    }
}

async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let late = || anyhow::anyhow!("the controller did nothing for {} s", limit.as_secs());
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}
