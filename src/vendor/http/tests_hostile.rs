//! The client against name servers and TLS servers that lie, hang or change their minds. Real TLS over loopback;
//! names come from a zone the test makes up. `127.0.0.2` plays a public address (it is on the guard's list),
//! `127.0.0.1` the private place nobody may be led to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::resolve::{Found, Names};
use super::{Answer, Client, SendError, SendErrorKind};
use crate::blueprint::Request;
use crate::clock::SystemClock;
use crate::secret::Secret;
use crate::vendor::guard::Guard;

const HOST: &str = "vendor.example";
const PUBLIC: &str = "127.0.0.2";
const PRIVATE: &str = "127.0.0.1";

fn pem(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    std::fs::read(folder.join(format!("{name}.pem"))).unwrap()
}

/// A TLS server with this certificate that answers every request with 204 and closes. Counts connections, and
/// requests it got to read.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(ip: &str, port: u16, certificate: &str) -> Self {
        let _first_wins = rustls::crypto::ring::default_provider().install_default();
        let both = pem(certificate);
        let chain = vec![CertificateDer::from_pem_slice(&both).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&both).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let server = Self {
            addr,
            connections: connections.clone(),
            requests: Arc::clone(&requests),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut seen = Vec::new();
                    while !seen.ends_with(b"[body]") {
                        match stream.read_buf(&mut seen).await {
                            Ok(n) if n > 0 => {}
                            _ => return,
                        }
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    let _ = stream
                        .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                        .await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        server
    }

    fn hits(&self) -> (usize, usize) {
        (
            self.connections.load(Ordering::SeqCst),
            self.requests.load(Ordering::SeqCst),
        )
    }
}

/// What a name server says of a name.
#[derive(Debug, Clone)]
enum Says {
    Addresses(&'static [&'static str]),
    /// Another name's addresses.
    Alias(&'static str),
    /// One answer after another; the last for ever.
    Turns(&'static [&'static str]),
    Nothing,
    /// It never answers.
    Hangs,
}

#[derive(Debug, Default)]
struct Zone {
    says: HashMap<&'static str, Says>,
    asked: Mutex<Vec<String>>,
}

