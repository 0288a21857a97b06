use super::*;
use metalcast_shared::{
    boot::{EnrolmentToken, ReportToken},
    hash::Hash,
    id::{BootId, JobId, Mac, TaskId},
    version,
};
use proptest::prelude::*;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};
use uuid::Uuid;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

struct Keys {
    _temp: tempfile::TempDir,
    dir: PathBuf,
}

fn keys() -> (Keys, Pki) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("pki");
    let pki = Pki::open_or_create(&dir, NOW).unwrap();
    (Keys { _temp: temp, dir }, pki)
}

fn request() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["controller.metalcast".into()]).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn token() -> EnrolmentToken {
    EnrolmentToken {
        boot: BootId(Uuid::from_u128(7)),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        expires_unix: NOW,
        golden: false,
    }
}

#[test]
fn keys_survive_a_restart_and_nobody_else_may_read_them() {
    let (keys, first) = keys();
    let again = Pki::open_or_create(&keys.dir, NOW + 1).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    assert_eq!(first.manifest_public_key(), again.manifest_public_key());
    assert_eq!(again.unseal::<EnrolmentToken>(&first.seal(&token())).unwrap(), token());
    for entry in fs::read_dir(&keys.dir).unwrap() {
        let entry = entry.unwrap();
        let expected = if entry.file_name() == CA_CERTIFICATE { 0o644 } else { 0o600 };
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, expected, "{entry:?}");
    }
    let signature = first.sign_manifest(b"root");
    let key = again.manifest_public_key();
    assert_eq!((signature.len(), key.len()), (64, 32));
    UnparsedPublicKey::new(&ED25519, key).verify(b"root", &signature).unwrap();
}

#[test]
fn missing_damaged_and_readable_keys_are_errors_that_name_the_file() {
    for name in [CA_CERTIFICATE, CA_KEY, MANIFEST_KEY, SEAL_KEY] {
        let (keys, _) = keys();
        let path = keys.dir.join(name);
        let check = |what: &str| {
            let Err(error) = Pki::open_or_create(&keys.dir, NOW) else {
                panic!("{name} {what} was accepted")
            };
            format!("{error:#}")
        };
        if name != CA_CERTIFICATE {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(check("readable").contains("chmod 600"));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        check("cut short");
        fs::write(&path, b"").unwrap();
        check("empty");
        fs::remove_file(&path).unwrap();
        assert!(check("missing").contains(name));
        assert!(!path.exists(), "{name} was made anew");
    }
}

#[test]
fn an_authority_with_another_ones_key_is_refused() {
    let ((mine, _), (other, _)) = (keys(), keys());
    fs::copy(other.dir.join(CA_KEY), mine.dir.join(CA_KEY)).unwrap();
    let Err(error) = Pki::open_or_create(&mine.dir, NOW) else { panic!("accepted") };
    assert!(format!("{error:#}").contains("does not fit"), "{error:#}");
}

#[test]
fn a_clock_before_the_authoritys_beginning_is_reported() {
    let (keys, _) = keys();
    for now in [NOW - 2 * DAY, 0] {
        let Err(error) = Pki::open_or_create(&keys.dir, now) else { panic!("accepted {now}") };
        assert!(format!("{error:#}").contains("set the clock"), "{error:#}");
    }
}

/// Handshake of an agent that trusts `ca_pem`, as TLS without a network.
fn shake_hands(pki: &Pki, ca_pem: &str, identity: (&[u8], &rcgen::KeyPair), now: i64) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(identity.1.serialize_der()).into();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.0.to_vec().into()], key)
        .unwrap();
    let name = version::SERVER_NAME.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let server = Arc::new(pki.server_tls(now, Arc::new(|_| ())).unwrap());
    let mut server = rustls::ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut rest = &to_server[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        let mut rest = &to_client[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let peer = server.peer_certificates().unwrap();
    assert_eq!(holder_of(&peer[0]).unwrap().0, NodeId(Uuid::from_u128(1)));
}

/// The handshakes are judged by rustls, which reads the clock: so the authority was made long ago.
#[test]
fn a_renewed_authority_and_its_agents_go_on_with_each_other() {
    let now = jiff::Timestamp::now().as_second();
    for (made, case) in [(3653 - 90, "due"), (3653 - 1, "on its last day"), (4000, "ended")] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("pki");
        let long_ago = now - made * DAY;
        let before = Pki::open_or_create(&dir, long_ago).unwrap();
        assert_eq!(before.keep_valid(now - (made - 1) * DAY).unwrap(), None, "{case}: too early");
        let [(_, old_end), _] = before.ends();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let request = NodeRequest::read(request.der()).unwrap();
        let issue = |pki: &Pki| pki.issue_node(&request, NodeId(Uuid::from_u128(1)), now).unwrap();
        let (old_ca, old) = (before.ca_pem(), issue(&before));

        // What a restart does, and what the running one does.
        let after = Pki::open_or_create(&dir, now).unwrap();
        let new_end = now + 3653 * DAY;
        assert_eq!(after.ends()[0], ("authority", new_end), "{case}");
        assert_ne!(after.ca_pem(), old_ca, "{case}");
        assert_eq!(before.keep_valid(now).unwrap(), Some(new_end), "{case}");
        assert_eq!(before.keep_valid(now).unwrap(), None, "{case}");
        assert!(old_end < new_end);
        let again = Pki::open_or_create(&dir, now).unwrap();
        assert_eq!(again.ca_pem(), before.ca_pem(), "{case}: renewed twice");

        let (new_ca, new) = (after.ca_pem(), issue(&after));
        for ca in [&old_ca, &new_ca] {
            for certificate in [&old, &new] {
                shake_hands(&after, ca, (certificate, &key), now);
            }
        }
        assert_eq!(after.ends()[1], ("server", now + 365 * DAY));
        // A clock that was ahead and is set right again locks nobody out.
        Pki::open_or_create(&dir, now + 5000 * DAY).unwrap();
        Pki::open_or_create(&dir, long_ago + DAY).unwrap();
        let serial = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
        };
        assert_ne!(serial(&old_ca), serial(&new_ca));
        assert_eq!(fs::metadata(dir.join(CA_CERTIFICATE)).unwrap().mode() & 0o777, 0o644);
    }
}

