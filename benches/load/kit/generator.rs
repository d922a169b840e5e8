//! The load generator: keep-alive connections that post ready-made bodies, with only the message ids changed.
//!
//! Closed loop (each connection posts as soon as it is answered) or open loop (posts are due at fixed times, and
//! latency counts from when a post was due, so that a stalled server cannot hide). One thread: the machine is
//! shared with what is measured.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aqueduct::sandbox::histogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of one event.
pub(crate) const EVENT_BYTES: usize = 1024;
/// Where an id stands in the template.
const ID_MARK: &str = "IIIIIIIIIIIIIIIIIIIIIIIIIIII";
/// Where a user id stands in the template.
const USER_MARK: &str = "UUUUUUUU";

/// What to post, how, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// Write key.
    pub(crate) key: String,
    /// Events of one post; 1 = `/v1/track`, more = `/v1/batch`.
    pub(crate) batch: usize,
    /// Connections kept open.
    pub(crate) connections: usize,
    /// Posts a second over all connections; none = closed loop.
    pub(crate) posts_per_second: Option<f64>,
    /// Ends after so many events (rounded up to whole posts).
    pub(crate) events_max: u64,
    /// Ends after this long.
    pub(crate) time_max: Duration,
    /// Part of every id, so that runs do not repeat each other's.
    pub(crate) run: u32,
}

/// Message ids of one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    run: u32,
    connection: u32,
    ranges: Vec<Range<u64>>,
}

impl Ids {
    fn add(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// The ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.ranges
            .iter()
            .flat_map(Clone::clone)
            .map(|n| id(self.run, self.connection, n))
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Ids answered 200.
    pub(crate) acked: Vec<Ids>,
    /// Ids posted and not answered: they may or may not have been taken.
    pub(crate) unknown: Vec<Ids>,
    /// Answers other than 200, or 200 without all events accepted, with the first of them.
    pub(crate) refused: u64,
    /// The first such answer.
    pub(crate) refused_first: Option<String>,
    /// Connections broken.
    pub(crate) broken: u64,
    /// Time of each answered post, in microseconds.
    pub(crate) micros: Histogram,
    /// From first to last answer.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Events answered 200.
    pub(crate) fn events(&self) -> u64 {
        self.acked.iter().map(Ids::len).sum()
    }

    /// Events answered 200, per second.
    pub(crate) fn rate(&self) -> f64 {
        self.events() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// A quantile of the post time, in milliseconds.
    pub(crate) fn ms(&self, q: f64) -> f64 {
        self.micros.quantile(q) as f64 / 1000.0
    }

    fn merge(&mut self, other: Self) {
        self.acked.extend(other.acked);
        self.unknown.extend(other.unknown);
        self.refused += other.refused;
        self.refused_first = self.refused_first.take().or(other.refused_first);
        self.broken += other.broken;
        self.micros.merge(&other.micros);
    }
}

/// Posts until the load is done or `stop` is set.
pub(crate) fn run(load: &Load, stop: &Arc<AtomicBool>) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Arc::new(Shared {
        load: load.clone(),
        posts_left: AtomicU64::new(load.events_max.div_ceil(load.batch as u64)),
        stop: Arc::clone(stop),
        until: Instant::now() + load.time_max,
        start: Instant::now(),
        template: Template::new(load),
    });
    runtime.block_on(async {
        let tasks: Vec<_> = (0..load.connections)
            .map(|n| tokio::spawn(connection(Arc::clone(&shared), n as u32)))
            .collect();
        let mut outcome = Outcome::default();
        for task in tasks {
            outcome.merge(task.await.context("connection task")?);
        }
        outcome.took = shared.start.elapsed();
        Ok(outcome)
    })
}

/// Posts these ids again, in batches of one, as a client would that never had an answer. Returns those answered 200.
pub(crate) fn repost(load: &Load, ids: &[Ids]) -> Result<Vec<Ids>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut single = load.clone();
    single.batch = 1;
    let mut template = Template::new(&single);
    runtime.block_on(async {
        let mut stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        let mut acked = Vec::new();
        for ids in ids {
            let mut done = Ids {
                ranges: Vec::new(),
                ..*ids
            };
            for n in ids.ranges.iter().flat_map(Clone::clone) {
                template.fill(ids.run, ids.connection, n);
                stream.write_all(&template.bytes).await?;
                let answer = answer(&mut stream, &mut buffer).await?;
                if answer.status == 200 {
                    done.add(n..n + 1);
                }
            }
            acked.push(done);
        }
        Ok(acked)
    })
}

