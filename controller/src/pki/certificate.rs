//! The certificate authority and what it issues.
//!
//! A node's certificate names it in a DNS subject alternative name, `<uuid>.node.metalcast`, which
//! [`holder_of`] reads.

use super::verifier::{OnRefused, Overheard};
use metalcast_shared::{
    hash::Hash,
    id::NodeId,
    version::{ALPN, SERVER_NAME},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// What a node's name ends with, after its id.
const NODE_DOMAIN: &str = "node.metalcast";

/// Longest certificate signing request read, in bytes. One for P-256 has about 250.
const MAX_REQUEST_BYTES: usize = 4 << 10;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_VALIDITY: Duration = Duration::from_secs(3653 * 24 * 60 * 60);

/// How long before its end the authority is renewed.
const CA_RENEWED_BEFORE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

pub(super) const SERVER_VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const NODE_VALIDITY: Duration = DAY;

/// How far clocks may be apart, for certificates that live long enough to be generous.
const SERVER_BACKDATE: Duration = DAY;

/// How far a node's clock may be behind; it was set from the controller's at its netboot.
const NODE_BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The library refused to build, sign or read it.
    #[error("certificate cannot be made or read")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused it.
    #[error("certificate cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// The verifier of client certificates could not be built.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// A file holds no PEM block of the kind it should.
    #[error("no {0} in PEM form")]
    Pem(&'static str),
    /// The authority's certificate is not X.509.
    #[error("the authority's certificate is damaged")]
    Damaged,
    /// Key and certificate of the authority belong to different authorities.
    #[error("the authority's key does not fit its certificate")]
    Mismatch,
    /// The clock stands before the authority was made.
    #[error("the certificate authority begins at {from}, the clock says {now}: set the clock")]
    NotYetValid {
        /// Begin of its validity.
        from: jiff::Timestamp,
        /// The controller's time.
        now: jiff::Timestamp,
    },
    /// A time that certificates cannot express.
    #[error("{0} s since 1970 is not a time for a certificate")]
    Time(i64),
}

/// Why a certificate signing request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any honest one.
    #[error("certificate request of {0} bytes, but at most {MAX_REQUEST_BYTES} are allowed")]
    TooLong(usize),
    /// Not PKCS #10, or not signed with the key it holds.
    #[error("certificate request is not valid: {0}")]
    Invalid(String),
    /// Neither ECDSA P-256 nor Ed25519.
    #[error("certificate request is for a kind of key that is not accepted (ECDSA P-256, Ed25519)")]
    Algorithm,
}

/// A checked certificate signing request: whoever made it holds the key.
#[derive(Debug)]
pub struct NodeRequest {
    public_key: rcgen::PublicKey,
}

impl NodeRequest {
    /// Reads PKCS #10 (RFC 2986) DER and checks its signature. Nothing of it but the key is used:
    /// names and extensions in a certificate are the authority's business.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong(der.len()));
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|error| RequestError::Invalid(error.to_string()))?;
        let algorithm = request.public_key.algorithm();
        if *algorithm != rcgen::PKCS_ECDSA_P256_SHA256 && *algorithm != rcgen::PKCS_ED25519 {
            return Err(RequestError::Algorithm);
        }
        Ok(Self { public_key: request.public_key })
    }

    /// Names the key: the hash of its public half.
    pub fn key(&self) -> Hash {
        Hash::of(self.public_key.der_bytes())
    }
}

/// The certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    name: String,
    from_unix: i64,
    until_unix: i64,
}

