//! The web door: JumpServer's REST surface, live watching, and the HTTPS server under them.
//!
//! What lives here: routes with their permission points, the resource engine that turns descriptions into lists, forms,
//! imports and documentation, and the translation between records and JSON. What must not: rules about who may reach an
//! asset (`model::decide`), log-in (`identity`), anything about a running session but showing and steering it
//! (`session`). A handler is reached only through `guard`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod app;
mod audit;
mod auth;
mod engine;
mod guard;
mod problem;
mod query;
mod resources;
mod serve;
mod tls;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, Response, Uri};
use tower::ServiceBuilder;

pub use app::{ApiContext, LedgerFiles};
pub use guard::{Need, PUBLIC, PeerAddr};
pub use serve::{serve_https, serve_redirect};
pub use tls::{CertificateFacts, TlsCertificate, TlsError, TlsStore};

/// Adds the kinds of record that the API keeps for itself, for `Store::open`.
pub fn kinds(registry: gatehouse_store::Registry) -> gatehouse_store::Registry {
    registry.with::<TlsCertificate>().with::<resources::Preference>()
}

/// The API of one daemon.
pub struct Api;

/// One route, for tests and tools that walk all of them.
#[derive(Debug, Clone)]
pub struct RouteInfo {
    pub method: String,
    /// With `{name}` for parameters.
    pub path: String,
    /// `None`: answers strangers.
    pub need: Option<Need>,
}

impl Api {
    /// The router of the whole API. Each request must carry a [`PeerAddr`] extension (`serve_https` sets it).
    #[expect(clippy::new_ret_no_self, reason = "the API is its router; there is nothing else to hold")]
    pub fn new(context: ApiContext) -> Router {
        Self::with_routes(context).0
    }

    /// The router, and what it answers.
    pub fn with_routes(context: ApiContext) -> (Router, Vec<RouteInfo>) {
        let app = app::App::new(context);
        let mut routes = guard::Routes::default();
        let resources = resources::mount(&mut routes);
        let infos = routes
            .list
            .iter()
            .map(|r| RouteInfo { method: r.method.to_string(), path: r.path.clone(), need: r.need() })
            .collect();
        app.set_routes(routes.list.clone(), resources);
        let router = routes.into_router(&app);
        // Around the router, not in it: the path is looked at before a route is chosen.
        let service = ServiceBuilder::new().map_request(with_slash).map_response(with_headers).service(router);
        (Router::new().fallback_service(service), infos)
    }
}

/// Paths end with a slash here as they do in JumpServer; one without is understood, never redirected. What the client
/// signed is kept beside it.
fn with_slash(mut request: Request<Body>) -> Request<Body> {
    let target = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    request.extensions_mut().insert(guard::OriginalTarget(target));
    let path = request.uri().path();
    // A name with a dot is a file (openapi.json).
    if path.ends_with('/') || path.rsplit('/').next().is_some_and(|last| last.contains('.') || last == "metrics") {
        return request;
    }
    let query = request.uri().query().map_or_else(String::new, |q| format!("?{q}"));
    if let Ok(uri) = format!("{path}/{query}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

/// What browsers are told with every answer (CVE-2022-42225: nothing stored here may run as script).
fn with_headers(mut response: Response<Body>) -> Response<Body> {
    const HEADERS: &[(&str, &str)] = &[
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("strict-transport-security", "max-age=31536000"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    }
    response
}
