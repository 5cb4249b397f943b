//! The claim over a real socket, with answers that are lost, foreign and wrong.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use iot_core::{id::DeviceId, secret::Secret};
use iot_device::{
    claim::{ClaimError, Claimer},
    tls::Authority,
};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// An authority that signs what it is given.
struct Cloud {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Cloud {
    fn new() -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).expect("the parameters are valid").pem();
        Self { ca_pem, issuer: Issuer::new(params, key) }
    }

    fn answer(&self, request: &Value, device: &str) -> String {
        let csr = request["csr"].as_str().expect("a claim has a request");
        let csr = CertificateSigningRequestParams::from_pem(csr).expect("the request proves its key");
        let certificate = csr.signed_by(&self.issuer).expect("the key can be certified").pem();
        json!({"device_id": device, "tenant": "acme", "certificate": certificate, "ca": self.ca_pem,
            "not_after": "2030-01-01T00:00:00Z"})
        .to_string()
    }

    fn claimer(&self, listener: &TcpListener) -> Claimer {
        let address = listener.local_addr().expect("it is bound");
        let url = format!("http://{address}").parse().expect("an address makes a URL");
        Claimer::new(&url, Secret::new("ct_a_b"), self.authority())
    }

    fn authority(&self) -> Authority {
        Authority::from_pem(self.ca_pem.as_bytes()).expect("it was just made")
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback has free ports")
}

/// The next request; what is written to the stream is its answer.
fn request(listener: &TcpListener) -> (Value, TcpStream) {
    let (stream, _) = listener.accept().expect("the device connects");
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).expect("a request has a first line");
    assert!(line.starts_with("POST /v1/claim HTTP/1.1"), "{line}");
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).expect("headers end with an empty line");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length is a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body is as long as it says");
    (serde_json::from_slice(&body).expect("the body is JSON"), reader.into_inner())
}

fn respond(mut stream: TcpStream, status: &str, body: &str) {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .expect("the device reads its answer");
}

/// Status line and body for a request; `None` drops the connection.
type Answer = Box<dyn Fn(&Value) -> Option<(&'static str, String)> + Send>;

/// The requests that `answers` were given to, what the attempts came to, and the device's folder.
fn attempts(
    cloud: &Cloud,
    device: Option<&str>,
    answers: Vec<Answer>,
) -> (Vec<Value>, Vec<Result<String, ClaimError>>, tempfile::TempDir) {
    let (listener, folder) = (listener(), tempfile::tempdir().expect("there is room"));
    let claimer = cloud.claimer(&listener);
    let rounds = answers.len();
    let device = device.map(|id| DeviceId::parse(id).expect("an id"));
    let server = thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (body, stream) = request(&listener);
            if let Some((status, text)) = answer(&body) {
                respond(stream, status, &text);
            }
            requests.push(body);
        }
        requests
    });
    let outcomes = (0..rounds)
        .map(|_| claimer.attempt(folder.path(), device.as_ref()).map(|identity| identity.device_id.to_string()))
        .collect();
    (server.join().expect("the server ends"), outcomes, folder)
}

fn public_key(request: &Value) -> Vec<u8> {
    let csr = CertificateSigningRequestParams::from_pem(request["csr"].as_str().expect("a request")).expect("valid");
    rcgen::PublicKeyData::subject_public_key_info(&csr.public_key)
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let cloud = std::sync::Arc::new(Cloud::new());
    let signing = std::sync::Arc::clone(&cloud);
    let (requests, outcomes, folder) = attempts(
        &cloud,
        None,
        vec![
            Box::new(|_| None),
            Box::new(|_| Some(("503 Service Unavailable", String::new()))),
            Box::new(move |body| Some(("200 OK", signing.answer(body, "lamp")))),
        ],
    );
    assert!(outcomes[..2].iter().all(|outcome| outcome.as_ref().is_err_and(ClaimError::is_transient)), "{outcomes:?}");
    assert_eq!(outcomes[2].as_deref().ok(), Some("lamp"));
    assert!(requests.iter().all(|request| public_key(request) == public_key(&requests[0])));
    assert_eq!(requests[0]["token"], "ct_a_b");
    assert!(folder.path().join("identity.json").exists());

    // Once it has its identity it does not ask again: nobody listens any more.
    let again = cloud.claimer(&listener()).attempt(folder.path(), None);
    assert_eq!(again.expect("it is saved").device_id.as_str(), "lamp");
}

