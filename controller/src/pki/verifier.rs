//! The judgement on client certificates: webpki's. Of those that it refuses someone is told: the
//! machine behind one gets no further than the handshake and could not say what is wrong.

use super::certificate::holder_of;
use metalcast_shared::{hash::Hash, id::NodeId};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{fmt, sync::Arc};

/// A client certificate that was refused. Nothing of it is proven: anyone may have made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCertificate {
    /// The node that it names.
    pub node: NodeId,
    /// Hash of the key that it names.
    pub key: Hash,
    /// Why it was refused.
    pub reason: String,
}

/// Called in handshakes; must not wait.
pub type OnRefused = Arc<dyn Fn(RefusedCertificate) + Send + Sync>;

/// Another verifier, overheard.
pub(super) struct Overheard {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) on_refused: OnRefused,
}

impl fmt::Debug for Overheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overheard").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Overheard {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now);
        if let Err(error) = &verified
            && let Some((node, key)) = holder_of(end_entity)
        {
            (self.on_refused)(RefusedCertificate { node, key, reason: error.to_string() });
        }
        verified
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
