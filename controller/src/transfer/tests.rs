//! Agents of quinn's own client against the server, over loopback.

mod uploads;

use super::*;
use crate::{
    images::{Images, Upload, UploadError, UploadOrder},
    pki::{NodeRequest, Pki},
};
use metalcast_shared::{
    close,
    codec::{self, LENGTH_BYTES, MAX_MESSAGE_BYTES},
    id::{BootId, Mac},
    manifest::{Chunk, Page, Run},
    to_agent::{BundleReply, ChunkHeader, EnrolReply, PageReply, Standing},
    to_controller::{Enrol, MAX_CHUNKS_PER_REQUEST, Open},
    upload::Survey,
    version::{ALPN, PROTOCOL, SERVER_NAME},
    whole_disk::MAX_GAP_BYTES,
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FRAME_BYTES: u32 = 300_000;
const CHUNKS: u32 = 100;
const SIDE_FILE: &[u8] = b"what lies behind the MBR";

/// Binds each boot to the first key that comes, as the service does, and notes what it is told.
#[derive(Clone, Default)]
struct FakeFleet(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    keys: Mutex<HashMap<BootId, Hash>>,
    senders: Mutex<Vec<mpsc::Sender<ToAgent>>>,
    sessions: AtomicU64,
    notes: Mutex<Vec<String>>,
    /// The task that may send an image, and what was saved for it.
    upload: Mutex<(Option<TaskId>, Option<Revision>)>,
}

impl FakeFleet {
    fn note(&self, text: String) {
        self.0.notes.lock().unwrap().push(text);
    }

    fn may_upload(&self, task: Option<TaskId>) {
        self.0.upload.lock().unwrap().0 = task;
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes.lock().unwrap().clone()
    }

    async fn wait_for(&self, what: &str) {
        for _ in 0..500 {
            if self.notes().iter().any(|note| note.contains(what)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what:?} did not happen: {:?}", self.notes());
    }
}

fn node() -> NodeId {
    NodeId(Uuid::from_u128(0xabc))
}

fn revision() -> Revision {
    "lab/debian@1".parse().unwrap()
}

impl Fleet for FakeFleet {
    async fn enrol(
        &self,
        token: EnrolmentToken,
        key: Hash,
        _: Fingerprint,
    ) -> Result<NodeId, EnrolRefusal> {
        match *self.0.keys.lock().unwrap().entry(token.boot).or_insert(key) {
            bound if bound == key => Ok(node()),
            _ => Err(EnrolRefusal::TokenUsed),
        }
    }

    async fn session_opened(
        &self,
        node: NodeId,
        _: Hash,
        hello: Hello,
        role: Role,
        to_agent: mpsc::Sender<ToAgent>,
    ) -> anyhow::Result<SessionId> {
        let golden = if role == Role::Golden { " golden" } else { "" };
        self.note(format!("opened {node} {}{golden}", hello.agent));
        let welcome = ToAgent::Welcome { name: "node1".into(), standing: Standing::Approved };
        to_agent.send(welcome).await?;
        let mut senders = self.0.senders.lock().unwrap();
        senders.clear();
        senders.push(to_agent);
        Ok(SessionId(self.0.sessions.fetch_add(1, Ordering::Relaxed)))
    }

    async fn received(
        &self,
        _: NodeId,
        session: SessionId,
        message: ToController,
    ) -> anyhow::Result<()> {
        self.note(format!("{} says {message:?}", session.0));
        Ok(())
    }

    async fn session_closed(&self, _: NodeId, session: SessionId, reason: String) {
        self.note(format!("closed {}: {reason}", session.0));
    }

    async fn certificate_refused(&self, refused: RefusedCertificate) {
        self.note(format!("refused {}: {}", refused.node, refused.reason));
    }

    fn may_read(&self, node: NodeId, _: Hash, revision: &Revision) -> bool {
        node == self::node() && *revision == self::revision()
    }

    fn may_upload(&self, node: NodeId, _: Hash, task: TaskId) -> bool {
        node == self::node() && self.0.upload.lock().unwrap().0 == Some(task)
    }

    async fn upload_order(
        &self,
        node: NodeId,
        key: Hash,
        task: TaskId,
    ) -> anyhow::Result<UploadAnswer> {
        anyhow::ensure!(Fleet::may_upload(self, node, key, task), "there is no such task");
        let saved = self.0.upload.lock().unwrap().1.clone();
        Ok(saved.map_or_else(
            || {
                UploadAnswer::Send(UploadOrder {
                    image: "lab/saved".parse().unwrap(),
                    provenance: "made up".into(),
                    disk_bytes: 1 << 44,
                })
            },
            UploadAnswer::Saved,
        ))
    }

    async fn uploaded(&self, _: NodeId, _: TaskId, revision: &Revision) -> anyhow::Result<()> {
        self.0.upload.lock().unwrap().1 = Some(revision.clone());
        self.note(format!("saved {revision}"));
        Ok(())
    }

    async fn keep_left(
        &self,
        _: (NodeId, Hash),
        task: TaskId,
        encoded: Vec<u8>,
    ) -> anyhow::Result<()> {
        self.note(format!("{} bytes left by job {}", encoded.len(), task.job));
        Ok(())
    }

    async fn as_left(&self, _: (NodeId, Hash), task: TaskId) -> anyhow::Result<Vec<u8>> {
        anyhow::bail!("nothing is known of job {}", task.job)
    }
}

/// One partition `sda1` with a page of incompressible frames; chunk 13 is damaged. What is sent goes into a real store.
struct FakeLibrary(Arc<Images>);

fn frame(index: u32) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES as usize];
    blake3::Hasher::new().update(&index.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn encoded_page() -> Vec<u8> {
    let chunk = |index| Chunk {
        index,
        runs: vec![Run { start: 0, count: 1 }],
        offset: u64::from(index) * u64::from(FRAME_BYTES),
        frame_bytes: FRAME_BYTES,
        frame_hash: Hash::of(&frame(index)),
        data_hash: Hash::of(b""),
        zero: false,
    };
    Page { chunks: (0..CHUNKS).map(chunk).collect() }.encode()
}

impl Library for FakeLibrary {
    fn page(&self, _: &Revision, partition: &str, page: u32) -> anyhow::Result<Vec<u8>> {
        anyhow::ensure!((partition, page) == ("sda1", 0), "no such page");
        Ok(encoded_page())
    }

    fn frame(&self, _: &Revision, _: &str, chunk: &Chunk) -> anyhow::Result<Vec<u8>> {
        anyhow::ensure!(chunk.index != 13, "the frame is damaged");
        Ok(frame(chunk.index))
    }

    fn begin_upload(&self, order: UploadOrder, survey: Survey) -> Result<Upload, UploadError> {
        self.0.begin_upload(order, survey)
    }

    fn publish(&self, upload: Upload) -> Result<Revision, UploadError> {
        self.0.publish(upload)
    }

    fn side_file(&self, _: &Revision, name: &str) -> anyhow::Result<Vec<u8>> {
        match name {
            "gap" => Ok(SIDE_FILE.to_vec()),
            "huge" => Ok(vec![1; MAX_GAP_BYTES as usize + 1]),
            _ => anyhow::bail!("no such file"),
        }
    }
}

struct Rig {
    temp: tempfile::TempDir,
    pki: Arc<Pki>,
    fleet: FakeFleet,
    images: Arc<Images>,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Rig {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open_or_create(&temp.path().join("pki"), now()).unwrap());
        let fleet = FakeFleet::default();
        let shutdown = CancellationToken::new();
        let listener = Listener::bind(&pki, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.endpoint.local_addr().unwrap();
        let (signer, dir) = (pki.clone(), temp.path().join("images"));
        let sign = Arc::new(move |root: &[u8]| signer.sign_manifest(root));
        let images = Arc::new(Images::open(&dir, sign).unwrap());
        let library = Arc::new(FakeLibrary(images.clone()));
        let packed = ["tools", "post-install"].map(|name| temp.path().join(name));
        let server = run(listener, fleet.clone(), library, packed, pki.clone(), shutdown.clone());
        let server = tokio::spawn(server);
        Self { temp, pki, fleet, images, address, shutdown, server }
    }

    fn token(&self, expires_unix: i64) -> String {
        self.pki.seal(&EnrolmentToken {
            boot: BootId(Uuid::from_u128(1)),
            mac: MAC,
            expires_unix,
            golden: false,
        })
    }

    /// Connects with a certificate for `key`, or without one.
    async fn connect(
        &self,
        identity: Option<(Vec<u8>, &rcgen::KeyPair)>,
    ) -> Result<Connection, ConnectionError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            None => tls.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                tls.with_client_auth_cert(vec![certificate.into()], key).unwrap()
            }
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        endpoint.connect(self.address, SERVER_NAME).unwrap().await
    }

    async fn enrol(&self, token: String, key: &rcgen::KeyPair) -> EnrolReply {
        let request = rcgen::CertificateParams::default().serialize_request(key).unwrap();
        let fingerprint = Fingerprint { macs: vec![MAC], ..Fingerprint::default() };
        let request = Enrol { token, request: request.der().to_vec(), fingerprint };
        let connection = self.connect(None).await.unwrap();
        let (_send, mut receive) = open(&connection, &Open::Enrol(request)).await;
        let reply = read(&mut receive).await;
        connection.close(0u32.into(), b"");
        reply
    }

    /// A connection of a node, past any doubt about its certificate.
    async fn agent(&self, node: NodeId) -> Connection {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = self.certificate(&self.pki, &key, node, now());
        self.connect(Some((certificate, &key))).await.unwrap()
    }

    fn certificate(&self, pki: &Pki, key: &rcgen::KeyPair, node: NodeId, at: i64) -> Vec<u8> {
        let request = rcgen::CertificateParams::default().serialize_request(key).unwrap();
        pki.issue_node(&NodeRequest::read(request.der()).unwrap(), node, at).unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
    }
}

