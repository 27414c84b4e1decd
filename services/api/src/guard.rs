//! Deny by default: the only way to add a route.
//!
//! A handler takes a `Call`, and a `Call` can be made in this file only, after the request was authenticated, its
//! organization resolved and the route's permission point checked. A route without a declared `Need` does not compile;
//! routes open to strangers are a separate type of handler and stand in one list (`PUBLIC`) that a test compares with
//! what is registered (CVE-2021-3169, CVE-2023-42442, CVE-2025-62795: routes and sockets that nobody had guarded).

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, Method, Response, Uri};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use gatehouse_identity::Authenticated;
use gatehouse_model::user::User;
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use crate::app::App;
use crate::auth;
use crate::engine::reader::{Reader, Scope};
use crate::problem::Problem;
use crate::query::Query;

/// Routes that answer strangers. Nothing else does.
pub const PUBLIC: &[(&str, &str)] = &[
    ("GET", "/api/health/"),
    ("GET", "/api/v1/settings/public/"),
    ("POST", "/api/v1/authentication/auth/"),
    ("POST", "/api/v1/authentication/tokens/"),
    ("POST", "/api/v1/authentication/mfa/challenge/"),
    ("GET", "/api/v1/terminal/sessions/{id}/watch/ws/"),
];

/// What a caller must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Only to be somebody: the route shows and changes the caller's own things.
    Me,
    /// The point in the request's organization.
    Point(&'static str),
    /// The point for the whole system: roles of one organization do not give it.
    System(&'static str),
}

pub(crate) type Answer = Result<Response<Body>, Problem>;
type Boxed = Pin<Box<dyn Future<Output = Answer> + Send>>;
type GuardedHandler = Arc<dyn Fn(Call) -> Boxed + Send + Sync>;
type PublicHandler = Arc<dyn Fn(Stranger) -> Boxed + Send + Sync>;

/// Facts of a request that hold for everybody.
pub(crate) struct Stranger {
    pub app: App,
    pub ip: IpAddr,
    pub method: Method,
    pub uri: Uri,
    pub version: axum::http::Version,
    pub headers: HeaderMap,
    pub params: HashMap<String, String>,
    pub query: Query,
    pub extensions: axum::http::Extensions,
    // Behind a lock only because a body is not `Sync` and a `Call` is lent to hooks across awaits.
    body: Mutex<Body>,
}

/// An authenticated and permitted request. Constructed by the guard alone.
pub(crate) struct Call {
    pub app: App,
    pub who: Authenticated,
    pub user: Arc<User>,
    pub scope: Scope,
    pub ip: IpAddr,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub params: HashMap<String, String>,
    pub query: Query,
    // Behind a lock only because a body is not `Sync` and a `Call` is lent to hooks across awaits.
    body: Mutex<Body>,
}

/// Until an answer begins; bodies that stream afterwards have no end of their own.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
/// Ordinary JSON bodies; imports may be larger.
pub(crate) const JSON_LIMIT: usize = 4 * 1024 * 1024;
pub(crate) const IMPORT_LIMIT: usize = 16 * 1024 * 1024;
/// A stranger's body: a log-in.
const STRANGER_LIMIT: usize = 16 * 1024;

impl Stranger {
    pub async fn json(&self) -> Result<Value, Problem> {
        let body = std::mem::take(&mut *self.body.lock());
        let bytes = read_body(&self.app, body, STRANGER_LIMIT).await?;
        parse_body(&self.headers, &bytes)
    }
}

impl Call {
    pub fn reader(&self) -> Reader {
        Reader::new(self.app.store(), self.scope)
    }

    /// Whether the caller also holds `point` in the request's organization.
    pub fn allows(&self, point: &str) -> Result<bool, Problem> {
        auth::allowed(&self.app, &self.user, self.scope.id(), point)
    }

    pub fn require(&self, point: &str) -> Result<(), Problem> {
        if self.allows(point)? { Ok(()) } else { Err(Problem::forbidden()) }
    }

    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// The path's `{id}`. What is not an id cannot exist.
    pub fn id(&self) -> Result<Uuid, Problem> {
        self.param("id").parse().map_err(|_| Problem::not_found())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub async fn bytes(&self, limit: usize) -> Result<Bytes, Problem> {
        let body = std::mem::take(&mut *self.body.lock());
        read_body(&self.app, body, limit).await
    }

    pub async fn json(&self) -> Result<Value, Problem> {
        let bytes = self.bytes(JSON_LIMIT).await?;
        parse_body(&self.headers, &bytes)
    }
}

async fn read_body(app: &App, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let _room = app.body_room(limit).await?;
    let read = tokio::time::timeout(std::time::Duration::from_secs(60), axum::body::to_bytes(body, limit)).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body could not be read or is longer than {limit} bytes"),
        )),
        Err(_) => {
            Err(Problem::new(axum::http::StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in 60 s"))
        }
    }
}

/// JSON, or a form (what `requests.post(url, data=...)` sends).
fn parse_body(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Problem> {
    let kind = headers.get(axum::http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if bytes.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    if kind.starts_with("application/x-www-form-urlencoded") {
        let text = std::str::from_utf8(bytes).map_err(|_| Problem::bad_request("parse_error", "not valid UTF-8"))?;
        let pairs = Query::parse(text);
        return Ok(Value::Object(pairs.iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect()));
    }
    // A body without a type is not something a browser form can send across sites, but one with another type is.
    if !(kind.is_empty() || kind.starts_with("application/json") || kind.contains("+json")) {
        return Err(Problem::new(
            axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send application/json",
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| Problem::bad_request("parse_error", format!("JSON parse error - {e}")))
}

/// For the OpenAPI document.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doc {
    pub summary: String,
    /// (name, what it does) of query parameters.
    pub query: Vec<(&'static str, &'static str)>,
    /// JSON schema of the body.
    pub request: Option<Value>,
    /// JSON schema of a good answer.
    pub response: Option<Value>,
    /// Of a good answer; JSON when empty.
    pub media: &'static str,
}

impl Doc {
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }
    #[must_use]
    pub fn query(mut self, params: &[(&'static str, &'static str)]) -> Self {
        self.query.extend_from_slice(params);
        self
    }
    #[must_use]
    pub fn request(mut self, schema: Value) -> Self {
        self.request = Some(schema);
        self
    }
    #[must_use]
    pub fn response(mut self, schema: Value) -> Self {
        self.response = Some(schema);
        self
    }
    #[must_use]
    pub fn media(mut self, media: &'static str) -> Self {
        self.media = media;
        self
    }
}

#[derive(Clone)]
enum Entry {
    Guarded(Need, GuardedHandler),
    Public(PublicHandler),
}

#[derive(Clone)]
pub(crate) struct Route {
    pub method: Method,
    /// With `{name}` for parameters; ends with a slash.
    pub path: String,
    pub doc: Doc,
    entry: Entry,
}

impl Route {
    /// `None` for public routes.
    pub fn need(&self) -> Option<Need> {
        match &self.entry {
            Entry::Guarded(need, _) => Some(*need),
            Entry::Public(_) => None,
        }
    }
}

/// The registry of routes: the router, the OpenAPI document and the test that walks everything are made from it.
#[derive(Default, Clone)]
pub(crate) struct Routes {
    pub list: Vec<Route>,
}

impl Routes {
    pub fn add<F, Fut>(&mut self, method: Method, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let handler: GuardedHandler = Arc::new(move |call| Box::pin(handler(call)));
        self.list.push(Route { method, path: path.into(), doc, entry: Entry::Guarded(need, handler) });
    }

    pub fn get<F, Fut>(&mut self, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::GET, path, need, doc, handler);
    }

    pub fn post<F, Fut>(&mut self, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::POST, path, need, doc, handler);
    }

    pub fn put<F, Fut>(&mut self, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::PUT, path, need, doc, handler);
    }

    pub fn patch<F, Fut>(&mut self, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::PATCH, path, need, doc, handler);
    }

    pub fn delete<F, Fut>(&mut self, path: impl Into<String>, need: Need, doc: Doc, handler: F)
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.add(Method::DELETE, path, need, doc, handler);
    }

    /// A route for strangers; it must also stand in `PUBLIC`, else it is left out.
    pub fn public<F, Fut>(&mut self, method: Method, path: impl Into<String>, doc: Doc, handler: F)
    where
        F: Fn(Stranger) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let path = path.into();
        if !PUBLIC.iter().any(|(m, p)| *m == method.as_str() && *p == path) {
            tracing::error!(path, "a public route is not in the list of public routes and is left out");
            return;
        }
        let handler: PublicHandler = Arc::new(move |stranger| Box::pin(handler(stranger)));
        self.list.push(Route { method, path, doc, entry: Entry::Public(handler) });
    }

    pub fn into_router(self, app: &App) -> Router {
        let mut by_path: Vec<(String, MethodRouter)> = Vec::new();
        for route in self.list {
            let Ok(filter) = MethodFilter::try_from(route.method.clone()) else {
                tracing::error!(method = %route.method, path = route.path, "a route with an unusual method is left out");
                continue;
            };
            let (app, entry) = (app.clone(), route.entry);
            let handler = move |params: RawPathParams, request: Request| dispatch(app, entry, params, request);
            match by_path.iter_mut().find(|(path, _)| *path == route.path) {
                Some((_, methods)) => *methods = std::mem::take(methods).on(filter, handler),
                None => by_path.push((route.path, on(filter, handler))),
            }
        }
        let mut router = Router::new();
        for (path, methods) in by_path {
            router = router.route(&path, methods.fallback(method_not_allowed));
        }
        router.fallback(async || Problem::not_found().into_response())
    }
}