struct Shared {
    load: Load,
    posts_left: AtomicU64,
    stop: Arc<AtomicBool>,
    until: Instant,
    start: Instant,
    template: Template,
}

impl Shared {
    /// Whether one more post may be made; counts it.
    fn take_post(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && Instant::now() < self.until
            && self
                .posts_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }

    /// When post `n` of a connection is due.
    fn due(&self, connection: u32, n: u64) -> Option<Instant> {
        let rate = self.load.posts_per_second?;
        let connections = self.load.connections as f64;
        let place = n as f64 * connections + f64::from(connection);
        Some(self.start + Duration::from_secs_f64(place / rate))
    }
}

async fn connection(shared: Arc<Shared>, connection: u32) -> Outcome {
    let run = shared.load.run;
    let empty = Ids {
        run,
        connection,
        ranges: Vec::new(),
    };
    let (mut acked, mut unknown) = (empty.clone(), empty);
    let mut outcome = Outcome::default();
    let mut template = shared.template.clone();
    let batch = shared.load.batch as u64;
    let mut stream: Option<TcpStream> = None;
    let mut buffer = Vec::with_capacity(4096);
    let mut post = 0;
    while shared.take_post() {
        let due = shared.due(connection, post);
        if let Some(due) = due {
            if due >= shared.until {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        if stream.is_none() {
            stream = TcpStream::connect(shared.load.address).await.ok();
        }
        let Some(open) = stream.as_mut() else {
            outcome.broken += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let _ = open.set_nodelay(true);
        let range = post * batch..(post + 1) * batch;
        post += 1;
        template.fill(run, connection, range.start);
        let begun = due.unwrap_or_else(Instant::now);
        let sent = async {
            open.write_all(&template.bytes).await?;
            answer(open, &mut buffer).await
        };
        match tokio::time::timeout(ANSWER_MAX, sent).await {
            Ok(Ok(answer)) => {
                let micros = begun.elapsed().as_micros();
                outcome
                    .micros
                    .record(u64::try_from(micros).unwrap_or(u64::MAX));
                if answer.status == 200 && answer.accepted == Some(batch) {
                    acked.add(range);
                } else {
                    outcome.refused += 1;
                    if outcome.refused_first.is_none() {
                        outcome.refused_first = Some(String::from_utf8_lossy(&buffer).into_owned());
                    }
                    // Some of it may have been taken.
                    unknown.add(range);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if answer.close {
                    stream = None;
                }
            }
            Ok(Err(_)) | Err(_) => {
                unknown.add(range);
                outcome.broken += 1;
                stream = None;
            }
        }
    }
    outcome.acked.push(acked);
    outcome.unknown.push(unknown);
    outcome
}

struct Answer {
    status: u16,
    accepted: Option<u64>,
    close: bool,
}

/// Reads one answer; `buffer` then holds its head and body.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Answer> {
    buffer.clear();
    let bad = |what: &str| std::io::Error::other(what.to_owned());
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(bad("closed"));
        }
        let Some(end) = find(buffer, b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).map_err(|_| bad("head"))?;
        let header = |name: &str| {
            head.split("\r\n").find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let status = head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| bad("status"))?;
        let length: usize = header("content-length")
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| bad("no content-length"))?;
        let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        while buffer.len() < end + length {
            if stream.read_buf(buffer).await? == 0 {
                return Err(bad("closed in the body"));
            }
        }
        return Ok(Answer {
            status,
            accepted: accepted(&buffer[end..]),
            close,
        });
    }
}

