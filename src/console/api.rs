//! The management API, asked in-process in the name of who is signed in.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

use super::views::{Diagnostic, FieldFault, Integration, Listed, Source};
use crate::admin::SignedIn;
use crate::registry::audit::Actor;

/// The API's router.
#[derive(Clone)]
pub(super) struct Api(Router);

/// What the API answered when it did not do what was asked: its problem document.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// What is wrong and the way out.
    #[serde(default)]
    pub(super) message: String,
    /// The fields at fault.
    #[serde(default)]
    pub(super) errors: Vec<FieldFault>,
    /// The remarks on a blueprint.
    #[serde(default)]
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Refusal {
    fn internal(message: &str) -> Self {
        Self {
            status: 500,
            message: message.to_owned(),
            errors: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// All it says in one sentence.
    pub(super) fn sentence(&self) -> String {
        match self.errors.as_slice() {
            [] => self.message.clone(),
            errors => errors
                .iter()
                .map(|fault| format!("{} {}", fault.field, fault.message))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

impl Api {
    pub(super) fn new(router: Router) -> Self {
        Self(router)
    }

    /// The integrations, for naming and choosing.
    pub(super) async fn integrations(&self, actor: &Actor) -> Result<Listed<Integration>, Refusal> {
        self.get(actor, "/integrations?limit=100").await
    }

    /// The sources, for naming and choosing.
    pub(super) async fn sources(&self, actor: &Actor) -> Result<Listed<Source>, Refusal> {
        self.get(actor, "/sources?limit=100").await
    }

    /// GET `path` below `/v1/admin`.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        actor: &Actor,
        path: &str,
    ) -> Result<T, Refusal> {
        self.call(actor, Method::GET, path, None).await
    }

    /// POST without looking at the answer's body.
    pub(super) async fn post(
        &self,
        actor: &Actor,
        path: &str,
        body: Option<Value>,
    ) -> Result<(), Refusal> {
        self.call::<Value>(actor, Method::POST, path, body)
            .await
            .map(|_| ())
    }

    /// DELETE `path`.
    pub(super) async fn delete(&self, actor: &Actor, path: &str) -> Result<(), Refusal> {
        self.call::<Value>(actor, Method::DELETE, path, None)
            .await
            .map(|_| ())
    }

    /// Any call; an empty answer reads as null.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        actor: &Actor,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Refusal> {
        let response = self.raw(actor, method, path, body).await;
        let status = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|_| Refusal::internal("the answer could not be read"))?
            .to_bytes();
        if !status.is_success() {
            return Err(serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Refusal::internal("the call failed; the log says more")));
        }
        let bytes = if bytes.is_empty() {
            &b"null"[..]
        } else {
            &bytes
        };
        serde_json::from_slice(bytes).map_err(|error| {
            tracing::error!(path, %error, "an answer of the management API is not as the console knows it");
            Refusal::internal("the answer is not as this page knows it; the log says more")
        })
    }

    /// The answer as it comes, for streams.
    pub(super) async fn raw(
        &self,
        actor: &Actor,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Response {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/admin{path}"))
            .extension(SignedIn(actor.clone()));
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        match request.body(body) {
            Ok(request) => self.send(request).await,
            Err(_) => super::frame::plain(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    /// A request made elsewhere.
    pub(super) async fn send(&self, request: Request<Body>) -> Response {
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