#[test]
fn an_answer_for_another_key_device_or_authority_is_not_saved() {
    let cloud = std::sync::Arc::new(Cloud::new());
    let (signing, other) = (std::sync::Arc::clone(&cloud), Cloud::new());
    let for_another_key = std::sync::Arc::clone(&cloud);
    let (requests, outcomes, folder) = attempts(
        &cloud,
        Some("lamp"),
        vec![
            Box::new(move |body| Some(("200 OK", signing.answer(body, "kettle")))),
            Box::new(move |body| Some(("200 OK", other.answer(body, "lamp")))),
            Box::new(move |_| {
                let params = CertificateParams::default();
                let csr = params.serialize_request(&KeyPair::generate().ok()?).ok()?.pem().ok()?;
                Some(("200 OK", for_another_key.answer(&json!({"csr": csr}), "lamp")))
            }),
            Box::new(|_| Some(("403 Forbidden", r#"{"code":"claim_refused","detail":"it has ended"}"#.to_owned()))),
        ],
    );
    assert_eq!(requests[0]["device_id"], "lamp");
    assert!(matches!(outcomes[0], Err(ClaimError::Answer(_))), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(ClaimError::Answer(_))), "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(ClaimError::Folder(_))), "{outcomes:?}");
    assert!(matches!(outcomes[3], Err(ClaimError::Refused { .. })), "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| !error.is_transient())));
    assert!(folder.path().join("key.pem").exists() && !folder.path().join("identity.json").exists());
}

/// Starts the binary, waits for its first line, and returns that and its exit code after `signal`.
fn start_and_end(state: &Path, ca: &Path, cloud: &TcpListener, signal: &str) -> (String, Option<i32>) {
    let address = cloud.local_addr().expect("it is bound");
    let mut child = Command::new(env!("CARGO_BIN_EXE_iot-device"))
        .args(["--http", &format!("http://{address}"), "--state"])
        .arg(state)
        .arg("--ca")
        .arg(ca)
        .env("IOT_CLAIM_TOKEN", "ct_a_b")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built with this test");
    drop(request(cloud));
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    output.read_line(&mut line).expect("it says what happened");
    let second = Command::new(env!("CARGO_BIN_EXE_iot-device"))
        .args(["--mqtts", "127.0.0.1:1", "--state"])
        .arg(state)
        .arg("--ca")
        .arg(ca)
        .env("IOT_CLAIM_TOKEN", "ct_a_b")
        .output()
        .expect("the binary was built with this test");
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process"));
    Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill is a program");
    (line, child.wait().expect("it ends").code())
}

#[test]
fn signals_end_it_with_code_0_and_the_key_stays() {
    let (folder, cloud, listener) = (tempfile::tempdir().unwrap(), Cloud::new(), listener());
    let (state, ca) = (folder.path().join("state"), folder.path().join("ca.pem"));
    std::fs::write(&ca, &cloud.ca_pem).unwrap();
    let mut keys = Vec::new();
    for signal in ["-TERM", "-INT"] {
        let (line, code) = start_and_end(&state, &ca, &listener, signal);
        assert!(line.contains("the cloud cannot be asked"), "{line}");
        assert_eq!(code, Some(0), "{signal}");
        keys.push(std::fs::read_to_string(state.join("1/key.pem")).unwrap());
    }
    assert_eq!(keys[0], keys[1]);
}
