//! Any text as a body an app posts. The scanner must take exactly what serde_json takes, and what is
//! accepted must read back from the journal with every member as posted.
//!
//! Start from real calls: `mkdir -p corpus/event && cp ../tests/fixtures/segment/*.json corpus/event/`.

#![no_main]

use aqueduct::event::parse::{Acceptance, Body};
use aqueduct::event::scan::{DEPTH_MAX, Scanner, SyntaxKind, place};
use aqueduct::event::{Event, Kind};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

fuzz_target!(|text: &str| {
    let mut scanner = Scanner::new(text);
    let scanned = scanner.value(1).and_then(|value| scanner.end().map(|()| value));
    // `RawValue` reads the grammar without resolving escapes, and has a depth limit of its own.
    let judged: Result<&RawValue, _> = serde_json::from_str(text);
    match (&scanned, &judged) {
        (Ok(ours), Ok(theirs)) => assert_eq!(*ours, theirs.get()),
        (Err(fault), theirs) => {
            assert!(
                fault.kind == SyntaxKind::TooDeep || theirs.is_err(),
                "refused: {fault:?}"
            );
            let place = place(text, fault.at);
            assert!(place.line >= 1 && place.column >= 1);
        }
        (Ok(_), Err(error)) => panic!("taken, but {error}"),
    }
    assert!(DEPTH_MAX < 128);

    let with = Acceptance {
        source: "src_fuzz",
        received_at_ms: 1_795_183_407_412,
        event_bytes_max: 32_768,
        make_id: &|| Default::default(),
        rules: &aqueduct::event::decision::NoRules,
        admits: None,
    };
    let mut out = bytes::BytesMut::new();
    for (body, kind) in [
        (Body::single(text), Some(Kind::Track)),
        (Body::single(text), Some(Kind::Identify)),
        (Body::batch(text, 100), None),
    ] {
        let Ok(body) = body else { continue };
        assert!(scanned.is_ok(), "a body that is no JSON was taken");
        for index in 0..body.len() {
            let shown = body.shown(index, 200);
            assert!(std::str::from_utf8(&shown).is_ok());
            let Ok(accepted) = body.accept(index, kind, &with, &mut out) else {
                continue;
            };
            let event = Event::decode(&accepted.record).expect("a record reads back");
            assert_eq!(event.kind, accepted.kind);
            assert_eq!(event.source, "src_fuzz");
            assert_eq!(event.message_id, accepted.message_id);
            assert!(event.field("writeKey").is_none(), "a credential was stored");
            // Read by other eyes: each member a single call has is the last of its name.
            let Ok(Value::Object(posted)) = serde_json::from_str::<Value>(text) else {
                continue;
            };
            for key in ["properties", "traits"] {
                if kind.is_some()
                    && let Some(value) = posted.get(key).filter(|value| !value.is_null())
                {
                    assert_eq!(event.field(key), Some(value), "{key}");
                }
            }
        }
    }
});
