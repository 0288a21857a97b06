//! What agents send into a real store.

use super::*;
use metalcast_formats::{
    chunk::{PlainChunk, Sealed, sealer, write_head_frame},
    partclone::{Bitmap, HeadFacts},
};
use metalcast_shared::{
    id::JobId,
    upload::{MAX_FILE_BYTES, SurveyPartition, UploadPart, UploadPosition, UploadReply},
};

const BLOCK_BYTES: u32 = 4096;
const BLOCKS: u64 = 600;

fn task(generation: u32) -> TaskId {
    TaskId { job: JobId(7), node: node(), generation }
}

/// A partition of three chunks, made up.
struct Sample {
    survey: Survey,
    head: Vec<u8>,
    chunks: Vec<Sealed>,
}

impl Sample {
    fn new() -> Self {
        let mut bits = vec![0; 75];
        bits[0] = 0b1001_0110;
        bits[32..64].fill(0xff);
        bits[74] = 0x80;
        let used = Bitmap::from_bits(BLOCKS, bits).unwrap();
        let device_bytes = BLOCKS * u64::from(BLOCK_BYTES);
        let facts = HeadFacts { filesystem: "EXTFS", device_bytes, block_bytes: BLOCK_BYTES };
        let mut head = Vec::new();
        write_head_frame(&mut head, &facts, &used).unwrap();
        let mut seal = sealer();
        let chunks = (0..3).map(|index| {
            let runs = used.runs(u64::from(index) * 256, 256);
            let bytes: u32 = runs.iter().map(|run| run.count * BLOCK_BYTES).sum();
            let mut data = vec![0; bytes as usize];
            blake3::Hasher::new().update(&[index as u8]).finalize_xof().fill(&mut data);
            seal(PlainChunk { index, runs, data }).unwrap()
        });
        let chunks = chunks.collect();
        let partition = SurveyPartition {
            name: "sda5".into(),
            filesystem: "ext4".into(),
            block_bytes: BLOCK_BYTES,
            total_blocks: BLOCKS,
            used_blocks: used.count_used(),
            device_bytes,
        };
        let survey = Survey {
            agent: "0.1.0".into(),
            partitions: vec![partition],
            left_out_bytes: 1 << 20,
            remarks: vec!["left out: /swapfile of sda5".into()],
        };
        Self { survey, head, chunks }
    }

    async fn send_head(&self, stream: &mut Stream) {
        let (first, rest) = self.head.split_at(self.head.len() / 2);
        stream.head(first, false).await;
        stream.head(rest, true).await;
    }

    async fn send_files(&self, stream: &mut Stream) {
        stream.file("dev-fs.list", b"# made up\n#\n").await;
        stream.file("parts", b"sda5\n").await;
    }
}

/// An upload's stream.
struct Stream {
    send: SendStream,
    receive: RecvStream,
    first: UploadReply,
}

impl Stream {
    async fn open(agent: &Connection, task: TaskId, survey: &Survey) -> Self {
        let open_message = Open::Upload { task, survey: Box::new(survey.clone()) };
        let (send, mut receive) = open(agent, &open_message).await;
        let first = read(&mut receive).await;
        Self { send, receive, first }
    }

    fn from(&self) -> UploadPosition {
        match &self.first {
            UploadReply::From(position) => *position,
            other => panic!("{other:?}"),
        }
    }

    /// A stream that the server has ended takes nothing; what it said is the answer then.
    async fn put(&mut self, part: &UploadPart, body: &[u8]) {
        let _ = self.send.write_all(&codec::encode_framed(part)).await;
        let _ = self.send.write_all(body).await;
    }

    async fn head(&mut self, piece: &[u8], is_last: bool) {
        let bytes = u32::try_from(piece.len()).unwrap();
        self.put(&UploadPart::Head { bytes, is_last }, piece).await;
    }

    async fn chunk(&mut self, sealed: &Sealed) {
        self.put(&UploadPart::Chunk(sealed.chunk.clone()), &sealed.frame).await;
    }

    async fn file(&mut self, name: &str, content: &[u8]) {
        let bytes = u32::try_from(content.len()).unwrap();
        self.put(&UploadPart::File { name: name.into(), bytes }, content).await;
    }

    async fn answer(&mut self) -> UploadReply {
        tokio::time::timeout(Duration::from_secs(20), read(&mut self.receive)).await.unwrap()
    }

    async fn finish(&mut self) -> UploadReply {
        self.put(&UploadPart::Finish, &[]).await;
        self.answer().await
    }

