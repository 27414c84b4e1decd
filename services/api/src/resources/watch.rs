//! Watching a running session (U04): asciicast lines over plain HTTP, or a WebSocket.
//!
//! The socket carries no cookie: whoever may monitor gets a ticket for one session that opens one socket within a minute,
//! and the browser's `Origin` must be this box (CVE-2021-3169; cross-site WebSocket hijacking). A slow watcher never
//! slows the session; it is told that output was skipped.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderValue, Method, Request, Response, header};
use bytes::Bytes;
use futures::StreamExt as _;
use gatehouse_session::{Watch, WatchFrame};
use serde_json::json;

use super::sessions::org;
use crate::app::{TICKET_TTL, Ticket};
use crate::engine::list::json_response;
use crate::engine::reader::{Reader, Scope};
use crate::guard::{Answer, Call, Doc, Need, Routes, Stranger};
use crate::problem::Problem;

pub(crate) const SOCKET: &str = "/api/v1/terminal/sessions/{id}/watch/ws/";

pub(crate) fn routes(routes: &mut Routes) {
    let monitor = Need::Point("terminal.monitor_session");
    routes.get(
        "/api/v1/terminal/sessions/{id}/watch/",
        monitor,
        Doc::new("Watch a running session: asciicast lines as they happen").media("application/x-asciicast"),
        stream,
    );
    routes.post(
        "/api/v1/terminal/sessions/{id}/watch-ticket/",
        monitor,
        Doc::new("A ticket that opens one watching socket within a minute"),
        ticket,
    );
    routes.public(
        Method::GET,
        SOCKET,
        Doc::new("WebSocket of a running session").query(&[("ticket", "from watch-ticket")]),
        socket,
    );
}

/// A frame as lines of asciicast v2; `header` first, as every player wants it.
struct Cast {
    begun: bool,
    /// Bytes of a character that came in two frames.
    rest: Vec<u8>,
}

impl Cast {
    fn new() -> Self {
        Self { begun: false, rest: Vec::new() }
    }

    fn header(&mut self, out: &mut String, cols: u16, rows: u16) {
        if !self.begun {
            self.begun = true;
            out.push_str(&json!({"version": 2, "width": cols, "height": rows}).to_string());
            out.push('\n');
        }
    }

    fn event(out: &mut String, at: Duration, code: &str, data: &str) {
        out.push_str(&json!([at.as_secs_f64(), code, data]).to_string());
        out.push('\n');
    }

    /// Text of `data`; what is not UTF-8 is shown as the replacement character, as a terminal would.
    fn text(&mut self, data: &[u8]) -> String {
        self.rest.extend_from_slice(data);
        let mut text = String::with_capacity(self.rest.len());
        let mut used = 0;
        for chunk in self.rest.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            // An unfinished character at the end waits for its rest; it has at most three bytes.
            let unfinished = used + invalid.len() == self.rest.len()
                && matches!(std::str::from_utf8(invalid), Err(e) if e.error_len().is_none());
            if invalid.is_empty() || unfinished {
                break;
            }
            text.push('\u{FFFD}');
            used += invalid.len();
        }
        self.rest.drain(..used.min(self.rest.len()));
        text
    }

    fn lines(&mut self, frame: &WatchFrame) -> String {
        let mut out = String::new();
        match frame {
            WatchFrame::Screen { at, cols, rows, screen } | WatchFrame::Skipped { at, cols, rows, screen } => {
                self.rest.clear();
                let begun = self.begun;
                self.header(&mut out, *cols, *rows);
                if begun {
                    Self::event(&mut out, *at, "m", "output was skipped");
                    Self::event(&mut out, *at, "r", &format!("{cols}x{rows}"));
                    // The snapshot draws on an empty terminal.
                    Self::event(&mut out, *at, "o", "\u{1b}c");
                }
                Self::event(&mut out, *at, "o", screen);
            }
            WatchFrame::Output { at, data } => {
                let text = self.text(data);
                if !text.is_empty() {
                    Self::event(&mut out, *at, "o", &text);
                }
            }
            WatchFrame::Resize { at, cols, rows } => Self::event(&mut out, *at, "r", &format!("{cols}x{rows}")),
            WatchFrame::Paused { at, by } => Self::event(&mut out, *at, "m", &format!("paused by {by}")),
            WatchFrame::Resumed { at, by } => Self::event(&mut out, *at, "m", &format!("resumed by {by}")),
            WatchFrame::Ended { at, reason } => Self::event(&mut out, *at, "m", &format!("ended: {reason}")),
        }
        out
    }
}

