//! What each path answers.

use super::{Peer, State, ram};
use crate::{
    boot::{
        Nodes,
        files::BootFiles,
        link::{BootLink, LINK_SECONDS},
        neighbour, now_unix,
    },
    service::{BootEventKind, ReportRefusal, ScriptAnswer},
};
use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{Path, Query, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metalcast_netboot::{
    mac::bootif,
    script::{self, RamImage, ScriptError},
    table::BootAnswer,
};
use metalcast_shared::{
    boot::{BOOT_CONFIG_PATH, BootConfig, EnrolmentToken, SystemReport},
    id::{BootId, Mac},
};
use serde::Deserialize;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// Longest report read.
const MAX_REPORT_BYTES: usize = 4 << 10;
/// A report has to come within this time.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a token is good for from the moment it is fetched: a kernel and its slow links.
const TOKEN_SECONDS: i64 = 15 * 60;
/// All paths.
pub fn router<N: Nodes>(state: Arc<State<N>>) -> Router {
    Router::new()
        .route("/boot/{name}", get(script_or_boot_file))
        .route("/boot/{link}/segment.cpio", get(segment))
        .route("/golden/{mac}/segment.cpio", get(golden_segment))
        .route("/ipxe/{name}", get(boot_file))
        .route("/ram/vmlinuz", get(kernel))
        .route("/ram/initramfs", get(initramfs))
        .route("/report", post(report))
        .route("/healthz", get(async || "ok\n"))
        .with_state(state)
}

async fn script_or_boot_file<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Path(name): Path<String>,
    Extension(peer): Extension<Peer>,
) -> Response {
    match name.strip_suffix(".ipxe").map(str::parse::<Mac>) {
        Some(Ok(mac)) => script(&state, mac, peer),
        Some(Err(error)) => {
            tracing::info!(peer = %peer.0, "boot script refused: {error}");
            (StatusCode::NOT_FOUND, format!("{error}\n")).into_response()
        }
        None => send_boot_file(&state, name, peer).await,
    }
}

fn script<N: Nodes>(state: &State<N>, mac: Mac, Peer(peer): Peer) -> Response {
    let answer = state.table.borrow().answer(mac);
    let text = match answer {
        BootAnswer::RamImage => {
            let boot = BootId(Uuid::now_v7());
            let kind = BootEventKind::Script { answer: ScriptAnswer::RamImage, boot: Some(boot) };
            state.events.note(mac, kind);
            ram_image_script(state, mac, boot, now_unix())
        }
        BootAnswer::LocalDisk => {
            let kind = BootEventKind::Script { answer: ScriptAnswer::LocalDisk, boot: None };
            state.events.note(mac, kind);
            Ok(script::local_disk())
        }
    };
    let text = text.unwrap_or_else(|error| {
        tracing::error!(%mac, "boot script: {error}");
        script::error("the controller could not make a boot script, its log says why")
    });
    if state.table.borrow().entry(mac).is_some() {
        tracing::info!(%mac, %peer, ?answer, "boot script");
    } else {
        tracing::debug!(%mac, %peer, ?answer, "boot script for an unknown machine");
    }
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// The script that boots the RAM image.
pub fn ram_image_script<N: Nodes>(
    state: &State<N>,
    mac: Mac,
    boot: BootId,
    now_unix: i64,
) -> Result<String, ScriptError> {
    let (base, dashed) = (&state.base_url, mac.dashed());
    let link = state.pki.seal(&BootLink { boot, mac, issued_unix: now_unix });
    script::ram_image(&RamImage {
        kernel_url: &format!("{base}/ram/vmlinuz?mac={dashed}"),
        arguments: &format!("{} {}", state.kernel_args, bootif(mac)),
        boot_segment_url: &format!("{base}/boot/{link}/segment.cpio"),
        initramfs_url: &format!("{base}/ram/initramfs?mac={dashed}"),
    })
}

async fn segment<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Path(link): Path<String>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Response {
    let now = now_unix();
    let link: BootLink = match state.pki.unseal(&link) {
        Ok(link) => link,
        Err(error) => {
            tracing::warn!(%peer, "boot segment refused: {error}");
            return (StatusCode::NOT_FOUND, format!("{error}\n")).into_response();
        }
    };
    let BootLink { boot, mac, .. } = link;
    if link.is_stale(now) {
        tracing::info!(%mac, %boot, %peer, "boot segment refused: too late");
        let text = format!("the boot began more than {LINK_SECONDS} s ago: netboot again\n");
        return (StatusCode::GONE, text).into_response();
    }
    make_segment(&state, (boot, mac), Came::ByNetboot, peer)
}

/// A machine that did not netboot: whether it may do anything is decided when it enrols.
async fn golden_segment<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Path(mac): Path<String>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Response {
    match mac.parse::<Mac>() {
        Ok(mac) => make_segment(&state, (BootId(Uuid::now_v7()), mac), Came::Golden, peer),
        Err(error) => {
            tracing::info!(%peer, "boot segment refused: {error}");
            (StatusCode::NOT_FOUND, format!("{error}\n")).into_response()
        }
    }
}

/// How a machine came to ask for its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    ByNetboot,
    /// It runs its own system and offers that.
    Golden,
}

