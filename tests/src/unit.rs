//! Devices.

use std::{net::SocketAddr, process::Command, sync::Arc};

use iot_auth::device::{ClaimRequest, DeviceKey};
use iot_conn::mqtt::client::ClientOptions;
use iot_core::{id::DeviceId, secret::Secret};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::{
    cloud::Cloud,
    http::{Answer, Api},
    mqtt::{Mqtt, Way},
    process::{Process, program},
};

/// Makes a product with these units.
#[track_caller]
pub fn import(api: &Api, product: &str, devices: &[&str]) {
    let _made = api.put(&format!("/v1/products/{product}"), &json!({"name": product, "encoding": "json"}));
    let rows: String = devices.iter().map(|id| format!("{id},{}\n", id.to_uppercase())).collect();
    let csv = format!("device_id,p_code\n{rows}");
    let path = format!("/v1/products/{product}/units");
    let imported = api.send("POST", &path, &[("Content-Type", "text/csv")], Some(csv)).is(201);
    assert_eq!(imported["imported"], devices.len());
}

/// A claim token for the product; with `assign` it picks units itself.
#[track_caller]
pub fn claim_token(api: &Api, product: &str, uses: u32, assign: bool) -> String {
    let body = json!({"product": product, "uses": uses, "valid_s": 3_600, "assign": assign});
    api.post("/v1/claim-tokens", &body).is(201)["token"].as_str().expect("it is shown once").to_owned()
}

/// A claimed unit: what its flash holds.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "attacks mix the parts of several")]
pub struct Unit {
    /// Its id.
    pub id: String,
    /// Its private key, in PEM.
    pub key: String,
    /// Its certificate, in PEM.
    pub certificate: String,
    /// The deployment's authority, in PEM.
    pub ca: String,
}

/// Claims `device` with `key`.
pub fn claim_with(api: &Api, token: &str, device: &str, key: &DeviceKey) -> Answer {
    let device = DeviceId::parse(device).expect("it is an identifier");
    let request = ClaimRequest::new(&Secret::new(token), key, Some(device)).expect("the key signs");
    api.post("/v1/claim", &serde_json::to_value(&request).expect("it is plain data"))
}

impl Unit {
    /// Claims `device` with a new key.
    #[track_caller]
    pub fn claim(api: &Api, token: &str, device: &str) -> Self {
        let key = DeviceKey::generate().expect("there is randomness");
        let claimed = claim_with(api, token, device, &key).is(200);
        assert_eq!(claimed["device_id"], device);
        let text = |member: &str| claimed[member].as_str().expect("it is a text").to_owned();
        let (certificate, ca) = (text("certificate"), text("ca"));
        Self { id: device.to_owned(), key: key.to_pem().expose().to_owned(), certificate, ca }
    }

    /// Imports and claims these units of a product.
    #[track_caller]
    pub fn several(cloud: &Cloud, product: &str, devices: &[&str]) -> Vec<Self> {
        let admin = cloud.admin();
        import(&admin, product, devices);
        let token = claim_token(&admin, product, u32::try_from(devices.len()).expect("they are few"), false);
        devices.iter().map(|device| Self::claim(&cloud.anyone(), &token, device)).collect()
    }

    /// TLS with the unit's certificate, which remembers sessions to resume.
    pub fn tls(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is PEM");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider has them")
            .with_root_certificates(roots(&self.ca))
            .with_client_auth_cert(certificates(&self.certificate), key)
            .expect("the key is that of the certificate");
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }

    /// Its connection with TLS 1.3, as MQTT 5.
    #[track_caller]
    pub fn online(&self, cloud: &Cloud) -> Mqtt {
        Mqtt::online(self.way(cloud.address("mqtts")), ClientOptions::new(&self.id))
    }

    /// Its way to the server with TLS 1.3 or 1.2.
    pub fn way(&self, address: SocketAddr) -> Way {
        Way::Tls(address, self.tls(rustls::ALL_VERSIONS))
    }
}

/// TLS without a client certificate.
pub fn tls_without_certificate(ca: &str) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("the provider has them");
    Arc::new(config.with_root_certificates(roots(ca)).with_no_client_auth())
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem) {
        roots.add(certificate).expect("it is an authority");
    }
    roots
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("it is PEM")
}

/// Starts `iot-device` with its state in `folder` of the cloud's folder.
pub fn simulate(cloud: &Cloud, folder: &str, claim_token: &str, args: &[&str]) -> Process {
    let mut command = Command::new(program("iot-device", "IOT_DEVICE_BIN"));
    command
        .current_dir(cloud.folder())
        .args(["--http", &format!("http://{}", cloud.address("http"))])
        .args(["--mqtts", &cloud.address("mqtts").to_string(), "--log", "info", "--state", folder, "--ca"])
        .arg(cloud.ca())
        .args(args)
        .env("IOT_CLAIM_TOKEN", claim_token);
    Process::start("iot-device", command, "cargo build -p iot-device")
}

/// Whether the cloud has a connection of the device.
pub fn is_online(api: &Api, device: &str) -> bool {
    api.get(&format!("/v1/devices/{device}")).is(200)["connection"]["online"] == Value::Bool(true)
}
