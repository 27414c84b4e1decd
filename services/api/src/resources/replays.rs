//! Recordings of ended sessions: facts and downloads (U05, U06). Every look is an entry of the ledger before the first
//! byte leaves. A recording is found by its session's id, never by a path from outside (CVE-2023-42819).

use std::io::Write;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use gatehouse_model::session::Session;
use gatehouse_record::{MasterKey, Reader, export, library};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::audit::{self, Action, Operation};
use crate::engine::list;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    routes.get(
        "/api/v1/terminal/sessions/{id}/replay/",
        Need::Point("terminal.view_sessionreplay"),
        Doc::new("Where and what the recording of a session is"),
        facts,
    );
    routes.get(
        "/api/v1/terminal/sessions/{id}/replay/download/",
        Need::Point("terminal.download_sessionreplay"),
        Doc::new("The recording")
            .query(&[(
                "type",
                "cast (asciicast v2, default), text, raw (the exact output), ghr (as recorded, encrypted)",
            )])
            .media("application/octet-stream"),
        download,
    );
}

fn session(call: &Call) -> Result<std::sync::Arc<Session>, Problem> {
    call.reader().get::<Session>(call.id()?)?.ok_or_else(Problem::not_found)
}

fn operation(action: Action, session: &Session) -> Operation {
    let name = format!("{} {} {}", session.user, session.account, session.asset);
    Operation::new(action, "Session replay", name, session.id)
        .org(session.org_id)
        .refs([session.asset_id, session.user_id])
}

async fn facts(call: Call) -> Answer {
    let session = session(&call)?;
    let Some(replay) = &session.replay else {
        return Err(Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            "no_replay",
            if session.is_finished { "this session has no recording" } else { "the session still runs; watch it live" },
        ));
    };
    audit::record(&call, operation(Action::View, &session)).await?;
    let path = format!("/api/v1/terminal/sessions/{}/replay/download/", session.id);
    Ok(list::ok(&json!({
        "id": session.id,
        "type": "asciicast",
        "src": path,
        "download_url": path,
        "user": session.user,
        "asset": session.asset,
        "account": session.account,
        "date_start": crate::engine::values::show_date(session.date_start),
        "date_end": session.date_end.map(crate::engine::values::show_date),
        "size": replay.size,
        "digest": replay.digest,
        "duration_ms": replay.duration_ms,
        "complete": replay.complete,
    })))
}

/// Pieces on their way to the client; behind them the reading thread waits.
const PIECES: usize = 8;
const PIECE: usize = 64 * 1024;

/// Gathers what is written into pieces and hands them on; an error when the client has gone.
struct Pipe {
    buffer: Vec<u8>,
    out: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.out.blocking_send(Ok(piece)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// A body that `write` fills on a thread of its own, at the speed of the client.
pub(crate) fn piped<F>(write: F) -> Body
where
    F: FnOnce(&mut dyn Write) -> Result<(), String> + Send + 'static,
{
    let (out, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { buffer: Vec::new(), out: out.clone() };
        let outcome = write(&mut pipe).and_then(|()| pipe.flush().map_err(|e| e.to_string()));
        if let Err(error) = outcome {
            tracing::warn!(%error, "a download ended early");
            // The client must not take a part for the whole.
            let _ = out.blocking_send(Err(std::io::Error::other("the content could not be read to its end")));
        }
    });
    Body::from_stream(ReceiverStream::new(pieces))
}

pub(crate) fn attachment(body: Body, media: &'static str, name: &str) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    let disposition =
        HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")).map_err(|e| Problem::internal(&e))?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

async fn download(call: Call) -> Answer {
    let session = session(&call)?;
    let kind = call.query.filled("type").or_else(|| call.query.filled("format")).unwrap_or("cast").to_owned();
    let (media, extension) = match kind.as_str() {
        "cast" | "asciicast" => ("application/x-asciicast", "cast"),
        "text" | "txt" => ("text/plain; charset=utf-8", "txt"),
        "raw" => ("application/octet-stream", "out"),
        "ghr" => ("application/octet-stream", "ghr"),
        _ => return Err(Problem::field("type", "cast, text, raw or ghr")),
    };
    let dir = call.app.core().recorders().dir().to_owned();
    let found = library::locate(&dir, session.id).map_err(|e| Problem::internal(&e))?;
    let path = found
        .ok_or_else(|| Problem::new(axum::http::StatusCode::NOT_FOUND, "no_replay", "this session has no recording"))?;
    audit::record(&call, operation(Action::Download, &session)).await?;
    let key = call.app.store().derive_key("recordings")?;
    let body = piped(move |out| {
        if extension == "ghr" {
            let mut file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
            return std::io::copy(&mut file, out).map(drop).map_err(|e| e.to_string());
        }
        // A recording that a crash cut is readable to its last whole chunk.
        let mut reader = Reader::open_tolerant(&path, &MasterKey::new(*key)).map_err(|e| e.to_string())?;
        let exported = match extension {
            "cast" => export::asciicast(&mut reader, out),
            "txt" => export::text(&mut reader, out),
            _ => export::raw_output(&mut reader, out),
        };
        exported.map(drop).map_err(|e| e.to_string())
    });
    attachment(body, media, &format!("{}.{extension}", session.id))
}
