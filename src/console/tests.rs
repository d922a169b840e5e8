//! The console through its router, over a registry and a journal in a temporary directory: who gets in, what a forged
//! request gets, what each role sees, what pages say to browsers.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::{Parts, Sampler, router};
use crate::admin::testing::{Idle, api};
use crate::clock::SystemClock;
use crate::journal::{self, Options};
use crate::registry::audit::Actor;
use crate::registry::random::Random;
use crate::registry::testing::Outside;
use crate::registry::{self, Given, Registry, Role};
use crate::secret::Secret;

const ADMIN: &str = "adm_token_of_the_tests";
const HOST: &str = "localhost:8084";

/// Every page that only shows, with what its placeholders stand for.
const PAGES: [&str; 19] = [
    "/",
    "/integrations",
    "/integrations/library",
    "/integrations/library?q=opti&category=Analytics",
    "/integrations/library/optimizely",
    "/integrations/{id}",
    "/integrations/{id}/settings",
    "/integrations/{id}/blueprint",
    "/integrations/{id}/revisions",
    "/integrations/{id}/revisions/1",
    "/live",
    "/deliveries",
    "/dead-letters",
    "/dead-letters/list",
    "/rejected",
    "/ledger",
    "/sources",
    "/tokens",
    "/audit?verify=yes",
];

/// Every request that changes something, and the least role that may.
const DEEDS: [(&str, &str, Role); 13] = [
    (
        "/integrations/library/optimizely",
        "do=install",
        Role::Editor,
    ),
    ("/integrations/{id}/pause", "reason=x", Role::Operator),
    ("/integrations/{id}/resume", "", Role::Operator),
    ("/integrations/{id}/test", "", Role::Operator),
    ("/integrations/{id}/settings", "name=Other", Role::Editor),
    (
        "/integrations/{id}/blueprint",
        "text=x&do=save",
        Role::Editor,
    ),
    ("/integrations/{id}/rollback", "revision=1", Role::Editor),
    ("/dead-letters/replay", "do=send", Role::Operator),
    ("/replays/rep_x/cancel", "", Role::Operator),
    ("/sources", "name=app", Role::Admin),
    ("/sources/{source}/rotate", "", Role::Admin),
    ("/tokens", "name=t&role=viewer", Role::Admin),
    ("/integrations/{id}/remove", "name=Optimizely", Role::Editor),
];

struct Site {
    router: Router,
    registry: Registry,
    integration: String,
    source: String,
    _dir: tempfile::TempDir,
}

/// What came back.
struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn location(&self) -> &str {
        self.headers
            .get(header::LOCATION)
            .map_or("", |to| to.to_str().unwrap())
    }
}

/// Somebody signed in: the cookie, and what forms bring back.
struct Visitor {
    cookie: String,
    csrf: String,
}

