//! Exports: asciicast for players, text for reading, the exact bytes for comparing.
//!
//! What lives here: turning a reader's events into other formats, streaming, with bounded memory whatever the
//! recording holds. What must not: the container, and what may be exported to whom.

mod asciicast;
mod text;

pub use asciicast::{CastOptions, asciicast, asciicast_with};
pub use text::text;

use crate::error::ReadError;
use crate::reader::{Reader, output};
use std::io::Write;
use std::time::Duration;

/// What an export covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Event records that were looked at.
    pub events: u64,
    /// The recording is sealed, and was read to its end. Otherwise the export holds what there is.
    pub complete: bool,
}

/// Writes exactly the bytes that the terminal got, from the start.
///
/// # Errors
/// If the recording cannot be read on or `out` cannot be written.
pub fn raw_output(reader: &mut Reader, mut out: impl Write) -> Result<Exported, ReadError> {
    let exported = for_each(reader, |entry| match output(entry) {
        Some(bytes) => out.write_all(&bytes),
        None => Ok(()),
    })?;
    out.flush().map_err(ReadError::Export)?;
    Ok(exported)
}

/// Runs `each` over all events from the start.
fn for_each(
    reader: &mut Reader,
    mut each: impl FnMut(crate::Entry) -> std::io::Result<()>,
) -> Result<Exported, ReadError> {
    reader.seek(Duration::ZERO)?;
    let mut events = 0;
    for entry in reader.events() {
        each(entry?).map_err(ReadError::Export)?;
        events += 1;
    }
    Ok(Exported { events, complete: reader.complete() && reader.damage().is_none() })
}
