//! Server-sent events, read line by line.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use crate::wait::until;

/// One event.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a journey looks at all of it")]
pub struct Event {
    /// Its kind.
    pub kind: String,
    /// Where to go on.
    pub id: Option<String>,
    /// Its body.
    pub data: Value,
}

/// A stream that is open until it is dropped or the server ends it.
#[derive(Debug)]
pub struct Stream {
    events: Arc<Mutex<Vec<Event>>>,
    ended: Arc<AtomicBool>,
    tcp: TcpStream,
}

impl Stream {
    /// Opens `path` with a token, and waits for the head of the answer: from then on nothing is missed.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached or does not answer.
    pub fn open(server: SocketAddr, path: &str, token: &str) -> Self {
        let mut tcp = TcpStream::connect(server).expect("the server listens");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).expect("the server reads");
        let (events, ended) = (Arc::<Mutex<Vec<Event>>>::default(), Arc::<AtomicBool>::default());
        let mut reader = BufReader::new(tcp.try_clone().expect("a socket has two ends"));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).expect("the server answers") > 0, "the answer has a head");
        }
        let (kept, over) = (Arc::clone(&events), Arc::clone(&ended));
        std::thread::spawn(move || {
            read(reader, &kept);
            over.store(true, Ordering::Release);
        });
        Self { events, ended, tcp }
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event from which `find` makes something.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, within: Duration, find: impl Fn(&Event) -> Option<T>) -> T {
        until(what, within, || self.events().iter().find_map(&find))
    }

    /// Waits until the server ends it.
    #[track_caller]
    pub fn ends(&self, within: Duration) {
        until("the stream to end", within, || self.ended.load(Ordering::Acquire).then_some(()));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An error means that it is closed already.
        let _closed = self.tcp.shutdown(std::net::Shutdown::Both);
    }
}

fn read(mut reader: impl BufRead, events: &Mutex<Vec<Event>>) {
    let (mut event, mut line) = (Event { kind: String::new(), id: None, data: Value::Null }, String::new());
    // Chunks are whole events, so that their sizes stand on lines of their own, which mean nothing here.
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        match line.trim_end().split_once(": ") {
            Some(("event", text)) => text.clone_into(&mut event.kind),
            Some(("id", text)) => event.id = Some(text.to_owned()),
            Some(("data", text)) => event.data = serde_json::from_str(text).unwrap_or(Value::Null),
            // An empty line ends an event (WHATWG HTML §9.2.6); those of chunks end with a carriage return too.
            _ if line == "\n" && !event.kind.is_empty() => {
                events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
                (event.kind, event.id) = (String::new(), None);
            }
            // The end of the answer: a chunk without bytes.
            _ if line == "0\r\n" => return,
            _ => {}
        }
        line.clear();
    }
}
