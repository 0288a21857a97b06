//! The controller as a process: puts the parts together, binds all sockets before anything is
//! served, and stops them in order.

use crate::{
    api::{self, Api, view::days_left},
    backup,
    boot::Boot,
    causes::with_causes,
    config::Config,
    images::{self, DiskImage, Images, StoreError},
    pki::Pki,
    service::{Catalog, Parts, Service},
    store::Store,
    transfer,
};
use anyhow::Context;
use metalcast_initramfs::bundle::BESIDE_DIR;
use metalcast_shared::{
    id::{ImageName, Revision},
    manifest::{Manifest, SignedManifest},
};
use std::{fs, net::SocketAddr, os::unix::fs::DirBuilderExt, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often the authority is looked at whether it has to be renewed.
const RENEWAL: Duration = Duration::from_secs(60 * 60);

impl Catalog for Images {
    fn latest(&self, image: &ImageName) -> anyhow::Result<Option<Revision>> {
        Ok(Images::latest(self, image)?)
    }

    fn manifest(&self, revision: &Revision) -> anyhow::Result<Option<(Manifest, SignedManifest)>> {
        match Images::manifest(self, revision) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(images::StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn whole_disk(&self, revision: &Revision) -> anyhow::Result<Result<DiskImage, String>> {
        match Images::whole_disk(self, revision) {
            Ok(image) => Ok(Ok(image)),
            Err(images::WholeDiskError::Image(error)) => Ok(Err(with_causes(&error))),
            Err(error @ (images::WholeDiskError::Gap { .. } | images::WholeDiskError::Archive)) => {
                Ok(Err(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn archive_index(
        &self,
        revision: &Revision,
        partition: &str,
    ) -> anyhow::Result<metalcast_formats::tar::Index> {
        Ok(Images::archive_index(self, revision, partition)?)
    }

    fn remove(&self, revision: &Revision) -> anyhow::Result<bool> {
        match Images::remove(self, revision) {
            Ok(()) => Ok(true),
            Err(images::StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn clones(&self) -> anyhow::Result<Vec<Revision>> {
        Ok(Images::clones(self)?)
    }

    fn remove_clone(&self, revision: &Revision) -> anyhow::Result<()> {
        Ok(Images::remove_clone(self, revision)?)
    }
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, with the file or port and what to do; or the first part that
/// broke down.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    // Before anything can be interrupted half-way.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let controller = Controller::open(config).await?;
    let (service, store) = (controller.service.clone(), controller.store.clone());
    let mut parts = controller.start(&shutdown).await?;
    tracing::info!("ready");
    let mut outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = parts.join_next() => part(ended),
    };
    tracing::info!("stopping");
    shutdown.cancel();
    while let Some(ended) = parts.join_next().await {
        outcome = outcome.and(part(ended));
    }
    outcome = outcome.and(service.shut_down().await.context("writing the last records"));
    store.close().await;
    outcome
}

fn part(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.context("a part of the controller broke down")?
}

struct Controller {
    config: Config,
    pki: Arc<Pki>,
    images: Arc<Images>,
    store: Store,
    service: Service,
}

impl Controller {
    async fn open(config: Config) -> anyhow::Result<Self> {
        let dir = &config.state_dir;
        // Keys and images of systems lie below.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("making state_dir {}", dir.display()))?;
        backup::check_finished(dir)?;
        let now_unix = jiff::Timestamp::now().as_second();
        let pki = Arc::new(Pki::open_or_create(&config.pki_dir(), now_unix)?);
        let images = open_images(&config, &pki).await?;
        let store = Store::open(&config.database()).await?;
        let seal = Arc::clone(&pki);
        let parts = Parts {
            store: store.clone(),
            catalog: Arc::clone(&images) as Arc<dyn Catalog>,
            seal_report: Arc::new(move |token| seal.seal(token)),
            clock: Arc::new(|| jiff::Timestamp::now().as_millisecond()),
        };
        let service = Service::open(&config, parts).await.context("reading the records")?;
        Ok(Self { config, pki, images, store, service })
    }

    /// Binds all sockets, then serves on them.
    async fn start(
        self,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let Self { config, pki, images, store, service } = self;
        // The socket first: it tells whether another controller is running already.
        let api = Api::bind(&config.api.socket)?;
        let network = &config.network;
        let agents = SocketAddr::from((network.address, network.quic_port));
        let agents = transfer::Listener::bind(&pki, agents)?;
        let boot = Boot::bind(&config, service.clone(), Arc::clone(&pki)).await?;
        tracing::info!(
            interface = network.interface,
            address = %network.address,
            api = %config.api.socket.display(),
            "serving"
        );
        let mut parts = JoinSet::new();
        parts.spawn(boot.run(shutdown.clone()));
        parts.spawn(transfer::run(
            agents,
            service.clone(),
            Arc::clone(&images),
            [config.boot.ram_image.join(BESIDE_DIR), config.post_install_dir()],
            Arc::clone(&pki),
            shutdown.clone(),
        ));
        parts.spawn(keep_valid(Arc::clone(&pki), shutdown.clone()));
        let backup = Arc::new(backup::Source::new(config, store));
        let operators = api::Parts { service: service.clone(), images, pki, backup };
        parts.spawn(api.run(operators, shutdown.clone()));
        parts.spawn(tick(service, shutdown.clone()));
        Ok(parts)
    }
}

async fn open_images(config: &Config, pki: &Arc<Pki>) -> anyhow::Result<Arc<Images>> {
    let (dir, pki) = (config.images_dir(), Arc::clone(pki));
    let shown = dir.display().to_string();
    let quotas = config.quotas();
    let open = move || {
        let images = Images::open(&dir, Arc::new(move |root: &[u8]| pki.sign_manifest(root)))?;
        Ok::<_, StoreError>(images.with_quotas(quotas))
    };
    let images = tokio::task::spawn_blocking(open).await.context("opening the images")?;
    Ok(Arc::new(images.with_context(|| format!("opening the image store {shown}"))?))
}

/// Renews the authority when it is due, and says every hour if that fails.
async fn keep_valid(pki: Arc<Pki>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let (pki, now_unix) = (Arc::clone(&pki), jiff::Timestamp::now().as_second());
        let renewal = tokio::task::spawn_blocking(move || (pki.keep_valid(now_unix), pki.ends()));
        let (renewed, [(_, ends_unix), _]) = renewal.await.context("renewing the authority")?;
        match renewed {
            Ok(None) => {}
            Ok(Some(_)) => tracing::info!("the certificate authority is renewed"),
            Err(error) => {
                let days_left = days_left(ends_unix, now_unix);
                tracing::error!(days_left, "{error:#}; trying again every hour");
            }
        }
    }
}

async fn tick(service: Service, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {
                // A full disk must not stop the machines from booting; the next tick tries again.
                if let Err(error) = service.tick().await {
                    tracing::error!("looking at deadlines: {error:#}");
                }
            }
        }
    }
}
