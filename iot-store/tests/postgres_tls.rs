//! The way to a server over a network: encrypted, and to none but the right one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use iot_core::store::{MetaStore, Revision};
use iot_store::{
    StoreLimits,
    postgres::{OpenError, Postgres, PostgresSettings},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

use self::cluster::Cluster;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn trusting(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

/// A server with a certificate for `localhost`; the role `bound` has a password and needs TLS.
async fn start(authority: &Authority) -> Cluster {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let cluster = Cluster::start(&[]);
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = cluster.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        cluster.give(&path);
    }
    let rules = cluster.data().join("pg_hba.conf");
    let others = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("hostssl all bound 127.0.0.1/32 scram-sha-256\n{others}")).unwrap();
    let beside = cluster::connect(&cluster::settings(&cluster.url())).await;
    beside.batch_execute("CREATE ROLE bound LOGIN PASSWORD 'geheim'").await.unwrap();
    beside.batch_execute("GRANT CREATE ON DATABASE postgres TO bound").await.unwrap();
    beside.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    beside.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    while beside.query_one("SHOW ssl", &[]).await.unwrap().get::<_, String>(0) != "on" {}
    cluster
}

/// With the server's certificate bound to the password: who stands between has another certificate.
fn bound(cluster: &Cluster) -> PostgresSettings {
    let url = cluster.url_of_host("localhost").replace("user=iot", "user=bound password=geheim");
    cluster::settings(&format!("{url} hostaddr=127.0.0.1 channel_binding=require"))
}

async fn refusal(settings: &PostgresSettings, config: ClientConfig) -> String {
    let error = Postgres::open_with_tls(settings, StoreLimits::default(), config).await.unwrap_err();
    assert!(matches!(error, OpenError::Unavailable { .. }), "{error:?}");
    format!("{error:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_known_by_its_certificate() {
    let authority = authority("ours");
    let cluster = start(&authority).await;
    let settings = bound(&cluster);
    let store = Postgres::open_with_tls(&settings, StoreLimits::default(), trusting(&authority)).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(0));
    let beside = cluster::connect(&cluster::settings(&cluster.url())).await;
    let sql =
        "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'bound'";
    let row = beside.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) > 0);

    let stranger = refusal(&settings, trusting(&self::authority("another"))).await;
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    let mut misnamed = bound(&cluster);
    misnamed.url = misnamed.url.replace("host=localhost", "host=other.example");
    let misnamed = refusal(&misnamed, trusting(&authority)).await;
    assert!(misnamed.contains("NotValidForName"), "{misnamed}");
}

/// Also where the URL would do without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused() {
    let cluster = Cluster::start(&[]);
    let url = format!("{} hostaddr=127.0.0.1 sslmode=disable", cluster.url_of_host("localhost"));
    let refused = refusal(&cluster::settings(&url), trusting(&authority("ours"))).await;
    assert!(refused.contains("server does not support TLS"), "{refused}");
}