/// A directory in the place of the file that is written first.
#[test]
fn an_authority_that_cannot_be_renewed_serves_on_until_its_end() {
    let (keys, pki) = keys();
    fs::create_dir_all(keys.dir.join("ca.pem.new/in the way")).unwrap();
    let due = NOW + 3600 * DAY;
    assert!(format!("{:#}", pki.keep_valid(due).unwrap_err()).contains("ca.pem.new"));
    let pki = Pki::open_or_create(&keys.dir, due).unwrap();
    assert_eq!(pki.ends()[0].1, NOW + 3653 * DAY);
    let Err(error) = Pki::open_or_create(&keys.dir, NOW + 3654 * DAY) else { panic!("accepted") };
    assert!(format!("{error:#}").contains("renewing the certificate authority"), "{error:#}");
}

#[test]
fn an_interrupted_creation_is_begun_again() {
    let temp = tempfile::tempdir().unwrap();
    let half = temp.path().join("pki.unfinished");
    fs::create_dir(&half).unwrap();
    fs::write(half.join(CA_KEY), "half").unwrap();
    fs::create_dir(temp.path().join("pki")).unwrap();
    Pki::open_or_create(&temp.path().join("pki"), NOW).unwrap();
    assert!(!half.exists());
}

#[test]
fn a_certificate_names_its_node_and_nothing_the_request_asked_for() {
    let (_keys, pki) = keys();
    let node = NodeId(Uuid::from_u128(0x1234));
    let request = request();
    let parsed = NodeRequest::read(&request).unwrap();
    let certificate = pki.issue_node(&parsed, node, NOW).unwrap();
    assert_eq!(holder_of(&certificate), Some((node, parsed.key())));
    assert_eq!(NodeRequest::read(&request).unwrap().key(), parsed.key());
    let text = String::from_utf8_lossy(&certificate).into_owned();
    assert!(!text.contains("controller.metalcast"));
    assert_eq!(holder_of(&certificate[1..]), None);
    assert_eq!(holder_of(b""), None);
}

#[test]
fn requests_are_checked() {
    let good = request();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(NodeRequest::read(&forged), Err(RequestError::Invalid(_))));
    assert!(matches!(NodeRequest::read(&good[..50]), Err(RequestError::Invalid(_))));
    assert_eq!(NodeRequest::read(&[0; 5000]).unwrap_err(), RequestError::TooLong(5000));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    assert_eq!(NodeRequest::read(other.der()).unwrap_err(), RequestError::Algorithm);
}

#[test]
fn a_token_is_good_for_its_purpose_and_its_controller_only() {
    let ((_a, mine), (_b, other)) = (keys(), keys());
    let sealed = mine.seal(&token());
    assert_ne!(sealed, mine.seal(&token()), "nonces repeat");
    assert_eq!(mine.unseal::<EnrolmentToken>(&sealed), Ok(token()));
    assert_eq!(mine.unseal::<ReportToken>(&sealed), Err(UnsealError::Foreign));
    assert_eq!(other.unseal::<EnrolmentToken>(&sealed), Err(UnsealError::Foreign));
    let task = TaskId { job: JobId(1), node: NodeId(Uuid::nil()), generation: 1 };
    let report = mine.seal(&ReportToken { task });
    assert_eq!(mine.unseal::<ReportToken>(&report), Ok(ReportToken { task }));
    let long = "00".repeat(MAX_SEALED_CHARS);
    assert_eq!(mine.unseal::<ReportToken>(&long), Err(UnsealError::Form));
}

#[test]
fn every_altered_digit_of_a_token_is_noticed() {
    let (_keys, pki) = keys();
    let sealed = pki.seal(&token());
    for at in 0..sealed.len() {
        let mut bad = sealed.clone().into_bytes();
        bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
        let bad = String::from_utf8(bad).unwrap();
        assert!(pki.unseal::<EnrolmentToken>(&bad).is_err(), "digit {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text in ".{0,200}") {
        let seal = Seal::from_text(&"00".repeat(32)).unwrap();
        let _ = (seal.unseal::<EnrolmentToken>(&text), holder_of(&bytes));
        let _ = NodeRequest::read(&bytes).map(|request| request.key() == Hash::of(b""));
    }
}