async fn stream(call: Call) -> Answer {
    let watch = call.app.core().live().watch(org(&call), call.id()?, &call.user, &call.ip.to_string()).await?;
    let lines = futures::stream::unfold((watch, Cast::new()), |(mut watch, mut cast)| async move {
        loop {
            let frame = watch.next().await?;
            let lines = cast.lines(&frame);
            if !lines.is_empty() {
                return Some((Ok::<_, std::convert::Infallible>(Bytes::from(lines)), (watch, cast)));
            }
        }
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-asciicast"));
    // Proxies in front must pass lines on as they come.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn hash(ticket: &str) -> [u8; 32] {
    let mut out = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, ticket.as_bytes());
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

async fn ticket(call: Call) -> Answer {
    let session = call.id()?;
    if call.app.core().live().get(org(&call), session).is_none() {
        return Err(Problem::not_found());
    }
    let mut random = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|e| Problem::internal(&e))?;
    let secret = data_encoding::BASE64URL_NOPAD.encode(&random);
    let ticket = Ticket { user: call.user.id, org: org(&call), session, ip: call.ip, made: Instant::now() };
    call.app.keep_ticket(hash(&secret), ticket)?;
    let url = format!("/api/v1/terminal/sessions/{session}/watch/ws/?ticket={secret}");
    let body = json!({"ticket": secret, "url": url, "expires_in": TICKET_TTL.as_secs()});
    Ok(json_response(axum::http::StatusCode::CREATED, &body))
}

/// A browser says where the page came from; that must be this box under the name that the browser used, or the
/// configured one. Programs that are not browsers send no `Origin` and have their ticket.
fn same_origin(stranger: &Stranger) -> Result<bool, Problem> {
    let Some(origin) = stranger.headers.get(header::ORIGIN) else { return Ok(true) };
    let Ok(origin) = origin.to_str() else { return Ok(false) };
    let host = stranger.headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let site = Reader::new(stranger.app.store(), Scope::Global).settings()?.site_url.clone();
    Ok(host.is_some_and(|h| origin == format!("https://{h}")) || origin == site.trim_end_matches('/'))
}

async fn socket(stranger: Stranger) -> Answer {
    if !same_origin(&stranger)? {
        return Err(Problem::denied("origin", "the page that opened this socket is not of this box"));
    }
    let refused = || Problem::unauthenticated("the ticket is unknown, used or has expired; ask for a new one");
    let given = stranger.query.filled("ticket").ok_or_else(refused)?;
    let ticket = stranger.app.take_ticket(&hash(given)).ok_or_else(refused)?;
    let session: uuid::Uuid = stranger.params.get("id").and_then(|id| id.parse().ok()).ok_or_else(refused)?;
    if ticket.session != session || ticket.ip != stranger.ip {
        return Err(refused());
    }
    let user = Reader::new(stranger.app.store(), Scope::Global).get::<gatehouse_model::user::User>(ticket.user)?;
    let user = user.filter(|u| u.is_valid(stranger.app.now())).ok_or_else(refused)?;
    // Rights may have gone since the ticket was given.
    let scope = ticket.org.map_or(Scope::Global, Scope::Org);
    if !crate::auth::allowed(&stranger.app, &user, scope.id(), "terminal.monitor_session")? {
        return Err(Problem::forbidden());
    }
    let mut request = Request::builder().method(stranger.method.clone()).uri(stranger.uri.clone());
    if let Some(headers) = request.headers_mut() {
        *headers = stranger.headers.clone();
    }
    if let Some(extensions) = request.extensions_mut() {
        *extensions = stranger.extensions.clone();
    }
    let (mut parts, ()) = request.body(()).map_err(|e| Problem::internal(&e))?.into_parts();
    parts.version = stranger.version;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|e| Problem::bad_request("not_a_websocket", e.body_text()))?;
    let from = stranger.ip.to_string();
    let watch = stranger.app.core().live().watch(ticket.org, session, &user, &from).await?;
    Ok(upgrade.max_message_size(4 * 1024).on_upgrade(move |socket| send(socket, watch)))
}

/// One text message per group of asciicast lines. What the watcher sends is read only to notice that it left.
async fn send(socket: WebSocket, mut watch: Watch) {
    let (mut out, mut incoming) = socket.split();
    let mut cast = Cast::new();
    let mut ping = tokio::time::interval(Duration::from_secs(30));
    loop {
        let message = tokio::select! {
            frame = watch.next() => match frame {
                Some(frame) => cast.lines(&frame),
                None => break,
            },
            _ = ping.tick() => {
                if futures::SinkExt::send(&mut out, Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
            received = incoming.next() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        if !message.is_empty() && futures::SinkExt::send(&mut out, Message::Text(message.into())).await.is_err() {
            return;
        }
    }
    // The session is over; a watcher that has gone too does not matter.
    let _ = futures::SinkExt::close(&mut out).await;
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_character_split_between_frames_arrives_whole_and_the_header_comes_first() {
        let mut cast = Cast::new();
        let at = Duration::from_millis(500);
        let first = cast.lines(&WatchFrame::Screen { at, cols: 80, rows: 24, screen: "$ ".into() });
        let mut lines = first.lines();
        let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(header, json!({"version": 2, "width": 80, "height": 24}));
        let (a, b) = "é".as_bytes().split_at(1);
        let one = cast.lines(&WatchFrame::Output { at, data: Bytes::copy_from_slice(a) });
        assert_eq!(one, "");
        let two = cast.lines(&WatchFrame::Output { at, data: Bytes::copy_from_slice(b) });
        assert_eq!(two, "[0.5,\"o\",\"é\"]\n");
        let bad = cast.lines(&WatchFrame::Output { at, data: Bytes::from_static(b"a\xFFb") });
        assert_eq!(bad, "[0.5,\"o\",\"a\u{FFFD}b\"]\n");
    }
}
