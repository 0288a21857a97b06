//! What a deploy left: handed to the controller, and had back from it.

use super::{
    fetch::{Line, WantedFile, limited},
    wire,
};
use anyhow::{Context, ensure};
use metalcast_shared::{
    as_left::MAX_AS_LEFT_BYTES,
    codec::MAX_MESSAGE_BYTES,
    id::TaskId,
    to_agent::{Packed, RecordReply},
    to_controller::Open,
};
use quinn::Connection;

impl Line {
    /// Hands over what a deploy left, and waits until it is kept.
    pub(super) async fn record(&self, task: TaskId, encoded: &[u8]) -> anyhow::Result<()> {
        let hand_over = |connection| hand_over(connection, task, encoded);
        self.insist("what the deploy left", hand_over).await.map(drop)
    }

    /// What the deploy left of what this task compares.
    pub(super) async fn as_left(&self, task: TaskId, packed: Packed) -> anyhow::Result<Vec<u8>> {
        let Packed { bytes, hash } = packed;
        ensure!(bytes <= MAX_AS_LEFT_BYTES, "{bytes} bytes are too many");
        let mismatch = "the controller's is another than when the task was given";
        let wanted = WantedFile { bytes, hash, mismatch };
        self.file("what the deploy left", &Open::AsLeft { task }, wanted).await
    }
}

async fn hand_over(
    connection: Connection,
    task: TaskId,
    encoded: &[u8],
) -> anyhow::Result<Result<Vec<u8>, String>> {
    let bytes = u32::try_from(encoded.len()).context("it is too long")?;
    let (mut send, mut receive) = connection.open_bi().await.context("opening a stream")?;
    let sent = async {
        wire::send(&mut send, &Open::Record { task, bytes }).await?;
        send.write_all(encoded).await.context("sending")?;
        send.finish().context("sending")
    };
    limited(sent).await?;
    match limited(wire::receive(&mut receive, MAX_MESSAGE_BYTES)).await? {
        RecordReply::Kept => Ok(Ok(Vec::new())),
        RecordReply::Refused { reason } => Ok(Err(reason)),
    }
}