impl Site {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: crate::clock::SharedClock = Arc::new(SystemClock);
        let journal = journal::testing::open(dir.path(), Options::default(), Arc::clone(&clock));
        let random = Random::system();
        let given = Given {
            admin_token: Some(Secret::new(ADMIN)),
            write_key: None,
        };
        let checks = registry::testing::checks(&Outside::offline(), Arc::new(journal.clone()));
        let registry = registry::testing::open(
            dir.path(),
            &given,
            Arc::clone(&clock),
            random.clone(),
            checks,
        );
        let body = serde_json::json!({
            "name": "Optimizely <b>\"x\"</b>",
            "config": { "account_id": "1", "project_id": "2", "sdk_key": "sdkkey_canary_4711" },
        });
        let installed = registry
            .install(&Actor::cli(), "optimizely", body.as_object().unwrap())
            .await
            .unwrap();
        let (source, _) = registry
            .create_source(
                &Actor::cli(),
                crate::registry::SourceSpec::named("<script>alert(1)</script>'\""),
                None,
            )
            .await
            .unwrap();
        let delivery = Arc::new(Idle::default());
        let api = api(
            dir.path(),
            &registry,
            &journal,
            &delivery,
            Arc::clone(&clock),
            0,
        );
        let router = router(Parts {
            api,
            registry: registry.clone(),
            sampler: Arc::new(Sampler::default()),
            settings: std::collections::BTreeMap::new(),
            clock,
            random,
        });
        Self {
            router,
            registry,
            integration: installed.integration.id.clone(),
            source,
            _dir: dir,
        }
    }

    fn path(&self, path: &str) -> String {
        path.replace("{id}", &self.integration)
            .replace("{source}", &self.source)
    }

    async fn send(&self, request: Request<Body>) -> Page {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Page {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, visitor: &Visitor, path: &str) -> Page {
        let request = Request::get(self.path(path))
            .header(header::HOST, HOST)
            .header(header::COOKIE, &visitor.cookie);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// A form as the browser sends it from one of our pages.
    async fn post(&self, visitor: &Visitor, path: &str, form: &str) -> Page {
        self.post_with(
            visitor,
            path,
            &format!("{form}&_csrf={}", visitor.csrf),
            &[
                ("origin", "http://localhost:8084"),
                ("sec-fetch-site", "same-origin"),
            ],
        )
        .await
    }

    async fn post_with(
        &self,
        visitor: &Visitor,
        path: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Page {
        let mut request = Request::post(self.path(path))
            .header(header::HOST, HOST)
            .header(header::COOKIE, &visitor.cookie)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap())
            .await
    }

    async fn sign_in_from(&self, token: &str, host: &str, origin: &str) -> Page {
        let request = Request::post("/sign-in")
            .header(header::HOST, host)
            .header(header::ORIGIN, origin)
            .body(Body::from(format!("token={token}&next=/ledger")))
            .unwrap();
        self.send(request).await
    }

    async fn sign_in(&self, token: &str) -> Visitor {
        let page = self
            .sign_in_from(token, HOST, "http://localhost:8084")
            .await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
        assert_eq!(page.location(), "/ledger");
        let set = page.headers[header::SET_COOKIE].to_str().unwrap();
        let mut visitor = Visitor {
            cookie: set.split(';').next().unwrap().to_owned(),
            csrf: String::new(),
        };
        let page = self.get(&visitor, "/").await;
        let (_, rest) = page.text.split_once("name=\"_csrf\" value=\"").unwrap();
        visitor.csrf = rest.split('"').next().unwrap().to_owned();
        visitor
    }

    async fn visitor(&self, role: Role) -> Visitor {
        let token = self
            .registry
            .create_token(&Actor::cli(), &format!("{role:?}"), role, None)
            .await
            .unwrap();
        self.sign_in(token.expose()).await
    }
}

#[tokio::test]
async fn a_session_begins_with_a_live_token_only_and_its_cookie_is_fenced() {
    let site = Site::open().await;
    let wrong = site
        .sign_in_from("adm_wrong", HOST, "http://localhost:8084")
        .await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers.contains_key(header::SET_COOKIE));
    // From another site's page.
    let forged = site.sign_in_from(ADMIN, HOST, "https://evil.example").await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    // Over plain http from elsewhere a session could be read on the way.
    let plain = site
        .sign_in_from(
            ADMIN,
            "gateway.internal:8084",
            "http://gateway.internal:8084",
        )
        .await;
    assert_eq!(plain.status, StatusCode::FORBIDDEN);
    assert!(!plain.headers.contains_key(header::SET_COOKIE));

    let secure = site
        .sign_in_from(ADMIN, "gateway.example", "https://gateway.example")
        .await;
    let cookie = secure.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("__Host-aqueduct="), "{cookie}");
    for part in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let loopback = site
        .sign_in_from(ADMIN, HOST, "http://localhost:8084")
        .await;
    let cookie = loopback.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.starts_with("aqueduct-loopback=") && cookie.contains("; HttpOnly; SameSite=Strict")
    );
    // The name without the prefix counts on loopback only.
    let pair = cookie.split(';').next().unwrap();
    let elsewhere = Request::get("/ledger")
        .header(header::HOST, "gateway.example")
        .header(header::COOKIE, pair)
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        site.send(elsewhere).await.location(),
        "/sign-in?next=%2Fledger"
    );
}

