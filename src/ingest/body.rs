//! A request's body, held only as far as it may be: by size, by time, by what all of them hold together,
//! and by what it unpacks to.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use super::Options;
use super::refusal::Refusal;

/// Of a body that is too large, this much is read and thrown away before the answer. Closing at once would
/// reset the connection while the client still writes, and many clients then never see the answer.
const LINGER_BYTES_MAX: usize = 4 << 20;
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// The memory all bodies under way hold together.
#[derive(Debug)]
pub(super) struct Held {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// A body with its share of [`Held`], given back on drop.
#[derive(Debug)]
pub(super) struct HeldBody<'h> {
    held: &'h Held,
    share: usize,
    bytes: Bytes,
}

impl std::ops::Deref for HeldBody<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HeldBody<'_> {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.share, Ordering::Relaxed);
    }
}

impl HeldBody<'_> {
    fn grow(&mut self, by: usize) -> Result<(), Refusal> {
        self.share += by;
        let before = self.held.bytes.fetch_add(by, Ordering::Relaxed);
        if before.saturating_add(by) > self.held.bytes_max {
            return Err(Refusal::Busy);
        }
        Ok(())
    }
}

/// How a body is packed.
enum Packing {
    Plain,
    Gzip,
}

impl Packing {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else {
            return Ok(Self::Plain);
        };
        let name = value.to_str().unwrap_or("?").trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            Ok(Self::Plain)
        } else if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            Ok(Self::Gzip)
        } else {
            Err(Refusal::Encoding(name.chars().take(40).collect()))
        }
    }
}

impl Held {
    /// Room for `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// Reads and unpacks a body.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        limits: &Options,
    ) -> Result<HeldBody<'_>, Refusal> {
        let packing = Packing::of(headers)?;
        let bytes_max = limits.body_bytes_max;
        let announced = super::text(headers, "content-length").and_then(|text| text.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > bytes_max as u64) {
            // A client that asked first has not begun to send.
            if !headers.contains_key(header::EXPECT) {
                discard(body, LINGER_BYTES_MAX).await;
            }
            return Err(Refusal::BodyTooLarge(bytes_max));
        }
        let mut held = HeldBody {
            held: self,
            share: 0,
            bytes: Bytes::new(),
        };
        let length = announced.and_then(|bytes| usize::try_from(bytes).ok());
        let collected = collect(body, length, bytes_max, &mut held);
        tokio::time::timeout(limits.body_timeout, collected)
            .await
            .map_err(|_| Refusal::BodyTimeout)??;
        if let Packing::Gzip = packing {
            held.bytes = unpack(&held.bytes, bytes_max)?;
            let unpacked = held.bytes.len();
            held.grow(unpacked)?;
        }
        Ok(held)
    }
}

async fn collect(
    mut body: Body,
    length: Option<usize>,
    bytes_max: usize,
    held: &mut HeldBody<'_>,
) -> Result<(), Refusal> {
    // Most bodies are one frame, which is kept as it is; only further ones are copied together.
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::BodyCut)?.into_data() else {
            continue;
        };
        if held.share + data.len() > bytes_max {
            discard(body, LINGER_BYTES_MAX).await;
            return Err(Refusal::BodyTooLarge(bytes_max));
        }
        held.grow(data.len())?;
        if held.bytes.is_empty() && more.is_empty() {
            held.bytes = data;
        } else {
            if more.is_empty() {
                // Moved once; but nobody gets much more memory than it has sent.
                let ahead = (held.bytes.len() + data.len()).saturating_mul(8);
                more.reserve(length.unwrap_or_default().min(ahead));
                more.extend_from_slice(&std::mem::take(&mut held.bytes));
            }
            more.extend_from_slice(&data);
        }
    }
    if !more.is_empty() {
        held.bytes = more.freeze();
    }
    Ok(())
}

/// Reads and forgets, up to `bytes_max` bytes and a second.
pub(super) async fn discard(mut body: Body, bytes_max: usize) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > bytes_max {
                return;
            }
        }
    };
    // Whether it ended or time did, the answer is the same.
    let _ended = tokio::time::timeout(LINGER_TIME_MAX, read).await;
}

/// Unpacks one gzip member, never beyond `bytes_max`.
fn unpack(packed: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    let mut decoder = flate2::bufread::GzDecoder::new(packed);
    let mut plain = Vec::with_capacity(packed.len().saturating_mul(4).min(bytes_max));
    let limit = bytes_max as u64 + 1;
    if let Err(error) = decoder.by_ref().take(limit).read_to_end(&mut plain) {
        return Err(Refusal::Gzip(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the gzip body is cut off",
            _ => "the body is not gzip, or damaged",
        }));
    }
    if plain.len() > bytes_max {
        return Err(Refusal::UnpacksTooLarge(bytes_max));
    }
    if !decoder.into_inner().is_empty() {
        return Err(Refusal::Gzip(
            "the gzip body goes on after its end; send one member only",
        ));
    }
    Ok(Bytes::from(plain))
}
