//! `/api/docs/`: the OpenAPI document and a page for people, both from the route registry.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

use crate::engine::{list, openapi};
use crate::guard::{Answer, Call, Doc, Need, Routes};

pub(crate) fn routes(routes: &mut Routes) {
    routes.get("/api/docs/openapi.json", Need::Me, Doc::new("OpenAPI 3.1 document"), json);
    let doc = Doc::new("All routes, for people").query(&[("format", "openapi: the JSON document")]).media("text/html");
    routes.get("/api/docs/", Need::Me, doc, page);
}

async fn json(call: Call) -> Answer {
    Ok(list::ok(&openapi::document(call.app.routes(), call.app.resources())))
}

async fn page(call: Call) -> Answer {
    if call.query.filled("format").is_some_and(|f| f == "openapi" || f == "json") {
        return json(call).await;
    }
    let mut response = Response::new(Body::from(openapi::page(call.app.routes())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}
