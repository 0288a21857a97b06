//! The operators' interface: JSON over HTTP/1.1 on a Unix socket. Who may open the socket (mode
//! 0660) may do everything.
//!
//! Handlers read the request, call the service and write the answer; nothing is decided here.
//! Errors are problem documents (RFC 9457) with a stable `code`.

mod images;
mod jobs;
mod nodes;
mod operations;
mod peer;
mod problem;
mod streams;
pub mod view;

pub use peer::Peer;
pub use problem::{Problem, code};

use crate::{
    backup,
    images::Images,
    pki::Pki,
    service::{Run, Service, to_its_end, view::DeedView},
};
use anyhow::{Context, bail};
use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{
        StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use operations::Operations;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use streams::Streams;
use tokio::net::UnixListener;
use tokio_util::{io::ReaderStream, sync::CancellationToken};
use view::{CertificateView, ControllerView};

/// Most bytes of a request: a job over 4096 nodes with long names fits.
pub const MAX_BODY_BYTES: usize = 512 << 10;

/// Longest time that a request for events waits.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Longest time that a request is answered in; what it began is carried through all the same.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long open requests get when the controller stops.
const CLOSING: Duration = Duration::from_secs(2);

/// What the interface is to.
#[derive(Clone)]
pub struct Parts {
    /// Nodes and jobs.
    pub service: Service,
    /// The images.
    pub images: Arc<Images>,
    /// The certificates.
    pub pki: Arc<Pki>,
    /// Makes backups.
    pub backup: Arc<backup::Source>,
}

/// What handlers need.
#[derive(Clone)]
struct Shared {
    service: Service,
    images: Arc<Images>,
    pki: Arc<Pki>,
    backup: Arc<backup::Source>,
    operations: Arc<Operations>,
    streams: Arc<Streams>,
    shutdown: CancellationToken,
}

/// The interface with its socket bound.
pub struct Api {
    listener: UnixListener,
    path: PathBuf,
}

impl Api {
    /// Binds the socket. One that was left behind by a controller that is gone is replaced.
    ///
    /// # Errors
    /// Another controller answers on it, or the path cannot be used.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("making {} for the API's socket", parent.display()))?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => bail!("another controller answers on {shown}: stop it, or set api.socket"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(path)
                    .with_context(|| format!("removing the old socket {shown}"))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{shown} is in the way: remove it"));
            }
        }
        let listener = UnixListener::bind(path).with_context(|| format!("listening on {shown}"))?;
        // Until here only our own user could connect, whatever the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .with_context(|| format!("opening {shown} to its group"))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn run(self, parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Parts { service, images, pki, backup } = parts;
        let (operations, streams, stop) = (Arc::default(), Arc::default(), shutdown.clone());
        let router = router(Shared { service, images, pki, backup, operations, streams, shutdown });
        let app = router.into_make_service_with_connect_info::<Peer>();
        let serve =
            axum::serve(self.listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            served = serve.into_future() => served.context("serving the API")?,
            () = async { stop.cancelled().await; tokio::time::sleep(CLOSING).await } => {}
        }
        // A controller that was started meanwhile has bound a socket of its own: it says so at
        // start, so this one is ours.
        let _ = fs::remove_file(&self.path);
        Ok(())
    }
}

fn router(shared: Shared) -> Router {
    let v1 = Router::new()
        .route("/status", get(status))
        .route("/audit", get(audit))
        .route("/backup", get(make_backup))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{name}", get(nodes::show).patch(nodes::change).delete(nodes::forget))
        .route("/nodes/{name}/approve", post(nodes::approve))
        .route("/nodes/{name}/logs", get(nodes::logs))
        .route("/images", get(images::list))
        .route("/images/import", post(images::import))
        .route("/images/stream", post(images::import_stream))
        .route("/images/{project}/{name}", get(images::show).delete(images::remove))
        .route("/images/{project}/{name}/check", post(images::check))
        .route("/images/{project}/{name}/export", post(images::export))
        .route("/images/{project}/{name}/diff", get(images::diff))
        .route("/operations/{id}", get(operations::show))
        .route("/deployments", post(jobs::deploy))
        .route("/captures", post(jobs::capture))
        .route("/clones", post(jobs::clone_system))
        .route("/verifications", post(jobs::verify))
        .route("/boots", post(jobs::boot))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/events", get(jobs::events))
        .route("/jobs/{id}/logs", get(jobs::logs))
        .route("/jobs/{id}/cancel", post(jobs::cancel));
    // They take as long as they take, and end with their connection.
    let unhurried = Router::new().route("/api/v1/operations/{id}/stream", put(streams::send));
    Router::new()
        .nest("/api/v1", v1)
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, code::NO_SUCH_PATH, "no such path")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                code::NO_SUCH_METHOD,
                "the path does not have this method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(carry_through))
        .merge(unhurried)
        .with_state(shared)
}

/// What every request that destroys something may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mode {
    #[serde(default)]
    dry_run: bool,
}

impl Mode {
    fn run(&self) -> Run {
        if self.dry_run { Run::Dry } else { Run::Real }
    }
}

/// A client that goes away, or is told that it takes too long, stops nothing half-way.
async fn carry_through(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, to_its_end(next.run(request))).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            code::TOO_SLOW,
            "the controller did not answer in time; see its log",
        )
        .into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Result<Json<ControllerView>, Problem> {
    let now_unix = jiff::Timestamp::now().as_second();
    let certificates = CertificateView::all(&shared.pki, now_unix);
    let projects = images::blocking(&shared, Images::projects).await?;
    Ok(Json(ControllerView { fleet: shared.service.status().await, certificates, projects }))
}

async fn audit(State(shared): State<Shared>) -> Result<Json<Vec<DeedView>>, Problem> {
    Ok(Json(shared.service.deeds().await?))
}

/// A backup as a tar file. It holds the controller's private keys.
async fn make_backup(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, Problem> {
    shared.service.note_deed(&peer.to_string(), "back up".to_owned()).await?;
    let now_unix = jiff::Timestamp::now().as_second();
    let file = shared.backup.make(now_unix).await.map_err(|error| Problem::internal(&error))?;
    let bytes = file.metadata().context("reading the backup");
    let bytes = bytes.map_err(|error| Problem::internal(&error))?.len();
    let headers =
        [(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_LENGTH, bytes.to_string())];
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok((headers, body).into_response())
}

/// Reads a JSON body; says where it is wrong.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, code::INVALID, format!("request body: {error}"))
    })
}
