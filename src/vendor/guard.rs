//! Which addresses outbound requests may reach. Pure: no sockets, no DNS.
//!
//! Two questions, asked at two moments. [`Guard::check_url`] reads an address as entered (at install, on every
//! change, and again before each request); [`Guard::admits`] judges every IP a name resolved to, at connect time,
//! so that a name that turns private later is never dialled. Both use one classifier, [`class_of`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

/// What may be reached. Cheap to share by `Arc`.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Networks that may be reached although they are not public.
    nets: Vec<IpNet>,
    /// `host:port` pairs that may be reached although they are private or plain http.
    hosts: Vec<(String, u16)>,
}

/// An address that may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UrlFault {
    /// `not_a_url`, `not_https`, `userinfo`, `private_address`, `bad_characters`, `bad_port`.
    pub code: &'static str,
    /// What is wrong and the way out. Holds the host at most, never the whole address (it may hold a key).
    pub message: String,
}

/// An entry of `AQUEDUCT_EGRESS_ALLOW` that is neither a network nor `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{entry}` is neither a network (10.0.0.0/8), an address (10.0.0.7) nor `host:port` (sandbox:9090)"
)]
pub struct AllowFault {
    /// The entry as written.
    pub entry: String,
}

impl Guard {
    /// Reads the entries of `AQUEDUCT_EGRESS_ALLOW`: networks (`10.0.0.0/8`), single addresses, `host:port`.
    ///
    /// # Errors
    /// The first entry that cannot be read.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, AllowFault> {
        let mut guard = Self::default();
        for entry in list {
            let entry = entry.as_ref().trim();
            if entry.is_empty() {
                continue;
            }
            if let Ok(net) = entry.parse::<IpNet>() {
                guard.nets.push(net);
            } else if let Ok(ip) = entry.parse::<IpAddr>() {
                guard.nets.push(IpNet::from(ip));
            } else if let Some(pair) = host_and_port(entry) {
                guard.hosts.push(pair);
            } else {
                return Err(AllowFault {
                    entry: entry.to_owned(),
                });
            }
        }
        Ok(guard)
    }

    /// May this address be asked? Names are judged by themselves here, and by what they resolve to when dialled.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn check_url(&self, text: &str) -> Result<(), UrlFault> {
        let url = self.read(text)?;
        let insecure_ok = self.lists(&url);
        match url.scheme() {
            "https" => {}
            "http" if insecure_ok => {}
            "http" => {
                return Err(fault(
                    "not_https",
                    "the address must begin with https://; to allow plain http to this host, list it as host:port \
                     in AQUEDUCT_EGRESS_ALLOW",
                ));
            }
            other => {
                return Err(fault(
                    "not_https",
                    format!("the address must begin with https://, not {other}:"),
                ));
            }
        }
        if insecure_ok {
            return Ok(());
        }
        let private = |what: &str, class: &str| {
            Err(fault(
                "private_address",
                format!(
                    "{what} is not a public address ({class}); to allow it, list it in AQUEDUCT_EGRESS_ALLOW"
                ),
            ))
        };
        match url.host() {
            None => Err(fault("not_a_url", "the address names no host")),
            Some(Host::Domain(name)) => {
                let name = plain_name(name);
                if let Some((_, port)) = self.hosts.iter().find(|(host, _)| *host == name) {
                    return Err(fault(
                        "private_address",
                        format!("{name} is allowed on port {port} only"),
                    ));
                }
                match private_name(&name) {
                    Some(class) => private(&name, class),
                    None => Ok(()),
                }
            }
            Some(Host::Ipv4(ip)) => match class_of(IpAddr::V4(ip)) {
                Some(class) => private(&ip.to_string(), class),
                None => Ok(()),
            },
            Some(Host::Ipv6(ip)) => match class_of(IpAddr::V6(ip)) {
                Some(class) => private(&ip.to_string(), class),
                None => Ok(()),
            },
        }
    }

    /// Is this address listed, so that plain http and a private place are fine?
    #[must_use]
    pub fn allows_insecure(&self, text: &str) -> bool {
        self.read(text).is_ok_and(|url| self.lists(&url))
    }

    /// May a connection go to `ip`, which the name `host` resolved to?
    #[must_use]
    pub fn admits(&self, host: &str, ip: IpAddr) -> bool {
        // The port was compared when the address was checked, just before the name was looked up.
        let host = plain_name(host);
        class_of(ip).is_none()
            || self.in_nets(ip)
            || self.hosts.iter().any(|(listed, _)| *listed == host)
    }

    fn read(&self, text: &str) -> Result<Url, UrlFault> {
        // The URL standard silently drops tabs and line breaks and reads `\` as `/`: refuse what it would bend.
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(fault(
                "bad_characters",
                "the address holds a space, a backslash, a line break or another control character",
            ));
        }
        let url = Url::parse(text).map_err(|error| {
            fault(
                "not_a_url",
                format!("not an address ({error}); it must look like https://host/path"),
            )
        })?;
        // `https:///path` and `https:path` would be read as the host `path`.
        if text
            .split_once("://")
            .is_none_or(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
        {
            return Err(fault(
                "not_a_url",
                "the address names no host; it must look like https://host/path",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() || has_userinfo(text) {
            return Err(fault(
                "userinfo",
                "the address holds a user name or password before `@`; leave it out",
            ));
        }
        if url.port() == Some(0) {
            return Err(fault("bad_port", "port 0 cannot be reached"));
        }
        Ok(url)
    }

    /// Is the address's host and port, or its IP, on the list?
    fn lists(&self, url: &Url) -> bool {
        let Some(port) = url.port_or_known_default() else {
            return false;
        };
        let listed = |name: &str| {
            self.hosts
                .iter()
                .any(|(host, listed_port)| host == name && *listed_port == port)
        };
        match url.host() {
            None => false,
            Some(Host::Ipv4(ip)) => self.in_nets(IpAddr::V4(ip)) || listed(&ip.to_string()),
            Some(Host::Ipv6(ip)) => self.in_nets(IpAddr::V6(ip)) || listed(&ip.to_string()),
            Some(Host::Domain(name)) => {
                let name = plain_name(name);
                // `localhost` means this machine whatever DNS says, so a listed loopback network covers it.
                listed(&name)
                    || (name == "localhost" && self.in_nets(IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        }
    }

    fn in_nets(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.nets.iter().any(|net| net.contains(&ip))
    }
}

fn fault(code: &'static str, message: impl Into<String>) -> UrlFault {
    UrlFault {
        code,
        message: message.into(),
    }
}

/// `host:port` or `[v6]:port`, the host as a URL would write it.
fn host_and_port(entry: &str) -> Option<(String, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match Host::parse(host).ok()? {
        Host::Domain(name) => plain_name(&name),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    };
    (!host.is_empty()).then_some((host, port))
}

/// Lower case and without the root's dot: `LOCALHOST.` is `localhost`.
fn plain_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// An empty user name (`https://@host`) vanishes when parsed, yet somebody wrote it to mislead.
fn has_userinfo(text: &str) -> bool {
    text.split_once("//").is_some_and(|(_, rest)| {
        rest.split(['/', '?', '#'])
            .next()
            .is_some_and(|authority| authority.contains('@'))
    })
}

/// Names that mean a private place by their form alone (RFC 6761, 6762, 8375; cloud metadata hosts).
fn private_name(name: &str) -> Option<&'static str> {
    let under = |zone: &str| name == zone || name.ends_with(&format!(".{zone}"));
    if name.is_empty() {
        Some("empty name")
    } else if under("localhost") || under("localdomain") {
        Some("this machine")
    } else if under("local") || under("internal") || under("home.arpa") || under("lan") {
        Some("a local network's name")
    } else if under("onion") {
        Some("a hidden service's name")
    } else {
        None
    }
}

/// The class of an address that is not public unicast, or none when it is. Unknown future ranges count as reserved.
#[must_use]
pub fn class_of(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => class_of_v4(ip),
        IpAddr::V6(ip) => class_of_v6(ip),
    }
}

/// IANA IPv4 special-purpose registry.
fn class_of_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        [0, ..] => Some("this network"),
        [10, ..] | [192, 168, ..] => Some("private"),
        [172, b, ..] if (16..32).contains(&b) => Some("private"),
        [100, b, ..] if (64..128).contains(&b) => Some("carrier-grade NAT"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [192, 0, 0, _] => Some("protocol assignments"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("documentation"),
        [192, 88, 99, _] => Some("6to4 relay"),
        [198, 18 | 19, ..] => Some("benchmarking"),
        [255, 255, 255, 255] => Some("broadcast"),
        [a, ..] if (224..240).contains(&a) => Some("multicast"),
        [a, ..] if a >= 240 => Some("reserved"),
        _ => None,
    }
}

/// IANA IPv6 special-purpose registry. Ranges that carry an IPv4 address inside are refused whole, except the
/// mapped form, which is that IPv4 address.
fn class_of_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return class_of_v4(v4);
    }
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0, _, _] => Some("IPv4-compatible"),
        [0, 0, 0, 0, 0xffff, 0, _, _] => Some("IPv4-translated"),
        [0x64, 0xff9b, ..] => Some("NAT64"),
        [0x100, 0, 0, 0 | 1, ..] => Some("discard"),
        [0x2001, 0, ..] => Some("Teredo"),
        [0x2001, 2, 0, ..] => Some("benchmarking"),
        [0x2001, 0xdb8, ..] => Some("documentation"),
        [0x2001, b, ..] if b < 0x200 => Some("protocol assignments"),
        [0x2002, ..] => Some("6to4"),
        [0x3fff, b, ..] if b < 0x1000 => Some("documentation"),
        [0x5f00, ..] => Some("SRv6"),
        [a, ..] if a & 0xfe00 == 0xfc00 => Some("unique local"),
        [a, ..] if a & 0xffc0 == 0xfe80 => Some("link-local"),
        [a, ..] if a & 0xffc0 == 0xfec0 => Some("site-local"),
        [a, ..] if a & 0xff00 == 0xff00 => Some("multicast"),
        [a, ..] if a & 0xe000 != 0x2000 => Some("reserved"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Guard, class_of};

    /// Every way we know to write an address that is not the public internet over TLS.
    const HOSTILE: &[&str] = &[
        // schemes
        "http://logx.optimizely.com/v1/events",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "data:text/plain,hi",
        "ws://example.com/",
        "unix:/run/docker.sock",
        "//example.com/",
        "example.com",
        "",
        "https://",
        "https:///path",
        "https:example.com",
        "https:/example.com",
        "https://exa mple.com/",
        "https://example.com:99999/",
        "https://example.com:0/",
        // user info and tricks around it
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://example.com@127.0.0.1/",
        "https://127.0.0.1\\@example.com/",
        "https://example.com\t/",
        "https://exam\nple.com/",
        "https://example.com/\r\nX-Evil: 1",
        "https://example.com/\0",
        // loopback in every notation
        "https://127.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://127.255.255.254/",
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://%31%32%37.0.0.1/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://ⓛocalhost/",
        "https://localhost.localdomain/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::]/",
        "https://0/",
        "https://0.0.0.0/",
        "https://0.1.2.3/",
        // private, link-local, special
        "https://10.0.0.1/",
        "https://012.0.0.1/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.168.1.1/",
        "https://3232235777/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://100.64.0.1/",
        "https://100.127.255.255/",
        "https://192.0.0.1/",
        "https://192.0.2.1/",
        "https://198.51.100.7/",
        "https://203.0.113.9/",
        "https://198.18.0.1/",
        "https://192.88.99.1/",
        "https://224.0.0.1/",
        "https://239.255.255.255/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        // IPv6
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b:1::1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001::1]/",
        "https://[2001:2::1]/",
        "https://[2001:10::1]/",
        "https://[2001:20::1]/",
        "https://[2001:db8::1]/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://[100::1]/",
        "https://[100:0:0:1::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[4000::1]/",
        "https://[fe80::1%25eth0]/",
    ];

    #[test]
    fn hostile_addresses_are_refused() {
        let guard = Guard::default();
        let passed: Vec<_> = HOSTILE
            .iter()
            .filter(|url| guard.check_url(url).is_ok())
            .collect();
        assert!(passed.is_empty(), "let through: {passed:?}");
        assert!(HOSTILE.len() >= 60);
        assert!(HOSTILE.iter().all(|url| !guard.allows_insecure(url)));
    }

    #[test]
    fn public_https_addresses_pass() {
        let guard = Guard::default();
        for url in [
            "https://logx.optimizely.com/v1/events",
            "https://cdn.optimizely.com/datafiles/abc.json",
            "https://example.com:8443/a?b=c@d#e",
            "https://8.8.8.8/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://[2606:4700::1111]/",
            "https://[::ffff:8.8.8.8]/",
            "https://localhost.example.com/",
        ] {
            assert_eq!(guard.check_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn the_list_opens_exactly_what_it_names() {
        let guard = Guard::parse(&[
            "127.0.0.0/8",
            "sandbox:9090",
            "[::1]:7000",
            " 10.1.2.3 ",
            "",
        ])
        .unwrap();
        for url in [
            "http://127.0.0.1:4000/x",
            "http://localhost:4000/x",
            "http://2130706433/",
            "http://[::ffff:127.0.0.1]/",
            "http://sandbox:9090/",
            "https://SANDBOX.:9090/",
            "http://[::1]:7000/",
            "https://10.1.2.3/",
        ] {
            assert_eq!(guard.check_url(url), Ok(()), "{url}");
            assert!(guard.allows_insecure(url), "{url}");
        }
        for (url, code) in [
            ("http://sandbox:9091/", "not_https"),
            ("https://sandbox:9091/", "private_address"),
            ("https://[::1]:7001/", "private_address"),
            ("https://10.1.2.4/", "private_address"),
            ("http://u:p@127.0.0.1/", "userinfo"),
            ("http://example.com/", "not_https"),
            ("file://127.0.0.1/etc/passwd", "not_https"),
        ] {
            assert_eq!(guard.check_url(url).unwrap_err().code, code, "{url}");
        }
        assert!(guard.admits("sandbox", "10.9.9.9".parse().unwrap()));
        assert!(!guard.admits("other", "10.9.9.9".parse().unwrap()));
        assert!(guard.admits("other", "127.0.0.1".parse().unwrap()));
        for bad in ["localhost", "sandbox:0", "10.0.0.0/40", "http://x:1", ":80"] {
            assert_eq!(Guard::parse(&[bad]).unwrap_err().entry, bad);
        }
    }

    #[test]
    fn faults_do_not_repeat_the_address() {
        let message = Guard::default()
            .check_url("http://cdn.example.com/secret_key_1.json")
            .unwrap_err()
            .message;
        assert!(!message.contains("secret_key_1"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_the_one_inside(bits: u32) {
            let v4 = std::net::Ipv4Addr::from_bits(bits);
            proptest::prop_assert_eq!(class_of(v4.into()), class_of(v4.to_ipv6_mapped().into()));
        }
    }
}