#[tokio::test]
async fn nobody_sees_a_page_and_no_forged_form_does_a_thing() {
    let site = Site::open().await;
    let nobody = Visitor {
        cookie: "aqueduct-loopback=guessed".to_owned(),
        csrf: String::new(),
    };
    for page in PAGES {
        let found = site.get(&nobody, page).await;
        assert!(found.location().starts_with("/sign-in"), "{page}");
    }
    let admin = site.sign_in(ADMIN).await;
    let own = [
        ("origin", "http://localhost:8084"),
        ("sec-fetch-site", "same-origin"),
    ];
    let good = format!("_csrf={}", admin.csrf);
    let ways: [(&str, &[(&str, &str)]); 7] = [
        ("_csrf=guessed", &own),
        ("", &own),
        (&good, &[]),
        (&good, &[("origin", "https://evil.example")]),
        (&good, &[("origin", "null")]),
        (&good, &[("sec-fetch-site", "same-site")]),
        (
            &good,
            &[
                ("origin", "http://localhost:8084"),
                ("sec-fetch-site", "cross-site"),
            ],
        ),
    ];
    let before = site.registry.audit(None, 100).await.unwrap().len();
    for (path, form, _) in DEEDS {
        assert_eq!(
            site.post(&nobody, path, form).await.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
        for (proof, headers) in ways {
            let found = site
                .post_with(&admin, path, &format!("{form}&{proof}"), headers)
                .await;
            assert_eq!(
                found.status,
                StatusCode::FORBIDDEN,
                "{path} {proof} {headers:?}"
            );
        }
    }
    assert_eq!(site.registry.audit(None, 100).await.unwrap().len(), before);
}

#[tokio::test]
async fn each_role_does_what_the_api_lets_it_and_no_more() {
    let site = Site::open().await;
    for role in [Role::Viewer, Role::Operator, Role::Editor, Role::Admin] {
        let visitor = site.visitor(role).await;
        for page in PAGES {
            let needs_admin = ["/tokens", "/audit?verify=yes"].contains(&page);
            let wanted = if needs_admin && role < Role::Admin {
                403
            } else {
                200
            };
            let found = site.get(&visitor, page).await;
            assert_eq!(
                found.status.as_u16(),
                wanted,
                "{role:?} {page}: {}",
                found.text
            );
        }
        for (path, form, needed) in DEEDS {
            let found = site.post(&visitor, path, form).await;
            assert_eq!(
                found.status == StatusCode::FORBIDDEN,
                role < needed,
                "{role:?} {path}: {}",
                found.status
            );
            assert!(
                !found.status.is_server_error(),
                "{role:?} {path}: {}",
                found.text
            );
        }
    }
}

#[tokio::test]
async fn pages_fence_themselves_escape_names_and_show_no_secret() {
    let site = Site::open().await;
    let admin = site.sign_in(ADMIN).await;
    for page in PAGES {
        let found = site.get(&admin, page).await;
        let policy = found.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{page}"
        );
        assert_eq!(found.headers[header::CACHE_CONTROL], "no-store", "{page}");
        assert_eq!(
            found.headers[header::X_CONTENT_TYPE_OPTIONS],
            "nosniff",
            "{page}"
        );
        assert!(
            !found.text.contains("<script>") && !found.text.contains("<b>\"x\""),
            "{page}"
        );
        assert!(
            !found.text.contains(" style=") && !found.text.contains(" onclick="),
            "{page}"
        );
        assert!(!found.text.contains("sdkkey_canary"), "{page}");
    }
    assert!(
        site.get(&admin, "/sources")
            .await
            .text
            .contains("&#60;script&#62;")
    );
}

#[tokio::test]
async fn revoking_a_token_and_signing_out_end_the_session() {
    let site = Site::open().await;
    let visitor = site.visitor(Role::Operator).await;
    assert_eq!(site.get(&visitor, "/ledger").await.status, StatusCode::OK);
    let picture = site.registry.picture();
    let token = picture
        .tokens
        .iter()
        .find(|token| token.role == Role::Operator)
        .unwrap();
    site.registry
        .revoke_token(&Actor::cli(), &token.id)
        .await
        .unwrap();
    assert!(
        site.get(&visitor, "/ledger")
            .await
            .location()
            .starts_with("/sign-in")
    );

    let admin = site.sign_in(ADMIN).await;
    assert_eq!(
        site.post(&admin, "/sign-out", "").await.location(),
        "/sign-in"
    );
    assert!(
        site.get(&admin, "/ledger")
            .await
            .location()
            .starts_with("/sign-in")
    );
}

#[tokio::test]
async fn a_key_is_shown_once_and_a_bad_form_names_its_field() {
    let site = Site::open().await;
    let admin = site.sign_in(ADMIN).await;
    assert_eq!(
        site.post(&admin, "/sources", "name=app&allowed_types=track")
            .await
            .location(),
        "/sources"
    );
    assert!(
        site.get(&admin, "/sources")
            .await
            .text
            .contains("value=\"wk_")
    );
    assert!(
        !site
            .get(&admin, "/sources")
            .await
            .text
            .contains("value=\"wk_")
    );

    let form = "do=install&variant=default&name=&config.account_id=1&config.project_id=2&config.sdk_key=sdkkey_typed_4711&config.datafile_url=nonsense";
    let found = site
        .post(&admin, "/integrations/library/optimizely", form)
        .await;
    assert_eq!(found.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        found.text.matches("class=\"fault\"").count(),
        2,
        "{}",
        found.text
    );
    assert!(!found.text.contains("sdkkey_typed_4711"));
    assert!(found.text.contains("entered, kept until you install"));
}