impl Zone {
    fn of<const N: usize>(says: [(&'static str, Says); N]) -> Arc<Self> {
        Arc::new(Self {
            says: says.into(),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

impl Names for Zone {
    fn look_up(&self, host: &str) -> BoxFuture<'static, Found> {
        let turn = {
            let mut asked = self.asked.lock();
            asked.push(host.to_owned());
            asked.iter().filter(|name| *name == host).count() - 1
        };
        let mut says = self.says.get(host).cloned().unwrap_or(Says::Nothing);
        // A resolver follows aliases, and gives up on a circle of them.
        for _ in 0..8 {
            if let Says::Alias(other) = says {
                says = self.says.get(other).cloned().unwrap_or(Says::Nothing);
            }
        }
        let addresses: Vec<&str> = match says {
            Says::Addresses(all) => all.to_vec(),
            Says::Turns(turns) => vec![turns[turn.min(turns.len() - 1)]],
            Says::Nothing => return std::future::ready(Err("no such name".into())).boxed(),
            Says::Alias(_) => return std::future::ready(Err("too many aliases".into())).boxed(),
            Says::Hangs => return std::future::pending().boxed(),
        };
        let found: Vec<SocketAddr> = addresses
            .iter()
            .map(|ip| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0))
            .collect();
        std::future::ready(Ok(found.into())).boxed()
    }
}

/// A client that trusts the tests' authority, asks this zone and may reach the "public" address.
fn client(zone: &Arc<Zone>) -> Client {
    let _first_wins = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&pem("ca")).unwrap())
        .unwrap();
    let tls = super::trusting(roots).unwrap();
    client_with(zone, Some(tls))
}

fn client_with(zone: &Arc<Zone>, tls: Option<rustls::ClientConfig>) -> Client {
    let guard = Arc::new(Guard::parse(&[PUBLIC]).unwrap());
    let names: Arc<dyn Names> = Arc::clone(zone) as Arc<dyn Names>;
    Client::built(guard, "aqueduct/test", Arc::new(SystemClock), names, tls).unwrap()
}

async fn post(
    client: &Client,
    host: &str,
    port: u16,
    timeout_ms: u64,
) -> Result<Answer, SendError> {
    let request = Request {
        name: "r".into(),
        method: "POST".into(),
        url: Secret::new(format!("https://{host}:{port}/v1/key_0123456789")),
        headers: Vec::new(),
        body: "[body]".into(),
    };
    client
        .send(&request, Duration::from_millis(timeout_ms))
        .await
}

#[tokio::test]
async fn only_the_certificate_of_this_host_by_a_trusted_authority_in_its_time_is_talked_to() {
    let zone = Zone::of([(HOST, Says::Addresses(&[PUBLIC]))]);
    let trusting = client(&zone);
    let good = Server::start(PUBLIC, 0, "good").await;
    let answer = post(&trusting, HOST, good.addr.port(), 5_000)
        .await
        .unwrap();
    assert_eq!((answer.status, good.hits()), (204, (1, 1)));

    for (certificate, word) in [
        ("expired", "expired"),
        ("not_yet", "not valid yet"),
        ("other_host", "not valid for name"),
        ("self_signed", "UnknownIssuer"),
        ("forged", "BadSignature"),
    ] {
        let server = Server::start(PUBLIC, 0, certificate).await;
        let error = post(&trusting, HOST, server.addr.port(), 5_000)
            .await
            .unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Tls, "{certificate}: {error:?}");
        assert!(error.message.contains(word), "{certificate}: {error}");
        assert!(!error.message.contains("key_0123456789"), "{error}");
        assert_eq!(server.hits(), (1, 0), "{certificate}: nothing was sent");
    }
    // As the gateway runs: the tests' authority is none of the machine's.
    let system = client_with(&zone, None);
    let error = post(&system, HOST, good.addr.port(), 5_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Tls, "{error:?}");
    assert_eq!(good.hits(), (2, 1), "nothing more was sent");
}

#[tokio::test]
async fn a_certificate_for_a_name_is_none_for_its_address() {
    let zone = Zone::of([]);
    let server = Server::start(PUBLIC, 0, "good").await;
    let error = post(&client(&zone), PUBLIC, server.addr.port(), 5_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Tls, "{error:?}");
    assert_eq!((server.hits(), zone.asked()), ((1, 0), 0));
}

#[tokio::test]
async fn a_public_name_never_leads_to_a_private_place() {
    let inside = Server::start(PRIVATE, 0, "good").await;
    let port = inside.addr.port();
    let outside = Server::start(PUBLIC, port, "good").await;
    let zone = Zone::of([
        ("inside.example", Says::Addresses(&[PRIVATE])),
        ("mapped.example", Says::Addresses(&["::ffff:127.0.0.1"])),
        (
            "metadata.example",
            Says::Addresses(&["169.254.169.254", "fd00:ec2::254"]),
        ),
        ("alias.example", Says::Alias("second.example")),
        ("second.example", Says::Alias("inside.example")),
        ("circle.example", Says::Alias("circle.example")),
        // The private one first, and last.
        (HOST, Says::Addresses(&[PRIVATE, "10.0.0.1", PUBLIC, "::1"])),
    ]);
    let client = client(&zone);
    for (host, kind) in [
        ("inside.example", SendErrorKind::Blocked),
        ("mapped.example", SendErrorKind::Blocked),
        ("metadata.example", SendErrorKind::Blocked),
        ("alias.example", SendErrorKind::Blocked),
        ("circle.example", SendErrorKind::Dns),
        ("absent.example", SendErrorKind::Dns),
    ] {
        let error = post(&client, host, port, 5_000).await.unwrap_err();
        assert_eq!(error.kind, kind, "{host}: {error:?}");
        assert!(error.message.contains(host), "{error}");
    }
    // Of a mixed answer only the public address is dialled.
    assert_eq!(post(&client, HOST, port, 5_000).await.unwrap().status, 204);
    assert_eq!((inside.hits(), outside.hits()), ((0, 0), (1, 1)));
}

#[tokio::test]
async fn a_name_that_turns_private_between_two_looks_is_not_followed() {
    let inside = Server::start(PRIVATE, 0, "good").await;
    let port = inside.addr.port();
    let outside = Server::start(PUBLIC, port, "good").await;
    let zone = Zone::of([(HOST, Says::Turns(&[PUBLIC, PRIVATE, PUBLIC, PRIVATE]))]);
    let client = client(&zone);
    let public = |turn: usize| matches!(turn, 0 | 2);
    for turn in 0..6 {
        match post(&client, HOST, port, 5_000).await {
            Ok(answer) => assert_eq!((public(turn), answer.status), (true, 204)),
            Err(error) => {
                assert_eq!((public(turn), error.kind), (false, SendErrorKind::Blocked));
            }
        }
        // One look per connection: what was judged is what was dialled.
        assert_eq!(zone.asked(), turn + 1);
    }
    assert_eq!((inside.hits(), outside.hits()), ((0, 0), (2, 2)));
}

#[tokio::test]
async fn a_name_server_that_hangs_costs_its_own_vendor_only() {
    let outside = Server::start(PUBLIC, 0, "good").await;
    let port = outside.addr.port();
    let zone = Zone::of([
        ("hangs.example", Says::Hangs),
        (HOST, Says::Addresses(&[PUBLIC])),
    ]);
    let client = client(&zone);
    let began = Instant::now();
    let hanging: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { post(&client, "hangs.example", port, 300).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let other = tokio::time::timeout(Duration::from_secs(10), post(&client, HOST, port, 5_000));
    assert_eq!(other.await.unwrap().unwrap().status, 204);
    for one in hanging {
        let error = one.await.unwrap().unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Timeout, "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    // 200 requests, and one look-up that still hangs; new requests join it.
    let _late = post(&client, "hangs.example", port, 50).await.unwrap_err();
    assert_eq!(zone.asked(), 2, "{:?}", zone.asked.lock());
}
