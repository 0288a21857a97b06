//! The controller's keys: its certificate authority, the certificates of the server and of nodes,
//! the signature on manifests, and sealed statements.
//!
//! The directory is made once and whole: it is filled under another name and then renamed. One
//! that exists is taken as it is, and whatever is missing or damaged in it is an error, because a
//! new authority would lock out every running agent and a new manifest key would void every image.
//!
//! Certificates are renewed long before they end: the authority's by [`Pki::keep_valid`], the
//! server's by whoever asks for [`Pki::server_tls`] from day to day. The renewed authority is the
//! same one, with the same name and key: agents that booted with either certificate accept it, and
//! certificates of nodes go on being good.
//!
//! ```text
//! pki/ca.pem        certificate of the authority, ECDSA P-256, 10 years, renewed 90 days before
//! pki/ca.key        its private key (PKCS #8)                         mode 0600
//! pki/manifest.key  Ed25519 private key that signs manifests          mode 0600
//! pki/seal.key      32 random bytes, base16: seals enrolment tokens   mode 0600
//! ```

mod certificate;
mod files;
mod seal;
mod verifier;

pub use certificate::{Authority, CertificateError, NodeRequest, RequestError, holder_of};
pub use seal::{MAX_SEALED_CHARS, Purpose, Seal, UnsealError};
pub use verifier::{OnRefused, RefusedCertificate};

use anyhow::Context;
use certificate::SERVER_VALIDITY;
use metalcast_shared::id::NodeId;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const MANIFEST_KEY: &str = "manifest.key";
const SEAL_KEY: &str = "seal.key";

/// All keys of a controller, in memory.
pub struct Pki {
    dir: PathBuf,
    authority: RwLock<Arc<Authority>>,
    /// End of the latest server's certificate; 0 before the first.
    server_until_unix: AtomicI64,
    manifest: Ed25519KeyPair,
    seal: Seal,
}

impl Pki {
    /// Opens the key directory, or makes it if it is absent or empty.
    ///
    /// `now_unix` is the present in seconds since 1970; it dates a new authority and must not lie
    /// before the beginning of an old one. One that has ended, or soon will, is renewed.
    pub fn open_or_create(dir: &Path, now_unix: i64) -> anyhow::Result<Self> {
        if files::is_absent_or_empty(dir)? {
            create(dir, now_unix)
                .with_context(|| format!("creating the keys in {}", dir.display()))?;
            tracing::info!(dir = %dir.display(), "made a new certificate authority");
        }
        Self::open(dir, now_unix).with_context(|| {
            format!(
                "opening the keys in {} (they are never made anew while the directory exists: \
                 restore them from a backup)",
                dir.display()
            )
        })
    }

    fn open(dir: &Path, now_unix: i64) -> anyhow::Result<Self> {
        let certificate = files::read(&dir.join(CA_CERTIFICATE))?;
        let key = files::read_secret(&dir.join(CA_KEY))?;
        let authority = Authority::open(&certificate, &key, now_unix)?;
        let manifest = files::read_secret(&dir.join(MANIFEST_KEY))?;
        let manifest = PrivatePkcs8KeyDer::from_pem_slice(manifest.as_bytes())
            .with_context(|| format!("reading {MANIFEST_KEY} as a PKCS #8 key in PEM form"))?;
        let manifest = Ed25519KeyPair::from_pkcs8(manifest.secret_pkcs8_der())
            .map_err(|error| anyhow::anyhow!("{MANIFEST_KEY} is not an Ed25519 key: {error}"))?;
        let seal = files::read_secret(&dir.join(SEAL_KEY))?;
        let seal = Seal::from_text(&seal)
            .with_context(|| format!("reading {SEAL_KEY} as 64 base16 digits"))?;
        let until_unix = authority.until_unix();
        let pki = Self {
            dir: dir.to_owned(),
            authority: RwLock::new(Arc::new(authority)),
            server_until_unix: AtomicI64::new(0),
            manifest,
            seal,
        };
        match pki.keep_valid(now_unix) {
            Err(error) if now_unix > until_unix => Err(error),
            // There is time left to mend what keeps it from being renewed.
            Ok(_) | Err(_) => Ok(pki),
        }
    }