async fn open(connection: &Connection, open: &Open) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    say(&mut send, open).await;
    (send, receive)
}

async fn say<T: Serialize>(send: &mut SendStream, message: &T) {
    send.write_all(&codec::encode_framed(message)).await.unwrap();
}

async fn read<T: DeserializeOwned>(receive: &mut RecvStream) -> T {
    let mut length = [0; LENGTH_BYTES];
    receive.read_exact(&mut length).await.unwrap();
    let mut body = vec![0; codec::decode_length(length, 8 << 20).unwrap()];
    receive.read_exact(&mut body).await.unwrap();
    codec::decode(&body, 8 << 20).unwrap()
}

async fn close_code(connection: &Connection) -> (u32, String) {
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await;
    match closed.expect("the server closes the connection") {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).unwrap();
            (code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("{other}"),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        agent: "test".into(),
        boot: BootId(Uuid::from_u128(1)),
        task: None,
        phases: Vec::new(),
    }
}

fn chunks(positions: Vec<u16>) -> Open {
    Open::Chunks { revision: revision(), partition: "sda1".into(), page: 0, positions }
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_gives_a_certificate_that_opens_a_session() {
    let rig = Rig::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let token = rig.token(now() + 60);
    let EnrolReply::Granted { node, certificate, manifest_key } =
        rig.enrol(token.clone(), &key).await
    else {
        panic!("refused")
    };
    assert_eq!((node, manifest_key), (self::node(), rig.pki.manifest_public_key()));
    assert!(matches!(rig.enrol(token.clone(), &key).await, EnrolReply::Granted { .. }));
    let other = rcgen::KeyPair::generate().unwrap();
    let EnrolReply::Refused { reason } = rig.enrol(token, &other).await else { panic!("granted") };
    assert!(reason.contains("another key"), "{reason}");

    let agent = rig.connect(Some((certificate, &key))).await.unwrap();
    let (mut send, mut receive) = open(&agent, &Open::Session(hello())).await;
    assert!(matches!(read(&mut receive).await, ToAgent::Welcome { name, .. } if name == "node1"));
    say(&mut send, &ToController::Heartbeat { uptime_seconds: 5, resident_bytes: 9 }).await;
    rig.fleet.wait_for("0 says Heartbeat { uptime_seconds: 5").await;
    let reboot = ToAgent::Reboot { reason: "test".into() };
    let sender = rig.fleet.0.senders.lock().unwrap()[0].clone();
    sender.send(reboot.clone()).await.unwrap();
    assert_eq!(read::<ToAgent>(&mut receive).await, reboot);
    // A stream dropped here would be ended first, and that be the reason.
    drop(sender);
    agent.close(0u32.into(), b"rebooting");
    rig.fleet.wait_for("closed 0: closed by peer: rebooting").await;
    drop(send);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_ours_are_refused() {
    let rig = Rig::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let check = async |token: String, expected: &str| match rig.enrol(token, &key).await {
        EnrolReply::Refused { reason } => assert!(reason.contains(expected), "{reason}"),
        EnrolReply::Granted { .. } => panic!("granted, but expected: {expected}"),
    };
    check("00".into(), "not a sealed token").await;
    let other = Pki::open_or_create(&rig.temp.path().join("other"), now()).unwrap();
    let boot = BootId(Uuid::from_u128(1));
    let foreign = EnrolmentToken { boot, mac: MAC, expires_unix: now() + 60, golden: false };
    check(other.seal(&foreign), "not made here").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_only_enrolment() {
    let rig = Rig::new();
    let page = Open::Page { revision: revision(), partition: "sda1".into(), page: 0 };
    for request in [Open::Session(hello()), page, chunks(vec![0])] {
        let stranger = rig.connect(None).await.unwrap();
        let (_send, mut receive) = open(&stranger, &request).await;
        assert_eq!(close_code(&stranger).await.0, close::NO_CERTIFICATE, "{request:?}");
        assert!(receive.read_exact(&mut [0]).await.is_err(), "{request:?} was answered");
    }
    assert!(rig.fleet.notes().is_empty());
    rig.stop().await;
}

/// The server learns of a bad certificate after the client believes to be connected (TLS 1.3), so
/// the refusal may come with the first use.
async fn is_refused(connection: Result<Connection, ConnectionError>) {
    let error = match connection {
        Err(error) => error,
        Ok(connection) => {
            tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap()
        }
    };
    let ConnectionError::ConnectionClosed(close) = &error else { panic!("{error}") };
    assert!(close.to_string().contains("certificate") || close.to_string().contains("crypto"));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_foreign_certificates_are_refused() {
    let rig = Rig::new();
    let key = rcgen::KeyPair::generate().unwrap();
    for at in [now() - 2 * 86_400, now() + 3600] {
        let expired = rig.certificate(&rig.pki, &key, node(), at);
        is_refused(rig.connect(Some((expired, &key))).await).await;
    }
    rig.fleet.wait_for(&format!("refused {}: invalid peer certificate: ", node())).await;
    let other = Pki::open_or_create(&rig.temp.path().join("other"), now()).unwrap();
    let foreign = rig.certificate(&other, &key, node(), now());
    is_refused(rig.connect(Some((foreign, &key))).await).await;
    let valid = rig.certificate(&rig.pki, &key, node(), now());
    let agent = rig.connect(Some((valid, &key))).await.unwrap();
    open(&agent, &Open::Session(hello())).await.1.read_exact(&mut [0]).await.unwrap();
    rig.stop().await;
}

async fn fetch(agent: &Connection, positions: Vec<u16>) -> Vec<ChunkHeader> {
    let (_send, mut receive) = open(agent, &chunks(positions.clone())).await;
    let mut headers = Vec::new();
    for _ in positions {
        let header: ChunkHeader = read(&mut receive).await;
        if let ChunkHeader::Frame { index, bytes, hash } = header {
            let mut frame = vec![0; bytes as usize];
            receive.read_exact(&mut frame).await.unwrap();
            assert_eq!(Hash::of(&frame), hash, "chunk {index}");
        }
        headers.push(header);
    }
    assert_eq!(receive.read(&mut [0]).await.unwrap(), None, "more than was asked for");
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_in_order_and_what_is_missing_is_said() {
    let rig = Rig::new();
    let agent = rig.agent(node()).await;
    let page = Open::Page { revision: revision(), partition: "sda1".into(), page: 0 };
    let (_send, mut receive) = open(&agent, &page).await;
    assert_eq!(read::<PageReply>(&mut receive).await, PageReply::Page(encoded_page()));

    let headers = fetch(&agent, vec![7, 13, 2, 999]).await;
    assert!(matches!(headers[0], ChunkHeader::Frame { index: 7, bytes: FRAME_BYTES, .. }));
    assert!(
        matches!(&headers[1], ChunkHeader::Unavailable { index: 13, reason } if reason.contains("damaged"))
    );
    assert!(matches!(headers[2], ChunkHeader::Frame { index: 2, .. }));
    assert!(
        matches!(&headers[3], ChunkHeader::Unavailable { reason, .. } if reason.contains("999"))
    );

    let stranger = rig.agent(NodeId(Uuid::from_u128(9))).await;
    for header in fetch(&stranger, vec![0, 1]).await {
        assert!(
            matches!(&header, ChunkHeader::Unavailable { reason, .. } if reason.contains("no task"))
        );
    }
    let (_send, mut receive) = open(&stranger, &page).await;
    assert!(matches!(read(&mut receive).await, PageReply::Unavailable { .. }));

    let (_send, _receive) = open(&agent, &chunks(vec![0; MAX_CHUNKS_PER_REQUEST + 1])).await;
    assert_eq!(close_code(&agent).await.0, close::PROTOCOL);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_read_holds_up_nobody() {
    let rig = Rig::new();
    let stuck = rig.agent(node()).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(open(&stuck, &chunks((20..84).collect())).await);
    }
    let agent = rig.agent(node()).await;
    let all = fetch(&agent, (20..84).collect());
    let headers = tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    assert!(headers.iter().all(|header| matches!(header, ChunkHeader::Frame { .. })));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_a_reason_and_are_reported_once() {
    let rig = Rig::new();
    let ousted = rig.agent(node()).await;
    let _first = open(&ousted, &Open::Session(hello())).await;
    rig.fleet.wait_for("opened").await;
    rig.fleet.0.senders.lock().unwrap().clear();
    assert_eq!(close_code(&ousted).await.0, close::SUPERSEDED);
    rig.fleet.wait_for("closed 0: the controller ended the session").await;

    let old = rig.agent(node()).await;
    let outdated = Hello { protocol: PROTOCOL + 1, ..hello() };
    let _outdated = open(&old, &Open::Session(outdated)).await;
    let (code, reason) = close_code(&old).await;
    assert!(code == 2 && reason.contains("netboot the node again"), "{code} {reason}");

    let greedy = rig.agent(node()).await;
    let _one = open(&greedy, &Open::Session(hello())).await;
    rig.fleet.wait_for("opened").await;
    let _two = open(&greedy, &Open::Session(hello())).await;
    assert_eq!(close_code(&greedy).await.0, close::PROTOCOL);
    rig.fleet.wait_for("closed 1").await;

    let babbling = rig.agent(node()).await;
    let (mut send, _receive) = babbling.open_bi().await.unwrap();
    let long = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
    send.write_all(&long.to_be_bytes()).await.unwrap();
    assert_eq!(close_code(&babbling).await.0, close::PROTOCOL);

    let last = rig.agent(node()).await;
    let _last = open(&last, &Open::Session(hello())).await;
    for _ in 0..500 {
        if rig.fleet.notes().iter().filter(|note| note.starts_with("opened")).count() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let fleet = rig.fleet.clone();
    let stopped = tokio::spawn(rig.stop());
    assert_eq!(close_code(&last).await, (close::STOPPING, "the controller is stopping".to_owned()));
    stopped.await.unwrap();
    let closed =
        |id| fleet.notes().iter().filter(|n| n.starts_with(&format!("closed {id}"))).count();
    assert_eq!([closed(0), closed(1), closed(2)], [1, 1, 1], "{:?}", fleet.notes());
}

#[tokio::test]
async fn a_file_beside_an_image_is_given_to_whose_task_needs_the_image() {
    let rig = Rig::new();
    let agent = rig.agent(node()).await;
    let ask = async |name: &str, revision: Revision| {
        let wanted = Open::SideFile { revision, name: name.into() };
        let (_send, mut receive) = open(&agent, &wanted).await;
        let reply: BundleReply = read(&mut receive).await;
        (reply, receive.read_to_end(SIDE_FILE.len()).await.unwrap())
    };
    let (reply, content) = ask("gap", revision()).await;
    assert_eq!(reply, BundleReply::File { bytes: SIDE_FILE.len() as u32 });
    assert_eq!(content, SIDE_FILE);
    for (name, of, why) in [
        ("none", revision(), "no such file"),
        ("huge", revision(), "bytes are too many"),
        ("gap", "lab/other@1".parse().unwrap(), "no task of this node needs lab/other@1"),
    ] {
        let (reply, content) = ask(name, of).await;
        let BundleReply::Unavailable { reason } = reply else { panic!("{name} is given") };
        assert!(reason.contains(why) && content.is_empty(), "{reason}");
    }
}

#[tokio::test]
async fn packed_files_are_given_by_their_hash_and_a_missing_one_is_told() {
    let rig = Rig::new();
    let agent = rig.agent(node()).await;
    for (number, dir) in [(1, "tools"), (2, "post-install")] {
        let dir = rig.temp.path().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        // Several pieces, the last one short.
        let content = frame(number);
        let hash = Hash::of(&content);
        std::fs::write(dir.join(format!("{hash}.zst")), &content).unwrap();
        let (_send, mut receive) = open(&agent, &Open::Packed { hash }).await;
        let reply: BundleReply = read(&mut receive).await;
        assert_eq!(reply, BundleReply::File { bytes: FRAME_BYTES });
        assert_eq!(receive.read_to_end(FRAME_BYTES as usize).await.unwrap(), content);
    }
    let (_send, mut receive) = open(&agent, &Open::Packed { hash: Hash::of(b"other") }).await;
    let BundleReply::Unavailable { reason } = read(&mut receive).await else {
        panic!("there is no such file")
    };
    assert!(reason.contains("/tools/") && reason.contains("another RAM image"), "{reason}");
    rig.stop().await;
}