/// `n` of `"accepted":n`.
fn accepted(body: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"accepted\":";
    let rest = &body[find(body, NAME)? + NAME.len()..];
    let digits = rest
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| byte.is_ascii_digit());
    let text: String = digits.map(|byte| char::from(*byte)).collect();
    text.parse().ok()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// A message id: as long as [`ID_MARK`].
pub(crate) fn id(run: u32, connection: u32, n: u64) -> String {
    format!("ld{run:08x}-{connection:05x}-{n:011x}")
}

/// A whole request whose ids are written in place.
#[derive(Clone)]
struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    users: Vec<usize>,
}

impl Template {
    fn new(load: &Load) -> Self {
        use base64::Engine;
        let event = event();
        let (path, body) = if load.batch == 1 {
            ("/v1/track", event)
        } else {
            let events = vec![event; load.batch].join(",");
            ("/v1/batch", format!("{{\"batch\":[{events}]}}"))
        };
        let auth =
            base64::engine::general_purpose::STANDARD.encode(format!("{}:", load.key).as_bytes());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Basic {auth}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            load.address,
            body.len()
        );
        let places = |mark: &str| request.match_indices(mark).map(|(at, _)| at).collect();
        Self {
            ids: places(ID_MARK),
            users: places(USER_MARK),
            bytes: request.into_bytes(),
        }
    }

    /// Writes ids `first`, `first + 1`, … into the events.
    fn fill(&mut self, run: u32, connection: u32, first: u64) {
        for (n, (at, user)) in (first..).zip(self.ids.iter().zip(&self.users)) {
            let slot = &mut self.bytes[*at..*at + ID_MARK.len()];
            slot[..2].copy_from_slice(b"ld");
            hex(&mut slot[2..10], u64::from(run));
            slot[10] = b'-';
            hex(&mut slot[11..16], u64::from(connection));
            slot[16] = b'-';
            hex(&mut slot[17..28], n);
            let user_id = n.wrapping_mul(2_654_435_761) & 0x000f_ffff;
            hex(&mut self.bytes[*user..*user + USER_MARK.len()], user_id);
        }
    }
}

fn hex(slot: &mut [u8], mut number: u64) {
    for digit in slot.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// One order, [`EVENT_BYTES`] long, as a shop's backend would post it.
fn event() -> String {
    let event = |note: &str| {
        format!(
            r#"{{"type":"track","messageId":"{ID_MARK}","userId":"user-{USER_MARK}","anonymousId":"9b1f6c1e-6a0b-4f4e-8d0e-{USER_MARK}0000","event":"Order Completed","properties":{{"order_id":"ORD-5521","total":89.99,"subtotal":79.99,"shipping":4.5,"tax":5.5,"currency":"GBP","coupon":"SUMMER","products":[{{"product_id":"P-1001","sku":"G-32","name":"Linen shirt","price":39.99,"quantity":1,"category":"Shirts"}},{{"product_id":"P-1002","sku":"G-33","name":"Canvas shoe","price":40,"quantity":1,"category":"Shoes"}}],"note":"{note}"}},"context":{{"ip":"203.0.113.7","locale":"en-GB","userAgent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","page":{{"path":"/checkout/done","url":"https://shop.example.org/checkout/done"}},"library":{{"name":"load","version":"1.0.0"}}}}}}"#
        )
    };
    // Words rather than one letter: a run of one letter would compress like nothing real.
    let words =
        "left at the side door, second floor, ring twice, thank you; gift wrap in blue paper; ";
    let room = EVENT_BYTES.saturating_sub(event("").len());
    event(&words.repeat(room / words.len() + 1)[..room])
}
