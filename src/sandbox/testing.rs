//! A sandbox to talk to in tests: by raw sockets, on a clock that stands still.

use std::future::Future;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Handle, Sandbox};
use crate::clock::{ManualClock, Millis};

/// What the clock shows: 2026-11-18T10:40:00Z.
pub(super) const NOW: Millis = 1_795_000_800_000;

pub(super) struct Client {
    pub(super) addr: SocketAddr,
    pub(super) handle: Handle,
    /// Sent with every request.
    pub(super) headers: Vec<(&'static str, String)>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// A header's value, "" when absent.
    pub(super) fn header(&self, name: &str) -> &str {
        let line = |line: &'_ str| line.to_lowercase().starts_with(&format!("{name}: "));
        let line = self.head.lines().find(|text| line(text)).unwrap_or("");
        line.split_once(": ").map_or("", |(_, value)| value)
    }
}

impl Client {
    pub(super) async fn start(headers: &[(&'static str, &str)]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sandbox = Sandbox::bind_with(any, ManualClock::at(NOW))
            .await
            .expect("bound");
        let (addr, handle) = (sandbox.addr, sandbox.handle());
        tokio::spawn(sandbox.run(std::future::pending()));
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        Self {
            addr,
            handle,
            headers,
        }
    }

    /// With one header changed.
    pub(super) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value.to_owned()));
        Self {
            addr: self.addr,
            handle: self.handle.clone(),
            headers,
        }
    }

    pub(super) async fn text(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(self.addr).await.expect("connected");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(body.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        Answer {
            status: status.expect("status"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(super) fn post(&self, path: &str, body: Value) -> impl Future<Output = Answer> {
        let body = body.to_string();
        async move { self.text("POST", path, &body).await }
    }

    pub(super) fn get(&self, path: &str) -> impl Future<Output = Answer> {
        self.text("GET", path, "")
    }

    /// How often a rule is counted under `limits`, `refused` or `silent`.
    pub(super) fn count(&self, weight: &str, rule: &str) -> u64 {
        self.handle.breaches(None)[weight][rule]
            .as_u64()
            .unwrap_or(0)
    }

    pub(super) fn configure(&self, part: Value) {
        self.handle.configure(&part).expect("config");
    }
}
