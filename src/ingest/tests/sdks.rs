//! Every recorded request of a stock SDK, replayed.

use super::*;

#[tokio::test]
async fn recorded_requests_of_stock_sdks_are_all_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/segment");
    let mut posts = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let requests: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for request in requests {
            let door = door();
            let method = request["method"].as_str().unwrap();
            let url = request["url"].as_str().unwrap();
            let at = format!("{} seq {}", path.display(), request["seq"]);
            let headers: Vec<(&str, &str)> = request["rawHeaders"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| {
                    line.as_str()
                        .unwrap()
                        .split_once(": ")
                        .unwrap_or(("x-none", ""))
                })
                .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
                .collect();
            let mut body = match &request["body"] {
                Value::String(text) => text.clone().into_bytes(),
                body => serde_json::to_vec(body).unwrap(),
            };
            if request["gzip"] == "gzip" {
                body = gzip(&body);
            }
            let answer = door.send(method, url, &headers, body).await;
            match method {
                "OPTIONS" => {
                    assert_eq!((answer.status, &*answer.text), (204, ""), "{at}");
                    let allowed = answer.headers["access-control-allow-headers"]
                        .to_str()
                        .unwrap();
                    let asked = headers
                        .iter()
                        .find(|(name, _)| *name == "Access-Control-Request-Headers")
                        .unwrap()
                        .1;
                    for header in asked.split(',') {
                        assert!(
                            allowed.split(", ").any(|name| name == header),
                            "{at}: {header}"
                        );
                    }
                    assert_eq!(answer.headers["access-control-max-age"], "7200");
                }
                "GET" => {
                    assert_eq!(answer.status, 200, "{at}");
                    let segment = &answer.json()["integrations"]["Segment.io"];
                    assert_eq!(segment["apiHost"], "127.0.0.1:18981/v1", "{at}");
                    assert_eq!(segment["protocol"], "http", "{at}");
                    assert_eq!(answer.json()["metrics"]["sampleRate"], 0);
                }
                _ => {
                    posts += 1;
                    let single = vec![request["body"].clone()];
                    let posted = request["body"]["batch"].as_array().unwrap_or(&single);
                    let wanted = json!({"success": true, "accepted": posted.len(), "rejected": []});
                    assert_eq!((answer.status, answer.json()), (200, wanted), "{at}");
                    for (event, posted) in door.events().iter().zip(posted) {
                        assert_eq!(
                            event.kind.as_str(),
                            posted["type"].as_str().unwrap(),
                            "{at}"
                        );
                        assert_eq!(
                            event.message_id,
                            posted["messageId"].as_str().unwrap(),
                            "{at}"
                        );
                        for key in [
                            "event",
                            "properties",
                            "traits",
                            "context",
                            "groupId",
                            "previousId",
                            "name",
                        ] {
                            assert_eq!(event.field(key), posted.get(key), "{at} {key}");
                        }
                    }
                }
            }
        }
    }
    assert!(posts > 40, "{posts}");
}
