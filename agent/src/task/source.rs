//! Where the pages and frames of an image come from: a controller over the network, or a directory.

use metalcast_shared::whole_disk::SideFile;
use tokio::sync::{mpsc::Sender, watch};

/// Gives out the pages and chunks of one partition of one revision. Nothing that it gives is trusted:
/// pages and frames are held against their hashes.
pub trait ChunkSource: Send + Sync {
    /// The encoded page of this number. It may wait for a connection as long as the task is not
    /// stopped.
    fn page(&self, number: u32) -> anyhow::Result<Vec<u8>>;

    /// Starts to fetch chunks. Each one wanted is answered once through the sink, from any thread,
    /// until the sink is closed. Must not wait.
    fn request(&self, request: Request, sink: Sink);
}

/// Gives out what a whole disk needs.
pub trait DiskSource: Send + Sync {
    /// Pages and chunks of one partition.
    fn partition(&self, name: &str) -> Box<dyn ChunkSource + '_>;

    /// A small file beside the image, without the zeros at its end; it is held against its hash. It may
    /// wait for a connection as long as the task is not stopped.
    fn side_file(&self, file: &SideFile) -> anyhow::Result<Vec<u8>>;
}

/// Chunks of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The page.
    pub page: u32,
    /// The chunks, in the order in which they are best sent.
    pub chunks: Vec<Wanted>,
}

/// One chunk that is wanted, with what is known of it from the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Position on the page.
    pub position: u16,
    /// Its index in the partition.
    pub index: u32,
    /// Offset of its frame in the partition's file.
    pub offset: u64,
    /// Length of its frame in bytes.
    pub frame_bytes: u32,
}

/// The answer for one chunk.
#[derive(Debug)]
pub struct Delivery {
    /// Position on the page.
    pub position: u16,
    /// Its frame, or why it did not come.
    pub what: Result<Vec<u8>, Loss>,
}

/// Why a chunk did not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The connection broke. It is asked for again as often as that happens.
    Connection,
    /// It was not what it should be, or cannot be had: asked for again a few times.
    Refused(String),
}

/// Where deliveries go. It holds a few frames and makes its senders wait, so that memory is bounded.
#[derive(Clone, Debug)]
pub struct Sink {
    sender: Sender<Delivery>,
    /// Its sender lives as long as deliveries are wanted.
    wanted: watch::Receiver<()>,
}

/// Nobody wants any more deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl Sink {
    pub(super) fn new(sender: Sender<Delivery>, wanted: watch::Receiver<()>) -> Self {
        Self { sender, wanted }
    }

    /// Hands over an answer from async code.
    pub async fn send(&self, delivery: Delivery) -> Result<(), Closed> {
        tokio::select! {
            sent = self.sender.send(delivery) => sent.map_err(|_| Closed),
            () = self.closed() => Err(Closed),
        }
    }

    /// Hands over an answer from a thread.
    pub fn blocking_send(&self, delivery: Delivery) -> Result<(), Closed> {
        if self.is_closed() {
            return Err(Closed);
        }
        self.sender.blocking_send(delivery).map_err(|_| Closed)
    }

    /// Whether nobody wants any more.
    pub fn is_closed(&self) -> bool {
        self.wanted.has_changed().is_err()
    }

    /// Ends when nobody wants any more; what holds a sink must then let it go.
    pub async fn closed(&self) {
        let mut wanted = self.wanted.clone();
        while wanted.changed().await.is_ok() {}
    }
}
