//! The controller's keys: its certificate authority, the certificates of the server and of nodes,
//! the signature on manifests, and sealed statements.
//!
//! The directory is made once and whole: it is filled under another name and then renamed. One
//! that exists is taken as it is, and whatever is missing or damaged in it is an error, because a
//! new authority would lock out every running agent and a new manifest key would void every image.
//!
//! ```text
//! pki/ca.pem        certificate of the authority, ECDSA P-256, 10 years
//! pki/ca.key        its private key (PKCS #8)                         mode 0600
//! pki/manifest.key  Ed25519 private key that signs manifests          mode 0600
//! pki/seal.key      32 random bytes, base16: seals enrolment tokens   mode 0600
//! ```

mod certificate;
mod files;
mod seal;

pub use certificate::{Authority, CertificateError, NodeRequest, RequestError, holder_of};
pub use seal::{MAX_SEALED_CHARS, Purpose, Seal, UnsealError};

use anyhow::Context;
use metalcast_shared::id::NodeId;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const MANIFEST_KEY: &str = "manifest.key";
const SEAL_KEY: &str = "seal.key";

/// All keys of a controller, in memory.
pub struct Pki {
    authority: Authority,
    manifest: Ed25519KeyPair,
    seal: Seal,
}

impl Pki {
    /// Opens the key directory, or makes it if it is absent or empty.
    ///
    /// `now_unix` is the present in seconds since 1970; it dates a new authority and must lie
    /// within the validity of an old one.
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
        Ok(Self { authority, manifest, seal })
    }

    /// The certificate authority, which issues every certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// TLS 1.3 for the QUIC endpoint under a certificate made now: valid from a day ago, for a
    /// year. A client certificate is asked for but not required.
    pub fn server_tls(&self, now_unix: i64) -> Result<rustls::ServerConfig, CertificateError> {
        self.authority.server_tls(now_unix)
    }

    /// The certificate (DER) of `node` for the key in `request`: valid from 5 minutes before
    /// `now_unix`, for 24 hours.
    pub fn issue_node(
        &self,
        request: &NodeRequest,
        node: NodeId,
        now_unix: i64,
    ) -> Result<Vec<u8>, CertificateError> {
        self.authority.issue_node(request, node, now_unix)
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
