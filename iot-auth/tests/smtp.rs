//! Mail by SMTP, with a server that speaks the little of RFC 5321 that is needed.

#![cfg(feature = "smtp")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use iot_auth::mail::{Smtp, SmtpOptions, SmtpSecurity};
use iot_core::{
    mail::{Mail, MailError, Mailer},
    secret::Secret,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};

/// Takes one message, answering its end with `verdict`; the answer is all that it was told.
async fn server(verdict: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let (mut told, mut in_message) = (String::new(), false);
        write.write_all(b"220 test\r\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            told += &line;
            told.push('\n');
            let answer = match (in_message, line.as_str()) {
                (true, ".") => verdict,
                (true, _) => continue,
                (false, "DATA") => "354 go on",
                (false, "QUIT") => "221 bye",
                (false, _) => "250 ok",
            };
            in_message = line == "DATA";
            write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
        told
    });
    (address, told)
}

fn smtp(at: SocketAddr) -> Smtp {
    let from = "Cloud <cloud@example.org>".to_owned();
    let (host, port) = (at.ip().to_string(), Some(at.port()));
    Smtp::new(&SmtpOptions {
        host,
        port,
        security: SmtpSecurity::Plain,
        authorities_pem: None,
        credentials: None,
        from,
    })
    .unwrap()
}

fn mail() -> Mail {
    let text = Secret::new("Your code is\n\n    abcd-efgh\n");
    Mail { to: Secret::new("ann@example.net"), subject: "Your code".to_owned(), text }
}

#[tokio::test]
async fn a_message_is_handed_over() {
    let (at, told) = server("250 taken").await;
    smtp(at).send(mail()).await.unwrap();
    let told = told.await.unwrap();
    for part in ["MAIL FROM:<cloud@example.org>", "RCPT TO:<ann@example.net>", "Subject: Your code", "    abcd-efgh"] {
        assert!(told.contains(part), "{part}\n{told}");
    }
}

#[tokio::test]
async fn refused_for_good_and_for_now_are_told_apart() {
    for (verdict, for_good) in [("554 ann@example.net: no", true), ("451 later", false)] {
        let (at, _told) = server(verdict).await;
        let error = smtp(at).send(mail()).await.unwrap_err();
        assert_eq!(matches!(error, MailError::Rejected { .. }), for_good, "{error:?}");
        let shown = format!("{error:?}");
        assert!(!shown.contains("abcd") && !shown.contains("ann@"), "{shown}");
    }
    let (at, told) = server("250 taken").await;
    told.abort();
    assert!(told.await.unwrap_err().is_cancelled());
    assert!(matches!(smtp(at).send(mail()).await.unwrap_err(), MailError::Unavailable { .. }), "nobody there");
    let nobody = Mail { to: Secret::new("no address"), ..mail() };
    assert!(matches!(smtp(at).send(nobody).await.unwrap_err(), MailError::Rejected { .. }));
}
