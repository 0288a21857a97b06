//! A disk from standard input to the controller.

use super::operation::{NoWait, follow};
use crate::{
    api::view::{OperationView, StreamRequest},
    cli::{
        client::{Client, Pieces},
        output::Printer,
    },
};
use anyhow::ensure;
use hyper::body::Bytes;
use std::{
    io::{self, IsTerminal, Read},
    sync::{Arc, OnceLock},
    thread,
};
use tokio::sync::mpsc;

/// Read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that wait for the controller.
const QUEUED: usize = 4;

/// Begins an import, sends standard input to it and follows it to its end; `None` if that is not waited
/// for.
pub(super) async fn import(
    request: &StreamRequest,
    wait: &NoWait,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Option<OperationView>> {
    ensure!(!io::stdin().is_terminal(), "standard input is a terminal; pipe a disk into it");
    let begun: OperationView = client.post("/images/stream", request).await?;
    let path = format!("/operations/{}/stream", begun.id);
    let broken = Arc::new(OnceLock::new());
    let upload = client.upload(&path, read_stdin(&broken));
    if wait.is_no_wait() {
        upload.await?;
        return follow(begun, "import", wait, client, printer).await;
    }
    // The operation says why it does not take more, and the upload may only see that it does not.
    let (_, ended) = tokio::join!(upload, follow(begun, "import", wait, client, printer));
    match broken.get() {
        Some(why) => anyhow::bail!("reading standard input: {why}"),
        None => ended,
    }
}

/// Reads in a thread that nobody waits for: standard input may never say anything again.
fn read_stdin(broken: &Arc<OnceLock<String>>) -> Pieces {
    let (sender, pieces) = mpsc::channel(QUEUED);
    let broken = Arc::clone(broken);
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match stdin.read(&mut piece) {
                Ok(0) => return,
                Ok(bytes) => {
                    piece.truncate(bytes);
                    Ok(Bytes::from(piece))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = broken.set(error.to_string());
                    Err(error)
                }
            };
            let is_last = read.is_err();
            // The controller has stopped taking it, and says why elsewhere.
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    Pieces(pieces)
}