fn make_segment<N: Nodes>(
    state: &State<N>,
    (boot, mac): (BootId, Mac),
    came: Came,
    peer: Ipv4Addr,
) -> Response {
    let now = now_unix();
    let golden = came == Came::Golden;
    let token = EnrolmentToken { boot, mac, expires_unix: now + TOKEN_SECONDS, golden };
    let config = BootConfig {
        boot,
        mac,
        controllers: vec![state.quic],
        ca_pem: state.pki.ca_pem().to_owned(),
        unix_time: now,
        token: state.pki.seal(&token),
    };
    let json = serde_json::to_vec(&config).expect("plain data with string keys");
    match metalcast_initramfs::segment(&[(BOOT_CONFIG_PATH, &json, 0o600)]) {
        Ok(bytes) => {
            tracing::info!(%mac, %boot, %peer, ?came, "boot segment");
            state.events.note(mac, BootEventKind::Segment);
            ([(header::CONTENT_TYPE, "application/x-cpio")], bytes).into_response()
        }
        Err(error) => {
            tracing::error!(%mac, "boot segment: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn boot_file<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Path(name): Path<String>,
    Extension(peer): Extension<Peer>,
) -> Response {
    send_boot_file(&state, name, peer).await
}

async fn send_boot_file<N: Nodes>(state: &State<N>, name: String, Peer(peer): Peer) -> Response {
    let Some(known) = BootFiles::known(&name) else {
        tracing::info!(%peer, name, "HTTP: no such boot file");
        return (StatusCode::NOT_FOUND, "no such boot file\n").into_response();
    };
    let files = state.files.clone();
    let read =
        tokio::task::spawn_blocking(move || (files.read(known), neighbour::mac_of(peer))).await;
    match read {
        Ok((Ok(content), mac)) => {
            let mac_shown = mac.map(tracing::field::display);
            tracing::info!(%peer, mac = mac_shown, file = known, "HTTP: boot file");
            if let Some(mac) = mac {
                state.events.note(mac, BootEventKind::BootFile { name: known.to_owned() });
            }
            let kind = [(header::CONTENT_TYPE, "application/efi")];
            (kind, bytes::Bytes::from_owner(content)).into_response()
        }
        Ok((Err(error), _)) => {
            tracing::error!(%peer, file = known, "boot file cannot be read: {error}");
            (StatusCode::NOT_FOUND, "the boot file is not installed here\n").into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// For whom a file is fetched.
#[derive(Deserialize)]
struct For {
    mac: Option<Mac>,
}

async fn kernel<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Query(For { mac }): Query<For>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
) -> Response {
    ram_file(&state, "vmlinuz", BootEventKind::Kernel, mac, &headers, peer).await
}

async fn initramfs<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Query(For { mac }): Query<For>,
    headers: HeaderMap,
    Extension(peer): Extension<Peer>,
) -> Response {
    ram_file(&state, "initramfs", BootEventKind::Initramfs, mac, &headers, peer).await
}

async fn ram_file<N: Nodes>(
    state: &State<N>,
    name: &'static str,
    kind: BootEventKind,
    mac: Option<Mac>,
    headers: &HeaderMap,
    Peer(peer): Peer,
) -> Response {
    let answer = ram::file(state.ram_image.clone(), name, headers).await;
    let (status, mac_shown) = (answer.response.status().as_u16(), mac.map(tracing::field::display));
    tracing::info!(%peer, mac = mac_shown, status, "RAM image: {name}");
    if let Some(mac) = mac
        && answer.is_start
    {
        state.events.note(mac, kind);
    }
    answer.response
}

async fn report<N: Nodes>(
    Shared(state): Shared<Arc<State<N>>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Body,
) -> Response {
    let refuse = |status: StatusCode, reason: String| {
        tracing::warn!(%peer, "report refused: {reason}");
        (status, reason + "\n").into_response()
    };
    let body = match tokio::time::timeout(REPORT_DEADLINE, to_bytes(body, MAX_REPORT_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let reason = format!("a report has at most {MAX_REPORT_BYTES} bytes");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the report did not come".into()),
    };
    let report: SystemReport = match serde_json::from_slice(&body) {
        Ok(report) => report,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("not a report: {error}")),
    };
    let token = match state.pki.unseal(&report.token) {
        Ok(token) => token,
        Err(error) => return refuse(StatusCode::FORBIDDEN, error.to_string()),
    };
    match state.nodes.system_report(token, report, IpAddr::V4(peer)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal @ ReportRefusal::Internal) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string())
        }
        Err(refusal) => refuse(StatusCode::CONFLICT, refusal.to_string()),
    }
}
