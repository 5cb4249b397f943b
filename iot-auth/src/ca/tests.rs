use rcgen::{CustomExtension, PKCS_ECDSA_P384_SHA384};
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer,
};

use super::*;
use crate::keys::FileKeyRing;

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-23T00:00:00Z").unwrap()
}

async fn ca(folder: &Path) -> DeviceCa {
    DeviceCa::open_or_create(folder, &FileKeyRing::open_or_create(folder).unwrap(), now()).await.unwrap()
}

fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("whatever");
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn lamp() -> (TenantId, DeviceId) {
    (TenantId::parse("acme").unwrap(), DeviceId::parse("lamp-1").unwrap())
}

/// HS-20: a request that asks for the rights of an authority and for foreign names gets a device's certificate, no more.
#[tokio::test]
async fn hs_20_only_the_key_of_a_request_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let ca = ca(folder.path()).await;
    let key = KeyPair::generate().unwrap();
    let greedy = csr(&key, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![
            SanType::DnsName("cloud.example".try_into().unwrap()),
            SanType::URI("urn:iot:other:lamp-2".try_into().unwrap()),
        ];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    });
    let request = SigningRequest::parse(&greedy).unwrap();
    assert_eq!(request.fingerprint(), fingerprint(&key.subject_public_key_info()));
    let (tenant, device) = lamp();
    let issued = ca.issue_device(&tenant, &device, &request, now()).unwrap();
    let der = der(&issued.pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=lamp-1");
    assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names[..], [GeneralName::URI("urn:iot:acme:lamp-1")]), "{names:?}");
    assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(
        !certificate
            .extensions()
            .iter()
            .any(|e| matches!(e.parsed_extension(), ParsedExtension::UnsupportedExtension { .. }))
    );
    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp(), issued.not_after.as_millis() / 1_000);
    assert_eq!(issued.not_after, now().plus(DEVICE_VALIDITY));
    assert_eq!(validity.not_before.timestamp(), now().minus(BACKDATED).as_millis() / 1_000);
    assert_eq!(HEXLOWER.encode(certificate.raw_serial()), issued.serial);
    assert_eq!(certificate.raw_serial().len(), 16);
}

#[test]
fn a_request_must_be_whole_of_the_right_kind_and_signed_by_its_key() {
    let key = KeyPair::generate().unwrap();
    let good = csr(&key, |_| {});
    assert!(SigningRequest::parse(&good).is_ok());
    assert!(SigningRequest::parse(&good.replace('\n', "\r\n")).is_ok());
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(SigningRequest::parse(&csr(&other, |_| {})).unwrap_err(), CsrInvalid::Algorithm);
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(SigningRequest::parse(&csr(&ed, |_| {})).unwrap_err(), CsrInvalid::Algorithm);
    let twice = format!("{good}{good}");
    let long = format!("{good}{}", " ".repeat(request::CSR_BYTES_MAX));
    let certificate = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    for bad in ["", "x", &good[..100], &twice, &long, &certificate] {
        assert_eq!(SigningRequest::parse(bad).unwrap_err(), CsrInvalid::Malformed, "{bad}");
    }
}

#[test]
fn an_altered_request_is_refused_wherever_it_is_altered() {
    let key = KeyPair::generate().unwrap();
    let bytes = der(&csr(&key, |_| {}));
    let (_, request) = X509CertificationRequest::from_der(&bytes).unwrap();
    let signature = bytes.len() - request.signature_value.data.len();
    let algorithm_end = signature - 3;
    let signed_end = algorithm_end - 12;
    // The algorithm's own encoding is not signed and says nothing that is used.
    for at in (0..signed_end).chain(algorithm_end..bytes.len()) {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let base64 = data_encoding::BASE64.encode(&altered);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{base64}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(SigningRequest::parse(&pem).is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn the_authority_stays_the_same_and_its_key_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let first = ca(folder.path()).await;
    std::fs::remove_file(folder.path().join(CERTIFICATE_FILE)).unwrap();
    let again = ca(folder.path()).await;
    assert_eq!(first.certificate_pem(), again.certificate_pem());
    assert_eq!(std::fs::read_to_string(folder.path().join(CERTIFICATE_FILE)).unwrap(), first.certificate_pem());
    let sealed = std::fs::read(folder.path().join(SEALED_FILE)).unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"PRIVATE"));
    let foreign = tempfile::tempdir().unwrap();
    let keys = FileKeyRing::open_or_create(foreign.path()).unwrap();
    let error = DeviceCa::open_or_create(folder.path(), &keys, now()).await.unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("keyring.json"), "{error}");
}

#[tokio::test]
async fn a_servers_identity_is_kept_until_it_must_change() {
    let folder = tempfile::tempdir().unwrap();
    let keys = FileKeyRing::open_or_create(folder.path()).unwrap();
    let ca = ca(folder.path()).await;
    let names = ["cloud.example".to_owned(), "192.0.2.7".to_owned()];
    let ask = async |names: &[String], at| ca.server_identity(folder.path(), &keys, names, at).await.unwrap();
    let first = ask(&names, now()).await;
    let der = der(&first.certificate_pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 5);
    assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    assert_eq!(first.not_after, now().plus(SERVER_VALIDITY));
    let almost = first.not_after.minus(SERVER_RENEWAL);
    assert_eq!(ask(&names, almost).await.certificate_pem, first.certificate_pem);
    let renewed = ask(&names, almost.plus(Duration::from_secs(1))).await;
    assert_ne!(renewed.certificate_pem, first.certificate_pem);
    assert_ne!(ask(&names[..1], almost).await.certificate_pem, renewed.certificate_pem);
}