    /// Renews the authority's certificate if that is due, and says when the new one ends. To be
    /// called from time to time.
    ///
    /// # Errors
    /// When the new certificate cannot be made or written; the old one stays in use.
    pub fn keep_valid(&self, now_unix: i64) -> anyhow::Result<Option<i64>> {
        let old = self.authority();
        if !old.is_due(now_unix) {
            return Ok(None);
        }
        let renew = || -> anyhow::Result<Authority> {
            let key = files::read_secret(&self.dir.join(CA_KEY))?;
            let new = Authority::open(&old.renewed(now_unix)?, &key, now_unix)?;
            let pem = new.certificate_pem();
            files::replace(&self.dir, CA_CERTIFICATE, files::Secrecy::Public, pem)?;
            Ok(new)
        };
        let new = renew().context("renewing the certificate authority")?;
        let until_unix = new.until_unix();
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(Some(until_unix))
    }

    /// When the certificates end of the authority and of the server, seconds since 1970-01-01 UTC.
    pub fn ends(&self) -> [(&'static str, i64); 2] {
        let server = self.server_until_unix.load(Ordering::Relaxed);
        [("authority", self.authority().until_unix()), ("server", server)]
    }

    fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> String {
        self.authority().certificate_pem().to_owned()
    }

    /// TLS 1.3 for the QUIC endpoint under a certificate made now: valid from a day ago, for a
    /// year. A client certificate is asked for but not required; `on_refused` hears of those that
    /// are not good.
    pub fn server_tls(
        &self,
        now_unix: i64,
        on_refused: OnRefused,
    ) -> Result<rustls::ServerConfig, CertificateError> {
        let tls = self.authority().server_tls(now_unix, on_refused)?;
        let until_unix = now_unix.saturating_add(SERVER_VALIDITY.as_secs().cast_signed());
        self.server_until_unix.store(until_unix, Ordering::Relaxed);
        Ok(tls)
    }

    /// The certificate (DER) of `node` for the key in `request`: valid from 5 minutes before
    /// `now_unix`, for 24 hours.
    pub fn issue_node(
        &self,
        request: &NodeRequest,
        node: NodeId,
        now_unix: i64,
    ) -> Result<Vec<u8>, CertificateError> {
        self.authority().issue_node(request, node, now_unix)
    }

    /// Seals a statement into base16 text that only this controller can make and read.
    pub fn seal<T: Serialize + Purpose>(&self, statement: &T) -> String {
        self.seal.seal(statement)
    }

    /// Reads what [`Pki::seal`] made of the same type.
    pub fn unseal<T: DeserializeOwned + Purpose>(&self, text: &str) -> Result<T, UnsealError> {
        self.seal.unseal(text)
    }

    /// Ed25519 signature (64 bytes) over an encoded manifest.
    pub fn sign_manifest(&self, root: &[u8]) -> Vec<u8> {
        self.manifest.sign(root).as_ref().to_vec()
    }

    /// The key that manifests are checked with, 32 bytes.
    pub fn manifest_public_key(&self) -> Vec<u8> {
        self.manifest.public_key().as_ref().to_vec()
    }
}

fn create(dir: &Path, now_unix: i64) -> anyhow::Result<()> {
    let (certificate, key) = Authority::generate(now_unix)?;
    let manifest = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .context("generating the key for manifests")?;
    files::create_directory(
        dir,
        &[
            (CA_CERTIFICATE, files::Secrecy::Public, certificate),
            (CA_KEY, files::Secrecy::Secret, key),
            (MANIFEST_KEY, files::Secrecy::Secret, manifest.serialize_pem()),
            (SEAL_KEY, files::Secrecy::Secret, Seal::generate()?),
        ],
    )
}

#[cfg(test)]
mod tests;