async fn method_not_allowed() -> Response<Body> {
    Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method not allowed").into_response()
}

/// The address of the peer, put into each request by the server.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddr(pub IpAddr);

/// The path and query as the client sent and signed them, before a missing trailing slash was added.
#[derive(Debug, Clone)]
pub(crate) struct OriginalTarget(pub String);

async fn dispatch(app: App, entry: Entry, params: RawPathParams, request: Request) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // A task of its own: a panic ends this request only, and a client that goes away does not stop a change half-way.
    let work = tokio::spawn(answer(app.clone(), entry, params, request));
    let outcome = match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Problem::internal(&format!("a handler of {method} {path} panicked"))),
        Err(_) => Err(Problem::unavailable("the request took too long and was given up; its outcome is in the logs")),
    };
    let response = outcome.unwrap_or_else(Problem::into_response);
    app.metrics().answered(response.status());
    response
}

async fn answer(app: App, entry: Entry, params: RawPathParams, request: Request) -> Answer {
    let params = params.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let ip = auth::client_ip(&app, &parts)?;
    let stranger = Stranger {
        app,
        ip,
        method: parts.method,
        uri: parts.uri,
        version: parts.version,
        headers: parts.headers,
        params,
        query,
        extensions: parts.extensions,
        body: Mutex::new(body),
    };
    match entry {
        Entry::Public(handler) => handler(stranger).await,
        Entry::Guarded(need, handler) => {
            let who = auth::authenticate(&stranger)?;
            let user = who.user.clone();
            let scope = auth::resolve_scope(&stranger, &user, need)?;
            auth::check(&stranger.app, &user, scope, need)?;
            let Stranger { app, ip, method, uri, headers, params, query, body, .. } = stranger;
            handler(Call { app, who, user, scope, ip, method, uri, headers, params, query, body }).await
        }
    }
}
