//! Enrolment: a key of this boot, the boot's token, a certificate in return.

use super::{
    Backoff,
    connect::{Connector, Identity, Refusal, STRANGER_LIMIT, Strangers},
    wire,
};
use anyhow::Context;
use metalcast_shared::{
    boot::BootConfig,
    close,
    codec::MAX_MESSAGE_BYTES,
    inventory::Fingerprint,
    to_agent::EnrolReply,
    to_controller::{Enrol, Open},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;

/// Asks until the controller answers.
pub(super) async fn enrol(
    connector: &Connector,
    boot: &BootConfig,
    fingerprint: &Fingerprint,
) -> anyhow::Result<Result<Identity, Refusal>> {
    // ECDSA on P-256. The controller decides on the certificate's names, so the request has none.
    let key = KeyPair::generate().context("making a key")?;
    let request =
        CertificateParams::default().serialize_request(&key).context("making a request")?;
    let enrol = Enrol {
        token: boot.token.clone(),
        request: request.der().to_vec(),
        fingerprint: fingerprint.clone(),
    };
    let mut strangers = Strangers::default();
    let mut backoff = Backoff::default();
    loop {
        for address in &boot.controllers {
            match ask(connector, *address, &enrol).await {
                Ok(EnrolReply::Granted { node, certificate, manifest_key }) => {
                    tracing::info!("enrolled at {address} as {node}");
                    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                    let certificate = certificate.into();
                    return Ok(Ok(Identity { certificate, key, manifest_key }));
                }
                Ok(EnrolReply::Refused { reason }) => return Ok(Err(Refusal(reason))),
                Err(error) => {
                    tracing::warn!("cannot enrol at {address}: {error:#}");
                    if strangers.is_enough(&error, STRANGER_LIMIT) {
                        return Ok(Err(Refusal::of_stranger()));
                    }
                }
            }
        }
        backoff.wait().await;
    }
}

async fn ask(
    connector: &Connector,
    address: SocketAddr,
    enrol: &Enrol,
) -> anyhow::Result<EnrolReply> {
    let connection = connector.connect(address, None).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    wire::send(&mut send, &Open::Enrol(enrol.clone())).await?;
    send.finish()?;
    let reply = wire::receive(&mut receive, MAX_MESSAGE_BYTES).await?;
    connection.close(close::DONE.into(), b"enrolled");
    Ok(reply)
}