    /// That it is refused with these words, and whether it may be tried again.
    async fn is_refused(&mut self, words: &str, again: bool) {
        match self.answer().await {
            UploadReply::Refused { reason, may_retry } => {
                assert!(reason.contains(words) && may_retry == again, "{may_retry} {reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Rig {
    /// Directories of images that are not complete.
    fn drafts(&self) -> usize {
        let entries = std::fs::read_dir(self.temp.path().join("images")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".import-")).count()
    }

    /// Waits until a draft has a file of this name.
    async fn wait_for_file(&self, name: &str) {
        for _ in 0..500 {
            let entries = std::fs::read_dir(self.temp.path().join("images")).unwrap();
            if entries.flatten().any(|draft| draft.path().join(name).exists()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {name} in a draft");
    }

    async fn wait_for_no_draft(&self) {
        for _ in 0..500 {
            if self.drafts() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("an upload that is over has left its files");
    }
}

fn saved() -> UploadReply {
    UploadReply::Saved { revision: "lab/saved@1".parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_becomes_a_revision_that_passes_every_check() {
    let (rig, sample) = (Rig::new(), Sample::new());
    rig.fleet.may_upload(Some(task(1)));
    let agent = rig.agent(node()).await;
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(stream.from(), UploadPosition::default());
    sample.send_head(&mut stream).await;
    for chunk in &sample.chunks {
        stream.chunk(chunk).await;
    }
    sample.send_files(&mut stream).await;
    assert_eq!(stream.finish().await, saved());
    rig.fleet.wait_for("saved lab/saved@1").await;
    assert_eq!(rig.drafts(), 0);
    let revision = "lab/saved@1".parse().unwrap();
    let report = rig.images.check(&revision, &|_| ()).unwrap();
    assert!(report.damage.is_empty(), "{report:?}");
    let provenance = rig.images.manifest(&revision).unwrap().0.provenance;
    for words in ["made up", "agent 0.1.0", "1048576 bytes of page", "/swapfile"] {
        assert!(provenance.contains(words), "{provenance}");
    }
    // The answer may have been lost.
    let again = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(again.first, saved());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_it_should_be_is_refused_and_what_came_before_stays() {
    let (rig, sample) = (Rig::new(), Sample::new());
    rig.fleet.may_upload(Some(task(1)));
    let agent = rig.agent(node()).await;
    let at = |chunks| UploadPosition { head: true, chunks, ..UploadPosition::default() };
    let mut damaged = sample.chunks[0].clone();
    damaged.frame[20] ^= 1;
    let mut liar = damaged.clone();
    liar.chunk.frame_hash = Hash::of(&liar.frame);
    let mut other = sample.chunks[0].clone();
    other.chunk.data_hash = Hash::of(b"other");
    let mut fewer = sample.chunks[0].clone();
    fewer.chunk.runs.pop();
    for (bad, words) in [
        (&damaged, "the frame is not the one"),
        (&liar, "the frame does not decompress"),
        (&other, "the decoded blocks are not those"),
        (&fewer, "chunk 0 of sda5 where chunk 0 was to come"),
        (&sample.chunks[1], "chunk 1 of sda5 where chunk 0 was to come"),
    ] {
        let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
        if !stream.from().head {
            sample.send_head(&mut stream).await;
        }
        stream.chunk(bad).await;
        stream.is_refused(words, true).await;
    }
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(stream.from(), at(0), "nothing bad was kept");
    stream.chunk(&sample.chunks[0]).await;
    stream.file("parts", b"sda5\n").await;
    stream.is_refused("a file before the end of the partitions", true).await;
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(stream.from(), at(1));
    stream.put(&UploadPart::Finish, &[]).await;
    stream.is_refused("only 0 of 1 partitions have come", true).await;

    // That was the end of it: what is published is given up.
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(stream.from(), UploadPosition::default());
    sample.send_head(&mut stream).await;
    for chunk in &sample.chunks {
        stream.chunk(chunk).await;
    }
    stream.chunk(&sample.chunks[2]).await;
    stream.is_refused("data after the last partition", true).await;
    for name in ["../parts", "metalcast.manifest", "B2SUMS", "sda1.ext4-ptcl-img.zst", ".x"] {
        let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
        stream.file(name, b"x").await;
        stream.is_refused("is no file of an image", true).await;
    }
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    stream.file("parts", b"sda6\n").await;
    stream.put(&UploadPart::Finish, &[]).await;
    stream.is_refused("is no image", false).await;
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    let too_long = UploadPart::File { name: "parts".into(), bytes: MAX_FILE_BYTES + 1 };
    stream.put(&too_long, &[]).await;
    assert_eq!(close_code(&agent).await.0, close::PROTOCOL);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_surveys_that_cannot_be_true_are_refused() {
    let (rig, sample) = (Rig::new(), Sample::new());
    rig.fleet.may_upload(Some(task(1)));
    let agent = rig.agent(node()).await;
    let mut garbage = sample.head.clone();
    garbage[40] ^= 1;
    let with_more = [&sample.head[..], b"more"].concat();
    for head in [&garbage[..], &with_more, &sample.head[..sample.head.len() - 3], b""] {
        let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
        assert_eq!(stream.from(), UploadPosition::default());
        stream.head(head, true).await;
        stream.is_refused("a head", true).await;
    }
    let change = |change: fn(&mut SurveyPartition)| {
        let mut survey = sample.survey.clone();
        change(&mut survey.partitions[0]);
        survey
    };
    // One that the head shows to be false.
    let false_one = change(|partition| partition.used_blocks += 1);
    let mut stream = Stream::open(&agent, task(1), &false_one).await;
    stream.head(&sample.head, true).await;
    stream.is_refused("of another partition than was told of", true).await;
    for survey in [
        change(|partition| partition.name = "../sda1".into()),
        change(|partition| partition.filesystem = "ext4/..".into()),
        change(|partition| partition.filesystem = "../../ext4".into()),
        change(|partition| partition.name = "metalcast/".into()),
        change(|partition| partition.block_bytes = 0),
        change(|partition| partition.total_blocks = u64::MAX),
        change(|partition| partition.device_bytes = u64::MAX),
        change(|partition| partition.used_blocks = BLOCKS + 1),
        change(|partition| partition.filesystem = "dd".into()),
        Survey { partitions: Vec::new(), ..sample.survey.clone() },
        Survey { remarks: vec!["a\nb".into()], ..sample.survey.clone() },
    ] {
        let stream = Stream::open(&agent, task(1), &survey).await;
        let UploadReply::Refused { reason, may_retry: false } = &stream.first else {
            panic!("{:?} for {survey:?}", stream.first)
        };
        assert!(reason.contains("cannot be true"), "{reason}");
    }
    let mut endless = sample.survey.clone();
    endless.partitions[0].total_blocks = 1 << 31;
    endless.partitions[0].used_blocks = 1 << 31;
    endless.partitions[0].device_bytes = 1 << 43;
    let stream = Stream::open(&agent, task(1), &endless).await;
    let UploadReply::Refused { reason, may_retry: false } = &stream.first else {
        panic!("{:?}", stream.first)
    };
    assert!(reason.contains("needs about 4194368 MiB"), "{reason}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_costs_what_was_under_way() {
    let (rig, sample) = (Rig::new(), Sample::new());
    rig.fleet.may_upload(Some(task(1)));
    let agent = rig.agent(node()).await;
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    stream.head(&sample.head[..5], false).await;
    agent.close(0u32.into(), b"cable");
    let agent = rig.agent(node()).await;
    let mut stream = Stream::open(&agent, task(1), &sample.survey).await;
    assert_eq!(stream.from(), UploadPosition::default(), "half a head is none");
    sample.send_head(&mut stream).await;
    stream.chunk(&sample.chunks[0]).await;
    stream.put(&UploadPart::Chunk(sample.chunks[1].chunk.clone()), b"half").await;
    // While the server still believes in the first stream: the new one takes over, from wherever that one had come.
    let second = rig.agent(node()).await;
    let mut taken_over = Stream::open(&second, task(1), &sample.survey).await;
    let UploadPosition { partitions: 0, head, chunks: chunks @ 0..=1, files: 0 } =
        taken_over.from()
    else {
        panic!("half a chunk is none")
    };
    stream.is_refused("another stream goes on with it", true).await;
    if !head {
        sample.send_head(&mut taken_over).await;
    }
    for chunk in &sample.chunks[chunks as usize..] {
        taken_over.chunk(chunk).await;
    }
    taken_over.file("dev-fs.list", b"# made up\n#\n").await;
    rig.wait_for_file("dev-fs.list").await;
    second.close(0u32.into(), b"cable");
    let third = rig.agent(node()).await;
    let mut stream = Stream::open(&third, task(1), &sample.survey).await;
    let expected = UploadPosition { partitions: 1, files: 1, ..UploadPosition::default() };
    assert_eq!(stream.from(), expected);
    stream.file("parts", b"sda5\n").await;
    assert_eq!(stream.finish().await, saved());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_task_in_hand_may_send_and_its_end_leaves_nothing() {
    let (rig, sample) = (Rig::new(), Sample::new());
    rig.fleet.may_upload(Some(task(2)));
    let refused = |stream: &Stream| {
        let UploadReply::Refused { reason, may_retry: false } = &stream.first else {
            panic!("{:?}", stream.first)
        };
        assert!(reason.contains("no such task"), "{reason}");
    };
    let stranger = rig.agent(NodeId(Uuid::from_u128(9))).await;
    refused(&Stream::open(&stranger, task(2), &sample.survey).await);
    let agent = rig.agent(node()).await;
    refused(&Stream::open(&agent, task(1), &sample.survey).await);
    let mut stream = Stream::open(&agent, task(2), &sample.survey).await;
    sample.send_head(&mut stream).await;
    stream.chunk(&sample.chunks[0]).await;
    assert_eq!(rig.drafts(), 1);
    // Cancelled, or out of time, in the middle.
    rig.fleet.may_upload(None);
    stream.chunk(&sample.chunks[1]).await;
    let UploadReply::Refused { reason, .. } = stream.answer().await else { panic!("taken") };
    assert!(reason.contains("ended"), "{reason}");
    rig.wait_for_no_draft().await;
    assert_eq!(rig.images.list().unwrap(), []);
    rig.stop().await;
}
