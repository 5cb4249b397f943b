//! A receiver of webhooks, which checks signatures by itself (Standard Webhooks 1.0).

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::Value;

/// Listens on loopback until the test ends.
#[derive(Debug, Clone)]
pub struct Receiver {
    address: SocketAddr,
    secret: Arc<Mutex<String>>,
    up: Arc<AtomicBool>,
    received: Arc<Mutex<Vec<(String, Value)>>>,
    refused: Arc<Mutex<u32>>,
}

impl Receiver {
    /// One that answers 204 to what is signed with its secret, and 503 while it is down.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    #[expect(clippy::new_without_default, reason = "it opens a socket")]
    pub fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
        let receiver = Self {
            address: listener.local_addr().expect("it is bound"),
            secret: Arc::default(),
            up: Arc::new(AtomicBool::new(true)),
            received: Arc::default(),
            refused: Arc::default(),
        };
        let serving = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.answer(stream));
            }
        });
        receiver
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Gives it the secret that was shown when the webhook was registered.
    pub fn set_secret(&self, secret: &str) {
        secret.clone_into(&mut self.secret.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it takes what comes.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Release);
    }

    /// What it took: ids and bodies.
    pub fn received(&self) -> Vec<(String, Value)> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it refused because it was down.
    pub fn refused(&self) -> u32 {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut headers, mut line) = (HashMap::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some((name, value)) = line.trim_end().split_once(": ") {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            line.clear();
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let status = if !self.up.load(Ordering::Acquire) {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            "503 Service Unavailable"
        } else if self.is_signed(&headers, &body) {
            let id = headers.get("webhook-id").cloned().unwrap_or_default();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            self.received.lock().unwrap_or_else(PoisonError::into_inner).push((id, body));
            "204 No Content"
        } else {
            "401 Unauthorized"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // An error means that the server has gone.
        let _gone = reader.get_mut().write_all(answer.as_bytes());
    }

    fn is_signed(&self, headers: &HashMap<String, String>, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let secret = self.secret.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Ok(key) = BASE64.decode(secret.trim_start_matches("whsec_").as_bytes()) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = [text("webhook-id").as_bytes(), b".", text("webhook-timestamp").as_bytes(), b".", body].concat();
        let expected = format!("v1,{}", BASE64.encode(hmac::sign(&key, &signed).as_ref()));
        text("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}