impl Authority {
    /// Certificate and key of a new authority, PEM.
    pub fn generate(now_unix: i64) -> Result<(String, String), CertificateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let params = validity(now_unix, SERVER_BACKDATE, CA_VALIDITY)?;
        // The id tells authorities of several controllers apart, for people and for TLS.
        let params = authority(params, &format!("Metalcast authority {}", Uuid::new_v4()));
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    }

    /// The authority from its certificate and key (PEM), which must belong together. One that has
    /// ended is opened too: it can be renewed.
    pub fn open(pem: &str, key: &str, now_unix: i64) -> Result<Self, CertificateError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CertificateError::Pem("certificate"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| CertificateError::Pem("private key (PKCS #8)"))?;
        let key = KeyPair::try_from(&key)?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate)
            .map_err(|_| CertificateError::Damaged)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertificateError::Mismatch);
        }
        let from_unix = parsed.validity().not_before.timestamp();
        let until_unix = parsed.validity().not_after.timestamp();
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.ok_or(CertificateError::Damaged)?.to_owned();
        if now_unix < from_unix {
            let time = |seconds| {
                jiff::Timestamp::from_second(seconds).map_err(|_| CertificateError::Time(seconds))
            };
            return Err(CertificateError::NotYetValid {
                from: time(from_unix)?,
                now: time(now_unix)?,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let pem = pem.to_owned();
        Ok(Self { issuer, certificate, pem, name, from_unix, until_unix })
    }

    /// When it ends, seconds since 1970-01-01 UTC.
    pub fn until_unix(&self) -> i64 {
        self.until_unix
    }

    /// Whether it is time for a new certificate.
    pub fn is_due(&self, now_unix: i64) -> bool {
        now_unix.saturating_add(CA_RENEWED_BEFORE.as_secs().cast_signed()) >= self.until_unix
    }

    /// A new certificate (PEM) of the same authority: its name, its key and its beginning stay, so
    /// that whoever trusts the old one trusts what is signed under the new one, and the other way
    /// round. The beginning stays also because the clock that says "now" may be wrong.
    pub fn renewed(&self, now_unix: i64) -> Result<String, CertificateError> {
        let backdate = now_unix.saturating_sub(self.from_unix).max(0).cast_unsigned();
        let params = validity(now_unix, Duration::from_secs(backdate), CA_VALIDITY)?;
        let mut params = authority(params, &self.name);
        // No two certificates of an issuer have one number (RFC 5280 section 4.1.2.2).
        params.serial_number = Some(Uuid::new_v4().as_bytes().to_vec().into());
        Ok(params.self_signed(self.issuer.key())?.pem())
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The configuration of [`super::Pki::server_tls`].
    pub fn server_tls(
        &self,
        now_unix: i64,
        on_refused: OnRefused,
    ) -> Result<rustls::ServerConfig, CertificateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = validity(now_unix, SERVER_BACKDATE, SERVER_VALIDITY)?;
        name(&mut params, SERVER_NAME)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let verifier = Arc::new(Overheard { inner, on_refused });
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key)))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would carry on with a certificate that has expired meanwhile.
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        Ok(tls)
    }

    /// See [`super::Pki::issue_node`].
    pub fn issue_node(
        &self,
        request: &NodeRequest,
        node: NodeId,
        now_unix: i64,
    ) -> Result<Vec<u8>, CertificateError> {
        let mut params = validity(now_unix, NODE_BACKDATE, NODE_VALIDITY)?;
        name(&mut params, &format!("{node}.{NODE_DOMAIN}"))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(certificate.der().to_vec())
    }
}

/// The node that a certificate (DER) names, and its key as [`NodeRequest::key`] names it. It means
/// something only of a certificate that was verified; `None` if it names no node, or more than one.
pub fn holder_of(certificate: &[u8]) -> Option<(NodeId, Hash)> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::DNSName(name)] = names.as_slice() else { return None };
    let id = name.strip_suffix(NODE_DOMAIN)?.strip_suffix('.')?;
    let id = Uuid::try_parse(id).ok()?;
    // Uuid reads several spellings; certificates of ours have one.
    let key = Hash::of(&certificate.public_key().subject_public_key.data);
    (name.len() == 36 + 1 + NODE_DOMAIN.len()).then_some((NodeId(id), key))
}

/// Parameters of a certificate that begins `backdate` before now and ends `validity` after it.
fn validity(
    now_unix: i64,
    backdate: Duration,
    validity: Duration,
) -> Result<CertificateParams, CertificateError> {
    /// 9999-12-31, the last day of X.509 (RFC 5280 section 4.1.2.5).
    const LAST: u64 = 253_402_214_400;
    let now = u64::try_from(now_unix).map_err(|_| CertificateError::Time(now_unix))?;
    let until = now.checked_add(validity.as_secs()).filter(|until| *until < LAST);
    let until = until.ok_or(CertificateError::Time(now_unix))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(backdate.as_secs()));
    params.not_after = epoch + Duration::from_secs(until);
    Ok(params)
}

/// Makes a certificate that of an authority.
fn authority(mut params: CertificateParams, name: &str) -> CertificateParams {
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Gives a certificate that is no authority its name and the uses of its key.
fn name(params: &mut CertificateParams, name: &str) -> Result<(), CertificateError> {
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(())
}
