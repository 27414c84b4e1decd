//! `/api/health/` for whoever starts or balances us, and `/metrics` for Prometheus.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::User;
use serde_json::json;

use crate::engine::list::{self, json_response};
use crate::guard::{Answer, Call, Doc, Need, Routes, Stranger};

pub(crate) fn routes(routes: &mut Routes) {
    routes.public(Method::GET, "/api/health/", Doc::new("200 when the store answers and takes changes"), health);
    let doc = Doc::new("Figures in Prometheus text").media("text/plain; version=0.0.4");
    routes.get("/metrics", Need::System("gatehouse.view_metrics"), doc, metrics);
}

async fn health(stranger: Stranger) -> Answer {
    let store = stranger.app.store();
    let reads = store.system().get::<Settings>(SETTINGS_ID).is_ok();
    let ok = reads && store.health().is_healthy();
    // Strangers learn that something is wrong, not what.
    let body = json!({"status": ok, "store": ok, "time": stranger.app.now().timestamp()});
    Ok(if ok { list::ok(&body) } else { json_response(StatusCode::SERVICE_UNAVAILABLE, &body) })
}

async fn metrics(call: Call) -> Answer {
    let app = &call.app;
    let reader = call.reader().global();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // Writing to a string does not fail.
        let _ =
            writeln!(out, "# HELP gatehouse_{name} {help}\n# TYPE gatehouse_{name} gauge\ngatehouse_{name} {value}");
    };
    let n = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    gauge("sessions", "Sessions that run now.", n(app.core().live().count()));
    gauge("assets", "Assets in all organizations.", n(app.with_directory(|d| d.asset_count())));
    gauge("users", "Users.", n(reader.store.system().count::<User>()?));
    gauge("ledger_entries", "Number of the newest ledger entry.", app.store().ledger().head().seq);
    gauge("store_healthy", "1 when the store takes changes.", u64::from(app.store().health().is_healthy()));
    gauge("recordings_bytes", "Bytes of recordings on disk.", app.core().recorders().used_bytes());
    gauge("kept_files_bytes", "Bytes of kept file contents on disk.", app.core().files().used_bytes());
    let _ = writeln!(
        out,
        "# HELP gatehouse_http_answers_total Answers of the API.\n# TYPE gatehouse_http_answers_total counter"
    );
    for (class, count) in app.metrics().answers() {
        let _ = writeln!(out, "gatehouse_http_answers_total{{class=\"{class}xx\"}} {count}");
    }
    let mut response = Response::new(Body::from(out));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    Ok(response)
}
