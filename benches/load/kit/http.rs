//! A blocking HTTP client for control calls, one connection each: enough for admin and sandbox.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Makes a call; the status and the body.
pub(crate) fn call(
    address: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> Result<(u16, Vec<u8>)> {
    let auth = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let headers = format!("{auth}content-type: application/json\r\n");
    let (status, _, body) = exchange(address, method, path, &headers, body)?;
    Ok((status, body))
}

/// Somebody signed in to the console.
#[derive(Debug)]
pub(crate) struct Session {
    address: String,
    cookie: String,
}

impl Session {
    /// Signs in with a token.
    pub(crate) fn sign_in(address: &str, token: &str) -> Result<Self> {
        let headers = format!(
            "origin: http://{address}\r\ncontent-type: application/x-www-form-urlencoded\r\n"
        );
        let form = format!("token={token}");
        let (status, head, _) = exchange(address, "POST", "/sign-in", &headers, form.as_bytes())?;
        let cookie = head
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next())
            .with_context(|| format!("sign-in answered {status} without a cookie"))?;
        Ok(Self {
            address: address.to_owned(),
            cookie: cookie.to_owned(),
        })
    }

    /// A page; its status and text.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, Vec<u8>)> {
        let headers = format!("cookie: {}\r\naccept: text/html\r\n", self.cookie);
        let (status, _, body) = exchange(&self.address, "GET", path, &headers, b"")?;
        Ok((status, body))
    }
}

/// One request on a connection of its own; status, head and body of the answer.
fn exchange(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Result<(u16, String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_nodelay(true)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("{method} {path}"))?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .with_context(|| format!("{method} {path}: no HTTP answer"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let lower = head.to_ascii_lowercase();
    let status = head
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("{method} {path}: status line `{head}`"))?;
    let mut body = answer.split_off(end + 4);
    if lower.contains("transfer-encoding: chunked") {
        body = unchunk(&body).with_context(|| format!("{method} {path}: chunks"))?;
    }
    Ok((status, head, body))
}

/// Makes a call that has to succeed; its JSON (null when the body is empty).
pub(crate) fn json(
    address: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Result<Value> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let (status, answer) = call(address, method, path, token, &body)?;
    if !(200..300).contains(&status) {
        bail!(
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
    }
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: no JSON"))
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}
